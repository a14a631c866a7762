"""Measuring tiles: real ones, of the real edge and kinds, on all workers of a run at once.

Each worker gets some of the images, keeps a store of its own in a temporary folder of its
machine, and computes its tiles with the ``TileWorker`` of a run, so that reading, preparing,
checking, compressing and writing count; beside a GPU, which computes meanwhile, writing counts only
where it takes longer. Cores share memory and clocks, so that all of them measure at the same time;
what the first tile costs more than the others is left out.
"""

from __future__ import annotations

import math
import os
import platform
import resource
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkdist.errors import InputError, StageError
from ntkdist.gram.autotile import LANE
from ntkdist.gram.executors.ray.cluster import actor_environment, cluster, cores, package_path
from ntkdist.gram.job import GramJob
from ntkdist.gram.states import state_bytes
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.gram.worker import TileRecord, TileWorker
from ntkdist.kernels.backend import get_backend

_FIRST = 5.0  # seconds; a first tile that takes more than that longer has compiled
_PATIENCE_SECONDS = 120.0  # for workers that a busy cluster has no room for


@dataclass(frozen=True)
class Probe:
    """What a worker has to measure: plain values, as they travel.

    Attributes:
        architecture: Canonical text of the network.
        backend: Name of the backend.
        dtype: Of the entries.
        kinds: Kinds of kernel.
        threads: Of one worker.
        edge: Of the tiles that are measured.
        seconds: How long to measure; one tile is finished whatever it takes.
    """

    architecture: str
    backend: str
    dtype: str
    kinds: tuple[str, ...]
    threads: int
    edge: int
    seconds: float


@dataclass(frozen=True)
class Measured:
    """What one worker found.

    Attributes:
        device: Model of its GPU or processor.
        host: Its machine.
        entry: Seconds of an entry of a full tile, states prepared.
        diagonal: Seconds of a diagonal tile by those of a full one.
        image: Seconds to prepare an image.
        first: Seconds of the first tile beyond the others, compiling left out.
        state_bytes: Of one prepared image.
        base_bytes: Resident memory of the process before its first tile.
        tiles: Full tiles measured.
        share: Of its cores' time that the worker had; 1 on a GPU.
    """

    device: str
    host: str
    entry: float
    diagonal: float
    image: float
    first: float
    state_bytes: float
    base_bytes: int
    tiles: int
    share: float = 1.0


def added_seconds(record: TileRecord, backend: str) -> float:
    """Return the seconds that a tile adds to the time of many.

    A GPU computes the next one while it is written; a core does both, one after the other.
    """
    if backend != "cuda":
        return record.seconds
    return max(record.computing, record.seconds - record.computing)


class TileProbe:
    """Measures tiles in this process, in a temporary folder that goes with it.

    Args:
        probe: What.
        images: (2·edge, H, W, C) float32.
    """

    def __init__(self, probe: Probe, images: np.ndarray) -> None:
        self._probe, self._images = probe, np.asarray(images)
        self._open = ExitStack()

    def start(self) -> bool:
        """Make the scratch store and compute a first tile, which may compile."""
        probe = self._probe
        folder = self._open.enter_context(tempfile.TemporaryDirectory(prefix="ntkdist-plan-"))
        job = _scratch_job(probe, self._images, folder)
        self._worker = TileWorker(job, "plan")
        self._worker.start()
        self._base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._first = added_seconds(self._worker.compute(TileKey(0, 1)), probe.backend)
        return True

    def measure(self) -> Measured:
        """Compute a diagonal tile, then full ones until the time is up."""
        probe = self._probe
        began, used = time.perf_counter(), time.process_time()
        on_diagonal = added_seconds(self._worker.compute(TileKey(0, 0)), probe.backend)
        full: list[float] = []
        while not full or time.perf_counter() - began < probe.seconds:
            full.append(added_seconds(self._worker.compute(TileKey(0, 1)), probe.backend))
        share = (time.process_time() - used) / (time.perf_counter() - began) / probe.threads
        image, size = self._prepare()
        return Measured(
            device_name(probe.backend, probe.threads),
            platform.node(),
            float(np.mean(full)) / probe.edge**2,
            min(1.0, on_diagonal / float(np.mean(full))),
            image,
            min(max(0.0, self._first - float(np.mean(full))), _FIRST),
            size,
            self._base,
            len(full),
            1.0 if probe.backend == "cuda" else min(1.0, share),
        )

    def _prepare(self) -> tuple[float, float]:
        """Return seconds and bytes of one prepared image."""
        from ntkdist.networks.architecture import Architecture

        probe = self._probe
        backend = get_backend(probe.backend, dtype=probe.dtype, threads=probe.threads)
        arch, images = Architecture.parse(probe.architecture), self._images[: probe.edge]
        began = time.perf_counter()
        state = backend.prepare(arch, images)
        seconds = time.perf_counter() - began
        return seconds / len(images), state_bytes(state) / len(images)

    def close(self) -> None:
        """Remove the folder."""
        self._open.close()


