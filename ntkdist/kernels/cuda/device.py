"""The visible GPUs, and the resources that kernels take; numba is imported only when needed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ntkdist.errors import InputError
from ntkdist.networks.architecture import Architecture, ArchitectureSpec

#: Compute capability of the oldest GPUs that the kernels run on: they copy to shared memory
#: asynchronously (``intrinsics.copy_unit``).
OLDEST = (8, 0)
_WARP = 32
_PROHIBITED, _EXCLUSIVE = 2, 3  # of CUcomputemode


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
        free: Bytes not taken by any process; None where NVIDIA's management library is missing.
        unusable: Why the kernels cannot run on it; empty where they can.
        exclusive: Whether it is in exclusive-process mode: one process at a time can use it.
    """

    index: int
    name: str
    compute_capability: str
    driver: str
    multiprocessors: int
    memory: int
    free: int | None
    unusable: str = ""
    exclusive: bool = False


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
    """Return None if kernels can run on a GPU here, else the reason and the remedy.

    A process computes on its first visible GPU. No context is opened on it: that takes memory, and
    in exclusive-process mode it keeps all other processes from the GPU.
    """
    if reason := _no_gpu():
        return reason
    from numba import cuda

    if reason := _unusable(cuda.gpus[0]):
        return f"{reason}; hide this GPU by CUDA_VISIBLE_DEVICES"
    return _no_compiler()


def gpu_visible() -> bool:
    """Return whether there is a GPU, be it that kernels can run on it or not."""
    return _no_gpu() is None


def usable_gpus() -> int:
    """Return how many of the visible GPUs kernels can run on."""
    count = sum(not gpu.unusable for gpu in devices())
    return count if count and _no_compiler() is None else 0


def devices() -> list[DeviceInfo]:
    """Return the visible GPUs, also those that kernels cannot run on; opens no context."""
    if not gpu_visible():
        return []
    from numba import cuda
    from numba.cuda.cudadrv.driver import driver

    version = _driver() or "CUDA " + ".".join(map(str, driver.get_version()))
    free_bytes = _free([gpu.uuid for gpu in cuda.gpus])
    return [
        DeviceInfo(
            index,
            gpu.name,
            ".".join(map(str, gpu.compute_capability)),
            version,
            int(gpu.MULTIPROCESSOR_COUNT),
            int(driver.cuDeviceTotalMem(gpu.id)),
            free,
            _unusable(gpu),
            gpu.COMPUTE_MODE == _EXCLUSIVE,
        )
        for index, (gpu, free) in enumerate(zip(cuda.gpus, free_bytes, strict=True))
    ]


def _no_gpu() -> str | None:
    """Return why the driver shows no GPU, or cannot be asked; None where it shows one."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0"):
        return (
            "NUMBA_ENABLE_CUDASIM is set, and the kernels do not run on Numba's simulator; unset it"
        )
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed; pip install 'numba-cuda[cu12]'"
    try:
        from numba import cuda
    except Exception as error:
        return _misfit(error)
    try:
        if len(cuda.gpus):
            return None
        reason = "NO_DEVICE"
    except Exception as error:
        reason = " ".join(str(error).split())
    if "driver library cannot be found" in reason:
        return "no NVIDIA driver is found; install it, or start the container with --gpus all"
    if "NO_DEVICE" in reason:
        return "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return f"CUDA cannot be used here: {reason}"


def _unusable(gpu: Any) -> str:
    """Return why kernels cannot run on a GPU, or an empty string."""
    name = f"GPU {gpu.id} ({gpu.name})"
    if tuple(gpu.compute_capability) < OLDEST:
        has, needed = (".".join(map(str, x)) for x in (gpu.compute_capability, OLDEST))
        return f"{name} has compute capability {has}, and the kernels need {needed} or more"
    if gpu.COMPUTE_MODE == _PROHIBITED:
        return f"{name} is in compute mode prohibited (nvidia-smi --compute-mode=0 ends that)"
    return ""


@cache
def _no_compiler() -> str | None:
    """Return why numba-cuda cannot compile kernels here, and the remedy; None where it can."""
    from numba import cuda
    from numba.cuda.cudadrv import nvvm
    from numba.cuda.cudadrv.driver import driver

    try:
        importlib.import_module("numba.cuda.cudaimpl")  # which every compilation imports
    except Exception as error:
        return _misfit(error)
    try:
        nvvm.NVVM()
        toolkit, offered = cuda.runtime.get_version(), driver.get_version()
    except Exception as error:
        reason = " ".join(str(error).split())
        return f"numba-cuda finds no CUDA toolkit ({reason}); pip install 'numba-cuda[cu12]'"
    if toolkit[0] > offered[0]:
        versions = [".".join(map(str, version)) for version in (toolkit, offered)]
        fitting = "pip install 'numba-cuda[cu12]', or " if offered[0] == 12 else ""
        return (
            f"numba-cuda compiles with CUDA {versions[0]}, and the driver offers CUDA "
            f"{versions[1]}; {fitting}install a newer driver"
        )
    return None


def _misfit(error: Exception) -> str:
    """Return what ails numba-cuda if importing a part of it raises ``error``, and the remedy."""
    import numpy as np

    version, reason = importlib.metadata.version("numba-cuda"), " ".join(str(error).split())
    remedy = "--upgrade 'numba-cuda[cu12]'"
    if np.lib.NumpyVersion(np.__version__) >= "2.5.0":
        remedy = "'numpy<2.5'"
    return (
        f"numba-cuda {version} does not work with numpy {np.__version__} ({reason}); "
        f"pip install {remedy}"
    )


def _free(uuids: Sequence[str]) -> list[int | None]:
    """Return the bytes of each GPU that no process has, which CUDA itself tells only in a context.

    None stands for a GPU, or for all, that NVIDIA's management library does not answer about.
    """

    def of_one(uuid: str) -> int | None:
        # an instance of a GPU (MIG) has another name here; numba-cuda names both GPU-...
        for name in (uuid, uuid.replace("GPU-", "MIG-")):
            try:
                handle = nvml.device_get_handle_by_uuid(name)
                return int(nvml.device_get_memory_info_v2(handle).free)
            except nvml.NvmlError:
                continue
        return None

    try:
        nvml = importlib.import_module("cuda.bindings.nvml")
        nvml.init_v2()
    except Exception:  # of the loader of libraries or of the library
        return [None for _ in uuids]
    try:
        return [of_one(uuid) for uuid in uuids]
    finally:
        nvml.shutdown()


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
        DeviceLostError: If no context can be opened on the GPU.
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
    # the driver knows what it reserves of shared memory, and in which portions registers are given
    grids = [one.max_cooperative_grid_blocks(threads) for one in function.overloads.values()]
    blocks = min(grids) // device.MULTIPROCESSOR_COUNT
    warps = -(-threads // _WARP)
    most = device.MAX_THREADS_PER_MULTIPROCESSOR // _WARP
    return KernelReport(
        name, threads, shape, registers, local, shared, blocks, blocks * warps / most
    )
