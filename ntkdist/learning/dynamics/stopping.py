"""When to stop: from training images that are held out in turn, never from test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.dynamics.checks import (
    check_folds,
    check_rate,
    check_targets,
    check_time,
)
from ntkdist.learning.dynamics.flow import GradientFlow, squared_loss
from ntkdist.learning.spectrum import dense_square
from ntkdist.linalg import check_ridge


@dataclass(frozen=True, eq=False)
class Stopping:
    """A training time and what held-out training images say about all times.

    Attributes:
        time: Where their mean squared loss is least; the earliest of equals.
        times: (T,) those that were compared.
        losses: (T,) (1/2n) Σ‖f_t(x) − y‖² over held-out images.
        accuracies: (T,) share of them whose largest output is that of the largest target.
        images: How many were held out, all folds together.
    """

    time: float
    times: NDArray[np.float64]
    losses: NDArray[np.float64]
    accuracies: NDArray[np.float64]
    images: int

    @property
    def index(self) -> int:
        """The place of ``time`` in ``times``."""
        return int(np.argmin(self.losses))

    @property
    def gain(self) -> float:
        """Held-out loss at the last of the times less that at the stopping time."""
        return float(self.losses[-1] - self.losses[self.index])


def choose_stopping_time(
    gram: Any,
    targets: Any,
    times: Sequence[float] | NDArray[np.float64],
    *,
    learning_rate: float = 1.0,
    ridge: float = 0.0,
    folds: int = 5,
    rounds: int | None = None,
    seed: int = 0,
    on_fold: Callable[[int, int], None] | None = None,
) -> Stopping:
    """Return the time at which held-out training images are predicted best.

    The images are dealt into folds; each fold in turn is predicted at all times by gradient flow
    on the others, whose part of the Gram is decomposed anew. The loss is a mean over training
    images, so a time means the same for them as for all.

    Args:
        gram: (N, N) NTK Gram of the training images, sliced by rows.
        targets: (N, K) Y.
        times: Those to compare, ascending; end with infinity to hear what stopping gains.
        learning_rate: η.
        ridge: ≥ 0, relative to the mean of the diagonal.
        folds: 2 to N; a fold costs a decomposition of the other images.
        rounds: How many folds take their turn; None is all. 1 is one validation split.
        seed: Of the deal.
        on_fold: Called after each fold with how many are done and how many there are; may raise
            to stop.

    Returns:
        The time and the held-out curves.

    Raises:
        InputError: For a matrix, targets, times or settings that do not fit.
    """
    rate, relative = check_rate(learning_rate), check_ridge(ridge)
    compared = np.array([check_time(t) for t in times])
    if not compared.size or (np.diff(compared) <= 0).any():
        raise InputError(f"times={list(times)!r} must be at least one, each above the one before")
    H = dense_square(gram)
    Y = check_targets(targets, len(H))
    turns = check_folds(folds, rounds, len(H))
    parts = np.array_split(np.random.default_rng(seed).permutation(len(H)), folds)
    losses, right, count = np.zeros(len(compared)), np.zeros(len(compared)), 0
    for done, held in enumerate(parts[:turns], 1):
        rest = np.setdiff1d(np.arange(len(H)), held)
        flow = GradientFlow.of(H[np.ix_(rest, rest)], Y[rest], learning_rate=rate, ridge=relative)
        cross = flow.project(H[np.ix_(held, rest)])
        wanted = Y[held].argmax(axis=1)
        for place, time in enumerate(compared):
            f = flow.test(cross, time)
            losses[place] += len(held) * squared_loss(f, Y[held])
            right[place] += np.count_nonzero(f.argmax(axis=1) == wanted)
        count += len(held)
        if on_fold is not None:
            on_fold(done, turns)
    losses /= count
    return Stopping(float(compared[np.argmin(losses)]), compared, losses, right / count, count)
