"""Images as the loops read them: their contrast, and one image in each vector lane."""

from __future__ import annotations

import numpy as np

from ntkdist.kernels.cpu.vector import BYTES, LANES


def contrast(x: np.ndarray) -> np.ndarray:
    """Return the divisor of each of (n, H, W, C) images; 1 for an all-zero image.

    The largest pixel times the power of two that brings the mean square near 1: images that
    differ in a few pixels get the same, so that windows they share stay equal to the bit, and
    so do copies of different contrast.
    """
    largest = np.abs(x).max(axis=(1, 2, 3))
    largest[largest == 0] = 1.0
    square = np.mean((x / largest[:, None, None, None]) ** 2, axis=(1, 2, 3))
    square[square == 0] = 1.0
    return largest * 2.0 ** np.round(np.log2(square) / 2)


def to_lanes(rows: np.ndarray) -> np.ndarray:
    """Return (n, numbers) as (⌈n / lanes⌉, numbers, lanes), aligned to ``BYTES``."""
    n, numbers = rows.shape
    lanes = LANES[rows.dtype.name]
    groups = -(-n // lanes)
    raw = np.zeros(groups * numbers * lanes + lanes, rows.dtype)
    start = -raw.ctypes.data % BYTES // rows.itemsize
    vectors = raw[start : start + groups * numbers * lanes].reshape(groups, numbers, lanes)
    for group in range(groups):
        part = rows[group * lanes : (group + 1) * lanes]
        vectors[group, :, : len(part)] = part.T
    return vectors
