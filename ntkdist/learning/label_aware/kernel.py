"""Z̃, what the training labels say about a pair of images, and the kernel with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, did_you_mean
from ntkdist.learning.label_aware.classify import solve_definite
from ntkdist.learning.label_aware.pairs import PairFeatures, Pairs
from ntkdist.learning.label_aware.sketch import pair_regression
from ntkdist.learning.label_aware.votes import LabelVotes

Matrix = NDArray[np.float64]

# variant -> principal components among its pair features; None for those without features
VARIANTS: dict[str, int | None] = {"kr-v1": None, "kr-v2": None, "fjlt-v1": 0, "fjlt-v2": 5}
EPSILON = 0.01  # ε of the sketch, as published


@dataclass(frozen=True, eq=False)
class LabelAwareKernel:
    """H + λZ̃.

    Attributes:
        train: (n, n) float64 over the training images.
        test: (m, n) float64, test against training images.
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
    """Return Z̃ over the training images and of test against training images.

    Args:
        train: (n, n) pairs of the training images with themselves.
        labels: (n,) their labels, −1 or 1.
        test: (m, n) pairs of the test images with them.
        variant: ``kr-v1``, ``kr-v2``, ``fjlt-v1`` or ``fjlt-v2``; the FJLT ones need pixels.
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
    components = check_variant(variant)
    if not 0 < epsilon < 1:
        raise InputError(f"epsilon={epsilon!r} must be above 0 and below 1; 0.01 is published")
    if components is None:
        votes = y if variant == "kr-v1" else solve_definite(train.kernel, y)
        vote = LabelVotes(train.kernel, votes)
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
        InputError: For a multiplier below 0, or above 0 where Z̃ is 0 throughout.
    """
    check_multipliers([multiplier])
    if multiplier == 0:
        return LabelAwareKernel(train.kernel, test.kernel, 0.0)
    Z, Z_test = part
    size = float(np.abs(Z).mean())
    if not size > 0:
        raise InputError("the label-aware part is 0 for all training pairs; take another variant")
    scale = float(multiplier * np.abs(train.kernel).mean() / size)
    return LabelAwareKernel(train.kernel + scale * Z, test.kernel + scale * Z_test, scale)


def check_labels(labels: Any) -> Matrix:
    """Return labels −1 and 1 as float64 (n,), both present, or raise ``InputError``."""
    y = np.asarray(labels)
    if y.ndim != 1 or y.dtype.kind not in "iuf":
        raise InputError(f"labels are {y.dtype} of shape {y.shape}; give −1 or 1 an image, (n,)")
    found = np.unique(y)
    if not np.array_equal(found, [-1, 1]):
        raise InputError(
            f"labels hold {len(found)} values ({', '.join(f'{v:g}' for v in found[:4])}"
            f"{', …' if len(found) > 4 else ''}); label-aware kernels are for two classes, −1 and "
            "1: choose a pair of classes"
        )
    return y.astype(np.float64)


def check_pairs(train: Pairs, test: Pairs, n: int) -> None:
    """Raise ``InputError`` unless there are n training images, with themselves and the others."""
    if train.kernel.shape != (n, n):
        raise InputError(f"the kernel has shape {train.kernel.shape}; {n} labels need ({n}, {n})")
    if test.kernel.shape[1] != n:
        raise InputError(
            f"the test kernel has shape {test.kernel.shape}; its columns are the {n} training "
            "images"
        )


def check_variant(variant: str) -> int | None:
    """Return what ``VARIANTS`` says of a variant, or raise ``InputError``."""
    if variant not in VARIANTS:
        raise InputError(
            f"variant={variant!r} is not one of {', '.join(VARIANTS)}"
            + did_you_mean(str(variant), VARIANTS)
        )
    return VARIANTS[variant]


def check_multipliers(multipliers: Any) -> Matrix:
    """Return multipliers as float64 (M,), or raise ``InputError``."""
    tried = np.asarray(multipliers)
    numbers = tried.ndim == 1 and tried.size and tried.dtype.kind in "iuf"
    if not numbers or not np.isfinite(tried).all() or tried.min() < 0:
        raise InputError(
            f"multipliers={multipliers!r} must be finite numbers of at least 0; 0 is the plain "
            "kernel, 0.0005 is published"
        )
    return tried.astype(np.float64)
