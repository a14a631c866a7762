"""How fast the devices of a run compute its tiles: measured here or on its cluster, or given.

Each worker gets some of the images, keeps a store of its own in a temporary folder of its machine,
and computes its tiles with the ``TileWorker`` of a run, so that reading, preparing, checking,
compressing and writing count; beside a GPU, which computes meanwhile, writing counts only where it
takes longer. Cores share memory and clocks, so that all of them measure at the same time; what the
first tile costs more than the others is left out.
"""

from __future__ import annotations

import functools
import heapq
import math
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ntkdist.errors import NtkdistError, StageError
from ntkdist.gram.autotile import LANE, choose_edge_there
from ntkdist.gram.executors.cluster import actor_environment, cluster, cores, package_path
from ntkdist.gram.executors.ray import RayExecutor
from ntkdist.gram.executors.scheduler import RowQueue
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.gram.worker import GramJob, TileRecord, TileWorker, state_bytes
from ntkdist.kernels.backend import Backend
from ntkdist.kernels.cuda import device as cuda_device
from ntkdist.kernels.registry import coverage, get_backend
from ntkdist.linalg import parse_memory
from ntkdist.networks.architecture import Architecture
from ntkdist.planning.planned_run import SAMPLE, PlannedRun
from ntkdist.storage.arrays import write_array
from ntkdist.words import percent

_FIRST = 5.0  # seconds; a first tile that takes more than that longer has compiled
_PATIENCE_SECONDS = 120.0  # for workers that a busy cluster has no resources for


@dataclass(frozen=True)
class Probe:
    """What a worker has to measure: plain values, as they travel, named as in ``GramJob``.

    Attributes:
        seconds: How long to measure; one tile is finished whatever it takes.
    """

    architecture: str
    backend: str
    dtype: str
    invariance: str
    kinds: tuple[str, ...]
    threads: int
    edge: int
    seconds: float

    def make_backend(self) -> Backend:
        """Create the backend."""
        return get_backend(
            self.backend, dtype=self.dtype, threads=self.threads, invariance=self.invariance
        )


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
        probe = self._probe
        backend = probe.make_backend()
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
        from ntkdist.kernels.cuda.device import devices

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

    Returns:
        One result a worker that the cluster had resources for, and the seconds that Ray and the
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
        measured, ready = _measure_all(ray, options, count, probe, images)
        start = ready - began
        ended = time.perf_counter()
    return measured, start + time.perf_counter() - ended


