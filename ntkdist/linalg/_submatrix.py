"""Some rows and columns of a matrix that may lie in a store."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Rows read together.
BAND_BYTES = 64 * 2**20


def submatrix(matrix: Any, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float64]:
    """Return matrix[rows][:, columns] in float64, read in bands where it is not in memory.

    Args:
        matrix: (M, N), NumPy or anything that can be sliced by rows.
        rows: (m,) indices.
        columns: (n,) indices.

    Returns:
        (m, n) float64.
    """
    if isinstance(matrix, np.ndarray):
        return np.array(matrix[np.ix_(rows, columns)], dtype=np.float64)
    M, N = (int(edge) for edge in matrix.shape)
    out = np.empty((len(rows), len(columns)))
    step = max(1, BAND_BYTES // (8 * N))
    for start in range(0, M, step):
        inside = np.flatnonzero((rows >= start) & (rows < start + step))
        if inside.size:
            band = np.asarray(matrix[start : min(start + step, M), :])
            out[inside] = band[rows[inside] - start][:, columns]
    return out
