"""Classes of devices: which there are for a run, here or on its cluster, and how fast they are."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ntkdist.gram.autotile import choose_edge_there
from ntkdist.gram.executors.ray.cluster import cluster, cores, package_path
from ntkdist.gram.executors.ray.executor import RayExecutor
from ntkdist.gram.job import GramJob
from ntkdist.gram.tiling import Tiling
from ntkdist.kernels import cuda_device
from ntkdist.kernels.backend import coverage
from ntkdist.linalg import parse_memory
from ntkdist.planning.schedule import TileCost
from ntkdist.planning.subject import SAMPLE, Subject
from ntkdist.planning.tiles import (
    Measured,
    Probe,
    measure_here,
    measure_on_ray,
    probe_edge,
)

_COPIES = 3  # of a block: the backend's, the store's, the compressed one
_COMPILES = 10.0  # seconds beyond which choosing an edge has compiled, which a later one does not
_BUSY = 0.85  # of its cores' time that a worker has if no other program wants much
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Crew:
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

    def of(self, count: int) -> Crew:
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
    found = function()
    return found, time.perf_counter() - began


def choose_tile(subject: Subject) -> TileEdge:
    """Choose the edge as the Gram stage does, by a measurement of the same kind.

    Raises:
        InputError: Where a worker's memory holds no tile.
    """
    settings, n = subject.config.gram, subject.n
    on_gpu = subject.backend == "cuda"
    there = on_gpu and cuda_device.cuda_unavailable() is not None
    workers = settings.workers
    if settings.executor == "inline":
        workers = 1
    elif workers == "auto":
        workers = max(1, len(cuda_device.devices())) if on_gpu else cores()
    measure = functools.partial(
        choose_edge_there,
        subject.backend,
        settings.dtype,
        subject.config.architecture,
        subject.some(max(2, min(n, SAMPLE))),
        n=n,
        memory=parse_memory(settings.memory),
        workers=int(workers),
        kinds=settings.kinds,
    )
    if there:
        executor = RayExecutor(settings.workers, settings.address, num_gpus=1)
        choice, seconds = timed(lambda: executor.call(measure))
    else:
        choice, seconds = timed(measure)
        if seconds > _COMPILES:
            choice, seconds = timed(measure)
    stored = subject.stored_edge()
    if stored is not None:
        return TileEdge(stored, choice.entries_per_second, 0.0)
    if settings.tile != "auto":
        edge = Tiling.from_target(n, settings.tile).edge
        return TileEdge(edge, choice.entries_per_second, 0.0)
    return TileEdge(choice.edge, choice.entries_per_second, seconds)


def measure_crews(subject: Subject, choice: TileEdge, seconds: float) -> list[Crew]:
    """Measure each class of devices that is here, or on the run's cluster.

    Args:
        subject: The run.
        choice: The edge of its tiles.
        seconds: How long each class is measured.

    Returns:
        The run's own workers first; where they are of several models each model apart after
        them; then the other kind of device (cores beside GPUs) where there is one.
    """
    crews = _crews(subject, subject.backend, choice, seconds, subject.config.gram.workers)
    other = _other_backend(subject)
    if other is not None:
        crews += _crews(subject, other, choice, seconds, "auto")
    return crews


def given_crew(name: str, rate: float, like: Crew, count: int) -> Crew:
    """Return workers of a class that is not here, at the rate that the user gives."""
    cost = TileCost(1.0 / rate, like.costs[0].diagonal)
    return Crew(name, "rate given", "", (cost,) * count, like.start, like.memory)


def idle_crew(subject: Subject) -> Crew:
    """Return one worker that has nothing to compute; its rate is not known."""
    cost = TileCost(float("nan"), 1.0)
    return Crew("this machine", "nothing to compute", subject.backend, (cost,), 0.0, 0)


def _crews(
    subject: Subject, backend: str, choice: TileEdge, seconds: float, workers: int | str
) -> list[Crew]:
    settings, n = subject.config.gram, subject.n
    inline = settings.executor == "inline"
    threads = settings.threads
    if threads == "auto":
        threads = cores() if inline else 1
    edge = probe_edge(choice.edge, n, choice.rate, seconds)
    probe = Probe(
        subject.config.architecture,
        backend,
        settings.dtype,
        settings.kinds,
        threads,
        edge,
        seconds,
    )
    images = subject.some(2 * edge)
    if inline:
        found, start = measure_here(probe, images)
    else:
        count = workers if isinstance(workers, int) else None
        found, start = measure_on_ray(probe, images, workers=count, address=settings.address)
    address = None if inline else _address(subject)
    source = "measured here" if address is None else f"measured on {address}"
    models = sorted({one.device for one in found})
    groups = [[one for one in found if one.device == model] for model in models]
    crews = [_crew(group, source, backend, start, subject, choice.edge) for group in groups]
    if len(crews) < 2:
        return crews
    costs = tuple(cost for crew in crews for cost in crew.costs)
    name = " and ".join(f"{len(crew.costs)} × {crew.name}" for crew in crews)
    memory = max(crew.memory for crew in crews)
    share = float(np.mean([one.share for one in found]))
    return [Crew(name, source, backend, costs, start, memory, share), *crews]


def _crew(
    group: Sequence[Measured], source: str, backend: str, start: float, subject: Subject, edge: int
) -> Crew:
    n, settings = subject.n, subject.config.gram
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
    return Crew(group[0].device, source, backend, costs, start, memory, share)


def _other_backend(subject: Subject) -> str | None:
    """Return the backend of the devices that the run leaves out, where there are such."""
    if subject.config.gram.executor == "inline" or subject.backend not in ("cpu", "cuda"):
        return None
    other = "cpu" if subject.backend == "cuda" else "cuda"
    if other == "cuda" and not _gpus(_address(subject)):
        return None
    _, H, W, C = subject.images.shape
    return other if coverage(other, subject.arch, (int(H), int(W), int(C))) is None else None


def _gpus(address: str | None) -> bool:
    """Return whether there are GPUs, here or on the cluster."""
    if address is None:
        return any(not device.simulated for device in cuda_device.devices())
    with cluster(address, cpus=1, gpus=0, environment=package_path()) as (ray, _):
        return bool(ray.cluster_resources().get("GPU"))


def _address(subject: Subject) -> str | None:
    """Return the address of the cluster that the workers run on, if they do not run here."""
    address = subject.config.gram.address or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def busy(crew: Crew) -> str | None:
    """Return a warning where other programs had the cores that were measured."""
    if crew.share >= _BUSY:
        return None
    return (
        f"other programs were at work: the workers had {crew.share:.0%} of their cores; alone the "
        f"tiles would take about {crew.share:.0%} of the time said, and the rest less too"
    )