def _room(ray: Any, threads: int, gpus: int) -> int:
    resources = ray.cluster_resources()
    fitting = int(resources.get("CPU", 0) // threads)
    return max(1, min(fitting, int(resources.get("GPU", 0)) // gpus) if gpus else fitting)


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
        if isinstance(cause, NtkdistError):
            raise cause from error
        raise StageError(f"on a worker: {' '.join(str(error).split())[-400:]}") from error
    finally:
        closing = [actor.close.remote() for actor in actors]
        ray.wait(closing, num_returns=len(closing), timeout=1.0)
        for actor in actors:
            ray.kill(actor, no_restart=True)


def _scratch_job(probe: Probe, images: np.ndarray, folder: str) -> GramJob:
    """Store the images and empty matrices in a folder, and return the job on them."""
    address = os.path.join(folder, "images")
    write_array(address, images)
    tiling = Tiling(len(images), probe.edge)
    outputs = tuple((kind, os.path.join(folder, kind)) for kind in probe.kinds)
    for kind, output in outputs:
        GramStore.create(output, tiling, fingerprint="plan", kind=kind, dtype=probe.dtype)
    return GramJob(
        images=address,
        architecture=probe.architecture,
        backend=probe.backend,
        arithmetic=probe.make_backend().arithmetic,
        dtype=probe.dtype,
        invariance=probe.invariance,
        outputs=outputs,
        edge=probe.edge,
        fingerprint="plan",
        threads=probe.threads,
    )


_COPIES = 3  # of a block: the backend's, the store's, the compressed one
_COMPILES = 10.0  # seconds beyond which choosing an edge has compiled, which a later one does not
_BUSY = 0.85  # of its cores' time that a worker has if no other program wants much
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class WorkerGroup:
    """Workers that compute the Gram together.

    Attributes:
        name: Their class.
        source: Where their speed is from.
        backend: Theirs; empty where the speed is given.
        costs: Of each of them.
        start: Seconds until they take tiles, and to end them.
        memory: Bytes of one worker.
        share: Of their cores' time that the workers had on average while they were measured.
    """

    name: str
    source: str
    backend: str
    costs: tuple[TileCost, ...]
    start: float
    memory: int
    share: float = 1.0

    @property
    def entry(self) -> float:
        """Seconds of an entry on one worker, on average over their rates."""
        return 1.0 / float(np.mean([1.0 / cost.entry for cost in self.costs]))

    def of(self, count: int) -> WorkerGroup:
        """Return so many workers, each as fast as these are on average."""
        return replace(self, costs=(replace(self.costs[0], entry=self.entry),) * count)


@dataclass(frozen=True)
class TileEdge:
    """The edge of a run's tiles.

    Attributes:
        edge: Rows and columns.
        rate: Entries a second of one worker, roughly.
        seconds: What the run takes to choose it; 0 where it is stored or asked for.
    """

    edge: int
    rate: float
    seconds: float


def timed(function: Callable[[], _Found]) -> tuple[_Found, float]:
    """Return what a function returns, and its seconds."""
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def choose_tile(planned: PlannedRun) -> TileEdge:
    """Choose the edge as the Gram stage does, by a measurement of the same kind.

    Raises:
        InputError: Where a worker's memory holds no tile.
    """
    settings, n = planned.config.gram, planned.n
    on_gpu = planned.backend == "cuda"
    workers = settings.workers
    if settings.executor == "inline":
        workers = 1
    elif workers == "auto":
        workers = max(1, cuda_device.usable_gpus()) if on_gpu else cores()
    measure = functools.partial(
        choose_edge_there,
        planned.backend,
        settings.dtype,
        settings.invariance,
        planned.config.architecture,
        planned.some(max(2, min(n, SAMPLE))),
        n=n,
        memory=parse_memory(settings.memory),
        workers=int(workers),
        kinds=settings.kinds,
    )
    if on_gpu and settings.executor == "ray":  # in a process that ends, as the Gram stage does
        executor = RayExecutor(settings.workers, settings.address, num_gpus=1)
        choice, seconds = timed(lambda: executor.call(measure))
    else:
        choice, seconds = timed(measure)
        if seconds > _COMPILES:
            choice, seconds = timed(measure)
    stored = planned.stored_edge()
    if stored is not None:
        return TileEdge(stored, choice.entries_per_second, 0.0)
    if settings.tile != "auto":
        edge = Tiling.from_target(n, settings.tile).edge
        return TileEdge(edge, choice.entries_per_second, 0.0)
    return TileEdge(choice.edge, choice.entries_per_second, seconds)


def measure_groups(planned: PlannedRun, choice: TileEdge, seconds: float) -> list[WorkerGroup]:
    """Measure each class of devices that is here, or on the run's cluster."""
    groups = _groups(planned, planned.backend, choice, seconds, planned.config.gram.workers)
    other = _other_backend(planned)
    if other is not None:
        groups += _groups(planned, other, choice, seconds, "auto")
    return groups


def given_group(name: str, rate: float, like: WorkerGroup, count: int) -> WorkerGroup:
    """Return workers of a class that is not here, at the rate that the user gives."""
    cost = TileCost(1.0 / rate, like.costs[0].diagonal)
    return WorkerGroup(name, "rate given", "", (cost,) * count, like.start, like.memory)


def idle_group(planned: PlannedRun) -> WorkerGroup:
    """Return one worker that has nothing to compute; its rate is not known."""
    cost = TileCost(float("nan"), 1.0)
    return WorkerGroup("this machine", "nothing to compute", planned.backend, (cost,), 0.0, 0)


def _groups(
    planned: PlannedRun, backend: str, choice: TileEdge, seconds: float, workers: int | str
) -> list[WorkerGroup]:
    settings, n = planned.config.gram, planned.n
    inline = settings.executor == "inline"
    threads = settings.threads
    if threads == "auto":
        threads = cores() if inline else 1
    edge = probe_edge(choice.edge, n, choice.rate, seconds)
    probe = Probe(
        planned.config.architecture,
        backend,
        settings.dtype,
        settings.invariance,
        settings.kinds,
        threads,
        edge,
        seconds,
    )
    images = planned.some(2 * edge)
    if inline:
        measured, start = measure_here(probe, images)
    else:
        count = workers if isinstance(workers, int) else None
        measured, start = measure_on_ray(probe, images, workers=count, address=settings.address)
    address = None if inline else _address(planned)
    source = "measured here" if address is None else f"measured on {address}"
    models = sorted({one.device for one in measured})
    by_model = [[one for one in measured if one.device == model] for model in models]
    groups = [_group(same, source, backend, start, planned, choice.edge) for same in by_model]
    if len(groups) < 2:
        return groups
    costs = tuple(cost for group in groups for cost in group.costs)
    name = " and ".join(f"{len(group.costs)} × {group.name}" for group in groups)
    memory = max(group.memory for group in groups)
    share = float(np.mean([one.share for one in measured]))
    return [WorkerGroup(name, source, backend, costs, start, memory, share), *groups]


def _group(
    group: Sequence[Measured],
    source: str,
    backend: str,
    start: float,
    planned: PlannedRun,
    edge: int,
) -> WorkerGroup:
    n, settings = planned.n, planned.config.gram
    states = max(one.state_bytes for one in group)
    cache = GramJob.cache_bytes
    costs = tuple(
        TileCost(one.entry, one.diagonal, one.image, kept=one.state_bytes * n <= cache)
        for one in group
    )
    item = np.dtype(settings.dtype).itemsize
    blocks = _COPIES * len(settings.kinds) * item * edge**2
    memory = max(one.base_bytes for one in group) + blocks
    memory += int(max(2 * edge * states, min(states * n, cache)))
    start += max(one.first for one in group)
    share = float(np.mean([one.share for one in group]))
    return WorkerGroup(group[0].device, source, backend, costs, start, memory, share)


def _other_backend(planned: PlannedRun) -> str | None:
    """Return the backend of the devices that the run leaves out, where there are such."""
    if planned.config.gram.executor == "inline" or planned.backend not in ("cpu", "cuda"):
        return None
    other = "cpu" if planned.backend == "cuda" else "cuda"
    if other == "cuda" and not _gpus(_address(planned)):
        return None
    _, H, W, C = planned.images.shape
    return other if coverage(other, planned.arch, (int(H), int(W), int(C))) is None else None


def _gpus(address: str | None) -> bool:
    """Return whether there are GPUs, here or on the cluster."""
    if address is None:
        return cuda_device.usable_gpus() > 0
    with cluster(address, cpus=1, gpus=0, environment=package_path()) as (ray, _):
        return bool(ray.cluster_resources().get("GPU"))


def _address(planned: PlannedRun) -> str | None:
    """Return the address of the cluster that the workers run on, if they do not run here."""
    address = planned.config.gram.address or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def busy(group: WorkerGroup) -> str | None:
    """Return a warning where other programs had the cores that were measured."""
    if group.share >= _BUSY:
        return None
    share = percent(group.share, 0)
    return (
        f"other programs ran meanwhile: the workers had {share} of their cores; alone the tiles "
        f"would take about {share} of the time given, and the rest less too"
    )


_PLAYED = 20_000  # tiles; of more, the last ones that leave workers idle are next to nothing


@dataclass(frozen=True)
class TileCost:
    """What tiles cost one worker.

    Attributes:
        entry: Seconds of an entry, writing included.
        diagonal: Seconds of a diagonal tile by those of a full one; a half and a little.
        image: Seconds to prepare one image.
        kept: Whether a worker keeps the prepared states of all images, or has to prepare the
            columns of each tile.
    """

    entry: float
    diagonal: float = 0.5
    image: float = 0.0
    kept: bool = True

    def seconds(self, tiling: Tiling, key: TileKey) -> float:
        """Return the seconds of one tile."""
        rows, cols = tiling.tile_shape(key)
        on_diagonal = tiling.symmetric and key.row == key.col
        seconds = rows * cols * self.entry * (self.diagonal if on_diagonal else 1.0)
        return seconds if self.kept else seconds + cols * self.image

    def once(self, tiling: Tiling) -> float:
        """Return the seconds that every worker takes to prepare the images it keeps."""
        return tiling.n_rows * self.image if self.kept else 0.0


def gram_seconds(tiling: Tiling, missing: Sequence[TileKey], costs: Sequence[TileCost]) -> float:
    """Return the seconds from the first tile handed out to the last one stored."""
    if not missing:
        return 0.0
    if len(missing) > _PLAYED:
        return _on_average(tiling, missing, costs)
    queue = RowQueue(missing)
    free = [(cost.once(tiling), worker) for worker, cost in enumerate(costs)]
    heapq.heapify(free)
    end = 0.0
    while len(queue):
        now, worker = heapq.heappop(free)
        key = queue.take(worker)
        if key is None:
            break
        now += costs[worker].seconds(tiling, key)
        end = max(end, now)
        heapq.heappush(free, (now, worker))
    return end


def _on_average(tiling: Tiling, missing: Sequence[TileKey], costs: Sequence[TileCost]) -> float:
    """Return all tiles by the joint rate, and half a tile for the wait for the last one."""
    diagonal = sum(key.row == key.col for key in missing) if tiling.symmetric else 0
    full = TileKey(0, tiling.grid[1] - 1 if tiling.grid[1] < 2 else 1)
    rate = last = once = 0.0
    for cost in costs:
        seconds = cost.seconds(tiling, full)
        work = (len(missing) - diagonal) * seconds
        if diagonal:
            work += diagonal * cost.seconds(tiling, TileKey(0, 0))
        rate += 1.0 / work
        last, once = max(last, seconds), max(once, cost.once(tiling))
    return once + 1.0 / rate + last / 2
