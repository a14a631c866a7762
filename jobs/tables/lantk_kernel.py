"""The NTK of the strided network of Chen, He and Su 2020, compiled for this one network.

Convolution, three groups of (ReLU, convolution of stride s, ReLU, convolution) with s = 1, 2, 2,
Flatten, Dense; filters 3×3 SAME, no biases, W_std = √2. The package's fast backends know no
strides, and neural-tangents takes some 200 µs of a core an entry; behind Flatten only aligned
pixels count, which is a dozen lines. ``check`` compares the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ntkdist.kernels import kernel_matrix
from ntkdist.networks.architecture import Architecture

# of the convolution behind each ReLU
STRIDES = (1, 1, 2, 1, 2, 1)
DEGREE = 11
LANES = 4  # column images side by side


def architecture() -> Architecture:
    """Return the network."""
    layers = ["Conv()"]
    for stride in STRIDES:
        layers += ["Relu()", f"Conv(stride={stride})"]
    return Architecture.parse(f"[{', '.join([*layers, 'Flatten()', 'Dense()'])}]")


def _arccos_polynomial() -> np.ndarray:
    """Return coefficients in 2t − 1 of arccos(t)/√(1 − t) on [0, 1], exact to 1e-9."""
    chebyshev = np.polynomial.Chebyshev.interpolate(
        lambda t: np.arccos(t) / np.sqrt(1.0 - t), DEGREE, [0.0, 1.0]
    )
    return np.polynomial.chebyshev.cheb2poly(chebyshev.coef)


_POLYNOMIAL = tuple(float(c) for c in _arccos_polynomial()[::-1])


@njit(fastmath=True, error_model="numpy", cache=True)
def _convolve(x: Any, stride: int, lanes: int, out: Any) -> None:
    """Write 2/9 of the sums over 3×3 windows, zeros outside, every ``stride`` pixels.

    SAME: with stride 1 a window is centred; with stride 2, at even sizes, it starts at its pixel.
    """
    P, Q = x.shape
    row, window = np.empty(Q + 2 * lanes), np.empty(Q)
    # views, whose indices start at 0, so that the loops run in vector registers
    left, middle, right = row[:Q], row[lanes : lanes + Q], row[2 * lanes :]
    summed = middle if stride == 1 else left
    for i in range(out.shape[0]):
        row[:] = 0.0
        top = i * stride - (1 if stride == 1 else 0)
        for k in range(max(top, 0), min(top + 3, P)):
            line = x[k]
            for j in range(Q):
                summed[j] += line[j]
        for j in range(Q):
            window[j] = (left[j] + middle[j] + right[j]) * (2.0 / 9.0)
        if stride == 1:
            out[i] = window
        else:
            for m in range(out.shape[1] // lanes):
                at = m * stride * lanes
                out[i, m * lanes : (m + 1) * lanes] = window[at : at + lanes]


@njit(fastmath=True, error_model="numpy", cache=True)
def _relu(K: Any, theta: Any, a: Any, b: Any) -> None:
    """Put the ReLU duals (Cho and Saul 2009) of K and Θ in their place; a, b are √K(x, x)."""
    Q = K.shape[1]
    c, angle = np.empty(Q), np.empty(Q)
    for i in range(K.shape[0]):
        for j in range(Q):
            c[j] = min(max(K[i, j] / max(a[i, j] * b[i, j], 1e-300), -1.0), 1.0)
            angle[j] = 0.0
        for k in range(0, len(_POLYNOMIAL), 4):  # along a row, so that it runs in vector registers
            p, q, r, s = _POLYNOMIAL[k], _POLYNOMIAL[k + 1], _POLYNOMIAL[k + 2], _POLYNOMIAL[k + 3]
            for j in range(Q):
                z = 2.0 * abs(c[j]) - 1.0
                angle[j] = (((angle[j] * z + p) * z + q) * z + r) * z + s
        for j in range(Q):
            near = np.sqrt(1.0 - abs(c[j]))
            angle[j] *= near  # arccos |c|
            rest = np.pi - angle[j] if c[j] >= 0.0 else angle[j]  # π − arccos c
            sine = near * np.sqrt(1.0 + abs(c[j]))
            K[i, j] = a[i, j] * b[i, j] * (sine + rest * c[j]) / (2.0 * np.pi)
            theta[i, j] *= rest / (2.0 * np.pi)


@njit(cache=True)
def _pixel_products(x: Any, y: Any, lanes: int) -> Any:
    """Return 2/9 of the window sums of Σ x y/C, (P, Q · lanes)."""
    C = x.shape[0]
    product = np.zeros(x.shape[1:])
    for c in range(C):
        product += x[c] * y[c]
    out = np.empty(product.shape)
    _convolve(product / C, 1, lanes, out)
    return out


@njit(cache=True)
def _roots(x: Any, lanes: int) -> list[Any]:
    """Return √K(x, x) in front of each ReLU."""
    K = _pixel_products(x, x, lanes)
    roots = [np.sqrt(K)]
    for stride in STRIDES[:-1]:
        out = np.empty((K.shape[0] // stride, K.shape[1] // stride))
        _convolve(K / 2.0, stride, lanes, out)
        K = out
        roots.append(np.sqrt(K))
    return roots


@njit(cache=True)
def _entries(x: Any, y: Any, roots_x: Any, roots_y: Any, lanes: int) -> Any:
    """Return Θ of ``lanes`` pairs."""
    K = _pixel_products(x, y, lanes)
    theta = K.copy()
    for layer, stride in enumerate(STRIDES):
        _relu(K, theta, roots_x[layer], roots_y[layer])
        shape = K.shape[0] // stride, K.shape[1] // stride
        out, out_theta = np.empty(shape), np.empty(shape)
        _convolve(K, stride, lanes, out)
        _convolve(theta, stride, lanes, out_theta)
        K, theta = out, out_theta + out
    total = np.zeros(lanes)
    cells = K.size // lanes
    for i in range(K.shape[0]):
        for j in range(K.shape[1]):
            total[j % lanes] += 2.0 * (theta[i, j] + K[i, j]) / cells
    return total


@njit(cache=True, nogil=True)
def _block(a: Any, b: Any, lanes: int) -> Any:
    """Return Θ (n, groups · lanes) of row images, repeated in all lanes, and column groups."""
    roots_b = [_roots(y, lanes) for y in b]
    out = np.empty((len(a), len(b) * lanes))
    for i in range(len(a)):
        roots_a = _roots(a[i], lanes)
        for g in range(len(b)):
            out[i, g * lanes : (g + 1) * lanes] = _entries(a[i], b[g], roots_a, roots_b[g], lanes)
    return out


def _grouped(images: np.ndarray) -> np.ndarray:
    """Return groups of images (groups, C, P, Q · LANES) side by side, the last one repeated."""
    chosen = np.minimum(np.arange(-(-len(images) // LANES) * LANES), len(images) - 1)
    x = np.asarray(images, dtype=np.float64)[chosen]
    n, P, Q, C = x.shape
    lanes = x.reshape(n // LANES, LANES, P, Q, C).transpose(0, 4, 2, 3, 1)
    return np.ascontiguousarray(lanes.reshape(n // LANES, C, P, Q * LANES))


def ntk(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Θ of images a × b, (n, m) float64; both edges multiples of four."""
    rows = np.repeat(np.asarray(a, dtype=np.float64).transpose(0, 3, 1, 2), LANES, axis=3)
    return _block(np.ascontiguousarray(rows), _grouped(b), LANES)[:, : len(b)]


def check(images: np.ndarray) -> float:
    """Return the largest relative difference to neural-tangents on some images."""
    other = kernel_matrix(architecture(), images, backend="stax", dtype="float64")
    return float(np.abs(ntk(images, images) / other - 1.0).max())
