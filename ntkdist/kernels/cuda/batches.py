"""Pairs of images in batches, and the device memory for what lies between their blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numba import cuda

from ntkdist.errors import InputError
from ntkdist.kernels.cuda.device import SIMULATED_BYTES
from ntkdist.kernels.cuda.intrinsics import SIMULATED
from ntkdist.kernels.cuda.layout import Block, Classes, Layout, Pooling

SHARE = 0.5  # of the free memory, for what lies between the blocks of a batch of pairs
MOST_BYTES = 2**31  # of it: enough to keep a GPU busy, and little to ask for
MOST_PAIRS = 2**22  # of a batch
MOST_TABLES = 256
BLOCKS_AT_ONCE = 4  # blocks of threads of a fused kernel that a multiprocessor has
WAVES = 8  # how often the blocks of threads that fit a GPU should go round at least


def free_bytes() -> int:
    """Return the bytes of device memory that nobody has."""
    return SIMULATED_BYTES if SIMULATED else int(cuda.current_context().get_memory_info().free)


def batch_size(
    layout: Layout, upto: int, classes: Sequence[Classes | Pooling] | None = None, held: int = 0
) -> int:
    """Return how many pairs to run at a time, from the memory that is free now.

    Args:
        layout: The network.
        upto: How many of its blocks.
        classes: Of each block, where they are not the layout's.
        held: Bytes that are held from the last time, and are used again.

    Returns:
        At least 1.

    Raises:
        InputError: If not even one pair fits.
    """
    itemsize = np.dtype(layout.plan.dtype).itemsize
    a_pair = 0
    for n, block in enumerate(layout.blocks[:upto]):
        of_block = classes[n] if classes else block.classes
        if isinstance(of_block, Classes):
            networks = 1 + len(layout.reads)
            a_pair += 16 * (len(of_block.starts) - 1) * block.teams * networks
            if block.pool:
                a_pair += 2 * itemsize * len(of_block.ids) * block.pixels
        if block.pool:
            a_pair += 2 * itemsize * windows_of(block)
    budget = min(SHARE * (free_bytes() + held), MOST_BYTES)
    batch = int(min(budget / a_pair, MOST_PAIRS))
    if batch < 1:
        raise InputError(
            f"one pair of images needs {a_pair / 2**20:.0f} MiB between pools, the GPU has "
            f"{free_bytes() / 2**20:.0f} MiB free; free some, or take backend cpu"
        )
    return batch


def windows_of(block: Block) -> int:
    """Return how many pairs of windows a pair of images has behind a block, as they are stored."""
    h, w = block.H // block.pool, block.W // block.pool
    return h * block.slots * h * w


def pieces_of(pooling: Pooling, pairs: int) -> int:
    """Return into how many pieces to cut the row displacements of an entry; more cost more."""
    multiprocessors = 1 if SIMULATED else int(cuda.get_current_device().MULTIPROCESSOR_COUNT)
    wanted = WAVES * BLOCKS_AT_ONCE * multiprocessors
    return max(1, min(pooling.count, wanted // (pairs * len(pooling.starts))))


class Workspace:
    """Device memory that is used again from batch to batch, and tables that stay there.

    Asking a GPU for memory and giving it back makes it wait; so does copying small tables.
    """

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, str], Any] = {}
        self._tables: dict[int, tuple[np.ndarray, Any]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held, tables left out."""
        return sum(int(room.nbytes) for room in self._rooms.values())

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array with whatever is in it; the next call with this name may overwrite it."""
        key, size = (name, np.dtype(dtype).str), math.prod(shape)
        room = self._rooms.get(key)
        if room is None or room.size < size:
            self._rooms.pop(key, None)  # first, or both would be there
            room = self._rooms[key] = cuda.device_array((size,), dtype)
        return room[:size].reshape(shape)

    def table(self, values: np.ndarray) -> Any:
        """Return a constant array on the device; the same for the same object."""
        if id(values) not in self._tables:
            if len(self._tables) >= MOST_TABLES:
                self._tables.clear()
            self._tables[id(values)] = (values, cuda.to_device(np.ascontiguousarray(values)))
        return self._tables[id(values)][1]


def pairs_of(n: int, m: int, symmetric: bool, batch: int) -> Iterator[np.ndarray]:
    """Yield the pairs of a block, (≤ batch, 2), row by row; of a symmetric one the upper half."""
    waiting: list[np.ndarray] = []
    count = 0
    for i in range(n):
        columns = np.arange(i if symmetric else 0, m)
        waiting.append(np.stack([np.full(len(columns), i), columns], axis=1))
        count += len(columns)
        while count >= batch:
            together = np.concatenate(waiting)
            yield together[:batch]
            waiting, count = [together[batch:]], count - batch
    if count:
        yield np.concatenate(waiting)
