"""Tiles on Ray: one long-lived actor per core or GPU, and a driver loop that survives losses.

Not ``ray.util.ActorPool``, which drops work silently when an actor dies for good.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ntkdist.errors import InputError, InterruptedRunError, NtkdistError, StageError
from ntkdist.events.types import Interrupted, StepContinues, WorkerLost, WorkerStarted
from ntkdist.gram.executors.cluster import (
    actor_environment,
    cluster,
    cores,
    current_nodes,
    package_path,
)
from ntkdist.gram.executors.scheduler import ExecutorSummary, TileScheduler
from ntkdist.gram.tiling import TileKey
from ntkdist.gram.worker import GramJob, TileRecord, TileWorker
from ntkdist.words import counted

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.25  # how late a signal is noticed
_LOOK_SECONDS = 2.0  # between two checks for nodes that joined, left or drain
_PATIENCE_SECONDS = 60.0  # without a ready worker before a warning


class RayExecutor:
    """Computes tiles with Ray actors.

    Args:
        workers: How many actors; ``auto`` takes every core (or GPU) of the cluster,
            those that join later too.
        address: Of a running cluster; None starts one on this machine (or takes
            RAY_ADDRESS, or the Ray this process has already initialised).
        threads: Threads, and Ray CPUs, of one actor; None takes the job's.
        num_gpus: GPUs of one actor.
        max_in_flight: Tiles that one actor has at a time: one is computed, others are written or
            wait. With 1, a tile is computed only after the tile before it is written.
        retries: How often a tile that raised, or whose worker died, is tried again.
        max_losses: Deaths in a row, without a tile done or failed in between, after which a
            worker is given up.
        time_limit: Timeout of a tile in seconds; its worker is then killed and its tiles are
            returned to the queue. None takes ten times the median of recent tiles.
        grace: Seconds to wait for the tiles in flight once the job is asked to stop; None
            waits until they are done.
        clock: Monotonic seconds.
        make_worker: Called in the actor with the job and a name; must be importable there.

    Raises:
        InputError: If a number is out of range.
    """

    name = "ray"

    def __init__(
        self,
        workers: int | str = "auto",
        address: str | None = None,
        threads: int | None = None,
        num_gpus: float = 0,
        max_in_flight: int = 2,
        retries: int = 2,
        max_losses: int = 5,
        time_limit: float | None = None,
        grace: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        make_worker: Callable[[GramJob, str], TileWorker] = TileWorker,
    ) -> None:
        if workers != "auto" and (not isinstance(workers, int) or workers < 1):
            raise InputError(f"workers={workers!r} must be 'auto' or at least 1")
        for name, value, least in (
            ("threads", threads, 1),
            ("num_gpus", num_gpus, 0),
            ("max_in_flight", max_in_flight, 1),
            ("retries", retries, 0),
            ("max_losses", max_losses, 1),
            ("time_limit", time_limit, 1),
            ("grace", grace, 0),
        ):
            if value is not None and value < least:
                raise InputError(f"{name}={value} must be at least {least}")
        self._wanted = workers
        self._address = address
        self._threads = threads
        self._num_gpus = num_gpus
        self._max_in_flight = max_in_flight
        self._retries = retries
        self._max_losses = max_losses
        self._time_limit = time_limit
        self._grace = grace
        self._clock = clock
        self._make_worker = make_worker

    @property
    def workers(self) -> int:
        """How many workers are asked for; 0 if the cluster decides."""
        return self._wanted if isinstance(self._wanted, int) else 0

    def run(
        self,
        job: GramJob,
        keys: Sequence[TileKey],
        emit: Callable[[Any], None],
        stop: threading.Event,
    ) -> ExecutorSummary:
        """Compute the tiles; see ``Executor.run``."""

        def on_wait(step: str, seconds: float) -> None:
            emit(StepContinues(step, seconds))
            if stop.is_set():
                raise InterruptedRunError("stopped by a signal; what was finished is kept")

        threads = self._threads or job.threads
        job = dataclasses.replace(job, threads=threads)
        count = self.workers or max(1, cores() // threads)
        gpus = int(count * self._num_gpus) if self.workers else 0
        environment = actor_environment(threads=threads, gpus=self._num_gpus)
        with cluster(
            self._address,
            cpus=count * threads,
            gpus=gpus,
            environment=environment | package_path(),
            on_wait=on_wait,
        ) as (ray, local):
            self._check_gpus(ray, local)
            resources: dict[str, Any] = {"num_cpus": threads, "num_gpus": self._num_gpus}
            if not local:
                resources["runtime_env"] = {"env_vars": environment}
            return self.run_on(ray, job, keys, emit, stop, resources)

    def _check_gpus(self, ray: Any, local: bool) -> None:
        """Raise ``InputError`` if workers would wait in vain for a GPU of this machine."""
        if local and self._num_gpus and not ray.cluster_resources().get("GPU"):
            raise InputError(
                "backend 'cuda' needs a GPU for each worker, and Ray finds none on this machine;"
                " give --gram.address of a cluster that has some, or take --gram.backend cpu"
            )

    def run_on(
        self,
        ray: Any,
        job: GramJob,
        keys: Sequence[TileKey],
        emit: Callable[[Any], None],
        stop: threading.Event,
        resources: dict[str, Any],
    ) -> ExecutorSummary:
        """Compute the tiles on a cluster that is connected already; see ``Executor.run``."""
        scheduler = TileScheduler(keys, emit, retries=self._retries)
        pool = RayWorkerPool(
            ray,
            job,
            resources,
            scheduler,
            emit,
            make_worker=self._make_worker,
            max_losses=self._max_losses,
            time_limit=self._time_limit,
            clock=self._clock,
        )
        try:
            self._drive(ray, pool, resources, scheduler, emit, stop)
        finally:
            pool.close()
        return scheduler.summary()

    def _drive(
        self,
        ray: Any,
        pool: RayWorkerPool,
        resources: dict[str, Any],
        scheduler: TileScheduler,
        emit: Callable[[Any], None],
        stop: threading.Event,
    ) -> None:
        threads = resources["num_cpus"]
        self._fit(ray, pool, threads, scheduler)
        stopped: float | None = None
        ready = looked = self._clock()
        while pool.busy or (scheduler.waiting and not stop.is_set()):
            now = self._clock()
            if not stop.is_set():
                pool.feed(self._max_in_flight)
            elif stopped is None:
                stopped = now
                signal = getattr(stop, "signal", "")
                emit(Interrupted(signal, tuple(map(str, pool.in_flight()))))
            elif self._grace is not None and now - stopped > self._grace:
                return
            pool.poll(_POLL_SECONDS)
            scheduler.check_store()
            if now - looked >= _LOOK_SECONDS:
                looked = now
                pool.end_hanging()
                self._fit(ray, pool, threads, scheduler, more=not stop.is_set())
            if pool.given_up and not pool.workers:
                missing = counted(scheduler.waiting, "tile")
                be = "is" if scheduler.waiting == 1 else "are"
                raise StageError(f"no worker is left, {missing} {be} missing: {pool.last_reason}")
            if any(worker.ready for worker in pool.workers):
                ready = now
            elif now - ready >= _PATIENCE_SECONDS:
                ready = now
                _log.warning(
                    "no worker is ready: each asks the cluster for %(num_cpus)d CPU and"
                    " %(num_gpus)g GPU; add nodes that have them, or take another --gram.backend",
                    resources,
                )
        if stop.is_set() and stopped is None and scheduler.waiting:  # none was in flight
            emit(Interrupted(getattr(stop, "signal", ""), ()))

    def _fit(
        self,
        ray: Any,
        pool: RayWorkerPool,
        threads: int,
        scheduler: TileScheduler,
        *,
        more: bool = True,
    ) -> None:
        """Have as many workers as were asked for, or as the cluster has resources for now."""
        nodes = current_nodes(ray, threads=threads, gpus=self._num_gpus)
        pool.drain(nodes.draining)
        pool.allow_again(nodes.alive)
        # at least one worker waits for a node that joins or returns
        target = self._wanted if isinstance(self._wanted, int) else max(1, nodes.workers)
        target -= pool.given_up
        pool.shrink(target)
        if more:
            missing = min(target - pool.count, scheduler.waiting - len(pool.workers))
            pool.add(max(0, missing))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function once on a worker's node, with a worker's resources.

        Its process ends with it, and so gives back the memory of the GPU.

        Raises:
            InputError: If a GPU is asked for, and Ray finds none on this machine.
            NtkdistError: If the function raised one.
            StageError: If it raised anything else, or its worker died.
        """
        threads = self._threads or 1
        environment = actor_environment(threads=threads, gpus=self._num_gpus) | package_path()
        gpus = math.ceil(self._num_gpus) if self.workers else 0
        with cluster(
            self._address, cpus=max(threads, cores()), gpus=gpus, environment=environment
        ) as (
            ray,
            local,
        ):
            self._check_gpus(ray, local)
            options: dict[str, Any] = {"num_cpus": threads, "num_gpus": self._num_gpus}
            if not local:
                options["runtime_env"] = {"env_vars": environment}

            def task(*given: Any) -> Any:
                return function(*given)  # may be a partial, which ``ray.remote`` rejects

            try:
                # not by ``options()``: with ``num_gpus`` there, Ray keeps the process
                return ray.get(ray.remote(max_calls=1, **options)(task).remote(*args))
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, NtkdistError):
                    raise cause from error
                raise StageError(f"on a worker: {' '.join(str(error).split())[-400:]}") from error


