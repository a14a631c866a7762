"""The Ray actors of one job: starting them, feeding them, noticing that they died."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ntkdist.gram.events import WorkerLost, WorkerStarted
from ntkdist.gram.executors._handout import Ledger
from ntkdist.gram.job import GramJob
from ntkdist.gram.tiling import TileKey
from ntkdist.gram.worker import TileRecord, TileWorker

_LONGEST_WAIT = 30.0


class TileActor:
    """A ``TileWorker`` behind Ray: plain values in, plain values out, no exceptions."""

    def __init__(self, job: str, name: str) -> None:
        self._worker = TileWorker(GramJob.from_json(job), name)

    def start(self) -> dict[str, Any]:
        """Open stores and backend; ``error`` says why not."""
        try:
            return self._worker.start()
        except Exception as error:
            return {
                "error": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }

    def compute(self, key: str, attempt: int) -> dict[str, Any]:
        """Compute and store one tile."""
        return dataclasses.asdict(self._worker.attempt(TileKey.parse(key), attempt))


@dataclass(frozen=True)
class Team:
    """Workers of one kind.

    Attributes:
        name: First letter of their names.
        job: What they compute, with their backend.
        options: Options of the actor class (resources, environment).
    """

    name: str
    job: GramJob
    options: dict[str, Any]


@dataclass
class Slot:
    """One worker, through all its deaths.

    Attributes:
        name: Its name in events.
        team: What kind of worker it is.
        actor: The Ray handle.
        starting: The answer to ``start`` that is waited for.
        ready: Whether it takes tiles.
        tiles: Answer waited for → tile, the oldest first.
        losses: Deaths since it last finished a tile.
        wake: When a dead one is started again (monotonic seconds).
    """

    name: str
    team: Team
    actor: Any
    starting: Any = None
    ready: bool = False
    tiles: dict[Any, TileKey] = field(default_factory=dict)
    losses: int = 0
    wake: float | None = None


class Actors:
    """All workers of one job.

    Args:
        ray: The ``ray`` module, connected.
        ledger: The books.
        emit: Told every event.
        max_losses: Deaths in a row after which a worker is given up.
    """

    def __init__(
        self,
        ray: Any,
        ledger: Ledger,
        emit: Callable[[Any], None],
        *,
        max_losses: int,
    ) -> None:
        self._ray = ray
        self._ledger = ledger
        self._emit = emit
        self._max_losses = max_losses
        self._named = 0
        self.slots: list[Slot] = []
        self.last_reason = ""

    def add(self, count: int, team: Team) -> None:
        """Ask for more workers; each takes tiles as soon as the cluster has room for it."""
        for _ in range(count):
            name = f"{team.name}{self._named:03d}"
            self._named += 1
            slot = Slot(name, team, self._actor(name, team))
            slot.starting = slot.actor.start.remote()
            self.slots.append(slot)

    def count(self, team: Team) -> int:
        """Return how many workers a team has."""
        return sum(slot.team is team for slot in self.slots)

    def _actor(self, name: str, team: Team) -> Any:
        # Ray restarts an actor whose process or node dies, on another node if need be
        options = self._ray.remote(TileActor).options(max_restarts=-1, **team.options)
        return options.remote(team.job.to_json(), name)

    def in_flight(self) -> list[TileKey]:
        """Return the tiles that workers have."""
        return [key for slot in self.slots for key in slot.tiles.values()]

    def feed(self, max_in_flight: int) -> None:
        """Hand out tiles, one round after the other so that nobody hoards.

        A tile beyond the first is handed out only while as many wait as there are
        workers; at the end each tile goes to whoever is free first.
        """
        ready = [slot for slot in self.slots if slot.ready]
        for depth in range(1, max_in_flight + 1):
            for slot in ready:
                if len(slot.tiles) >= depth or (depth > 1 and self._ledger.waiting < len(ready)):
                    continue
                taken = self._ledger.take(slot.name)
                if taken is None:
                    return
                key, attempt = taken
                slot.tiles[slot.actor.compute.remote(str(key), attempt)] = key

    def poll(self, seconds: float) -> None:
        """Wait for answers at most this long, and act on all that are there."""
        self._wake()
        owner = {ref: slot for slot in self.slots for ref in slot.tiles}
        owner |= {slot.starting: slot for slot in self.slots if slot.starting is not None}
        if not owner:
            time.sleep(seconds)
            return
        refs = list(owner)
        if not self._ray.wait(refs, num_returns=1, timeout=seconds)[0]:
            return
        answered, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        dead: dict[str, tuple[Slot, Exception]] = {}
        for ref in answered:
            slot = owner[ref]
            try:
                answer = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                # only once everything that was finished before the death is booked
                dead.setdefault(slot.name, (slot, error))
                continue
            if ref is slot.starting:
                self._started(slot, answer)
            else:
                slot.losses = 0
                self._ledger.book(slot.tiles.pop(ref), TileRecord(**answer))
        for slot, why in dead.values():
            self._lost(slot, why)

    def _started(self, slot: Slot, answer: dict[str, Any]) -> None:
        slot.starting = None
        if "error" in answer:  # it lives, and refuses: starting it again changes nothing
            self._drop(slot, answer["error"])
            return
        slot.ready = True
        self._emit(WorkerStarted(slot.name, **answer))

    def _lost(self, slot: Slot, error: Exception) -> None:
        reason = _one_line(error)
        keys = list(slot.tiles.values())
        slot.tiles.clear()
        slot.ready, slot.starting = False, None
        slot.losses += 1
        self.last_reason = reason
        self._emit(WorkerLost(slot.name, reason, tuple(map(str, keys))))
        self._ledger.lost(slot.name, keys, reason)
        if slot.losses >= self._max_losses:
            self._drop(slot, f"given up after {slot.losses} deaths in a row: {reason}")
            return
        if isinstance(error, self._ray.exceptions.ActorDiedError):  # for good
            slot.actor = self._actor(slot.name, slot.team)
        slot.wake = time.monotonic() + min(_LONGEST_WAIT, 0.25 * 2 ** (slot.losses - 1))

    def _wake(self) -> None:
        now = time.monotonic()
        for slot in self.slots:
            if slot.wake is not None and now >= slot.wake:
                slot.wake = None
                slot.starting = slot.actor.start.remote()

    def _drop(self, slot: Slot, reason: str) -> None:
        self.last_reason = reason
        self.slots.remove(slot)
        self._emit(WorkerLost(slot.name, reason))
        self._ray.kill(slot.actor, no_restart=True)

    def close(self) -> None:
        """End all workers, finished or not."""
        for slot in self.slots:
            self._ray.kill(slot.actor, no_restart=True)
        self.slots.clear()


def _one_line(error: Exception) -> str:
    """Return the last telling line of one of Ray's page-long messages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in lines if "exit" in line.lower()), lines[0] if lines else "")
    return f"{type(error).__name__}: {text[:300]}"
