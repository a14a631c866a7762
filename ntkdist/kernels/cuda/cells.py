"""What one cell of a displacement class goes through on a GPU; see ``cpu.cells`` for the units.

The same arithmetic as there with one difference: a correlation needs the root of e/(ab) with
e = ab − K, and e·(1/√(e·ab)) gives it with one special function and without the inverses 1/a and
1/b, so that a cell reads one number of each image instead of two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from ntkdist.kernels.chain import ERF, LINEAR
from ntkdist.kernels.cuda.intrinsics import (
    device,
    exponential,
    fetch,
    inverse_root,
    pointer,
    put,
    root,
)
from ntkdist.kernels.cuda.unroll import written_out
from ntkdist.kernels.duals import ARCCOS, ROUNDING, SINE_GAP
from ntkdist.kernels.graph import (
    ERF as OF_ERF,
    EXP,
    EXPONENTIAL,
    FACTOR,
    FACTOR_2,
    GAUSSIAN,
    NORM,
    RELU,
    WAVE,
)

# Added under the root: far below any e·ab that matters, so that 0/0 is 0.
TINY = {"float32": 1e-36, "float64": 1e-300}
FIRST = 1  # constant of a dual behind the unit (``graph.cell_op``)
# Above √2, the largest value of √(2(1 − c)) for c ≥ 0: where ab = 0 only rounding is left of e.
MOST = 1.5


@lru_cache(maxsize=4)
def cell_functions(dtype: str) -> dict[str, Any]:
    """Return the device functions for a dtype.

    ``relu`` and ``relu_signed`` (for correlations of both signs) take Δ, Θ, the two roots and 1 if
    the layer in front is trained, and return twice Δ and Θ; ``half_erf`` is that of
    ``cpu.cells``; ``activate`` takes a kind of sweep and pointers to the numbers of both pixels,
    ``plane`` apart, and the unit of the state, and returns Δ and Θ behind it.
    """
    real = np.dtype(dtype).type
    one, two, half, most = real(1), real(2), real(0.5), real(MOST)
    tiny, zero = real(TINY[dtype]), real(0)
    over_root = inverse_root(dtype)
    rounding = real(ROUNDING[dtype])
    # polynomials of (1 − c)·2 = y² for the products y·P and y·R, over π
    angle = [real(x / 2**k / np.sqrt(2) / np.pi) for k, x in enumerate(ARCCOS[dtype])]
    gap = [real(x / 2**k / np.sqrt(2) / np.pi) for k, x in enumerate(SINE_GAP[dtype])]
    angle_of, gap_of = _polynomial("angle", angle), _polynomial("gap", gap)

    def relu(delta: Any, theta: Any, a: Any, b: Any, trained: Any) -> Any:
        ab = a * b
        d = a - b
        e = delta - d * d
        g = abs(e) if abs(e) > rounding * delta else zero
        y = min(g * over_root(g * ab + tiny), most)
        s = y * y
        slope = one - y * angle_of(s)
        total = trained * (two * ab - e) + theta
        return delta - (e * y) * gap_of(s), total * slope

    def relu_signed(delta: Any, theta: Any, a: Any, b: Any, trained: Any) -> Any:
        ab = a * b
        whole = two * ab
        d = a - b
        e = delta - d * d
        total = trained * (whole - e) + theta
        negative = e > whole
        f = two * whole - e if negative else e
        kept = d * d + whole if negative else delta
        limit = rounding * (delta if negative else abs(d) * (two * a))
        g = abs(f) if abs(f) > limit else zero
        y = min(g * over_root(g * ab + tiny), most)
        s = y * y
        p = y * angle_of(s)
        slope = p if negative else one - p
        return kept - (f * y) * gap_of(s), total * slope

    # for arcsin as in ``cpu.cells.half_erf``: polynomials of 1 − z
    plain_of = _polynomial("plain", [real(x / np.pi) for x in ARCCOS[dtype]])
    small_root = real(np.sqrt(0.5))

    def half_erf(w: Any, z: Any) -> Any:
        z2 = z * z
        if z2 < half * half:
            return z * plain_of(z2 + z2) * small_root
        negative = w > one
        s = two - w if negative else w
        s = max(s, zero)
        large = half - root(s) * plain_of(s)
        return -large if negative else large

    functions = {
        "relu": device(relu),
        "relu_signed": device(relu_signed),
        "half_erf": device(half_erf),
    }
    relu_of, signed_of, half_erf_of = functions.values()
    four_over_pi = real(4 / np.pi)

    def erf(delta: Any, theta: Any, a: Any, b: Any, plane: Any, trained: Any, scale: Any) -> Any:
        m = fetch(a, plane) * fetch(b, plane)
        d = fetch(a, 0) - fetch(b, 0)
        twice = two * (scale * delta)
        twice_K = (fetch(a, 2 * plane) + fetch(b, 2 * plane)) - twice
        w = ((twice + one) - d * d) * m
        E = half_erf_of(w, twice_K * m)
        new = (fetch(a, 3 * plane) + fetch(b, 3 * plane)) - (E + E)
        total = trained * (half * twice_K) + scale * theta
        return new, total * (m / root(abs(w * (two - w)))) * four_over_pi

    erf_of = device(erf)

    def activate(
        kind: Any, signed: Any, delta: Any, theta: Any, a: Any, b: Any, plane: Any, trained: Any,
        scale: Any,
    ) -> Any:  # fmt: skip
        if kind == ERF:
            return erf_of(delta, theta, a, b, plane, trained, scale)
        ra, rb = fetch(a, 0), fetch(b, 0)
        if kind == LINEAR:
            d = ra - rb
            return delta, theta + trained * (two * (ra * rb) - (delta - d * d))
        if signed:
            return signed_of(delta, theta, ra, rb, trained)
        return relu_of(delta, theta, ra, rb, trained)

    functions["activate"] = device(activate)
    return functions


@lru_cache(maxsize=4)
def dual_function(dtype: str) -> Any:
    """Return the device function of E[σσ] and E[σ̇σ̇]; see ``cpu.cells.dual_cell``.

    It takes an operation's kind and a pointer to its constants (``graph.cell_op``), Δ, half the
    variances of both pixels, and their roots and inverse roots (``preparation.roots_of``).
    """
    real = np.dtype(dtype).type
    one, two, half, quarter = real(1), real(2), real(0.5), real(0.25)
    four_over_pi, over_two_pi = real(4 / np.pi), real(0.5 / np.pi)
    half_erf = cell_functions(dtype)["half_erf"]

    def dual(
        kind: Any, constants: Any, delta: Any, half_a: Any, half_b: Any, root_a: Any, root_b: Any,
        inverse_a: Any, inverse_b: Any,
    ) -> Any:  # fmt: skip
        halves = half_a + half_b
        K = halves - delta
        d = root_a - root_b
        m = inverse_a * inverse_b
        if kind == OF_ERF:
            w = ((delta + delta) + one - half * d * d) * m
            E = half_erf(w, (K + K) * m)
            return E + E, m / root(abs(w * (two - w))) * four_over_pi
        scale = fetch(constants, FIRST)
        if kind == WAVE:
            b2, phase = fetch(constants, FIRST + 1), fetch(constants, FIRST + 2)
            s = exponential(-(b2 * delta))
            t = exponential(b2 * (delta - two * halves)) * phase
            return scale * (s - t), (b2 * scale) * (s + t)
        if kind == EXP:
            b2 = fetch(constants, FIRST + 1)
            E = scale * exponential(b2 * (two * halves - delta))
            return E, b2 * E
        # AB − K² without cancellation: (ab − K)(ab + K)
        e = delta - half * d * d
        product = root_a * root_b
        minor = e * (two * product - e)
        if kind == GAUSSIAN:
            c = two * fetch(constants, FIRST + 1)
            determinant = (c * c) * minor + (one - two * c * halves)
            E = scale / root(determinant)
            return E, ((c * c) * K) * E / determinant
        square = (one + two * halves) + minor
        z = K * m
        angle = half * half_erf(one - z, z) + quarter
        inverse = one / root(square)
        over = inverse * over_two_pi
        AB = product * product
        E = K * angle + (AB * square + K * K) * (over * (m * m))
        slopes = inverse * inverse + (inverse_a * inverse_a + inverse_b * inverse_b)
        return E, (K * over) * slopes + angle

    return device(dual)


@lru_cache(maxsize=16)
def graph_cell_function(dtype: str, kinds: frozenset[int]) -> Any:
    """Return the device function of a graph's cell layers, of some kinds alone.

    It takes an operation's kind, whether K may be negative in front, a pointer to its constants,
    Δ, Θ, pointers to the numbers of both pixels, and how far one is from the next of a pixel; it
    returns Δ and Θ behind the layer.
    """
    real = np.dtype(dtype).type
    names = {
        **cell_functions(dtype),
        "dual": dual_function(dtype),
        "rounding": real(ROUNDING[dtype]),
        "zero": real(0),
        "one": real(1),
    }
    known = {
        "RELUS": RELU in kinds,
        "NORMS": NORM in kinds,
        "EXPONENTIALS": EXPONENTIAL in kinds,
        "DUALS": any(kind > EXPONENTIAL for kind in kinds),
    }
    return device(written_out(_graph_cell, known, names))


def _graph_cell(kind, signed, constants, delta, theta, a, b, plane):
    d = fetch(a, 0) - fetch(b, 0)
    if RELUS and kind == RELU:
        if signed != 0:
            bent, slope = relu_signed(delta, one, fetch(a, 0), fetch(b, 0), zero)
        else:
            bent, slope = relu(delta, one, fetch(a, 0), fetch(b, 0), zero)
        linear, bend = fetch(constants, FACTOR), fetch(constants, FACTOR_2)
        return linear * delta + bend * bent, theta * (bend * slope + linear)
    if NORMS and kind == NORM:
        e = delta - d * d
        e = e if abs(e) > rounding * delta else zero
        m = fetch(a, plane) * fetch(b, plane)
        f = fetch(a, 2 * plane) - fetch(b, 2 * plane)
        return f * f + e * m, theta * m
    if EXPONENTIALS and kind == EXPONENTIAL:
        gamma = fetch(constants, FACTOR)
        w = (delta - d * d) * (fetch(a, plane) * fetch(b, plane))
        share = exponential(-(gamma * w))
        ab = fetch(a, 2 * plane) * fetch(b, 0)
        return ab * (one - share) + d * d, theta * (gamma * share)
    if DUALS:
        scale = fetch(constants, FACTOR)
        E, slope = dual(
            kind, constants, scale * delta, fetch(a, 0), fetch(b, 0), fetch(a, 2 * plane),
            fetch(b, 2 * plane), fetch(a, 3 * plane), fetch(b, 3 * plane),
        )  # fmt: skip
        # zero for equal pixels, in whichever order a compiler adds and multiplies
        behind = (fetch(a, plane) + fetch(b, plane)) - E if delta != zero else zero
        return behind, scale * theta * slope
    return delta, theta


def _polynomial(name: str, coefficients: list[Any]) -> Any:
    """Return a device function of s by Horner's rule, its coefficients constants in the code."""
    text = f"c{len(coefficients) - 1}"
    for k in range(len(coefficients) - 2, -1, -1):
        text = f"({text}) * s + c{k}"
    scope: dict[str, Any] = {f"c{k}": value for k, value in enumerate(coefficients)}
    exec(f"def {name}(s):\n    return {text}\n", scope)  # our own text
    function: Callable[..., Any] = device(scope[name])
    return function


