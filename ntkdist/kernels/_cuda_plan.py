"""A chain on images of one shape as the tables that the GPU kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ntkdist.kernels import _cpu_cells as sweeps_of
from ntkdist.kernels import _cpu_loops as blocks_of
from ntkdist.kernels import _cuda_general as tables
from ntkdist.kernels._chain import Chain
from ntkdist.kernels._cuda_fused import MOST_CELLS, THREADS, Fused, buffers_of, columns_of
from ntkdist.kernels._cuda_intrinsics import LANES
from ntkdist.kernels._plan import Plan, plan_of

# A team's share of an entry: enough classes to keep the ends cheap, enough teams to fill a GPU
_STEPS, _CHUNKS = 8, 32


@dataclass(frozen=True)
class Classes:
    """Displacement classes of a block, in the chunks that teams take.

    Attributes:
        ids: (count,) p·W + q.
        starts: (chunks + 1,) where each chunk starts.
        slots: (H·W,) where a class stands among ``ids``; -1 where it does not.
    """

    ids: np.ndarray
    starts: np.ndarray
    slots: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, H: int, W: int, *, by_rows: bool) -> Classes:
        """Cut the classes of an H × W block into chunks.

        Args:
            ids: (count,) p·W + q, ascending.
            H: Rows.
            W: Columns.
            by_rows: Whether a chunk is all classes of one p.
        """
        if by_rows:
            starts = np.append(np.unique(ids // W, return_index=True)[1], len(ids)).astype(np.int64)
        else:
            together = max(1, LANES // W)
            chunks = max(1, min(_CHUNKS, len(ids) // (_STEPS * together)))
            starts = np.linspace(0, len(ids), chunks + 1).astype(np.int64)
        slots = np.full(H * W, -1, np.int64)
        slots[ids] = np.arange(len(ids))
        return cls(np.asarray(ids, np.int64), starts, slots)


@dataclass(frozen=True)
class Block:
    """Layers on pixels or windows between two pools.

    Attributes:
        H: Rows.
        W: Columns.
        pitch: Numbers from one row of a plane to the next.
        plane: Numbers of a plane.
        copy: From a number to its copy in the plane; 0 where rows are kept once.
        table: (sweeps, 6) int64 for ``_cuda_general``.
        planes: (sweeps, 3) int64 for ``_cuda_fused``.
        units: (sweeps, 3) of the dtype for ``_cuda_general``.
        fused_units: (sweeps, 3) of the dtype for ``_cuda_fused``.
        fused: What the fused kernel is compiled for, or None where the general one is needed.
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
    classes: Classes
    links: tuple[int, ...]
    centers: int
    windows: tuple[Classes, ...]

    @property
    def last(self) -> int:
        """Index of the last sweep."""
        return len(self.table) - 1

    @property
    def by_rows(self) -> bool:
        """Whether a chunk of classes is all those of one row displacement."""
        return self.fused is not None and self.fused.buffers > 0

    @property
    def teams(self) -> int:
        """How many teams share a chunk of classes: those of a block of threads, or one."""
        return THREADS // LANES if self.by_rows else 1

    @property
    def pixels(self) -> int:
        """Positions."""
        return self.H * self.W


@dataclass(frozen=True)
class Layout:
    """Where an image's numbers stand.

    Attributes:
        plan: Units, sweeps and classes, shared with the CPU backend.
        blocks: The blocks in order.
        offsets: For each linear layer, where ``half``, ``side`` and ``cells`` start.
        size: Numbers of an image.
    """

    plan: Plan
    blocks: tuple[Block, ...]
    offsets: tuple[dict[str, int], ...]
    size: int


def _pitch(W: int) -> int:
    """Return a row's room: a line of the cache where it is nearly one, else the next power, from 4.

    So rows begin where 16 bytes can be copied at a time.
    """
    return max(4, 1 << (W - 1).bit_length()) if W <= 32 else -(-W // 32) * 32


@lru_cache(maxsize=32)
def layout_of(chain: Chain, shape: tuple[int, int, int], dtype: str) -> Layout:
    """Lay out a chain on (H, W, C) images."""
    plan = plan_of(chain, shape, dtype)
    blocks: list[Block] = []
    offsets: list[dict[str, int]] = []
    size = 0
    for n, (entry, block) in enumerate(zip(plan.blocks, plan.chain.blocks, strict=True)):
        H, W = int(entry[blocks_of.HEIGHT]), int(entry[blocks_of.WIDTH])
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
        first, stop = int(entry[blocks_of.FIRST]), int(entry[blocks_of.LAST])
        sweeps = plan.sweeps[first:stop]
        table = np.zeros((len(sweeps), 6), np.int64)
        table[:, tables.KIND] = sweeps[:, sweeps_of.KIND]
        table[:, tables.SIGNED] = sweeps[:, sweeps_of.FOLD]
        table[:, tables.SIZE] = sweeps[:, sweeps_of.SIZE]
        table[0, tables.CELLS] = centers
        for at, link_at in enumerate(links):
            table[at, tables.HALF] = offsets[link_at]["half"]
            table[at, tables.SIDE] = offsets[link_at]["side"]
            table[at + 1, tables.CELLS] = offsets[link_at]["cells"]
        units = np.ones((len(sweeps), 3), dtype)
        units[:, tables.TRAINED] = sweeps[:, sweeps_of.TRAINED]
        units[:, tables.FACTOR] = plan.factors[first:stop]
        units[:, tables.SCALE] = plan.scales[first:stop]
        fused_units = units.copy()
        fused_units[:, 2] = 0
        channels = 0 if n else shape[2]
        planes = table[:, [tables.CELLS, tables.HALF, tables.SIDE]]
        ids = plan.classes[entry[blocks_of.CLASS] : entry[blocks_of.CLASS_END]]
        fused = None
        if _is_fused(table, H, W):
            fused = Fused(
                H, W, pitch, plane, columns_of(W), channels, min(len(links), 3),
                bool(table[1, tables.SIGNED]), block.pool == 0,
                buffers_of(H, W, pitch, len(ids), dtype), dtype,
            )  # fmt: skip
        blocks.append(
            Block(
                H,
                W,
                pitch,
                plane,
                copy,
                table,
                np.ascontiguousarray(planes),
                units,
                fused_units,
                fused,
                block.pool,
                Classes.of(ids, H, W, by_rows=fused is not None and fused.buffers > 0),
                links,
                centers,
                _windows(plan, blocks),
            )
        )
    for made in blocks:  # what is copied along with the last roots, and not used
        if made.by_rows:
            size = max(size, int(made.planes[-1, 0]) + 3 * made.plane)
    return Layout(plan, tuple(blocks), tuple(offsets), -(-size // 4) * 4)


def _is_fused(table: np.ndarray, H: int, W: int) -> bool:
    """Return whether a block is ReLUs behind 3 × 3 filters whose state fits registers."""
    behind = table[1:]
    return bool(
        len(behind)
        and H * columns_of(W) <= MOST_CELLS
        and (table[:-1, tables.SIZE] == 3).all()
        and (behind[:, tables.KIND] == sweeps_of.RELU).all()
        and not behind[1:, tables.SIGNED].any()
    )


def _windows(plan: Plan, in_front: Sequence[Block]) -> tuple[Classes, ...]:
    if not in_front:
        return ()
    entries, ids = plan.windows_in_front_of(len(in_front))
    return tuple(
        Classes.of(
            ids[entry[blocks_of.CLASS] : entry[blocks_of.CLASS_END]],
            block.H,
            block.W,
            by_rows=block.by_rows,
        )
        for entry, block in zip(entries, in_front, strict=False)
    )
