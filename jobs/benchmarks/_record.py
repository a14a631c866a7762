"""What every benchmark writes beside its figures: the machine, the versions, when."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ntkdist import __version__
from ntkdist.kernels import cuda_device

RESULTS = Path(__file__).parent / "results"


PACKAGES = (
    *("numpy", "scipy", "numba", "llvmlite", "numba-cuda", "cupy-cuda12x", "cupy-cuda13x"),
    *("jax", "jaxlib", "neural-tangents", "ray", "zarr", "dask", "threadpoolctl"),
)


def gpus() -> list[dict[str, Any]] | None:
    """Return the GPUs that are visible; None where there is none, or a simulator alone."""
    return [asdict(device) for device in cuda_device.devices() if not device.simulated] or None


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


def write(
    name: str | Path, rows: list[dict[str, Any]], command: str, more: dict[str, Any] | None = None
) -> Path:
    """Write ``results/NAME.json``, or the path that is given, and return its path."""
    path = name if isinstance(name, Path) else RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {"command": command, "machine": machine(), **(more or {}), "rows": rows}
    text = json.dumps(found, indent=1)
    path.write_text(text + "\n")
    return path
