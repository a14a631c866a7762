"""The multiplier of the label-aware part, chosen by cross-validation on the training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.label_aware.classify import least_ridge, solve_symmetric, with_ridge
from ntkdist.learning.label_aware.kernel import (
    EPSILON,
    check_labels,
    check_multipliers,
    check_pairs,
    label_aware_kernel,
    label_part,
)
from ntkdist.learning.label_aware.pairs import Pairs

Matrix = NDArray[np.float64]

# r; 0 is the plain kernel, 0.0005 that of the authors' script
MULTIPLIERS = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True, eq=False)
class MultiplierChoice:
    """What cross-validation on the training images says about each multiplier.

    Attributes:
        multiplier: r of the best accuracy; of equal ones that of the smallest squared error.
        multipliers: (M,) those that were tried, but for those that leave a singular kernel.
        accuracy: (M,) share of held-out images on the right side.
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
        """The accuracy of the multiplier that was chosen."""
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

    Every fold's Z̃, its scale, RBF width, principal components and regression weights come from
    the other folds' images and labels alone.

    Args:
        train: (n, n) pairs of the training images.
        labels: (n,) −1 or 1.
        variant: As for ``label_part``.
        multipliers: Those to try, at least 0; 0 is the plain kernel.
        folds: How many parts, each class dealt out evenly; 2 to the size of the smaller class.
        epsilon: ε of FJLT's sketch.
        seed: Decides folds and sketches.

    Returns:
        The choice and what was measured.

    Raises:
        InputError: For labels, multipliers or folds that do not fit, or where every one
            leaves a singular kernel.
    """
    y = check_labels(labels)
    tried = check_multipliers(multipliers)
    fold = fold_numbers(y, folds, seed)
    values, solved, definite = held_out_values(
        train, y, fold, variant=variant, multipliers=tried, epsilon=epsilon, seed=seed
    )
    if not solved.any():
        raise InputError(
            f"multipliers={multipliers!r}: each leaves a singular kernel with the label-aware part "
            f"of {variant}; give smaller ones, or 0, the plain kernel"
        )
    tried, values, definite = tried[solved], values[solved], definite[solved]
    accuracy = np.mean((values >= 0) == (y > 0), axis=1)
    error = np.mean((values - y) ** 2, axis=1)
    best = int(np.lexsort((tried, error, -accuracy))[0])
    return MultiplierChoice(float(tried[best]), tried, accuracy, error, definite)


def fold_numbers(labels: Any, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Deal the images of each class out to folds of near-equal size, at random.

    Args:
        labels: (n,) −1 or 1.
        folds: How many.
        seed: Decides who comes where.

    Returns:
        (n,) fold of each image, 0..folds − 1.

    Raises:
        InputError: For less than two folds, or more than the smaller class has images.
    """
    y = check_labels(labels)
    most = int(min((y < 0).sum(), (y > 0).sum()))
    whole = isinstance(folds, (int, np.integer)) and not isinstance(folds, bool)
    if not whole or not 2 <= folds <= most:
        raise InputError(
            f"folds={folds!r} must be a whole number from 2 to {most}, the images of the smaller "
            "class"
        )
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
    """Predict each image from those of the other folds, with each multiplier.

    Args:
        train: (n, n) pairs of the training images.
        labels: (n,) −1 or 1.
        fold: (n,) fold of each image; both classes must be left when any one fold is taken out.
        variant: As for ``label_part``.
        multipliers: (M,) those to predict with.
        epsilon: ε of FJLT's sketch.
        seed: Seed of the sketches.

    Returns:
        (M, n) values, above 0 for label 1; (M,) whether the kernel could be solved with in every
        fold, values being 0 where it could not; (M,) whether it was positive definite in every
        fold. A ridge that H itself needs in a fold is part of the kernel there.

    Raises:
        InputError: For labels, folds or multipliers that do not fit.
    """
    y = check_labels(labels)
    fold, tried = np.asarray(fold), check_multipliers(multipliers)
    check_pairs(train, train, len(y))
    if fold.shape != y.shape:
        raise InputError(f"folds have shape {fold.shape}; one an image, ({len(y)},), is needed")
    values, count = np.zeros((len(tried), len(y))), len(tried)
    solved, definite = np.ones(count, dtype=bool), np.ones(count, dtype=bool)
    for number in np.unique(fold):
        held, rest = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        inner, outer = train.take(rest, rest), train.take(held, rest)
        part = label_part(inner, y[rest], outer, variant=variant, epsilon=epsilon, seed=seed)
        ridge = least_ridge(inner.kernel)
        for place in np.flatnonzero(solved):
            kernel = label_aware_kernel(inner, outer, part, float(tried[place]))
            found = solve_symmetric(with_ridge(kernel.train, ridge), y[rest])
            if found is None:
                solved[place] = definite[place] = False
            else:
                values[place, held] = kernel.test @ found.solution
                definite[place] &= found.definite
    values[~solved] = 0.0
    return values, solved, definite
