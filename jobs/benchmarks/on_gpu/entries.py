"""Kernel entries of one network on the GPU: checked against the reference, then timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from _measure import Block, images, in_turns

from ntkdist import Architecture
from ntkdist.kernels import get_backend
from ntkdist.kernels.cuda import device as cuda_device
from on_gpu.work import Work, work_of
from on_gpu.worker import Refused

KINDS = ("ntk", "nngp")
LARGEST_ERROR = 2e-5  # of a float32 entry against the float64 reference, relative
N = 50_000
ENTRIES = N * (N + 1) // 2
FLEETS = (1, 8, 64)  # GPUs


@dataclass(frozen=True)
class Scale:
    """How large everything is that is checked and timed.

    Attributes:
        shape: (H, W, C) of the images.
        first, largest, largest_dense: Images a side of a block to begin with, and at most, for
            networks on pixels and fully connected ones.
        peer, peer_dense: Images a side of a peer's first block.
        prepared: Images whose preparation is timed.
        repeats: Timings of each side, in turns.
        seconds: The least and the most that the timings of one row may take together.
        peak, copy: Arguments of ``peak_gflops`` and ``copy_gbs``.
        simulated: Whether threads are simulated. Everything is done, and no time is kept.
    """

    shape: tuple[int, int, int] = (32, 32, 3)
    first: int = 16
    largest: int = 2048
    largest_dense: int = 8192
    peer: int = 4
    peer_dense: int = 512
    prepared: int = 256
    repeats: int = 5
    seconds: tuple[float, float] = (2.0, 10.0)
    peak: Mapping[str, int] = field(default_factory=dict)
    copy: Mapping[str, int] = field(default_factory=dict)
    simulated: bool = False

    def each(self, sides: int, left: float) -> float:
        """Return the seconds of one timing of so many sides, with ``left`` seconds for all."""
        least, most = self.seconds
        return min(max(left, least), most) / (sides * self.repeats)


FULL = Scale()
SIMULATED = Scale(
    shape=(4, 4, 2),
    first=1,
    largest=2,
    largest_dense=2,
    peer=1,
    peer_dense=1,
    prepared=1,
    repeats=1,
    seconds=(0.0, 0.0),
    peak={"runs": 0, "steps": 2, "threads": 2, "blocks": 1},
    copy={"runs": 0, "largest": 4096},
    simulated=True,
)


def measure(
    arch: Architecture, scale: Scale, seconds: float, note: Callable[[Any], None]
) -> dict[str, Any]:
    """Check a network's entries, pass the row so far to ``note``, and time them.

    Args:
        arch: The network.
        scale: Sizes.
        seconds: For everything, as far as the least timings fit.
        note: Called with the row between the checks and the timings.

    Returns:
        The row: checks, operations, sizes, times and what follows from them.

    Raises:
        Refused: If the backend does not cover the network, an entry is off by more than
            ``LARGEST_ERROR`` or two runs differ.
    """
    from on_gpu.peak import copy_gbs, peak_gflops, registers_of_chains

    start = time.monotonic()
    row: dict[str, Any] = {"shape": list(scale.shape), "kinds": list(KINDS)}
    row["checks"] = check(arch, scale.shape)
    row["work"], work = None, counted(arch, scale.shape)
    if work:
        row["work"] = asdict(work)
    note(dict(row))
    peak_gflops(**{**scale.peak, "runs": 0})  # compiles
    left = seconds - (time.monotonic() - start)
    blocks, row["block"] = our_blocks(arch, scale, scale.each(2, left))
    times = in_turns(
        {
            "cuda": blocks["cuda"].us,
            "host": blocks["host"].us,
            "peak": lambda: peak_gflops(**scale.peak),
        },
        scale.repeats,
    )
    copy = copy_gbs(**scale.copy)
    row["kernels"] = [asdict(x) for x in cuda_device.kernel_reports(arch, scale.shape, "float32")]
    if scale.simulated:
        return row | {"simulated": True}
    row |= {"peak_gflops": max(times.pop("peak")), "copy_gbs": copy}
    row |= {"us": times, "peak_kernel": registers_of_chains()}
    row["us_per_entry_to_host"] = statistics.median(times["host"])
    return row | rates(statistics.median(times["cuda"]), work, row)


def check(arch: Architecture, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Compare 1 × 2 entries of each kind on random images with the reference.

    Returns:
        ``largest_error``, relative, and ``equal_bits`` of two runs.
    """
    x = np.random.default_rng(4).standard_normal((3, *shape), np.float32)
    backend = get_backend("cuda")
    if reason := backend.supports(arch, shape):
        raise Refused(reason)
    a, b = backend.prepare(arch, x[:1]), backend.prepare(arch, x[1:])
    found, again = backend.block(a, b, KINDS), backend.block(a, b, KINDS)
    right = reference(arch, x[:1], x[1:])
    worst = max(error(found[kind], right[kind]) for kind in KINDS)
    if not worst <= LARGEST_ERROR:
        raise Refused(f"an entry differs from the reference by {worst:.1e}, beyond {LARGEST_ERROR}")
    if any(differ(found[kind], again[kind]) for kind in KINDS):
        raise Refused("two runs differ in their bits")
    return {"largest_error": worst, "equal_bits": True}


