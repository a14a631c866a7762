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
(``_cpu_cells``), sums along the row, and sums over a ring of the last rows. ReLU in front of a
3 × 3 filter, which is nearly all of the work, goes through registers in one loop. An average
pool mixes displacements: all classes of a block add up in one array in memory,
(p, q, i, j) of the pooled images, which the classes of the next block start from.
"""

from __future__ import annotations

import numba
import numpy as np

from ntkdist.kernels._cpu_cells import (
    CELL,
    CELLS,
    CELLS_B,
    FOLD,
    FRESH,
    HALF,
    HALF_B,
    KIND,
    NONE,
    NUMBERS,
    NUMBERS_B,
    POOL,
    POOLED,
    RELU,
    SIDE,
    SIDE_B,
    SIZE,
    THERE,
    THETA,
    TRAINED,
    activate,
    field,
    relu_end,
    relu_start,
)
from ntkdist.kernels._vector import BYTES, load, number, splat, store, word

# columns of the table of blocks; POOLS: where the block's input stands in the pools' buffer
HEIGHT, WIDTH, FIRST, LAST, CLASS, CLASS_END, POOLS = range(7)


@numba.njit(inline="always")
def _wrap(index, edge):
    """Return index modulo edge for 0 ≤ index < 2·edge, without a division."""
    return index - edge if index >= edge else index


@numba.njit(nogil=True)
def _clear(to, vectors, unit):
    for k in range(vectors):
        store(splat(unit - unit), to + k * BYTES)


@numba.njit(inline="always")
def _side(sweep, a, b, i, i2, j, j2, H, W, unit):
    """Return the half variance of whichever image has a pixel where the other has none."""
    if 0 <= i < H and 0 <= j < W:
        return splat(number(a + (field(sweep, HALF) + i * W + j) * word(unit), unit))
    if 0 <= i2 < H and 0 <= j2 < W:
        return load(b + (field(sweep, HALF_B) + i2 * W + j2) * BYTES, unit)
    return splat(unit - unit)


@numba.njit(nogil=True)
def _side_row(sweep, a, b, i, i2, H, W, q, to, unit):
    """Store the sums along a row that only one of the images has: half variances, or zeros."""
    width = word(unit)
    _clear(to, 2 * W, unit)
    if 0 <= i < H:
        at = a + (field(sweep, SIDE) + i * W) * width
        for j in range(W):
            store(splat(number(at + j * width, unit)), to + j * CELL)
    elif 0 <= i2 < H:
        at = b + (field(sweep, SIDE_B) + i2 * W) * BYTES
        for j in range(W):
            store(load(at + _wrap(j + q, W) * BYTES, unit), to + j * CELL)


@numba.njit(inline="always")
def _emit(theta, D, T, old, previous, out, unit):
    """Store the sum of three rows' sums; the newest takes the place of the oldest."""
    store((load(old, unit) + load(previous, unit)) + D, out)
    store(D, old)
    if theta:
        store((load(old + BYTES, unit) + load(previous + BYTES, unit)) + T, out + BYTES)
        store(T, old + BYTES)


@numba.njit(inline="always")
def _fused_row(theta, fold, sweep, a, b, H, W, i, i2, q, cells, out, old, previous, unit):
    """Push row i through a ReLU and sums along the row; store the 3 × 3 sums of the row before.

    ``old`` and ``previous`` are rows of such sums; this row's take the place of the older ones.
    """
    near = NUMBERS * word(unit)
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
        if j0 == j1:
            continue
        ra = a + field(sweep, CELLS) * word(unit) + i * W * near
        rb = b + (field(sweep, CELLS_B) + (i2 * W + shift) * NUMBERS_B) * BYTES
        last_D = _side(sweep, a, b, i, i2, j0 - 1, j0 - 1 + shift, H, W, unit)
        last_T = splat(unit - unit)
        old_D, e, w, s, t, total, ab = relu_start(
            theta, fold, cells + j0 * CELL, ra + j0 * near, rb + j0 * CELL, unit
        )
        D, T = relu_end(fold, old_D, e, w, s, t, total, ab, unit)
        two_D, two_T = last_D + D, last_T + T
        for j in range(j0 + 1, j1):
            last_D, last_T = D, T
            at = j * CELL
            old_D, e, w, s, t, total, ab = relu_start(
                theta, fold, cells + at, ra + j * near, rb + at, unit
            )
            D, T = relu_end(fold, old_D, e, w, s, t, total, ab, unit)
            at -= CELL
            _emit(theta, two_D + D, two_T + T, old + at, previous + at, out + at, unit)
            two_D, two_T = last_D + D, last_T + T
        at = (j1 - 1) * CELL
        two_D = two_D + _side(sweep, a, b, i, i2, j1, j1 + shift, H, W, unit)
        _emit(theta, two_D, two_T, old + at, previous + at, out + at, unit)


