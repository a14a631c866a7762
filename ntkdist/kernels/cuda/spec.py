"""What is known of a fused kernel (``cuda.fused``) when it is compiled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntkdist.kernels.cuda.intrinsics import LANES, SIMULATED

# Two numbers a cell and some forty more: what fits 255 registers with room for the loads
MOST_CELLS = 64
# Of a block of threads: four warps; fewer are simulated
THREADS = 2 * LANES if SIMULATED else 128
TEAMS = THREADS // LANES
# Of a thread in float32 with one column, so that a multiprocessor has four blocks of threads
MOST_REGISTERS = 128
# As much shared memory as a block has without asking
SHARED_BYTES = 48 * 1024


@dataclass(frozen=True)
class Fused:
    """What is known when a fused kernel is compiled.

    Attributes:
        H: Rows of the block's images.
        W: Columns.
        pitch: Numbers from one row of a plane to the next.
        plane: Numbers of a plane.
        columns: Columns of a lane.
        channels: Channels of a pixel; 0 where the block begins with pooled windows.
        layers: Nonlinearities of the block; 3 stands for more.
        signed: Whether the first of them meets negative correlations.
        sums: Whether the block ends in sums over positions.
        pools: Whether it ends in sums over pairs of 2 × 2 windows; else, and without ``sums``,
            its cells are stored.
        parted: How many window displacements along a row the pooled windows come in parts of (see
            ``Parts``), if the block begins with such; else 0.
        reads: Shallower networks that end in the same sums on the way.
        buffers: Layers that shared memory holds at a time, 2 if the next is copied ahead (of a
            single one there is none); 0 where images are read from device memory.
        dtype: ``float32`` or ``float64``.
    """

    H: int
    W: int
    pitch: int
    plane: int
    columns: int
    channels: int
    layers: int
    signed: bool
    sums: bool
    pools: bool
    parted: int
    reads: int
    buffers: int
    dtype: str

    @property
    def room(self) -> int:
        """Numbers of both images that one layer needs: roots, half variances, four rows of sums."""
        return room_of(self.H, self.pitch)

    @property
    def lanes_of_class(self) -> int:
        """Lanes that share a class."""
        return -(-self.W // self.columns)

    @property
    def together(self) -> int:
        """Classes of a team at a time."""
        return LANES // self.lanes_of_class

    @property
    def parts(self) -> Parts:
        """How its pooled windows are cut."""
        return Parts.of(self.W)

    @property
    def layers_size(self) -> int:
        """Numbers of the layers in shared memory; a single layer has no next one."""
        return min(self.buffers, self.layers) * self.room

    @property
    def kept(self) -> int:
        """Rows of windows whose sums stay in registers: all where there are registers, or no room.

        The others are kept in shared memory, each thread's own.
        """
        rows = self.H // 2
        if self.layers == 1 or self.H <= 16:
            return rows
        limit = SHARED_BYTES // np.dtype(self.dtype).itemsize
        return next(kept for kept in range(rows + 1) if self._shared(kept) <= limit)

    def _exchange(self, kept: int) -> int:
        return max(1, self.layers_size, 2 * THREADS * kept if self.pools else 0)

    def _shared(self, kept: int) -> int:
        in_memory = self.H // 2 - kept if self.pools else 0
        return self._exchange(kept) + 2 * THREADS * in_memory

    @property
    def exchange_size(self) -> int:
        """Numbers of shared memory in front of the sums kept there.

        Layers, or where a pool's sums from registers meet.
        """
        return self._exchange(self.kept)

    @property
    def shared_size(self) -> int:
        """Numbers of shared memory."""
        return self._shared(self.kept)


@dataclass(frozen=True)
class Parts:
    """How the pairs of windows of a pool are cut among blocks of threads, along the columns.

    Window J of a row image meets window J + Q of a column image in the classes q = 2Q − 1, 2Q and
    2Q + 1 (modulo W). A block of threads has ``run`` classes q next to each other, from an even one
    on; the last of them, an odd one, adds to windows that otherwise belong to the next block. So
    windows are stored in ``half`` + 1 slots a block: its own, and last what it has of the next
    block's first.

    Attributes:
        W: Columns in front of the pool.
        run: Classes of a block of threads, even.
    """

    W: int
    run: int

    @classmethod
    def of(cls, W: int) -> Parts:
        """Return how windows of an image with W columns, W even, are cut."""
        return cls(W, min(W, TEAMS * (LANES // W)))

    @property
    def half(self) -> int:
        """Window displacements of a block of threads."""
        return self.run // 2

    @property
    def count(self) -> int:
        """Blocks of threads that the classes of one p take."""
        return -(-self.W // self.run)

    @property
    def slots(self) -> int:
        """Slots of all of them."""
        return self.count * (self.half + 1)


def room_of(H: int, pitch: int) -> int:
    """Return how many numbers of both images a layer needs."""
    return 4 * (H + 1) * pitch


def columns_of(W: int) -> int:
    """Return how many columns a lane has."""
    return -(-W // LANES)


def buffers_of(
    H: int, W: int, pitch: int, layers: int, count: int, dtype: str, *, pools: bool
) -> int:
    """Return how many layers to keep in shared memory.

    Args:
        H: Rows.
        W: Columns.
        pitch: Numbers from one row to the next.
        layers: Nonlinearities of the block.
        count: Displacement classes of an entry.
        dtype: Of the numbers.
        pools: Whether the block ends in a pool's sums.

    Returns:
        2, so that one is copied while another is in use; 1 where there is no more room; 0 where
        there is none, or an entry has too few classes for a block of teams to share what is copied.
    """
    if H * W == 1 or (count < H * W and not pools):
        return 0
    fit = SHARED_BYTES // np.dtype(dtype).itemsize // room_of(H, pitch)
    return 2 if fit >= min(2, layers) else fit


def can_pool(H: int, W: int, edge: int, dtype: str) -> bool:
    """Return whether a fused kernel can add up the windows behind its block."""
    meeting = 2 * THREADS * (H // 2) * np.dtype(dtype).itemsize
    return edge == 2 and H % 2 == 0 and W % 2 == 0 and W <= LANES and meeting <= SHARED_BYTES
