"""The compiled loop of the CPU backend for fully connected networks (Numba).

Images are vectors, so the only work that grows with their size is one distance per pair. It is
blocked like a matrix product, four row images by two vectors of column images in registers;
but it adds up (x − y)², which costs no more where subtractions run in parallel, and keeps
the digits that |x|² + |y|² − 2xy loses between near duplicates. The layers behind it go
through cells in cache, as in ``cpu.loops``.
"""

from __future__ import annotations

import numba
import numpy as np

from ntkdist.kernels.chain import (
    ABSENT,
    CELLS,
    CELLS_B,
    FIRST,
    FOLD,
    KIND,
    PRESENT,
    RELU,
    THETA,
    TRAINED,
)
from ntkdist.kernels.cpu.cells import CELL, CHANNELS, activate, field, relu_end, relu_start
from ntkdist.kernels.cpu.compile import compiled
from ntkdist.kernels.cpu.vector import (
    BYTES,
    arccos_over_pi,
    fma,
    load,
    number,
    rounding,
    sine_gap_over_pi,
    splat,
    store,
    word,
)

ROWS = 4
VECTORS = 8  # of columns at a time, so that their numbers stay in the second-level cache


@numba.njit(nogil=True, forceinline=True)
def _add(part, at, unit):
    store(load(at, unit) + part, at)


@numba.njit(nogil=True)
def _distances(x0, x1, x2, x3, y0, y1, channels, cells, pitch, unit):
    """Add Σ (x − y)² of four row images and two vectors of columns to the Δ of their cells.

    ``x0`` to ``x3``, ``y0``, ``y1`` and ``cells`` (the cell of x0 and y0; that of y1 is the next)
    are addresses; ``pitch`` is the bytes from one row's cells to the next one's.
    """
    width = word(unit)
    zero = splat(unit - unit)
    a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = zero
    for k in range(channels):
        u, v = load(y0 + k * BYTES, unit), load(y1 + k * BYTES, unit)
        x = splat(number(x0 + k * width, unit))
        a0, a1 = fma(x - u, x - u, a0), fma(x - v, x - v, a1)
        x = splat(number(x1 + k * width, unit))
        b0, b1 = fma(x - u, x - u, b0), fma(x - v, x - v, b1)
        x = splat(number(x2 + k * width, unit))
        c0, c1 = fma(x - u, x - u, c0), fma(x - v, x - v, c1)
        x = splat(number(x3 + k * width, unit))
        d0, d1 = fma(x - u, x - u, d0), fma(x - v, x - v, d1)
    _add(a0, cells, unit)
    _add(a1, cells + CELL, unit)
    _add(b0, cells + pitch, unit)
    _add(b1, cells + pitch + CELL, unit)
    _add(c0, cells + 2 * pitch, unit)
    _add(c1, cells + 2 * pitch + CELL, unit)
    _add(d0, cells + 3 * pitch, unit)
    _add(d1, cells + 3 * pitch + CELL, unit)


@numba.njit(nogil=True, forceinline=True)
def _relu_cells(theta, fold, tau, P, R, a, b, stride, cells, count, unit):
    for m in range(count):
        at = cells + m * CELL
        c0, c1, c2, c3, c4, c5, c6 = relu_start(theta, fold, tau, at, a, b + m * stride, unit)
        D, T = relu_end(fold, P, R, c0, c1, c2, c3, c4, c5, c6, unit)
        store(D, at)
        if theta:
            store(T, at + BYTES)


