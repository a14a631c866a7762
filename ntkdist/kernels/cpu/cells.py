"""What one cell of a displacement class goes through, on vectors (Numba).

A state cell holds Δ = (a² + b²)/2 − K (see ``duals``) and Θ of one pixel of a row image with one
pixel of the column images, one column image per lane. Both are in units of their own:
a linear layer adds neighbours up without scaling and a ReLU maps to twice its value, and the
per-image numbers are divided by the unit of their layer once, in ``prepare``.

Each image has, for each pixel behind a layer, in the layer's unit, with a² the variance:
the root a/√2; 1/a, or 0 for a = 0; and, for row images, twice the root. In front of an erf it
has, in true units, √(½ + a²), 1/√(1 + 2a²), a², and half the variance behind the erf.
"""

from __future__ import annotations

import numba

from ntkdist.kernels.chain import (
    ABSENT,
    CELLS,
    CELLS_B,
    ERF,
    FIRST,
    FOLD,
    KIND,
    LINEAR,
    NUMBERS,
    NUMBERS_B,
    NUMBERS_ERF,
    PIXELS,
    POOLED,
    PRESENT,
    THETA,
    TRAINED,
)
from ntkdist.kernels.cpu.vector import (
    BYTES,
    arccos_over_pi,
    exp,
    fma,
    fms,
    fnma,
    four_over_pi,
    half,
    integer,
    load,
    magnitude,
    number,
    over_two_pi,
    polynomial,
    quarter,
    root_half,
    rounding,
    sine_gap_over_pi,
    splat,
    sqrt,
    store,
    where_above,
    word,
)
from ntkdist.kernels.graph import ERF as OF_ERF, EXP, GAUSSIAN, WAVE

CELL = 2 * BYTES  # Δ and Θ
CHANNELS = 64  # summed in one go; wide inputs are summed in levels to stay accurate


@numba.njit(nogil=True, forceinline=True)
def field(sweep, name):
    """Return an entry of the sweep at an address; arrays would count references in the loops."""
    return integer(sweep + 8 * name)


@numba.njit(nogil=True, forceinline=True)
def relu_start(theta, fold, tau, cell, a, b, unit):
    """Read a cell: Δ, e = ab − K, w = 1 − c, s = 1 − |c|, √s, Θ + K (FIRST: K), and ab.

    ``tau`` is ``duals.ROUNDING``: s is 0 where it is no larger than that part of Δ, in the first
    ReLU of about |a² − b²|, which is more exact and takes longer. The square root is started here,
    so that a loop can overlap it with the cell before.
    """
    width = word(unit)
    one, zero = splat(unit), splat(unit - unit)
    second = load(b, unit)
    m = splat(number(a + width, unit)) * load(b + BYTES, unit)
    d = splat(number(a, unit)) - second
    old = load(cell, unit)
    e = fnma(d, d, old)
    w = e * m
    s = magnitude(w)
    twice = splat(number(a + 2 * width, unit))
    ab = twice * second
    if fold:
        s = where_above(w, one, magnitude(one + one - w), s)
        limit = where_above(w, one, old, magnitude(d) * twice)
        s = where_above(s, (tau * limit) * m, s, zero)
    else:
        s = where_above(magnitude(e), tau * old, s, zero)
    total = e
    if theta == FIRST:
        total = fms(twice, second, e)
    if theta == PRESENT:
        total = fma(twice, second, load(cell + BYTES, unit) - e)
    return old, e, w, s, sqrt(s), total, ab


@numba.njit(nogil=True, forceinline=True)
def relu_end(fold, P, R, old, e, w, s, t, total, ab, unit):
    """Return twice the Δ and Θ behind a ReLU.

    With θ = arccos|c|: 2Δ' = Δ − (ab/π)(sin θ − |c|θ) and 2E[σ̇σ̇] = 1 − θ/π for c ≥ 0;
    ``P`` and ``R`` are the coefficients of the two polynomials (see ``duals``);
    for c < 0 the sum Δ + K = Δ − e + ab stands in Δ's place, and θ/π is the slope.
    """
    one = splat(unit)
    p = polynomial(P, s)
    slope = fnma(t, p, one)
    kept, f = old, e
    if fold:
        slope = where_above(w, one, t * p, slope)
        kept = where_above(w, one, (old - e) + ab, old)
        f = where_above(w, one, (ab + ab) - e, e)
    return fnma(f * t, polynomial(R, s), kept), total * slope


