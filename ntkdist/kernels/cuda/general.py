"""The GPU kernels for every block: any filter, any nonlinearity, images of any size.

``general_kernel``: a team of lanes takes a chunk of displacement classes of one pair, one class
at a time, with the state in device memory, where the caches hold it. Slower than
``cuda.fused`` and ``cuda.streamed``, which take the blocks that matter.

``pool_kernel``: an average pool. A window of one image with a window of the other averages over
cells of several classes; each thread gathers one such pair of windows, always in the
same order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ntkdist.kernels.chain import PIXELS, POOLED
from ntkdist.kernels.cuda.cells import cell_functions, distance, keep
from ntkdist.kernels.cuda.intrinsics import (
    LANES,
    advance,
    barrier,
    cuda,
    fetch,
    kernel,
    over_lanes,
    peek,
    pointer,
    put,
)
from ntkdist.kernels.cuda.unroll import written_out

# columns of the table of sweeps
KIND, SIGNED, SIZE, CELLS, HALF, SIDE = range(6)
# columns of the table of units
TRAINED, FACTOR, SCALE = range(3)


@lru_cache(maxsize=4)
def general_kernel(dtype: str) -> Any:
    """Return the kernel for a dtype; its arguments are those of ``_general``."""
    names = {**cell_functions(dtype), "zero": np.dtype(dtype).type(0)}
    return kernel(written_out(_general, {}, names))


@lru_cache(maxsize=4)
def pool_kernel(dtype: str) -> Any:
    """Return the kernel for a dtype; its arguments are those of ``_pool``."""
    return kernel(written_out(_pool, {}, {"zero": np.dtype(dtype).type(0)}))


def _general(
    pairs, tasks, chunks, starts, classes, A, B, size, pooled, table, units, last, totals, cells,
    H, W, pitch, plane, channels, sums, weighted, weights, scratch,
):  # fmt: skip
    """Run one block.

    Args:
        pairs: As for ``cuda.fused``, and so are all up to ``cells`` but the next two.
        table: (last + 1, 6) int64, see the constants above.
        units: (last + 1, 3) of the dtype, see the constants above.
        H: Rows of the block's images.
        W: Columns.
        pitch: Numbers from one row of a plane to the next.
        plane: Numbers of a plane.
        channels: Channels of a pixel.
        sums: Whether the block ends in sums over positions, else its cells are stored.
        weighted: Whether cells have weights in these sums.
        weights: As for ``cuda.fused``.
        scratch: (teams, 6, H·W) of the dtype: what is in the state, in front of and behind the
            sums along rows, Δ and Θ of each.
    """
    team = (cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x) // LANES
    lane = cuda.threadIdx.x % LANES
    teams = cuda.gridDim.x * cuda.blockDim.x // LANES
    area = H * W
    state = pointer(scratch, team * 6 * area)
    front, sides = advance(state, 2 * area), advance(state, 4 * area)
    count = starts[chunks]
    for task in range(team, tasks, teams):
        pair = task // chunks
        chunk = task - pair * chunks
        a, b = pointer(A, pairs[pair, 0] * size), pointer(B, pairs[pair, 1] * size)
        total_d, total_t = np.float64(0), np.float64(0)
        for at in range(starts[chunk], starts[chunk + 1]):
            cls = classes[at]
            p = cls // W
            q = cls - p * W
            for sweep in range(last + 1):
                kind, box, cells_at = table[sweep, KIND], table[sweep, SIZE], table[sweep, CELLS]
                part_d, part_t = zero, zero
                for cell in range(lane, area, LANES):
                    i = cell // W
                    j = cell - i * W
                    here = i * pitch + j
                    there = (i + p) * pitch + j + q - (W if j + q >= W else 0)
                    if kind == PIXELS:
                        d = distance(advance(a, here), advance(b, there), 0, plane, channels)
                        t = zero
                    elif kind == POOLED:
                        source = pointer(pooled, (pair * 2 * area + cls) * area + cell)
                        d = fetch(source, 0) - fetch(a, cells_at + here)
                        d -= fetch(b, cells_at + there)
                        t = fetch(source, area * area)
                    else:
                        d, t = activate(
                            kind, table[sweep, SIGNED], peek(state, cell), peek(state, area + cell),
                            advance(a, cells_at + here), advance(b, cells_at + there), plane,
                            units[sweep, TRAINED], units[sweep, SCALE],
                        )  # fmt: skip
                    if box > 1:
                        put(front, cell, d)
                        put(front, area + cell, t)
                    elif box == 1:
                        put(state, cell, d * units[sweep, FACTOR])
                        put(state, area + cell, t * units[sweep, FACTOR])
                    elif sums:
                        if weighted:
                            weight = fetch(pointer(weights, 0), p * H + i)
                            weight *= fetch(pointer(weights, 0), H * H + q * W + j)
                            d, t = weight * d, weight * t
                        part_d += d
                        part_t += t
                    else:
                        keep(cells, (pair * 2 * count + at) * area + cell, count * area, d, t, True)
                if box == 0:
                    total_d += np.float64(part_d)
                    total_t += np.float64(part_t)
                if box > 1:
                    reach = box // 2
                    half_at, side_at = table[sweep, HALF], table[sweep, SIDE]
                    barrier()
                    for cell in range(lane, area, LANES):
                        i = cell // W
                        j = cell - i * W
                        j2 = j + q - (W if j + q >= W else 0)
                        d, t = zero, zero
                        for s in range(-reach, reach + 1):
                            mine, other = 0 <= j + s < W, 0 <= j2 + s < W
                            if mine and other:
                                d += peek(front, cell + s)
                                t += peek(front, area + cell + s)
                            elif mine:
                                d += fetch(a, half_at + i * pitch + j + s)
                            elif other:
                                d += fetch(b, half_at + (i + p) * pitch + j2 + s)
                        put(sides, cell, d)
                        put(sides, area + cell, t)
                    barrier()
                    for cell in range(lane, area, LANES):
                        i = cell // W
                        j = cell - i * W
                        i2 = i + p - (H if i + p >= H else 0)
                        j2 = j + q - (W if j + q >= W else 0)
                        d, t = zero, zero
                        for s in range(-reach, reach + 1):
                            mine, other = 0 <= i + s < H, 0 <= i2 + s < H
                            if mine and other:
                                d += peek(sides, cell + s * W)
                                t += peek(sides, area + cell + s * W)
                            elif mine:
                                d += fetch(a, side_at + (i + s) * pitch + j)
                            elif other:
                                d += fetch(b, side_at + (i2 + s) * pitch + j2)
                        put(state, cell, d * units[sweep, FACTOR])
                        put(state, area + cell, t * units[sweep, FACTOR])
                    barrier()
        if sums:
            total_d, total_t = over_lanes(total_d), over_lanes(total_t)
            if lane == 0:
                put(pointer(totals, 0), 2 * task, total_d)
                put(pointer(totals, 0), 2 * task + 1, total_t)


def _pool(cells, slots, count, total, edge, H, W, pooled):
    """Add up the cells of every pair of windows of ``edge`` rows and columns, ``total`` n·(h·w)².

    ``cells`` is (n, 2, count, H, W) Δ and Θ; ``slots`` (H·W,) int64, where a displacement class
    is among the ``count``, −1 where it is not; ``pooled`` (n, 2, h·w, h, w) to fill: a
    ragged rest of rows or columns is left out.
    """
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if index >= total:
        return
    h, w = H // edge, W // edge
    area = h * w
    pair = index // (area * area)
    cls = index // area - pair * area
    cell = index - (pair * area + cls) * area
    I = cell // w
    J = cell - I * w
    I2, J2 = (I + cls // w) % h, (J + cls % w) % w
    source = pointer(cells, pair * 2 * count * H * W)
    d, t = zero, zero
    for i in range(I * edge, I * edge + edge):
        for i2 in range(I2 * edge, I2 * edge + edge):
            p = i2 - i + (H if i2 < i else 0)
            row_d, row_t = zero, zero
            for j in range(J * edge, J * edge + edge):
                for j2 in range(J2 * edge, J2 * edge + edge):
                    slot = slots[p * W + j2 - j + (W if j2 < j else 0)]
                    if slot >= 0:
                        row_d += fetch(source, (slot * H + i) * W + j)
                        row_t += fetch(source, ((count + slot) * H + i) * W + j)
            d += row_d
            t += row_t
    put(pointer(pooled, 0), (pair * 2 * area + cls) * area + cell, d)
    put(pointer(pooled, 0), ((pair * 2 + 1) * area + cls) * area + cell, t)