def across_of(zero: Any, one: Any) -> Any:
    """Return the device function that adds up rows; zero and one are of the dtype."""

    @device
    def across(row, cut, down, up, sum_d, sum_t, old_d, old_t, new_d, new_t):
        """Return Δ and Θ of the row above, and the sums for this one without the row below.

        ``old`` and ``new`` are the sums along the row above and along this one, ``sum`` that of
        the row above and the one over it. Where the link in front of this row is cut (``row`` is
        ``cut``), Δ of the row above has ``down`` below it, and Δ of this one ``up`` above it.
        """
        link, miss = (zero, one) if row == cut else (one, zero)
        D, T = (sum_d + down * miss) + new_d * link, sum_t + new_t * link
        return D, T, (new_d + up * miss) + old_d * link, new_t + old_t * link

    return across


def across_one_of(zero: Any, one: Any) -> Any:
    """Return what ``across_of`` returns, for Δ alone."""

    @device
    def across_one(row, cut, down, up, sum_d, old_d, new_d):
        link, miss = (zero, one) if row == cut else (one, zero)
        return (sum_d + down * miss) + new_d * link, (new_d + up * miss) + old_d * link

    return across_one


@device
def distance(a, b, at, plane, channels):
    """Return Σ (x − y)² over the channels of a pixel, in two levels to stay accurate."""
    whole = fetch(a, at) - fetch(a, at)
    for first in range(0, channels, 64):
        part = whole - whole
        for k in range(first, min(first + 64, channels)):
            d = fetch(a, at + k * plane) - fetch(b, at + k * plane)
            part += d * d
        whole += part
    return whole


@device
def keep(cells, at, plane, d, t, mine):
    """Store Δ and Θ of a cell if it belongs to this lane."""
    if mine:
        put(pointer(cells, 0), at, d)
        put(pointer(cells, 0), at + plane, t)
