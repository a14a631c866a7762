"""What one cell of a displacement class goes through, on vectors (Numba).

A state cell holds Δ = (a² + b²)/2 − K (see ``duals``) and Θ of one pixel of a row image with one
pixel of the column images, one column image per lane. Both are in units of their own:
a linear layer adds neighbours up without scaling and a ReLU maps to twice its value, and the
per-image arrays are divided by the unit of their layer once, in ``prepare``.

Per image and pixel behind a layer with variance a² stand in memory, in the layer's unit:
``root`` a/√2 (erf: √(½ + a²)), ``inverse`` 1/a (erf: 1/√(1 + 2a²)), both 0 for a = 0, and for
row images ``twice``, 2·root.
"""

from __future__ import annotations

import numba

from ntkdist.kernels._vector import (
    BYTES,
    arccos_over_pi,
    fma,
    fms,
    fnma,
    four_over_pi,
    load,
    magnitude,
    number,
    sine_gap_over_pi,
    splat,
    sqrt,
    store,
    where_above,
    word,
)

# columns of the sweep table: what a sweep does, and where it finds per-image numbers
KIND, THETA, TRAINED, FOLD, SIZE, POOL, ROOT, INVERSE, TWICE, ANGLE, HALF, SIDE, FRESH = range(13)
SWEEP_FIELDS = 13
# what is applied to the state in front of the linear layer
PIXELS, POOLED, LINEAR, RELU, ERF = range(5)

CHANNELS = 64  # summed in one go; wide inputs are summed in two levels to stay accurate


@numba.njit(inline="always")
def relu_start(theta, fold, delta_at, theta_at, root_a, inverse_a, twice_a, root_b, inverse_b, unit):
    """Read a cell: Δ, e = ab − K, w = 1 − c, s, √s, Θ + K, and ab.

    The square root is started here, so that a loop can overlap it with the cell before.
    """
    one = splat(unit)
    b = load(root_b, unit)
    m = splat(number(inverse_a, unit)) * load(inverse_b, unit)
    d = splat(number(root_a, unit)) - b
    old = load(delta_at, unit)
    e = fnma(d, d, old)
    w = e * m
    s = magnitude(w)
    ab = splat(number(twice_a, unit)) * b
    if fold:
        s = where_above(w, one, magnitude(one + one - w), s)
    total = e
    if theta:
        total = fma(splat(number(twice_a, unit)), b, load(theta_at, unit) - e)
    return old, e, w, s, sqrt(s), total, ab


@numba.njit(inline="always")
def relu_end(fold, old, e, w, s, t, total, ab, unit):
    """Return twice the Δ and Θ behind a ReLU.

    With θ = arccos|c|: 2Δ' = Δ − (ab/π)(sin θ − |c|θ) and 2E[σ̇σ̇] = 1 − θ/π for c ≥ 0;
    for c < 0 the sum Δ + K = Δ − e + ab stands in Δ's place, and θ/π is the slope.
    """
    one = splat(unit)
    p = arccos_over_pi(s)
    slope = fnma(t, p, one)
    kept, f = old, e
    if fold:
        slope = where_above(w, one, t * p, slope)
        kept = where_above(w, one, (old - e) + ab, old)
        f = where_above(w, one, (ab + ab) - e, e)
    return fnma(f * t, sine_gap_over_pi(s), kept), total * slope


@numba.njit(inline="always")
def erf_cell(theta, delta, tangent, scale, trained, root_a, inverse_a, angle_a, b, inv_b, angle_b, unit):
    """Return Δ and Θ behind an erf in true units; ``scale`` is the unit of ``delta``.

    z = 2K/√((1+2A)(1+2B)) enters as 1 − z, which needs no cancellation:
    (1 + 2Δ − ½(√(1+2A) − √(1+2B))²)/√((1+2A)(1+2B)). Then E[σσ] = 1 − 2 arccos(z)/π.
    """
    one = splat(unit)
    two = one + one
    a = splat(number(root_a, unit))
    m = splat(number(inverse_a, unit)) * inv_b
    d = a - b
    w = fnma(d, d, fma(splat(scale) * two, delta, one)) * m
    s = where_above(w, one, two - w, w)
    q = sqrt(s) * arccos_over_pi(s)
    q = where_above(w, one, one - q, q)
    new = two * q - (splat(number(angle_a, unit)) + angle_b)
    if theta:
        K = (one - w) * (a * b)
        total = fma(splat(trained), K, splat(scale) * tangent)
        slope = m / sqrt(s * (two - s))
        return new, total * slope * four_over_pi(unit)
    return new, new


@numba.njit(inline="always")
def half_distance(x, y, channels, width, unit):
    """Return Σ (x − y)² over the channels: x numbers in a row, y vectors in a row."""
    total = splat(unit - unit)
    for start in range(0, channels, CHANNELS):
        part = splat(unit - unit)
        for c in range(start, min(channels, start + CHANNELS)):
            d = splat(number(x + c * width, unit)) - load(y + c * BYTES, unit)
            part = fma(d, d, part)
        total = total + part
    return total


