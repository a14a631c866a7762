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
    FOLD,
    FRESH,
    HALF,
    INVERSE,
    KIND,
    POOL,
    POOLED,
    RELU,
    ROOT,
    SIDE,
    SIZE,
    THETA,
    TRAINED,
    TWICE,
    activate,
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
def _clear(to, count, unit):
    for k in range(count):
        store(splat(unit - unit), to + k * BYTES)


@numba.njit(nogil=True)
def _copy(at, to, count, unit):
    for k in range(count):
        store(load(at + k * BYTES, unit), to + k * BYTES)


@numba.njit(inline="always")
def _side(sweep, a, b, i, i2, j, j2, H, W, width, unit):
    """Return the half variance of whichever image has a pixel where the other has none."""
    if 0 <= i < H and 0 <= j < W:
        return splat(number(a + (sweep[HALF] + i * W + j) * width, unit))
    if 0 <= i2 < H and 0 <= j2 < W:
        return load(b + (sweep[HALF] + i2 * W + j2) * BYTES, unit)
    return splat(unit - unit)


@numba.njit(nogil=True)
def _side_row(sweep, a, b, i, i2, H, W, q, to, unit):
    """Store the sums along a row that only one of the images has: half variances, or zeros."""
    width = word(unit)
    if 0 <= i < H:
        at = a + (sweep[SIDE] + i * W) * width
        for j in range(W):
            store(splat(number(at + j * width, unit)), to + j * BYTES)
    elif 0 <= i2 < H:
        at = b + (sweep[SIDE] + i2 * W) * BYTES
        for j in range(W):
            store(load(at + _wrap(j + q, W) * BYTES, unit), to + j * BYTES)
    else:
        for j in range(W):
            store(splat(unit - unit), to + j * BYTES)


@numba.njit(inline="always")
def _fused_row(
    theta, fold, sweep, a, b, H, W, i, i2, q, delta, tangent, step,
    out_delta, out_tangent, old, previous, unit,
):  # fmt: skip
    """Push row i through a ReLU and sums along the row; store the 3 × 3 sums of the row before.

    ``old`` and ``previous`` are rows of such sums, Δ there and Θ two rows further; this row's
    take the place of the older ones.
    """
    width = word(unit)
    old_T, previous_T = old + 2 * W * BYTES, previous + 2 * W * BYTES
    nothing = splat(unit - unit)
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
        if j0 == j1:
            continue
        here, there = i * W, i2 * W + shift
        root_a, root_b = a + (sweep[ROOT] + here) * width, b + (sweep[ROOT] + there) * BYTES
        inv_a, inv_b = a + (sweep[INVERSE] + here) * width, b + (sweep[INVERSE] + there) * BYTES
        twice_a = a + (sweep[TWICE] + here) * width
        last_D = _side(sweep, a, b, i, i2, j0 - 1, j0 - 1 + shift, H, W, width, unit)
        last_T = nothing
        near, at = j0 * width, j0 * BYTES
        cell = relu_start(
            theta, fold, delta + at, tangent + j0 * step, root_a + near, inv_a + near,
            twice_a + near, root_b + at, inv_b + at, unit,
        )  # fmt: skip
        D, T = relu_end(fold, cell[0], cell[1], cell[2], cell[3], cell[4], cell[5], cell[6], unit)
        two_D, two_T = last_D + D, last_T + T
        for j in range(j0 + 1, j1):
            near, at = j * width, j * BYTES
            last_D, last_T = D, T
            cell = relu_start(
                theta, fold, delta + at, tangent + j * step, root_a + near, inv_a + near,
                twice_a + near, root_b + at, inv_b + at, unit,
            )  # fmt: skip
            D, T = relu_end(
                fold, cell[0], cell[1], cell[2], cell[3], cell[4], cell[5], cell[6], unit
            )
            to = at - BYTES
            sum_D = two_D + D
            two_D = last_D + D
            store((load(old + to, unit) + load(previous + to, unit)) + sum_D, out_delta + to)
            store(sum_D, old + to)
            if theta:
                sum_T = two_T + T
                two_T = last_T + T
                store((load(old_T + to, unit) + load(previous_T + to, unit)) + sum_T, out_tangent + to)
                store(sum_T, old_T + to)
        to = (j1 - 1) * BYTES
        sum_D = two_D + _side(sweep, a, b, i, i2, j1, j1 + shift, H, W, width, unit)
        store((load(old + to, unit) + load(previous + to, unit)) + sum_D, out_delta + to)
        store(sum_D, old + to)
        if theta:
            store((load(old_T + to, unit) + load(previous_T + to, unit)) + two_T, out_tangent + to)
            store(two_T, old_T + to)


