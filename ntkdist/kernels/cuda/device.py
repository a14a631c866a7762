"""The visible GPUs, and the resources that kernels take; numba is imported only when needed."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from ntkdist.errors import InputError
from ntkdist.networks.architecture import Architecture, ArchitectureSpec

_WARP = 32


@dataclass(frozen=True)
class DeviceInfo:
    """One GPU.

    Attributes:
        index: As CUDA numbers those that are visible.
        name: Of the product.
        compute_capability: As in ``9.0``.
        driver: Version of the driver, else the CUDA version that it offers.
        multiprocessors: How many.
        memory: Bytes.
        free: Bytes not taken by any process.
    """

    index: int
    name: str
    compute_capability: str
    driver: str
    multiprocessors: int
    memory: int
    free: int


@dataclass(frozen=True)
class KernelReport:
    """The resources of a compiled kernel.

    Attributes:
        name: Of the kernel, with what it was compiled for.
        threads: Of a block.
        shape: What a block of threads computes, in words.
        registers: Of a thread.
        local: Bytes of a thread that did not fit registers.
        shared: Bytes of a block.
        blocks: Resident on a multiprocessor at a time.
        occupancy: Share of the multiprocessor's warps that these are, 0 to 1.
    """

    name: str
    threads: int
    shape: str
    registers: int
    local: int
    shared: int
    blocks: int
    occupancy: float


def cuda_unavailable() -> str | None:
    """Return None if kernels can run on a GPU here, else the reason and the remedy."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0"):
        return (
            "NUMBA_ENABLE_CUDASIM is set, and the kernels do not run on Numba's simulator; unset it"
        )
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed; pip install 'numba-cuda[cu12]'"
    from numba import cuda

    try:
        if cuda.is_available() and len(cuda.gpus):
            return None
    except Exception as error:
        return f"CUDA cannot be used here: {' '.join(str(error).split())}"
    return "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES"


def devices() -> list[DeviceInfo]:
    """Return the visible GPUs; none where ``cuda_unavailable`` gives a reason."""
    if cuda_unavailable() is not None:
        return []
    from numba import cuda

    gpus = []
    version = ".".join(map(str, cuda.runtime.get_version()))
    for index, gpu in enumerate(cuda.gpus):
        with gpu:
            memory = cuda.current_context().get_memory_info()
            device = cuda.get_current_device()
            name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
            gpus.append(
                DeviceInfo(
                    index,
                    name,
                    ".".join(map(str, device.compute_capability)),
                    _driver() or f"CUDA {version}",
                    int(device.MULTIPROCESSOR_COUNT),
                    int(memory.total),
                    int(memory.free),
                )
            )
    return gpus


def _driver() -> str:
    """Return the version that the driver's kernel module states, else an empty string."""
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii") as file:
            words = file.readline().split()
    except OSError:
        return ""
    return next((word for word in words if word[:1].isdigit() and "." in word), "")


def kernel_reports(
    arch: ArchitectureSpec, image_shape: tuple[int, int, int], dtype: str = "float32"
) -> list[KernelReport]:
    """Compile the kernels of a network and return the resources of each.

    Args:
        arch: The network.
        image_shape: (H, W, C).
        dtype: ``float32`` or ``float64``.

    Returns:
        One report for each kernel that computes pairs.

    Raises:
        InputError: If the cuda backend does not cover the network, or there is no GPU.
    """
    import numpy as np

    if reason := cuda_unavailable():
        raise InputError(f"backend 'cuda': {reason}; or take backend cpu")
    from ntkdist.kernels.cuda.backend import CudaBackend

    backend = CudaBackend(dtype=dtype)
    images = np.random.default_rng(0).normal(size=(2, *image_shape))
    state = backend.prepare(Architecture.parse(arch), images)
    backend.block(state, state, ("ntk",))  # compiles for the types of this network
    return [
        _report(name, shape, threads, function)
        for name, shape, threads, function in backend.kernels(state)
    ]


def _report(name: str, shape: str, threads: int, function: Any) -> KernelReport:
    from numba import cuda

    # of whichever types the network needs; they hardly differ
    registers = max(function.get_regs_per_thread().values())
    local = max(function.get_local_mem_per_thread().values())
    shared = max(function.get_shared_mem_per_block().values())
    device = cuda.get_current_device()
    warps = -(-threads // _WARP)
    # registers are given to warps in portions of 256
    by_registers = device.MAX_REGISTERS_PER_MULTIPROCESSOR // (
        warps * -(-registers * _WARP // 256) * 256
    )
    most = device.MAX_THREADS_PER_MULTIPROCESSOR // _WARP
    by_shared = device.MAX_SHARED_MEMORY_PER_MULTIPROCESSOR // (shared or 1)
    blocks = int(min(by_registers, most // warps, by_shared, 32))
    return KernelReport(
        name, threads, shape, registers, local, shared, blocks, blocks * warps / most
    )
