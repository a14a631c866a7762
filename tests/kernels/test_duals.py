import numpy as np
import pytest
from scipy import integrate

from ntkdist.kernels.duals import ARCCOS, SINE_GAP, erf_dual, relu_dual


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


@pytest.mark.slow(but="2.0-0.5--0.7-relu_dual")
@pytest.mark.parametrize("dual", [relu_dual, erf_dual])
@pytest.mark.parametrize(("A", "B", "c"), [(1.0, 1.0, 0.3), (2.0, 0.5, -0.7), (0.3, 4.0, 0.95)])
def test_duals_are_the_gaussian_integrals(dual, A, B, c):
    from scipy.special import erf

    if dual is relu_dual:
        sigma, derivative = lambda u: np.maximum(u, 0), lambda u: (u > 0).astype(float)
    else:
        sigma, derivative = erf, lambda u: 2 / np.sqrt(np.pi) * np.exp(-u * u)
    # v given u is normal with mean c·u and variance 1 − c²: integrate on a fine grid
    u = np.linspace(-9, 9, 4000)  # no point at the kink
    U, V = np.meshgrid(u, u, indexing="ij")
    density = np.exp(-(U**2 - 2 * c * U * V + V**2) / (2 * (1 - c * c)))
    density /= 2 * np.pi * np.sqrt(1 - c * c)

    def expectation(f):
        values = f(np.sqrt(A) * U) * f(np.sqrt(B) * V) * density
        return integrate.trapezoid(integrate.trapezoid(values, u, axis=1), u)

    K = np.array(c * np.sqrt(A * B))
    found = dual(K, np.array(A), np.array(B))
    assert found[0] == pytest.approx(expectation(sigma), rel=1e-4)
    assert found[1] == pytest.approx(expectation(derivative), rel=1e-4)


def test_zero_variance_gives_no_nan():
    E, D = relu_dual(np.zeros(2), np.array([0.0, 0.0]), np.array([1.0, 0.0]))
    assert E.tolist() == [0.0, 0.0]
    assert D.tolist() == [0.25, 0.25]