@numba.njit(nogil=True)
def _fused_sweep(sweep, a, b, H, W, p, q, delta, source, step, tangent, ring, spare, unit):
    """A ReLU and a 3 × 3 filter; Δ in place, Θ from ``source`` to ``tangent``."""
    theta, fold = sweep[THETA], sweep[FOLD]
    row = W * BYTES
    for part in range(2):
        i0, i1, shift = (0, H - p, p) if part == 0 else (H - p, H, p - H)
        if i0 == i1:
            continue
        old, previous = ring, ring + row
        _side_row(sweep, a, b, i0 - 1, i0 - 1 + shift, H, W, q, previous, unit)
        _clear(previous + 2 * row, W, unit)
        for i in range(i0, i1):
            i2 = i + shift
            D, T = delta + i * row, source + i * W * step
            to_D, to_T = (spare, spare) if i == i0 else (D - row, tangent + (i - 1) * row)
            if theta and fold:
                _fused_row(True, True, sweep, a, b, H, W, i, i2, q, D, T, step, to_D, to_T, old, previous, unit)  # fmt: skip
            elif theta:
                _fused_row(True, False, sweep, a, b, H, W, i, i2, q, D, T, step, to_D, to_T, old, previous, unit)  # fmt: skip
            elif fold:
                _fused_row(False, True, sweep, a, b, H, W, i, i2, q, D, T, step, to_D, to_T, old, previous, unit)  # fmt: skip
            else:
                _fused_row(False, False, sweep, a, b, H, W, i, i2, q, D, T, step, to_D, to_T, old, previous, unit)  # fmt: skip
            old, previous = previous, old
        _side_row(sweep, a, b, i1, i1 + shift, H, W, q, spare, unit)
        for j in range(W):
            at = j * BYTES
            two = load(old + at, unit) + load(previous + at, unit)
            store(two + load(spare + at, unit), delta + (i1 - 1) * row + at)
            if theta:
                at += 2 * row
                two = load(old + at, unit) + load(previous + at, unit)
                store(two, tangent + (i1 - 1) * row + j * BYTES)


@numba.njit(nogil=True)
def _padded_row(
    sweep, channels, scale, a, b, H, W, i, i2, q, delta, source, step, to_delta, to_tangent, unit
):  # fmt: skip
    """Store the sums along row i, of any odd number of cells; ``to_delta`` has room behind W."""
    width = word(unit)
    size = sweep[SIZE]
    reach = size // 2
    padded_D, padded_T = to_delta + W * BYTES, to_tangent + W * BYTES
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
        if j0 == j1:
            continue
        for k in range(reach):
            for j, slot in ((j0 - reach + k, k), (j1 + k, reach + j1 - j0 + k)):
                side = _side(sweep, a, b, i, i2, j, j + shift, H, W, width, unit)
                store(side, padded_D + slot * BYTES)
                _clear(padded_T + slot * BYTES, 1, unit)
        activate(
            sweep, channels, scale, a, b, delta, source, step, W, i, i2, j0, j1, shift,
            padded_D + reach * BYTES, padded_T + reach * BYTES, unit,
        )  # fmt: skip
        for j in range(j0, j1):
            at = (j - j0) * BYTES
            total = load(padded_D + at, unit)
            for k in range(1, size):
                total = total + load(padded_D + at + k * BYTES, unit)
            store(total, to_delta + j * BYTES)
        if sweep[THETA]:
            for j in range(j0, j1):
                at = (j - j0) * BYTES
                total = load(padded_T + at, unit)
                for k in range(1, size):
                    total = total + load(padded_T + at + k * BYTES, unit)
                store(total, to_tangent + j * BYTES)


