"""Which pixels the windows of filters and pools cover along one axis, and the weights of means."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ntkdist.networks.layers import AvgPool


def windows(edge: int, size: int, stride: int, padding: str) -> np.ndarray:
    """Return how often each window covers each pixel along one axis.

    Args:
        edge: Pixels.
        size: Pixels of a window.
        stride: Step between windows in pixels.
        padding: ``SAME`` (windows reach beyond the image; ⌈edge / stride⌉ of them), ``VALID``
            (windows inside the image) or ``CIRCULAR`` (as many as SAME; beyond one end they
            continue at the other).

    Returns:
        (windows, edge) float64: 0 or 1, or more where a circular window is larger than the image.
        With ``VALID`` and no window that fits, (0, edge).
    """
    if padding == "VALID":
        starts = np.arange(0, edge - size + 1, stride)
    else:
        count = -(-edge // stride)
        starts = np.arange(count) * stride - padding_before(edge, size, stride)
    reached = starts[:, None] + np.arange(size)
    counts = np.zeros((len(starts), edge))
    inside = (reached >= 0) & (reached < edge)
    if padding == "CIRCULAR":
        inside[:] = True
    np.add.at(counts, (np.nonzero(inside)[0], reached[inside] % edge), 1.0)
    return counts


def padding_before(edge: int, size: int, stride: int) -> int:
    """Return how many pixels of the first SAME window lie in front of the image."""
    return max((-(-edge // stride) - 1) * stride + size - edge, 0) // 2


def mean_weights(edge: int, pools: Iterable[AvgPool], *, pooled: bool) -> np.ndarray:
    """Return the weights of pairs of pixels along one axis in a mean behind pools.

    Let ``rows`` and ``columns`` be these weights along the two axes. K behind the mean is then the
    sum of K[i, j, i', j'] rows[i, i'] columns[j, j'] over the pixels in front of the pools.

    Args:
        edge: Pixels in front of the pools.
        pools: Average pools, in order.
        pooled: Whether the mean is over all pairs of windows, else over pairs of equal ones.

    Returns:
        (edge, edge) float64.
    """
    means = np.eye(edge)
    for pool in pools:
        means = windows(len(means), pool.size, pool.step, pool.padding) / pool.size @ means
    if pooled:
        means = means.mean(axis=0, keepdims=True)
    return np.asarray(means.T @ means / len(means))
