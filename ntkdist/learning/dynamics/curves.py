"""Loss and accuracy over time, of training images and of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.learning.dynamics.cross_entropy import CrossEntropyFlow, cross_entropy_loss
from ntkdist.learning.dynamics.flow import GradientFlow, squared_loss
from ntkdist.learning.evaluation import accuracy


@dataclass(frozen=True, eq=False)
class Answers:
    """What outputs are held against.

    Attributes:
        train: (N,) labels trained on.
        true: (N,) labels before noise was put on; None where they are those trained on.
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
        train_accuracy: (T,) share of the labels trained on that are met.
        true_accuracy: (T,) share of the training images' true labels that are met; None where
            they are those trained on.
        test_loss: (T,) on images that are not trained on.
        test_accuracy: (T,) share of their labels that is met.
    """

    times: NDArray[np.float64]
    train_loss: NDArray[np.float64]
    train_accuracy: NDArray[np.float64]
    true_accuracy: NDArray[np.float64] | None
    test_loss: NDArray[np.float64]
    test_accuracy: NDArray[np.float64]

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return those that are there, by name."""
        return {name: values for name, values in vars(self).items() if values is not None}


def squared_curves(
    flow: GradientFlow,
    projected: NDArray[np.float64],
    answers: Answers,
    targets: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    times: NDArray[np.float64],
) -> Curves:
    """Return the curves of gradient flow on the squared loss.

    Args:
        flow: The dynamics.
        projected: (M, N) ``flow.project`` of the images that are not trained on.
        answers: Labels.
        targets: Turns labels into targets.
        times: (T,) 0 to infinity.

    Returns:
        The curves; losses are (1/2n) Σ‖f − y‖².
    """
    pairs = ((flow.train(t), flow.test(projected, t)) for t in times)
    return _curves(times, pairs, answers, lambda f, y: squared_loss(f, targets(y)))


def cross_entropy_curves(flow: CrossEntropyFlow, cross: Any, answers: Answers) -> Curves:
    """Return the curves of gradient flow on the cross-entropy.

    Args:
        flow: The dynamics.
        cross: (M, N) kernel of the images that are not trained on with the others.
        answers: Labels.

    Returns:
        The curves; losses are (1/n) Σ −log softmax(f)_y.
    """
    K = flow.train.shape[2]
    pairs = zip(flow.train, flow.test(cross), strict=True)
    return _curves(flow.times, pairs, answers, lambda f, y: cross_entropy_loss(f, np.eye(K)[y]))


def _curves(times: Any, pairs: Any, answers: Answers, loss: Callable[..., float]) -> Curves:
    """Measure (train, test) outputs of each time."""
    rows = []
    for f, g in pairs:
        true = np.nan if answers.true is None else accuracy(f, answers.true)
        rows.append(
            (
                loss(f, answers.train), accuracy(f, answers.train), true,
                loss(g, answers.test), accuracy(g, answers.test),
            )
        )  # fmt: skip
    train_loss, train_accuracy, true_accuracy, test_loss, test_accuracy = np.array(rows).T
    return Curves(
        np.asarray(times, dtype=np.float64),
        train_loss,
        train_accuracy,
        None if answers.true is None else true_accuracy,
        test_loss,
        test_accuracy,
    )