@numba.njit(nogil=True, forceinline=True)
def _tangent(theta, cell, scale, K, trained, unit):
    """Return Θ behind a linear layer, scale·Θ + trained·K, in the unit of ``K``."""
    if theta == PRESENT:
        return fma(splat(trained), K, splat(scale) * load(cell + BYTES, unit))
    return splat(trained) * K


@numba.njit(nogil=True, forceinline=True)
def half_erf(w, z, P, unit):
    """Return E[σσ]/2 = arcsin(z)/π for the erf from z and w = 1 − z.

    arcsin z = z·P(2z²)/√2 where z is small, and π/2 − √w·P(w) where it is not.
    """
    one, h = splat(unit), half(unit)
    z2 = z * z
    small = z * polynomial(P, z2 + z2) * root_half(unit)
    s = where_above(w, one, one + one - w, w)
    large = h - sqrt(s) * polynomial(P, s)
    large = where_above(w, one, splat(unit - unit) - large, large)
    return where_above(h * h, z2, small, large)


@numba.njit(nogil=True, forceinline=True)
def erf_cell(theta, P, cell, scale, trained, a, b, unit):
    """Return Δ and Θ behind an erf in true units; ``scale`` is the unit of the cell.

    1 − z with z = 2K/√((1+2A)(1+2B)) needs no cancellation:
    (1 + 2Δ − ½(√(1+2A) − √(1+2B))²)/√((1+2A)(1+2B)).
    """
    width = word(unit)
    one = splat(unit)
    m = splat(number(a + width, unit)) * load(b + BYTES, unit)
    d = splat(number(a, unit)) - load(b, unit)
    delta = splat(scale) * load(cell, unit)
    twice_K = (splat(number(a + 2 * width, unit)) + load(b + 2 * BYTES, unit)) - (delta + delta)
    w = fnma(d, d, (delta + delta) + one) * m
    E = half_erf(w, twice_K * m, P, unit)
    new = (splat(number(a + 3 * width, unit)) + load(b + 3 * BYTES, unit)) - (E + E)
    tangent = new
    if theta:
        total = _tangent(theta, cell, scale, half(unit) * twice_K, trained, unit)
        slope = m / sqrt(magnitude(w * (one + one - w)))
        tangent = total * slope * four_over_pi(unit)
    return new, tangent


@numba.njit(nogil=True, forceinline=True)
def half_distance(x, y, channels, width, unit):
    """Return Σ (x − y)² over channels: Δ of two pixels, which ``prepare`` divides by √(2C)."""
    total = splat(unit - unit)
    for c in range(min(channels, CHANNELS)):
        d = splat(number(x + c * width, unit)) - load(y + c * BYTES, unit)
        total = fma(d, d, total)
    if channels > CHANNELS:
        whole = total
        total = splat(unit - unit)
        for first in range(CHANNELS, channels, CHANNELS):
            if first % CHANNELS**2 == 0:
                whole, total = whole + total, splat(unit - unit)
            part = splat(unit - unit)
            for c in range(first, min(channels, first + CHANNELS)):
                d = splat(number(x + c * width, unit)) - load(y + c * BYTES, unit)
                part = fma(d, d, part)
            total = total + part
        total = whole + total
    return total


@numba.njit(nogil=True, forceinline=True)
def start(kind, theta, fold, tau, cell, a, b, channels, unit):
    """Read a cell of a row image and column images: pixels, windows or ReLU (``relu_start``)."""
    if kind == PIXELS:
        D = half_distance(a, b, channels, word(unit), unit)
        return D, D, D, D, D, D, D
    if kind == POOLED:
        D = (load(cell, unit) - splat(number(a, unit))) - load(b, unit)
        T = load(cell + BYTES, unit)
        return D, T, D, D, D, D, D
    return relu_start(theta, fold, tau, cell, a, b, unit)


@numba.njit(nogil=True, forceinline=True)
def end(kind, fold, P, R, old, e, w, s, t, total, ab, unit):
    """Return Δ and Θ of what ``start`` began."""
    if kind <= POOLED:
        return old, e
    return relu_end(fold, P, R, old, e, w, s, t, total, ab, unit)


