"""The run that is asked for: whether it can be done here, and about how long it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ntkdist import storage
from ntkdist.cli.doctor.finding import Finding, size
from ntkdist.cli.doctor.machine import free_space, nearest
from ntkdist.cli.doctor.services import cluster_of
from ntkdist.config import RunConfig
from ntkdist.data.features import feature_words
from ntkdist.errors import InputError, StoreError
from ntkdist.gram.autotile import choose_edge
from ntkdist.gram.executors.ray.cluster import cores
from ntkdist.gram.store import GramStore
from ntkdist.kernels import Backend, cuda_device, get_backend, select_backend
from ntkdist.kernels.backend import coverage
from ntkdist.kernels.cuda_device import DeviceInfo, KernelReport
from ntkdist.linalg import parse_memory
from ntkdist.networks.architecture import Architecture
from ntkdist.runs.inputs import load_inputs, source_of
from ntkdist.runs.run import HALF_MADE, Run

_SAMPLE = 512  # images to measure with, as for the edge of a tile


def check_run(config: RunConfig, devices: list[DeviceInfo], *, quick: bool) -> Iterator[Finding]:
    """Yield what the run is, what computes it, what it takes, and a verdict.

    Args:
        config: The run.
        devices: GPUs that are visible.
        quick: Leave out the measurement, and with it the projected time.

    Yields:
        Findings.

    Raises:
        InputError: Where the run cannot be done: bad data, a network or backend that cannot be
            computed here, a place that cannot be written, or no room there for the Gram.
    """
    subject = Subject.of(config)
    n, *shape = subject.images.shape
    yield Finding("run", subject.about)
    if subject.is_features:
        yield Finding("features", f"{feature_words(n, shape[-1])}, {source_of(config.data)}")
    else:
        yield Finding("images", f"{' × '.join(map(str, (n, *shape)))}, {config.data.source}")
    choice = Choice.of(config, subject, len(devices))
    yield Finding("backend", choice.reason)
    simulated = choice.name == "cuda" and any(device.simulated for device in devices)
    if choice.name == "cuda" and choice.backend is not None and not simulated:
        arch = Architecture.parse(config.architecture)
        for report in cuda_device.kernel_reports(arch, subject.shape, config.gram.dtype):
            yield Finding("kernel", _describe_kernel(report))
    todo = missing_entries(subject.run, config, n)
    yield Finding("gram", _check_room(config, todo, free_space(config.run)))
    if simulated:
        yield Finding("time", "not measured; simulator: for tests, no speed")
    elif choice.backend is None:
        yield Finding(
            "time", f"not measured: the GPUs are those of the cluster {cluster_of(config)}"
        )
    elif quick:
        yield Finding("time", "not measured")
    elif todo:
        yield from _projection(config, subject, choice.backend, todo, choice.workers)
    yield Finding("verdict", "the run can be done here" if todo else "the Gram is done")


@dataclass(frozen=True)
class Subject:
    """What is to be computed.

    Attributes:
        run: The run, where it is there already.
        images: (N, H, W, C) float32, an array or a Zarr array; of features (N, 1, 1, D).
        about: One sentence.
        is_features: Whether these are features.
    """

    run: Run | None
    images: np.ndarray
    about: str
    is_features: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images."""
        _, H, W, C = self.images.shape
        return H, W, C

    @classmethod
    def of(cls, config: RunConfig) -> Subject:
        """Find the run, or read what a new one would store."""
        try:
            Run.open(config.run)
        except StoreError as error:
            raise InputError(str(error)) from error
        except InputError as error:
            _check_new_place(config.run, error)
            inputs = load_inputs(config)
            return cls(None, inputs.images, f"{config.run}: new", inputs.is_features)
        run = Run.create(config)  # there already: this refuses other settings and writes nothing
        about = f"{run.url} ({run.fingerprint[:12]}), created {run.manifest.created}"
        images = run.array("inputs", "images")
        return cls(run, images, about, run.manifest.is_features)  # type: ignore[arg-type]


def _check_new_place(url: str, why_no_run: InputError) -> None:
    """Raise ``InputError`` unless a new run can be written at ``url``; writes nothing."""
    if os.path.isfile(url):
        raise InputError(f"{url}: is a file; give a folder for the run")
    if not set(storage.children(url)) <= HALF_MADE:
        raise InputError(f"{why_no_run}; the folder is not empty: a new run needs another --run")
    if storage.local_path(url) is None:
        return
    place = nearest(url)
    if not place.is_dir():
        raise InputError(f"{url}: {place} is a file; give a folder for the run")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{url}: cannot be written; give another --run or change its rights")


