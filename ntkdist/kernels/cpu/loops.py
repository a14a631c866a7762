"""The compiled loops of the CPU backend (Numba, float32 or float64).

One call computes kernel entries of a few row images against every column image. The
unit of work is a displacement class (p, q) of a pair: cell (i, j) of the first image
meets cell ((i + p) mod H, (j + q) mod W) of the second. A SAME convolution only mixes
cells of one displacement, so a class is an H × W image that runs through all layers in
cache. Taking the second index modulo H and W packs two displacements, p and p − H,
into one full image; the link between neighbours is cut where the index wraps. Beyond a
cut or a border one of the images may still have a pixel: K and Θ are zero there, but Δ is
half of that pixel's variance.

As many column images as fit a vector are computed side by side, one per lane (``cpu.vector``): cuts
and borders are then the same for all lanes, nothing is masked or padded, and the rate does
not depend on the image's size. Every lane does the same operations in the same order, so an
entry's bits do not depend on its neighbours.

Where the mean at the end weighs displacements up to some limit alone, the two displacements of a
class are two *parts* along each axis, and those beyond the limit are skipped.

A layer is one sweep over the rows of a class: what stands in front of the linear layer
(``cpu.cells``), sums along the row, and sums over a ring of the last rows. ReLU in front of a
3 × 3 filter, which is nearly all of the work, goes through registers in one loop, and so do
pixels and windows. An average pool mixes displacements: a window of one image with a window of
another averages over cells of neighbouring ones, so all classes of a block add up in one array
in memory, (p, q, i, j) of the pooled images, which the classes of the next block start from.
"""

from __future__ import annotations

import numba
import numpy as np

from ntkdist.kernels.chain import (
    ABSENT,
    CELLS,
    CELLS_B,
    CLASS,
    CLASS_END,
    FIRST,
    FOLD,
    HALF,
    HALF_B,
    HEIGHT,
    KIND,
    NUMBERS,
    NUMBERS_B,
    PIXELS,
    POOL,
    POOLED,
    POOLS,
    PRESENT,
    RELU,
    SIDE,
    SIDE_B,
    SIZE,
    SWEEP,
    SWEEP_END,
    THETA,
    TRAINED,
    WIDTH,
)
from ntkdist.kernels.cpu.cells import (
    CELL,
    activate,
    end,
    field,
    half_erf,
    relu_end,
    relu_start,
    start,
)
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
    """Store ``D`` and ``T`` in ``new``, and their sums with the two rows before in ``out``."""
    store((load(old + at, unit) + load(previous + at, unit)) + D, out + at)
    store(D, new + at)
    if theta:
        at += BYTES
        store((load(old + at, unit) + load(previous + at, unit)) + T, out + at)
        store(T, new + at)