@numba.njit(nogil=True)
def _fused_sweep(sweep, a, b, H, W, p, q, state, ring, spare, unit):
    """A ReLU and a 3 × 3 filter, in place."""
    theta, fold = field(sweep, THETA), field(sweep, FOLD)
    row = W * CELL
    for part in range(2):
        i0, i1, shift = (0, H - p, p) if part == 0 else (H - p, H, p - H)
        if i0 == i1:
            continue
        old, previous = ring, ring + row
        _side_row(sweep, a, b, i0 - 1, i0 - 1 + shift, H, W, q, previous, unit)
        for i in range(i0, i1):
            i2 = i + shift
            here = state + i * row
            out = spare if i == i0 else here - row
            if fold:
                if theta == THERE:
                    _fused_row(THERE, True, sweep, a, b, H, W, i, i2, q, here, out, old, previous, unit)  # fmt: skip
                elif theta == FRESH:
                    _fused_row(FRESH, True, sweep, a, b, H, W, i, i2, q, here, out, old, previous, unit)  # fmt: skip
                else:
                    _fused_row(NONE, True, sweep, a, b, H, W, i, i2, q, here, out, old, previous, unit)  # fmt: skip
            elif theta == THERE:
                _fused_row(THERE, False, sweep, a, b, H, W, i, i2, q, here, out, old, previous, unit)  # fmt: skip
            elif theta == FRESH:
                _fused_row(FRESH, False, sweep, a, b, H, W, i, i2, q, here, out, old, previous, unit)  # fmt: skip
            else:
                _fused_row(NONE, False, sweep, a, b, H, W, i, i2, q, here, out, old, previous, unit)  # fmt: skip
            old, previous = previous, old
        _side_row(sweep, a, b, i1, i1 + shift, H, W, q, spare, unit)
        out = state + (i1 - 1) * row
        for k in range(2 * W):
            at = k * BYTES
            two = load(old + at, unit) + load(previous + at, unit)
            store(two + load(spare + at, unit), out + at)


@numba.njit(nogil=True)
def _padded_row(sweep, channels, scale, a, b, H, W, i, i2, q, cells, padded, to, unit):
    """Store the sums along row i, of any odd number of cells; ``padded`` is working memory."""
    size = field(sweep, SIZE)
    reach = size // 2
    vectors = 2 if field(sweep, THETA) else 1
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
        if j0 == j1:
            continue
        for k in range(2 * reach):
            j = j0 - reach + k if k < reach else j1 + k - reach
            slot = padded + (j - j0 + reach) * CELL
            store(_side(sweep, a, b, i, i2, j, j + shift, H, W, unit), slot)
            store(splat(unit - unit), slot + BYTES)
        activate(
            sweep, channels, scale, a, b, cells, W, i, i2, j0, j1, shift,
            padded + reach * CELL, unit,
        )  # fmt: skip
        for j in range(j1 - j0):
            for v in range(vectors):
                at = padded + j * CELL + v * BYTES
                total = load(at, unit)
                for k in range(1, size):
                    total = total + load(at + k * CELL, unit)
                store(total, to + (j0 + j) * CELL + v * BYTES)


@numba.njit(nogil=True)
def _general_sweep(
    sweep, channels, scale, a, b, H, W, p, q, source, state, ring, spare, unit
):  # fmt: skip
    """Anything in front of a filter of any odd size, from ``source`` to ``state``."""
    size = field(sweep, SIZE)
    reach = size // 2
    row = W * CELL
    for part in range(2):
        i0, i1, shift = (0, H - p, p) if part == 0 else (H - p, H, p - H)
        if i0 == i1:
            continue
        for r in range(i0 - reach, i1 + reach):
            slot = ring + (r - i0 + reach) % size * row
            if i0 <= r < i1:
                cells = source + r * row
                _padded_row(sweep, channels, scale, a, b, H, W, r, r + shift, q, cells, spare, slot, unit)  # fmt: skip
            else:
                _side_row(sweep, a, b, r, r + shift, H, W, q, slot, unit)
            if r >= i0 + reach:
                for k in range(2 * W):
                    at = k * BYTES
                    total = load(ring + at, unit)
                    for n in range(1, size):
                        total = total + load(ring + n * row + at, unit)
                    store(total, state + (r - reach) * row + at)


@numba.njit(nogil=True)
def _whole_row(sweep, channels, scale, a, b, W, i, i2, q, cells, to, unit):
    """Store row i of what stands in front of the linear layer."""
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
        if j0 < j1:
            activate(
                sweep, channels, scale, a, b, cells, W, i, i2, j0, j1, shift, to + j0 * CELL, unit
            )