@dataclass(frozen=True)
class Choice:
    """The backend that workers would take.

    Attributes:
        name: Its name.
        reason: Why it is taken.
        backend: It itself; None where the workers' machines have GPUs and this one has none.
        workers: How many there would be on this machine.
    """

    name: str
    reason: str
    backend: Backend | None
    workers: int

    @classmethod
    def of(cls, config: RunConfig, subject: Subject, gpus: int) -> Choice:
        """Choose as ``Run.create`` and the Gram stage do."""
        settings = config.gram
        inline = settings.executor == "inline"
        threads = settings.threads
        if threads == "auto":
            threads = cores() if inline else 1
        arch = Architecture.parse(config.architecture)
        elsewhere = cluster_of(config) is not None and cuda_device.cuda_unavailable() is not None
        backend = None
        if subject.run is not None:
            manifest = subject.run.manifest
            name, reason = manifest.backend, manifest.reason
            if settings.mix_backends and settings.backend not in ("auto", name):
                name, reason = settings.backend, f"{settings.backend}: beside {name}, as asked"
        elif settings.backend == "cuda" and elsewhere:
            if arch.is_spatial:
                arch.check_image(*subject.shape[:2])
            if why_not := coverage("cuda", arch, subject.shape):
                raise InputError(f"backend 'cuda' cannot compute this: {why_not}; take auto")
            name, reason = "cuda", "cuda: asked for by name, on the workers' GPUs"
        else:
            chosen = select_backend(
                arch, subject.shape, name=settings.backend, dtype=settings.dtype, threads=threads
            )
            name, reason, backend = chosen.backend.name, chosen.reason, chosen.backend
        if backend is None and not (name == "cuda" and elsewhere):
            backend = get_backend(name, dtype=settings.dtype, threads=threads)
        workers = gpus if name == "cuda" else max(1, cores() // threads)
        if settings.workers != "auto":
            workers = min(settings.workers, workers)
        return cls(name, reason, backend, 1 if inline else workers)


def missing_entries(run: Run | None, config: RunConfig, n: int) -> int:
    """Count the entries that are still to be computed; all kinds come out of one pass.

    Args:
        run: The run, or None for a new one.
        config: Its configuration.
        n: Images.

    Returns:
        Of a new run N(N + 1)/2; else those of the tiles that are missing for some kind.
    """
    whole = n * (n + 1) // 2
    if run is None:
        return whole
    tiles = {}
    for kind in config.gram.kinds:
        address = run.address("gram", kind)
        if not GramStore.exists(address):
            return whole
        store = GramStore.open(address, "r", run.fingerprint)
        for key in store.missing():
            rows, cols = store.tiling.tile_shape(key)
            tiles[key] = rows * (rows + 1) // 2 if key.row == key.col else rows * cols
    return sum(tiles.values())


def _check_room(config: RunConfig, todo: int, free: int | None) -> str:
    """Say what the missing entries take; raises ``InputError`` where there is no room."""
    needed = todo * np.dtype(config.gram.dtype).itemsize * len(config.gram.kinds)
    said = f"{todo:,} entries to compute, at most {size(needed)} to store"
    if free is not None and needed > free:
        raise InputError(
            f"{config.run}: the Gram takes up to {size(needed)}, {size(free)} are free there; "
            "give a --run with more room, or fewer images by --data.n"
        )
    return said


def _projection(
    config: RunConfig, subject: Subject, backend: Backend, todo: int, workers: int
) -> Iterator[Finding]:
    n = subject.images.shape[0]
    choice = choose_edge(
        backend,
        Architecture.parse(config.architecture),
        np.asarray(subject.images[: min(n, _SAMPLE)]),
        n,
        memory=parse_memory(config.gram.memory),
        workers=workers,
        kinds=config.gram.kinds,
    )
    rate = choice.entries_per_second
    who = "GPU" if backend.name == "cuda" else "process" if backend.threads > 1 else "core"
    yield Finding("rate", f"{rate:,.4g} entries/s measured on one {who}, {backend.name} backend")
    what = f"{workers} {who if workers == 1 else {'process': 'processes'}.get(who, who + 's')}"
    cluster = cluster_of(config)
    where = f"; the cluster {cluster} may have others" if cluster else ""
    yield Finding("time", f"about {_duration(todo / rate / workers)} for the Gram on {what}{where}")


def _describe_kernel(report: KernelReport) -> str:
    return (
        f"{report.name}: {report.threads} threads a block ({report.shape}), "
        f"{report.registers} registers, {report.local} bytes a thread spilled, "
        f"{report.shared} bytes of shared memory, {report.blocks} blocks a multiprocessor, "
        f"occupancy {report.occupancy:.0%}"
    )


def _duration(seconds: float) -> str:
    """Return seconds as hours, with seconds or minutes beside where those say more."""
    hours = f"{seconds / 3600:.2g} hours"
    if seconds < 120:
        return f"{seconds:.2g} seconds ({hours})"
    return (
        f"{seconds / 60:.0f} minutes ({hours})" if seconds < 7200 else f"{seconds / 3600:.3g} hours"
    )
