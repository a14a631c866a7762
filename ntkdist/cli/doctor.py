"""What this machine is, whether a run can be done on it, and about how long that takes.

Reads only. A run that is there brings its stored images; the images of any other are read from
their source, once, and not stored.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import platform
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from ntkdist.config import RunConfig
from ntkdist.data.features import feature_words
from ntkdist.errors import DeviceLostError, InputError, StoreError
from ntkdist.gram.autotile import choose_edge
from ntkdist.gram.executors.cluster import cores
from ntkdist.kernels import get_backend
from ntkdist.kernels.cuda import device as cuda_device
from ntkdist.kernels.cuda.device import DeviceInfo, KernelReport
from ntkdist.linalg import parse_memory
from ntkdist.pipeline.gram import threads_of
from ntkdist.planning.planned_run import SAMPLE, PlannedRun
from ntkdist.runs.inputs import source_of
from ntkdist.runs.run import Run, check_unused, free_space, nearest
from ntkdist.storage.addresses import CREDENTIALS, Place, parse
from ntkdist.storage.object_stores import SOURCES, endpoint
from ntkdist.words import format_bytes, percent, rough_duration

State = Literal["ok", "warning", "problem"]
_MARKS = {"ok": "", "warning": "warning: ", "problem": "PROBLEM: "}


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        name: What, in one word.
        text: What was found.
        state: ok; warning (a run goes, but slower or without something); problem (it does not).
        remedy: What to do; empty where nothing is to be done.
    """

    name: str
    text: str
    state: State = "ok"
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """What was found, and what to do."""
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


def describe_finding(finding: Finding) -> str:
    """Return a finding as one line of ``status``'s form."""
    return f"{finding.name:<10}{_MARKS[finding.state]}{finding.sentence}"


def diagnose(config: RunConfig, *, quick: bool = False) -> Iterator[Finding]:
    """Check machine and run, and yield each finding as soon as it is known."""
    yield from check_packages()
    yield from check_machine(config)
    blocked = False
    for one in check_ray(config):
        blocked = blocked or one.state == "problem"
        yield one
    devices = cuda_device.devices()
    yield from check_gpus(devices)
    try:
        for one in check_store(config.run):
            blocked = blocked or one.state == "problem"
            yield one
        if not blocked:
            yield from check_run(config, devices, quick=quick)
    except (InputError, DeviceLostError) as error:
        yield Finding("run", " ".join(str(error).split()), "problem")


PACKAGES = ("numpy", "numba", "numba-cuda", "zarr", "ray", "dask")
EXTRAS = ("stax", "cuda")

#: What does not work without a package, or with a wrong version of it.
_FEATURES = {
    "cupy-cuda12x": "factor.device cuda",
    "dask": "the factor stage",
    "distributed": "factor.scheduler tcp://HOST:PORT",
    "jax": "backend stax, ntkdist widths and lookahead --empirical",
    "matplotlib": "the report and all pictures",
    "neural-tangents": "backend stax",
    "numba": "backends cpu and cuda, and the label stage",
    "numba-cuda": "backend cuda",
    "obstore": "runs at s3://, gs:// and az://",
    "optax": "backend stax",
    "pillow": "sources images and csv",
    "ray": "gram.executor ray (inline does without)",
    "scikit-learn": "the source digits and kernel PCA",
    "zarr": "every run",
}
#: Why a limit is there, where that is worth knowing.
_REASONS = {
    "jax": "neural-tangents cannot be imported with jax 0.6 and later",
    "numpy": "numba-cuda asks for names that numpy 2.5 has dropped",
}