@numba.njit(nogil=True, forceinline=True)
def _fused_row(
    kind, theta, fold, channels, tau, P, R, sweep, a, b, H, W, i, i2, q, parts, cells, out, old,
    previous, new, unit,
):  # fmt: skip
    """Sum row i of pixels, windows or a ReLU along the row; store the 3 × 3 sums of row i − 1.

    ``old``, ``previous`` and ``new`` are rows of sums along the row; row i's go into ``new``.
    Each cell is started before the previous one is ended. Each part first writes a wrong sum to
    the cell left of it: the spare cell in front of the row, or the last cell of the left part.
    The left part therefore comes second and overwrites it.
    """
    width = word(unit)
    near, far = NUMBERS * width, NUMBERS_B * BYTES
    if kind == PIXELS:
        near, far = channels * width, channels * BYTES
    if kind == POOLED:
        near, far = width, BYTES
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 1 else (W - q, W, q - W)
        if j0 == j1 or not parts & (8 >> part):
            continue
        x = a + field(sweep, CELLS) * width + (i * W + j0) * near
        y = b + field(sweep, CELLS_B) * BYTES + (i2 * W + j0 + shift) * far
        last_D = _side(sweep, a, b, i, i2, j0 - 1, j0 - 1 + shift, H, W, unit)
        last_T = splat(unit - unit)
        two_D, two_T = last_D, last_T
        c0, c1, c2, c3, c4, c5, c6 = start(
            kind, theta, fold, tau, cells + j0 * CELL, x, y, channels, unit
        )
        for j in range(1, j1 - j0):
            D, T = end(kind, fold, P, R, c0, c1, c2, c3, c4, c5, c6, unit)
            at = cells + (j0 + j) * CELL
            c0, c1, c2, c3, c4, c5, c6 = start(
                kind, theta, fold, tau, at, x + j * near, y + j * far, channels, unit
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
    sweep, table, channels, a, b, H, W, p, q, parts, source, pitch, state, ring, spare, unit
):  # fmt: skip
    """Pixels, windows or a ReLU, from rows ``pitch`` apart, and a 3 × 3 filter to ``state``."""
    kind, theta, fold = field(sweep, KIND), field(sweep, THETA), field(sweep, FOLD)
    P, R = arccos_over_pi(table, unit), sine_gap_over_pi(table, unit)
    tau = rounding(table, unit)
    pitch_out = (W + 1) * CELL
    for part in range(2):
        i0, i1, shift = (0, H - p, p) if part == 0 else (H - p, H, p - H)
        if i0 == i1 or not parts & (1 << part):
            continue
        old, previous, new = ring, ring + pitch_out, ring + 2 * pitch_out
        _side_row(sweep, a, b, i0 - 1, i0 - 1 + shift, H, W, q, previous, unit)
        for i in range(i0, i1):
            i2 = i + shift
            cells = source + i * pitch
            out = spare if i == i0 else state + (i - 1) * pitch_out
            row = sweep, a, b, H, W, i, i2, q, parts, cells, out, old, previous, new, unit
            if kind == PIXELS and channels == 1:
                _fused_row(PIXELS, ABSENT, False, 1, tau, P, R, *row)
            elif kind == PIXELS and channels == 3:
                _fused_row(PIXELS, ABSENT, False, 3, tau, P, R, *row)
            elif kind == PIXELS:
                _fused_row(PIXELS, ABSENT, False, channels, tau, P, R, *row)
            elif kind == POOLED:
                _fused_row(POOLED, theta, False, channels, tau, P, R, *row)
            elif fold and theta:
                _fused_row(RELU, FIRST, True, channels, tau, P, R, *row)
            elif fold:
                _fused_row(RELU, ABSENT, True, channels, tau, P, R, *row)
            elif theta == PRESENT:
                _fused_row(RELU, PRESENT, False, channels, tau, P, R, *row)
            elif theta == FIRST:
                _fused_row(RELU, FIRST, False, channels, tau, P, R, *row)
            else:
                _fused_row(RELU, ABSENT, False, channels, tau, P, R, *row)
            old, previous, new = previous, new, old
        _side_row(sweep, a, b, i1, i1 + shift, H, W, q, new, unit)
        _last_row(old, previous, new, 2 * W, state + (i1 - 1) * pitch_out, unit)


