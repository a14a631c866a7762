"""The run that is asked for: whether it can be done here, and about how long it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from ntkdist import storage
from ntkdist.cli.doctor.finding import Finding
from ntkdist.cli.doctor.machine import free_space, nearest
from ntkdist.cli.doctor.services import cluster_of
from ntkdist.config import RunConfig
from ntkdist.data.features import feature_words
from ntkdist.errors import InputError, StoreError
from ntkdist.gram.autotile import choose_edge
from ntkdist.gram.executors.ray.cluster import cores
from ntkdist.kernels import get_backend
from ntkdist.kernels.cuda import device as cuda_device
from ntkdist.kernels.cuda.device import DeviceInfo, KernelReport
from ntkdist.linalg import parse_memory
from ntkdist.pipeline.gram import threads_of
from ntkdist.planning.planned_run import SAMPLE, PlannedRun
from ntkdist.runs.inputs import source_of
from ntkdist.runs.run import HALF_MADE, Run
from ntkdist.words import format_bytes, rough_duration


def check_run(config: RunConfig, devices: list[DeviceInfo], *, quick: bool) -> Iterator[Finding]:
    """Yield what the run is, what computes it, what it takes, and a verdict.

    Raises:
        InputError: Where the run cannot be done: bad data, a network or backend that cannot be
            computed here, a place that cannot be written, or no room there for the Gram.
    """
    _check_place(config)
    planned = PlannedRun.of(config)
    run = planned.run
    about = f"{config.run}: new"
    if run is not None:
        about = f"{run.url} ({run.fingerprint[:12]}), created {run.manifest.created}"
    yield Finding("run", about)
    if planned.is_features:
        yield Finding("features", f"{feature_words(*planned.shape)}, {source_of(config.data)}")
    else:
        yield Finding("images", f"{' × '.join(map(str, planned.shape))}, {config.data.source}")
    yield Finding("backend", planned.reason)
    on_gpu = planned.backend == "cuda"
    elsewhere = on_gpu and bool(cluster_of(config)) and cuda_device.cuda_unavailable() is not None
    if on_gpu and not elsewhere:
        for report in cuda_device.kernel_reports(
            planned.arch, planned.image_shape, config.gram.dtype
        ):
            yield Finding("kernel", _describe_kernel(report))
    entries = planned.missing_entries()
    yield Finding("gram", _check_room(config, entries, free_space(config.run)))
    if elsewhere:
        yield Finding(
            "time", f"not measured: the GPUs are those of the cluster {cluster_of(config)}"
        )
    elif quick:
        yield Finding("time", "not measured")
    elif entries:
        yield from _projection(planned, entries, len(devices))
    yield Finding("verdict", "the run can be done here" if entries else "the Gram is done")


def _check_place(config: RunConfig) -> None:
    """Raise ``InputError`` unless a run is, or can be written, at the address; writes nothing."""
    url = config.run
    try:
        if Run.find(config) is not None:
            return
    except StoreError as error:
        raise InputError(str(error)) from error
    if os.path.isfile(url):
        raise InputError(f"{url}: is a file; give a folder for the run")
    if not set(storage.children(url)) <= HALF_MADE:
        raise InputError(f"{url}: is a folder with other things in it; give a new or empty one")
    if storage.local_path(url) is None:
        return
    place = nearest(url)
    if not place.is_dir():
        raise InputError(f"{url}: {place} is a file; give a folder for the run")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{url}: cannot be written; give another --run or change its rights")


def _check_room(config: RunConfig, todo: int, free: int | None) -> str:
    """Say what the missing entries take; raises ``InputError`` where there is no room."""
    needed = todo * np.dtype(config.gram.dtype).itemsize * len(config.gram.kinds)
    said = f"{todo:,} entries to compute, at most {format_bytes(needed)} to store"
    if free is not None and needed > free:
        raise InputError(
            f"{config.run}: the Gram takes up to {format_bytes(needed)}, {format_bytes(free)} are "
            "free there; give a --run with more space, or fewer images by --data.n"
        )
    return said


def _projection(planned: PlannedRun, entries: int, gpus: int) -> Iterator[Finding]:
    """Measure entries a second on one worker, and yield the time of the Gram on all of them."""
    config, settings = planned.config, planned.config.gram
    threads = threads_of(config)
    backend = get_backend(planned.backend, dtype=settings.dtype, threads=threads)
    workers = gpus if planned.backend == "cuda" else max(1, cores() // threads)
    if settings.workers != "auto":
        workers = min(settings.workers, workers)
    if settings.executor == "inline":
        workers = 1
    choice = choose_edge(
        backend,
        planned.arch,
        planned.some(min(planned.n, SAMPLE)),
        planned.n,
        memory=parse_memory(settings.memory),
        workers=workers,
        kinds=settings.kinds,
    )
    rate = choice.entries_per_second
    who = "GPU" if backend.name == "cuda" else "process" if backend.threads > 1 else "core"
    yield Finding("rate", f"{rate:,.4g} entries/s measured on one {who}, {backend.name} backend")
    what = f"{workers} {who if workers == 1 else {'process': 'processes'}.get(who, who + 's')}"
    cluster = cluster_of(config)
    where = f"; the cluster {cluster} may have others" if cluster else ""
    time = rough_duration(entries / rate / workers)
    yield Finding("time", f"about {time} for the Gram on {what}{where}")


def _describe_kernel(report: KernelReport) -> str:
    return (
        f"{report.name}: {report.threads} threads a block ({report.shape}), "
        f"{report.registers} registers, {report.local} bytes a thread spilled, "
        f"{report.shared} bytes of shared memory, {report.blocks} blocks a multiprocessor, "
        f"occupancy {report.occupancy:.0%}"
    )
