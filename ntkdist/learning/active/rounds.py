"""The rounds of active learning: train, measure, ask."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.active.learners import Fitted, Learner
from ntkdist.learning.checks import check_labels, check_whole

# this purpose of a seed, beside the rounds' own
_START = 13


@dataclass(frozen=True)
class Round:
    """What is told after each training.

    Attributes:
        criterion: What chose the labelled images.
        number: 0 for the first images, then the queries made.
        labelled: How many images are labelled.
        accuracy: Share of the test labels that are met.
        seconds: Of choosing the last query and training on it.
    """

    criterion: str
    number: int
    labelled: int
    accuracy: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Curve:
    """Active learning under one criterion.

    Attributes:
        criterion: What chose the images.
        counts: (R+1,) labelled images of each training.
        accuracy: (R+1,) of each on the test images.
        chosen: (start + R·count,) places in the pool, in the order in which they were labelled.
        query_seconds: (R,) of choosing.
        fit_seconds: (R+1,) of training and prediction.
    """

    criterion: str
    counts: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    chosen: NDArray[np.int64]
    query_seconds: NDArray[np.float64]
    fit_seconds: NDArray[np.float64]


def run_rounds(
    learner: Learner,
    labels: Any,
    test_labels: Any,
    choose: Callable[[Fitted, NDArray[np.int64], int], NDArray[np.int64]],
    criterion: str,
    start: int,
    rounds: int,
    count: int,
    seed: int,
    on_round: Callable[[Round], None] | None,
) -> Curve:
    """Run ``active_learning`` with what chooses among the unlabelled images.

    Args:
        learner: What is trained.
        labels: (N,) of the pool.
        test_labels: (T,).
        choose: (model, unlabelled places in the pool, number of the round) → places among these.
        criterion: Its name.
        start: Images labelled at first.
        rounds: Queries.
        count: Images of a query.
        seed: Draws the first images.
        on_round: Called after each training.

    Returns:
        The accuracies and what was asked for.

    Raises:
        InputError: For settings or labels that do not fit.
    """
    y = check_labels(labels, learner.count, learner.num_classes).astype(np.int64)
    y_test = check_labels(test_labels, learner.test_count, learner.num_classes)
    for name, value in (("start", start), ("rounds", rounds), ("count", count)):
        check_whole(name, value, 1, "give a whole number of images, or of rounds")
    check_whole("seed", seed, 0, "give a whole number of at least 0")
    needed = start + rounds * count
    if needed > learner.count:
        raise InputError(
            f"start={start} and rounds={rounds} of count={count} ask for {needed} of a pool of "
            f"{learner.count} images; lower one of them"
        )
    order = np.random.default_rng([seed, _START]).permutation(learner.count)
    chosen = order[:start]
    accuracy, query_seconds, fit_seconds = [], [], []
    asking = 0.0
    for number in range(rounds + 1):
        began = time.perf_counter()
        fitted = learner.fit(chosen, y[chosen])
        accuracy.append(float(np.mean(fitted.test_outputs.argmax(axis=1) == y_test)))
        fit_seconds.append(time.perf_counter() - began)
        if on_round is not None:
            on_round(Round(criterion, number, len(chosen), accuracy[-1], asking + fit_seconds[-1]))
        if number < rounds:
            began = time.perf_counter()
            unlabelled = np.setdiff1d(np.arange(learner.count), chosen)
            asked = choose(fitted, unlabelled, number + 1)
            chosen = np.concatenate([chosen, unlabelled[asked]])
            asking = time.perf_counter() - began
            query_seconds.append(asking)
    return Curve(
        criterion=criterion,
        counts=start + count * np.arange(rounds + 1),
        accuracy=np.array(accuracy),
        chosen=chosen,
        query_seconds=np.array(query_seconds),
        fit_seconds=np.array(fit_seconds),
    )
