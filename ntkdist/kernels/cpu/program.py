"""The compiled loops of the CPU backend for graphs (Numba, float32 or float64).

``_run`` runs the operations of a ``graph.GraphPlan``, one displacement after the other, for one row
image and as many column images as fit a vector (``cpu.loops``). Each kind of operation has a
function, which reads and writes buffers of cells Δ and Θ in cache; cell (i, j) belongs to pixel
(i, j) of the row image.

Beyond the border of one image the other may still have a pixel. K and Θ are 0 there, but Δ is half
the variance of that pixel.
"""

from __future__ import annotations

import numba
import numpy as np

from ntkdist.kernels.cpu.cells import (
    CELL,
    dual_cell,
    exponential_cell,
    field,
    half_distance,
    mixed_relu_cell,
    norm_cell,
)
from ntkdist.kernels.cpu.compile import compiled
from ntkdist.kernels.cpu.loops import add_lanes, aligned_work, clear
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
    where_above,
    word,
)
from ntkdist.kernels.graph import (
    ABOVE,
    ADD,
    ARRAY,
    CIRCULAR,
    COLUMNS,
    COLUMNS_END,
    CONSTANTS,
    EACH,
    END,
    EXPONENTIAL,
    FACTOR,
    FACTOR_2,
    HALF,
    HALF_OUT,
    HEIGHT,
    HEIGHT_IN,
    LEFT,
    LINEAR,
    LOAD,
    MASKS,
    NORM,
    NUMBERS,
    OP,
    OPS,
    OPS_END,
    PIXELS,
    POOL,
    RELU,
    ROWS,
    ROWS_END,
    SECOND,
    SIDE,
    SIGNED,
    SIZE,
    SOURCE,
    STEP,
    STORE,
    STRIDE,
    TARGET,
    TRAINED,
    WIDTH,
    WIDTH_IN,
)


@numba.njit(nogil=True, forceinline=True)
def part_of(cyclic, part, d, n):
    """Return one part of a displacement along an axis: first pixel, end, and displacement.

    A cyclic displacement d has two parts, d and d − n. Any other has part 0 only; its part 1 is
    empty.
    """
    if cyclic:
        if part == 0:
            return 0, n - d, d
        return n - d, n, d - n
    if part == 0:
        return max(0, -d), min(n, n - d), d
    return 0, 0, 0


@numba.njit(nogil=True, forceinline=True)
def constant(constants, name, unit):
    """Return a constant of an operation; ``constants`` is the address of its first one."""
    return number(constants + name * word(unit), unit)


