"""A preconditioner from a random sketch of the matrix: one pass, then cheap to apply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.linalg.operator import SymmetricOperator
from ntkdist.linalg.panels import ITEM
from ntkdist.linalg.matrix import Matrix, Vector

#: More columns than this cost more in the sketch than they save in iterations (N near 20,000).
_LARGEST_RANK = 768
#: Eigenvalues below this share of the largest are rounding.
_FLOOR = 1e-14
#: Copies of an (N, rank) array while the sketch is worked out.
_COPIES = 6


@dataclass(frozen=True)
class Nystrom:
    """P⁻¹ ≈ (A + μ)⁻¹ from the top eigenpairs of a randomised Nyström approximation of A.

    P⁻¹ = (τ + μ) U (Λ + μ)⁻¹ Uᵀ + (I − U Uᵀ).

    Attributes:
        basis: U (N, r) float64, orthonormal columns; r may be 0, which preconditions nothing.
        values: Λ (r,) float64, descending.
        shift: μ, the absolute ridge.
        tail: τ, what the eigenvalues behind these are taken to be: the smallest of Λ, or zero
            where the matrix has no more.

    Source:
        Frangella, Tropp and Udell 2023, "Randomized Nyström preconditioning", algorithm 2.1 and
        equation (1.3).
    """

    basis: Matrix
    values: Vector
    shift: float
    tail: float

    @classmethod
    def sketch(cls, multiply: SymmetricOperator, rank: int, shift: float, seed: int) -> Nystrom:
        """Build it with one pass over the matrix.

        Args:
            multiply: X -> A X.
            rank: Columns of the sketch, at least 1.
            shift: μ.
            seed: Of the random test matrix.

        Returns:
            The preconditioner; its rank is smaller where the matrix has a smaller one.
        """
        from scipy.linalg import solve_triangular

        n = multiply.n
        omega = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, rank)))[0]
        y = multiply(omega)
        nu = float(np.sqrt(n) * np.finfo(np.float64).eps * np.linalg.norm(y))
        while True:
            # a matrix that rounding made slightly indefinite needs more than rounding's share
            small = omega.T @ y
            small[np.diag_indices(rank)] += nu
            try:
                lower = np.linalg.cholesky((small + small.T) / 2)
                break
            except np.linalg.LinAlgError:
                nu = max(10 * nu, np.finfo(np.float64).tiny)
        omega *= nu
        y += omega
        del omega
        b = solve_triangular(lower, y.T, lower=True, overwrite_b=True, check_finite=False).T
        basis, singular, _ = np.linalg.svd(b, full_matrices=False)
        values = np.maximum(singular**2 - nu, 0.0)
        kept = int(np.count_nonzero(values > _FLOOR * values[0])) if values[0] > 0 else 0
        exhausted = kept < rank and shift > 0
        tail = float(values[kept - 1]) if kept and not exhausted else 0.0
        return cls(np.ascontiguousarray(basis[:, :kept]), values[:kept], shift, tail)

    @classmethod
    def none(cls, n: int) -> Nystrom:
        """Return the one that changes nothing."""
        return cls(np.zeros((n, 0)), np.zeros(0), 0.0, 0.0)

    @property
    def rank(self) -> int:
        """Columns of the basis."""
        return len(self.values)

    def __call__(self, r: NDArray[Any]) -> Matrix:
        """Apply P⁻¹ to (N, K) float64."""
        if not self.rank:
            return r.copy()
        inside = self.basis.T @ r
        weights = (self.tail + self.shift) / (self.values + self.shift) - 1.0
        return r + self.basis @ (weights[:, None] * inside)


def sketch_bytes(n: int, rank: int) -> int:
    """Return the bytes that building a preconditioner takes."""
    return _COPIES * ITEM * n * rank


def choose_rank(n: int, memory_limit: int) -> int:
    """Return the rank that ``rank="auto"`` stands for.

    Args:
        n: Rows of the matrix.
        memory_limit: Bytes; half of it may go into the sketch.
    """
    return max(1, min(_LARGEST_RANK, n // 8, memory_limit // (2 * sketch_bytes(n, 1))))