_MAX_BACKOFF = 30.0  # seconds
_THREADS = 2  # of an actor: one tile is computed while another is written


class TileActor:
    """A ``TileWorker`` behind Ray: plain values in, plain values out, no exceptions.

    It is called in ``_THREADS`` threads.
    """

    def __init__(self, job: str, name: str, make_worker: Callable[[GramJob, str], TileWorker]):
        self._worker = make_worker(GramJob.from_json(job), name)

    def start(self) -> dict[str, Any]:
        """Open stores and backend, or return the ``error``."""
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
        node: Id of its node at the last ``start``.
        starting: The ``ObjectRef`` of ``start`` until it has answered.
        ready: Whether it has started.
        draining: Whether it gets no more tiles because its node is draining.
        tiles: ``ObjectRef`` of its pending answer → tile, the oldest first.
        since: When its oldest tile became the oldest (monotonic seconds).
        deaths: Its deaths since its last tile record.
        retry_at: When a dead one is started again (monotonic seconds).
    """

    name: str
    actor: Any
    node: str = ""
    starting: Any = None
    ready: bool = False
    draining: bool = False
    tiles: dict[Any, TileKey] = field(default_factory=dict)
    since: float = 0.0
    deaths: int = 0
    retry_at: float = 0.0


class RayWorkerPool:
    """The workers of one job: starts and replaces them, hands them tiles, takes their answers.

    ``options`` are those of the actor class (resources, environment); the other arguments are those
    of ``RayExecutor``.

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
        """How many workers are not draining."""
        return sum(not worker.draining for worker in self.workers)

    @property
    def given_up(self) -> int:
        """How many workers could not start or died too often; they are not replaced."""
        return len(self._given_up)

    def allow_again(self, alive: Collection[str]) -> None:
        """Forget workers given up on nodes that are not ``alive``, so that they are replaced."""
        self._given_up = [node for node in self._given_up if not node or node in alive]

    def shrink(self, count: int) -> None:
        """End workers that are not ready while there are more than ``count``."""
        waiting = [worker for worker in self.workers if not worker.ready]
        for worker in waiting[: max(0, self.count - count)]:
            self._drop(worker, "the cluster has no resources for it now")

    def drain(self, nodes: Collection[str]) -> None:
        """Hand no more tiles to workers on these nodes; end each when its tiles are done."""
        for worker in list(self.workers):
            if worker.node not in nodes or not worker.ready:
                continue
            if not worker.tiles:
                self._drop(worker, "its node is draining")
            else:
                worker.draining = True
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

        A second tile is handed out only while at least one waits for each ready worker, so that
        the last tiles go to free workers. A quarantined tile runs alone.
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

    def _mark_all_idle(self) -> None:
        """Mark all ready workers idle: tiles went back to the queue."""
        self._idle = {
            worker: None for worker in self.workers if worker.ready and not worker.draining
        }

    def poll(self, seconds: float) -> None:
        """Wait up to ``seconds`` for answers, then handle all of them."""
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
            if worker is None:  # its worker was dropped above
                continue
            try:
                answer = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                # deaths are handled after all other answers
                dead.setdefault(worker.name, (worker, error))
                continue
            if ref is worker.starting:
                self._started(worker, answer)
            else:
                self._answered(worker, ref, TileRecord(**answer))
        for worker, why in dead.values():
            self._on_death(worker, _one_line(why))

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
        if record.device_lost_by:
            self._on_death(worker, record.error or "", record)
            return
        worker.deaths = 0
        if ref == next(iter(worker.tiles)):  # else an older tile is still computed
            worker.since = self._clock()
        if record.error is None:
            self._limit.measured(record.seconds)
        self._scheduler.report(worker.tiles.pop(ref), record)
        if record.error is not None:
            self._mark_all_idle()
        if not worker.draining:
            self._idle[worker] = None
        elif not worker.tiles:
            self._drop(worker, "its node is draining")

    def end_hanging(self) -> None:
        """Kill and replace workers whose oldest tile exceeds the timeout."""
        now = self._clock()
        for worker in list(self.workers):
            if not worker.tiles:
                continue
            limit = self._limit.seconds
            if now - worker.since <= limit:
                continue
            self._on_death(worker, f"no answer for {now - worker.since:.0f} s, limit {limit:.0f} s")

    def _on_death(self, worker: WorkerHandle, reason: str, last: TileRecord | None = None) -> None:
        """Kill a worker, return its tiles to the scheduler, and restart or drop the worker.

        ``last`` says which tile lost the worker its GPU, if that is why; the others are not struck.
        """
        # it may merely be unreachable: two actors must not share a name
        self._ray.kill(worker.actor, no_restart=True)
        keys = list(worker.tiles.values())
        self._forget(worker)
        worker.deaths += 1
        self.last_reason = reason
        self._emit(WorkerLost(worker.name, reason, tuple(map(str, keys))))
        if last is not None:
            culprit = TileKey.parse(last.device_lost_by)
            self._scheduler.take_back(worker.name, [key for key in keys if key != culprit])
            self._scheduler.lost(worker.name, [culprit], reason, last.traceback)
        else:
            self._scheduler.lost(worker.name, keys, reason)
        if worker.draining:
            self._drop(worker, "its node was removed")
        elif worker.deaths >= self._max_losses:
            self._give_up(worker, f"given up after {worker.deaths} deaths in a row: {reason}")
        else:
            worker.retry_at = self._clock() + min(_MAX_BACKOFF, 0.25 * 2 ** (worker.deaths - 1))
            self._backing_off.append(worker)
        self._mark_all_idle()

    def _forget(self, worker: WorkerHandle) -> None:
        """Mark a worker not ready and ignore its answers."""
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
        self._scheduler.take_back(worker.name, list(worker.tiles.values()))
        self._forget(worker)
        self.workers.remove(worker)
        if worker in self._backing_off:
            self._backing_off.remove(worker)
        self._emit(WorkerLost(worker.name, reason))
        self._ray.kill(worker.actor, no_restart=True)

    def close(self) -> None:
        """Kill all workers; return their tiles without counting a failure."""
        for worker in self.workers:
            self._scheduler.take_back(worker.name, list(worker.tiles.values()))
            self._forget(worker)
            self._ray.kill(worker.actor, no_restart=True)
        self.workers.clear()


