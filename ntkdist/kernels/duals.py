"""The ReLU and erf duals: exact forms, and the short polynomials the fast backends share.

With c = K/(ab) the correlation and s = 1 − |c|, so that θ = arccos|c|:

* θ = √s · P(s), and sin θ − |c| θ = s √s · R(s), with P and R analytic on [0, 1];
* Δ = (a² + b²)/2 − K, half the squared distance of two images as the network sees
  them, carries 1 − c without cancellation: 1 − c = (Δ − (a − b)²/2)/(ab).

The fast backends recurse on Δ in place of K: linear layers act on both alike (equal
biases cancel in Δ), identical images keep Δ = 0 exactly, and near-duplicates keep
their relative precision, where 1 − K/(ab) in float32 would lose half of the digits.
"""

from __future__ import annotations

import numpy as np

# Chebyshev interpolants on s ∈ [0, 1], lowest power first, relative error 2e-8 each:
# P of degree 7 and R of degree 6.
ARCCOS = (
    1.4142135464083154,
    0.11785316670027024,
    0.02647448250006157,
    0.008216730965319385,
    0.001478859816655742,
    0.0033384170191226303,
    -0.001990642965139955,
    0.0012117377709728316,
)
SINE_GAP = (
    0.9428090524147321,
    0.04713939470347174,
    0.007592717259911856,
    0.001658284704654329,
    0.0007422619769751496,
    -0.00017620035657322266,
    0.00023447136706116517,
)


def relu_dual(K: np.ndarray, A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return E[σ(u)σ(v)] and E[σ̇(u)σ̇(v)] for the ReLU, (u, v) ~ N(0, [[A, K], [K, B]]).

    Args:
        K: Covariances, any shape, float64.
        A: Variances of u, broadcastable to ``K``.
        B: Variances of v, broadcastable to ``K``.

    Returns:
        Both expectations, shaped like ``K``. Where a variance is zero the first is zero
        and the second takes the value of uncorrelated inputs, 1/4.

    Source:
        Cho and Saul 2009, eq. (1) with n = 0 and 1.
    """
    ab = np.sqrt(A * B)
    c = np.clip(
        np.divide(K, ab, out=np.zeros(np.broadcast_shapes(K.shape, ab.shape)), where=ab > 0), -1, 1
    )
    theta = np.arccos(c)
    E_sigma = ab * (np.sqrt(1 - c * c) + (np.pi - theta) * c) / (2 * np.pi)
    E_derivative = (np.pi - theta) / (2 * np.pi)
    return E_sigma, E_derivative


def erf_dual(K: np.ndarray, A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return E[σ(u)σ(v)] and E[σ̇(u)σ̇(v)] for σ = erf, (u, v) ~ N(0, [[A, K], [K, B]]).

    Args:
        K: Covariances, any shape, float64.
        A: Variances of u, broadcastable to ``K``.
        B: Variances of v, broadcastable to ``K``.

    Returns:
        Both expectations, shaped like ``K``.

    Source:
        Williams 1997, eq. (11); the derivative by Price's theorem.
    """
    product = (1 + 2 * A) * (1 + 2 * B)
    E_sigma = 2 / np.pi * np.arcsin(np.clip(2 * K / np.sqrt(product), -1, 1))
    E_derivative = 4 / np.pi / np.sqrt(product - 4 * K * K)
    return E_sigma, E_derivative
