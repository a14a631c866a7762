import itertools

import numpy as np
import pytest
from scipy import special

from ntkdist.kernels.duals import ARCCOS, SINE_GAP, dual, relu_dual
from ntkdist.networks.layers import (
    ABRelu,
    Cos,
    Erf,
    Exp,
    ExpNormalized,
    Gaussian,
    Gelu,
    Identity,
    LayerNorm,
    LeakyRelu,
    Relu,
    Sin,
)


def polynomial(coefficients, s):
    return np.polynomial.polynomial.polyval(s, coefficients)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 7e-7), ("float64", 2e-13)])
def test_short_polynomials_reach_the_dtype(dtype, bound):
    s = np.linspace(1e-9, 1.0, 100_001)
    theta = 2 * np.arcsin(np.sqrt(s / 2))  # arccos(1 − s) without cancellation
    # sin θ − cos θ · θ as a series, where the difference itself would lose its digits
    gap, term = np.zeros_like(s), theta.copy()
    for k in range(1, 14):
        term = term * theta**2 / ((2 * k) * (2 * k + 1))
        gap += (-1) ** (k + 1) * 2 * k * term
    assert np.abs(np.sqrt(s) * polynomial(ARCCOS[dtype], s) - theta).max() < bound
    assert np.abs(np.sqrt(s) * polynomial(SINE_GAP[dtype], s) - gap / s).max() < bound


FUNCTIONS = {
    Erf(): (special.erf, lambda u: 2 / np.sqrt(np.pi) * np.exp(-u * u)),
    Gelu(): (
        lambda u: u * special.ndtr(u),
        lambda u: special.ndtr(u) + u * np.exp(-u * u / 2) / np.sqrt(2 * np.pi),
    ),
    Sin(): (np.sin, np.cos),
    Sin(0.7, 1.4, 0.3): (
        lambda u: 0.7 * np.sin(1.4 * u + 0.3),
        lambda u: 0.98 * np.cos(1.4 * u + 0.3),
    ),
    Cos(-2.0, 0.5, 1.0): (
        lambda u: -2 * np.cos(0.5 * u + 1),
        lambda u: np.sin(0.5 * u + 1),
    ),
    Exp(0.5, -0.4): (lambda u: 0.5 * np.exp(-0.4 * u), lambda u: -0.2 * np.exp(-0.4 * u)),
    Gaussian(2.0, -0.3): (
        lambda u: 2 * np.exp(-0.3 * u * u),
        lambda u: -1.2 * u * np.exp(-0.3 * u * u),
    ),
    Identity(): (lambda u: u, np.ones_like),
}
BENDS = {
    Relu(): (0.0, 1.0),
    LeakyRelu(0.2): (0.2, 1.0),
    LeakyRelu(): (0.01, 1.0),
    ABRelu(-0.5, 1.3): (-0.5, 1.3),
    ABRelu(-1.0, 1.0): (-1.0, 1.0),
    ABRelu(1.5, 0.0): (1.5, 0.0),
}
COVARIANCES = [
    (A, B, c)
    for A, B in [(1.0, 1.0), (1.6, 0.5), (0.3, 1.2)]
    for c in (0.0, 0.3, -0.7, 0.95, -0.99)
]


def quadrature_dual(sigma, derivative, K, A, B, degree=400):
    """Return E[σ(u)σ(v)] and E[σ̇(u)σ̇(v)] of smooth functions by Gauss-Hermite quadrature."""
    nodes, weights = special.roots_hermite(degree)
    u = np.sqrt(2 * A) * nodes[:, None]
    v = np.sqrt(2 / A) * K * nodes[:, None] + np.sqrt(2 * (B - K * K / A)) * nodes
    return tuple(weights @ (f(u) * f(v)) @ weights / np.pi for f in (sigma, derivative))


def angular_dual(a, b, K, A, B):
    """Return the same of a min(u, 0) + b max(u, 0), by quadrature over the angle between kinks.

    In polar coordinates of two independent normals, the radius integrates to 2 in the first
    expectation, and to 1 in the second.
    """
    angle = np.arccos(K / np.sqrt(A * B))
    kinks = np.sort(
        np.mod([np.pi / 2, -np.pi / 2, angle + np.pi / 2, angle - np.pi / 2], 2 * np.pi)
    )
    edges = np.append(kinks, kinks[0] + 2 * np.pi)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    totals = np.zeros(2)
    for start, stop in itertools.pairwise(edges):
        at = start + (stop - start) * (nodes + 1) / 2
        u, v = np.sqrt(A) * np.cos(at), np.sqrt(B) * np.cos(at - angle)
        slopes = np.where(u < 0, a, b) * np.where(v < 0, a, b)
        totals += (stop - start) / 2 * np.array([weights @ (slopes * u * v), weights @ slopes])
    return totals[0] / np.pi, totals[1] / (2 * np.pi)


def both(layer, K, A, B):
    found = dual(layer, *(np.array([x], np.float64) for x in (K, A, B)))
    return [float(x[0]) for x in found]


@pytest.mark.parametrize(("A", "B", "c"), COVARIANCES)
@pytest.mark.parametrize("layer", FUNCTIONS, ids=str)
def test_duals_are_the_gaussian_integrals(layer, A, B, c):
    K = c * np.sqrt(A * B)
    expected = quadrature_dual(*FUNCTIONS[layer], K, A, B)
    np.testing.assert_allclose(both(layer, K, A, B), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("A", "B", "c"), COVARIANCES)
