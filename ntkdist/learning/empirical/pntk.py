"""The full tangent kernel of K outputs compared with the pNTK, which is K² times smaller."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.learning.checks import check_images, check_labels
from ntkdist.learning.empirical.kernel import empirical_kernel
from ntkdist.learning.finite.network import FiniteNetwork, Params
from ntkdist.learning.regression import targets_of

# Memory of a block of the full kernel between test and training images.
_BLOCK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class PseudoKernel:
    """How well pNTK ⊗ I_K approximates the full kernel.

    Attributes:
        difference: ‖Θ − pNTK ⊗ I_K‖/‖Θ‖ (Frobenius).
        top_ratio: Largest eigenvalue of the pNTK over that of Θ.
        full_accuracy: Accuracy of kernel regression without ridge with Θ on test images.
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
    """Compare the full kernel with the pNTK that follows from it.

    Args:
        full: (N, K, N, K) kernel of the training images.
        crossed: (m, K, N, K) of test images with them.
        labels: (N,) classes 0..K−1.
        test_labels: (m,).

    Returns:
        Their difference and the accuracy of each.

    Source:
        Mohamadi, Bae and Sutherland 2023, sections 4.1 to 4.4.
    """
    n, K = full.shape[:2]
    pseudo = full.mean(axis=(1, 3)) * K
    Y = targets_of(labels, K)
    flat = full.reshape(n * K, n * K)
    by_full = (crossed.reshape(-1, n * K) @ solve(flat, Y.reshape(-1, 1))).reshape(-1, K)
    by_pseudo = crossed.mean(axis=(1, 3)) * K @ solve(pseudo, Y)
    return _comparison(full, pseudo, by_full.argmax(axis=1), by_pseudo.argmax(axis=1), test_labels)


@dataclass(frozen=True)
class PseudoCosts:
    """Both kernels of one network, and what each costs.

    Attributes:
        comparison: Their difference and the accuracy of each.
        full_seconds: Duration of the full kernel of the training images.
        full_predict_seconds: Duration of the solution, the kernel of test images and its product.
        full_bytes: Size of the kernel of the training images.
        pseudo_seconds: As above, of the pNTK computed by itself.
        pseudo_predict_seconds: As above.
        pseudo_bytes: As above.
    """

    comparison: PseudoKernel
    full_seconds: float
    full_predict_seconds: float
    full_bytes: int
    pseudo_seconds: float
    pseudo_predict_seconds: float
    pseudo_bytes: int


def measure_pseudo_kernel(
    network: FiniteNetwork,
    params: Params,
    images: Any,
    labels: Any,
    test: tuple[Any, Any],
) -> PseudoCosts:
    """Compute both kernels of a network, each by itself, and predict with both without ridge.

    The full kernel between test and training images is computed for a block of test images at a
    time; that of the training images and its factor are both held in memory.

    Args:
        network: The network.
        params: Its parameters.
        images: (N, H, W, C) training images.
        labels: (N,) classes 0..K−1.
        test: (m, H, W, C) images and (m,) labels.

    Returns:
        The comparison and the costs.

    Raises:
        InputError: For images, labels or parameters that do not fit.

    Source:
        Mohamadi, Bae and Sutherland 2023.
    """
    K = network.num_classes
    x = check_images(images, arch=network.arch)
    y = check_labels(labels, len(x), K)
    held = check_images(test[0], x.shape[1:])
    truth = check_labels(test[1], len(held), K)
    Y = targets_of(y, K)
    step = max(1, _BLOCK_BYTES // (8 * len(x) * K * K))

    def predict(kernel: NDArray[np.float64], kind: str) -> NDArray[np.int64]:
        size = len(x) * (1 if kind == "pntk" else K)
        alpha = solve(kernel.reshape(size, size), Y.reshape(size, -1))
        outputs = []
        for start in range(0, len(held), step):
            crossed = empirical_kernel(network, params, held[start : start + step], x, kind=kind)
            outputs.append((crossed.reshape(-1, size) @ alpha).reshape(-1, K))
        return np.concatenate(outputs).argmax(axis=1)

    full, full_seconds = _timed(lambda: empirical_kernel(network, params, x))
    by_full, full_predict = _timed(lambda: predict(full, "ntk"))
    pseudo, pseudo_seconds = _timed(lambda: empirical_kernel(network, params, x, kind="pntk"))
    by_pseudo, pseudo_predict = _timed(lambda: predict(pseudo, "pntk"))
    return PseudoCosts(
        comparison=_comparison(full, pseudo, by_full, by_pseudo, truth),
        full_seconds=full_seconds,
        full_predict_seconds=full_predict,
        full_bytes=full.nbytes,
        pseudo_seconds=pseudo_seconds,
        pseudo_predict_seconds=pseudo_predict,
        pseudo_bytes=pseudo.nbytes,
    )


def _comparison(
    full: NDArray[np.float64],
    pseudo: NDArray[np.float64],
    by_full: NDArray[np.int64],
    by_pseudo: NDArray[np.int64],
    truth: NDArray[Any],
) -> PseudoKernel:
    """Compare kernels (N, K, N, K) and (N, N), and the classes (m,) that each predicts."""
    n, K = full.shape[:2]
    return PseudoKernel(
        difference=frobenius_difference(full, pseudo),
        top_ratio=top_eigenvalue(pseudo) / top_eigenvalue(full.reshape(n * K, n * K)),
        full_accuracy=float((by_full == truth).mean()),
        pseudo_accuracy=float((by_pseudo == truth).mean()),
        agreement=float((by_full == by_pseudo).mean()),
    )


def frobenius_difference(full: NDArray[np.float64], pseudo: NDArray[np.float64]) -> float:
    """Return ‖Θ − P ⊗ I_K‖/‖Θ‖ of Θ (N, K, N, K) and P (N, N), without a copy of Θ."""
    squares = float(np.vdot(full, full))
    diagonal = np.einsum("iojo->ijo", full)
    # P is subtracted from the entries of equal outputs only.
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
    """Return kernel⁻¹ · targets, the coefficients (n, k) of kernel regression without ridge.

    The kernel of a narrow network may be singular. Eigenvalues within the rounding of its float32
    entries are then left out, which gives the solution of least norm.
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


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
