"""Whether kernels can be compiled and run here at all, found out before anything else is."""

from __future__ import annotations

from typing import Any

from _measure import machine

from ntkdist.kernels.cuda import device as cuda_device
from on_gpu.worker import Refused

LIMIT = 20.0  # seconds
# a part of an error's text, and what helps
REMEDIES = {
    "OUT_OF_MEMORY": "another process has the GPU's memory, and nvidia-smi shows which",
    "UNSUPPORTED_PTX": "the driver is older than the compiler: install a newer one, or "
    "pip install 'numba-cuda[cu12]'",
    "nvJitLink": "pip install 'numba-cuda[cu12]'",
}
UNKNOWN = "python -m numba -s shows what numba finds"


def preflight(simulated: bool) -> dict[str, Any]:
    """Look for a GPU, and compile and run a small kernel there.

    Args:
        simulated: Whether threads are simulated; the version of libNVVM is then left out.

    Returns:
        ``machine`` with the GPUs and all versions.

    Raises:
        Refused: If something is missing, does not fit or fails; in one line, with a remedy.
    """
    if reason := cuda_device.cuda_unavailable():
        raise Refused(reason)
    from on_gpu.peak import peak_gflops

    found = machine()
    if not simulated:
        from numba.cuda.cudadrv.nvvm import NVVM

        found["versions"]["libNVVM"] = ".".join(map(str, NVVM().get_version()))
    try:
        peak_gflops(runs=0, steps=2, threads=32, blocks=1)
    except Exception as error:  # of the driver, a compiler or the GPU
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        remedy = next((r for part, r in REMEDIES.items() if part.lower() in text.lower()), UNKNOWN)
        versions = ", ".join(
            f"{name} {found['versions'][name]}"
            for name in ("numpy", "numba", "numba-cuda", "libNVVM")
            if name in found["versions"]
        )
        raise Refused(f"a small kernel does not run ({versions}): {text}; {remedy}") from error
    return found
