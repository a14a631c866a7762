"""Average pools: from cells of one displacement class to windows of several (Numba).

A window of one image with a window of another averages over cells of neighbouring
displacements, so the classes of a block add up in one array, (p, q, i, j) of the pooled images.
"""

from __future__ import annotations

import numba

from ntkdist.kernels.cpu.cells import CELL, field, relu_end, relu_start
from ntkdist.kernels.cpu.sweeps import wrap
from ntkdist.kernels.cpu.vector import (
    BYTES,
    arccos_over_pi,
    load,
    sine_gap_over_pi,
    store,
    word,
)
from ntkdist.kernels.plan import CELLS, CELLS_B, FOLD, FRESH, NONE, NUMBERS, NUMBERS_B, THERE, THETA


@numba.njit(nogil=True)
def pool_offsets(size, H, W, q, offsets):
    """Find where the cells of a row go, relative to their windows' row; −1 for a ragged rest."""
    rows, columns = H // size, W // size
    for j in range(W):
        J, J2 = j // size, wrap(j + q, W) // size
        inside = columns > J and columns > J2
        offsets[j] = ((J2 - J) % columns * rows * columns + J) * CELL if inside else -1


@numba.njit(nogil=True)
def pool_rows(size, i, i2, H, W, offsets, pool, theta, row, held, pitch, unit):
    """Add ``held`` rows of cells, ``pitch`` apart, to the windows that they all belong to."""
    rows, columns = H // size, W // size
    I, I2 = i // size, i2 // size
    if rows <= I or rows <= I2:
        return
    for k in range(1, held):
        for v in range(2 * W):
            at = row + v * BYTES
            store(load(at, unit) + load(at + k * pitch, unit), at)
    here = pool + ((I2 - I) % rows * columns * rows + I) * columns * CELL
    j = 0
    while j < W:
        offset, at = offsets[j], row + j * CELL
        D, T = load(at, unit), load(at + BYTES, unit)
        j += 1
        while j < W and offsets[j] == offset:
            at += CELL
            D, T = D + load(at, unit), T + load(at + BYTES, unit)
            j += 1
        if offset >= 0:
            to = here + offset
            store(load(to, unit) + D, to)
            if theta:
                store(load(to + BYTES, unit) + T, to + BYTES)


@numba.njit(nogil=True, forceinline=True)
def _relu_row(theta, fold, P, R, sweep, a, b, W, i, i2, q, cells, to, unit):
    near, far = NUMBERS * word(unit), NUMBERS_B * BYTES
    x = a + field(sweep, CELLS) * word(unit) + i * W * near
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
        y = b + field(sweep, CELLS_B) * BYTES + (i2 * W + shift) * far
        for j in range(j0, j1):
            c0, c1, c2, c3, c4, c5, c6 = relu_start(
                theta, fold, cells + j * CELL, x + j * near, y + j * far, unit
            )
            D, T = relu_end(fold, P, R, c0, c1, c2, c3, c4, c5, c6, unit)
            store(D, to + j * CELL)
            store(T, to + j * CELL + BYTES)


@numba.njit(nogil=True)
def relu_pool_sweep(
    sweep, table, a, b, H, W, p, q, size, offsets, pool, state, ring, unit
):  # fmt: skip
    """A ReLU and an average pool; rows for the same windows wait for each other."""
    theta, fold = field(sweep, THETA), field(sweep, FOLD)
    P, R = arccos_over_pi(table, unit), sine_gap_over_pi(table, unit)
    row = (W + 1) * CELL
    held = 0
    for i in range(H):
        i2 = wrap(i + p, H)
        cells, to = state + i * row, ring + held * row
        if fold and theta:
            _relu_row(FRESH, True, P, R, sweep, a, b, W, i, i2, q, cells, to, unit)
        elif fold:
            _relu_row(NONE, True, P, R, sweep, a, b, W, i, i2, q, cells, to, unit)
        elif theta:
            _relu_row(THERE, False, P, R, sweep, a, b, W, i, i2, q, cells, to, unit)
        else:
            _relu_row(NONE, False, P, R, sweep, a, b, W, i, i2, q, cells, to, unit)
        held += 1
        more = i + 1 < H and (i + 1) // size == i // size
        if not more or wrap(i + 1 + p, H) // size != i2 // size:
            pool_rows(size, i, i2, H, W, offsets, pool, theta, ring, held, row, unit)
            held = 0
