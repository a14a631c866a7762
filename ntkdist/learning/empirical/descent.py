"""Gradient descent of a linearised network, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError


def linearized_descent(
    kernel: Any,
    crossed: Any,
    start: Any,
    start_crossed: Any,
    targets: Any,
    learning_rate: float,
    steps: Sequence[int],
) -> NDArray[np.float64]:
    """Return what the linearised network says after steps of gradient descent, in closed form.

    Descent on the mean over N images of half the squared distance to the targets multiplies the
    residual of the training images by I − ηΘ/N at each step, so that after t of them

        f_t(x) = f_0(x) − Θ(x, X) Θ⁻¹ [I − (I − ηΘ/N)ᵗ] (f_0(X) − Y).

    Θ is never inverted: each of its eigenvalues λ is met by (1 − (1 − ηλ/N)ᵗ)/λ, which has a
    limit at 0.

    Args:
        kernel: (N, K, N, K) tangent kernel of the training images at θ₀.
        crossed: (m, K, N, K) that of other images with them.
        start: (N, K) f_0(X).
        start_crossed: (m, K) f_0(x).
        targets: (N, K) Y.
        learning_rate: η.
        steps: Numbers of steps t, at least 0.

    Returns:
        (len(steps), m, K) float64.

    Raises:
        InputError: If ηλ/N exceeds 2, where descent diverges.

    Source:
        Lee et al. 2019, equations 8 to 11 (gradient flow; this is its discrete form).
    """
    from scipy.linalg import eigh

    f = np.asarray(start, dtype=np.float64)
    n, K = f.shape
    values, vectors = eigh(np.asarray(kernel, dtype=np.float64).reshape(n * K, n * K))
    z = np.maximum(values, 0.0) * learning_rate / n
    if z[-1] > 2:
        raise InputError(
            f"learning_rate={learning_rate:.3g} diverges: the largest eigenvalue of the tangent "
            f"kernel bears {2 * n / values[-1]:.3g} at most"
        )
    inside = vectors.T @ (f - np.asarray(targets, dtype=np.float64)).ravel()
    turned = np.asarray(crossed, dtype=np.float64).reshape(-1, n * K) @ vectors
    found = []
    for t in steps:
        small = np.minimum(z, 0.5)  # expm1 keeps the digits that 1 − (1 − z)ᵗ loses at small z
        share = np.where(z < 0.5, -np.expm1(t * np.log1p(-small)), 1 - (1 - z) ** t)
        over = np.divide(share, z, out=np.full_like(z, float(t)), where=z > 0)
        change = turned @ (over * inside) * (learning_rate / n)
        found.append(np.asarray(start_crossed, dtype=np.float64) - change.reshape(-1, K))
    return np.stack(found)
