"""The fast Johnson-Lindenstrauss transform, and least squares with it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_FACTOR = 128  # order of the matrices whose products make a Walsh-Hadamard transform


def walsh_hadamard(x: Matrix) -> Matrix:
    """Return ``scipy.linalg.hadamard(2**a) @ x`` of x (2^a,).

    The matrix of order 2^a is a Kronecker product of small ones, each applied along its own axis:
    a few matrix products instead of a passes over memory.
    """
    from scipy.linalg import hadamard

    size, done = len(x), 1
    while done < size:
        order = min(_FACTOR, size // done)
        shaped = x.reshape(size // (done * order), order, done)
        x = np.matmul(hadamard(order, dtype=np.float64), shaped)
        done *= order
    return x.reshape(size)


class Fjlt:
    """Φ = P H D: signs D, a Hadamard transform H, and a sparse Gaussian matrix P of k rows.

    Entries of P are nonzero with probability q = min(1, ln²(columns)/size). Columns are
    transformed one at a time, so that the matrix need not be in memory.

    Args:
        length: Rows of the matrix to be sketched.
        rows: Rows of the sketch, k.
        columns: Columns of the matrix.
        seed: Seed of D and P.

    Source:
        Ailon and Chazelle 2009.
    """

    def __init__(self, length: int, rows: int, columns: int, seed: int) -> None:
        from scipy.sparse import csr_array

        random = np.random.default_rng(seed)
        self._size = 1 << (length - 1).bit_length()
        self._signs = random.integers(0, 2, length, dtype=np.int8) * 2 - 1
        density = min(1.0, math.log(columns) ** 2 / self._size)
        each = random.binomial(self._size, density, rows)
        starts = np.concatenate([[0], np.cumsum(each)])
        places = random.integers(0, self._size, starts[-1])
        # Least squares do not depend on a common factor; this one preserves squared norms.
        values = random.normal(0.0, (density * rows * self._size) ** -0.5, starts[-1])
        self._sparse = csr_array((values, places, starts), shape=(rows, self._size))

    def __call__(self, column: Matrix) -> Matrix:
        """Return the sketch (k,) of a column (length,)."""
        padded = np.zeros(self._size)
        padded[: len(column)] = column * self._signs
        return self._sparse @ walsh_hadamard(padded)


def sketch_rows(columns: int, epsilon: float) -> int:
    """Return k = ⌊ln(columns)/ε²⌋, at least the number of columns."""
    return max(columns, int(math.log(columns) / epsilon**2))


def pair_regression(
    features: Iterable[Matrix], target: Matrix, count: int, *, epsilon: float, seed: int
) -> Matrix:
    """Return the weights of least squares over all pairs of n images, from a sketch of its rows.

    ``features`` are p = ``count`` symmetric matrices (n, n), read one after another; ``target`` is
    symmetric. Of the n² rows those of pairs i ≤ j are used, with a factor √2 for i < j, which gives
    the same sums of squares. The matrix and its target have p + 1 columns, the sketch
    k = ⌊ln(p + 1)/ε²⌋ rows; if that is not less than the number of pairs, there is no sketch. There
    is no intercept and no ridge; columns are scaled for the solver alone. The weights (p,) are
    those of least norm if features depend on each other (Chen, He and Su 2020, LANTK-FJLT).
    """
    n = len(target)
    upper = np.tri(n, dtype=bool).T
    weight = np.where(np.eye(n, dtype=bool), 1.0, math.sqrt(2.0))[upper]
    k = sketch_rows(count + 1, epsilon)
    sketch = Fjlt(len(weight), k, count + 1, seed) if k < len(weight) else None

    def reduced(matrix: Matrix) -> Matrix:
        column = matrix[upper] * weight
        return column if sketch is None else sketch(column)

    A = np.stack([reduced(feature) for feature in features], axis=1)
    scale = np.linalg.norm(A, axis=0)
    scale[scale == 0] = 1.0
    solved: Matrix = np.linalg.lstsq(A / scale, reduced(target))[0]
    return solved / scale