def installed(package: str) -> str | None:
    """Return the version of a package, or None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_packages(names: tuple[str, ...] = PACKAGES) -> Iterator[Finding]:
    """Yield Python, the packages that matter most, and every version that does not fit."""
    yield _python()
    shown = (f"{name} {installed(name) or 'not installed'}" for name in names)
    yield Finding("packages", ", ".join(shown))
    wrong, absent = [], []
    for requirement, extra in _requirements():
        version = installed(requirement.name)
        if version is None and extra:
            absent.append(requirement.name)
        elif version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(_misfit(requirement, version, extra))
    yield from wrong
    if not wrong:
        yield Finding("versions", "all that ntkdist needs are installed, in versions that fit")
    for extra in EXTRAS:
        missing = [one.name for one, of in _requirements() if of == extra and one.name in absent]
        if missing:
            features = dict.fromkeys(_FEATURES.get(name, "every command") for name in missing)
            text = f"{', '.join(missing)} not installed: no {'; no '.join(features)}"
            yield Finding("extra", text, remedy=f"if wanted: {_pip(f'ntkdist[{extra}]')}")


def _python() -> Finding:
    version = platform.python_version()
    text = f"{version} on {platform.platform()}"
    try:
        wanted = metadata.metadata("ntkdist")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        wanted = ""
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding("python", text)
    return Finding(
        "python", f"{text}: ntkdist needs {wanted}", "problem", "make an environment with that"
    )


def _requirements() -> list[tuple[Requirement, str]]:
    """Return what the package asks for, with the extra that asks; empty for always."""
    try:
        lines = metadata.requires("ntkdist") or []
    except metadata.PackageNotFoundError:
        return []
    requirements = []
    for line in lines:
        one = Requirement(line)
        for extra in ("", *EXTRAS):
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                requirements.append((one, extra))
                break
    return requirements


def _misfit(requirement: Requirement, version: str | None, extra: str) -> Finding:
    wanted = f"{requirement.name}{requirement.specifier}"
    feature = _FEATURES.get(requirement.name, "every command")
    if requirement.name == "numpy" and extra:
        feature = "backend cuda"
    reason = _REASONS.get(requirement.name)
    text = f"{requirement.name} {version or 'is not installed'}, {wanted} is needed for {feature}"
    return Finding(
        "versions",
        text + (f" ({reason})" if reason and version else ""),
        "warning" if extra else "problem",
        _pip(wanted),
    )


def _pip(what: str) -> str:
    return f"pip install '{what}'"


_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SHARED, _SHARED_LEAST = Path("/dev/shm"), 128 * 2**20  # Ray's object store takes 80 MiB
_TEMPORARY_LEAST = 2**30  # Ray's session: sockets, logs, what does not fit its object store
_RUN_LEAST = 2**30
_CGROUP = Path("/sys/fs/cgroup")
_DRIVER = (Path("/dev/nvidiactl"), Path("/proc/driver/nvidia/version"))


def check_machine(config: RunConfig) -> Iterator[Finding]:
    """Yield what there is of cores, memory and disk space; of Ray's only where it is used."""
    yield Finding("machine", f"{cores()} cores, {_memory()} memory")
    yield from check_threads()
    yield disk(config.run)
    if config.gram.executor != "ray":
        return
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    yield _disk_space(
        folder, _TEMPORARY_LEAST, "Ray's session", "set RAY_TMPDIR to a folder with space"
    )
    if _SHARED.is_dir():
        remedy = "give the container more: docker run --shm-size=512m"
        yield _disk_space(_SHARED, _SHARED_LEAST, "Ray's object store", remedy)


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


def check_gpus(devices: Sequence[DeviceInfo]) -> Iterator[Finding]:
    """Yield each GPU, or why there is none and whether that can be mended."""
    for device in devices:
        if device.unusable:
            remedy = "take --gram.backend cpu, or hide it by CUDA_VISIBLE_DEVICES"
            yield Finding("gpu", device.unusable, "warning", remedy)
        else:
            yield Finding("gpu", _describe(device))
    if devices:
        reason = cuda_device.cuda_unavailable()
        if reason and not any(one.unusable and one.unusable in reason for one in devices):
            yield Finding("gpu", f"not used: {reason}", "warning")
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


def _disk_space(folder: Path, least: int, what: str, remedy: str) -> Finding:
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
    memory = f"{format_bytes(device.memory)} (how much is free is not known)"
    if device.free is not None:
        memory = f"{format_bytes(device.free)} of {format_bytes(device.memory)} free"
    mode = ", exclusive-process mode: one process at a time" if device.exclusive else ""
    return (
        f"{device.index}: {device.name}, compute capability {device.compute_capability}, driver "
        f"{device.driver}, {memory}, {device.multiprocessors} multiprocessors{mode}"
    )


_TOKENS_SINCE = Version("2.59")  # a local cluster asks for a token unless told not to
_ANSWER = 3.0  # seconds
_PORT = 6379
_CURRENT = (
    Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
)


def check_ray(config: RunConfig) -> Iterator[Finding]:
    """Yield whether Ray can be imported, lets this driver in, and answers where it has to."""
    used = config.gram.executor == "ray"
    problem = _import_problem()
    if problem:
        remedy = "pip install ray, or take --gram.executor inline"
        yield Finding("ray", problem, "problem" if used else "ok", remedy if used else "")
        return
    yield Finding("ray", "can be imported")
    if not used:
        return
    address = cluster_of(config)
    yield from check_token(address)
    if address is not None and address != "local":
        yield _answer(address)


def cluster_of(config: RunConfig) -> str | None:
    """Return the address of the cluster that the workers run on, if they do not run here."""
    if config.gram.executor == "inline":
        return None
    return config.gram.address or os.environ.get("RAY_ADDRESS") or None