@numba.njit(nogil=True)
def _sum_rows(ring, size, W, to, unit):
    """Store the sums of the ``size`` rows of a ring, in its order."""
    for j in range(W):
        at = ring + j * BYTES
        total = load(at, unit)
        for k in range(1, size):
            total = total + load(at + k * W * BYTES, unit)
        store(total, to + j * BYTES)


@numba.njit(nogil=True)
def _general_sweep(
    sweep, channels, scale, a, b, H, W, p, q, delta_from, delta, source, step, tangent,
    ring, spare, unit,
):  # fmt: skip
    """Anything in front of a filter of any odd size."""
    size = sweep[SIZE]
    reach = size // 2
    row = W * BYTES
    ring_T, spare_T = ring + size * row, spare + (2 * W + 2 * reach) * BYTES
    for part in range(2):
        i0, i1, shift = (0, H - p, p) if part == 0 else (H - p, H, p - H)
        if i0 == i1:
            continue
        for r in range(i0 - reach, i1 + reach):
            slot = (r - i0 + reach) % size * row
            if i0 <= r < i1:
                _padded_row(
                    sweep, channels, scale, a, b, H, W, r, r + shift, q, delta_from + r * row,
                    source + r * W * step, step, spare, spare_T, unit,
                )  # fmt: skip
                _copy(spare, ring + slot, W, unit)
                if sweep[THETA]:
                    _copy(spare_T, ring_T + slot, W, unit)
            else:
                _side_row(sweep, a, b, r, r + shift, H, W, q, ring + slot, unit)
                if sweep[THETA]:
                    _clear(ring_T + slot, W, unit)
            if r >= i0 + reach:
                to = (r - reach) * row
                _sum_rows(ring, size, W, delta + to, unit)
                if sweep[THETA]:
                    _sum_rows(ring_T, size, W, tangent + to, unit)


@numba.njit(nogil=True)
def _whole_row(
    sweep, channels, scale, a, b, W, i, i2, q, delta, source, step, to_delta, to_tangent, unit
):  # fmt: skip
    """Store row i of what stands in front of the linear layer."""
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
        if j0 < j1:
            activate(
                sweep, channels, scale, a, b, delta, source, step, W, i, i2, j0, j1, shift,
                to_delta + j0 * BYTES, to_tangent + j0 * BYTES, unit,
            )  # fmt: skip


