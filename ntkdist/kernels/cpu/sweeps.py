"""Sweeps over one displacement class, each a layer of the network (Numba); see ``cpu.loops``.

A sweep applies what stands in front of a linear layer (``cpu.cells``), sums along the rows,
and sums over a ring of the last rows. ReLU in front of a 3 × 3 filter, which is nearly
all of the work, goes through registers in one loop, and so do pixels and windows.
"""

from __future__ import annotations

import numba

from ntkdist.kernels.cpu.cells import CELL, activate, end, field, relu_end, relu_start, start
from ntkdist.kernels.cpu.vector import (
    BYTES,
    arccos_over_pi,
    load,
    number,
    sine_gap_over_pi,
    splat,
    store,
    word,
)
from ntkdist.kernels.plan import (
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
    PIXELS,
    POOLED,
    RELU,
    SIDE,
    SIDE_B,
    SIZE,
    THERE,
    THETA,
)


@numba.njit(nogil=True, forceinline=True)
def wrap(index, edge):
    """Return index modulo edge for 0 ≤ index < 2·edge, without a division."""
    return index - edge if index >= edge else index


@numba.njit(nogil=True)
def clear(to, vectors, unit):
    """Store zeros in a number of vectors."""
    for k in range(vectors):
        store(splat(unit - unit), to + k * BYTES)


@numba.njit(nogil=True, forceinline=True)
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
    nothing = splat(unit - unit)
    if 0 <= i < H:
        at = a + (field(sweep, SIDE) + i * W) * word(unit)
        for j in range(W):
            store(splat(number(at + j * word(unit), unit)), to + j * CELL)
            store(nothing, to + j * CELL + BYTES)
    elif 0 <= i2 < H:
        for part in range(2):
            j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
            at = b + (field(sweep, SIDE_B) + i2 * W + shift) * BYTES
            for j in range(j0, j1):
                store(load(at + j * BYTES, unit), to + j * CELL)
                store(nothing, to + j * CELL + BYTES)
    else:
        clear(to, 2 * W, unit)


@numba.njit(nogil=True, forceinline=True)
def _emit(theta, D, T, old, previous, new, out, at, unit):
    """Store the sums of three rows' sums, the newest of them ``D`` and ``T``, and these."""
    store((load(old + at, unit) + load(previous + at, unit)) + D, out + at)
    store(D, new + at)
    if theta:
        at += BYTES
        store((load(old + at, unit) + load(previous + at, unit)) + T, out + at)
        store(T, new + at)


@numba.njit(nogil=True, forceinline=True)
def _fused_row(
    kind, theta, fold, channels, P, R, sweep, a, b, H, W, i, i2, q, cells, out, old, previous, new,
    unit,
):  # fmt: skip
    """Push row i through pixels or a ReLU and sums along the row; sum rows for the one before.

    ``old``, ``previous`` and ``new`` are rows of sums along the row; row i's go into ``new``.
    Cells are started while the one before them is finished, so what is known one cell later
    is stored two cells later. Before a part's first cell that goes to the cell left of it: in
    front of the row, or to the end of the left part, which therefore comes second.
    """
    width = word(unit)
    near, far = NUMBERS * width, NUMBERS_B * BYTES
    if kind == PIXELS:
        near, far = channels * width, channels * BYTES
    if kind == POOLED:
        near, far = width, BYTES
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 1 else (W - q, W, q - W)
        if j0 == j1:
            continue
        x = a + field(sweep, CELLS) * width + (i * W + j0) * near
        y = b + field(sweep, CELLS_B) * BYTES + (i2 * W + j0 + shift) * far
        last_D = _side(sweep, a, b, i, i2, j0 - 1, j0 - 1 + shift, H, W, unit)
        last_T = splat(unit - unit)
        two_D, two_T = last_D, last_T
        c0, c1, c2, c3, c4, c5, c6 = start(
            kind, theta, fold, cells + j0 * CELL, x, y, channels, unit
        )
        for j in range(1, j1 - j0):
            D, T = end(kind, fold, P, R, c0, c1, c2, c3, c4, c5, c6, unit)
            at = cells + (j0 + j) * CELL
            c0, c1, c2, c3, c4, c5, c6 = start(
                kind, theta, fold, at, x + j * near, y + j * far, channels, unit
            )
            at = (j0 + j - 2) * CELL
            _emit(theta, two_D + D, two_T + T, old, previous, new, out, at, unit)
            two_D, two_T = last_D + D, last_T + T
            last_D, last_T = D, T
        D, T = end(kind, fold, P, R, c0, c1, c2, c3, c4, c5, c6, unit)
        at = (j1 - 2) * CELL
        _emit(theta, two_D + D, two_T + T, old, previous, new, out, at, unit)
        two_D = last_D + D + _side(sweep, a, b, i, i2, j1, j1 + shift, H, W, unit)
        _emit(theta, two_D, last_T + T, old, previous, new, out, at + CELL, unit)


@numba.njit(nogil=True)
def _last_row(old, previous, new, vectors, out, unit):
    for k in range(vectors):
        at = k * BYTES
        store((load(old + at, unit) + load(previous + at, unit)) + load(new + at, unit), out + at)


