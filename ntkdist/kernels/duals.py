"""What the layers that act on each cell make of the kernels: their duals.

``dual`` has the exact form of every ``CellLayer``. The short polynomials are what the fast backends
compute the one of ReLUs by. With c = K/(ab) the correlation and s = 1 − |c|, so that θ = arccos|c|:

* θ = √s · P(s), and sin θ − |c| θ = s √s · R(s), with P and R analytic on [0, 1];
* Δ = (a² + b²)/2 − K, half the squared distance of two images as the network sees
  them, carries 1 − c without cancellation: 1 − c = (Δ − (a − b)²/2)/(ab).

The fast backends recurse on Δ in place of K: linear layers act on both alike (equal
biases cancel in Δ), identical images keep Δ = 0 exactly, and near-duplicates keep
their relative precision, where 1 − K/(ab) in float32 would lose half of the digits.
"""

from __future__ import annotations

import math

import numpy as np

from ntkdist.networks.layers import (
    ABRelu,
    CellLayer,
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


def dual(
    layer: CellLayer, K: np.ndarray, A: np.ndarray, B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a layer makes of K, and the factor it multiplies Θ by.

    Of a nonlinearity σ these are E[σ(u)σ(v)] and E[σ̇(u)σ̇(v)] for (u, v) ~ N(0, [[A, K], [K, B]]).

    Args:
        layer: The layer.
        K: Covariances, any shape, float64.
        A: Variances of u, broadcastable to ``K``.
        B: Variances of v, broadcastable to ``K``.

    Returns:
        Both, shaped like ``K``. Where K = A = B the first is the variance behind the layer to the
        bit. Where a variance is 0, ReLUs and ``ExpNormalized`` take
        c = K/√(AB) for 0, the value of uncorrelated inputs.
    """
    match layer:
        case Relu():
            return relu_dual(K, A, B)
        case LeakyRelu():
            return abrelu_dual(layer.alpha, 1.0, K, A, B)
        case ABRelu():
            return abrelu_dual(layer.a, layer.b, K, A, B)
        case Erf():
            return erf_dual(K, A, B)
        case Gelu():
            return gelu_dual(K, A, B)
        case Sin() | Cos():
            return wave_dual(layer, K, A, B)
        case Exp():
            E = layer.a**2 * np.exp(layer.b**2 * ((A + B) / 2 + K))
            return E, layer.b**2 * E
        case Gaussian():
            return gaussian_dual(layer, K, A, B)
        case ExpNormalized():
            ab, c = correlation(K, A, B)
            factor = np.exp(layer.gamma * (c + layer.shift))
            return ab * factor, layer.gamma * factor
        case Identity():
            return K, np.ones_like(K)
        case LayerNorm():
            size = geometric_mean(A + layer.eps, B + layer.eps)
            return K / size, np.broadcast_to(1 / size, K.shape)


def correlation(K: np.ndarray, A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return √(AB) and c = K/√(AB), exactly 1 where K = A = B, and 0 where a variance is 0."""
    ab = geometric_mean(A, B)
    zeros = np.zeros(np.broadcast_shapes(K.shape, ab.shape), np.result_type(K, ab))
    return ab, np.clip(np.divide(K, ab, out=zeros, where=ab > 0), -1, 1)


def geometric_mean(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Return √(AB), exactly A where A = B, also where AB is no number of float64."""
    with np.errstate(over="ignore"):
        product = A * B
    info = np.finfo(np.float64)
    far = (product < info.tiny) | (product > info.max)
    if not far.any():
        return np.sqrt(product)
    return np.where(far, np.where(A == B, A, np.sqrt(A) * np.sqrt(B)), np.sqrt(product))


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
    ab, c = correlation(K, A, B)
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


def abrelu_dual(
    a: float, b: float, K: np.ndarray, A: np.ndarray, B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return E[σ(u)σ(v)] and E[σ̇(u)σ̇(v)] for σ(u) = a min(u, 0) + b max(u, 0).

    σ is a u + (b − a) max(u, 0), and E[u max(v, 0)] = K/2, so that both are those of the ReLU and
    of the identity, mixed. Arguments and results are shaped as those of ``relu_dual``.

    Source:
        Tsuchida et al. 2018 (leaky ReLU).
    """
    E_relu, E_step = relu_dual(K, A, B)
    mixed, bend = a * b, (b - a) ** 2
    return mixed * K + bend * E_relu, mixed + bend * E_step


def gelu_dual(K: np.ndarray, A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return E[σ(u)σ(v)] and E[σ̇(u)σ̇(v)] for σ(u) = u Φ(u).

    Arguments and results are shaped as those of ``relu_dual``.

    Source:
        Tsuchida et al. 2021; the derivative by Price's theorem.
    """
    product = (1 + A) * (1 + B)
    # (1 + A)(1 + B) − K², in an order that has no rounding error where K = A = B is large
    square = 1 + A + B + (A * B - K * K)
    root = np.sqrt(square)
    part = np.arctan2(root, -K) / (2 * np.pi)
    E_sigma = (K * K / root + A * B * root) / (2 * np.pi * product) + K * part
    slopes = 1 / square + 1 / (1 + A) + 1 / (1 + B)
    return E_sigma, part + K / root * slopes / (2 * np.pi)


def wave_dual(
    layer: Sin | Cos, K: np.ndarray, A: np.ndarray, B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return E[σ(u)σ(v)] and E[σ̇(u)σ̇(v)] for σ(u) = a sin(b u + c) or a cos(b u + c).

    With s = exp(b²(K − (A + B)/2)) and t = exp(−b²(K + (A + B)/2)), the expectations of
    cos(b(u − v)) and cos(b(u + v)), the first one is a²(s ∓ t cos 2c)/2 = a²((s − t)/2 + p t),
    where p = sin² c of a sine and cos² c of a cosine; the second one has 1 − p in place of p, and
    the factor b². Arguments and results are shaped as those of ``relu_dual``.

    Source:
        Rahimi and Recht 2007 (c = π/4 for a sine, a Gaussian kernel); Han et al. 2022.
    """
    a2, b2, half = layer.a**2, layer.b**2, (A + B) / 2
    p, q = math.sin(layer.c) ** 2, math.cos(layer.c) ** 2
    if isinstance(layer, Cos):
        p, q = q, p
    # (s − t)/2 without cancellation where K is small
    size = np.abs(K)
    difference = np.sign(K) * np.exp(b2 * (size - half)) * -np.expm1(-2 * b2 * size) / 2
    t = np.exp(-b2 * (K + half))
    return a2 * (difference + p * t), a2 * b2 * (difference + q * t)


def gaussian_dual(
    layer: Gaussian, K: np.ndarray, A: np.ndarray, B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return E[σ(u)σ(v)] and E[σ̇(u)σ̇(v)] for σ(u) = a exp(b u²) with b < 0.

    Arguments and results are shaped as those of ``relu_dual``.

    Source:
        The Gaussian integral a²/√det(1 − 2b [[A, K], [K, B]]), as in Williams 1997; the derivative
        by Price's theorem.
    """
    a2, b = layer.a**2, layer.b
    # det(1 − 2b …), in an order in which no term cancels another
    determinant = 1 - 2 * b * (A + B) + 4 * b**2 * (A * B - K * K)
    E_sigma = a2 / np.sqrt(determinant)
    return E_sigma, 4 * b**2 * K * E_sigma / determinant
