"""What the ensemble's spread says about errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.learning.dynamics.checks import check_outputs

QUARTERS = 4


@dataclass(frozen=True, eq=False)
class Spread:
    """How networks of an infinite ensemble differ on images, and how that goes with errors.

    Attributes:
        std: (M,) standard deviation of each output of an image over initialisations.
        disagreement: (M,) share of networks that put the ensemble's second class above its first.
        std_auc: Chance that a wrongly predicted image has the larger ``std`` than a rightly
            predicted one; 0.5 says nothing, None where all or none are right.
        disagreement_auc: The same of ``disagreement``.
        errors: (4,) share of wrong predictions in each quarter of the images, the most agreed
            on first; of fewer images than 4, one for each.
    """

    std: NDArray[np.float64]
    disagreement: NDArray[np.float64]
    std_auc: float | None
    disagreement_auc: float | None
    errors: NDArray[np.float64]


def spread_of(mean: Any, variance: Any, labels: NDArray[np.int64]) -> Spread:
    """Hold the spread of an ensemble against its errors.

    Args:
        mean: (M, K) outputs, K ≥ 2.
        variance: (M,) of each output; outputs of an image are independent.
        labels: (M,) 0..K−1.

    Returns:
        The spread.

    Raises:
        InputError: For shapes that do not fit.
    """
    from scipy.special import ndtr

    f = np.asarray(mean, dtype=np.float64)
    std = np.sqrt(check_outputs(np.asarray(variance)[:, None], (len(f), 1))[:, 0])
    top = np.sort(f, axis=1)
    margin = top[:, -1] - top[:, -2]
    # the difference of two outputs has twice the variance of one
    scale = np.maximum(math.sqrt(2) * std, np.finfo(np.float64).tiny)
    disagreement = ndtr(-margin / scale)
    wrong = f.argmax(axis=1) != labels
    order = np.argsort(-margin / scale, kind="stable")
    errors = np.array(
        [wrong[part].mean() for part in np.array_split(order, min(QUARTERS, len(order)))]
    )
    return Spread(std, disagreement, auc(std, wrong), auc(-margin / scale, wrong), errors)


def auc(scores: NDArray[np.float64], chosen: NDArray[np.bool_]) -> float | None:
    """Return the chance that a chosen item scores above one that is not, ties counted half.

    Args:
        scores: (M,).
        chosen: (M,) bool.

    Returns:
        0 to 1; None where all or none are chosen.

    Source:
        Mann and Whitney 1947.
    """
    from scipy.stats import rankdata

    count = int(chosen.sum())
    if count in (0, len(chosen)):
        return None
    ranks = rankdata(scores)[chosen].sum() - count * (count + 1) / 2
    return float(ranks / (count * (len(chosen) - count)))