def _one_line(error: Exception) -> str:
    """Return the first line with "exit" of a Ray error, else its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in lines if "exit" in line.lower()), lines[0] if lines else "")
    return f"{type(error).__name__}: {text[:300]}"


FIRST_SECONDS = 1800.0
"""Timeout in seconds until enough tiles are measured; it covers compiling and a slow store."""

LEAST_SECONDS = 60.0
LEAST_SECONDS_REMOTE = 600.0
"""An unreachable object store is retried for minutes before a tile fails."""

TIMES_MEDIAN = 10.0
_ENOUGH = 3
_KEPT = 101


class TimeLimit:
    """Timeout of a tile: ten times the median of recent tiles, at least 60 s.

    On an object store (``remote``) at least 600 s. Given ``seconds``, it is that.
    """

    def __init__(self, seconds: float | None = None, *, remote: bool = False) -> None:
        self._given = seconds
        self._least = LEAST_SECONDS_REMOTE if remote else LEAST_SECONDS
        self._measured: deque[float] = deque(maxlen=_KEPT)
        self._limit = FIRST_SECONDS if seconds is None else seconds

    @property
    def seconds(self) -> float:
        """The current timeout."""
        return self._limit

    def measured(self, seconds: float) -> None:
        """Record the seconds of a finished tile."""
        if self._given is not None:
            return
        self._measured.append(seconds)
        if len(self._measured) >= _ENOUGH:
            self._limit = max(self._least, TIMES_MEDIAN * median(self._measured))
