"""The full tangent kernel of K outputs beside the pNTK, one K²-th of its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PseudoKernel:
    """How well pNTK ⊗ I_K stands in for the full kernel.

    Attributes:
        difference: ‖Θ − pNTK ⊗ I_K‖/‖Θ‖ (Frobenius).
        top_ratio: Largest eigenvalue of the pNTK over that of Θ.
        full_accuracy: Of kernel regression without ridge with Θ, on test images.
        pseudo_accuracy: The same with the pNTK.
        agreement: Share of test images on which both predict the same class.
    """

    difference: float
    top_ratio: float
    full_accuracy: float
    pseudo_accuracy: float
    agreement: float


def compare_pseudo_kernel(
    full: NDArray[np.float64],
    crossed: NDArray[np.float64],
    labels: NDArray[Any],
    test_labels: NDArray[Any],
) -> PseudoKernel:
    """Hold the full kernel and the pNTK that follows from it against each other.

    Args:
        full: (N, K, N, K) kernel of the training images.
        crossed: (m, K, N, K) of test images with them.
        labels: (N,) classes 0..K−1.
        test_labels: (m,).

    Returns:
        Their difference, and what each predicts.

    Source:
        Mohamadi, Bae and Sutherland 2023, sections 4.1 to 4.4.
    """
    n, K = full.shape[:2]
    pseudo = full.mean(axis=(1, 3)) * K
    Y = np.eye(K)[labels] - 1.0 / K
    flat = full.reshape(n * K, n * K)
    by_full = (crossed.reshape(-1, n * K) @ solve(flat, Y.reshape(-1, 1))).reshape(-1, K)
    by_pseudo = crossed.mean(axis=(1, 3)) * K @ solve(pseudo, Y)
    found, stands_in = by_full.argmax(axis=1), by_pseudo.argmax(axis=1)
    return PseudoKernel(
        difference=frobenius_difference(full, pseudo),
        top_ratio=top_eigenvalue(pseudo) / top_eigenvalue(flat),
        full_accuracy=float((found == test_labels).mean()),
        pseudo_accuracy=float((stands_in == test_labels).mean()),
        agreement=float((found == stands_in).mean()),
    )


def frobenius_difference(full: NDArray[np.float64], pseudo: NDArray[np.float64]) -> float:
    """Return ‖Θ − P ⊗ I_K‖/‖Θ‖ without a second matrix of Θ's size.

    Args:
        full: (N, K, N, K).
        pseudo: (N, N).

    Returns:
        The relative difference.
    """
    squares = float(np.vdot(full, full))
    diagonal = np.einsum("iojo->ijo", full)
    # entries of unlike outputs stand alone; those of like ones lose P
    off = squares - float(np.square(diagonal).sum())
    inside = float(np.square(diagonal - pseudo[:, :, None]).sum())
    return float(np.sqrt(max(off, 0.0) + inside) / np.sqrt(squares))


def top_eigenvalue(a: NDArray[np.float64]) -> float:
    """Return the largest eigenvalue of a symmetric matrix."""
    from scipy.sparse.linalg import eigsh

    if len(a) < 3:
        return float(np.linalg.eigvalsh(a)[-1])
    start = np.random.default_rng(0).standard_normal(len(a))
    return float(eigsh(a, k=1, which="LA", return_eigenvectors=False, v0=start)[0])


def solve(kernel: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return kernel⁻¹ · targets: the coefficients of kernel regression without ridge.

    The kernel of a narrow network may be singular; then eigenvalues within the rounding of
    float32, in which its entries were computed, are left out: the solution of least norm.

    Args:
        kernel: (n, n), symmetric.
        targets: (n, k).

    Returns:
        (n, k) float64.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh

    try:
        factor = cho_factor(kernel, lower=True, check_finite=False)
    except LinAlgError:
        values, vectors = eigh(kernel, check_finite=False)
        kept = values > len(values) * np.finfo(np.float32).eps * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        return vectors @ ((vectors.T @ targets) / values[:, None])
    return cho_solve(factor, targets, check_finite=False)
