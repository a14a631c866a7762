"""The compiled loops of the CPU backend (Numba, float32 or float64).

One call computes kernel entries of a few row images against every column image. The
unit of work is a displacement class (p, q) of a pair: cell (i, j) of the first image
meets cell ((i + p) mod H, (j + q) mod W) of the second. A SAME convolution only mixes
cells of one displacement, so a class is an H × W image that runs through all layers in
cache. Taking the second index modulo H and W packs two displacements, p and p − H,
into one full image; the link between neighbours is cut where the index wraps. Beyond a
cut or a border one of the images may still have a pixel: K and Θ are zero there, but Δ is
half of that pixel's variance.

As many column images as fit a vector are computed side by side, one per lane (``_vector``): cuts
and borders are then the same for all lanes, nothing is masked or padded, and the rate does
not depend on the image's size. Every lane does the same operations in the same order, so an
entry's bits do not depend on its neighbours.

A layer is one sweep over the rows of a class: what stands in front of the linear layer
(``cpu.cells``), sums along the row, and sums over a ring of the last rows. ReLU in front of a
3 × 3 filter, which is nearly all of the work, goes through registers in one loop. An average
pool mixes displacements: all classes of a block add up in one array in memory,
(p, q, i, j) of the pooled images, which the classes of the next block start from.
"""

from __future__ import annotations

import numba
import numpy as np

from ntkdist.kernels.cpu.cells import CELL, field, half_erf
from ntkdist.kernels.cpu.compile import compiled
from ntkdist.kernels.cpu.pools import pool_offsets, pool_rows, relu_pool_sweep
from ntkdist.kernels.cpu.sweeps import (
    clear,
    fused_sweep,
    general_sweep,
    relu_sum_sweep,
    total,
    whole_row,
    wrap,
)
from ntkdist.kernels.cpu.vector import BYTES, arccos_over_pi, load, number, splat, store
from ntkdist.kernels.plan import (
    CLASS,
    CLASS_END,
    FOLD,
    FRESH,
    HEIGHT,
    KIND,
    POOL,
    POOLED,
    POOLS,
    RELU,
    SIZE,
    SWEEP,
    SWEEP_END,
    THERE,
    THETA,
    TRAINED,
    WIDTH,
)


