"""Z̃, the similarity of labels that a pair of images suggests, and the kernel H + λZ̃."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.checks import check_choice
from ntkdist.learning.label_aware.pairs import PairFeatures, Pairs
from ntkdist.learning.label_aware.sketch import pair_regression
from ntkdist.linalg import RIDGE_LADDER, first_passing

Matrix = NDArray[np.float64]

# variant -> principal components among its pair features; None for those without features
VARIANTS: dict[str, int | None] = {"kr-v1": None, "kr-v2": None, "fjlt-v1": 0, "fjlt-v2": 5}
EPSILON = 0.01  # ε of the sketch, as published


@dataclass(frozen=True, eq=False)
class LabelAwareKernel:
    """H + λZ̃.

    Attributes:
        train: (n, n) float64 of the training images.
        test: (m, n) float64 of test and training images.
        scale: λ.
    """

    train: Matrix
    test: Matrix
    scale: float


def label_part(
    train: Pairs,
    labels: Any,
    test: Pairs,
    *,
    variant: str,
    epsilon: float = EPSILON,
    seed: int = 0,
) -> tuple[Matrix, Matrix]:
    """Return Z̃ of the training images, and of test and training images.

    Args:
        train: (n, n) pairs of the training images with themselves.
        labels: (n,) their labels, −1 or 1.
        test: (m, n) pairs of the test images with them.
        variant: ``kr-v1``, ``kr-v2``, ``fjlt-v1`` or ``fjlt-v2``; the last two need pixels.
        epsilon: ε of FJLT's sketch of ⌊ln(p + 1)/ε²⌋ rows, p the number of features.
        seed: Seed of the sketch.

    Returns:
        (n, n) and (m, n) float64.

    Raises:
        InputError: For an unknown variant, labels of other than two classes, or pairs that do not
            fit.

    Source:
        Chen, He and Su 2020.
    """
    y = check_labels(labels)
    check_pairs(train, test, len(y))
    check_choice("variant", variant, VARIANTS)
    components = VARIANTS[variant]
    if not 0 < epsilon < 1:
        raise InputError(f"epsilon={epsilon!r} must be above 0 and below 1; 0.01 is published")
    if components is None:
        votes = y if variant == "kr-v1" else _solve_definite(train.kernel, y)
        vote = _LabelVotes(train.kernel, votes)
        return vote(train.kernel), vote(test.kernel)
    features = PairFeatures(train, components)
    weights = pair_regression(
        features.of(train), np.outer(y, y), features.count, epsilon=epsilon, seed=seed
    )
    Z, Z_test = np.zeros(train.kernel.shape), np.zeros(test.kernel.shape)
    for total, pairs in ((Z, train), (Z_test, test)):
        for weight, feature in zip(weights, features.of(pairs), strict=True):
            total += weight * feature
    return Z, Z_test


def label_aware_kernel(
    train: Pairs, test: Pairs, part: tuple[Matrix, Matrix], multiplier: float
) -> LabelAwareKernel:
    """Return K = H + λZ̃ with λ = multiplier · mean|H|/mean|Z̃|, both means over training pairs.

    Args:
        train: (n, n) pairs of the training images.
        test: (m, n) pairs of the test images with them.
        part: Z̃ of both, from ``label_part``.
        multiplier: r; 0 gives H.

    Returns:
        The kernel.

    Raises:
        InputError: For a multiplier below 0, or above 0 if all of Z̃ is 0.
    """
    check_multipliers([multiplier])
    if multiplier == 0:
        return LabelAwareKernel(train.kernel, test.kernel, 0.0)
    Z, Z_test = part
    size = float(np.abs(Z).mean())
    if not size > 0:
        raise InputError("the label-aware part is 0 for all training pairs; give another variant")
    scale = float(multiplier * np.abs(train.kernel).mean() / size)
    return LabelAwareKernel(train.kernel + scale * Z, test.kernel + scale * Z_test, scale)


class _LabelVotes:
    """Z̃ of KR-V1 and KR-V2 as a function of a kernel entry h, from sums over the training pairs.

    Z̃(h) = Σ_ij w_ij v_i v_j / Σ_ij w_ij with w_ij = (max H − min H)² − (h − H_ij)². With the
    square expanded the numerator is ((max H − min H)² − h²) S + 2h S_H − S_HH, where S = Σ v_i v_j,
    S_H = Σ H_ij v_i v_j and S_HH = Σ H_ij² v_i v_j, and the denominator is the same with v = 1:
    O(n²) once, O(1) for an entry. The mean of H is subtracted from H and h, so that the squares do
    not cancel. An h of a test image outside min H..max H is moved to the nearer end, as the
    published weights are negative beyond it. v are the labels (KR-V1) or H⁻¹y (KR-V2) (Chen, He and
    Su 2020).
    """

    def __init__(self, gram: Matrix, votes: Matrix) -> None:
        self._low, self._high = float(gram.min()), float(gram.max())
        if not self._high > self._low:
            raise InputError(
                f"all entries of the kernel are {self._low:.6g}; a label-aware part needs a kernel "
                "that distinguishes images"
            )
        self._mean = float(gram.mean())
        u = gram - self._mean
        self._labelled = float(votes.sum() ** 2), float(votes @ u @ votes), votes @ u**2 @ votes
        self._plain = float(u.size), float(u.sum()), float(np.sum(u**2))

    def __call__(self, h: Matrix) -> Matrix:
        """Return Z̃ of kernel entries, of their shape."""
        h = np.clip(h, self._low, self._high) - self._mean
        constant = (self._high - self._low) ** 2 - h**2
        numerator, denominator = (
            constant * total + 2.0 * h * first - second
            for total, first, second in (self._labelled, self._plain)
        )
        return numerator / denominator


def least_ridge(gram: Matrix) -> float:
    """Return the smallest of 0, 1e-12, 1e-11, …, 1 as relative ridge with which H has a factor.

    Rounding may leave H (n, n) not positive definite; ``InputError`` if no ridge helps.
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
            "definite with any ridge up to 1, which rounding errors do not explain; check how it "
            "was computed"
        )
    return steps[best]


