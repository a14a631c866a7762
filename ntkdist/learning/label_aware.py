"""Label-aware kernels: the NTK plus a small part that depends on the training labels.

K = H + λZ̃ with λ = r · mean|H|/mean|Z̃| over the training pairs, for two classes with labels −1 and
1. Z̃(x, x') estimates from the pair alone whether the labels of x and x' agree: from its kernel
entry, by a weighted vote of all training pairs (KR), or from ten or twenty features, by least
squares over the training pairs with a sketch (FJLT). Labels of test images are never read.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_choice, check_fraction, check_whole
from ntkdist.errors import InputError
from ntkdist.learning.pairs import PairFeatures, Pairs, pair_regression
from ntkdist.linalg import RIDGE_LADDER, first_passing

Matrix = NDArray[np.float64]

# variant -> principal components among its pair features; None for those without features
VARIANTS: dict[str, int | None] = {"kr-v1": None, "kr-v2": None, "fjlt-v1": 0, "fjlt-v2": 5}
EPSILON = 0.01  # ε of the sketch, as published

# Multipliers r to choose from; 0 is the plain kernel, 0.0005 is that of the authors' script.
MULTIPLIERS = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


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
    """Return Z̃ of the training images (n, n), and of test and training images (m, n), float64.

    Arguments, errors and source are those of ``label_aware``. FJLT's sketch has ⌊ln(p + 1)/ε²⌋ rows
    with p the number of features.
    """
    y = check_signs(labels)
    check_pairs(train, test, len(y))
    check_choice("variant", variant, VARIANTS)
    components = VARIANTS[variant]
    check_fraction("epsilon", epsilon, "0.01 is published")
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

    ``train`` are the (n, n) training pairs, ``test`` the (m, n) pairs of test and training images,
    and ``part`` is Z̃ of both. ``InputError`` for a multiplier below 0, or above 0 if Z̃ is 0.
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


def check_signs(labels: Any) -> Matrix:
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


@dataclass(frozen=True, eq=False)
class MultiplierChoice:
    """Cross-validation of the multipliers on the training images.

    Attributes:
        multiplier: r of the best accuracy; among equals, of the smallest squared error.
        multipliers: (M,) the multipliers tried, without those that give a singular kernel.
        accuracy: (M,) share of held-out images whose label is predicted.
        error: (M,) mean squared error of the held-out values against ±1.
        definite: (M,) bool, whether the kernel was positive definite in every fold.
    """

    multiplier: float
    multipliers: Matrix
    accuracy: Matrix
    error: Matrix
    definite: NDArray[np.bool_]

    @property
    def best_accuracy(self) -> float:
        """The accuracy of the chosen multiplier."""
        return float(self.accuracy[self.multipliers == self.multiplier][0])


def choose_multiplier(
    train: Pairs,
    labels: Any,
    *,
    variant: str,
    multipliers: Sequence[float] = MULTIPLIERS,
    folds: int = 5,
    epsilon: float = EPSILON,
    seed: int = 0,
) -> MultiplierChoice:
    """Choose the multiplier r by cross-validation on the training images.

    Z̃ of a fold, with its scale, RBF width, principal components and regression weights, comes from
    the images and labels of the other folds alone.

    Args:
        train: (n, n) pairs of the training images.
        labels: (n,) −1 or 1.
        variant: As for ``label_aware``.
        multipliers: Multipliers to try, at least 0; 0 is the plain kernel.
        folds: Number of folds, 2 to the size of the smaller class.
        epsilon: ε of FJLT's sketch.
        seed: Seed of folds and sketches.

    Returns:
        The choice and the measurements.

    Raises:
        InputError: For labels, multipliers or folds that do not fit, or if all multipliers give a
            singular kernel.
    """
    y = check_signs(labels)
    tried = check_multipliers(multipliers)
    fold = fold_numbers(y, folds, seed)
    values, regular, definite = held_out_values(
        train, y, fold, variant=variant, multipliers=tried, epsilon=epsilon, seed=seed
    )
    if not regular.any():
        raise InputError(
            f"multipliers={multipliers!r}: each gives a singular kernel with the label-aware part "
            f"of {variant}; give smaller ones, or 0, the plain kernel"
        )
    tried, values, definite = tried[regular], values[regular], definite[regular]
    accuracy = np.mean((values >= 0) == (y > 0), axis=1)
    error = np.mean((values - y) ** 2, axis=1)
    best = int(np.lexsort((tried, error, -accuracy))[0])
    return MultiplierChoice(float(tried[best]), tried, accuracy, error, definite)


def fold_numbers(labels: Any, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Return a fold 0..folds − 1 of each image (n,), drawn so that every class is split evenly.

    ``labels`` (n,) are −1 or 1. ``InputError`` for fewer than two folds, or for more than the
    smaller class has images.
    """
    y = check_signs(labels)
    most = int(min((y < 0).sum(), (y > 0).sum()))
    check_whole("folds", folds, 2, "each needs an image of the smaller class", most=most)
    random = np.random.default_rng(seed)
    out = np.empty(len(y), dtype=np.int64)
    for label in (-1.0, 1.0):
        members = random.permutation(np.flatnonzero(y == label))
        out[members] = (np.arange(len(members)) + random.integers(folds)) % folds
    return out


