"""Whether kernels can be compiled and run here at all, found out before anything else is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from _measure import machine

from ntkdist.kernels.cuda import device as cuda_device
from on_gpu.worker import Refused

LIMIT = 20.0  # seconds
INSTALL = "pip install 'numba-cuda[cu12]' (drivers from 525 on) or 'numba-cuda[cu13]' (from 580 on)"
# a part of an error's text, and what helps
REMEDIES = {
    "module 'numpy' has no attribute": "pip install 'numpy<2.5'",
    "Numba needs NumPy": "pip install 'numpy<2.5'",
    "nvvm": INSTALL,
    "libdevice": INSTALL,
    "nvjitlink": INSTALL,
    "UNSUPPORTED_PTX": "the driver is older than the compiler: update it, or " + INSTALL,
    "ERROR_OUT_OF_MEMORY": "another process has the GPU's memory; nvidia-smi shows which",
}
UNKNOWN = "python -m numba -s shows what numba finds"


def preflight(simulated: bool) -> dict[str, Any]:
    """Compile and run one small kernel.

    Args:
        simulated: Whether threads are simulated; versions of NVIDIA's libraries are then left out.

    Returns:
        ``machine`` with the GPUs and all versions.

    Raises:
        Refused: If it fails; one line says why, with the versions and a remedy.
    """
    try:
        if reason := cuda_device.cuda_unavailable():
            raise Refused(reason)
        libnvvm = None if simulated else _libnvvm()
        from on_gpu.peak import peak_gflops

        peak_gflops(runs=0, steps=2, threads=32, blocks=1)
    except Refused:
        raise
    except Exception as error:  # of numba, numba-cuda, the driver or a compiler
        raise Refused(_explained(error)) from error
    found = machine()
    if libnvvm:
        found["versions"]["libNVVM"] = libnvvm
    return found


def _libnvvm() -> str:
    from numba.cuda.cudadrv.nvvm import NVVM

    return ".".join(map(str, NVVM().get_version()))


def _explained(error: Exception) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    remedy = next((r for part, r in REMEDIES.items() if part.lower() in text.lower()), UNKNOWN)
    versions = ", ".join(f"{name} {_version(name)}" for name in ("numpy", "numba", "numba-cuda"))
    return f"a small kernel does not run ({versions}): {text}; {remedy}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
