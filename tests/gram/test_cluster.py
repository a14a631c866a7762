from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ntkdist.errors import InputError
from ntkdist.gram.executors import cluster as clusters
from ntkdist.gram.executors.cluster import cluster


@pytest.fixture
def unused() -> str:
    """Return an address at which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def test_an_address_of_nothing_is_waited_for_aloud_and_refused(
    unused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "WAIT", 0.5)
    monkeypatch.setattr(clusters, "_EVERY", 0.1)
    said: list[tuple[str, float]] = []
    words = f"no Ray cluster at '{unused}' .*nothing answered for .* s.; start one with 'ray start"
    with (
        pytest.raises(InputError, match=words),
        cluster(unused, cpus=1, gpus=0, on_wait=lambda *words: said.append(words)),
    ):
        pass
    assert said[0][0] == f"waiting up to 0.5 s for the Ray cluster at {unused}"
    assert len(said) >= 2
    assert clusters.WAIT < 60


@pytest.mark.parametrize("address", ["x", ":", "host:", ":6379", "host:port", "host:99999", "a b"])
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    with (
        pytest.raises(InputError, match=r"gram.address=.* must be HOST:PORT of a Ray cluster"),
        cluster(address, cpus=1, gpus=0),
    ):
        pass


def test_sockets_lie_in_a_short_folder_where_that_of_tmpdir_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/scratch/jobs")
    assert clusters._short_folder() is None
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, "/scratch/" + "x" * 80)
        short = clusters._short_folder()
        assert short == f"/tmp/ray-{os.getuid()}"
        assert os.path.isdir(short)


def test_without_a_short_folder_the_error_names_tmpdir_and_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/scratch/" + "x" * 80)
    monkeypatch.setattr(clusters.os, "makedirs", refused)
    words = r"TMPDIR='/scratch/x*' has 89 bytes.* exceed the 10[37].*set TMPDIR to .* at most \d\d"
    with pytest.raises(InputError, match=words), cluster(None, cpus=1, gpus=0):
        pass


@pytest.mark.slow
def test_a_cluster_starts_under_a_long_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    with cluster(None, cpus=1, gpus=0) as (ray, local):
        assert local
        assert ray.get(ray.remote(lambda: 3).remote()) == 3