@numba.njit(nogil=True)
def fused_sweep(
    sweep, table, channels, a, b, H, W, p, q, source, pitch, state, ring, spare, unit
):  # fmt: skip
    """Pixels, windows or a ReLU, from rows ``pitch`` apart, and a 3 × 3 filter to ``state``."""
    kind, theta, fold = field(sweep, KIND), field(sweep, THETA), field(sweep, FOLD)
    P, R = arccos_over_pi(table, unit), sine_gap_over_pi(table, unit)
    pitch_out = (W + 1) * CELL
    for part in range(2):
        i0, i1, shift = (0, H - p, p) if part == 0 else (H - p, H, p - H)
        if i0 == i1:
            continue
        old, previous, new = ring, ring + pitch_out, ring + 2 * pitch_out
        _side_row(sweep, a, b, i0 - 1, i0 - 1 + shift, H, W, q, previous, unit)
        for i in range(i0, i1):
            i2 = i + shift
            cells = source + i * pitch
            out = spare if i == i0 else state + (i - 1) * pitch_out
            row = sweep, a, b, H, W, i, i2, q, cells, out, old, previous, new, unit
            if kind == PIXELS and channels == 1:
                _fused_row(PIXELS, NONE, False, 1, P, R, *row)
            elif kind == PIXELS and channels == 3:
                _fused_row(PIXELS, NONE, False, 3, P, R, *row)
            elif kind == PIXELS:
                _fused_row(PIXELS, NONE, False, channels, P, R, *row)
            elif kind == POOLED:
                _fused_row(POOLED, theta, False, channels, P, R, *row)
            elif fold and theta:
                _fused_row(RELU, FRESH, True, channels, P, R, *row)
            elif fold:
                _fused_row(RELU, NONE, True, channels, P, R, *row)
            elif theta == THERE:
                _fused_row(RELU, THERE, False, channels, P, R, *row)
            elif theta == FRESH:
                _fused_row(RELU, FRESH, False, channels, P, R, *row)
            else:
                _fused_row(RELU, NONE, False, channels, P, R, *row)
            old, previous, new = previous, new, old
        _side_row(sweep, a, b, i1, i1 + shift, H, W, q, new, unit)
        _last_row(old, previous, new, 2 * W, state + (i1 - 1) * pitch_out, unit)


@numba.njit(nogil=True)
def _add_lanes(cell, sums, unit):
    """Add a cell's Δ and Θ to float64 sums per lane."""
    width = word(unit)
    for lane in range(BYTES // width):
        sums[0, lane] += number(cell + lane * width, unit)
        sums[1, lane] += number(cell + BYTES + lane * width, unit)


@numba.njit(nogil=True, forceinline=True)
def _relu_sums(theta, P, R, sweep, a, b, H, W, p, q, state, to, unit):
    near, far = NUMBERS * word(unit), NUMBERS_B * BYTES
    class_D = class_T = splat(unit - unit)
    for i in range(H):
        row_D = row_T = splat(unit - unit)
        i2 = wrap(i + p, H)
        x = a + field(sweep, CELLS) * word(unit) + i * W * near
        for part in range(2):
            j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
            y = b + field(sweep, CELLS_B) * BYTES + (i2 * W + shift) * far
            cells = state + i * (W + 1) * CELL
            for j in range(j0, j1):
                c0, c1, c2, c3, c4, c5, c6 = relu_start(
                    theta, False, cells + j * CELL, x + j * near, y + j * far, unit
                )
                D, T = relu_end(False, P, R, c0, c1, c2, c3, c4, c5, c6, unit)
                row_D, row_T = row_D + D, row_T + T
        class_D, class_T = class_D + row_D, class_T + row_T
    store(class_D, to)
    if theta:
        store(class_T, to + BYTES)


@numba.njit(nogil=True)
def relu_sum_sweep(sweep, table, a, b, H, W, p, q, state, spare, sums, unit):
    """A ReLU and the sums at the end: along rows and over rows in the dtype, then in float64."""
    clear(spare, 2, unit)
    P, R = arccos_over_pi(table, unit), sine_gap_over_pi(table, unit)
    if field(sweep, THETA):
        _relu_sums(THERE, P, R, sweep, a, b, H, W, p, q, state, spare, unit)
    else:
        _relu_sums(NONE, P, R, sweep, a, b, H, W, p, q, state, spare, unit)
    _add_lanes(spare, sums, unit)


@numba.njit(nogil=True)
def _padded_row(sweep, table, channels, scale, a, b, H, W, i, i2, q, cells, padded, to, unit):
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
            sweep, table, channels, scale, a, b, cells, W, i, i2, j0, j1, shift,
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
def general_sweep(
    sweep, table, channels, scale, a, b, H, W, p, q, source, pitch, state, ring, spare, unit
):  # fmt: skip
    """Anything in front of a filter of any odd size, from rows ``pitch`` apart to ``state``."""
    size = field(sweep, SIZE)
    reach = size // 2
    row = (W + 1) * CELL
    for part in range(2):
        i0, i1, shift = (0, H - p, p) if part == 0 else (H - p, H, p - H)
        if i0 == i1:
            continue
        for r in range(i0 - reach, i1 + reach):
            slot = ring + (r - i0 + reach) % size * row
            if i0 <= r < i1:
                _padded_row(
                    sweep, table, channels, scale, a, b, H, W, r, r + shift, q,
                    source + r * pitch, spare, slot, unit,
                )  # fmt: skip
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
def whole_row(sweep, table, channels, scale, a, b, W, i, i2, q, cells, to, unit):
    """Store row i of what stands in front of the linear layer."""
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
        if j0 < j1:
            activate(
                sweep, table, channels, scale, a, b, cells, W, i, i2, j0, j1, shift,
                to + j0 * CELL, unit,
            )  # fmt: skip


@numba.njit(nogil=True)
def total(row, W, sums, unit):
    """Add a row of cells to float64 sums per lane; along the row the sum is in the dtype."""
    D, T = load(row, unit), load(row + BYTES, unit)
    for j in range(1, W):
        D = D + load(row + j * CELL, unit)
        T = T + load(row + j * CELL + BYTES, unit)
    store(D, row)
    store(T, row + BYTES)
    _add_lanes(row, sums, unit)
