"""Which pixels each window of a filter or a pool covers, along one axis."""

from __future__ import annotations

import numpy as np


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
        (windows, edge) float64: 0 or 1, more where a circular window passes a pixel again. Without
        a window that fits (0, edge).
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
    """Return how many pixels the first SAME window begins in front of the image."""
    return max((-(-edge // stride) - 1) * stride + size - edge, 0) // 2