@pytest.mark.parametrize("layer", BENDS, ids=str)
def test_duals_of_relus_are_integrals_over_the_angle(layer, A, B, c):
    K = c * np.sqrt(A * B)
    expected = angular_dual(*BENDS[layer], K, A, B)
    np.testing.assert_allclose(both(layer, K, A, B), expected, rtol=1e-11, atol=1e-15)


CELLS = [*FUNCTIONS, *BENDS, ExpNormalized(), ExpNormalized(2.0, -0.3), LayerNorm(0.1)]


@pytest.mark.parametrize("layer", CELLS, ids=str)
def test_the_factor_of_theta_is_the_derivative_by_the_covariance(layer):
    # Price's theorem; the factor of LayerNorm and ExpNormalized is defined like this
    A, B = np.array([1.3]), np.array([0.7])
    K, h = np.array([-0.4, 0.1, 0.6]), 1e-5
    slopes = (dual(layer, K + h, A, B)[0] - dual(layer, K - h, A, B)[0]) / (2 * h)
    np.testing.assert_allclose(dual(layer, K, A, B)[1], slopes, rtol=1e-8)


# E[σσ] and E[σ̇σ̇] of u = v with variance A, in forms without differences
EQUAL = {
    Relu(): lambda A: (A / 2, 0.5),
    LeakyRelu(0.2): lambda A: (0.52 * A, 0.52),
    ABRelu(-0.5, 1.3): lambda A: (0.97 * A, 0.97),
    Gelu(): lambda A: (
        A * (A / ((1 + A) * np.sqrt(1 + 2 * A)) + np.arctan2(A, np.sqrt(1 + 2 * A)) / 2) / np.pi
        + A / 4,
        0.25
        + np.arctan2(A, np.sqrt(1 + 2 * A)) / (2 * np.pi)
        + A / np.sqrt(1 + 2 * A) * (1 / (1 + 2 * A) + 2 / (1 + A)) / (2 * np.pi),
    ),
    Sin(): lambda A: (-np.expm1(-2 * A) / 2, (1 + np.exp(-2 * A)) / 2),
    Cos(-2.0, 0.5, 0.0): lambda A: (2 * (1 + np.exp(-A / 2)), -np.expm1(-A / 2) / 2),
    Gaussian(2.0, -0.3): lambda A: (
        4 / np.sqrt(1 + 1.2 * A),
        4 * 0.36 * A / (1 + 1.2 * A) ** 1.5,
    ),
    ExpNormalized(): lambda A: (A, 1.0),
    Identity(): lambda A: (A, 1.0),
    LayerNorm(1e-12): lambda A: (A / (A + 1e-12), 1 / (A + 1e-12)),
}


@pytest.mark.parametrize("A", [1e-9, 0.37, 3.1, 1e4, 1e9])
@pytest.mark.parametrize("layer", EQUAL, ids=str)
def test_equal_inputs_keep_all_digits(layer, A):
    assert both(layer, A, A, A) == pytest.approx(EQUAL[layer](A), rel=4e-15)


def test_exponentials_of_equal_inputs():
    assert both(Exp(0.5, -0.4), 3.1, 3.1, 3.1) == pytest.approx(
        [0.25 * np.exp(0.992), 0.04 * np.exp(0.992)], rel=1e-15
    )


@pytest.mark.parametrize("K", [1e-12, -1e-12, 3e-7, -3e-7])
def test_odd_waves_of_small_covariances_keep_all_digits(K):
    found = [both(layer, K, 1.3, 0.7)[0] for layer in (Sin(), Cos(c=np.pi / 2))]
    assert found[0] == pytest.approx(K * np.exp(-1.0), rel=1e-12)
    assert found[1] == pytest.approx(K * np.exp(-1.0), rel=1e-12, abs=1e-32)


@pytest.mark.parametrize("size", [2.0**-700, 2.0**-60, 2.0**530, 2.0**990])
@pytest.mark.parametrize("layer", [*BENDS, ExpNormalized(), Identity()], ids=str)
def test_homogeneous_duals_hold_over_the_range_of_float64(layer, size):
    K, A, B = 0.3, 1.0, 0.7
    E, D = both(layer, K * size, A * size, B * size)
    assert [E / size, D] == pytest.approx(both(layer, K, A, B), rel=1e-14)
    assert both(layer, size, size, size)[0] / size == both(layer, 1.0, 1.0, 1.0)[0]


@pytest.mark.parametrize(
    ("layer", "E", "D"),
    [
        (LeakyRelu(0.2), 0.0, 0.36),
        (ABRelu(-1.0, 1.0), 0.0, 0.0),
        (Gelu(), 0.0, 0.25),
        (Cos(2.0, 3.0), 4.0, 0.0),
        (Sin(), 0.0, 1.0),
        (Exp(2.0, 3.0), 4.0, 36.0),
        (Gaussian(), 1.0, 0.0),
        (ExpNormalized(2.0, -0.5), 0.0, 2 * np.exp(-1)),
        (LayerNorm(0.25), 0.0, 4.0),
    ],
    ids=str,
)
def test_two_variances_of_zero_have_a_value(layer, E, D):
    assert both(layer, 0.0, 0.0, 0.0) == pytest.approx([E, D], abs=1e-15)
    assert np.isfinite(both(layer, 0.0, 0.0, 1.0)).all()


def test_zero_variance_gives_no_nan():
    E, D = relu_dual(np.zeros(2), np.array([0.0, 0.0]), np.array([1.0, 0.0]))
    assert E.tolist() == [0.0, 0.0]
    assert D.tolist() == [0.25, 0.25]
