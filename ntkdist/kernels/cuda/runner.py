"""The blocks of a network on batches of pairs of images, and the device memory between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ntkdist.errors import InputError
from ntkdist.kernels.cuda.fused import Parts, fused_kernel
from ntkdist.kernels.cuda.general import general_kernel, pool_kernel
from ntkdist.kernels.cuda.intrinsics import (
    LANES,
    TEAMS,
    THREADS,
    cuda,
    each,
    free_bytes,
    multiprocessors,
)
from ntkdist.kernels.cuda.layout import Block, Classes, Layout, Pooling
from ntkdist.kernels.cuda.streamed import blocks_at_once, streamed_kernel

SHARE = 0.5  # of the free memory, for what lies between the blocks of a batch of pairs
MOST_BYTES = 2**31  # of it: enough to keep a GPU busy, and little to ask for
MOST_PAIRS = 2**22  # of a batch
# Cells and layers of a launch, for less than a second on a slow GPU: a process is stopped between
# launches, and a display's driver ends kernels that take some seconds. The 24 multiprocessors of an
# RTX 4060 execute at most 7.5e12 instructions a second, and 1/64 of that in float64. A cell and
# layer of ``cuda.fused`` take 51: 1.5e11 of them a second.
MOST_WORK = {"float32": 1e11, "float64": 3e9}
GENERAL = 10  # times the work: what a cell and layer of ``cuda.general`` take at least
MOST_TABLES = 256
BLOCKS_AT_ONCE = 4  # blocks of threads of a fused kernel that a multiprocessor has
WAVES = 8  # at least so many times the blocks of threads that a GPU runs at once


def windows_of(block: Block) -> int:
    """Return how many pairs of windows a pair of images has behind a block, as they are stored."""
    h, w = block.H // block.pool, block.W // block.pool
    return h * block.slots * h * w


def pieces_of(pooling: Pooling, pairs: int) -> int:
    """Return into how many pieces to cut the row displacements of an entry: few, for a busy GPU."""
    wanted = WAVES * BLOCKS_AT_ONCE * multiprocessors()
    return max(1, min(pooling.count, wanted // (pairs * len(pooling.starts))))


def to_device(values: np.ndarray) -> Any:
    """Return a copy on the device, in C order."""
    return cuda.to_device(np.ascontiguousarray(values))


class Workspace:
    """Device memory that is reused from batch to batch, and constant tables on the device.

    Allocating and freeing device memory makes the GPU wait; so does copying small tables.
    """

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, str], Any] = {}
        self._tables: dict[int, tuple[np.ndarray, Any]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held, tables left out."""
        return sum(int(kept.nbytes) for kept in self._arrays.values())

    def clear(self) -> None:
        """Free what is held, tables left out."""
        self._arrays.clear()

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array that is not cleared; the next call with this name may overwrite it."""
        key, size = (name, np.dtype(dtype).str), math.prod(shape)
        kept = self._arrays.get(key)
        if kept is None or kept.size < size:
            self._arrays.pop(key, None)  # freed first: both need not fit
            kept = self._arrays[key] = cuda.device_array((size,), dtype)
        return kept[:size].reshape(shape)

    def table(self, values: np.ndarray) -> Any:
        """Return a constant array on the device; the same for the same object."""
        if id(values) not in self._tables:
            if len(self._tables) >= MOST_TABLES:
                self._tables.clear()
            self._tables[id(values)] = (values, to_device(values))
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


def pairs_that_fit(
    bytes_of_pair: int, work_of_pair: float, dtype: str, workspace: Workspace
) -> int:
    """Return how many pairs of images to take at a time.

    Args:
        bytes_of_pair: Device memory that a pair needs.
        work_of_pair: Cells and layers of a pair in one launch, see ``MOST_WORK``.
        dtype: Of the cells.
        workspace: What is held already counts as free.

    Raises:
        InputError: If not even one pair fits the memory that is free now.
    """
    fit = int(SHARE * (free_bytes() + workspace.nbytes) / bytes_of_pair)
    if fit < 1:
        raise InputError(
            f"one pair of images needs {bytes_of_pair / 2**20:.0f} MiB between pools, the GPU has "
            f"{free_bytes() / 2**20:.0f} MiB free; free some, or take backend cpu"
        )
    enough = int(min(MOST_BYTES / bytes_of_pair, MOST_WORK[dtype] / work_of_pair, MOST_PAIRS))
    return min(fit, max(1, enough))


def work_of(block: Block, classes: Classes | Pooling) -> float:
    """Return how many cells of how many layers a pair of images has in a block's launch."""
    if isinstance(classes, Pooling):
        count = (2 * classes.count + 1) * len(classes.starts) * Parts.of(block.W).run
    else:
        count = len(classes.ids)
    return count * block.pixels * (block.last + 1) * (1 if block.fused is not None else GENERAL)


