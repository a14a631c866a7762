"""The published step: the row whose label the gradient most wants changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels._tables import Tables
from ntkdist.labels.block_error import gradient_coefficients


def tables(Z: NDArray[np.float64], counts: NDArray[np.int64], beta: float) -> Tables:
    """Return the tables of one step of Algorithm 1.

    With m = −∂L/∂Y, b_i = m_i,a_i and c_i = max_j m_ij, a row's value is b_i − c_i ≤ 0 and its
    class is argmax_j m_ij (the smallest on ties); the step takes the lowest value. Classes
    without members are no targets: their gradient is 0/0.

    Args:
        Z: (K, K) now.
        counts: (K,) class sizes now.
        beta: β.

    Returns:
        The tables.

    Source:
        DeOliveira et al. 2025, Algorithm 1.
    """
    slope, weight, offset = gradient_coefficients(Z, counts.astype(np.float64), beta)
    K = len(slope)
    zero = np.zeros(K)
    own, push = np.zeros((K, 4)), np.zeros((K, 3))
    own[:, 0], own[:, 2], own[:, 3] = -offset, -slope, weight
    push[:, 0] = 1.0
    targets = np.empty((K, K))
    targets[:] = np.where(counts > 0, offset, np.inf)
    slopes = np.empty((K, K))
    slopes[:] = slope
    return Tables.of(targets, slopes, zero, -weight, own, push)
