"""Tiles on Ray: one long-lived actor per core or GPU, and a driver loop that survives losses.

Not ``ray.util.ActorPool``, which drops work silently when an actor dies for good.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ntkdist.errors import InputError, StageError
from ntkdist.events.types import Interrupted
from ntkdist.gram.executors import ExecutorSummary
from ntkdist.gram.executors.ray.cluster import actor_environment, cluster, cores, look, package_path
from ntkdist.gram.executors.ray.pool import RayWorkerPool
from ntkdist.gram.executors.scheduler import TileScheduler
from ntkdist.gram.job import GramJob
from ntkdist.gram.tiling import TileKey
from ntkdist.gram.worker import TileWorker
from ntkdist.words import counted

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.25  # how late a signal is noticed
_LOOK_SECONDS = 2.0  # how late nodes that join, leave or are about to leave are noticed
_PATIENCE_SECONDS = 60.0


class RayExecutor:
    """Computes tiles with Ray actors.

    Args:
        workers: How many actors; ``auto`` takes every core (or GPU) of the cluster,
            those that join later too.
        address: Of a running cluster; None starts one on this machine (or takes
            RAY_ADDRESS, or the Ray this process has already initialised).
        threads: Threads, and Ray CPUs, of one actor; None takes the job's.
        num_gpus: GPUs of one actor.
        max_in_flight: Tiles one actor has at a time: one that it computes, others that it writes
            or has before it. 1 lets it compute a tile only once the one before it is written.
        retries: How often a tile that raised, or died with its worker, is tried again.
        max_losses: Deaths in a row, without a tile finished in between, after which a
            worker is given up.
        time_limit: Seconds after which a tile's worker is taken to hang, is ended, and its
            tile given to another; None takes ten times the median of the tiles so far.
        grace: Seconds to wait for the tiles in flight once the job is asked to stop; None
            waits until they are done.
        clock: Monotonic seconds.
        make_worker: Makes the worker from a job and a name, where it computes; importable there.

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
        for field, value, least in (
            ("threads", threads, 1),
            ("num_gpus", num_gpus, 0),
            ("max_in_flight", max_in_flight, 1),
            ("retries", retries, 0),
            ("max_losses", max_losses, 1),
            ("time_limit", time_limit, 1),
            ("grace", grace, 0),
        ):
            if value is not None and value < least:
                raise InputError(f"{field}={value} must be at least {least}")
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
        ) as (ray, local):
            if local and self._num_gpus and not ray.cluster_resources().get("GPU"):
                raise InputError(
                    f"backend {job.backend!r} needs a GPU for each worker, and Ray finds none on"
                    " this machine; give --gram.address of a cluster that has some, or take"
                    " --gram.backend cpu"
                )
            resources: dict[str, Any] = {"num_cpus": threads, "num_gpus": self._num_gpus}
            if not local:
                resources["runtime_env"] = {"env_vars": environment}
            return self.run_on(ray, job, keys, emit, stop, resources)

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
        nodes = look(ray, threads=threads, gpus=self._num_gpus)
        pool.drain(nodes.leaving)
        pool.allow_again(nodes.alive)
        # at least one waits for a node to come, or to come back
        target = self._wanted if isinstance(self._wanted, int) else max(1, nodes.workers)
        target -= pool.given_up
        pool.shrink(target)
        if more:
            missing = min(target - pool.count, scheduler.waiting - len(pool.workers))
            pool.add(max(0, missing))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function once on a worker's node, with a worker's resources.

        Raises:
            StageError: If it raised there, or its worker died.
        """
        threads = self._threads or 1
        environment = actor_environment(threads=threads, gpus=self._num_gpus) | package_path()
        with cluster(
            self._address, cpus=max(threads, cores()), gpus=0, environment=environment
        ) as (
            ray,
            local,
        ):
            options: dict[str, Any] = {"num_cpus": threads, "num_gpus": self._num_gpus}
            if not local:
                options["runtime_env"] = {"env_vars": environment}

            def task(*given: Any) -> Any:
                return function(*given)  # which may be a partial, and those Ray does not take

            try:
                return ray.get(ray.remote(task).options(**options).remote(*args))
            except ray.exceptions.RayError as error:
                raise StageError(f"on a worker: {' '.join(str(error).split())[-400:]}") from error
