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

#: Differences Δ − (a − b)²/2 up to this part of Δ are taken for 0, by dtype. Where patches are
#: multiples of each other, such as flat areas of two images, what is computed of the difference
#: is rounding, and the angle of it would be its root. Chosen on MNIST and Fashion-MNIST: smaller
#: ones leave rounding, larger ones drop angles.
ROUNDING = {"float32": 2.0**-20.75, "float64": 2.0**-50}

# Minimax polynomials on s ∈ [0, 1], lowest power first, by dtype. The errors of θ and of
# (sin θ − |c| θ)/s are below 7e-7 in float32 (degrees 5 and 4) and 2e-13 in float64 (13 and 12).
ARCCOS = {
    "float32": (
        1.4142055847813078,
        0.11805802145045044,
        0.02499799280769836,
        0.012558726671680703,
        -0.003935810680448567,
        0.004911174484197932,
    ),
    "float64": (
        1.4142135623690584,
        0.11785113074213314,
        0.02651648249901508,
        0.007892223594884099,
        0.0026811221764840177,
        0.0010169861987860077,
        0.000259673833948854,
        0.0005270024081919663,
        -0.0007212998681724169,
        0.00118555025410115,
        -0.0011670029858408197,
        0.0007974840647956596,
        -0.0003183926625198127,
        6.18041698895552e-05,
    ),
}
SINE_GAP = {
    "float32": (
        0.9428151937279736,
        0.04702645549624208,
        0.008159380415356807,
        0.0005806940409602196,
        0.0014176957291657398,
    ),
    "float64": (
        0.9428090415833152,
        0.047140451932812216,
        0.00757614915135613,
        0.001753655503062859,
        0.0004889934218780265,
        0.00014797599803023227,
        6.636050758214586e-05,
        -1.9854197177759973e-05,
        7.157580908989112e-05,
        -7.241118367732644e-05,
        5.760467760517872e-05,
        -2.513854061942123e-05,
        5.5953366953618426e-06,
    ),
}


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


def relu_distance(delta: np.ndarray, A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what a ReLU makes of Δ = (A + B)/2 − K, and E[σ̇(u)σ̇(v)].

    The same function as ``relu_dual`` without its cancellation near c = 1.

    Args:
        delta: Any shape, float64, not negative.
        A: Variances of u, broadcastable to ``delta``.
        B: Variances of v, broadcastable to ``delta``.

    Returns:
        Half the squared distance behind the ReLU and the expectation, shaped like ``delta``.
    """
    a, b = np.sqrt(A), np.sqrt(B)
    ab = a * b
    e = delta - (a - b) ** 2 / 2
    w = np.divide(e, ab, out=np.zeros(np.broadcast_shapes(e.shape, ab.shape)), where=ab > 0)
    w = np.clip(w, 0, 2)
    s = np.minimum(w, 2 - w)
    angle = np.sqrt(s) * np.polynomial.polynomial.polyval(s, ARCCOS["float64"])
    gap = s * np.sqrt(s) * np.polynomial.polynomial.polyval(s, SINE_GAP["float64"])
    above = w > 1
    # sin θ − cθ for the supplementary angle is larger by π|c|
    gap = np.where(above, gap + np.pi * (w - 1), gap)
    angle = np.where(above, np.pi - angle, angle)
    return delta / 2 - ab * gap / (2 * np.pi), (np.pi - angle) / (2 * np.pi)


def erf_dual(K: np.ndarray, A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return E[σ(u)σ(v)] and E[σ̇(u)σ̇(v)] for σ = erf, (u, v) ~ N(0, [[A, K], [K, B]]).

    Arguments and results are shaped as those of ``relu_dual``.

    Source:
        Williams 1997, eq. (11); the derivative by Price's theorem.
    """
    product = (1 + 2 * A) * (1 + 2 * B)
    E_sigma = 2 / np.pi * np.arcsin(np.clip(2 * K / np.sqrt(product), -1, 1))
    E_derivative = 4 / np.pi / np.sqrt(product - 4 * K * K)
    return E_sigma, E_derivative