def held_out_values(
    train: Pairs,
    labels: Any,
    fold: NDArray[np.integer],
    *,
    variant: str,
    multipliers: Sequence[float] | Matrix,
    epsilon: float = EPSILON,
    seed: int = 0,
) -> tuple[Matrix, NDArray[np.bool_], NDArray[np.bool_]]:
    """Predict each image from the images of the other folds, with each multiplier.

    ``fold`` (n,) is the fold of each image; without any one fold, both classes must remain. The
    other arguments are those of ``choose_multiplier``. Returns (M, n) values, above 0 for label 1;
    (M,) whether the kernel is regular in every fold, with values of 0 where it is not; (M,) whether
    it is positive definite in every fold. A ridge that H itself needs in a fold is part of the
    kernel there.
    """
    y = check_signs(labels)
    fold, tried = np.asarray(fold), check_multipliers(multipliers)
    check_pairs(train, train, len(y))
    if fold.shape != y.shape:
        raise InputError(
            f"folds have shape {fold.shape}; ({len(y)},) is needed, one for each image"
        )
    values, count = np.zeros((len(tried), len(y))), len(tried)
    regular, definite = np.ones(count, dtype=bool), np.ones(count, dtype=bool)
    for number in np.unique(fold):
        held, rest = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        inner, outer = train.take(rest, rest), train.take(held, rest)
        part = label_part(inner, y[rest], outer, variant=variant, epsilon=epsilon, seed=seed)
        ridge = least_ridge(inner.kernel)
        for place in np.flatnonzero(regular):
            kernel = label_aware_kernel(inner, outer, part, float(tried[place]))
            solved = _solve_symmetric(with_ridge(kernel.train, ridge), y[rest])
            if solved is None:
                regular[place] = definite[place] = False
            else:
                values[place, held] = kernel.test @ solved[0]
                definite[place] &= solved[1]
    values[~regular] = 0.0
    return values, regular, definite


@dataclass(frozen=True, eq=False)
class LabelAware:
    """Predictions of kernel regression with a label-aware kernel.

    Attributes:
        variant: The label-aware part.
        multiplier: r.
        scale: λ.
        ridge: Least ridge with which the plain kernel is positive definite, relative to the mean
            of its diagonal; mostly 0.
        definite: Whether the label-aware kernel is positive definite.
        values: (m,) float64, above 0 where label 1 is predicted.
        elasticity: Local elasticity of the kernel over the training images; None if it is not
            defined, as the diagonal or the means are not above 0.
        choice: Cross-validation of the multipliers; None if the multiplier was given.
    """

    variant: str
    multiplier: float
    scale: float
    ridge: float
    definite: bool
    values: NDArray[np.float64]
    elasticity: float | None
    choice: MultiplierChoice | None

    @property
    def labels(self) -> NDArray[np.int64]:
        """The predicted labels (m,), −1 or 1."""
        return np.where(self.values >= 0, 1, -1)


