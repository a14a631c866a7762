"""What benchmarks share: inputs, timings in turns, and the JSON with the machine they ran on."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ntkdist import __version__
from ntkdist.kernels.cuda import device as cuda_device

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("numpy", "scipy", "numba", "llvmlite", "numba-cuda", "cupy-cuda12x", "cupy-cuda13x"),
    *("jax", "jaxlib", "neural-tangents", "ray", "zarr", "dask", "threadpoolctl"),
)


def images(count: int, shape: Sequence[int], seed: int) -> np.ndarray:
    """Draw (count, H, W, C) standardised float32 images; fewer of a seed are the first of more."""
    return np.random.default_rng(seed).standard_normal((count, *shape), np.float32)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


@dataclass(frozen=True)
class Block:
    """A block of kernel entries that can be timed again and again.

    Attributes:
        run: Computes it, and returns when it is done.
        rows: Entries in a column.
        columns: Entries in a row.
        calls: Calls in one timing.
        settle: Seconds to wait before a timing, in which the threads of others go to sleep.
        prepare_ms: Milliseconds that preparing an image took, if that was measured.
    """

    run: Callable[[], Any]
    rows: int
    columns: int
    calls: int = 1
    settle: float = 0.0
    prepare_ms: float | None = None

    def us(self) -> float:
        """Time it; microseconds an entry."""
        time.sleep(self.settle)
        seconds, _ = timed(lambda: [self.run() for _ in range(self.calls)])
        return seconds / (self.calls * self.rows * self.columns) * 1e6

    def lasting(self, seconds: float) -> Block:
        """Compile it and return it with the calls that make a timing that long."""
        self.run()
        return replace(self, calls=max(1, math.ceil(seconds / timed(self.run)[0])))


def in_turns(functions: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call functions that return a figure one after the other, ``repeats`` times; all figures."""
    figures: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            figures[name].append(function())
    return figures


def ratios(of: Sequence[float], to: Sequence[float]) -> tuple[float, list[float]]:
    """Return the ratio of two medians, and the least and the largest ratio of one turn."""
    each = [a / b for a, b in zip(of, to, strict=True)]
    return statistics.median(of) / statistics.median(to), [min(each), max(each)]


def gpus() -> list[dict[str, Any]] | None:
    """Return the GPUs that are visible; None if there is none."""
    return [asdict(device) for device in cuda_device.devices()] or None


def machine() -> dict[str, Any]:
    """Return the processor, its cores, the GPUs, and the versions that matter."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    versions = {"python": platform.python_version(), "ntkdist": __version__}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpus(),
        "versions": versions,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def command(hidden: Sequence[str] = ()) -> str:
    """Return the command line to repeat this call, without the ``hidden`` options' values."""
    script = Path(sys.argv[0]).absolute()
    words, skip = [], False
    for word in sys.argv[1:]:
        if not skip and word not in hidden:
            words.append(word)
        skip = not skip and word in hidden
    return shlex.join(["python", f"jobs/{script.parent.name}/{script.name}", *words])


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new one."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def write(
    name: str | Path,
    rows: list[dict[str, Any]],
    more: Mapping[str, Any] | None = None,
    *,
    hidden: Sequence[str] = (),
) -> Path:
    """Write ``results/NAME.json``, or the path that is given, and return its path."""
    path = name if isinstance(name, Path) else RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"command": command(hidden), "machine": machine(), **(more or {}), "rows": rows}
    replace_text(path, json.dumps(content, indent=1) + "\n")
    return path