@numba.njit(nogil=True)
def _blocks(
    a, b, channels, blocks, upto, sweeps, scales, factors, classes, table,
    state, pools, sums, unit,
):  # fmt: skip
    """Run the first ``upto`` blocks of a row image with one vector of column images."""
    for n in range(upto):
        H, W = blocks[n, HEIGHT], blocks[n, WIDTH]
        row = (W + 1) * CELL
        ring = state + H * row
        size = field(sweeps[blocks[n, SWEEP_END] - 1].ctypes.data, POOL)
        pool = pools
        if size:
            pool = pools + blocks[n + 1, POOLS] * CELL
            clear(pool, 2 * ((H // size) * (W // size)) ** 2, unit)
        offsets = np.empty(W, np.int64)
        for cls in classes[blocks[n, CLASS] : blocks[n, CLASS_END]]:
            p, q = cls // W, cls % W
            if size:
                pool_offsets(size, H, W, q, offsets)
            for k in range(blocks[n, SWEEP], blocks[n, SWEEP_END]):
                sweep = sweeps[k].ctypes.data
                box, theta = field(sweep, SIZE), field(sweep, THETA)
                source, pitch, spare = state, row, ring + max(3, box) * row
                if field(sweep, KIND) == POOLED:
                    source = pools + (blocks[n, POOLS] + cls * H * W) * CELL
                    pitch = W * CELL
                fold = field(sweep, FOLD)
                # nearly all sweeps are a ReLU behind a ReLU, or one of the first two layers
                plain = field(sweep, KIND) == RELU and (field(sweep, TRAINED) or not theta)
                if plain and theta == FRESH and not fold and box != 3:
                    for j in range(H * (W + 1)):
                        store(splat(unit - unit), state + j * CELL + BYTES)
                usual = plain and not (fold and theta == THERE)
                images = a, b, H, W, p, q
                if box == 3 and (field(sweep, KIND) <= POOLED or usual):
                    fused_sweep(
                        sweep, table, channels, *images, source, pitch, state, ring, spare, unit
                    )
                elif box == 0 and size and usual:
                    relu_pool_sweep(sweep, table, *images, size, offsets, pool, state, ring, unit)
                elif box == 0 and plain and not fold and not size:
                    relu_sum_sweep(sweep, table, *images, state, spare, sums, unit)
                elif box > 1:
                    general_sweep(
                        sweep, table, channels, scales[k], *images, source, pitch, state, ring,
                        spare, unit,
                    )  # fmt: skip
                else:
                    for i in range(H):
                        i2 = wrap(i + p, H)
                        to = state + i * row if box else spare
                        whole_row(
                            sweep, table, channels, scales[k], a, b, W, i, i2, q,
                            source + i * pitch, to, unit,
                        )  # fmt: skip
                        if box == 0 and size:
                            pool_rows(size, i, i2, H, W, offsets, pool, theta, to, 1, row, unit)
                        elif box == 0:
                            total(to, W, sums, unit)
                if factors[k] != unit:  # keeps the units of deep networks within range
                    for j in range(2 * H * (W + 1)):
                        store(load(state + j * BYTES, unit) * splat(factors[k]), state + j * BYTES)


@numba.njit(nogil=True)
def _work(template, vectors):
    """Return an array with room for ``vectors``, and an address in it on a vector's border."""
    array = np.zeros((vectors + 1) * (BYTES // template.itemsize), template.dtype)
    start = array.ctypes.data
    return array, start + (-start) % BYTES


@compiled
def entries(
    rows,
    columns,
    channels,
    blocks,
    sweeps,
    scales,
    factors,
    classes,
    table,
    room,
    first,
    out_delta,
    out_theta,
):
    """Fill rows of Δ and Θ behind the last spatial layer, summed over positions.

    Args:
        rows: (n, numbers) of the dtype, what ``prepare`` knows of row images.
        columns: (m, vectors, lanes), of column images, one per lane, on vectors' borders.
        channels: Channels of a pixel.
        blocks: (number of blocks, 7) integers, see the constants above.
        sweeps: (number of sweeps, ``SWEEP_FIELDS``) integers.
        scales: The unit of the state in front of each sweep.
        factors: What the state behind each sweep is multiplied by.
        classes: p·W + q of the displacement classes to visit, block by block.
        table: ``coefficients`` of the dtype.
        room: Cells of working memory: for one class, for all pooled arrays.
        first: (n,) first vector of columns to compute for each row.
        out_delta: (n, m, lanes) float64.
        out_theta: (n, m, lanes) float64.
    """
    unit = scales.dtype.type(1)
    kept, state = _work(scales, 2 * room[0])
    kept_pools, pools = _work(scales, 2 * room[1])
    sums = np.zeros((2, BYTES // scales.itemsize))
    for m in range(columns.shape[0]):  # outside: a column's numbers stay in cache for all rows
        for n in range(rows.shape[0]):
            if m < first[n]:
                continue
            sums[:] = 0.0
            _blocks(
                rows[n].ctypes.data, columns[m].ctypes.data, channels, blocks, len(blocks), sweeps,
                scales, factors, classes, table.ctypes.data, state + CELL, pools, sums, unit,
            )  # fmt: skip
            out_delta[n, m] = sums[0]
            out_theta[n, m] = sums[1]
    # an address does not keep its array alive; a last use behind the loops does
    kept[0] = kept_pools[0]


@compiled
def self_windows(
    rows, columns, channels, blocks, upto, sweeps, scales, factors, classes, table, room, first, out
):
    """Fill out[n] with the sums over windows of Δ of row image n and itself in front of a block.

    Args:
        rows: As for ``entries``.
        columns: The same images in lanes.
        channels: Channels of a pixel.
        blocks: As for ``entries``.
        upto: The block in front of which windows are read.
        sweeps: As for ``entries``.
        scales: As for ``entries``.
        factors: As for ``entries``.
        classes: As for ``entries``.
        table: As for ``entries``.
        room: As for ``entries``.
        first: Index among ``columns`` of the first row image.
        out: (n, H·W) of the block.
    """
    unit = scales.dtype.type(1)
    lanes = BYTES // scales.itemsize
    kept, state = _work(scales, 2 * room[0])
    kept_pools, pools = _work(scales, 2 * room[1])
    sums = np.zeros((2, lanes))
    for n in range(rows.shape[0]):
        m, lane = (first + n) // lanes, (first + n) % lanes
        _blocks(
            rows[n].ctypes.data, columns[m].ctypes.data, channels, blocks, upto, sweeps,
            scales, factors, classes, table.ctypes.data, state + CELL, pools, sums, unit,
        )  # fmt: skip
        at = pools + blocks[upto, POOLS] * CELL + lane * scales.itemsize
        for k in range(out.shape[1]):
            out[n, k] = number(at + k * CELL, unit)
    kept[0] = kept_pools[0]


@compiled
def half_erf_variances(variances, inverses, table, out):
    """Fill ``out`` with half the variances behind an erf, as the loops compute covariances.

    Equal images then meet exactly: Δ = 0.

    Args:
        variances: (vectors, lanes) variances A in front.
        inverses: Like ``variances``; 1/√(1 + 2A).
        table: ``coefficients`` of the dtype.
        out: Like ``variances``.
    """
    unit = table.dtype.type(1)
    P = arccos_over_pi(table.ctypes.data, unit)
    for k in range(variances.shape[0]):
        A, inverse = load(variances[k].ctypes.data, unit), load(inverses[k].ctypes.data, unit)
        m = inverse * inverse
        store(half_erf(splat(unit) * m, (A + A) * m, P, unit), out[k].ctypes.data)