class BlockRunner:
    """Runs the blocks of networks on pairs of images, in batches (see ``pairs_that_fit``).

    Attributes:
        dtype: Of the numbers of an image.
        workspace: The memory between blocks.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.workspace = Workspace()

    def batch_size(
        self, layout: Layout, upto: int, classes: Sequence[Classes | Pooling] | None = None
    ) -> int:
        """Return how many pairs of images to take at a time through the first ``upto`` blocks.

        ``classes`` are those of each block, where they are not the layout's.

        Raises:
            InputError: If not even one pair fits.
        """
        itemsize = np.dtype(layout.plan.dtype).itemsize
        a_pair, work = 0, 1.0
        for n, block in enumerate(layout.blocks[:upto]):
            of_block = classes[n] if classes else block.classes
            work = max(work, work_of(block, of_block))
            if isinstance(of_block, Classes):
                networks = 1 + len(layout.reads)
                a_pair += 16 * (len(of_block.starts) - 1) * block.teams * networks
                if block.pool:
                    a_pair += 2 * itemsize * len(of_block.ids) * block.pixels
            if block.pool:
                a_pair += 2 * itemsize * windows_of(block)
        return pairs_that_fit(a_pair, work, self.dtype, self.workspace)

    def run(
        self, layout: Layout, A: Any, B: Any, pairs: Any, classes: Sequence[Classes | Pooling]
    ) -> Any:
        """Run the first blocks, as many as classes are given, on pairs (n, 2) of images.

        Returns:
            Sums (n, chunks, networks, 2) float64 at the networks' end, or the pooled windows
            (n, 2, h·slots, h, w) behind the last of these blocks; both until the next run.
        """
        work = self.workspace
        empty = work.array("nothing", (1,) * 5, self.dtype)
        pooled, n = empty, pairs.shape[0]
        for at, (block, of_block) in enumerate(zip(layout.blocks, classes, strict=False)):
            h, w = (edge // max(1, block.pool) for edge in (block.H, block.W))
            windows = empty
            if block.pool:  # two take turns, since a block reads the last one's
                shape = (n, 2, h * block.slots, h, w)
                windows = work.array(f"windows {at % 2}", shape, self.dtype)
            if isinstance(of_block, Pooling):
                rows = of_block.chunks(pieces_of(of_block, n))
                table, no_sums = to_device(rows.ravel()), work.array("sums", (1,) * 4, np.float64)
                which = len(rows), work.table(of_block.columns), table
                self._stage(layout, block, which, pairs, A, B, pooled, no_sums, windows)
                pooled = windows
                continue
            chunks, count = len(of_block.starts) - 1, len(of_block.ids)
            networks = 1 + len(layout.reads)
            sums = work.array("sums", (n, chunks * block.teams, networks, 2), np.float64)
            cells = empty
            if block.pool:
                cells = work.array("cells", (n, 2, count, block.H, block.W), self.dtype)
            # each kernel's flat pointers do the indexing
            self._stage(
                layout, block, (chunks, work.table(of_block.starts), work.table(of_block.ids)),
                pairs, A, B, pooled, sums, cells,
            )  # fmt: skip
            if not block.pool:
                return sums
            each(pool_kernel(self.dtype), n * (h * w) ** 2)(
                cells, work.table(of_block.slots), count, n * (h * w) ** 2, block.pool, block.H,
                block.W, windows,
            )  # fmt: skip
            pooled = windows
        return pooled

    def _stage(
        self, layout: Layout, block: Block, classes: tuple[int, Any, Any], pairs: Any, A: Any,
        B: Any, pooled: Any, sums: Any, cells: Any,
    ) -> None:  # fmt: skip
        work = self.workspace
        tasks = pairs.shape[0] * classes[0] * block.teams
        blocks = -(-tasks // TEAMS)
        if block.fused is not None:
            function = fused_kernel(block.fused)
            scratch: tuple[Any, ...] = ()
            if block.streamed:
                blocks = min(blocks, blocks_at_once(block.fused) * multiprocessors())
                shape = (blocks * TEAMS, block.H, block.fused.columns, 2, LANES)
                function = streamed_kernel(block.fused)
                scratch = (work.array("scratch", shape, self.dtype),)
            function[blocks, THREADS](
                pairs, tasks, block.teams, *classes, A, B, layout.size, pooled,
                work.table(block.planes), work.table(block.fused_units), block.last,
                work.table(layout.weights), sums, cells, *scratch,
            )  # fmt: skip
            return
        blocks = min(blocks, 8 * multiprocessors())
        scratch = work.array("scratch", (blocks * TEAMS, 6, block.pixels), self.dtype)
        channels, weighted = layout.plan.shape[2], bool(layout.plan.chain.windows)
        general_kernel(self.dtype)[blocks, THREADS](
            pairs, tasks, *classes, A, B, layout.size, pooled, work.table(block.table),
            work.table(block.units), block.last, sums, cells, block.H, block.W, block.pitch,
            block.plane, channels, block.pool == 0, block.pool == 0 and weighted,
            work.table(layout.weights), scratch,
        )  # fmt: skip