def check_token(address: str | None) -> Iterator[Finding]:
    """Yield whether there is the token that Ray asks for."""
    version = installed("ray")
    if version is None or Version(version) < _TOKENS_SINCE:
        return
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(path or "~/.ray/auth_token").expanduser()
    has_token = bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()
    if mode not in ("", "disabled", "token"):
        text = f"RAY_AUTH_MODE={mode!r} is not known"
        yield Finding("token", text, "problem", "set it to token or disabled")
    elif mode == "disabled":
        text = "RAY_AUTH_MODE=disabled: no token is asked for, and the cluster's must say the same"
        yield Finding("token", text if address else "RAY_AUTH_MODE=disabled: none is asked for")
    elif has_token:
        yield Finding("token", "there is one; nodes of a cluster need the same")
    elif path or (mode and address):
        where = f"RAY_AUTH_TOKEN_PATH={path}: there is no such file" if path else f"{file}: missing"
        remedy = "copy the head node's token there, or set RAY_AUTH_MODE=disabled on every node"
        yield Finding("token", where, "problem", remedy)
    elif address:
        text = f"none in {file}; a cluster with tokens refuses this driver"
        remedy = "if it has them: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE"
        yield Finding("token", text, "warning", remedy)
    elif not os.access(nearest(str(file.parent)), os.W_OK):
        text = f"Ray makes a token in {file}, which cannot be written"
        yield Finding("token", text, "problem", "export RAY_AUTH_MODE=disabled")
    else:
        yield Finding("token", f"none yet; Ray makes one in {file}")


def check_store(url: str) -> Iterator[Finding]:
    """Yield whether the environment has what the object store of a run's URL asks for."""
    place = parse(url)
    if not isinstance(place, Place) or place.scheme not in SOURCES:
        return
    names = [name for name in SOURCES[place.scheme] if os.environ.get(name)]
    where = f"{place.scheme}://{place.bucket}"
    if not names:
        text = f"{where}: no credentials in the environment"
        yield Finding("store", text, "problem", f"set {CREDENTIALS[place.scheme]}")
        return
    if "AWS_ACCESS_KEY_ID" in names and not os.environ.get("AWS_SECRET_ACCESS_KEY"):
        text = f"{where}: AWS_ACCESS_KEY_ID is set, AWS_SECRET_ACCESS_KEY is not"
        yield Finding("store", text, "problem", "set both")
        return
    at = endpoint(place.scheme)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if place.scheme == "s3" and not at and not region:
        text = f"{where}: AWS_REGION is not set, us-east-1 is taken"
        yield Finding("store", text, "warning", "set AWS_REGION to the bucket's")
        return
    yield Finding("store", f"{where}: credentials by {names[0]}{f', at {at}' if at else ''}")


def _answer(address: str) -> Finding:
    """Return whether somebody listens at the address of a cluster."""
    told = address
    if address == "auto":
        try:
            told = _CURRENT.read_text(encoding="utf-8").strip()
        except OSError:
            text = "address auto: no cluster runs on this machine"
            return Finding("cluster", text, "problem", "start one: ray start --head")
    host, _, port = told.rpartition("://")[2].partition(":")
    remedy = "start it there with ray start --head, or unset RAY_ADDRESS to use this machine"
    if not port.isdecimal():
        return Finding("cluster", f"{address}: is not HOST:PORT", "problem", f"write HOST:{_PORT}")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except (OSError, OverflowError) as error:
        text = f"{address}: no answer ({getattr(error, 'strerror', None) or error})"
        return Finding("cluster", text, "problem", remedy)
    return Finding("cluster", f"{address}: answers")


def _import_problem() -> str | None:
    """Return why Ray cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("ray")
    except ImportError as error:
        return f"cannot be imported ({' '.join(str(error).split())})"
    return None


def check_run(config: RunConfig, devices: list[DeviceInfo], *, quick: bool) -> Iterator[Finding]:
    """Yield what the run is, what computes it, what it takes, and a verdict.

    Raises:
        InputError: Where the run cannot be done: bad data, a network or backend that cannot be
            computed here, a place that cannot be written, or no space there for the Gram.
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
        yield from _projection(planned, entries, sum(not one.unusable for one in devices))
    yield Finding("verdict", "the run can be done here" if entries else "the Gram is done")


def _check_place(config: RunConfig) -> None:
    """Raise ``InputError`` unless a run is, or can be written, at the address; writes nothing."""
    url = config.run
    try:
        if Run.find(config) is not None:
            return
    except StoreError as error:
        raise InputError(str(error)) from error
    if check_unused(url) is None:
        return
    place = nearest(url)
    if not place.is_dir():
        raise InputError(f"{url}: {place} is a file; give a folder for the run")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{url}: cannot be written; give another --run or change its rights")


def _check_room(config: RunConfig, todo: int, free: int | None) -> str:
    """Say what the missing entries take; raises ``InputError`` where there is no space."""
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
    backend = get_backend(
        planned.backend, dtype=settings.dtype, threads=threads, invariance=settings.invariance
    )
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
        f"occupancy {percent(report.occupancy, 0)}"
    )
