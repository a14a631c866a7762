"""GPU threads simulated: what ``kernels.cuda.intrinsics`` has, without a GPU or numba-cuda.

The threads of a block are greenlets of one thread: each runs up to a barrier, always in the same
order, so a run is the same every time; a switch costs a microsecond. (Numba's own simulator gives
every thread one of the operating system's and polls them: a barrier costs more than all
that happens between two.) ``backwards`` runs them in the opposite order, which finds what depends
on it. Device functions are plain functions, pointers know their array's bounds, and new memory
holds NaN.
"""

from __future__ import annotations

import itertools
import os
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from greenlet import getcurrent, greenlet
from numba import types
from numba.np import numpy_support

# few, so that small images keep all of them busy
LANES = int(os.environ.get("NTKDIST_SIMULATED_LANES", "4"))
TEAMS = 2
THREADS = TEAMS * LANES
SIMPLE = 1
SIDE = 2
FREE_BYTES = 64 * 2**20
#: Between the interpreter and a script that takes the cuda backend, from the repository's root.
ON_SIMULATOR = ("-c", "from tests.kernels.simulator import run_script; run_script()")


def install() -> None:
    """Put this module in the place of ``intrinsics``; no kernel may have been imported yet."""
    name = "ntkdist.kernels.cuda.intrinsics"
    if sys.modules.setdefault(name, sys.modules[__name__]) is not sys.modules[__name__]:
        raise RuntimeError(f"{name} was imported before the simulator")


def use_as_gpu() -> None:
    """Let this process take the cuda backend; no GPU is listed."""
    from ntkdist.kernels import registry
    from ntkdist.kernels.cuda import device

    registry.cuda_unavailable = device.cuda_unavailable = lambda: None
    device.devices = lambda: []
    device.kernel_reports = lambda *_: []


def run_script() -> None:
    """Run the script that is the first argument, with the others, on simulated threads."""
    use_as_gpu()
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


def each(function: Any, count: int) -> Any:
    """Return a kernel set up to run one thread for each of ``count`` things."""
    return function[max(1, count), SIMPLE]


def free_bytes() -> int:
    return FREE_BYTES


def multiprocessors() -> int:
    return 1


class Axes:
    """Three numbers, as CUDA has them."""

    __slots__ = ("x", "y", "z")

    def __init__(self, x: int = 1, y: int = 1, z: int = 1) -> None:
        self.x, self.y, self.z = x, y, z

    @classmethod
    def of(cls, sizes: int | tuple[int, ...]) -> Axes:
        """Return what a launch gives as a number or a tuple."""
        return cls(*sizes) if isinstance(sizes, tuple) else cls(sizes)

    def points(self) -> Iterator[tuple[int, int, int]]:
        """Yield all (x, y, z), x the fastest."""
        for z, y, x in itertools.product(range(self.z), range(self.y), range(self.x)):
            yield x, y, z


class DeviceArray:
    """An array on the device: its elements are reached by copies alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.on_host = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.size, self.nbytes = array.size, array.nbytes

    def __len__(self) -> int:
        return len(self.on_host)

    def __getitem__(self, key: Any) -> DeviceArray:
        return DeviceArray(self.on_host[key])

    def reshape(self, *shape: Any) -> DeviceArray:
        return DeviceArray(self.on_host.reshape(*shape))

    def is_c_contiguous(self) -> bool:
        return self.on_host.flags.c_contiguous

    def copy_to_host(self) -> np.ndarray:
        return self.on_host.copy()

    def copy_to_device(self, source: DeviceArray) -> None:
        self.on_host[...] = source.on_host


class _Shared:
    """Shared memory of the block that runs."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[str, int], np.ndarray] = {}

    def array(self, shape: Any, dtype: Any) -> np.ndarray:
        """Return the block's array of the line that asks."""
        frame = sys._getframe(1)
        line = frame.f_code.co_filename, frame.f_lineno
        if line not in self.arrays:
            if isinstance(dtype, types.Type):
                dtype = numpy_support.as_dtype(dtype)
            self.arrays[line] = _unset(shape, dtype)
        return self.arrays[line]


class _Local:
    """Memory of the thread that runs."""

    @staticmethod
    def array(shape: Any, dtype: Any) -> np.ndarray:
        """Return a new array."""
        return _unset(shape, numpy_support.as_dtype(dtype))


class _Event:
    """An event of a device without a clock."""

    def record(self) -> None:
        pass

    synchronize = record

    def elapsed_time(self, other: _Event) -> float:
        return 0.0


def _unset(shape: Any, dtype: Any) -> np.ndarray:
    """Return an array that no one may read yet: NaN where the dtype has it."""
    array = np.empty(shape, dtype)
    if array.dtype.kind == "f":
        array.fill(np.nan)
    return array


