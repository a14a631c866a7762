"""The Ray actors of one job: starting them, feeding them, noticing that they died or hang."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ntkdist.events.types import WorkerLost, WorkerStarted
from ntkdist.gram.executors.scheduler import TileScheduler
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


@dataclass(eq=False)
class WorkerHandle:
    """One worker of the pool; it keeps its name when its actor dies and is replaced.

    Attributes:
        name: Its name in events.
        actor: The Ray handle.
        node: Id of the node it was last ready on.
        starting: The pending answer to ``start``.
        ready: Whether it takes tiles.
        leaving: Whether it gets no more tiles because its node goes away.
        tiles: Pending answer → tile, the oldest first.
        since: When it began to compute its oldest tile (monotonic seconds).
        losses: Deaths since it last finished a tile.
        retry_at: When a dead one is started again (monotonic seconds).
    """

    name: str
    actor: Any
    node: str = ""
    starting: Any = None
    ready: bool = False
    leaving: bool = False
    tiles: dict[Any, TileKey] = field(default_factory=dict)
    since: float = 0.0
    losses: int = 0
    retry_at: float = 0.0


class RayWorkerPool:
    """The workers of one job: starts and replaces them, hands them tiles, takes their answers.

    Args:
        ray: The ``ray`` module, connected.
        job: What the workers compute.
        options: Options of the actor class (resources, environment).
        scheduler: Decides which tile comes next.
        emit: Receives every event.
        make_worker: Makes the worker from a job and a name, where it computes.
        max_losses: Deaths in a row after which a worker is given up.
        time_limit: Seconds a tile may take; None measures (see ``TimeLimit``).
        clock: Monotonic seconds.

    Attributes:
        workers: Those that are ready, starting or waiting to be started again.
        last_reason: Why the last worker was lost.
    """

    def __init__(
        self,
        ray: Any,
        job: GramJob,
        options: dict[str, Any],
        scheduler: TileScheduler,
        emit: Callable[[Any], None],
        *,
        make_worker: Callable[[GramJob, str], TileWorker] = TileWorker,
        max_losses: int,
        time_limit: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ray = ray
        self._job, self._options, self._make_worker = job, options, make_worker
        self._scheduler = scheduler
        self._emit = emit
        self._max_losses = max_losses
        self._limit = TimeLimit(time_limit, remote=job.is_remote)
        self._clock = clock
        self._named = 0
        self._owners: dict[Any, WorkerHandle] = {}  # pending answer → its worker
        self._idle: dict[WorkerHandle, None] = {}  # may take another tile, in this order
        self._backing_off: list[WorkerHandle] = []  # are started again later
        self._given_up: list[str] = []  # node of each, empty if not known
        self.workers: list[WorkerHandle] = []
        self.last_reason = ""

    def add(self, count: int) -> None:
        """Start more workers; each takes tiles once the cluster has the resources it asks for."""
        for _ in range(count):
            name = f"w{self._named:03d}"
            self._named += 1
            worker = WorkerHandle(name, self._actor(name))
            self._start(worker)
            self.workers.append(worker)

    @property
    def count(self) -> int:
        """How many workers there are, those that are leaving left out."""
        return sum(not worker.leaving for worker in self.workers)

    @property
    def given_up(self) -> int:
        """How many workers could not start or died too often; they are not replaced."""
        return len(self._given_up)

    def allow_again(self, alive: Collection[str]) -> None:
        """Allow replacements of workers that were given up on nodes that are gone."""
        self._given_up = [node for node in self._given_up if not node or node in alive]

    def shrink(self, count: int) -> None:
        """End workers beyond ``count`` that wait for resources: their nodes have left."""
        waiting = [worker for worker in self.workers if not worker.ready]
        for worker in waiting[: max(0, self.count - count)]:
            self._drop(worker, "its node has left the cluster")

    def leave(self, nodes: Collection[str]) -> None:
        """Hand no more tiles to workers on these nodes; end each when its tiles are done."""
        for worker in list(self.workers):
            if worker.node not in nodes or not worker.ready:
                continue
            if not worker.tiles:
                self._drop(worker, "its node is about to be taken away")
            else:
                worker.leaving = True
                self._idle.pop(worker, None)

    def _actor(self, name: str) -> Any:
        # not restarted by Ray: a call to an actor that is being restarted fails, a call to a new
        # one waits until a node has the resources for it
        actor = self._ray.remote(TileActor)
        options = actor.options(max_restarts=0, max_concurrency=_THREADS, **self._options)
        return options.remote(self._job.to_json(), name, self._make_worker)

    def _start(self, worker: WorkerHandle) -> None:
        worker.starting = worker.actor.start.remote()
        self._owners[worker.starting] = worker

    def in_flight(self) -> list[TileKey]:
        """Return the tiles that workers have."""
        return [key for worker in self.workers for key in worker.tiles.values()]

    @property
    def busy(self) -> bool:
        """Whether a worker has a tile."""
        return any(worker.tiles for worker in self.workers)

    def feed(self, max_in_flight: int) -> None:
        """Hand out tiles: one to each idle worker, then a second to each, and so on.

        A tile beyond the first is handed out only while at least as many wait as there are
        workers; at the end each tile goes to the worker that is free first.
        """
        if not self._idle:
            return
        ready = sum(worker.ready for worker in self.workers)
        for depth in range(1, max_in_flight + 1):
            for worker in list(self._idle):
                if len(worker.tiles) >= depth or (depth > 1 and self._scheduler.waiting < ready):
                    continue
                if any(map(self._scheduler.is_quarantined, worker.tiles.values())):
                    continue
                taken = self._scheduler.take(worker.name, idle=not worker.tiles)
                if taken is None:
                    return
                key, attempt = taken
                if not worker.tiles:
                    worker.since = self._clock()
                ref = worker.actor.compute.remote(str(key), attempt)
                worker.tiles[ref] = key
                self._owners[ref] = worker
        self._idle.clear()

    def _all_idle(self) -> None:
        """Offer tiles to every worker again, because some have come back."""
        self._idle = {
            worker: None for worker in self.workers if worker.ready and not worker.leaving
        }

    def poll(self, seconds: float) -> None:
        """Wait for answers at most this long, and act on all that are there."""
        self._restart()
        if not self._owners:
            time.sleep(seconds)
            return
        refs = list(self._owners)
        if not self._ray.wait(refs, num_returns=1, timeout=seconds)[0]:
            return
        answered, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        dead: dict[str, tuple[WorkerHandle, Exception]] = {}
        for ref in answered:
            worker = self._owners.pop(ref, None)
            if worker is None:  # dropped by what came before it
                continue
            try:
                answer = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                # after all answers that came before the death
                dead.setdefault(worker.name, (worker, error))
                continue
            if ref is worker.starting:
                self._started(worker, answer)
            else:
                self._answered(worker, ref, TileRecord(**answer))
        for worker, why in dead.values():
            self._take_back(worker, _one_line(why))

    def _started(self, worker: WorkerHandle, answer: dict[str, Any]) -> None:
        worker.starting = None
        worker.node = answer.pop("node")
        if "error" in answer:  # it could not start; starting it again changes nothing
            self._give_up(worker, answer["error"])
            return
        worker.ready = True
        self._idle[worker] = None
        self._emit(WorkerStarted(worker.name, **answer))

    def _answered(self, worker: WorkerHandle, ref: Any, record: TileRecord) -> None:
        worker.losses = 0
        if ref == next(iter(worker.tiles)):  # else an older tile is still computed
            worker.since = self._clock()
        if record.error is None:
            self._limit.measured(record.seconds)
        self._scheduler.report(worker.tiles.pop(ref), record)
        if record.error is not None:
            self._all_idle()
        if not worker.leaving:
            self._idle[worker] = None
        elif not worker.tiles:
            self._drop(worker, "its node is about to be taken away")

    def end_hanging(self) -> None:
        """End workers that have not answered for longer than a tile may take."""
        now = self._clock()
        for worker in list(self.workers):
            if not worker.tiles:
                continue
            limit = self._limit.seconds
            if now - worker.since <= limit:
                continue
            self._take_back(
                worker, f"no answer for {now - worker.since:.0f} s, limit {limit:.0f} s"
            )

    def _take_back(self, worker: WorkerHandle, reason: str) -> None:
        """Record a death, give the worker's tiles to others, and replace it later."""
        # even if it may merely be unreachable: two actors must not have one name
        self._ray.kill(worker.actor, no_restart=True)
        keys = list(worker.tiles.values())
        self._forget(worker)
        worker.losses += 1
        self.last_reason = reason
        self._emit(WorkerLost(worker.name, reason, tuple(map(str, keys))))
        self._scheduler.lost(worker.name, keys, reason)
        if worker.leaving:
            self._drop(worker, "its node was taken away")
        elif worker.losses >= self._max_losses:
            self._give_up(worker, f"given up after {worker.losses} deaths in a row: {reason}")
        else:
            worker.retry_at = self._clock() + min(_LONGEST_WAIT, 0.25 * 2 ** (worker.losses - 1))
            self._backing_off.append(worker)
        self._all_idle()

    def _forget(self, worker: WorkerHandle) -> None:
        """Hand a worker no tile and ignore its answers."""
        worker.ready = False
        self._idle.pop(worker, None)
        for ref in (*worker.tiles, worker.starting):
            self._owners.pop(ref, None)
        worker.tiles.clear()
        worker.starting = None

    def _restart(self) -> None:
        now = self._clock()
        for worker in [worker for worker in self._backing_off if now >= worker.retry_at]:
            self._backing_off.remove(worker)
            worker.actor = self._actor(worker.name)
            self._start(worker)

    def _give_up(self, worker: WorkerHandle, reason: str) -> None:
        self._given_up.append(worker.node)
        self._drop(worker, reason)

    def _drop(self, worker: WorkerHandle, reason: str) -> None:
        self.last_reason = reason
        self._scheduler.unstarted(worker.name, list(worker.tiles.values()))
        self._forget(worker)
        self.workers.remove(worker)
        if worker in self._backing_off:
            self._backing_off.remove(worker)
        self._emit(WorkerLost(worker.name, reason))
        self._ray.kill(worker.actor, no_restart=True)

    def close(self) -> None:
        """End all workers, finished or not; their tiles count as not begun."""
        for worker in self.workers:
            self._scheduler.unstarted(worker.name, list(worker.tiles.values()))
            self._forget(worker)
            self._ray.kill(worker.actor, no_restart=True)
        self.workers.clear()


