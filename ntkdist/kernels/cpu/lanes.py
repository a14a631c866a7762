"""Images as the loops read them: one image in each vector lane."""

from __future__ import annotations

import numpy as np

from ntkdist.kernels.cpu.vector import BYTES, LANES


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
