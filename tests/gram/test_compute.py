from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist.errors import InputError, InterruptedRunError, StageError
from ntkdist.events.types import GramStarted, Interrupted, TileDone, TileFailed, TileStarted
from ntkdist.gram.compute import compute_gram
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling
from tests.gram.fakes import FakeBackend, fake_executor, make_job, random_images


def test_whole_matrix_and_nothing_twice(tmp_path: Path) -> None:
    images = random_images(25)
    job, tiling = make_job(tmp_path, images, 10, kinds=("ntk", "nngp"))
    backend, events = FakeBackend(), []
    summary = compute_gram(job, fake_executor(backend), tiling=tiling, on_event=events.append)
    assert (summary.done, summary.computed) == (6, 6)
    flat = images.reshape(25, -1).astype(float)
    # the products of single tiles are summed in another order than that of the whole
    np.testing.assert_allclose(
        GramStore.open(f"{tmp_path}/gram/nngp")[:, :], flat @ flat.T, rtol=1e-5, atol=1e-6
    )
    assert events[0] == GramStarted(6, 0, 10, 1, "fake", "inline", time=events[0].time)
    again = compute_gram(job, fake_executor(backend), tiling=tiling)
    assert (again.done, again.computed) == (6, 0)
    assert len(backend.same) == 6


def test_tile_lacking_in_one_kind_is_computed_again(tmp_path: Path) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10, kinds=("ntk", "nngp"))
    compute_gram(job, fake_executor(FakeBackend()), tiling=tiling)
    GramStore.open(f"{tmp_path}/gram/nngp").remove(TileKey(1, 1))
    done: list[Any] = []
    compute_gram(
        job,
        fake_executor(FakeBackend()),
        tiling=tiling,
        on_event=lambda e: done.append(e.key) if isinstance(e, TileDone) else None,
    )
    assert done == ["r0001c0001"]


def test_recompute_restores_the_same_bits(tmp_path: Path) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    compute_gram(job, fake_executor(FakeBackend()), tiling=tiling)
    path = Path(GramStore.open(job.outputs[0][1]).path_of(TileKey(0, 1)))
    good = path.read_bytes()
    path.write_bytes(good[:-9] + b"x" + good[-8:])
    summary = compute_gram(
        job, fake_executor(FakeBackend()), tiling=tiling, recompute=["r0000c0001"]
    )
    assert summary.computed == 1
    assert path.read_bytes() == good


@pytest.mark.parametrize("key", ["r0001c0000", "r0000c0009"])
def test_tile_to_recompute_must_exist(tmp_path: Path, key: str) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    with pytest.raises(InputError, match=f"{key} to recompute is not one of this matrix"):
        compute_gram(job, fake_executor(FakeBackend()), tiling=tiling, recompute=[key])


def test_tile_that_always_fails_does_not_stop_the_rest(tmp_path: Path) -> None:
    images = random_images(35)
    images[33] = np.nan
    job, tiling = make_job(tmp_path, images, 10)
    events: list[Any] = []
    with pytest.raises(StageError, match=r"4 of 10 tiles failed.*r0000c0003.*First error: .*NaN"):
        compute_gram(
            job, fake_executor(FakeBackend(), retries=1), tiling=tiling, on_event=events.append
        )
    assert GramStore.open(job.outputs[0][1]).missing() == [TileKey(i, 3) for i in range(4)]
    failures = [event for event in events if isinstance(event, TileFailed)]
    assert len(failures) == 8
    assert sum(event.final for event in failures) == 4
    assert all("Traceback" in event.traceback for event in failures)


def test_tile_that_fails_once_is_tried_again(tmp_path: Path) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    backend = FakeBackend(fail={2: 1})
    summary = compute_gram(job, fake_executor(backend), tiling=tiling)
    assert (summary.computed, len(backend.same)) == (6, 7)


def test_stop_finishes_the_tiles_at_hand_and_resumes(tmp_path: Path) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    stop = threading.Event()
    events: list[Any] = []

    def listen(event: Any) -> None:
        events.append(event)
        if sum(isinstance(e, TileStarted) for e in events) == 2:
            stop.set()

    with pytest.raises(InterruptedRunError, match="2 tiles computed, 4 of 6 still missing") as e:
        compute_gram(job, fake_executor(FakeBackend()), tiling=tiling, on_event=listen, stop=stop)
    assert e.value.exit_code == 130
    assert len(GramStore.open(job.outputs[0][1]).done()) == 2
    assert compute_gram(job, fake_executor(FakeBackend()), tiling=tiling).computed == 4


def test_stop_before_the_start_computes_nothing(tmp_path: Path) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    stop = threading.Event()
    stop.set()
    backend = FakeBackend()
    events: list[Any] = []
    with pytest.raises(InterruptedRunError):
        compute_gram(job, fake_executor(backend), tiling=tiling, on_event=events.append, stop=stop)
    assert backend.same == []
    told = [event.in_flight for event in events if isinstance(event, Interrupted)]
    assert told == [()]


def test_stop_is_told_as_an_event(tmp_path: Path) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    stop = threading.Event()
    events: list[Any] = []
    backend = FakeBackend()
    block = backend.block

    def stopping(*args: Any) -> Any:
        stop.set()
        return block(*args)

    backend.block = stopping  # type: ignore[method-assign]
    with pytest.raises(InterruptedRunError):
        compute_gram(job, fake_executor(backend), tiling=tiling, on_event=events.append, stop=stop)
    told = [event.in_flight for event in events if isinstance(event, Interrupted)]
    assert told == [tuple(event.key for event in events if isinstance(event, TileDone))]
    assert sum(isinstance(event, TileDone) for event in events) == 1


@pytest.mark.parametrize(
    ("n", "edge", "message"),
    [(25, 9, "edge is 10 in the store, 9 in this job"), (26, 10, "shape is .25, 25. in the store")],
)
def test_store_of_another_shape_is_refused(tmp_path: Path, n: int, edge: int, message: str) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    compute_gram(job, fake_executor(FakeBackend()), tiling=tiling)
    other = type(job)(**{**vars(job), "edge": edge})
    with pytest.raises(InputError, match=message):
        compute_gram(other, fake_executor(FakeBackend()), tiling=Tiling(n, edge))


def test_broken_subscriber_does_not_stop_the_job(tmp_path: Path) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)

    def broken(event: Any) -> None:
        raise OSError("the log is gone")

    summary = compute_gram(job, fake_executor(FakeBackend()), tiling=tiling, on_event=broken)
    assert summary.done == 6
