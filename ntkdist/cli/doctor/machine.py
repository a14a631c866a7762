"""Cores, threads, memory, room on disks, and GPUs of this machine."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ntkdist.cli.doctor.finding import Finding
from ntkdist.config import RunConfig
from ntkdist.gram.executors.ray.cluster import cores
from ntkdist.kernels.cuda import device as cuda_device
from ntkdist.kernels.cuda.device import DeviceInfo
from ntkdist.words import format_bytes

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SHARED, _SHARED_LEAST = Path("/dev/shm"), 128 * 2**20  # Ray's object store takes 80 MiB
_TEMPORARY_LEAST = 2**30  # Ray's session: sockets, logs, what does not fit its object store
_RUN_LEAST = 2**30
_CGROUP = Path("/sys/fs/cgroup")
_DRIVER = (Path("/dev/nvidiactl"), Path("/proc/driver/nvidia/version"))


def check_machine(config: RunConfig) -> Iterator[Finding]:
    """Yield what there is of cores, memory and room; of Ray's only where it is used."""
    yield Finding("machine", f"{cores()} cores, {_memory()} memory")
    yield from check_threads()
    yield disk(config.run)
    if config.gram.executor != "ray":
        return
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    yield _room(folder, _TEMPORARY_LEAST, "Ray's session", "set RAY_TMPDIR to a folder with room")
    if _SHARED.is_dir():
        remedy = "give the container more: docker run --shm-size=512m"
        yield _room(_SHARED, _SHARED_LEAST, "Ray's object store", remedy)


def check_threads() -> Iterator[Finding]:
    """Yield a warning where a container or the environment allows fewer cores than are seen."""
    seen, fine = cores(), True
    allowed = cpu_limit()
    if allowed is not None and allowed < seen:
        fine, whole = False, max(1, math.floor(allowed))
        yield Finding(
            "threads",
            f"the container may use {allowed:g} CPUs of the {seen} cores that are seen",
            "warning",
            f"take --gram.workers {whole}, and export OMP_NUM_THREADS={whole}",
        )
    for name in _THREADS:
        given = os.environ.get(name)
        if not given:
            continue
        if not given.isdecimal() or given == "0":
            fine = False
            yield Finding("threads", f"{name}={given!r} is no number", "warning", f"unset {name}")
        elif int(given) < min(seen, allowed or seen):
            fine = False
            yield Finding(
                "threads",
                f"{name}={given}: the factor stage uses {given} of {seen} cores",
                "warning",
                f"unset {name}",
            )
    if fine:
        yield Finding("threads", "every core may be used")


def cpu_limit() -> float | None:
    """Return the CPUs that the container's cgroup allows; None for no limit."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (_CGROUP / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (_CGROUP / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)


def disk(url: str) -> Finding:
    """Return how much is free where a run is or would be."""
    free = free_space(url)
    if free is None:
        return Finding("disk", f"{url}: free space is not known there")
    text = f"{format_bytes(free)} free for {url}"
    if free < _RUN_LEAST:
        return Finding("disk", text, "warning", "a run of 10,000 images takes about 2 GiB")
    return Finding("disk", text)


def free_space(url: str) -> int | None:
    """Return the bytes that are free where a run is or would be; None where that is unknown."""
    return None if "://" in url else shutil.disk_usage(nearest(url)).free


def nearest(url: str) -> Path:
    """Return the folder, or the first one above it that is there."""
    path = Path(url).absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_gpus(devices: Sequence[DeviceInfo]) -> Iterator[Finding]:
    """Yield each GPU, or why there is none and whether that can be mended."""
    for device in devices:
        yield Finding("gpu", _describe(device))
    if devices:
        return
    driver = any(path.exists() for path in _DRIVER)
    package = importlib.util.find_spec("numba_cuda") is not None
    if driver and not package:
        yield Finding(
            "gpu",
            "an NVIDIA driver is here but numba-cuda is not installed: no GPU is used",
            "warning",
            "pip install 'numba-cuda[cu12]'",
        )
    elif package:
        yield Finding("gpu", f"none: {cuda_device.cuda_unavailable()}", "warning")
    else:
        yield Finding("gpu", f"none: {cuda_device.cuda_unavailable()}")


def _room(folder: Path, least: int, what: str, remedy: str) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        text = f"{folder} cannot be used for {what}: {error.strerror}"
        return Finding("disk", text, "warning", remedy)
    text = f"{format_bytes(free)} free in {folder} for {what}"
    if free < least:
        return Finding("disk", f"{text}, {format_bytes(least)} are needed", "warning", remedy)
    return Finding("disk", text)


def _memory() -> str:
    from distributed.system import MEMORY_LIMIT  # of the machine, its cgroup and its rlimit

    return format_bytes(MEMORY_LIMIT)


def _describe(device: DeviceInfo) -> str:
    return (
        f"{device.index}: {device.name}, compute capability {device.compute_capability}, driver "
        f"{device.driver}, {format_bytes(device.free)} of {format_bytes(device.memory)} free, "
        f"{device.multiprocessors} multiprocessors"
    )