@numba.njit(nogil=True)
def add_lanes(cell, sums, unit):
    """Add a cell's Δ and Θ to float64 sums per lane."""
    width = word(unit)
    for lane in range(BYTES // width):
        sums[0, lane] += number(cell + lane * width, unit)
        sums[1, lane] += number(cell + BYTES + lane * width, unit)


@numba.njit(nogil=True, forceinline=True)
def _relu_sums(theta, tau, P, R, sweep, a, b, H, W, p, q, state, to, unit):
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
                    theta, False, tau, cells + j * CELL, x + j * near, y + j * far, unit
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
    tau = rounding(table, unit)
    if field(sweep, THETA):
        _relu_sums(PRESENT, tau, P, R, sweep, a, b, H, W, p, q, state, spare, unit)
    else:
        _relu_sums(ABSENT, tau, P, R, sweep, a, b, H, W, p, q, state, spare, unit)
    add_lanes(spare, sums, unit)


@numba.njit(nogil=True)
def _padded_row(
    sweep, table, channels, scale, a, b, H, W, i, i2, q, parts, cells, padded, to, unit
):
    """Store the sums along row i, of any odd number of cells; ``padded`` is working memory."""
    size = field(sweep, SIZE)
    reach = size // 2
    vectors = 2 if field(sweep, THETA) else 1
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
        if j0 == j1 or not parts & (4 << part):
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
    sweep, table, channels, scale, a, b, H, W, p, q, parts, source, pitch, state, ring, spare, unit
):  # fmt: skip
    """Anything in front of a filter of any odd size, from rows ``pitch`` apart to ``state``."""
    size = field(sweep, SIZE)
    reach = size // 2
    row = (W + 1) * CELL
    for part in range(2):
        i0, i1, shift = (0, H - p, p) if part == 0 else (H - p, H, p - H)
        if i0 == i1 or not parts & (1 << part):
            continue
        for r in range(i0 - reach, i1 + reach):
            slot = ring + (r - i0 + reach) % size * row
            if i0 <= r < i1:
                _padded_row(
                    sweep, table, channels, scale, a, b, H, W, r, r + shift, q, parts,
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
def whole_row(sweep, table, channels, scale, a, b, W, i, i2, q, parts, cells, to, unit):
    """Store row i of what stands in front of the linear layer."""
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
        if j0 < j1 and parts & (4 << part):
            activate(
                sweep, table, channels, scale, a, b, cells, W, i, i2, j0, j1, shift,
                to + j0 * CELL, unit,
            )  # fmt: skip


@numba.njit(nogil=True)
def add_row(row, W, sums, unit):
    """Add a row of cells to float64 sums per lane; along the row the sum is in the dtype."""
    D, T = load(row, unit), load(row + BYTES, unit)
    for j in range(1, W):
        D = D + load(row + j * CELL, unit)
        T = T + load(row + j * CELL + BYTES, unit)
    store(D, row)
    store(T, row + BYTES)
    add_lanes(row, sums, unit)


@numba.njit(nogil=True, forceinline=True)
def _relu_weighted(
    theta, tau, P, R, sweep, a, b, H, W, p, q, parts, weights, across, state, to, unit
):
    near, far = NUMBERS * word(unit), NUMBERS_B * BYTES
    class_D = class_T = splat(unit - unit)
    for i in range(H):
        i2 = wrap(i + p, H)
        weight = number(weights + (i * H + i2) * word(unit), unit)
        if not parts & (2 if i + p >= H else 1) or weight == 0:
            continue
        row_D = row_T = splat(unit - unit)
        x = a + field(sweep, CELLS) * word(unit) + i * W * near
        for part in range(2):
            if not parts & (4 << part):
                continue
            j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
            y = b + field(sweep, CELLS_B) * BYTES + (i2 * W + shift) * far
            cells = state + i * (W + 1) * CELL
            for j in range(j0, j1):
                c0, c1, c2, c3, c4, c5, c6 = relu_start(
                    theta, False, tau, cells + j * CELL, x + j * near, y + j * far, unit
                )
                D, T = relu_end(False, P, R, c0, c1, c2, c3, c4, c5, c6, unit)
                of_column = splat(number(across + j * word(unit), unit))
                row_D, row_T = fma(of_column, D, row_D), fma(of_column, T, row_T)
        class_D = fma(splat(weight), row_D, class_D)
        class_T = fma(splat(weight), row_T, class_T)
    store(class_D, to)
    if theta:
        store(class_T, to + BYTES)


@numba.njit(nogil=True)
def relu_weighted_sweep(
    sweep, table, a, b, H, W, p, q, parts, weights, across, state, spare, sums, unit
):
    """A ReLU and the weighted sums at the end; else like ``relu_sum_sweep``."""
    clear(spare, 2, unit)
    P, R = arccos_over_pi(table, unit), sine_gap_over_pi(table, unit)
    of_class = sweep, a, b, H, W, p, q, parts, weights, across, state, spare, unit
    if field(sweep, THETA):
        _relu_weighted(PRESENT, rounding(table, unit), P, R, *of_class)
    else:
        _relu_weighted(ABSENT, rounding(table, unit), P, R, *of_class)
    add_lanes(spare, sums, unit)


@numba.njit(nogil=True)
def add_weighted_row(row, W, weight, across, sums, unit):
    """Add a row of cells times their weights, like ``add_row``; a cell of weight 0 is not read."""
    D = T = splat(unit - unit)
    for j in range(W):
        of_column = number(across + j * word(unit), unit)
        if of_column != 0:
            D = fma(splat(of_column), load(row + j * CELL, unit), D)
            T = fma(splat(of_column), load(row + j * CELL + BYTES, unit), T)
    store(splat(weight) * D, row)
    store(splat(weight) * T, row + BYTES)
    add_lanes(row, sums, unit)


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
def _relu_row(theta, fold, tau, P, R, sweep, a, b, W, i, i2, q, cells, to, unit):
    near, far = NUMBERS * word(unit), NUMBERS_B * BYTES
    x = a + field(sweep, CELLS) * word(unit) + i * W * near
    for part in range(2):
        j0, j1, shift = (0, W - q, q) if part == 0 else (W - q, W, q - W)
        y = b + field(sweep, CELLS_B) * BYTES + (i2 * W + shift) * far
        for j in range(j0, j1):
            c0, c1, c2, c3, c4, c5, c6 = relu_start(
                theta, fold, tau, cells + j * CELL, x + j * near, y + j * far, unit
            )
            D, T = relu_end(fold, P, R, c0, c1, c2, c3, c4, c5, c6, unit)
            store(D, to + j * CELL)
            store(T, to + j * CELL + BYTES)


@numba.njit(nogil=True)
def relu_pool_sweep(
    sweep, table, a, b, H, W, p, q, size, offsets, pool, state, ring, unit
):  # fmt: skip
    """A ReLU and an average pool; rows of the same windows are added up first."""
    theta, fold = field(sweep, THETA), field(sweep, FOLD)
    P, R = arccos_over_pi(table, unit), sine_gap_over_pi(table, unit)
    tau = rounding(table, unit)
    row = (W + 1) * CELL
    held = 0
    for i in range(H):
        i2 = wrap(i + p, H)
        cells, to = state + i * row, ring + held * row
        if fold and theta:
            _relu_row(FIRST, True, tau, P, R, sweep, a, b, W, i, i2, q, cells, to, unit)
        elif fold:
            _relu_row(ABSENT, True, tau, P, R, sweep, a, b, W, i, i2, q, cells, to, unit)
        elif theta:
            _relu_row(PRESENT, False, tau, P, R, sweep, a, b, W, i, i2, q, cells, to, unit)
        else:
            _relu_row(ABSENT, False, tau, P, R, sweep, a, b, W, i, i2, q, cells, to, unit)
        held += 1
        more = i + 1 < H and (i + 1) // size == i // size
        if not more or wrap(i + 1 + p, H) // size != i2 // size:
            pool_rows(size, i, i2, H, W, offsets, pool, theta, ring, held, row, unit)
            held = 0


@numba.njit(nogil=True)
def _blocks(
    a, b, channels, blocks, upto, sweeps, scales, factors, classes, of_class, weights, table,
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
        weighted = n + 1 == len(blocks) and weights[0].size > 0
        across = np.empty(W, scales.dtype)
        for at in range(blocks[n, CLASS], blocks[n, CLASS_END]):
            cls, parts = classes[at], of_class[at]
            p, q = cls // W, cls % W
            if weighted:
                for j in range(W):
                    across[j] = weights[1][j, wrap(j + q, W)]
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
                if plain and theta == FIRST and not fold and box != 3:
                    for j in range(H * (W + 1)):
                        store(splat(unit - unit), state + j * CELL + BYTES)
                usual = plain and not (fold and theta == PRESENT)
                images = a, b, H, W, p, q
                if box == 3 and (field(sweep, KIND) <= POOLED or usual):
                    fused_sweep(
                        sweep, table, channels, *images, parts, source, pitch, state, ring, spare,
                        unit,
                    )  # fmt: skip
                elif box == 0 and size and usual:
                    relu_pool_sweep(sweep, table, *images, size, offsets, pool, state, ring, unit)
                elif box == 0 and plain and not fold and weighted:
                    relu_weighted_sweep(
                        sweep, table, *images, parts, weights[0].ctypes.data, across.ctypes.data,
                        state, spare, sums, unit,
                    )  # fmt: skip
                elif box == 0 and plain and not fold and not size:
                    relu_sum_sweep(sweep, table, *images, state, spare, sums, unit)
                elif box > 1:
                    general_sweep(
                        sweep, table, channels, scales[k], *images, parts, source, pitch, state,
                        ring, spare, unit,
                    )  # fmt: skip
                else:
                    for i in range(H):
                        i2 = wrap(i + p, H)
                        if not parts & (2 if i + p >= H else 1):
                            continue
                        to = state + i * row if box else spare
                        whole_row(
                            sweep, table, channels, scales[k], a, b, W, i, i2, q, parts,
                            source + i * pitch, to, unit,
                        )  # fmt: skip
                        if box == 0 and size:
                            pool_rows(size, i, i2, H, W, offsets, pool, theta, to, 1, row, unit)
                        elif box == 0 and weighted:
                            weight = weights[0][i, i2]
                            add_weighted_row(to, W, weight, across.ctypes.data, sums, unit)
                        elif box == 0:
                            add_row(to, W, sums, unit)
                if factors[k] != unit:  # keeps the units of deep networks within range
                    for j in range(2 * H * (W + 1)):
                        store(load(state + j * BYTES, unit) * splat(factors[k]), state + j * BYTES)
        # an address does not keep its array alive; a last use behind the loops does
        across[0] = weights[0].size


@numba.njit(nogil=True)
def aligned_work(template, vectors):
    """Return an array for ``vectors`` vectors, and its first address aligned to ``BYTES``."""
    array = np.zeros((vectors + 1) * (BYTES // template.itemsize), template.dtype)
    start = array.ctypes.data
    return array, start + (-start) % BYTES


@compiled
def entries(
    rows, columns, channels, blocks, sweeps, scales, factors, classes, parts, row_weights,
    column_weights, table, work_cells, first, out_delta, out_theta,
):  # fmt: skip
    """Fill rows of Δ and Θ behind the last spatial layer, summed over positions.

    Args:
        rows: (n, numbers) of the dtype, prepared row images.
        columns: (m, numbers, lanes), column images, one per lane, aligned to ``BYTES``.
        channels: Channels of a pixel.
        blocks: (number of blocks, 7) integers, columns as in ``chain``.
        sweeps: (number of sweeps, ``SWEEP_FIELDS``) integers.
        scales: The unit of the state in front of each sweep.
        factors: What the state behind each sweep is multiplied by.
        classes: p·W + q of the displacement classes to visit, block by block.
        parts: Which parts of each class to compute: 1 for displacement p along the rows, 2 for
            p − H, 4 for q along the columns, 8 for q − W, added up.
        row_weights: (H, H) of the dtype, weight of row i with row i' in the sums at the end; empty
            where all cells weigh the same.
        column_weights: (W, W), likewise of columns; a cell's weight is their product.
        table: ``coefficients`` of the dtype.
        work_cells: Cells of working memory: for one class, for all pooled arrays.
        first: (n,) first vector of columns to compute for each row.
        out_delta: (n, m, lanes) float64.
        out_theta: (n, m, lanes) float64.
    """
    unit = scales.dtype.type(1)
    kept, state = aligned_work(scales, 2 * work_cells[0])
    kept_pools, pools = aligned_work(scales, 2 * work_cells[1])
    sums = np.zeros((2, BYTES // scales.itemsize))
    for m in range(columns.shape[0]):  # outside: a column's numbers stay in cache for all rows
        for n in range(rows.shape[0]):
            if m < first[n]:
                continue
            sums[:] = 0.0
            _blocks(
                rows[n].ctypes.data, columns[m].ctypes.data, channels, blocks, len(blocks), sweeps,
                scales, factors, classes, parts, (row_weights, column_weights), table.ctypes.data,
                state + CELL, pools, sums, unit,
            )  # fmt: skip
            out_delta[n, m] = sums[0]
            out_theta[n, m] = sums[1]
    # an address does not keep its array alive; a last use behind the loops does
    kept[0] = kept_pools[0]


@compiled
def self_windows(
    rows, columns, channels, blocks, upto, sweeps, scales, factors, classes, table, work_cells,
    first, out,
):  # fmt: skip
    """Fill out[n] with the sums over windows of Δ of row image n and itself in front of a block.

    ``upto`` is that block, ``columns`` the row images in lanes, ``first`` the index among them of
    the first row, ``out`` (n, H·W) of the block; all else as for ``entries``.
    """
    unit = scales.dtype.type(1)
    lanes = BYTES // scales.itemsize
    kept, state = aligned_work(scales, 2 * work_cells[0])
    kept_pools, pools = aligned_work(scales, 2 * work_cells[1])
    sums = np.zeros((2, lanes))
    whole, unweighted = np.full(len(classes), 15, np.int64), np.zeros((0, 0), scales.dtype)
    for n in range(rows.shape[0]):
        m, lane = (first + n) // lanes, (first + n) % lanes
        _blocks(
            rows[n].ctypes.data, columns[m].ctypes.data, channels, blocks, upto, sweeps,
            scales, factors, classes, whole, (unweighted, unweighted), table.ctypes.data,
            state + CELL, pools, sums, unit,
        )  # fmt: skip
        at = pools + blocks[upto, POOLS] * CELL + lane * scales.itemsize
        for k in range(out.shape[1]):
            out[n, k] = number(at + k * CELL, unit)
    kept[0] = kept_pools[0]


@compiled
def half_erf_variances(variances, inverses, table, out):
    """Fill ``out`` with half the variances behind an erf, as the loops compute covariances.

    Δ of equal images is then zero. ``variances`` A in front, ``inverses`` 1/√(1 + 2A) and
    ``out`` are (vectors, lanes), ``table`` is ``coefficients`` of the dtype.
    """
    unit = table.dtype.type(1)
    P = arccos_over_pi(table.ctypes.data, unit)
    for k in range(variances.shape[0]):
        A, inverse = load(variances[k].ctypes.data, unit), load(inverses[k].ctypes.data, unit)
        m = inverse * inverse
        store(half_erf(splat(unit) * m, (A + A) * m, P, unit), out[k].ctypes.data)


@compiled
def finish(delta, theta, scale, spread_a, spread_b, norm_a, norm_b, last, K, T):
    """Fill a block of K and Θ from the sums of Δ and Θ.

    Args:
        delta: (n, ≥ m) sums of Δ over positions.
        theta: (n, ≥ m) sums of Θ.
        scale: Factor that turns the sums into means.
        spread_a, spread_b: (n,) and (m,) mean over pixels of the images' variances.
        norm_a, norm_b: (n,) and (m,) what the images were divided by.
        last: (5,) as of ``linear_tail``.
        K, T: (n, m) to fill.
    """
    alpha, beta, gamma, mixed, rest = last[0], last[1], last[2], last[3], last[4]
    for i in range(K.shape[0]):
        # without biases an all-zero image has variance 0, and kernel 0 with all images
        norm = norm_a[i] if spread_a[i] > 0 else 0.0
        for j in range(K.shape[1]):
            both = norm * norm_b[j] if spread_b[j] > 0 else 0.0
            k = both * ((spread_a[i] + spread_b[j]) / 2 - scale * delta[i, j])
            K[i, j] = alpha * k + beta
            T[i, j] = gamma * both * scale * theta[i, j] + mixed * k + rest


@compiled
def mirror(K):
    """Copy what stands above the diagonal of (n, n) below it."""
    n, edge = K.shape[0], 64
    for I in range(0, n, edge):
        for J in range(0, I + edge, edge):
            for i in range(I, min(n, I + edge)):
                for j in range(J, min(i, J + edge)):
                    K[i, j] = K[j, i]