@numba.njit(nogil=True, forceinline=True)
def _relu_cells(theta, fold, tau, P, R, trained, cell, a, b, count, to, unit):
    for j in range(count):
        at, near = j * CELL, j * NUMBERS * word(unit)
        old, e, w, s, t, total, ab = relu_start(
            ABSENT, fold, tau, cell + at, a + near, b + at, unit
        )
        if theta:
            total = _tangent(theta, cell + at, unit, ab - e, trained, unit)
        D, T = relu_end(fold, P, R, old, e, w, s, t, total, ab, unit)
        store(D, to + at)
        if theta:
            store(T, to + at + BYTES)


@numba.njit(nogil=True)
def activate(sweep, table, channels, scale, a, b, cell, W, i, i2, j0, j1, shift, to, unit):
    """Apply what stands in front of a linear layer to the cells j0 ≤ j < j1 of row i of a class.

    ``sweep`` (a row of the sweep table), ``table`` (``coefficients``), ``a`` and ``b`` (the
    numbers of the row image and the vectors of the column images), ``cell`` (the state's cell
    (i, 0)) and ``to`` (the first cell to store) are addresses. ``scale`` is the unit of the state.
    The column images' pixels are those of their row ``i2``, ``shift`` columns further.
    """
    width = word(unit)
    kind, theta = field(sweep, KIND), field(sweep, THETA)
    here, there, count = i * W + j0, i2 * W + j0 + shift, j1 - j0
    if kind == PIXELS:
        for j in range(count):
            x, y = a + (here + j) * channels * width, b + (there + j) * channels * BYTES
            store(half_distance(x, y, channels, width, unit), to + j * CELL)
        return
    cell += j0 * CELL
    tau = rounding(table, unit)
    if kind == POOLED:
        a += (field(sweep, CELLS) + here) * width
        b += (field(sweep, CELLS_B) + there) * BYTES
        for j in range(count):
            at = j * CELL
            D, T, _, _, _, _, _ = start(
                POOLED, theta, False, tau, cell + at, a + j * width, b + j * BYTES, 1, unit
            )
            store(D, to + at)
            store(T, to + at + BYTES)
        return
    P, R = arccos_over_pi(table, unit), sine_gap_over_pi(table, unit)
    trained = unit if field(sweep, TRAINED) else unit - unit
    if kind == ERF:
        a += (field(sweep, CELLS) + here * NUMBERS_ERF) * width
        b += (field(sweep, CELLS_B) + there * NUMBERS_ERF) * BYTES
        for j in range(count):
            at, near, far = j * CELL, j * NUMBERS_ERF * width, j * NUMBERS_ERF * BYTES
            D, T = erf_cell(theta, P, cell + at, scale, trained, a + near, b + far, unit)
            store(D, to + at)
            if theta:
                store(T, to + at + BYTES)
        return
    a += (field(sweep, CELLS) + here * NUMBERS) * width
    b += (field(sweep, CELLS_B) + there * NUMBERS_B) * BYTES
    if kind == LINEAR:
        for j in range(count):
            at, near = j * CELL, j * NUMBERS * width
            D = load(cell + at, unit)
            if theta:
                second = load(b + at, unit)
                d = splat(number(a + near, unit)) - second
                K = fms(splat(number(a + near + 2 * width, unit)), second, fnma(d, d, D))
                store(_tangent(theta, cell + at, unit, K, trained, unit), to + at + BYTES)
            store(D, to + at)
        return
    if theta and field(sweep, FOLD):
        _relu_cells(theta, True, tau, P, R, trained, cell, a, b, count, to, unit)
    elif theta:
        _relu_cells(theta, False, tau, P, R, trained, cell, a, b, count, to, unit)
    elif field(sweep, FOLD):
        _relu_cells(ABSENT, True, tau, P, R, trained, cell, a, b, count, to, unit)
    else:
        _relu_cells(ABSENT, False, tau, P, R, trained, cell, a, b, count, to, unit)


@numba.njit(nogil=True, forceinline=True)
def mixed_relu_cell(fold, tau, P, R, constants, cell, a, b, to, unit):
    """Store the cell behind a ReLU-like layer, a mix of the cell and twice the ReLU's.

    The two factors are the ``constants`` (``graph.cell_op``).
    """
    old, e, w, s, t, _, ab = relu_start(ABSENT, fold, tau, cell, a, b, unit)
    D, slope = relu_end(fold, P, R, old, e, w, s, t, splat(unit), ab, unit)
    linear = splat(number(constants, unit))
    bend = splat(number(constants + word(unit), unit))
    store(fma(linear, old, bend * D), to)
    store(load(cell + BYTES, unit) * fma(bend, slope, linear), to + BYTES)


