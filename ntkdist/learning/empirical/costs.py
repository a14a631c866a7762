"""What the full kernel and the pNTK of one network predict, and what each costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.learning.checks import check_images, check_labels
from ntkdist.learning.empirical.kernel import empirical_kernel
from ntkdist.learning.empirical.pntk import (
    PseudoKernel,
    frobenius_difference,
    solve,
    top_eigenvalue,
)
from ntkdist.learning.finite.network import FiniteNetwork, Params

# Of a block of the full kernel of test images with training images.
_BLOCK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class PseudoCosts:
    """Both kernels of one network: what they say, and their seconds and bytes.

    Attributes:
        comparison: What they say.
        full_seconds: Of the kernel of the training images.
        full_predict_seconds: Of the solution, the kernel of test images and its product.
        full_bytes: Of the kernel of the training images.
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

    The full kernel of test images with training images is computed a block of test images at a
    time; that of the training images is held, and its factor beside it.

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
    Y = np.eye(K)[y] - 1.0 / K
    step = max(1, _BLOCK_BYTES // (8 * len(x) * K * K))

    def predict(kernel: NDArray[np.float64], kind: str) -> NDArray[np.int64]:
        size = len(x) * (1 if kind == "pntk" else K)
        alpha = solve(kernel.reshape(size, size), Y.reshape(size, -1))
        found = []
        for start in range(0, len(held), step):
            crossed = empirical_kernel(network, params, held[start : start + step], x, kind=kind)
            found.append((crossed.reshape(-1, size) @ alpha).reshape(-1, K))
        return np.concatenate(found).argmax(axis=1)

    full, full_seconds = _timed(lambda: empirical_kernel(network, params, x))
    by_full, full_predict = _timed(lambda: predict(full, "ntk"))
    pseudo, pseudo_seconds = _timed(lambda: empirical_kernel(network, params, x, kind="pntk"))
    by_pseudo, pseudo_predict = _timed(lambda: predict(pseudo, "pntk"))
    flat = full.reshape(len(x) * K, -1)
    return PseudoCosts(
        comparison=PseudoKernel(
            difference=frobenius_difference(full, pseudo),
            top_ratio=top_eigenvalue(pseudo) / top_eigenvalue(flat),
            full_accuracy=float((by_full == truth).mean()),
            pseudo_accuracy=float((by_pseudo == truth).mean()),
            agreement=float((by_full == by_pseudo).mean()),
        ),
        full_seconds=full_seconds,
        full_predict_seconds=full_predict,
        full_bytes=full.nbytes,
        pseudo_seconds=pseudo_seconds,
        pseudo_predict_seconds=pseudo_predict,
        pseudo_bytes=pseudo.nbytes,
    )


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start
