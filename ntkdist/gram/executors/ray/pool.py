"""The Ray actors of one job: starting them, feeding them, noticing that they died or hang."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from ntkdist.events.types import WorkerLost, WorkerStarted
from ntkdist.gram.executors.ray.limits import TimeLimit
from ntkdist.gram.executors.ray.scheduler import Ledger
from ntkdist.gram.job import GramJob
from ntkdist.gram.tiling import TileKey
from ntkdist.gram.worker import TileRecord, TileWorker

_LONGEST_WAIT = 30.0
_THREADS = 2  # of an actor: one tile is computed while another is written


class TileActor:
    """A ``TileWorker`` behind Ray: plain values in, plain values out, no exceptions.

    It is called in ``_THREADS`` threads.
    """

    def __init__(self, job: str, name: str, make_worker: Callable[[GramJob, str], TileWorker]):
        self._worker = make_worker(GramJob.from_json(job), name)

    def start(self) -> dict[str, Any]:
        """Open stores and backend; ``error`` says why not."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        try:
            return {**self._worker.start(), "node": node}
        except Exception as error:
            return {
                "node": node,
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
        make_worker: Makes the worker from a job and a name, where it computes.
    """

    name: str
    job: GramJob
    options: dict[str, Any]
    make_worker: Callable[[GramJob, str], TileWorker] = TileWorker


@dataclass(eq=False)
class Slot:
    """One worker, through all its deaths.

    Attributes:
        name: Its name in events.
        team: What kind of worker it is.
        actor: The Ray handle.
        node: Id of the node it was last ready on.
        starting: The answer to ``start`` that is waited for.
        ready: Whether it takes tiles.
        leaving: Whether it gets no more tiles because its node goes away.
        tiles: Answer waited for → tile, the oldest first.
        since: Since when it has its oldest tile and had no older one (monotonic seconds).
        losses: Deaths since it last finished a tile.
        wake: When a dead one is started again (monotonic seconds).
    """

    name: str
    team: Team
    actor: Any
    node: str = ""
    starting: Any = None
    ready: bool = False
    leaving: bool = False
    tiles: dict[Any, TileKey] = field(default_factory=dict)
    since: float = 0.0
    losses: int = 0
    wake: float = 0.0


class Actors:
    """All workers of one job.

    Args:
        ray: The ``ray`` module, connected.
        ledger: The books.
        emit: Told every event.
        max_losses: Deaths in a row after which a worker is given up.
        time_limit: Seconds a tile may take; None measures (see ``TimeLimit``).
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        ray: Any,
        ledger: Ledger,
        emit: Callable[[Any], None],
        *,
        max_losses: int,
        time_limit: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ray = ray
        self._ledger = ledger
        self._emit = emit
        self._max_losses = max_losses
        self._given_limit = time_limit
        self._limits: dict[str, TimeLimit] = {}
        self._clock = clock
        self._named = 0
        self._owners: dict[Any, Slot] = {}  # answer waited for → who gives it
        self._hungry: dict[Slot, None] = {}  # who may take another tile, in order
        self._asleep: list[Slot] = []  # who is started again later
        self._refusing: list[tuple[Team, str]] = []  # with the node, empty if not known
        self.slots: list[Slot] = []
        self.last_reason = ""

    def add(self, count: int, team: Team) -> None:
        """Ask for more workers; each takes tiles as soon as the cluster has room for it."""
        limit = TimeLimit(self._given_limit, remote=team.job.is_remote)
        self._limits.setdefault(team.name, limit)
        for _ in range(count):
            name = f"{team.name}{self._named:03d}"
            self._named += 1
            slot = Slot(name, team, self._actor(name, team))
            self._start(slot)
            self.slots.append(slot)

    def count(self, team: Team) -> int:
        """Return how many workers a team has, those that are leaving left out."""
        return sum(slot.team is team and not slot.leaving for slot in self.slots)

    @property
    def given_up(self) -> list[Team]:
        """The teams of the workers that refused, or died too often; no others take their place."""
        return [team for team, _ in self._refusing]

    def pardon(self, alive: Collection[str]) -> None:
        """Forget who was given up on nodes that are gone; others may come in their place."""
        self._refusing = [one for one in self._refusing if not one[1] or one[1] in alive]

    def shrink(self, team: Team, count: int) -> None:
        """Give up workers beyond ``count`` that are waiting for room: their nodes have left."""
        waiting = [slot for slot in self.slots if slot.team is team and not slot.ready]
        for slot in waiting[: max(0, self.count(team) - count)]:
            self._drop(slot, "its node has left the cluster")

    def leave(self, nodes: Collection[str]) -> None:
        """Hand nothing more to workers on these nodes; they end when their tiles are done."""
        for slot in list(self.slots):
            if slot.node not in nodes or not slot.ready:
                continue
            if not slot.tiles:
                self._drop(slot, "its node is about to be taken away")
            else:
                slot.leaving = True
                self._hungry.pop(slot, None)

    def _actor(self, name: str, team: Team) -> Any:
        # not restarted by Ray: a call to an actor that is being restarted fails, a call to a new
        # one waits until there is room for it, on whichever node
        actor = self._ray.remote(TileActor)
        options = actor.options(max_restarts=0, max_concurrency=_THREADS, **team.options)
        return options.remote(team.job.to_json(), name, team.make_worker)

    def _start(self, slot: Slot) -> None:
        slot.starting = slot.actor.start.remote()
        self._owners[slot.starting] = slot

    def in_flight(self) -> list[TileKey]:
        """Return the tiles that workers have."""
        return [key for slot in self.slots for key in slot.tiles.values()]

    @property
    def busy(self) -> bool:
        """Whether a worker has a tile."""
        return any(slot.tiles for slot in self.slots)

    def feed(self, max_in_flight: int) -> None:
        """Hand out tiles, one round after the other so that nobody hoards.

        A tile beyond the first is handed out only while as many wait as there are
        workers; at the end each tile goes to whoever is free first.
        """
        if not self._hungry:
            return
        ready = sum(slot.ready for slot in self.slots)
        for depth in range(1, max_in_flight + 1):
            for slot in list(self._hungry):
                if len(slot.tiles) >= depth or (depth > 1 and self._ledger.waiting < ready):
                    continue
                if any(map(self._ledger.is_suspect, slot.tiles.values())):
                    continue
                taken = self._ledger.take(slot.name, idle=not slot.tiles)
                if taken is None:
                    return
                key, attempt = taken
                if not slot.tiles:
                    slot.since = self._clock()
                ref = slot.actor.compute.remote(str(key), attempt)
                slot.tiles[ref] = key
                self._owners[ref] = slot
        self._hungry.clear()

    def _all_hungry(self) -> None:
        """Let every worker ask again, because tiles have come back."""
        self._hungry = {slot: None for slot in self.slots if slot.ready and not slot.leaving}

    def poll(self, seconds: float) -> None:
        """Wait for answers at most this long, and act on all that are there."""
        self._wake()
        if not self._owners:
            time.sleep(seconds)
            return
        refs = list(self._owners)
        if not self._ray.wait(refs, num_returns=1, timeout=seconds)[0]:
            return
        answered, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        dead: dict[str, tuple[Slot, Exception]] = {}
        for ref in answered:
            slot = self._owners.pop(ref, None)
            if slot is None:  # dropped by what came before it
                continue
            try:
                answer = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                # only once everything that was finished before the death is booked
                dead.setdefault(slot.name, (slot, error))
                continue
            if ref is slot.starting:
                self._started(slot, answer)
            else:
                self._answered(slot, ref, TileRecord(**answer))
        for slot, why in dead.values():
            self._take_back(slot, _one_line(why))

    def _started(self, slot: Slot, answer: dict[str, Any]) -> None:
        slot.starting = None
        slot.node = answer.pop("node")
        if "error" in answer:  # it lives, and refuses: starting it again changes nothing
            self._give_up(slot, answer["error"])
            return
        slot.ready = True
        self._hungry[slot] = None
        self._emit(WorkerStarted(slot.name, **answer))

    def _answered(self, slot: Slot, ref: Any, record: TileRecord) -> None:
        slot.losses = 0
        if ref == next(iter(slot.tiles)):  # else an older one still has to answer for itself
            slot.since = self._clock()
        if record.error is None:
            self._limits[slot.team.name].measured(record.seconds)
        self._ledger.book(slot.tiles.pop(ref), record)
        if record.error is not None:
            self._all_hungry()
        if not slot.leaving:
            self._hungry[slot] = None
        elif not slot.tiles:
            self._drop(slot, "its node is about to be taken away")

    def end_hanging(self) -> None:
        """End workers that have not answered for longer than a tile may take."""
        now = self._clock()
        for slot in list(self.slots):
            if not slot.tiles:
                continue
            limit = self._limits[slot.team.name].seconds
            if now - slot.since <= limit:
                continue
            self._take_back(slot, f"no answer for {now - slot.since:.0f} s, limit {limit:.0f} s")

    def _take_back(self, slot: Slot, reason: str) -> None:
        """Book a death, give the worker's tiles to others, and put another in its place later."""
        self._ray.kill(slot.actor, no_restart=True)  # where it is only out of reach, too
        keys = list(slot.tiles.values())
        self._forget(slot)
        slot.losses += 1
        self.last_reason = reason
        self._emit(WorkerLost(slot.name, reason, tuple(map(str, keys))))
        self._ledger.lost(slot.name, keys, reason)
        if slot.leaving:
            self._drop(slot, "its node was taken away")
        elif slot.losses >= self._max_losses:
            self._give_up(slot, f"given up after {slot.losses} deaths in a row: {reason}")
        else:
            slot.wake = self._clock() + min(_LONGEST_WAIT, 0.25 * 2 ** (slot.losses - 1))
            self._asleep.append(slot)
        self._all_hungry()

    def _forget(self, slot: Slot) -> None:
        """Hand a worker nothing, and wait for no answer of it any more."""
        slot.ready = False
        self._hungry.pop(slot, None)
        for ref in (*slot.tiles, slot.starting):
            self._owners.pop(ref, None)
        slot.tiles.clear()
        slot.starting = None

    def _wake(self) -> None:
        now = self._clock()
        for slot in [slot for slot in self._asleep if now >= slot.wake]:
            self._asleep.remove(slot)
            slot.actor = self._actor(slot.name, slot.team)
            self._start(slot)

    def _give_up(self, slot: Slot, reason: str) -> None:
        self._refusing.append((slot.team, slot.node))
        self._drop(slot, reason)

    def _drop(self, slot: Slot, reason: str) -> None:
        self.last_reason = reason
        self._ledger.unstarted(slot.name, list(slot.tiles.values()))
        self._forget(slot)
        self.slots.remove(slot)
        if slot in self._asleep:
            self._asleep.remove(slot)
        self._emit(WorkerLost(slot.name, reason))
        self._ray.kill(slot.actor, no_restart=True)

    def close(self) -> None:
        """End all workers, finished or not; what they had counts as not begun."""
        for slot in self.slots:
            self._ledger.unstarted(slot.name, list(slot.tiles.values()))
            self._forget(slot)
            self._ray.kill(slot.actor, no_restart=True)
        self.slots.clear()


def _one_line(error: Exception) -> str:
    """Return the last telling line of one of Ray's page-long messages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in lines if "exit" in line.lower()), lines[0] if lines else "")
    return f"{type(error).__name__}: {text[:300]}"
