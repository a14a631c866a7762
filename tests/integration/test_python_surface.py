"""Runs from Python: computed in a line, resumed, read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import ntkdist
from ntkdist.config import LabelsConfig
from ntkdist.errors import InputError, StageError
from ntkdist.events.types import TileDone


def settings(place: Path, **data: Any) -> dict[str, Any]:
    return {
        "run": str(place / "run"),
        "architecture": "fc-1",
        "data": {"n": 60, **data},
        "gram": {"executor": "inline", "backend": "cpu", "tile": 20},
    }


def tiles(told: list[Any]) -> int:
    return sum(isinstance(event, TileDone) for event in told)


def test_a_run_is_computed_and_resumed(tmp_path: Path) -> None:
    told: list[Any] = []
    run = ntkdist.compute(settings(tmp_path), stages=["gram"], subscribers=[told.append])
    assert tiles(told) == 6
    K = ntkdist.open_gram(run)
    np.testing.assert_allclose(K[:5, 7], ntkdist.open_gram(run.url).to_dask()[7, :5].compute())
    with pytest.raises(StageError, match=r"labels have not been analysed yet; ntkdist labels "):
        ntkdist.labels_table(run)
    again = ntkdist.compute(run.url, subscribers=[told.append], progress=False)
    assert tiles(told) == 6
    assert again.fingerprint == run.fingerprint
    table = ntkdist.labels_table(again)
    assert len(table) == 60
    assert table["label_quality"].is_monotonic_increasing


def test_a_run_file_and_progress_in_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        f"run: {tmp_path}/run\narchitecture: fc-1\ndata: {{n: 40}}\n"
        "gram: {executor: inline, backend: cpu}\n"
    )
    ntkdist.compute(file, stages=["gram"])
    assert "0 of 6 tiles are stored" in capsys.readouterr().err
    ntkdist.compute(file, stages=["gram"], progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_files_of_a_table_are_named_in_the_labels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = ["path,class"]
    for i in range(20):
        name = f"{i:02d}.png"
        Image.fromarray(random.integers(0, 256, (4, 4), dtype=np.uint8)).save(tmp_path / name)
        lines.append(f"{name},{'no' if i % 2 else '007'}")
    (tmp_path / "set.csv").write_text("\n".join(lines))
    run = ntkdist.compute(settings(tmp_path, n=None, source=f"csv:{tmp_path}/set.csv"))
    table = ntkdist.labels_table(run).sort_values("index")
    assert table["file"].tolist() == [f"{i:02d}.png" for i in range(20)]
    assert table["given_class"].tolist() == ["007", "no"] * 10
    own = dataclasses.replace(run.config, labels=LabelsConfig(probabilities=True))
    again = ntkdist.labels_table(ntkdist.compute(own, progress=False)).sort_values("index")
    pd.testing.assert_frame_equal(again, table)
    written = (tmp_path / "run/labels.csv").read_text()
    assert written.splitlines()[0].endswith("delta_loss,probability_007,probability_no")
    assert ",no," in written


def test_missing_runs_stages_and_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run here"):
        ntkdist.open_gram(tmp_path / "none")
    run = ntkdist.Run.create(ntkdist.RunConfig.from_dict(settings(tmp_path)))
    with pytest.raises(StageError, match=r"has no Gram yet; ntkdist gram "):
        ntkdist.open_gram(run)
    with pytest.raises(InputError, match="holds no 'nngp' kernel; it has ntk"):
        ntkdist.open_gram(run, "nngp")
    with pytest.raises(InputError, match=r"unknown key 'dat'.*did you mean 'data'"):
        ntkdist.compute({"dat": {}})
