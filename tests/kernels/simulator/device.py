"""A stand-in for the GPU: launches run the compiled kernels on the processor.

``install`` replaces what ``numba.cuda`` does with a device, and ``intrinsics.kernel``. The kernels,
their launches and all of the backend around them are the real ones. A launch that does what a
GPU leaves undefined raises.
"""

from __future__ import annotations

import math
import runpy
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.kernels.simulator.compiler import Target, compiled, program, signature
from tests.kernels.simulator.machine import DeviceMemory, Launch

FREE_BYTES = 2**26
MULTIPROCESSORS = 2
#: Shared memory of a multiprocessor by compute capability; 228 where nothing stands.
SHARED_KIB = {(8, 0): 164, (8, 6): 100, (8, 9): 100, (12, 0): 100}
#: Arguments of the interpreter in front of a script that uses the cuda backend; the working folder
#: is the repository's root.
ON_SIMULATOR = ("-c", "from tests.kernels.simulator import run_script; run_script()")


class DeviceArray:
    """An array in device memory: its elements are reached by copies alone."""

    def __init__(self, array: np.ndarray, address: int, owner: Any) -> None:
        self.array, self.address, self.owner = array, address, owner
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.size, self.nbytes, self.strides = array.size, array.nbytes, array.strides

    def __len__(self) -> int:
        return len(self.array)

    def _part(self, array: np.ndarray) -> DeviceArray:
        at = array.__array_interface__["data"][0] - self.array.__array_interface__["data"][0]
        return DeviceArray(array, self.address + at, self.owner)

    def __getitem__(self, key: Any) -> DeviceArray:
        return self._part(self.array[key])

    def reshape(self, *shape: Any) -> DeviceArray:
        return self._part(self.array.reshape(*shape))

    def is_c_contiguous(self) -> bool:
        return self.array.flags.c_contiguous

    def copy_to_host(self) -> np.ndarray:
        return self.array.copy()

    def copy_to_device(self, source: DeviceArray) -> None:
        self.array[...] = source.array


class _Owner:
    """Frees an array's memory with the last of its views."""


class _Event:
    def record(self) -> None:
        pass

    synchronize = record

    def elapsed_time(self, other: _Event) -> float:
        return 0.0


class Gpu:
    """The device: memory, what it is told to check, and what was found.

    Attributes:
        target: Compute capability to compile for.
        checks: Options of ``Launch``.
        instructions: Executed so far by each kernel, a warp's as one.
    """

    def __init__(self, target: Target = (9, 0)) -> None:
        self.target = target
        self.memory = DeviceMemory()
        self.lock = threading.RLock()
        self.checks: dict[str, Any] = {}
        self.instructions: dict[str, int] = {}
        self.MULTIPROCESSOR_COUNT = MULTIPROCESSORS
        self.MAX_THREADS_PER_MULTIPROCESSOR = 2048
        self.id = 0

    @property
    def compute_capability(self) -> Target:
        """What kernels are compiled for."""
        return self.target

    @property
    def MAX_SHARED_MEMORY_PER_MULTIPROCESSOR(self) -> int:  # noqa: N802  # as numba-cuda has it
        """Bytes."""
        return SHARED_KIB.get(self.target, 228) * 1024

    def device_array(self, shape: Any, dtype: Any = np.float64) -> DeviceArray:
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        count = max(1, math.prod(shape)) * np.dtype(dtype).itemsize
        with self.lock:
            at = self.memory.allocate(count)
        owner = _Owner()
        weakref.finalize(owner, self._free, at)
        return DeviceArray(self.memory.view(at, shape, dtype), at, owner)

    def _free(self, at: int) -> None:
        with self.lock:
            self.memory.free(at)

    def to_device(self, values: np.ndarray) -> DeviceArray:
        array = self.device_array(np.shape(values), np.asarray(values).dtype)
        array.array[...] = values
        return array

    def launch(
        self, function: Callable[..., None], options: Mapping[str, Any], grid: Any, block: Any,
        args: tuple[Any, ...],
    ) -> None:  # fmt: skip
        """Compile a kernel for its arguments' types and run it.

        Raises:
            AssertionError: If the launch reports a problem.
        """
        ptx = compiled(function, options, signature(args), self.target).ptx
        code = program(ptx)
        values: list[Any] = []
        for arg in args:
            if isinstance(arg, DeviceArray):
                numbers = (0, 0, arg.size, arg.dtype.itemsize, arg.address)
                numbers += (*arg.shape, *arg.strides)
                values += [np.int64(x) for x in numbers]
            elif isinstance(arg, (bool, np.bool_)):
                values.append(np.uint8(arg))
            elif isinstance(arg, (int, np.integer)):
                values.append(np.int64(arg))
            else:
                values.append(arg if isinstance(arg, np.floating) else np.float64(arg))
        names = [name for name, _ in code.parameters]
        assert len(names) == len(values), (function.__name__, len(names), len(values))
        with self.lock:
            done = Launch(
                code, dict(zip(names, values, strict=True)), _axes(grid), _axes(block), self.memory,
                **self.checks,
            ).run()  # fmt: skip
        name = function.__name__
        self.instructions[name] = self.instructions.get(name, 0) + done.instructions
        if done.problems:
            raise AssertionError(f"{name}: {done.problems}")

    @contextmanager
    def checking(self, **checks: Any) -> Iterator[None]:
        """Run with options of ``Launch`` meanwhile."""
        before, self.checks = self.checks, checks
        try:
            yield
        finally:
            self.checks = before


def _axes(sizes: Any) -> tuple[int, int, int]:
    sizes = tuple(sizes) if isinstance(sizes, tuple) else (sizes,)
    return (*sizes, *(1,) * (3 - len(sizes)))


class Kernel:
    """A kernel, launched as Numba's are."""

    def __init__(self, function: Callable[..., None], options: Mapping[str, Any]) -> None:
        self.function, self.options = function, options

    def __getitem__(self, launch: tuple[Any, ...]) -> Callable[..., None]:
        grid, block = launch[:2]
        return lambda *args: GPU.launch(self.function, self.options, grid, block, args)


GPU = Gpu()


def use_as_gpu() -> None:
    """Let this process use the cuda backend; the list of GPUs is empty."""
    from ntkdist.kernels import registry
    from ntkdist.kernels.cuda import device

    registry.cuda_unavailable = device.cuda_unavailable = lambda: None
    device.devices = lambda: []
    device.kernel_reports = lambda *_: []


def run_script() -> None:
    """Run the script that is the first argument, with the others, on the simulated GPU."""
    use_as_gpu()
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


def install() -> None:
    """Put ``GPU`` in the place of a device; no kernel may have been imported yet."""
    from numba import cuda
    from numba.cuda import dispatcher

    from ntkdist.kernels.cuda import intrinsics

    class Context:
        def get_memory_info(self) -> Any:
            return type("Memory", (), {"free": FREE_BYTES, "total": FREE_BYTES})

    cuda.device_array, cuda.to_device = GPU.device_array, GPU.to_device
    cuda.get_current_device = dispatcher.get_current_device = lambda: GPU
    cuda.current_context, cuda.synchronize, cuda.event = Context, lambda: None, _Event
    intrinsics.kernel = lambda function, **options: Kernel(function, options)