class Module:
    """What kernels and backend see as ``cuda``."""

    def __init__(self) -> None:
        self.threadIdx = Axes(0, 0, 0)
        self.blockIdx = Axes(0, 0, 0)
        self.blockDim = Axes()
        self.gridDim = Axes()
        self.shared = _Shared()
        self.local = _Local()
        self.event = _Event
        self.thread = 0  # counted over the block

    def syncthreads(self) -> None:
        """Wait for the block's other threads."""
        getcurrent().parent.switch()

    def synchronize(self) -> None:
        """Wait for the device: kernels have ended when a launch returns."""

    def grid(self, ndim: int) -> int:
        """Return the thread's number in the grid; one dimension only."""
        assert ndim == 1
        return self.blockIdx.x * self.blockDim.x + self.threadIdx.x

    @staticmethod
    def fma(x: Any, y: Any, z: Any) -> Any:
        """Return x·y + z, here rounded twice."""
        return x * y + z

    @staticmethod
    def device_array(shape: Any, dtype: Any = np.float64) -> DeviceArray:
        return DeviceArray(_unset(shape, dtype))

    @staticmethod
    def to_device(array: np.ndarray) -> DeviceArray:
        return DeviceArray(np.array(array, order="C"))

    def run(self, function: Callable[..., None], args: tuple[Any, ...]) -> None:
        """Run the block that ``blockIdx`` names."""
        self.shared.arrays.clear()
        points = list(self.blockDim.points())
        waiting = {k: greenlet(function) for k in range(len(points))}
        first = True
        while waiting:
            order = sorted(waiting, reverse=_backwards)
            for k in order:
                self.thread = k
                self.threadIdx.x, self.threadIdx.y, self.threadIdx.z = points[k]
                waiting[k].switch(*(args if first else ()))
                if waiting[k].dead:
                    del waiting[k]
            first = False


cuda = Module()
_one_launch = threading.RLock()
_backwards = False


@contextmanager
def backwards() -> Iterator[None]:
    """Run the threads of every block in the opposite order meanwhile."""
    global _backwards
    _backwards = True
    try:
        yield
    finally:
        _backwards = False


class Kernel:
    """A kernel, launched as Numba's are."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function

    def __getitem__(self, launch: tuple[Any, ...]) -> Callable[..., None]:
        grid, block = (Axes.of(sizes) for sizes in launch[:2])

        def run(*args: Any) -> None:
            plain = tuple(arg.on_host if isinstance(arg, DeviceArray) else arg for arg in args)
            with _one_launch:
                cuda.blockDim, cuda.gridDim = block, grid
                for point in grid.points():
                    cuda.blockIdx.x, cuda.blockIdx.y, cuda.blockIdx.z = point
                    cuda.run(self.function, plain)

        return run


def device(function: Any) -> Any:
    """Return a function that kernels call; here as it is."""
    return function


def kernel(function: Any, **options: Any) -> Any:
    """Return a function as kernel."""
    return Kernel(function)


class _Pointer:
    """An element of an array, as C sees it, with the array's bounds."""

    __slots__ = ("array", "at")

    def __init__(self, array: np.ndarray, at: int) -> None:
        self.array = array
        self.at = at


def pointer(array: Any, at: int) -> _Pointer:
    """Return a pointer to an element of a contiguous array, counted from its first."""
    return _Pointer(array.reshape(-1), at)


def advance(start: _Pointer, by: int) -> _Pointer:
    """Return a pointer ``by`` elements further."""
    return _Pointer(start.array, start.at + by)


def fetch(start: _Pointer, by: int) -> Any:
    """Return the element ``by`` behind a pointer, of an array that no kernel writes to."""
    at = start.at + by
    if not 0 <= at < len(start.array):
        raise IndexError(f"element {at} of {len(start.array)}")
    return start.array[at]


def quotient(x: int, y: int) -> int:
    """Return x // y of whole numbers below 2³¹, none negative."""
    assert 0 <= x < 2**31
    assert 0 < y < 2**31
    return x // y


def put(start: _Pointer, by: int, value: Any) -> None:
    """Store an element ``by`` behind a pointer."""
    at = start.at + by
    if not 0 <= at < len(start.array):
        raise IndexError(f"element {at} of {len(start.array)}")
    start.array[at] = value


peek = fetch

# of each thread its last two values: two sets take turns, so one barrier is enough
_slots: list[dict[int, Any]] = [{}, {}]
_turns: dict[int, int] = {}


def _exchange(value: Any) -> list[Any]:
    """Return the values of a team's lanes."""
    thread = cuda.thread
    turn = _turns.get(thread, 0)
    _turns[thread] = 1 - turn
    slots = _slots[turn]
    slots[thread] = value
    cuda.syncthreads()
    first = thread - thread % LANES
    return [slots[k] for k in range(first, first + LANES)]


def beside(d: Any, t: Any, e: Any, u: Any) -> tuple[Any, Any, Any, Any]:
    """Return e and u of the lane to the left, d and t of that to the right; own at an end."""
    lane = cuda.thread % LANES
    lanes = _exchange((d, t, e, u))
    return (*lanes[max(0, lane - 1)][2:], *lanes[min(LANES - 1, lane + 1)][:2])


def beside_one(d: Any, e: Any) -> tuple[Any, Any]:
    """Return e of the lane to the left and d of that to the right; own at an end."""
    lane = cuda.thread % LANES
    lanes = _exchange((d, e))
    return lanes[max(0, lane - 1)][1], lanes[min(LANES - 1, lane + 1)][0]


def over_lanes(value: Any) -> Any:
    """Return the sum of all lanes' values, added in the same order in each."""
    values = _exchange(value)
    while len(values) > 1:
        values = [x + y for x, y in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def barrier() -> None:
    """Wait for the lanes of a team; what they stored is seen by all."""
    cuda.syncthreads()


block_barrier = barrier  # it waits for more than it must, for all of the block


def copy_unit(to: _Pointer, at: int, start: _Pointer, by: int) -> None:
    """Copy 16 bytes to shared memory; indices count elements."""
    for k in range(16 // start.array.itemsize):
        put(to, at + k, fetch(start, by + k))


def await_copies() -> None:
    """Wait for the copies that this thread began, which here are done."""


def inverse_root(dtype: str) -> Any:
    """Return the function 1/√x of a dtype."""
    one = np.dtype(dtype).type(1)
    return lambda x: one / np.sqrt(x)


root = np.sqrt
exponential = np.exp
