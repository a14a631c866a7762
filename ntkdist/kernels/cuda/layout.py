"""A chain on images of one shape as the tables that the GPU kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from ntkdist.kernels import chain as columns
from ntkdist.kernels.chain import Chain, Link, Plan, plan_of
from ntkdist.kernels.cuda import general as tables
from ntkdist.kernels.cuda.fused import (
    MOST_CELLS,
    Fused,
    Parts,
    best_columns,
    buffers_of,
    can_pool,
    columns_of,
)
from ntkdist.kernels.cuda.intrinsics import LANES, TEAMS, shared_bytes
from ntkdist.kernels.cuda.streamed import MOST_COLUMNS, layers_of_pass, layers_to_know

# A team's share of an entry: enough classes to keep the ends cheap, enough teams to fill a GPU
_STEPS, _CHUNKS = 8, 32
# of blocks of threads that share a chunk: of large images a launch has few pairs
_SHARED_CHUNKS = 256


@dataclass(frozen=True)
class Classes:
    """Displacement classes of a block, in the chunks that teams take.

    Attributes:
        ids: (count,) p·W + q.
        starts: (chunks + 1,) where each chunk starts.
        slots: (H·W,) where a class is among ``ids``; −1 where it is not.
    """

    ids: np.ndarray
    starts: np.ndarray
    slots: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, H: int, W: int, *, by_rows: bool, teams: int = 1) -> Classes:
        """Cut ascending classes p·W + q of an H × W block into chunks for so many teams each.

        ``by_rows`` cuts one for each p.
        """
        if by_rows:
            starts = np.append(np.unique(ids // W, return_index=True)[1], len(ids)).astype(np.int64)
        else:
            together = max(1, LANES // W)
            most = _CHUNKS if teams == 1 else _SHARED_CHUNKS
            chunks = max(1, min(most, len(ids) // (_STEPS * together * teams)))
            starts = np.linspace(0, len(ids), chunks + 1).astype(np.int64)
        slots = np.full(H * W, -1, np.int64)
        slots[ids] = np.arange(len(ids))
        return cls(np.asarray(ids, np.int64), starts, slots)


@dataclass(frozen=True)
class Pooling:
    """Displacements of windows behind a block whose kernel adds them up, in the chunks of teams.

    Attributes:
        first: The first P, negative where they wrap.
        count: How many P.
        starts: The first q of each part (``Parts``) that is needed.
        columns: (W,) int64, for each q itself if its class is needed, else one that is: the
            windows in front of other classes may never have been written.
    """

    first: int
    count: int
    starts: tuple[int, ...]
    columns: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, H: int, W: int) -> Pooling:
        """Return what an H × W block's classes p·W + q add up to."""
        parts = Parts.of(W)
        needed = np.unique(ids % W)
        rows, columns = (
            [K for K in range(n // 2) if {(2 * K + k) % n for k in (-1, 0, 1)} <= near]
            for n, near in ((H, set((ids // W).tolist())), (W, set(needed.tolist())))
        )
        # they are all, or those up to some distance
        negative = sum(2 * P >= H // 2 for P in rows) if len(rows) < H // 2 else 0
        own = {Q // parts.half for Q in columns}
        own |= {(Q // parts.half - 1) % parts.count for Q in columns if Q % parts.half == 0}
        at = np.searchsorted(needed, np.arange(W), "right") - 1  # q = 0 is always needed
        starts = tuple(part * parts.run for part in sorted(own))
        return cls(-negative, len(rows), starts, needed[at])

    def chunks(self, pieces: int) -> np.ndarray:
        """Return (chunks, 3) first P, how many, first q, with the P cut into ``pieces``."""
        cuts = np.linspace(0, self.count, min(pieces, self.count) + 1).astype(np.int64)
        return np.array(
            [(self.first + a, b - a, q) for a, b in pairwise(cuts) for q in self.starts],
            np.int64,
        )


@dataclass(frozen=True)
class Block:
    """Layers on pixels or windows between two pools.

    Attributes:
        H: Rows.
        W: Columns.
        pitch: Numbers from one row of a plane to the next.
        plane: Numbers of a plane.
        copy: From a number to its copy in the plane; 0 where rows are kept once.
        table: (sweeps, 6) int64 for ``cuda.general``.
        planes: (sweeps, 4) int64 for ``cuda.fused``.
        units: (sweeps, 3) of the dtype for ``cuda.general``.
        fused_units: (sweeps, 3) of the dtype for ``cuda.fused``.
        fused: What the fused or the streamed kernel is compiled for, or None where the general
            one is needed.
        pool: Edge of the windows behind; 0 at the end.
        classes: Displacement classes of an entry.
        links: Indices of its linear layers.
        centers: Where the means over its windows start; 0 in the first block.
        windows: (classes of each block up to this one's front) that reach the windows in
            front of this block.
    """

    H: int
    W: int
    pitch: int
    plane: int
    copy: int
    table: np.ndarray
    planes: np.ndarray
    units: np.ndarray
    fused_units: np.ndarray
    fused: Fused | None
    pool: int
    classes: Classes | Pooling
    links: tuple[int, ...]
    centers: int
    windows: tuple[Classes | Pooling, ...]

    @property
    def last(self) -> int:
        """Index of the last sweep."""
        return len(self.table) - 1

    @property
    def by_rows(self) -> bool:
        """Whether a chunk of classes is all those of one row displacement."""
        return self.fused is not None and self.fused.buffers > 0 and not self.pools

    @property
    def pools(self) -> bool:
        """Whether the block's kernel adds up the windows behind it."""
        return self.fused is not None and self.fused.pools

    @property
    def streamed(self) -> bool:
        """Whether its kernel is that of ``cuda.streamed``."""
        return self.fused is not None and self.fused.layers_of_pass > 0

    @property
    def in_step(self) -> bool:
        """Whether teams share a chunk of classes although they share no memory."""
        return self.fused is not None and self.fused.in_step

    @property
    def teams(self) -> int:
        """How many teams share a chunk of classes: those of a block of threads, or one."""
        return TEAMS if self.by_rows or self.pools or self.in_step else 1

    @property
    def slots(self) -> int:
        """Slots in which the windows behind it are stored, for each displacement of rows."""
        return Parts.of(self.W).slots if self.pools else self.W // self.pool

    @property
    def second_aligned_slot(self) -> int:
        """The slot that holds the other part of aligned windows' sums; 0 if slot 0 holds all."""
        return self.slots - 1 if self.pools else 0

    def chunk(self, ids: np.ndarray) -> Classes | Pooling:
        """Cut classes p·W + q into chunks."""
        if self.pools:
            return Pooling.of(ids, self.H, self.W)
        teams = TEAMS if self.in_step else 1
        return Classes.of(ids, self.H, self.W, by_rows=self.by_rows, teams=teams)

    @property
    def pixels(self) -> int:
        """Positions."""
        return self.H * self.W


@dataclass(frozen=True)
class Layout:
    """The tables of a network's kernels, and where they find an image's numbers.

    Attributes:
        plan: Units, sweeps and classes, shared with the CPU backend.
        blocks: The blocks in order.
        offsets: For each linear layer, where ``half``, ``side`` and ``cells`` start.
        size: Numbers of an image.
        reads: After how many layers shallower networks end.
        weights: Argument of the kernels of the last block.
    """

    plan: Plan
    blocks: tuple[Block, ...]
    offsets: tuple[dict[str, int], ...]
    size: int
    reads: tuple[int, ...]
    weights: np.ndarray

    def scales(self) -> tuple[float, ...]:
        """Return what makes means of the sums at each network's end, the deepest last."""
        units = [self.plan.units[at - 1][1] / 2 for at in self.reads]  # a ReLU's unit is half
        return tuple(unit / self.plan.count for unit in (*units, self.plan.unit))

    @cached_property
    def mirror(self) -> np.ndarray:
        """(size,) which of an image's numbers is where in those of its mirror image.

        For networks that treat left and right alike (``invariance.uneven_layer``).
        """
        order = np.arange(self.size)
        ends = [*(block.centers for block in self.blocks[1:]), self.size]
        start = 0
        for block, end in zip(self.blocks, ends, strict=True):
            rows = (end - start) // block.pitch  # of all planes and their copies
            planes = order[start : start + rows * block.pitch].reshape(rows, block.pitch)
            planes[:, : block.W] = planes[:, : block.W][:, ::-1].copy()
            start = end
        return order


def _pitch(W: int) -> int:
    """Return the numbers from one row to the next: a power of two from 4, or a multiple of 32.

    So rows begin where 16 bytes can be copied at a time.
    """
    return max(4, 1 << (W - 1).bit_length()) if W <= 32 else -(-W // 32) * 32


@lru_cache(maxsize=32)
def layout_of(
    chain: Chain, shape: tuple[int, int, int], dtype: str, reads: tuple[int, ...] = ()
) -> Layout:
    """Lay out a chain on (H, W, C) images.

    ``reads`` says after how many layers shallower networks end; for one block without a pool.
    """
    plan = plan_of(chain, shape, dtype)
    blocks: list[Block] = []
    offsets: list[dict[str, int]] = []
    size = 0
    for n, (entry, block) in enumerate(zip(plan.blocks, plan.chain.blocks, strict=True)):
        H, W = int(entry[columns.HEIGHT]), int(entry[columns.WIDTH])
        pitch = _pitch(W) if H * W > 1 else 1
        copy = H * pitch if H > 1 else 0
        plane = H * pitch + copy
        centers = size if n else 0
        size += plane * (1 if n else shape[2])
        links = tuple(range(len(offsets), len(offsets) + len(block.links)))
        for link in block.links:
            cells = 4 if link.activation == "erf" else 1
            offsets.append({"half": size, "side": size + plane, "cells": size + 2 * plane})
            size += (2 + cells) * plane
        first, stop = int(entry[columns.SWEEP]), int(entry[columns.SWEEP_END])
        sweeps = plan.sweeps[first:stop]
        table = np.zeros((len(sweeps), 6), np.int64)
        table[:, tables.KIND] = sweeps[:, columns.KIND]
        table[:, tables.SIGNED] = sweeps[:, columns.FOLD]
        table[:, tables.SIZE] = sweeps[:, columns.SIZE]
        table[0, tables.CELLS] = centers
        for at, link_at in enumerate(links):
            table[at, tables.HALF] = offsets[link_at]["half"]
            table[at, tables.SIDE] = offsets[link_at]["side"]
            table[at + 1, tables.CELLS] = offsets[link_at]["cells"]
        units = np.ones((len(sweeps), 3), dtype)
        units[:, tables.TRAINED] = sweeps[:, columns.TRAINED]
        units[:, tables.FACTOR] = plan.factors[first:stop]
        units[:, tables.SCALE] = plan.scales[first:stop]
        fused_units = units.copy()
        fused_units[:, 2] = 0
        channels = 0 if n else shape[2]
        planes = np.full((len(table), 4), -1)
        planes[:, :3] = table[:, [tables.CELLS, tables.HALF, tables.SIDE]]
        planes[list(reads), 3] = np.arange(len(reads))
        ids = plan.classes[entry[columns.CLASS] : entry[columns.CLASS_END]]
        fused, layers = None, min(len(links), 3)
        if _is_fused(block.links, H, W):
            behind = plan.chain.blocks[n + 1 : n + 2]
            streams = not _fits_registers(H, W)
            pools = can_pool(H, W, block.pool, dtype) and _is_fused(behind[0].links, H // 2, W // 2)
            pools = pools and not streams
            parted = Parts.of(2 * W).half if n and blocks[-1].pools else 0
            weighted = block.pool == 0 and bool(plan.chain.windows)
            each = len(np.unique(ids % W))
            buffers = buffers_of(
                H, W, pitch, layers, len(ids), each, dtype, pools=pools, room=shared_bytes()
            )
            wide = buffers > 0 and layers > 2 and not pools and not streams
            fused = Fused(
                H, W, pitch, plane, best_columns(H, W, each, dtype) if wide else columns_of(W),
                channels, layers, bool(table[1, tables.SIGNED]), block.pool == 0, weighted, pools,
                parted, len(reads), buffers, dtype,
            )  # fmt: skip
            if streams:
                of_pass = layers_of_pass(fused.columns)
                fused = replace(
                    fused,
                    layers=layers_to_know(len(links), of_pass),
                    buffers=0,
                    layers_of_pass=of_pass,
                    in_step=len(ids) >= _STEPS * TEAMS * fused.together,
                    scaled=bool((units[:, tables.FACTOR] != 1).any()),
                )
        made = Block(
            H, W, pitch, plane, copy, table, planes, units, fused_units,
            fused, block.pool, Pooling(0, 0, (), ids), links, centers, _windows(plan, blocks),
        )  # fmt: skip
        blocks.append(replace(made, classes=made.chunk(ids)))
    for made in blocks:  # the last roots are copied with two planes that are not used
        if made.fused is not None and made.fused.buffers:
            size = max(size, int(made.planes[-1, 0]) + 3 * made.plane)
    return Layout(
        plan, tuple(blocks), tuple(offsets), -(-size // 4) * 4, reads, _by_displacement(plan)
    )


def _by_displacement(plan: Plan) -> np.ndarray:
    """Return the weights of rows, then of columns, by displacement; one number without weights."""
    if not plan.chain.windows:
        return np.zeros(1, plan.dtype)
    axes = []
    for weights in (plan.row_weights, plan.column_weights):
        here = np.arange(len(weights))
        axes.append(weights[here, (here + here[:, None]) % len(weights)].ravel())
    return np.concatenate(axes)


def _is_fused(links: Sequence[Link], H: int, W: int) -> bool:
    """Return whether a block is ReLUs behind 3 × 3 filters, on cells that a team can hold."""
    return bool(
        links
        and (_fits_registers(H, W) or columns_of(W) <= MOST_COLUMNS)
        and all(link.size == 3 and link.activation == "relu" for link in links)
    )


def _fits_registers(H: int, W: int) -> bool:
    return H * columns_of(W) <= MOST_CELLS


def _windows(plan: Plan, in_front: Sequence[Block]) -> tuple[Classes | Pooling, ...]:
    if not in_front:
        return ()
    entries, ids = plan.windows_in_front_of(len(in_front))
    return tuple(
        block.chunk(ids[entry[columns.CLASS] : entry[columns.CLASS_END]])
        for entry, block in zip(entries, in_front, strict=False)
    )
