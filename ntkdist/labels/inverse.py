"""The inverse H⁻¹ as the label methods use it: its shape, diagonal, columns and products.

``posterior`` needs only solutions H⁻¹b and the diagonal. A factor gives both, so that no N×N
inverse is formed for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_square
from ntkdist.errors import InputError
from ntkdist.linalg import bands, blas, check_ridge
from ntkdist.linalg.status import check_indices, check_vectors

# Largest |A − Aᵀ|, relative to max |A|, that rounding to float32 explains.
ASYMMETRY = 1e-5


@runtime_checkable
class Inverse(Protocol):
    """The symmetric inverse of a Gram matrix, read by columns.

    Three optional attributes are used where they exist: ``solve(b) -> H⁻¹b`` for many right-hand
    sides at once, ``rows(start, stop)`` for neighbouring rows (stop − start, N), and
    ``columns_at_once``, the number of columns to fetch together.

    Attributes:
        shape: (N, N).
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, N)."""

    def diagonal(self) -> NDArray[np.float64]:
        """Return (N,) float64: the diagonal, all positive."""

    def columns(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return (N, m) float64: the columns at ``indices`` (m,)."""


class ArrayInverse:
    """An inverse as one NumPy array in memory."""

    columns_at_once = 1

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, N)."""
        return self._array.shape

    def diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal (N,) float64."""
        return np.array(np.diagonal(self._array), dtype=np.float64)

    def columns(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the columns at ``indices``, (N, m) float64, read as rows (it is symmetric)."""
        if len(indices) == 1:  # a view, without a copy
            return np.asarray(self._array[int(indices[0])], dtype=np.float64)[:, None]
        return np.asarray(self._array[indices], dtype=np.float64).T

    def solve(self, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return H⁻¹b (N, K) float64, row block by row block."""
        out = np.empty((self.shape[0], b.shape[1]))
        for rows in bands(*self.shape):
            out[rows] = np.asarray(self._array[rows], dtype=np.float64) @ b
        return out


class StoredInverse:
    """An inverse stored in row chunks: any array with ``shape`` and row slicing (Zarr, HDF5).

    Columns are read as rows: one read each if a chunk is a row.
    """

    columns_at_once = 32

    def __init__(self, array: Any) -> None:
        self._array = array
        self._diagonal: NDArray[np.float64] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, N)."""
        return tuple(int(s) for s in self._array.shape)

    def diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal (N,) float64; the first call reads the array once."""
        if self._diagonal is None:
            parts = []
            for rows in bands(*self.shape):
                block = np.asarray(self._array[rows], dtype=np.float64)
                parts.append(np.diagonal(block, offset=rows.start).copy())
            self._diagonal = np.concatenate(parts)
        return self._diagonal.copy()

    def rows(self, start: int, stop: int) -> NDArray[np.float64]:
        """Return rows ``start`` to ``stop``, (stop − start, N) float64, in one read."""
        return np.asarray(self._array[start:stop], dtype=np.float64)

    def columns(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the columns at ``indices``, (N, m) float64, one row read each."""
        out = np.empty((len(indices), self.shape[0]))
        for place, index in enumerate(indices):
            out[place] = self._array[int(index)]
        return out.T


class FactorInverse:
    """The inverse of a factored matrix: solutions and the diagonal, without an (N, N) array.

    Args:
        factor: A ``CholeskyFactor``, or anything with its ``shape``, ``solve``,
            ``inverse_columns`` and ``diagonal_of_inverse``.
        diagonal: (N,) diagonal of the inverse; None computes it from the factor when needed.
        on_event: Called with the progress of a long solution.
    """

    columns_at_once = 32

    def __init__(
        self,
        factor: Any,
        diagonal: NDArray[np.float64] | None = None,
        *,
        on_event: Callable[[Any], object] | None = None,
    ) -> None:
        self._factor = factor
        self._diagonal = diagonal
        self._listener = {} if on_event is None else {"on_event": on_event}

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, N)."""
        return tuple(self._factor.shape)

    def with_listener(self, on_event: Callable[[Any], object]) -> FactorInverse:
        """Return the same inverse with another ``on_event``."""
        return FactorInverse(self._factor, self._diagonal, on_event=on_event)

    def diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal (N,) float64; the first call may compute it."""
        if self._diagonal is None:
            self._diagonal = self._factor.diagonal_of_inverse(**self._listener)
        return np.array(self._diagonal, dtype=np.float64)

    def columns(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the columns at ``indices``, (N, m) float64: two substitutions each."""
        return self._factor.inverse_columns(indices)

    def solve(self, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return H⁻¹b (N, K) float64."""
        return self._factor.solve(b, **self._listener)


class MemoryFactor:
    """The Cholesky factor of a Gram matrix in memory, as an inverse: solutions and the diagonal.

    It keeps one (N, N) array in float64, the factor.

    Args:
        gram: (N, N) symmetric H, any real type; it is not changed.
        ridge: λ ≥ 0, relative to the mean of the diagonal.

    Raises:
        InputError: If the matrix is not positive definite with that ridge.
    """

    columns_at_once = 32

    def __init__(self, gram: NDArray[Any], ridge: float) -> None:
        check_ridge(ridge)
        self._lower = np.array(check_square("gram", gram), dtype=np.float64, order="C")
        n = len(self._lower)
        self._lower[np.diag_indices(n)] += ridge * float(np.mean(np.diagonal(self._lower)))
        pivot = blas.cholesky_lower(self._lower)
        if pivot >= 0:
            raise _not_definite(ridge, pivot + 1, n)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, N)."""
        return self._lower.shape

    def diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal (N,) float64: squared column norms of L⁻¹, some columns at a time."""
        n = len(self._lower)
        out = np.empty(n)
        for part in bands(n, n):
            start = part.start
            x = np.zeros((n - start, part.stop - start))
            np.fill_diagonal(x, 1.0)
            blas.solve_lower(self._lower[start:, start:], x)
            out[part] = np.einsum("ij,ij->j", x, x)
        return out

    def columns(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the columns at ``indices``, (N, m) float64: two substitutions each."""
        wanted = check_indices(indices, len(self._lower))
        unit = np.zeros((len(self._lower), len(wanted)))
        unit[wanted, np.arange(len(wanted))] = 1.0
        return self.solve(unit)

    def solve(self, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return H⁻¹b (N, K) float64."""
        x = check_vectors(b, len(self._lower))
        blas.solve_lower(self._lower, x)
        blas.solve_lower(self._lower, x, transposed=True)
        return x


def invert(gram: NDArray[Any], ridge: float) -> NDArray[np.float64]:
    """Return (H + ridge·mean(diag H)·I)⁻¹ through Cholesky, in memory.

    Args:
        gram: (N, N) symmetric H.
        ridge: λ ≥ 0, relative to the mean of the diagonal.

    Returns:
        (N, N) float64, exactly symmetric.

    Raises:
        InputError: For a ridge that is not finite and ≥ 0, or a matrix that is not positive
            definite with it.
    """
    from scipy.linalg import lapack

    check_ridge(ridge)
    a = np.array(check_square("gram", gram), dtype=np.float64, order="F")
    n = len(a)
    if not all(np.isfinite(a[rows]).all() for rows in bands(n, n)):
        raise InputError("gram holds NaN or infinity; ntkdist status names the tile")
    a[np.diag_indices(n)] += ridge * float(np.mean(np.diagonal(a)))
    factor, info = lapack.dpotrf(a, lower=1, clean=0, overwrite_a=1)
    if info == 0:
        inverse, info = lapack.dpotri(factor, lower=1, overwrite_c=1)
    if info != 0:
        raise _not_definite(ridge, info, n)
    for rows in bands(n, n):
        inverse[rows, rows.stop :] = inverse[rows.stop :, rows].T
        square = inverse[rows, rows]
        square[...] = np.tril(square) + np.tril(square, -1).T
    return inverse


def as_inverse(inverse: Any) -> Inverse:
    """Return ``inverse`` as something with ``shape``, ``diagonal()`` and ``columns(indices)``.

    Args:
        inverse: (N, N) H⁻¹: a NumPy array, a stored array with row slicing, a factor
            (``CholeskyFactor``), or an object that already has the three (returned as it is).

    Returns:
        The same matrix behind the ``Inverse`` protocol.

    Raises:
        InputError: If it is not square, not finite, not symmetric (arrays in memory are
            checked whole) or has a diagonal entry ≤ 0.
    """
    if isinstance(inverse, Inverse) and not isinstance(inverse, np.ndarray):
        source: Inverse = inverse
    elif hasattr(inverse, "diagonal_of_inverse"):
        source = FactorInverse(inverse)
    elif hasattr(inverse, "shape") and not isinstance(inverse, np.ndarray | np.generic):
        source = StoredInverse(inverse)
    else:
        array = check_square("the inverse", inverse)
        source = ArrayInverse(array)
    shape = tuple(source.shape)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
        raise InputError(f"the inverse has shape {shape}; it must be square, (N, N)")
    if isinstance(source, ArrayInverse) and source is not inverse:
        _check_array(source._array)
    return source


def checked_diagonal(inverse: Inverse) -> NDArray[np.float64]:
    """Return the diagonal (N,) float64 of H⁻¹; ``InputError`` unless it is finite and positive."""
    diagonal = np.asarray(inverse.diagonal(), dtype=np.float64)
    if diagonal.shape != (inverse.shape[0],):
        raise InputError(f"diagonal() has shape {diagonal.shape}, not ({inverse.shape[0]},)")
    wrong = np.flatnonzero(~(np.isfinite(diagonal) & (diagonal > 0)))
    if wrong.size:
        first = int(wrong[0])
        raise InputError(
            f"the inverse's diagonal is {diagonal[first]} at index {first}, not positive and "
            "finite, so that the Gram matrix is not positive definite: raise the ridge"
        )
    return diagonal


def _not_definite(ridge: float, pivot: int, n: int) -> InputError:
    """Return the error for a Gram matrix without Cholesky factor: its failing pivot, from 1."""
    return InputError(
        f"the Gram matrix is not positive definite at ridge={ridge} (pivot {pivot} of {n}); "
        "identical images or rounding do that: raise the ridge, for example to "
        f"{max(10 * ridge, 1e-6):g}"
    )


def _check_array(array: NDArray[Any]) -> None:
    largest = worst = 0.0
    for rows in bands(*array.shape):
        block = array[rows]
        finite = np.isfinite(block)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise InputError(
                f"the inverse holds {block[row, column]} at ({rows.start + row}, {column}); "
                "it must be finite: check the Gram matrix, or raise the ridge"
            )
        largest = max(largest, float(np.abs(block).max()))
        worst = max(worst, float(np.abs(block - array[:, rows].T).max()))
    if worst > ASYMMETRY * largest:
        raise InputError(
            f"the inverse is not symmetric: |A − Aᵀ| reaches {worst:.3g} where entries reach "
            f"{largest:.3g}; pass (A + A.T) / 2 if that is rounding"
        )
