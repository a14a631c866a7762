"""Blocks of simulated threads: one after the other up to a barrier, always in the same order.

Numba's simulator gives every thread one of the operating system's and polls them, which makes a
barrier cost more than all that happens between two. Here a block's threads are greenlets of one
thread: a switch costs a microsecond, and a run is the same every time. ``backwards`` runs them in
the opposite order, which finds what depends on it.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import numpy as np
from greenlet import getcurrent, greenlet
from numba import types
from numba.np import numpy_support


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
            self.arrays[line] = np.empty(shape, dtype)
            if self.arrays[line].dtype.kind == "f":
                self.arrays[line].fill(np.nan)  # nobody may count on what was there before
        return self.arrays[line]


class _Local:
    """Memory of the thread that runs."""

    @staticmethod
    def array(shape: Any, dtype: Any) -> np.ndarray:
        """Return a new array."""
        return np.full(shape, np.nan, numpy_support.as_dtype(dtype))


class Module:
    """What kernels see as ``cuda``."""

    def __init__(self) -> None:
        self.threadIdx = Axes(0, 0, 0)
        self.blockIdx = Axes(0, 0, 0)
        self.blockDim = Axes()
        self.gridDim = Axes()
        self.shared = _Shared()
        self.local = _Local()
        self.thread = 0  # counted over the block

    def syncthreads(self) -> None:
        """Wait for the block's other threads."""
        getcurrent().parent.switch()

    def grid(self, ndim: int) -> int:
        """Return the thread's number in the grid; one dimension only."""
        assert ndim == 1
        return self.blockIdx.x * self.blockDim.x + self.threadIdx.x

    @staticmethod
    def fma(x: Any, y: Any, z: Any) -> Any:
        """Return x·y + z, here rounded twice."""
        return x * y + z

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


CUDA = Module()
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
    """A kernel, with the calls that Numba's have."""

    def __init__(self, function: Callable[..., None]) -> None:
        scope = {**function.__globals__, "cuda": CUDA}
        self.py_func = FunctionType(function.__code__, scope, function.__name__)

    def __getitem__(self, launch: tuple[Any, ...]) -> Callable[..., None]:
        grid, block = (Axes.of(sizes) for sizes in launch[:2])

        def run(*args: Any) -> None:
            plain = tuple(_plain(arg) for arg in args)
            with _one_launch:
                CUDA.blockDim, CUDA.gridDim = block, grid
                for point in grid.points():
                    CUDA.blockIdx.x, CUDA.blockIdx.y, CUDA.blockIdx.z = point
                    CUDA.run(self.py_func, plain)

        return run


def _plain(arg: Any) -> Any:
    """Return a simulated device array as NumPy's."""
    return arg._ary if hasattr(arg, "_ary") else arg
