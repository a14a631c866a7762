"""The published step: the row whose label the gradient most wants changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels._rows import RowBlock, Scan, Vector
from ntkdist.labels.block_error import gradient_coefficients, reciprocal


def scan(Z: NDArray[np.float64], counts: NDArray[np.int64], beta: float) -> Scan:
    """Return the scan of one step of Algorithm 1.

    With m = −∂L/∂Y, b_i = m_i,a_i and c_i = max_j m_ij, a row's value is b_i − c_i ≤ 0 and its
    class is argmax_j m_ij (the smallest on ties); the step takes the lowest value. Classes
    without members are no targets: their gradient is 0/0.

    Args:
        Z: (K, K) now.
        counts: (K,) class sizes now.
        beta: β.

    Returns:
        A function of a block: values (m,) and classes (m,).

    Source:
        DeOliveira et al. 2025, Algorithm 1.
    """
    n = counts.astype(np.float64)
    slope, weight, offset = gradient_coefficients(Z, n, beta)
    w = reciprocal(n)
    targets = np.flatnonzero(counts)

    def scan_block(block: RowBlock) -> tuple[Vector, NDArray[np.intp]]:
        g = block.weighted(w)
        lowest = np.full(len(g), np.inf)
        classes = np.zeros(len(g), dtype=np.intp)
        own = np.empty(len(g))
        for k in targets:
            gradient = block.G[k] * slope[k]
            gradient -= g * weight[k]
            gradient += offset[k]
            np.copyto(own, gradient, where=block.labels == k)
            better = gradient < lowest
            np.copyto(lowest, gradient, where=better)
            classes[better] = k
        return lowest - own, classes

    return scan_block