@numba.njit(inline="always")
def _relu_cells(
    theta, fold, add, delta, tangent, step, root_a, inv_a, twice_a, root_b, inv_b,
    j0, j1, width, to_delta, to_tangent, unit,
):  # fmt: skip
    for j in range(j0, j1):
        at, near, to = j * BYTES, j * width, (j - j0) * BYTES
        old, e, w, s, t, total, ab = relu_start(
            False, fold, delta + at, tangent, root_a + near, inv_a + near, twice_a + near,
            root_b + at, inv_b + at, unit,
        )  # fmt: skip
        if theta:
            total = fma(splat(add), ab - e, load(tangent + j * step, unit))
        D, T = relu_end(fold, old, e, w, s, t, total, ab, unit)
        store(D, to_delta + to)
        if theta:
            store(T, to_tangent + to)


@numba.njit(nogil=True)
def activate(
    sweep, channels, scale, a, b, delta, tangent, step, W, i, i2, j0, j1, shift, to_delta, to_tangent, unit
):  # fmt: skip
    """Apply what stands in front of a linear layer to the cells j0 ≤ j < j1 of a row.

    Args:
        sweep: A row of the sweep table.
        channels: Channels of a pixel.
        scale: The unit of the state (erf only).
        a: Address of the row image's numbers.
        b: Address of the column images' vectors.
        delta: Address of the state's Δ, row i.
        tangent: Address of the state's Θ, row i.
        step: Bytes from one cell of Θ to the next; 0 reads one zero everywhere.
        W: Columns of an image.
        i: Row of the row image's pixels.
        i2: Row of the column images' pixels.
        j0: First cell.
        j1: Behind the last cell.
        shift: Column of the column images' pixel less that of the row image's.
        to_delta: Where to store Δ, one cell after the other.
        to_tangent: Where to store Θ.
        unit: 1 in the dtype.
    """
    width = word(unit)
    kind, theta = sweep[KIND], sweep[THETA]
    here, there = i * W, i2 * W + shift
    if kind == PIXELS:
        for j in range(j0, j1):
            x, y = a + (here + j) * channels * width, b + (there + j) * channels * BYTES
            store(half_distance(x, y, channels, width, unit), to_delta + (j - j0) * BYTES)
        return
    if kind == POOLED:
        ca, cb = a + (sweep[ROOT] + here) * width, b + (sweep[ROOT] + there) * BYTES
        for j in range(j0, j1):
            D = load(delta + j * BYTES, unit) - splat(number(ca + j * width, unit))
            store(D - load(cb + j * BYTES, unit), to_delta + (j - j0) * BYTES)
            if theta:
                store(load(tangent + j * step, unit), to_tangent + (j - j0) * BYTES)
        return
    root_a, root_b = a + (sweep[ROOT] + here) * width, b + (sweep[ROOT] + there) * BYTES
    twice_a = a + (sweep[TWICE] + here) * width
    add = unit if sweep[TRAINED] else unit - unit
    if kind == LINEAR:
        for j in range(j0, j1):
            D = load(delta + j * BYTES, unit)
            store(D, to_delta + (j - j0) * BYTES)
            if theta:
                second = load(root_b + j * BYTES, unit)
                d = splat(number(root_a + j * width, unit)) - second
                K = fms(splat(number(twice_a + j * width, unit)), second, fnma(d, d, D))
                T = fma(splat(add), K, load(tangent + j * step, unit))
                store(T, to_tangent + (j - j0) * BYTES)
        return
    inv_a, inv_b = a + (sweep[INVERSE] + here) * width, b + (sweep[INVERSE] + there) * BYTES
    if kind == RELU:
        if theta and sweep[FOLD]:
            _relu_cells(True, True, add, delta, tangent, step, root_a, inv_a, twice_a, root_b, inv_b, j0, j1, width, to_delta, to_tangent, unit)  # fmt: skip
        elif theta:
            _relu_cells(True, False, add, delta, tangent, step, root_a, inv_a, twice_a, root_b, inv_b, j0, j1, width, to_delta, to_tangent, unit)  # fmt: skip
        elif sweep[FOLD]:
            _relu_cells(False, True, add, delta, tangent, step, root_a, inv_a, twice_a, root_b, inv_b, j0, j1, width, to_delta, to_tangent, unit)  # fmt: skip
        else:
            _relu_cells(False, False, add, delta, tangent, step, root_a, inv_a, twice_a, root_b, inv_b, j0, j1, width, to_delta, to_tangent, unit)  # fmt: skip
        return
    angle_a, angle_b = a + (sweep[ANGLE] + here) * width, b + (sweep[ANGLE] + there) * BYTES
    for j in range(j0, j1):
        at, near = j * BYTES, j * width
        D = load(delta + at, unit)
        T = D
        if theta:
            T = load(tangent + j * step, unit)
        D, T = erf_cell(
            theta, D, T, scale, add, root_a + near, inv_a + near, angle_a + near,
            load(root_b + at, unit), load(inv_b + at, unit), load(angle_b + at, unit), unit,
        )  # fmt: skip
        store(D, to_delta + (j - j0) * BYTES)
        if theta:
            store(T, to_tangent + (j - j0) * BYTES)