def _solve_definite(gram: Matrix, b: Matrix) -> Matrix:
    """Return H⁻¹b, with the least ridge that makes H positive definite."""
    from scipy.linalg import cho_factor, cho_solve

    factor = cho_factor(with_ridge(gram, least_ridge(gram)), lower=True, check_finite=False)
    return cho_solve(factor, b, check_finite=False)


def with_ridge(gram: Matrix, ridge: float) -> Matrix:
    """Return a copy of K with ridge · mean(diag K) added to its diagonal."""
    out = gram.copy()
    diagonal = np.diagonal(gram)
    np.fill_diagonal(out, diagonal + ridge * diagonal.mean())
    return out


def check_labels(labels: Any) -> Matrix:
    """Return labels −1 and 1, both present, as float64 (n,)."""
    y = np.asarray(labels)
    if y.ndim != 1 or y.dtype.kind not in "iuf":
        raise InputError(f"labels are {y.dtype} of shape {y.shape}; give −1 or 1 an image, (n,)")
    values = np.unique(y)
    if not np.array_equal(values, [-1, 1]):
        raise InputError(
            f"labels hold {len(values)} values ({', '.join(f'{v:g}' for v in values[:4])}"
            f"{', …' if len(values) > 4 else ''}); label-aware kernels are for two classes, −1 and "
            "1: choose a pair of classes"
        )
    return y.astype(np.float64)


def check_pairs(train: Pairs, test: Pairs, n: int) -> None:
    """Raise ``InputError`` unless the pairs are those of n training images."""
    if train.kernel.shape != (n, n):
        raise InputError(f"the kernel has shape {train.kernel.shape}; {n} labels need ({n}, {n})")
    if test.kernel.shape[1] != n:
        raise InputError(
            f"the test kernel has shape {test.kernel.shape}; its columns are the {n} training "
            "images"
        )


def check_multipliers(multipliers: Any) -> Matrix:
    """Return multipliers, M ≥ 1 finite numbers of at least 0, as float64 (M,)."""
    checked = np.asarray(multipliers)
    numbers = checked.ndim == 1 and checked.size and checked.dtype.kind in "iuf"
    if not numbers or not np.isfinite(checked).all() or checked.min() < 0:
        raise InputError(
            f"multipliers={multipliers!r} must be finite numbers of at least 0; 0 is the plain "
            "kernel, 0.0005 is published"
        )
    return checked.astype(np.float64)
