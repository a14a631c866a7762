"""A stand-in for Ray in which a tile costs a draw of time instead of arithmetic.

The driver's own loop, books, events and store are the real ones. Workers live in one process and
a simulated clock: they die, hang and raise at given rates, and "compute" a tile by putting a small
object where the tile belongs. What that takes is counted apart, since workers do it elsewhere.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey


@dataclass(frozen=True)
class Rates:
    """Chances per tile, and how long one takes.

    Attributes:
        seconds: Mean of a tile; drawn between half and one and a half of it.
        die: The worker dies with the tile.
        hang: The worker never answers.
        fail: The tile raises.
    """

    seconds: float = 20.0
    die: float = 1e-3
    hang: float = 1e-4
    fail: float = 1e-3


class WorkerDiedError(Exception):
    """What Ray says of an actor that is gone."""


@dataclass(eq=False)
class _Answer:
    """A reference to what an actor will answer."""

    done: bool = False
    value: Any = None
    error: Exception | None = None


@dataclass(eq=False)
class _Actor:
    """One simulated worker.

    Attributes:
        free: When it has done what it was given (simulated seconds).
        alive: Whether it still answers.
        answers: What it has not answered.
    """

    cluster: SimulatedRay
    name: str
    free: float = 0.0
    alive: bool = True
    answers: list[_Answer] = field(default_factory=list)

    @property
    def start(self) -> Any:
        return SimpleNamespace(remote=lambda: self.cluster.begin(self))

    @property
    def compute(self) -> Any:
        return SimpleNamespace(remote=lambda key, n: self.cluster.hand(self, key, n))


class SimulatedRay:
    """What the driver uses of the ``ray`` module.

    Args:
        workers: Actors that there is room for.
        store: Where the tiles go.
        rates: How long tiles take, and what goes wrong.
        seed: Of the draws.

    Attributes:
        now: Simulated seconds.
        outside: Seconds of this process's cores spent on what workers and Ray would do.
        died, hung, failed: What happened.
    """

    exceptions = SimpleNamespace(RayError=WorkerDiedError, ActorDiedError=WorkerDiedError)

    def __init__(self, workers: int, store: GramStore, rates: Rates, seed: int = 0) -> None:
        self.now = 0.0
        self.outside = 0.0
        self.died = self.hung = self.failed = 0
        self._workers = workers
        self._folder = os.path.dirname(os.path.dirname(store.path_of(TileKey(0, 0))))
        self._rates = rates
        self._draw = np.random.default_rng(seed)
        self._draws = iter(())
        self._events: list[tuple[float, int, Any]] = []
        self._number = itertools.count()
        self._ready: dict[_Answer, None] = {}
        leaving = SimpleNamespace(get_draining_nodes=dict)
        self._private = SimpleNamespace(state=SimpleNamespace(state=leaving))

    def clock(self) -> float:
        return self.now

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "NodeID": "n", "Resources": {"CPU": self._workers}}]

    def remote(self, cls: type) -> Any:
        def make(job: str, name: str, make_worker: Any) -> _Actor:
            return _Actor(self, name, free=self.now)

        return SimpleNamespace(options=lambda **more: SimpleNamespace(remote=make))

    def begin(self, actor: _Actor) -> _Answer:
        begun = time.process_time()
        answer = _Answer(value={"pid": 0, "host": "simulated", "threads": 1, "node": "n"})
        actor.alive, actor.free = True, max(actor.free, self.now) + 5.0
        actor.answers.append(answer)
        self._at(actor.free, (actor, answer, None))
        self.outside += time.process_time() - begun
        return answer

    def hand(self, actor: _Actor, key: str, attempt: int) -> _Answer:
        begun = time.process_time()
        answer = _Answer()
        actor.answers.append(answer)
        if actor.alive:
            chance, spread = self._next()
            rates = self._rates
            actor.free = max(actor.free, self.now) + rates.seconds * (0.5 + spread)
            if chance < rates.hang:
                self.hung += 1
                actor.alive = False
            elif chance < rates.hang + rates.die:
                self.died += 1
                actor.alive = False
                self._at(actor.free, (actor, answer, None, "die"))
            else:
                seconds = rates.seconds * (0.5 + spread)
                failed = chance < rates.hang + rates.die + rates.fail
                self.failed += failed
                answer.value = record(key, actor.name, attempt, seconds, failed)
                self._at(actor.free, (actor, answer, None if failed else key))
        self.outside += time.process_time() - begun
        return answer

    def wait(
        self, refs: list[_Answer], num_returns: int, timeout: float
    ) -> tuple[list[_Answer], list[_Answer]]:
        begun = time.process_time()
        end = self.now + timeout
        while self._events and (self._events[0][0] <= end) and (timeout or not self._ready):
            moment = self._events[0][0]
            if self._ready and moment > self.now:
                break
            self.now = max(self.now, moment)
            self._happen(heapq.heappop(self._events)[2])
        if not self._ready:
            self.now = max(self.now, end)
        found = list(self._ready) if num_returns > 1 else list(itertools.islice(self._ready, 1))
        self.outside += time.process_time() - begun
        return found, []

    def get(self, answer: _Answer) -> Any:
        self._ready.pop(answer, None)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def kill(self, actor: _Actor, no_restart: bool = True) -> None:
        actor.alive = False
        for answer in actor.answers:
            self._ready.pop(answer, None)
        actor.answers.clear()

    def _at(self, moment: float, what: Any) -> None:
        heapq.heappush(self._events, (moment, next(self._number), what))

    def _happen(self, what: Any) -> None:
        actor, answer, key, *died = what
        if answer not in actor.answers:
            return
        if died:
            for lost in actor.answers:
                lost.error = WorkerDiedError("worker exit: simulated")
                self._ready[lost] = None
            actor.answers.clear()
            return
        actor.answers.remove(answer)
        if key is not None:
            put(self._folder, key)
        self._ready[answer] = None

    def _next(self) -> tuple[float, float]:
        for pair in self._draws:
            return pair
        self._draws = iter(self._draw.uniform(size=(4096, 2)).tolist())
        return next(self._draws)


def put(folder: str, key: str) -> None:
    """Put a small object where a tile belongs, as a store on disk does it."""
    row, col = int(key[1:5]), int(key[6:])
    place = f"{folder}/{row}"
    try:
        with open(f"{place}/{col}", "wb") as file:
            file.write(b"simulated tile")
    except FileNotFoundError:
        os.makedirs(place, exist_ok=True)
        put(folder, key)


def record(key: str, worker: str, attempt: int, seconds: float, failed: bool) -> dict[str, Any]:
    """Return what a worker says of a tile, as it comes through Ray."""
    found = {
        "key": key,
        "worker": worker,
        "attempt": attempt,
        "seconds": seconds,
        "bytes": 4 << 20,
        "entries": 1 << 20,
        "backend": "simulated-1",
        "digests": [] if failed else ["0" * 32],
        "error": "RuntimeError: simulated" if failed else None,
        "traceback": "Traceback (most recent call last): ..." if failed else "",
    }
    return json.loads(json.dumps(found))  # a copy, as Ray's own reading of it makes one
