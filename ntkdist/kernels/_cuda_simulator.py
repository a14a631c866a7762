"""``_cuda_intrinsics`` on Numba's simulator: a team is a block of a few Python threads.

Device functions are plain functions here, and pointers know their array's bounds.
"""

from __future__ import annotations

import sys
import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numba import cuda, types
from numba.np import numpy_support

# a barrier costs more than all that happens between two of them
LANES = 4


def device(function: Any) -> Any:
    """Return a function that kernels call; here as it is."""
    return function


def kernel(function: Any, **options: Any) -> Any:
    """Return a function as kernel."""
    _share_arrays()
    return cuda.jit(function)


@lru_cache(maxsize=1)
def _share_arrays() -> None:
    """Give all threads of a block the same shared array, whenever they ask for it.

    The simulator looks an array up by the line that asks for it and stores a new one in two
    steps, between which another thread may store its own; here it is one step.
    """
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    def array(self: Any, shape: Any, dtype: Any) -> np.ndarray:
        frame = sys._getframe(1)
        line = frame.f_code.co_filename, frame.f_lineno
        if isinstance(dtype, types.Type):
            dtype = numpy_support.as_dtype(dtype)
        return self._allocations.setdefault(line, np.empty(shape, dtype))

    FakeCUDAShared.array = array


class _Pointer:
    """An element of an array, as C sees it, with the array's bounds."""

    __slots__ = ("array", "at")

    def __init__(self, array: np.ndarray, at: int) -> None:
        self.array = array
        self.at = at


def pointer(array: Any, at: int) -> _Pointer:
    """Return a pointer to an element of a contiguous array, counted from its first."""
    while not isinstance(array, np.ndarray):  # the simulator's wrappers
        array = array.__dict__.get("_item", None) or array._ary
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


def put(start: _Pointer, by: int, value: Any) -> None:
    """Store an element ``by`` behind a pointer."""
    at = start.at + by
    if not 0 <= at < len(start.array):
        raise IndexError(f"element {at} of {len(start.array)}")
    start.array[at] = value


peek = fetch

_slots: list[list[Any]] = [[None] * LANES, [None] * LANES]
_turns = [0] * LANES


def _exchange(value: Any) -> list[Any]:
    """Return every lane's value; two lists take turns, so one barrier is enough."""
    thread: Any = threading.current_thread()
    lane = thread.threadIdx.x
    slots = _slots[_turns[lane] % 2]
    _turns[lane] += 1
    slots[lane] = value
    thread.syncthreads()
    return slots


def beside(d: Any, t: Any, e: Any, u: Any) -> tuple[Any, Any, Any, Any]:
    """Return e and u of the lane to the left, d and t of that to the right; own at an end."""
    lane: int = threading.current_thread().threadIdx.x  # type: ignore[attr-defined]
    slots = _exchange((d, t, e, u))
    return (*slots[max(0, lane - 1)][2:], *slots[min(LANES - 1, lane + 1)][:2])


def over_lanes(value: Any) -> Any:
    """Return the sum of all lanes' values, added in the same order in each."""
    slots = list(_exchange(value))
    while len(slots) > 1:
        slots = [x + y for x, y in zip(slots[::2], slots[1::2], strict=True)]
    return slots[0]


def barrier() -> None:
    """Wait for the lanes of a team; what they stored is seen by all."""
    threading.current_thread().syncthreads()  # type: ignore[attr-defined]


block_barrier = barrier  # a team is all of a block


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