def _one_line(error: Exception) -> str:
    """Return the last telling line of one of Ray's page-long messages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in lines if "exit" in line.lower()), lines[0] if lines else "")
    return f"{type(error).__name__}: {text[:300]}"


FIRST_SECONDS = 1800.0
"""Limit while too few tiles are measured: compiling and a slow store count too."""

LEAST_SECONDS = 60.0
LEAST_SECONDS_REMOTE = 600.0
"""Object stores that are away for a while are tried again for minutes before a tile fails."""

TIMES_MEDIAN = 10.0
_ENOUGH = 3
_KEPT = 101


class TimeLimit:
    """A limit from the times of the last tiles: ten times their median, at least a minute
    (ten on an object store).

    Args:
        seconds: A limit to take instead; None measures.
        remote: Whether tiles go to an object store.
    """

    def __init__(self, seconds: float | None = None, *, remote: bool = False) -> None:
        self._given = seconds
        self._least = LEAST_SECONDS_REMOTE if remote else LEAST_SECONDS
        self._measured: deque[float] = deque(maxlen=_KEPT)
        self._limit = FIRST_SECONDS if seconds is None else seconds

    @property
    def seconds(self) -> float:
        """The limit as it is now."""
        return self._limit

    def measured(self, seconds: float) -> None:
        """Take in what a finished tile took."""
        if self._given is not None:
            return
        self._measured.append(seconds)
        if len(self._measured) >= _ENOUGH:
            self._limit = max(self._least, TIMES_MEDIAN * median(self._measured))