@numba.njit(nogil=True)
def _total(row, W, sums, unit):
    """Add a row of cells to float64 sums per lane; along the row the sum is in the dtype."""
    D, T = load(row, unit), load(row + BYTES, unit)
    for j in range(1, W):
        D = D + load(row + j * CELL, unit)
        T = T + load(row + j * CELL + BYTES, unit)
    store(D, row)
    store(T, row + BYTES)
    width = word(unit)
    for lane in range(BYTES // width):
        sums[0, lane] += number(row + lane * width, unit)
        sums[1, lane] += number(row + BYTES + lane * width, unit)


@numba.njit(nogil=True)
def _pool_row(size, i, i2, H, W, q, pool, theta, row, unit):
    """Add a row of cells to the windows they belong to."""
    rows, columns = H // size, W // size
    I, I2 = i // size, i2 // size
    if I >= rows or I2 >= rows:
        return
    here = pool + ((I2 - I) % rows * columns * rows + I) * columns * CELL
    for j in range(W):
        J, J2 = j // size, _wrap(j + q, W) // size
        if J >= columns or J2 >= columns:
            continue
        to = here + ((J2 - J) % columns * rows * columns + J) * CELL
        store(load(to, unit) + load(row + j * CELL, unit), to)
        if theta:
            store(load(to + BYTES, unit) + load(row + j * CELL + BYTES, unit), to + BYTES)


@numba.njit(nogil=True)
def _blocks(
    a, b, channels, blocks, upto, sweeps, scales, factors, classes, state, pools, sums, unit
):  # fmt: skip
    """Run the first ``upto`` blocks of a row image with one vector of column images."""
    for n in range(upto):
        H, W = blocks[n, HEIGHT], blocks[n, WIDTH]
        row = W * CELL
        ring = state + H * row
        size = field(sweeps[blocks[n, LAST] - 1].ctypes.data, POOL)
        pool = pools
        if size:
            pool = pools + blocks[n + 1, POOLS] * CELL
            _clear(pool, 2 * ((H // size) * (W // size)) ** 2, unit)
        for cls in classes[blocks[n, CLASS] : blocks[n, CLASS_END]]:
            p, q = cls // W, cls % W
            for k in range(blocks[n, FIRST], blocks[n, LAST]):
                sweep = sweeps[k].ctypes.data
                box, theta = field(sweep, SIZE), field(sweep, THETA)
                source, spare = state, ring + max(2, box) * row
                if field(sweep, KIND) == POOLED:
                    source = pools + (blocks[n, POOLS] + cls * H * W) * CELL
                plain = field(sweep, TRAINED) or not theta
                if box == 3 and field(sweep, KIND) == RELU and plain:
                    _fused_sweep(sweep, a, b, H, W, p, q, state, ring, spare, unit)
                elif box > 1:
                    _general_sweep(sweep, channels, scales[k], a, b, H, W, p, q, source, state, ring, spare, unit)  # fmt: skip
                else:
                    for i in range(H):
                        i2 = _wrap(i + p, H)
                        to = state + i * row if box else spare
                        _whole_row(sweep, channels, scales[k], a, b, W, i, i2, q, source + i * row, to, unit)  # fmt: skip
                        if box == 0 and size:
                            _pool_row(size, i, i2, H, W, q, pool, theta, to, unit)
                        elif box == 0:
                            _total(to, W, sums, unit)
                if factors[k] != unit:  # keeps the units of deep networks within range
                    for j in range(2 * H * W):
                        store(load(state + j * BYTES, unit) * splat(factors[k]), state + j * BYTES)


@numba.njit(nogil=True)
def _work(template, vectors):
    """Return an array with room for ``vectors``, and an address in it on a vector's border."""
    array = np.zeros((vectors + 1) * (BYTES // template.itemsize), template.dtype)
    start = array.ctypes.data
    return array, start + (-start) % BYTES


@numba.njit(nogil=True, cache=True)
def entries(
    rows,
    columns,
    channels,
    blocks,
    sweeps,
    scales,
    factors,
    classes,
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
        room: Cells of working memory: for one class, for all pooled arrays.
        first: (n,) first vector of columns to compute for each row.
        out_delta: (n, m, lanes) float64.
        out_theta: (n, m, lanes) float64.
    """
    unit = scales.dtype.type(1)
    kept, state = _work(scales, 2 * room[0])
    kept_pools, pools = _work(scales, 2 * room[1])
    sums = np.zeros((2, BYTES // scales.itemsize))
    for n in range(rows.shape[0]):
        for m in range(first[n], columns.shape[0]):
            sums[:] = 0.0
            _blocks(
                rows[n].ctypes.data, columns[m].ctypes.data, channels, blocks, len(blocks), sweeps,
                scales, factors, classes, state, pools, sums, unit,
            )  # fmt: skip
            out_delta[n, m] = sums[0]
            out_theta[n, m] = sums[1]
    # an address does not keep its array alive; a last use behind the loops does
    kept[0] = kept_pools[0]


@numba.njit(nogil=True, cache=True)
def self_windows(
    rows, columns, channels, blocks, upto, sweeps, scales, factors, classes, room, first, out
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
            scales, factors, classes, state, pools, sums, unit,
        )  # fmt: skip
        at = pools + blocks[upto, POOLS] * CELL + lane * scales.itemsize
        for k in range(out.shape[1]):
            out[n, k] = number(at + k * CELL, unit)
    kept[0] = kept_pools[0]