@numba.njit(nogil=True)
def _pixels(op, a, b, channels, dr, dc, cyclic, target, unit):
    H, W, width = field(op, HEIGHT), field(op, WIDTH), word(unit)
    nothing = splat(unit - unit)
    for part in range(4):
        i0, i1, di = part_of(cyclic, part // 2, dr, H)
        j0, j1, dj = part_of(cyclic, part % 2, dc, W)
        for i in range(i0, i1):
            x, y = a + i * W * channels * width, b + ((i + di) * W + dj) * channels * BYTES
            to = target + i * W * CELL
            for j in range(j0, j1):
                at = j * channels
                D = half_distance(x + at * width, y + at * BYTES, channels, width, unit)
                store(D, to + j * CELL)
                store(nothing, to + j * CELL + BYTES)


@numba.njit(nogil=True)
def _load(op, a, b, dr, dc, cyclic, memory, target, unit):
    """Read a value kept in memory; subtract a pool's ``centers`` of both images from its Δ."""
    H, W, width = field(op, HEIGHT), field(op, WIDTH), word(unit)
    centers = field(op, NUMBERS)
    source = memory + (field(op, ARRAY) + (dr % H * W + dc % W) * H * W) * CELL
    for part in range(4):
        i0, i1, di = part_of(cyclic, part // 2, dr, H)
        j0, j1, dj = part_of(cyclic, part % 2, dc, W)
        for i in range(i0, i1):
            for j in range(j0, j1):
                at = (i * W + j) * CELL
                D = load(source + at, unit)
                if centers >= 0:
                    other = (i + di) * W + j + dj
                    D = (D - splat(number(a + (centers + i * W + j) * width, unit))) - load(
                        b + (centers + other) * BYTES, unit
                    )
                store(D, target + at)
                store(load(source + at + BYTES, unit), target + at + BYTES)


@numba.njit(nogil=True, forceinline=True)
def windows_of(pixel, pool, stride, count):
    """Return the first window that holds a pixel, and one behind the last that does."""
    return max(0, (pixel - pool) // stride + 1), min(count, pixel // stride + 1)


@numba.njit(nogil=True)
def _store(op, dr, dc, cyclic, source, memory, unit):
    """Add each cell to the sums of all pairs of windows that hold its pixels; else copy it."""
    H, W = field(op, HEIGHT), field(op, WIDTH)
    pool, stride = field(op, POOL), field(op, STRIDE)
    h, w = (H - pool) // stride + 1, (W - pool) // stride + 1
    array = memory + field(op, ARRAY) * CELL
    for part in range(4):
        i0, i1, di = part_of(cyclic, part // 2, dr, H)
        j0, j1, dj = part_of(cyclic, part % 2, dc, W)
        for i in range(i0, i1):
            a0, a1 = windows_of(i, pool, stride, h)
            b0, b1 = windows_of(i + di, pool, stride, h)
            if a0 >= a1 or b0 >= b1:
                continue
            j = j0
            while j < j1:
                c0, c1 = windows_of(j, pool, stride, w)
                d0, d1 = windows_of(j + dj, pool, stride, w)
                at = source + (i * W + j) * CELL
                D, T = load(at, unit), load(at + BYTES, unit)
                j += 1
                while (  # the cells of the same windows
                    j < j1
                    and windows_of(j, pool, stride, w) == (c0, c1)
                    and windows_of(j + dj, pool, stride, w) == (d0, d1)
                ):
                    at += CELL
                    D, T = D + load(at, unit), T + load(at + BYTES, unit)
                    j += 1
                for I in range(a0, a1):
                    for I2 in range(b0, b1):
                        to = array + ((I2 - I) % h * w * h + I) * w * CELL
                        for J in range(c0, c1):
                            for J2 in range(d0, d1):
                                at = to + ((J2 - J) % w * h * w + J) * CELL
                                x, y = D, T
                                if pool > 1:
                                    x, y = load(at, unit) + D, load(at + BYTES, unit) + T
                                store(x, at)
                                store(y, at + BYTES)


@numba.njit(nogil=True)
def _row_of_sums(op, a, b, r, di, j0, j1, dj, source, to, unit):
    """Store a filter's sums along row r of its input, for the output columns j0 ≤ j < j1.

    ``di`` and ``dj`` are the displacements of the input; ``to`` is the cell of column 0.
    """
    width = word(unit)
    H, W, W_out = field(op, HEIGHT_IN), field(op, WIDTH_IN), field(op, WIDTH)
    size, stride, left = field(op, SIZE), field(op, STRIDE), field(op, LEFT)
    nothing = splat(unit - unit)
    if field(op, CIRCULAR):
        row = source + r % H * W * CELL
        for j in range(j0, j1):
            D = T = nothing
            for u in range(size):
                at = row + (j * stride - left + u) % W * CELL
                D, T = D + load(at, unit), T + load(at + BYTES, unit)
            store(D, to + j * CELL)
            store(T, to + j * CELL + BYTES)
        return
    r2 = r + di
    mine, other = 0 <= r < H, 0 <= r2 < H
    if not (mine and other):
        shift = dj // stride
        for j in range(j0, j1):
            D = nothing
            if mine:
                D = splat(number(a + (field(op, SIDE) + r * W_out + j) * width, unit))
            elif other:
                D = load(b + (field(op, SIDE) + r2 * W_out + j + shift) * BYTES, unit)
            store(D, to + j * CELL)
            store(nothing, to + j * CELL + BYTES)
        return
    low, high = max(0, -dj), min(W, W - dj)  # columns that both images have
    inside = min(j1, max(j0, (low + left + stride - 1) // stride))
    beyond = max(inside, min(j1, (high - size + left) // stride + 1))
    row = source + r * W * CELL
    for part in range(2):
        for j in range(j0 if part == 0 else beyond, inside if part == 0 else j1):
            D = T = nothing
            for u in range(size):
                at = j * stride - left + u
                if low <= at < high:
                    D = D + load(row + at * CELL, unit)
                    T = T + load(row + at * CELL + BYTES, unit)
                elif 0 <= at < W:
                    D = D + splat(number(a + (field(op, HALF) + r * W + at) * width, unit))
                elif 0 <= at + dj < W:
                    D = D + load(b + (field(op, HALF) + r2 * W + at + dj) * BYTES, unit)
            store(D, to + j * CELL)
            store(T, to + j * CELL + BYTES)
    first = row - left * CELL
    if size == 3:
        for j in range(inside, beyond):
            at = first + j * stride * CELL
            for v in range(2):
                x = load(at, unit) + load(at + CELL, unit)
                store(x + load(at + 2 * CELL, unit), to + j * CELL + v * BYTES)
                at += BYTES
        return
    for j in range(inside, beyond):
        at = first + j * stride * CELL
        D, T = load(at, unit), load(at + BYTES, unit)
        for u in range(1, size):
            D = D + load(at + u * CELL, unit)
            T = T + load(at + u * CELL + BYTES, unit)
        store(D, to + j * CELL)
        store(T, to + j * CELL + BYTES)


@numba.njit(nogil=True)
def _linear(op, constants, a, b, dr, dc, cyclic, source, target, ring, unit):
    """Apply a filter, and add its K to Θ where it is trained.

    ``ring`` holds the sums along the last ``size`` rows of the input; an output row is their sum.
    """
    width = word(unit)
    H, W = field(op, HEIGHT), field(op, WIDTH)
    size, stride, above = field(op, SIZE), field(op, STRIDE), field(op, ABOVE)
    factor, trained = constant(constants, FACTOR, unit), field(op, TRAINED)
    nothing = splat(unit - unit)
    row = W * CELL
    for part in range(4):
        i0, i1, di = part_of(cyclic, part // 2, dr, H)
        j0, j1, dj = part_of(cyclic, part % 2, dc, W)
        if i0 >= i1 or j0 >= j1:
            continue
        base = i0 * stride - above
        ready = base
        for i in range(i0, i1):
            first = i * stride - above
            for r in range(max(first, ready), first + size):
                to = ring + (r - base) % size * row
                _row_of_sums(op, a, b, r, di * stride, j0, j1, dj * stride, source, to, unit)
            ready = first + size
            out = target + i * row
            if size == 3:
                r0 = ring + (first - base) % 3 * row
                r1, r2 = ring + (first + 1 - base) % 3 * row, ring + (first + 2 - base) % 3 * row
                for k in range(2 * j0, 2 * j1):
                    at = k * BYTES
                    total = load(r0 + at, unit) + load(r1 + at, unit)
                    store((total + load(r2 + at, unit)) * splat(factor), out + at)
            else:
                r0 = ring + (first - base) % size * row
                for k in range(2 * j0, 2 * j1):
                    store(load(r0 + k * BYTES, unit) * splat(factor), out + k * BYTES)
                for u in range(1, size):
                    r1 = ring + (first + u - base) % size * row
                    for k in range(2 * j0, 2 * j1):
                        at = k * BYTES
                        term = load(r1 + at, unit) * splat(factor)
                        store(load(out + at, unit) + term, out + at)
            if trained:
                half_a = a + (field(op, HALF_OUT) + i * W) * width
                half_b = b + (field(op, HALF_OUT) + (i + di) * W + dj) * BYTES
                for j in range(j0, j1):
                    x, y = splat(number(half_a + j * width, unit)), load(half_b + j * BYTES, unit)
                    # exactly 0 where a variance is 0: a LayerNorm would enlarge rounding errors
                    K = where_above(x, nothing, (x + y) - load(out + j * CELL, unit), nothing)
                    at = out + j * CELL + BYTES
                    store(load(at, unit) + where_above(y, nothing, K, nothing), at)


@numba.njit(nogil=True, forceinline=True)
def _relu_row(fold, tau, P, R, constants, cells, u, v, count, to, unit):
    near, far = 3 * word(unit), 3 * BYTES
    for j in range(count):
        at = j * CELL
        mixed_relu_cell(
            fold, tau, P, R, constants, cells + at, u + j * near, v + j * far, to + at, unit
        )


@numba.njit(nogil=True)
def _dual_row(kind, constants, P, cells, u, v, count, to, unit):
    width = word(unit)
    scale = splat(constant(constants, FACTOR, unit))
    for j in range(count):
        at, x, y = j * CELL, u + 4 * j * width, v + 4 * j * BYTES
        E, slope = dual_cell(
            kind, constants, P, scale * load(cells + at, unit),
            splat(number(x, unit)), load(y, unit),
            splat(number(x + 2 * width, unit)), load(y + 2 * BYTES, unit),
            splat(number(x + 3 * width, unit)), load(y + 3 * BYTES, unit), unit,
        )  # fmt: skip
        halves = splat(number(x + width, unit)) + load(y + BYTES, unit)
        T = scale * load(cells + at + BYTES, unit)
        store(halves - E, to + at)
        store(T * slope, to + at + BYTES)


@numba.njit(nogil=True)
def _cells(op, constants, table, a, b, dr, dc, cyclic, source, target, unit):
    """Apply a layer that acts on each cell alone."""
    H, W, width = field(op, HEIGHT), field(op, WIDTH), word(unit)
    kind, signed = field(op, OP), field(op, SIGNED)
    near, far = field(op, EACH) * width, field(op, EACH) * BYTES
    P, R = arccos_over_pi(table, unit), sine_gap_over_pi(table, unit)
    tau = rounding(table, unit)
    for part in range(4):
        i0, i1, di = part_of(cyclic, part // 2, dr, H)
        j0, j1, dj = part_of(cyclic, part % 2, dc, W)
        for i in range(i0, i1):
            u = a + field(op, NUMBERS) * width + (i * W + j0) * near
            v = b + field(op, NUMBERS) * BYTES + ((i + di) * W + j0 + dj) * far
            at = (i * W + j0) * CELL
            cells, to = source + at, target + at
            if kind == RELU and signed:
                _relu_row(True, tau, P, R, constants, cells, u, v, j1 - j0, to, unit)
            elif kind == RELU:
                _relu_row(False, tau, P, R, constants, cells, u, v, j1 - j0, to, unit)
            elif kind == NORM:
                for j in range(j1 - j0):
                    at = j * CELL
                    norm_cell(tau, cells + at, u + j * near, v + j * far, to + at, unit)
            elif kind == EXPONENTIAL:
                for j in range(j1 - j0):
                    at = j * CELL
                    exponential_cell(
                        constants, cells + at, u + j * near, v + j * far, to + at, unit
                    )
            else:
                _dual_row(kind, constants, P, cells, u, v, j1 - j0, to, unit)


@numba.njit(nogil=True)
def _add(op, constants, dr, dc, cyclic, source, second, target, unit):
    H, W = field(op, HEIGHT), field(op, WIDTH)
    s = splat(constant(constants, FACTOR, unit))
    t = splat(constant(constants, FACTOR_2, unit))
    for part in range(4):
        i0, i1, _ = part_of(cyclic, part // 2, dr, H)
        j0, j1, _ = part_of(cyclic, part % 2, dc, W)
        for i in range(i0, i1):
            for k in range(2 * (i * W + j0), 2 * (i * W + j1)):
                at = k * BYTES
                store(fma(s, load(source + at, unit), t * load(second + at, unit)), target + at)


@numba.njit(nogil=True)
def _end(op, row_weights, column_weights, dr, dc, cyclic, source, spare, sums, unit):
    """Add the cells, times the weights of their positions, to float64 sums of each lane."""
    H, W, width = field(op, HEIGHT), field(op, WIDTH), word(unit)
    all_D = all_T = splat(unit - unit)
    for part in range(4):
        i0, i1, di = part_of(cyclic, part // 2, dr, H)
        j0, j1, dj = part_of(cyclic, part % 2, dc, W)
        for i in range(i0, i1):
            D = T = splat(unit - unit)
            for j in range(j0, j1):
                weight = splat(number(column_weights + (j * W + j + dj) * width, unit))
                at = source + (i * W + j) * CELL
                D, T = fma(weight, load(at, unit), D), fma(weight, load(at + BYTES, unit), T)
            weight = splat(number(row_weights + (i * H + i + di) * width, unit))
            all_D, all_T = fma(weight, D, all_D), fma(weight, T, all_T)
    store(all_D, spare)
    store(all_T, spare + BYTES)
    add_lanes(spare, sums, unit)


@numba.njit(nogil=True)
def _run(
    a, b, channels, ops, constants, levels, upto, displacements, masks, weights, cyclic, table,
    buffers, buffer, ring, memory, sums, unit,
):  # fmt: skip
    """Run the first ``upto`` levels of a row image with one vector of column images."""
    width = word(unit)
    row_weights, column_weights = weights[0].ctypes.data, weights[1].ctypes.data
    for level in range(upto):
        first, past = levels[level, OPS], levels[level, OPS_END]
        rows = levels[level, ROWS_END] - levels[level, ROWS]
        columns = levels[level, COLUMNS_END] - levels[level, COLUMNS]
        by_row = levels[level, MASKS]
        by_column = by_row + (past - first) * rows
        for r in range(rows):
            row = displacements[levels[level, ROWS] + r]
            for c in range(columns):
                column = displacements[levels[level, COLUMNS] + c]
                for k in range(past - first):
                    if not masks[by_row + k * rows + r] or not masks[by_column + k * columns + c]:
                        continue
                    op = ops[first + k].ctypes.data
                    values = constants.ctypes.data + (first + k) * CONSTANTS * width
                    kind, step = field(op, OP), field(op, STEP)
                    dr, dc = row // step, column // step
                    source = buffers + field(op, SOURCE) * buffer
                    target = buffers + field(op, TARGET) * buffer
                    if kind == PIXELS:
                        _pixels(op, a, b, channels, dr, dc, cyclic, target, unit)
                    elif kind == LOAD:
                        _load(op, a, b, dr, dc, cyclic, memory, target, unit)
                    elif kind == STORE:
                        _store(op, dr, dc, cyclic, source, memory, unit)
                    elif kind == LINEAR:
                        _linear(op, values, a, b, dr, dc, cyclic, source, target, ring, unit)
                    elif kind == ADD:
                        second = buffers + field(op, SECOND) * buffer
                        _add(op, values, dr, dc, cyclic, source, second, target, unit)
                    elif kind == END:
                        _end(
                            op, row_weights, column_weights, dr, dc, cyclic, source, ring, sums,
                            unit,
                        )  # fmt: skip
                    else:
                        _cells(op, values, table, a, b, dr, dc, cyclic, source, target, unit)


@numba.njit(nogil=True)
def _clear_pools(ops, memory, unit):
    for k in range(len(ops)):
        op = ops[k].ctypes.data
        if field(op, OP) == STORE and field(op, POOL) > 1:
            h = (field(op, HEIGHT) - field(op, POOL)) // field(op, STRIDE) + 1
            w = (field(op, WIDTH) - field(op, POOL)) // field(op, STRIDE) + 1
            clear(memory + field(op, ARRAY) * CELL, 2 * (h * w) ** 2, unit)


@compiled
def graph_entries(
    rows, columns, channels, ops, constants, levels, displacements, masks, row_weights,
    column_weights, cyclic, table, work, first, out_delta, out_theta,
):  # fmt: skip
    """Fill rows of Δ and Θ at the end of a graph, summed with the weights of positions.

    Args:
        rows: (n, numbers) of the dtype, prepared row images.
        columns: (m, numbers, lanes), column images, one per lane, aligned to ``BYTES``.
        channels: Channels of a pixel.
        ops, constants: Of the plan.
        levels, displacements, masks: ``graph.Levels``.
        row_weights, column_weights: Of the plan.
        cyclic: Whether displacements d and d − H of rows, or d − W of columns, are one.
        table: ``coefficients`` of the dtype.
        work: (4,) the plan's ``buffers``, ``buffer_cells``, ``ring_cells`` and ``memory_cells``.
        first: (n,) first vector of columns to compute for each row.
        out_delta: (n, m, lanes) float64.
        out_theta: (n, m, lanes) float64.
    """
    unit = constants.dtype.type(1)
    kept, buffers = aligned_work(constants, 2 * work[0] * work[1])
    kept_ring, ring = aligned_work(constants, 2 * max(1, work[2]))
    kept_memory, memory = aligned_work(constants, 2 * work[3])
    sums = np.zeros((2, BYTES // constants.itemsize))
    for m in range(columns.shape[0]):
        for n in range(rows.shape[0]):
            if m < first[n]:
                continue
            sums[:] = 0.0
            _clear_pools(ops, memory, unit)
            _run(
                rows[n].ctypes.data, columns[m].ctypes.data, channels, ops, constants, levels,
                len(levels), displacements, masks, (row_weights, column_weights), cyclic,
                table.ctypes.data, buffers, work[1] * CELL, ring, memory, sums, unit,
            )  # fmt: skip
            out_delta[n, m] = sums[0]
            out_theta[n, m] = sums[1]
    # an address does not keep its array alive; a last use behind the loops does
    kept[0] = kept_ring[0] + kept_memory[0] + row_weights[0, 0] + column_weights[0, 0]


@compiled
def graph_windows(
    rows, columns, channels, ops, constants, levels, upto, displacements, masks, cyclic, table,
    work, start, first, out,
):  # fmt: skip
    """Fill out[n] with Δ of row image n and itself, summed over all pairs of pixels in each window.

    ``upto`` is how many levels are run, ``start`` where the pool's array starts in memory.
    ``columns`` are all images in lanes, and ``first`` is the index of the first row among them: of
    each vector of columns only the lane with the row's own image is read.
    ``out`` is (n, h·w); the other arguments are those of ``graph_entries``.
    """
    unit = constants.dtype.type(1)
    lanes = BYTES // constants.itemsize
    kept, buffers = aligned_work(constants, 2 * work[0] * work[1])
    kept_ring, ring = aligned_work(constants, 2 * max(1, work[2]))
    kept_memory, memory = aligned_work(constants, 2 * work[3])
    sums = np.zeros((2, lanes))
    nothing = np.zeros((1, 1), constants.dtype)
    for n in range(rows.shape[0]):
        m, lane = (first + n) // lanes, (first + n) % lanes
        _clear_pools(ops, memory, unit)
        _run(
            rows[n].ctypes.data, columns[m].ctypes.data, channels, ops, constants, levels, upto,
            displacements, masks, (nothing, nothing), cyclic, table.ctypes.data, buffers,
            work[1] * CELL, ring, memory, sums, unit,
        )  # fmt: skip
        at = memory + start * CELL + lane * constants.itemsize
        for k in range(out.shape[1]):
            out[n, k] = number(at + k * CELL, unit)
    kept[0] = kept_ring[0] + kept_memory[0] + nothing[0, 0]


@compiled
def half_variances(kind, constants, numbers, table, out):
    """Fill ``out`` with half the variances behind a cell layer, computed as covariances are.

    Δ of equal images is then exactly 0. ``numbers`` (3, vectors, lanes) are half the variances in
    front, and the roots and inverse roots of ``preparation.roots_of``; ``out`` is (vectors, lanes);
    ``constants`` are those of the operation ``kind``; ``table`` is ``coefficients`` of the dtype.
    """
    unit = table.dtype.type(1)
    P = arccos_over_pi(table.ctypes.data, unit)
    h = splat(unit) / (splat(unit) + splat(unit))
    for k in range(out.shape[0]):
        x, y, z = (
            load(numbers[0, k].ctypes.data, unit),
            load(numbers[1, k].ctypes.data, unit),
            load(numbers[2, k].ctypes.data, unit),
        )
        E, _ = dual_cell(kind, constants.ctypes.data, P, splat(unit - unit), x, x, y, y, z, z, unit)
        store(h * E, out[k].ctypes.data)
    out[0, 0] += constants[0] - constants[0]