def our_blocks(
    arch: Architecture, scale: Scale, seconds: float
) -> tuple[dict[str, Block], dict[str, Any]]:
    """Return a block of the cuda backend that takes that long, or is as large as may be.

    By name: ``cuda`` leaves the entries on the device, ``host`` brings them to the host.
    """
    backend: Any = get_backend("cuda")
    largest = scale.largest if arch.is_spatial else scale.largest_dense
    rows = columns = scale.first
    while True:
        a, b = (
            backend.prepare(arch, images(n, scale.shape, k)) for k, n in ((1, rows), (2, columns))
        )
        block = Block(lambda a=a, b=b: _on_device(backend, a, b), rows, columns)
        block.run()
        us = block.us()
        if us * rows * columns / 1e6 > seconds or columns >= largest:
            break
        rows, columns = (2 * rows, columns) if rows < columns else (rows, 2 * columns)
    to_host = Block(lambda: backend.block(a, b, KINDS), rows, columns)
    first, second = to_host.run(), to_host.run()
    if any(differ(first[kind], second[kind]) for kind in KINDS):
        raise Refused(f"two runs of {rows} × {columns} entries differ in their bits")
    about: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "state_bytes_per_image": b.nbytes / columns,
        "traffic_bytes_per_entry": (a.nbytes + b.nbytes) / (rows * columns) + 8,
    }
    if not scale.simulated:
        about["prepare_us_per_image"] = _preparation(backend, arch, scale)
    return {"cuda": block.lasting(seconds), "host": to_host.lasting(seconds)}, about


def _preparation(backend: Any, arch: Architecture, scale: Scale) -> float:
    """Return the microseconds that preparing an image takes among many."""
    several = images(scale.prepared, scale.shape, 3)
    times = []
    for _ in range(4):  # the first allocates
        _synchronize()
        start = time.perf_counter()
        backend.prepare(arch, several)
        _synchronize()
        times.append((time.perf_counter() - start) / scale.prepared * 1e6)
    return statistics.median(times[1:])


def _on_device(backend: Any, a: Any, b: Any) -> None:
    backend.block_on_device(a, b, KINDS)
    _synchronize()


def _synchronize() -> None:
    from ntkdist.kernels.cuda.intrinsics import cuda

    cuda.synchronize()


def counted(arch: Architecture, shape: tuple[int, int, int]) -> Work | None:
    """Return the operations of an entry; None where they are not counted."""
    try:
        return work_of(arch, shape)
    except ValueError:
        return None


def rates(us: float, work: Work | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what follows from microseconds an entry and the measured peaks."""
    found = {
        "us_per_entry": us,
        "entries_per_second": 1e6 / us,
        "gpu_hours": {str(k): ENTRIES * us / 1e6 / 3600 / k for k in FLEETS},
    }
    if work is None:
        return found
    traffic = row["block"]["traffic_bytes_per_entry"] + work.exchanged
    bound = work.slots / (row["peak_gflops"] / 2 * 1e3)  # µs: a slot is one multiply-add's time
    return found | {
        "us_per_entry_layer": us / work.layers,
        "ps_per_cell_layer": us * 1e6 / work.cell_layers,
        "share_of_peak": work.flops / (us * 1e3) / row["peak_gflops"],
        "bound_us_per_entry": bound,
        "share_of_slots": bound / us,
        "share_of_copy": traffic / (us * 1e3) / row["copy_gbs"],
    }


def reference(arch: Architecture, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return the float64 entries of both kinds."""
    backend = get_backend("reference", dtype="float64")
    return backend.block(backend.prepare(arch, x), backend.prepare(arch, y), KINDS)


def error(found: np.ndarray, right: np.ndarray) -> float:
    """Return the largest relative error; NaN counts as infinite."""
    largest = np.max(np.abs(found.astype(np.float64) / right - 1))
    return float(largest) if np.isfinite(largest) else float("inf")


def differ(x: np.ndarray, y: np.ndarray) -> bool:
    """Return whether two arrays differ in any bit."""
    return np.ascontiguousarray(x).tobytes() != np.ascontiguousarray(y).tobytes()
