"""The driver's side of the actors, with answers that the test gives itself."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from ntkdist.events.types import TileFailed, TileStarted, WorkerLost
from ntkdist.gram.executors.ray import RayWorkerPool
from ntkdist.gram.executors.scheduler import TileScheduler
from ntkdist.gram.tiling import Tiling
from ntkdist.gram.worker import GramJob, TileRecord

JOB = GramJob("i", "a", "fake", "fake 1", "float32", (("ntk", "o"),), 1, "f")


class DiedError(Exception):
    """What Ray says of an actor that is gone."""


class FakeRay:
    """Actors whose calls are references by number, answered when the test says so."""

    exceptions = SimpleNamespace(RayError=DiedError)

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.answers: dict[int, Any] = {}
        self.asked: dict[str, int] = {}  # the last call about each tile
        self.options: dict[str, Any] = {}

    def remote(self, cls: type) -> Any:
        def options(**more: Any) -> Any:
            self.options = more
            return SimpleNamespace(remote=lambda *given: self._actor())

        return SimpleNamespace(options=options)

    def _actor(self) -> Any:
        def start() -> int:
            number = next(self.numbers)
            self.answers[number] = {"pid": 1, "host": "h", "threads": 1, "node": "n"}
            return number

        def compute(key: str, attempt: int) -> int:
            self.asked[key] = next(self.numbers)
            return self.asked[key]

        return SimpleNamespace(
            start=SimpleNamespace(remote=start), compute=SimpleNamespace(remote=compute)
        )

    def done(self, key: str) -> None:
        record = TileRecord(key, "w000", 1, 1.0)
        self.answers[self.asked[key]] = dataclasses.asdict(record)

    def lost_device(self, key: str, by: str) -> None:
        error = "DeviceLostError: CUDA_ERROR_ILLEGAL_ADDRESS on GPU 0"
        record = TileRecord(key, "w000", 1, 1.0, error=error, device_lost_by=by, traceback="T")
        self.answers[self.asked[key]] = dataclasses.asdict(record)

    def died(self, *keys: str) -> None:
        for key in keys:
            self.answers[self.asked[key]] = DiedError("worker exit")

    def wait(self, refs: list[int], **more: Any) -> tuple[list[int], list[int]]:
        return [ref for ref in refs if ref in self.answers], []

    def get(self, ref: int) -> Any:
        if isinstance(self.answers[ref], Exception):
            raise self.answers[ref]
        return dict(self.answers[ref])

    def kill(self, actor: Any, *, no_restart: bool) -> None: ...


class Driver:
    """One worker on a matrix of six tiles, and a clock that the test moves."""

    def __init__(self, limit: float | None = None) -> None:
        self.ray, self.events, self.now = FakeRay(), [], 0.0
        keys = list(Tiling(3, 1).keys())
        self.scheduler = TileScheduler(keys, self.events.append, retries=2)
        self.pool = RayWorkerPool(
            self.ray,
            JOB,
            {},
            self.scheduler,
            self.events.append,
            max_losses=5,
            time_limit=limit,
            clock=lambda: self.now,
        )
        self.pool.add(1)
        self.go_on()

    def go_on(self) -> list[str]:
        """Take in the answers, hand out tiles, and return the tiles in flight."""
        self.pool.poll(0.0)
        self.pool.feed(2)
        return [str(key) for key in self.pool.in_flight()]

    def told(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


A, B, C = "r0000c0000", "r0000c0001", "r0000c0002"


def test_actor_takes_two_tiles_at_once() -> None:
    driver = Driver()
    assert driver.ray.options["max_concurrency"] == 2
    assert driver.go_on() == [A, B]


def test_tile_that_hangs_is_noticed_although_younger_ones_are_answered() -> None:
    driver = Driver(limit=10.0)
    for now, key in ((4.0, B), (8.0, C)):
        driver.now = now
        driver.ray.done(key)
        assert A in driver.go_on()
        driver.pool.end_hanging()
        assert not driver.told(WorkerLost)
    driver.now = 10.5
    driver.pool.end_hanging()
    (lost,) = driver.told(WorkerLost)
    assert lost.keys[0] == A
    assert lost.reason == "no answer for 10 s, limit 10 s"


def test_tile_behind_an_older_one_has_its_time_from_when_that_is_answered() -> None:
    driver = Driver(limit=10.0)
    driver.now = 9.0
    driver.ray.done(A)
    assert driver.go_on() == [B, C]
    driver.now = 18.5
    driver.pool.end_hanging()
    assert not driver.told(WorkerLost)
    driver.now = 19.5
    driver.pool.end_hanging()
    assert driver.told(WorkerLost)


@pytest.mark.parametrize("guilty", [A, B])
def test_only_the_tile_that_kills_its_worker_is_given_up(guilty: str) -> None:
    driver = Driver()
    driver.ray.died(A, B)
    assert driver.go_on() == []
    for _ in range(20):
        driver.now += 100.0
        in_flight = driver.go_on()
        if guilty in in_flight:
            assert in_flight == [guilty]  # and nothing else is struck by its death
            driver.ray.died(guilty)
        elif in_flight:
            driver.ray.done(in_flight[0])
    summary = driver.scheduler.summary()
    assert [str(key) for key in summary.failed] == [guilty]
    assert len(summary.done) == 5
    assert {event.key for event in driver.told(TileFailed)} == {guilty}
    begun = [event.key for event in driver.told(TileStarted)]
    assert begun.count(guilty) == 3
    assert len(begun) == 3 + 5 + 1  # the other one of the first death twice


@pytest.mark.parametrize("answered", [(A,), (B,), (A, B)])
def test_worker_without_its_gpu_is_replaced_and_the_tile_that_lost_it_is_struck(
    answered: tuple[str, ...],
) -> None:
    driver = Driver()
    for key in answered:  # the other tile of the worker may answer first
        driver.ray.lost_device(key, by=A)
    assert driver.go_on() == []
    (lost,) = driver.told(WorkerLost)
    assert lost.keys == (A, B)
    (failed,) = driver.told(TileFailed)
    assert (failed.key, failed.final, failed.traceback) == (A, False, "T")
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in failed.error
    driver.now += 100.0
    for _ in range(8):
        in_flight = driver.go_on()
        assert A not in in_flight or in_flight == [A]  # it runs alone
        for key in in_flight[:1]:
            driver.ray.done(key)
    assert len(driver.scheduler.summary().done) == 6
    assert len(driver.told(TileFailed)) == 1


def test_worker_whose_gpu_is_lost_every_time_is_given_up() -> None:
    driver = Driver()
    for _ in range(5):
        (key, *_) = driver.go_on()
        driver.ray.lost_device(key, by=key)
        driver.go_on()
        driver.now += 100.0
    assert driver.pool.given_up == 1
    assert driver.pool.last_reason.startswith("given up after 5 deaths in a row: DeviceLostError")