@numba.njit(nogil=True, forceinline=True)
def norm_cell(tau, cell, a, b, to, unit):
    """Store the cell behind a LayerNorm.

    With K' = K/(rs) for r² = A + ε and s² = B + ε: Δ' = (ab − K)/(rs) + (a/r − b/s)²/2. An image
    has three numbers for each pixel: a/√2; √(u/u')/r with the units u in front and u' behind, or 0
    for a = 0; and a/(r√(2u')). The root a/√2 is in the unit u.
    """
    width = word(unit)
    old = load(cell, unit)
    d = splat(number(a, unit)) - load(b, unit)
    e = fnma(d, d, old)
    e = where_above(magnitude(e), tau * old, e, splat(unit - unit))
    m = splat(number(a + width, unit)) * load(b + BYTES, unit)
    f = splat(number(a + 2 * width, unit)) - load(b + 2 * BYTES, unit)
    store(fma(f, f, e * m), to)
    store(load(cell + BYTES, unit) * m, to + BYTES)


@numba.njit(nogil=True, forceinline=True)
def exponential_cell(constants, cell, a, b, to, unit):
    """Store the cell behind a normalized Gaussian kernel.

    The unit behind it has the factor e^(γ(1 + shift)) of variances. What is left is
    K' = ab e^(γ(c − 1)), so that Δ' = (a − b)²/2 + ab (1 − e^(−γw)) with w = 1 − c.
    """
    width = word(unit)
    gamma = splat(number(constants, unit))
    second = load(b, unit)
    d = splat(number(a, unit)) - second
    w = fnma(d, d, load(cell, unit)) * (splat(number(a + width, unit)) * load(b + BYTES, unit))
    share = exp(splat(unit - unit) - gamma * w)
    ab = splat(number(a + 2 * width, unit)) * second
    store(fma(ab, splat(unit) - share, d * d), to)
    store(load(cell + BYTES, unit) * (gamma * share), to + BYTES)


@numba.njit(nogil=True, forceinline=True)
def dual_cell(kind, constants, P, D, half_a, half_b, root_a, root_b, inverse_a, inverse_b, unit):
    """Return E[σσ] and E[σ̇σ̇] from Δ and half the variances, all in true units.

    The formulas are those of ``duals``. ``constants`` is the address of the constants of
    ``graph.cell_op``; roots and inverse roots are those of ``preparation.roots_of``.
    """
    width = word(unit)
    one = splat(unit)
    halves = half_a + half_b
    K = halves - D
    d = root_a - root_b
    m = inverse_a * inverse_b
    if kind == OF_ERF:
        w = fnma(half(unit) * d, d, (D + D) + one) * m
        E = half_erf(w, (K + K) * m, P, unit)
        return E + E, m / sqrt(magnitude(w * (one + one - w))) * four_over_pi(unit)
    if kind == WAVE:
        scale = splat(number(constants + width, unit))
        b2 = splat(number(constants + 2 * width, unit))
        phase = splat(number(constants + 3 * width, unit))
        s = exp(splat(unit - unit) - b2 * D)
        t = exp(b2 * (D - (halves + halves))) * phase
        return scale * (s - t), (b2 * scale) * (s + t)
    scale = splat(number(constants + width, unit))
    if kind == EXP:
        b2 = splat(number(constants + 2 * width, unit))
        E = scale * exp(b2 * ((halves + halves) - D))
        return E, b2 * E
    # AB − K² without cancellation: (ab − K)(ab + K)
    e = fnma(half(unit) * d, d, D)
    product = root_a * root_b
    minor = e * ((product + product) - e)
    if kind == GAUSSIAN:
        c = splat(number(constants + 2 * width, unit))
        c = c + c
        determinant = fma(c * c, minor, one - c * (halves + halves))
        E = scale / sqrt(determinant)
        return E, ((c * c) * K) * E / determinant
    square = (one + (halves + halves)) + minor
    z = K * m
    angle = fma(half(unit), half_erf(one - z, z, P, unit), quarter(unit))
    inverse = one / sqrt(square)
    over = inverse * over_two_pi(unit)
    AB = product * product
    E = fma(K, angle, fma(AB, square, K * K) * (over * (m * m)))
    slopes = fma(inverse, inverse, fma(inverse_a, inverse_a, inverse_b * inverse_b))
    return E, fma(K * over, slopes, angle)
