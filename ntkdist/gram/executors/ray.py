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
from ntkdist.gram.events import Interrupted
from ntkdist.gram.executors import ExecutorSummary
from ntkdist.gram.executors._actors import Actors, Team
from ntkdist.gram.executors._cluster import actor_environment, cluster, cores, package_path
from ntkdist.gram.executors._handout import Ledger
from ntkdist.gram.job import GramJob
from ntkdist.gram.tiling import TileKey
from ntkdist.kernels.backend import arithmetic_of

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.25  # how late a signal is noticed
_GROW_SECONDS = 5.0  # how late a node that joined is noticed
_PATIENCE_SECONDS = 60.0


class RayExecutor:
    """Computes tiles with Ray actors.

    Args:
        workers: How many actors; ``auto`` takes every core (or GPU) of the cluster,
            those that join later too. A job that mixes backends gets cpu actors on cores
            that are left beside them.
        address: Of a running cluster; None starts one on this machine (or takes
            RAY_ADDRESS, or the Ray this process has already initialised).
        threads: Threads, and Ray CPUs, of one actor; None takes the job's.
        num_gpus: GPUs of one actor.
        max_in_flight: Tiles one actor has at a time, the one it computes included.
        retries: How often a tile that raised, or died with its worker, is tried again.
        max_losses: Deaths in a row, without a tile finished in between, after which a
            worker is given up.

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
    ) -> None:
        if workers != "auto" and (not isinstance(workers, int) or workers < 1):
            raise InputError(f"workers={workers!r} must be 'auto' or at least 1")
        for field, value, least in (
            ("threads", threads, 1),
            ("num_gpus", num_gpus, 0),
            ("max_in_flight", max_in_flight, 1),
            ("retries", retries, 0),
            ("max_losses", max_losses, 1),
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
            teams = [Team("w", job, resources)]
            if job.mix and self._num_gpus:
                teams.append(_cpu_team(job, threads))
            ledger = Ledger(keys, emit, retries=self._retries)
            actors = Actors(ray, ledger, emit, max_losses=self._max_losses)
            try:
                self._drive(ray, actors, teams, ledger, emit, stop, threads, len(keys))
            finally:
                actors.close()
        return ledger.summary()

    def _drive(
        self,
        ray: Any,
        actors: Actors,
        teams: Sequence[Team],
        ledger: Ledger,
        emit: Callable[[Any], None],
        stop: threading.Event,
        threads: int,
        tiles: int,
    ) -> None:
        for team, room in zip(teams, self._room(ray, threads), strict=False):
            actors.add(min(tiles - len(actors.slots), room), team)
        told = False
        begun = grown = time.monotonic()
        while actors.in_flight() or (ledger.waiting and not stop.is_set()):
            if stop.is_set():
                if not told:
                    signal = getattr(stop, "signal", "")
                    emit(Interrupted(signal, tuple(map(str, actors.in_flight()))))
                    told = True
            else:
                actors.feed(self._max_in_flight)
            actors.poll(_POLL_SECONDS)
            if not actors.slots:
                raise StageError(
                    f"no worker is left, {ledger.waiting} tiles are missing: {actors.last_reason}"
                )
            now = time.monotonic()
            if now - grown >= _GROW_SECONDS:
                grown = now
                if self._wanted == "auto" and not stop.is_set():
                    for team, room in zip(teams, self._room(ray, threads), strict=False):
                        more = min(ledger.waiting, room - actors.count(team))
                        actors.add(max(0, more), team)
            if now - begun >= _PATIENCE_SECONDS and not any(slot.ready for slot in actors.slots):
                begun = now
                _log.warning(
                    "no worker has started yet: each asks the cluster for %d CPU and %g GPU,"
                    " which has %s; add nodes that have them, or take another --gram.backend",
                    threads,
                    self._num_gpus,
                    ray.cluster_resources(),
                )

    def _room(self, ray: Any, threads: int) -> tuple[int, int]:
        """Return how many workers to have on the cluster as it is now, and cpu actors beside."""
        resources = ray.cluster_resources()
        cpus = int(resources.get("CPU", 0) // threads)
        room = cpus
        if isinstance(self._wanted, int):
            room = self._wanted
        elif self._num_gpus:
            room = min(room, int(resources.get("GPU", 0) / self._num_gpus))
        room = max(1, room)
        return room, max(0, cpus - room)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function once on a worker's node, with a worker's resources.

        Args:
            function: Of this package, importable on every node.
            args: Its arguments, which travel through Ray.

        Returns:
            What it returns.

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
            try:
                return ray.get(ray.remote(function).options(**options).remote(*args))
            except ray.exceptions.RayError as error:
                raise StageError(f"on a worker: {' '.join(str(error).split())[-400:]}") from error


def _cpu_team(job: GramJob, threads: int) -> Team:
    """Return workers for the cores beside the GPUs."""
    environment = actor_environment(threads=threads, gpus=0) | {"CUDA_VISIBLE_DEVICES": ""}
    return Team(
        "c",
        dataclasses.replace(job, backend="cpu", arithmetic=arithmetic_of("cpu")),
        {"num_cpus": threads, "num_gpus": 0, "runtime_env": {"env_vars": environment}},
    )
