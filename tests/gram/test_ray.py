from __future__ import annotations

import dataclasses
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist.errors import InputError, InterruptedRunError, StageError
from ntkdist.events.types import (
    GramStarted,
    Interrupted,
    TileDone,
    TileStarted,
    WorkerLost,
    WorkerStarted,
)
from ntkdist.gram.compute import compute_gram
from ntkdist.gram.executors.inline import InlineExecutor
from ntkdist.gram.executors.ray import RayExecutor
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import Tiling
from ntkdist.gram.worker import GramJob
from ntkdist.kernels.registry import get_backend
from tests.gram.fakes import make_job

pytestmark = pytest.mark.usefixtures("ray_session")


def digits(n: int = 70) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(n, 8, 8, 1)).astype("f4")


def real_job(folder: Path, edge: int = 12) -> tuple[GramJob, Tiling]:
    arithmetic = get_backend("cpu").arithmetic
    return make_job(
        folder, digits(), edge, backend="cpu", arithmetic=arithmetic, kinds=("ntk", "nngp")
    )


def read(job: GramJob) -> list[np.ndarray]:
    return [GramStore.open(address)[:, :] for _, address in job.outputs]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    job, tiling = real_job(tmp_path_factory.mktemp("inline"))
    compute_gram(job, InlineExecutor(), tiling=tiling)
    return read(job)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_same_bits_for_any_number_of_actors(
    tmp_path: Path, undisturbed: list[np.ndarray], workers: int
) -> None:
    job, tiling = real_job(tmp_path)
    events: list[Any] = []
    summary = compute_gram(job, RayExecutor(workers), tiling=tiling, on_event=events.append)
    assert summary.computed == tiling.count == 21
    for got, expected in zip(read(job), undisturbed, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert next(e for e in events if isinstance(e, GramStarted)).executor == "ray"
    busy: dict[str, int] = {}
    for event in events:  # what was handed out and is not back
        if isinstance(event, TileStarted):
            busy[event.worker] = busy.get(event.worker, 0) + 1
            assert busy[event.worker] <= 2
        elif isinstance(event, TileDone):
            busy[event.worker] -= 1
    assert len(busy) <= workers


@pytest.mark.slow
def test_killed_worker_costs_only_its_tiles(tmp_path: Path, undisturbed: list[np.ndarray]) -> None:
    job, tiling = real_job(tmp_path)
    events: list[Any] = []
    pids: dict[str, int] = {}

    def listen(event: Any) -> None:
        events.append(event)
        if isinstance(event, WorkerStarted):
            pids[event.worker] = event.pid
        done = sum(isinstance(e, TileDone) for e in events)
        if isinstance(event, TileStarted) and done == 5 and "killed" not in pids:
            pids["killed"] = 0
            os.kill(pids[event.worker], signal.SIGKILL)

    summary = compute_gram(job, RayExecutor(2), tiling=tiling, on_event=listen)
    assert summary.done == tiling.count
    for got, expected in zip(read(job), undisturbed, strict=True):
        np.testing.assert_array_equal(got, expected)
    lost = [event for event in events if isinstance(event, WorkerLost)]
    assert len(lost) == 1
    assert 1 <= len(lost[0].keys) <= 2
    started = [event.key for event in events if isinstance(event, TileStarted)]
    again = {key for key in started if started.count(key) > 1}
    assert again == set(lost[0].keys)


@pytest.mark.slow
def test_worker_that_always_dies_ends_in_a_clear_failure(tmp_path: Path) -> None:
    job, tiling = real_job(tmp_path)
    lost: list[WorkerLost] = []

    def listen(event: Any) -> None:
        if isinstance(event, WorkerStarted):
            os.kill(event.pid, signal.SIGKILL)
        if isinstance(event, WorkerLost):
            lost.append(event)

    executor = RayExecutor(1, max_losses=2)
    with pytest.raises(StageError, match="no worker is left, 21 tiles are missing: given up after"):
        compute_gram(job, executor, tiling=tiling, on_event=listen)
    assert len(lost) == 3  # two deaths, and that it is given up


@pytest.mark.slow
def test_worker_of_another_arithmetic_refuses(tmp_path: Path) -> None:
    job, tiling = real_job(tmp_path)
    other = dataclasses.replace(job, arithmetic="cpu 0")
    with pytest.raises(StageError, match=r"no worker is left.*the job is cpu 0"):
        compute_gram(other, RayExecutor(2), tiling=tiling)


def test_stop_with_nothing_in_flight_is_told(tmp_path: Path) -> None:
    job, tiling = real_job(tmp_path)
    stop = threading.Event()
    stop.set()
    events: list[Any] = []
    with pytest.raises(InterruptedRunError):
        compute_gram(job, RayExecutor(1), tiling=tiling, on_event=events.append, stop=stop)
    assert [event.in_flight for event in events if isinstance(event, Interrupted)] == [()]


@pytest.mark.slow
def test_stop_waits_for_the_tiles_in_flight(tmp_path: Path) -> None:
    job, tiling = real_job(tmp_path)
    stop = threading.Event()
    events: list[Any] = []

    def listen(event: Any) -> None:
        events.append(event)
        if isinstance(event, TileDone):
            stop.set()

    with pytest.raises(InterruptedRunError):
        compute_gram(job, RayExecutor(2), tiling=tiling, on_event=listen, stop=stop)
    started = {event.key for event in events if isinstance(event, TileStarted)}
    done = {event.key for event in events if isinstance(event, TileDone)}
    assert started == done
    assert done == {str(key) for key in GramStore.open(job.outputs[0][1]).done()}
    told = [event for event in events if isinstance(event, Interrupted)]
    assert len(told) == 1
    assert set(told[0].in_flight) < started


@pytest.mark.parametrize(
    ("options", "message"),
    [({"workers": 0}, "workers=0"), ({"workers": "all"}, "'all'"), ({"retries": -1}, "retries=-1")],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RayExecutor(**options)
