"""Kernel regression on labels ±1: without a ridge, also with kernels that are not definite."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.linalg import RIDGE_LADDER, first_passing

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Solved:
    """A solution of K x = b.

    Attributes:
        solution: x, of b's shape, float64.
        definite: Whether K is positive definite.
    """

    solution: Matrix
    definite: bool


def solve_symmetric(gram: Matrix, b: Matrix) -> Solved | None:
    """Solve K x = b in float64: by Cholesky, and where K is not positive definite by LDLᵀ.

    H + λZ̃ need not be definite, and the authors' script solves with it whatever the signs of
    its eigenvalues. (The negative multiple of 11ᵀ that KR-V1 adds for balanced classes makes it
    regression with a bias that costs little; a ridge that made K definite would drown H.)

    Args:
        gram: (n, n) symmetric K; its lower triangle is read.
        b: (n,) or (n, k).

    Returns:
        The solution; None where K is singular to working precision.
    """
    from scipy.linalg import LinAlgError, LinAlgWarning, cho_factor, cho_solve, solve

    try:
        factor = cho_factor(gram, lower=True, check_finite=False)
    except LinAlgError:
        with warnings.catch_warnings():
            warnings.simplefilter("error", LinAlgWarning)
            try:
                x = solve(gram, b, lower=True, assume_a="sym", check_finite=False)
            except (LinAlgError, LinAlgWarning):
                return None
        return Solved(x, definite=False)
    return Solved(cho_solve(factor, b, check_finite=False), definite=True)


def least_ridge(gram: Matrix) -> float:
    """Return the ridge that H needs to be positive definite, as rounding may have it need one.

    Args:
        gram: (n, n) symmetric H.

    Returns:
        Relative to the mean of the diagonal: 0 where H has a Cholesky factor, else the smallest of
        1e-12, 1e-11, ..., 1 with which it has one.

    Raises:
        InputError: If none of them helps.
    """
    from scipy.linalg import LinAlgError, cholesky

    steps = (0.0, *RIDGE_LADDER)

    def passes(index: int) -> bool:
        try:
            cholesky(
                with_ridge(gram, steps[index]), lower=True, overwrite_a=True, check_finite=False
            )
        except LinAlgError:
            return False
        return True

    best = 0 if passes(0) else 1 + first_passing(len(steps) - 1, lambda i: passes(i + 1))
    if best == len(steps):
        raise InputError(
            f"the kernel (mean of its diagonal {np.mean(np.diagonal(gram)):.6g}) is not positive "
            "definite with any ridge up to 1: this is no kernel matrix with rounding errors; check "
            "how it was computed"
        )
    return steps[best]


def solve_definite(gram: Matrix, b: Matrix) -> Matrix:
    """Return H⁻¹b, with the ridge that H needs to be positive definite."""
    from scipy.linalg import cho_factor, cho_solve

    factor = cho_factor(with_ridge(gram, least_ridge(gram)), lower=True, check_finite=False)
    return cho_solve(factor, b, check_finite=False)


def with_ridge(gram: Matrix, ridge: float) -> Matrix:
    """Return a copy of K with ridge · mean(diag K) added to its diagonal."""
    out = gram.copy()
    diagonal = np.diagonal(gram)
    np.fill_diagonal(out, diagonal + ridge * diagonal.mean())
    return out


def local_elasticity(kernel: Matrix, labels: Matrix) -> float:
    """Return how much closer a kernel holds images of one class than images of two.

    The mean of k(x, x')/√(k(x, x) k(x', x')) over pairs within classes, divided by the sum of that
    and of the mean over pairs between classes; ½ where classes make no difference. Pairs of an
    image with itself are left out: they count as within whatever the labels are.

    Args:
        kernel: (n, n) symmetric, its diagonal above 0.
        labels: (n,) class numbers or ±1.

    Returns:
        The ratio.

    Raises:
        InputError: If the diagonal is not above 0, or there are no two images of one class or no
            two of different ones, or the two means add up to nothing.

    Source:
        Chen, He and Su 2020 (relative ratio); He and Su 2020 (local elasticity).
    """
    kernel, labels = np.asarray(kernel, dtype=np.float64), np.asarray(labels)
    n = len(labels)
    if kernel.shape != (n, n):
        raise InputError(f"kernel has shape {kernel.shape}; {n} labels need ({n}, {n})")
    diagonal = np.diagonal(kernel)
    if not diagonal.min(initial=np.inf) > 0:
        raise InputError(
            f"the kernel's diagonal has an entry {diagonal.min():.6g}; normalising it needs all "
            "above 0"
        )
    root = np.sqrt(diagonal)
    same = labels[:, None] == labels
    within = same & ~np.eye(n, dtype=bool)
    if not within.any() or same.all():
        raise InputError(
            "local elasticity compares pairs within and between classes; give two images of one "
            "class and two of different ones"
        )
    normalised = kernel / root / root[:, None]
    inside, between = float(normalised[within].mean()), float(normalised[~same].mean())
    if not inside + between > 0:
        raise InputError(
            f"mean kernels within ({inside:.6g}) and between classes ({between:.6g}) add up to no "
            "more than 0; local elasticity needs a kernel that is positive on average"
        )
    return inside / (inside + between)
