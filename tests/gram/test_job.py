from __future__ import annotations

import json

import pytest

from ntkdist.errors import InputError
from ntkdist.gram.worker import GramJob

FIELDS = {
    "images": "run/inputs/images",
    "architecture": "a",
    "backend": "cpu",
    "arithmetic": "cpu 1",
    "dtype": "float32",
    "outputs": {"ntk": "run/gram/ntk", "nngp": "run/gram/nngp"},
    "edge": 10,
    "fingerprint": "f",
}


def test_json_round_trip() -> None:
    job = GramJob(**FIELDS, threads=3, columns="run/test")  # type: ignore[arg-type]
    assert GramJob.from_json(job.to_json()) == job
    assert hash(job)
    assert job.kinds == ("ntk", "nngp")
    json.loads(job.to_json())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": ()}, "no outputs"),
        ({"edge": 0}, "edge=0"),
        ({"threads": 0}, "threads=0"),
        ({"kinds": ("ntk",)}, "differ"),
    ],
)
def test_impossible_job_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        GramJob(**{**FIELDS, **change})