def label_aware(
    train: Pairs,
    labels: Any,
    test: Pairs,
    *,
    variant: str = "fjlt-v1",
    multiplier: float | None = None,
    multipliers: Sequence[float] = MULTIPLIERS,
    folds: int = 5,
    epsilon: float = EPSILON,
    seed: int = 0,
) -> LabelAware:
    """Predict test images by kernel regression with a label-aware kernel.

    There is no ridge, unless rounding leaves the plain kernel not positive definite. The
    label-aware kernel need not be positive definite; it is used nevertheless, as in the authors'
    script.

    Args:
        train: (n, n) pairs of the training images with themselves.
        labels: (n,) their labels, −1 or 1.
        test: (m, n) pairs of the test images with them.
        variant: ``kr-v1``, ``kr-v2``, ``fjlt-v1`` or ``fjlt-v2``; the last two need pixels.
        multiplier: r; 0 is the plain kernel. None chooses it by cross-validation.
        multipliers: Multipliers to choose from.
        folds: Folds of the cross-validation.
        epsilon: ε of FJLT's sketch.
        seed: Seed of folds and sketches.

    Returns:
        The predictions.

    Raises:
        InputError: For labels of other than two classes, pairs or settings that do not fit, or a
            multiplier that gives a singular kernel.

    Source:
        Chen, He and Su 2020.
    """
    y = check_signs(labels)
    choice = None
    if multiplier is None:
        choice = choose_multiplier(
            train,
            y,
            variant=variant,
            multipliers=multipliers,
            folds=folds,
            epsilon=epsilon,
            seed=seed,
        )
        multiplier = choice.multiplier
    part = label_part(train, y, test, variant=variant, epsilon=epsilon, seed=seed)
    kernel = label_aware_kernel(train, test, part, multiplier)
    ridge = least_ridge(train.kernel)
    used = with_ridge(kernel.train, ridge)
    solved = _solve_symmetric(used, y)
    if solved is None:
        raise InputError(
            f"the kernel is singular with multiplier={multiplier:g} of the label-aware part of "
            f"{variant}; give another"
        )
    return LabelAware(
        variant=variant,
        multiplier=float(multiplier),
        scale=kernel.scale,
        ridge=ridge,
        definite=solved[1],
        values=kernel.test @ solved[0],
        elasticity=_elasticity(used, y),
        choice=choice,
    )


def _elasticity(kernel: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    try:
        return local_elasticity(kernel, y)
    except InputError:  # a label-aware kernel need not have one
        return None


def _solve_symmetric(gram: Matrix, b: Matrix) -> tuple[Matrix, bool] | None:
    """Return K⁻¹b and whether K is positive definite; None if K is singular.

    By Cholesky or, if K is not positive definite, by LDLᵀ: H + λZ̃ may have eigenvalues of both
    signs, and the authors' script solves with it. (For balanced classes KR-V1 adds a negative
    multiple of 11ᵀ, which is regression with a bias of low cost; a ridge that made K definite would
    be large beside H.)
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
        return x, False
    return cho_solve(factor, b, check_finite=False), True


def local_elasticity(kernel: Matrix, labels: Matrix) -> float:
    """Return how much more similar images of one class are to a kernel than images of two classes.

    The mean of k(x, x')/√(k(x, x) k(x', x')) over pairs within classes, divided by the sum of that
    mean and the mean over pairs between classes; ½ if classes make no difference. Pairs of an image
    with itself are left out, as they are within a class for any labels.

    The kernel is (n, n) symmetric, the labels (n,) class numbers or ±1. ``InputError`` if the
    diagonal or the sum of the two means is not above 0, or there are no two images of one class or
    of different ones. Source: Chen, He and Su 2020 (relative ratio); He and Su 2020.
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
