"""What Ray's metric objects are told of a job, and that nothing is said without Ray."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ntkdist.events.bus import Subscribers
from ntkdist.events.metrics import RayMetrics, tag_of
from ntkdist.events.types import (
    GramStarted,
    StageDone,
    StageStarted,
    TileDone,
    TileFailed,
    TileStarted,
    WorkerLost,
    WorkerStarted,
)
from ntkdist.gram.compute import compute_gram
from ntkdist.gram.executors.ray import RayExecutor
from ntkdist.kernels.registry import get_backend
from tests.gram.fakes import make_job, random_images


@pytest.mark.parametrize(
    ("run", "tag"),
    [
        ("runs/mnist", "mnist"),
        ("/data/runs/mnist/", "mnist"),
        ("s3://bucket/runs/x", "x"),
        ("s3://key:secret@bucket", "bucket"),
        ("s3://key:secret@bucket/runs/x?token=abc#part", "x"),
        ("https://host/runs/x?sig=a/b", "x"),
        ("/", "run"),
    ],
)
def test_the_tag_is_the_last_part_and_tells_no_secret(run: str, tag: str) -> None:
    assert tag_of(run) == tag


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, float, dict[str, str]]]:
    """What reaches Ray's metric objects: (kind, name, value, tags)."""
    from ray.util.metrics import Metric

    found: list[tuple[str, str, float, dict[str, str]]] = []
    real = Metric._record

    def record(self: Any, value: float, tags: dict[str, str] | None = None) -> None:
        real(self, value, tags)  # which checks value and tags
        found.append((type(self).__name__, self._name, value, self._get_final_tags(tags)))

    monkeypatch.setattr(Metric, "_record", record)
    return found


def last(recorded: list[Any], name: str) -> float:
    return [value for _, found, value, _ in recorded if found == name][-1]


@pytest.mark.slow
def test_events_reach_rays_metrics(ray_session: None, recorded: list[Any]) -> None:
    metrics = RayMetrics("runs/mnist")
    for event in (
        StageStarted("gram"),
        GramStarted(10, 4, 16, 2, "cpu", "ray"),
        WorkerStarted("w0"),
        WorkerStarted("w1"),
        TileStarted("a", "w0", 1),
        TileStarted("b", "w1", 1),
        TileStarted("c", "w1", 1),
        TileDone("a", "w0", 2.5, 1024, 1, 256, "cpu"),
        TileFailed("b", "w1", 1, "OSError", "", final=False),
        WorkerLost("w1", "died", ("c",)),
        TileFailed("b", "w0", 2, "OSError", "", final=True),
    ):
        metrics(event)
    assert last(recorded, "ntkdist_tiles_total") == 10
    assert last(recorded, "ntkdist_tiles_done") == 5
    assert last(recorded, "ntkdist_tiles_in_flight") == 0
    assert last(recorded, "ntkdist_workers_alive") == 1
    assert last(recorded, "ntkdist_stage") == 1
    once = [(k, n, v) for k, n, v, _ in recorded if k in ("Counter", "Histogram")]
    assert sorted(once) == [
        ("Counter", "ntkdist_entries", 256.0),
        ("Counter", "ntkdist_tiles_failed", 1.0),
        ("Counter", "ntkdist_tiles_retried", 1.0),
        ("Counter", "ntkdist_workers_lost", 1.0),
        ("Histogram", "ntkdist_tile_seconds", 2.5),
    ]
    assert {tags["run"] for *_, tags in recorded} == {"mnist"}
    metrics(StageDone("gram", 3.0))
    assert last(recorded, "ntkdist_stage") == 0
    assert last(recorded, "ntkdist_workers_alive") == 0


@pytest.mark.slow
def test_what_happened_before_ray_was_there_is_told_later(
    ray_session: None, recorded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ntkdist.events import metrics as module

    metrics = RayMetrics("x")
    with monkeypatch.context() as patch:
        patch.setattr(module, "connected", lambda: False)
        metrics(StageStarted("gram"))
        metrics(GramStarted(7, 3, 16, 2, "cpu", "ray"))
        assert not recorded
    metrics(WorkerStarted("w0"))
    assert last(recorded, "ntkdist_tiles_total") == 7
    assert last(recorded, "ntkdist_stage") == 1


@pytest.mark.slow
def test_a_job_on_ray_is_counted(tmp_path: Path, ray_session: None, recorded: list[Any]) -> None:
    arithmetic = get_backend("cpu").arithmetic
    job, tiling = make_job(
        tmp_path, random_images(20), 8, backend="cpu", arithmetic=arithmetic, kinds=("ntk", "nngp")
    )
    compute_gram(job, RayExecutor(1), tiling=tiling, on_event=Subscribers(RayMetrics(job.images)))
    assert last(recorded, "ntkdist_tiles_total") == last(recorded, "ntkdist_tiles_done") == 6
    assert last(recorded, "ntkdist_tiles_in_flight") == 0
    entries = sum(value for _, name, value, _ in recorded if name == "ntkdist_entries")
    assert entries == sum(math.prod(tiling.tile_shape(key)) for key in tiling.keys())  # noqa: SIM118


def test_without_ray_nothing_is_said_and_nothing_raised(
    recorded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    metrics = RayMetrics("x")
    for event in (
        StageStarted("gram"),
        GramStarted(2, 0, 16, 1, "cpu", "inline"),
        TileDone("a", "w", 1.0, 4, 1, 1, "cpu"),
        TileFailed("b", "w", 1, "", "", final=True),
        StageDone("gram", 1.0),
        object(),
    ):
        metrics(event)
    assert not recorded
