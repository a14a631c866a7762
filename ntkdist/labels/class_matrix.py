"""The class matrices of labels: Y (N, K), G = H⁻¹Y (N, K) and Z = YᵀG (K, K)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_classes, check_labels
from ntkdist.errors import InputError
from ntkdist.labels.inverse import as_inverse
from ntkdist.linalg import bands


def one_hot(labels: Any, num_classes: int) -> NDArray[np.float64]:
    """Return Y with a 1 at each image's class.

    Args:
        labels: (N,) integers in 0..num_classes−1.
        num_classes: K.

    Returns:
        (N, K) float64.

    Raises:
        InputError: For labels that are not class numbers.
    """
    checked = check_labels(labels, num_classes)
    Y = np.zeros((len(checked), check_classes(num_classes)))
    Y[np.arange(len(checked)), checked] = 1.0
    return Y


def class_matrix(
    inverse: Any, labels: Any, num_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return G = H⁻¹Y and Z = YᵀG.

    An inverse with a ``solve`` method (a factor, or an array in memory) solves once for all
    classes; any other is read once, by ranges of rows if it has ``rows``, else by batches of
    columns.

    Args:
        inverse: H⁻¹ (N, N), an array or anything ``as_inverse`` takes.
        labels: (N,) integers in 0..num_classes−1.
        num_classes: K.

    Returns:
        G (N, K) and Z (K, K), float64; Z exactly symmetric.

    Raises:
        InputError: For labels or an inverse that do not fit.

    Source:
        DeOliveira et al. 2025 (Z = YᵀH⁻¹Y).
    """
    source = as_inverse(inverse)
    checked = check_labels(labels, num_classes, source.shape[0])
    G = product(source, one_hot(checked, num_classes))
    return G, class_sums(G, checked)


def product(inverse: Any, Y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return H⁻¹Y (N, K) for one-hot labels or probabilities Y (N, K), or raise ``InputError``."""
    source = as_inverse(inverse)
    n = source.shape[0]
    solve, rows = getattr(source, "solve", None), getattr(source, "rows", None)
    if solve is not None:
        G = np.asarray(solve(Y), dtype=np.float64)
    else:
        G = np.zeros(Y.shape)
        for band in bands(n, n):
            if rows is not None:  # neighbours are read together
                G[band] = np.asarray(rows(band.start, band.stop), dtype=np.float64) @ Y
            else:
                wanted = np.arange(band.start, band.stop)
                G += np.asarray(source.columns(wanted), dtype=np.float64) @ Y[wanted]
    if G.shape != Y.shape or not np.isfinite(G).all():
        raise InputError(
            f"H⁻¹Y has shape {G.shape}, NaN or infinity; it must be finite of shape {Y.shape}: "
            "check the inverse, or raise the ridge"
        )
    return G


def class_sums(G: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return Z = YᵀG (K, K), symmetrised, from G (N, K) and labels (N,)."""
    K = G.shape[1]
    Z = np.zeros((K, K))
    for k in range(K):
        Z[k] = G[labels == k].sum(axis=0)
    return (Z + Z.T) / 2