@numba.njit(nogil=True)
def _layer(sweep, table, scale, a, b, stride, cells, count, unit):
    """Apply what stands behind a linear layer to cells of one row with ``count`` vectors."""
    theta, fold = field(sweep, THETA), field(sweep, FOLD)
    if field(sweep, KIND) != RELU or (theta and (fold or not field(sweep, TRAINED))):
        for m in range(count):
            at = cells + m * CELL
            activate(sweep, table, 1, scale, a, b + m * stride, at, 1, 0, 0, 0, 1, 0, at, unit)
        return
    P, R = arccos_over_pi(table, unit), sine_gap_over_pi(table, unit)
    tau = rounding(table, unit)
    a += field(sweep, CELLS) * word(unit)
    b += field(sweep, CELLS_B) * BYTES
    if theta == PRESENT:
        _relu_cells(PRESENT, False, tau, P, R, a, b, stride, cells, count, unit)
    elif theta == FIRST:
        _relu_cells(FIRST, False, tau, P, R, a, b, stride, cells, count, unit)
    elif fold:
        _relu_cells(ABSENT, True, tau, P, R, a, b, stride, cells, count, unit)
    else:
        _relu_cells(ABSENT, False, tau, P, R, a, b, stride, cells, count, unit)


@compiled
def dense_entries(
    rows, columns, channels, sweeps, scales, factors, table, first, out_delta, out_theta
):
    """Fill rows of Δ and Θ behind the last layer of a network on 1 × 1 pixels.

    Arguments are those of ``loops.entries``; ``channels`` is the length of an image's vector.
    """
    unit = scales.dtype.type(1)
    width = scales.itemsize
    n, m = rows.shape[0], columns.shape[0]
    stride = columns.shape[1] * BYTES
    groups = -(-n // ROWS)
    kept = np.zeros((groups * ROWS * VECTORS * 2 + 1) * (BYTES // width), scales.dtype)
    cells = kept.ctypes.data + (-kept.ctypes.data) % BYTES
    row_of_cells = VECTORS * CELL
    x, b = rows.ctypes.data, columns.ctypes.data
    pitch = rows.shape[1] * width
    for start in range(0, m, VECTORS):
        stop = min(m, start + VECTORS)
        if first[0] >= stop:
            continue  # below the diagonal
        for k in range(groups * ROWS * VECTORS * 2):
            store(splat(unit - unit), cells + k * BYTES)
        for c in range(0, channels, CHANNELS):
            if c % CHANNELS**2 == 0:  # the second level of the sums is kept in Θ's place
                for k in range(groups * ROWS * VECTORS):
                    _add(load(cells + k * CELL, unit), cells + k * CELL + BYTES, unit)
                    store(splat(unit - unit), cells + k * CELL)
            count = min(CHANNELS, channels - c)
            for v in range(start, stop, 2):
                y0, y1 = b + v * stride + c * BYTES, b + min(v + 1, stop - 1) * stride + c * BYTES
                for group in range(groups):
                    row, last = group * ROWS, min(n, group * ROWS + ROWS) - 1
                    if first[row] >= stop:
                        break
                    x0, x3 = x + row * pitch + c * width, x + last * pitch + c * width
                    x1, x2 = min(x0 + pitch, x3), min(x0 + 2 * pitch, x3)
                    at = cells + row * row_of_cells + (v - start) * CELL
                    _distances(x0, x1, x2, x3, y0, y1, count, at, row_of_cells, unit)
        for row in range(n):
            begin = max(start, first[row])
            if begin >= stop:
                break
            here = cells + row * row_of_cells + (begin - start) * CELL
            for v in range(stop - begin):
                at = here + v * CELL
                total = load(at, unit) + load(at + BYTES, unit)
                store(total * splat(factors[0]), at)
                store(splat(unit - unit), at + BYTES)
            for k in range(1, len(sweeps)):
                _layer(
                    sweeps[k].ctypes.data, table.ctypes.data, scales[k], x + row * pitch,
                    b + begin * stride, stride, here, stop - begin, unit,
                )  # fmt: skip
                if factors[k] != unit:
                    for v in range(2 * (stop - begin)):
                        at = here + v * BYTES
                        store(load(at, unit) * splat(factors[k]), at)
            for v in range(begin, stop):
                for lane in range(BYTES // width):
                    at = here + (v - begin) * CELL + lane * width
                    out_delta[row, v, lane] = number(at, unit)
                    out_theta[row, v, lane] = number(at + BYTES, unit)
    # an address does not keep its array alive; a last use behind the loops does
    kept[0] = rows[0, 0] + columns[0, 0, 0]
