"""Label-aware kernels: the NTK plus a small part that knows the training labels.

K = H + λZ̃ with λ = r · mean|H|/mean|Z̃| over the training pairs, for two classes. What Z̃(x, x')
says is whether the labels of x and x' are likely to agree, as a function of their pair alone: of
its kernel entry by a weighted vote of all training pairs (KR), or of ten or twenty features by
least squares over them, sketched (FJLT). Labels of test images are never read.

Two classes only, labels −1 and 1: more are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.label_aware.choice import (
    MULTIPLIERS,
    MultiplierChoice,
    choose_multiplier,
)
from ntkdist.learning.label_aware.classify import (
    least_ridge,
    local_elasticity,
    solve_symmetric,
    with_ridge,
)
from ntkdist.learning.label_aware.kernel import (
    EPSILON,
    check_labels,
    label_aware_kernel,
    label_part,
)
from ntkdist.learning.label_aware.pairs import Pairs


@dataclass(frozen=True, eq=False)
class LabelAware:
    """What kernel regression with a label-aware kernel predicts.

    Attributes:
        variant: Which.
        multiplier: r.
        scale: λ.
        ridge: What the plain kernel needed to be positive definite, relative to the mean of its
            diagonal; mostly 0.
        definite: Whether the label-aware kernel is positive definite.
        values: (m,) float64, above 0 where label 1 is predicted.
        elasticity: Local elasticity of the kernel over the training images; None where it
            is not defined, as the diagonal or the means are not above 0.
        choice: What cross-validation measured; None where the multiplier was given.
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

    No ridge, unless rounding has the plain kernel need one. The label-aware kernel need not be
    positive definite; as in the authors' script, it is solved with all the same.

    Args:
        train: (n, n) pairs of the training images with themselves.
        labels: (n,) their labels, −1 or 1.
        test: (m, n) pairs of the test images with them.
        variant: ``kr-v1``, ``kr-v2``, ``fjlt-v1`` or ``fjlt-v2``.
        multiplier: r; 0 is the plain kernel. None chooses it by cross-validation.
        multipliers: Those to choose from.
        folds: Parts of the cross-validation.
        epsilon: ε of FJLT's sketch.
        seed: Decides folds and sketches.

    Returns:
        The predictions and how they were made.

    Raises:
        InputError: For labels of other than two classes, pairs or settings that do not fit, or a
            multiplier that leaves a singular kernel.

    Source:
        Chen, He and Su 2020.
    """
    y = check_labels(labels)
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
    solved = solve_symmetric(used, y)
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
        definite=solved.definite,
        values=kernel.test @ solved.solution,
        elasticity=_elasticity(used, y),
        choice=choice,
    )


def _elasticity(kernel: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    try:
        return local_elasticity(kernel, y)
    except InputError:  # a label-aware kernel need not have one
        return None