def device_name(backend: str, threads: int) -> str:
    """Return what a device class is called: the GPU's model, or the processor's and its threads."""
    if backend == "cuda":
        from ntkdist.kernels.cuda_device import devices

        # a worker sees its own GPU alone
        return next((device.name for device in devices()), "GPU")
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
        model = names[0] if names else model
    except OSError:
        pass
    return f"{model} core" if threads == 1 else f"{model}, {threads} threads"


def probe_edge(edge: int, n: int, rate: float, seconds: float) -> int:
    """Return the edge of tiles to measure: the real one, or what a third of the time allows."""
    most = min(edge, max(1, n // 2), max(1, int(math.sqrt(rate * seconds / 3))))
    return most if most == edge or most < LANE else most // LANE * LANE


def measure_here(probe: Probe, images: np.ndarray) -> tuple[list[Measured], float]:
    """Measure one worker in this process; returns it and the seconds of its start, 0."""
    measuring = TileProbe(probe, images)
    try:
        measuring.start()
        return [measuring.measure()], 0.0
    finally:
        measuring.close()


def measure_on_ray(
    probe: Probe, images: np.ndarray, *, workers: int | None, address: str | None
) -> tuple[list[Measured], float]:
    """Measure on Ray workers, all at once.

    Args:
        probe: What.
        images: For each of them.
        workers: How many; None takes all that the cluster has room for.
        address: Of a cluster; None starts one here.

    Returns:
        One result a worker that the cluster had room for, and the seconds that Ray and the
        workers took to start and to end.

    Raises:
        StageError: If no worker could measure.
    """
    gpus = 1 if probe.backend == "cuda" else 0
    environment = actor_environment(threads=probe.threads, gpus=gpus)
    count = workers or max(1, cores() // probe.threads)
    began = time.perf_counter()
    with cluster(
        address,
        cpus=max(cores(), count * probe.threads),
        gpus=0,
        environment=environment | package_path(),
    ) as (ray, local):
        options: dict[str, Any] = {"num_cpus": probe.threads, "num_gpus": gpus}
        if not local:
            options["runtime_env"] = {"env_vars": environment}
        count = workers or _room(ray, probe.threads, gpus)
        found, ready = _measure_all(ray, options, count, probe, images)
        start = ready - began
        ended = time.perf_counter()
    return found, start + time.perf_counter() - ended


def _room(ray: Any, threads: int, gpus: int) -> int:
    resources = ray.cluster_resources()
    room = int(resources.get("CPU", 0) // threads)
    return max(1, min(room, int(resources.get("GPU", 0)) // gpus) if gpus else room)


def _measure_all(
    ray: Any, options: dict[str, Any], count: int, probe: Probe, images: np.ndarray
) -> tuple[list[Measured], float]:
    """Start workers, let those that came measure together; also when they were ready."""
    shared = ray.put(np.ascontiguousarray(images))
    remote = ray.remote(TileProbe).options(**options)
    actors = [remote.remote(probe, shared) for _ in range(count)]
    try:
        first = [actor.__ray_ready__.remote() for actor in actors]
        came, _ = ray.wait(first, num_returns=count, timeout=_PATIENCE_SECONDS)
        ready = time.perf_counter()
        there = [actor for actor, ref in zip(actors, first, strict=True) if ref in set(came)]
        if not there:
            raise StageError(
                f"no worker of {probe.threads} CPU and {options['num_gpus']} GPU came within "
                f"{_PATIENCE_SECONDS:.0f} s; the cluster has {ray.cluster_resources()}"
            )
        ray.get([actor.start.remote() for actor in there])
        return ray.get([actor.measure.remote() for actor in there]), ready
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, InputError):
            raise cause from error
        raise StageError(f"on a worker: {' '.join(str(error).split())[-400:]}") from error
    finally:
        closing = [actor.close.remote() for actor in actors]
        ray.wait(closing, num_returns=len(closing), timeout=1.0)
        for actor in actors:
            ray.kill(actor, no_restart=True)


def _scratch_job(probe: Probe, images: np.ndarray, folder: str) -> GramJob:
    """Store the images and empty matrices in a folder, and return the job on them."""
    import zarr

    address = os.path.join(folder, "images")
    zarr.create_array(address, data=images, chunks=(min(256, len(images)), *images.shape[1:]))
    backend = get_backend(probe.backend, dtype=probe.dtype, threads=probe.threads)
    tiling = Tiling(len(images), probe.edge)
    outputs = tuple((kind, os.path.join(folder, kind)) for kind in probe.kinds)
    for kind, output in outputs:
        GramStore.create(output, tiling, fingerprint="plan", kind=kind, dtype=probe.dtype)
    return GramJob(
        images=address,
        architecture=probe.architecture,
        backend=probe.backend,
        arithmetic=backend.arithmetic,
        dtype=probe.dtype,
        outputs=outputs,
        edge=probe.edge,
        fingerprint="plan",
        threads=probe.threads,
    )
