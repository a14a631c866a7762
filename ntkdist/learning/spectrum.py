"""Reading a Gram matrix, and its eigendecomposition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_square
from ntkdist.errors import InputError
from ntkdist.linalg import bands, check_ridge

# How far below zero rounding of float32 entries may leave an eigenvalue, relative to N · λ_max.
_NEGATIVE = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """V diag(values) Vᵀ.

    Attributes:
        values: (N,) float64, descending, none below zero.
        vectors: (N, N) float64, orthonormal columns in the order of the values.
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]

    @classmethod
    def of(cls, gram: Any, *, ridge: float = 0.0) -> Spectrum:
        """Decompose H + ridge · mean(diag H) · I.

        Eigenvalues that rounding has left below zero are raised to zero before the ridge.

        Args:
            gram: (N, N) symmetric H, anything that can be sliced by rows: NumPy, a ``GramStore``,
                a Zarr array. Peak memory is four matrices of float64.
            ridge: ≥ 0, relative to the mean of the diagonal.

        Returns:
            The decomposition.

        Raises:
            InputError: For a matrix that is not square, not finite, not symmetric or clearly not
                positive semi-definite, or a ridge below zero.
        """
        from scipy.linalg import eigh

        relative = check_ridge(ridge)
        H = dense_square(gram)
        shift = relative * mean_of_diagonal(H)
        values, vectors = eigh(H, overwrite_a=True, driver="evd")
        if values[0] < -_NEGATIVE * len(values) * max(values[-1], 0.0):
            raise InputError(
                f"the smallest eigenvalue is {values[0]:.3g}, the largest {values[-1]:.3g}: a Gram "
                "matrix has none below 0; compute all of its tiles from the same images"
            )
        return cls(np.maximum(values[::-1], 0.0) + shift, np.ascontiguousarray(vectors[:, ::-1]))

    def __len__(self) -> int:
        return len(self.values)

    def coefficients(self, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return Vᵀb, (N, K): the coefficients of each column in the eigenbasis."""
        return self.vectors.T @ b


def dense_square(gram: Any) -> NDArray[np.float64]:
    """Return a copy (N, N) float64 of a Gram matrix, as ``Spectrum.of`` takes it.

    ``InputError`` if it is not square, not finite or not symmetric.
    """
    gram = check_square("gram", gram)
    shape = tuple(int(edge) for edge in gram.shape)
    H = read_rows(gram, lambda rows: rows)
    scale = float(np.abs(np.diagonal(H)).max())
    for rows in bands(*shape):
        if np.abs(H[rows] - H[:, rows].T).max() > 1e-4 * max(scale, np.finfo(np.float64).tiny):
            raise InputError(
                "the Gram matrix is not symmetric; a test × train matrix cannot stand in for it"
            )
    return H


def read_rows(
    matrix: Any, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return ``change`` of each band of rows of a matrix, stacked, (M, …) float64.

    The matrix (M, N) is NumPy or anything that can be sliced by rows; ``InputError`` if it holds
    NaN or infinity.
    """
    M, N = (int(edge) for edge in matrix.shape)
    out: NDArray[np.float64] | None = None
    for rows in bands(M, N):
        band = np.asarray(matrix[rows, :], dtype=np.float64)
        if not np.isfinite(band).all():
            raise InputError("the kernel matrix holds NaN or infinity; ntkdist status names tiles")
        changed = change(band)
        if out is None:
            out = np.empty((M, *changed.shape[1:]))
        out[rows] = changed
    return np.empty((0, N)) if out is None else out


def mean_of_diagonal(H: NDArray[np.float64]) -> float:
    """Return the mean of the diagonal, above 0, or raise ``InputError``."""
    mean = float(np.mean(np.diagonal(H)))
    if not mean > 0:
        raise InputError(f"the mean of the Gram's diagonal is {mean:.3g}; are the images all 0?")
    return mean