@numba.njit(nogil=True)
def _total(at, W, sums, unit):
    """Add a row to the sums of every lane: along the row in the dtype, then in float64."""
    total = load(at, unit)
    for j in range(1, W):
        total = total + load(at + j * BYTES, unit)
    store(total, at)
    width = word(unit)
    for lane in range(BYTES // width):
        sums[lane] += number(at + lane * width, unit)


@numba.njit(nogil=True)
def _pool_row(size, i, i2, H, W, q, pool, theta_offset, theta, row, row_T, unit):
    """Add a row of cells to the windows they belong to."""
    rows, columns = H // size, W // size
    I, I2 = i // size, i2 // size
    if I >= rows or I2 >= rows:
        return
    here = pool + (((I2 - I) % rows * columns * rows + I) * columns) * BYTES
    for j in range(W):
        J, J2 = j // size, _wrap(j + q, W) // size
        if J >= columns or J2 >= columns:
            continue
        to = here + ((J2 - J) % columns * rows * columns + J) * BYTES
        store(load(to, unit) + load(row + j * BYTES, unit), to)
        if theta:
            to += theta_offset
            store(load(to, unit) + load(row_T + j * BYTES, unit), to)


@numba.njit(nogil=True)
def _blocks(
    a, b, channels, blocks, upto, sweeps, scales, factors, classes, state, pools, theta, sums, unit
):  # fmt: skip
    """Run the first ``upto`` blocks of a row image with one vector of column images."""
    for n in range(upto):
        H, W = blocks[n, HEIGHT], blocks[n, WIDTH]
        row = W * BYTES
        zero, delta = state, state + BYTES
        tangent = delta + H * row
        ring = tangent + H * row
        last = sweeps[blocks[n, LAST] - 1]
        size = last[POOL]
        if size:
            h, w = H // size, W // size
            pool = pools + blocks[n + 1, POOLS] * BYTES
            _clear(pool, (2 if theta else 1) * (h * w) ** 2, unit)
        for cls in classes[blocks[n, CLASS] : blocks[n, CLASS_END]]:
            p, q = cls // W, cls % W
            for k in range(blocks[n, FIRST], blocks[n, LAST]):
                sweep = sweeps[k]
                most = max(3, sweep[SIZE])
                spare = ring + 2 * most * row
                spare_T = spare + row
                delta_from, source, step = delta, tangent, BYTES
                if sweep[KIND] == POOLED:
                    delta_from = pools + (blocks[n, POOLS] + cls * H * W) * BYTES
                    source = delta_from + (H * W) ** 2 * BYTES
                if sweep[FRESH]:
                    source, step = zero, 0
                if sweep[KIND] == RELU and sweep[SIZE] == 3 and (sweep[TRAINED] or not sweep[THETA]):
                    _fused_sweep(sweep, a, b, H, W, p, q, delta, source, step, tangent, ring, spare, unit)  # fmt: skip
                elif sweep[SIZE] > 1:
                    _general_sweep(
                        sweep, channels, scales[k], a, b, H, W, p, q, delta_from, delta, source,
                        step, tangent, ring, spare, unit,
                    )  # fmt: skip
                else:
                    for i in range(H):
                        i2 = _wrap(i + p, H)
                        here = i * row
                        to, to_T = delta + here, tangent + here
                        if sweep[SIZE] == 0:
                            to, to_T = spare, spare_T
                        _whole_row(
                            sweep, channels, scales[k], a, b, W, i, i2, q, delta_from + here,
                            source + i * W * step, step, to, to_T, unit,
                        )  # fmt: skip
                        if size and sweep[SIZE] == 0:
                            _pool_row(size, i, i2, H, W, q, pool, (h * w) ** 2 * BYTES, sweep[THETA], to, to_T, unit)  # fmt: skip
                        elif sweep[SIZE] == 0:
                            _total(to, W, sums[0], unit)
                            if sweep[THETA]:
                                _total(to_T, W, sums[1], unit)
                if factors[k] != unit:  # keeps the units of deep networks within range
                    factor = splat(factors[k])
                    for j in range((2 if sweep[THETA] else 1) * H * W):
                        store(load(delta + j * BYTES, unit) * factor, delta + j * BYTES)


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
    theta,
    first,
    out_delta,
    out_theta,
):
    """Fill rows of Δ and Θ behind the last spatial layer, summed over positions.

    Args:
        rows: (n, numbers) of the dtype, what ``prepare`` knows of row images.
        columns: (m, vectors, LANES), of column images, one per lane, on vectors' borders.
        channels: Channels of a pixel.
        blocks: (number of blocks, 7) integers, see the constants above.
        sweeps: (number of sweeps, ``SWEEP_FIELDS``) integers.
        scales: The unit of the state in front of each sweep.
        factors: What the state behind each sweep is multiplied by.
        classes: p·W + q of the displacement classes to visit, block by block.
        room: Vectors of working memory: for one class, for all pooled arrays.
        theta: Whether Θ is wanted.
        first: (n,) first vector of columns to compute for each row.
        out_delta: (n, m, LANES) float64.
        out_theta: (n, m, LANES) float64.
    """
    unit = scales.dtype.type(1)
    kept, state = _work(scales, room[0])
    kept_pools, pools = _work(scales, room[1])
    sums = np.zeros((2, BYTES // scales.itemsize))
    for n in range(rows.shape[0]):
        for m in range(first[n], columns.shape[0]):
            sums[:] = 0.0
            _blocks(
                rows[n].ctypes.data, columns[m].ctypes.data, channels, blocks, len(blocks), sweeps,
                scales, factors, classes, state, pools, theta, sums, unit,
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
    kept, state = _work(scales, room[0])
    kept_pools, pools = _work(scales, room[1])
    sums = np.zeros((2, lanes))
    for n in range(rows.shape[0]):
        m, lane = (first + n) // lanes, (first + n) % lanes
        _blocks(
            rows[n].ctypes.data, columns[m].ctypes.data, channels, blocks, upto, sweeps,
            scales, factors, classes, state, pools, False, sums, unit,
        )  # fmt: skip
        at = pools + blocks[upto, POOLS] * BYTES + lane * scales.itemsize
        for k in range(out.shape[1]):
            out[n, k] = number(at + k * BYTES, unit)
    kept[0] = kept_pools[0]
