"""Pairs of images in batches whose cells between pools fit the device's free memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numba import cuda

from ntkdist.errors import InputError
from ntkdist.kernels._cuda_intrinsics import SIMULATED
from ntkdist.kernels._cuda_plan import Classes, Layout
from ntkdist.kernels.cuda_device import SIMULATED_BYTES

SHARE = 0.5  # of the free memory, for what lies between the blocks of a batch of pairs
MOST_PAIRS = 2**22  # of a batch


def free_bytes() -> int:
    """Return the bytes of device memory that nobody has."""
    return SIMULATED_BYTES if SIMULATED else int(cuda.current_context().get_memory_info().free)


def batch_size(layout: Layout, upto: int, classes: Sequence[Classes] | None = None) -> int:
    """Return how many pairs to run at a time, from the memory that is free now."""
    itemsize = np.dtype(layout.plan.dtype).itemsize
    a_pair = 0
    for n, block in enumerate(layout.blocks[:upto]):
        of_block = classes[n] if classes else block.classes
        a_pair += 16 * (len(of_block.starts) - 1) * block.teams
        if block.pool:
            a_pair += 2 * itemsize * len(of_block.ids) * block.pixels
            a_pair += 2 * itemsize * ((block.H // block.pool) * (block.W // block.pool)) ** 2
    batch = int(min(SHARE * free_bytes() / a_pair, MOST_PAIRS))
    if batch < 1:
        raise InputError(
            f"one pair of images needs {a_pair / 2**20:.0f} MiB between pools, the GPU has "
            f"{free_bytes() / 2**20:.0f} MiB free; free some, or take backend cpu"
        )
    return batch


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
