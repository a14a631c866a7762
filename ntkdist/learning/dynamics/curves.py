"""Loss and accuracy over training time, and the time at which to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.learning.checks import (
    check_rate,
    check_ridge,
    check_targets,
    check_times,
    check_whole,
)
from ntkdist.learning.dynamics.cross_entropy import CrossEntropyFlow, cross_entropy_loss
from ntkdist.learning.dynamics.flow import GradientFlow, squared_loss
from ntkdist.learning.evaluation import accuracy
from ntkdist.learning.spectrum import dense_square


@dataclass(frozen=True, eq=False)
class CurveLabels:
    """Labels that curves compare outputs with.

    Attributes:
        train: (N,) labels trained on.
        true: (N,) labels before noise was added; None if they are the labels trained on.
        test: (M,) labels of the images that are not trained on.
    """

    train: NDArray[np.int64]
    true: NDArray[np.int64] | None
    test: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Curves:
    """Loss and accuracy over time.

    Attributes:
        times: (T,) t.
        train_loss: (T,) on the training images.
        train_accuracy: (T,) on the training images with the labels trained on.
        true_accuracy: (T,) on the training images with their true labels; None if they are the
            labels trained on.
        test_loss: (T,) on images that are not trained on.
        test_accuracy: (T,) on the same.
    """

    times: NDArray[np.float64]
    train_loss: NDArray[np.float64]
    train_accuracy: NDArray[np.float64]
    true_accuracy: NDArray[np.float64] | None
    test_loss: NDArray[np.float64]
    test_accuracy: NDArray[np.float64]

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the arrays that are not None, by name."""
        return {name: values for name, values in vars(self).items() if values is not None}


def squared_curves(
    flow: GradientFlow,
    projected: NDArray[np.float64],
    labels: CurveLabels,
    targets: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    times: NDArray[np.float64],
) -> Curves:
    """Return the curves of gradient flow on the squared loss.

    Args:
        flow: The dynamics.
        projected: (M, N) ``flow.project`` of the images that are not trained on.
        labels: Labels of all images.
        targets: Function from labels to targets.
        times: (T,) 0 to infinity.

    Returns:
        The curves; losses are (1/2n) Σ‖f − y‖².
    """
    pairs = ((flow.train(t), flow.test(projected, t)) for t in times)
    return _curves(times, pairs, labels, lambda f, y: squared_loss(f, targets(y)))


def cross_entropy_curves(flow: CrossEntropyFlow, cross: Any, labels: CurveLabels) -> Curves:
    """Return the curves of gradient flow on the cross-entropy.

    Args:
        flow: The dynamics.
        cross: (M, N) kernel of the images that are not trained on with the others.
        labels: Labels of all images.

    Returns:
        The curves; losses are (1/n) Σ −log softmax(f)_y.
    """
    K = flow.train.shape[2]
    pairs = zip(flow.train, flow.test(cross), strict=True)
    return _curves(flow.times, pairs, labels, lambda f, y: cross_entropy_loss(f, np.eye(K)[y]))


def _curves(times: Any, pairs: Any, labels: CurveLabels, loss: Callable[..., float]) -> Curves:
    """Return the curves of (train, test) outputs at each time."""
    rows = []
    for f, g in pairs:
        true = np.nan if labels.true is None else accuracy(f, labels.true)
        rows.append(
            (
                loss(f, labels.train), accuracy(f, labels.train), true,
                loss(g, labels.test), accuracy(g, labels.test),
            )
        )  # fmt: skip
    train_loss, train_accuracy, true_accuracy, test_loss, test_accuracy = np.array(rows).T
    return Curves(
        np.asarray(times, dtype=np.float64),
        train_loss,
        train_accuracy,
        None if labels.true is None else true_accuracy,
        test_loss,
        test_accuracy,
    )


@dataclass(frozen=True, eq=False)
class Stopping:
    """A stopping time, and the curves of held-out training images that decide it.

    Attributes:
        time: The time of least held-out loss; the earliest of equals.
        times: (T,) the times that were compared.
        losses: (T,) (1/2n) Σ‖f_t(x) − y‖² over held-out images.
        accuracies: (T,) share of held-out images whose largest output is that of the largest
            target.
        images: Number of held-out images of all folds.
    """

    time: float
    times: NDArray[np.float64]
    losses: NDArray[np.float64]
    accuracies: NDArray[np.float64]
    images: int

    @property
    def index(self) -> int:
        """Index of ``time`` in ``times``."""
        return int(np.argmin(self.losses))


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
    """Return the time of least loss on held-out training images.

    Each fold is predicted at all times by gradient flow on the other folds, whose part of the Gram
    is decomposed again. The loss is a mean over training images, so that a time means the same
    for part of them as for all.

    Args:
        gram: (N, N) NTK Gram of the training images, sliced by rows.
        targets: (N, K) Y.
        times: Times to compare, ascending; with infinity as the last one, the held-out curves
            show what stopping gains.
        learning_rate: η.
        ridge: ≥ 0, relative to the mean of the diagonal.
        folds: Number of folds, 2 to N; each costs a decomposition of the other images.
        rounds: How many of the folds are held out; None is all, 1 a single validation split.
        seed: Seed of the folds.
        on_fold: Called after each fold with the number done and the number of all; may raise to
            stop.

    Returns:
        The time and the held-out curves.

    Raises:
        InputError: For a matrix, targets, times or settings that do not fit.
    """
    rate, relative = check_rate(learning_rate), check_ridge(ridge)
    compared = check_times(times)
    H = dense_square(gram)
    Y = check_targets(targets, len(H))
    folds = check_whole("folds", folds, 2, "each holds at least one image", most=len(H))
    if rounds is None:
        rounds = folds
    check_whole("rounds", rounds, 1, "a fold is held out once at most", most=folds)
    parts = np.array_split(np.random.default_rng(seed).permutation(len(H)), folds)
    losses, right, count = np.zeros(len(compared)), np.zeros(len(compared)), 0
    for done, held in enumerate(parts[:rounds], 1):
        rest = np.setdiff1d(np.arange(len(H)), held)
        flow = GradientFlow.of(H[np.ix_(rest, rest)], Y[rest], learning_rate=rate, ridge=relative)
        cross = flow.project(H[np.ix_(held, rest)])
        classes = Y[held].argmax(axis=1)
        for place, time in enumerate(compared):
            f = flow.test(cross, time)
            losses[place] += len(held) * squared_loss(f, Y[held])
            right[place] += np.count_nonzero(f.argmax(axis=1) == classes)
        count += len(held)
        if on_fold is not None:
            on_fold(done, rounds)
    losses /= count
    return Stopping(float(compared[np.argmin(losses)]), compared, losses, right / count, count)
