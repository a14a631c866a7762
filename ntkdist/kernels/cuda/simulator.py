"""``cuda.intrinsics`` without a GPU: a team is a few simulated threads (``cuda.threads``).

Device functions are plain functions here, and pointers know their array's bounds.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ntkdist.kernels.cuda.threads import CUDA, Kernel

# few, so that small images keep all of them busy
LANES = int(os.environ.get("NTKDIST_SIMULATED_LANES", "4"))


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


def put(start: _Pointer, by: int, value: Any) -> None:
    """Store an element ``by`` behind a pointer."""
    at = start.at + by
    if not 0 <= at < len(start.array):
        raise IndexError(f"element {at} of {len(start.array)}")
    start.array[at] = value


peek = fetch

_slots: list[dict[int, Any]] = [{}, {}]
_turns: dict[int, int] = {}


def _exchange(value: Any) -> list[Any]:
    """Return the values of a team's lanes; two sets take turns, so one barrier is enough."""
    thread = CUDA.thread
    turn = _turns.get(thread, 0)
    _turns[thread] = 1 - turn
    slots = _slots[turn]
    slots[thread] = value
    CUDA.syncthreads()
    first = thread - thread % LANES
    return [slots[k] for k in range(first, first + LANES)]


def beside(d: Any, t: Any, e: Any, u: Any) -> tuple[Any, Any, Any, Any]:
    """Return e and u of the lane to the left, d and t of that to the right; own at an end."""
    lane = CUDA.thread % LANES
    lanes = _exchange((d, t, e, u))
    return (*lanes[max(0, lane - 1)][2:], *lanes[min(LANES - 1, lane + 1)][:2])


def beside_one(d: Any, e: Any) -> tuple[Any, Any]:
    """Return e of the lane to the left and d of that to the right; own at an end."""
    lane = CUDA.thread % LANES
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
    CUDA.syncthreads()


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
