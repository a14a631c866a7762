"""How training would go on a run: loss and accuracy at all times, and when to stop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.analyses.dynamics_found import TrainingDynamics, describe_dynamics, store_dynamics
from ntkdist.errors import InputError
from ntkdist.events.types import DynamicsProgress
from ntkdist.pipeline.cross import HeldOut, held_out
from ntkdist.pipeline.stages import Pipeline

if TYPE_CHECKING:
    from ntkdist.learning.dynamics import GradientFlow, Stopping
    from ntkdist.learning.dynamics.curves import Answers, Curves
    from ntkdist.learning.dynamics.spread import Spread

__all__ = ["TrainingDynamics", "describe_dynamics", "find_dynamics"]

# Matrices of N × N and of M × N float64 that are held at the same time.
_SQUARE, _WIDE = 5, 3
# The cross-entropy is followed for this many times the first time constant, at most.
_LONGEST = 1e5
# From so many images on, one validation split of the five folds takes its turn.
_MOST_FOLDED = 2500


def find_dynamics(
    pipeline: Pipeline,
    *,
    cross_entropy: bool = False,
    learning_rate: float | None = None,
    ridge: float = 0.0,
    times: int = 60,
    folds: int = 5,
    seed: int = 0,
) -> TrainingDynamics:
    """Follow training on a run's labels from beginning to end, without training.

    The images to predict are those that the configuration's ``predict`` names; their labels are
    reported, never used to choose. Missing tiles are computed first. Results go into dynamics/ of
    the run, with a picture in dynamics.svg.

    Args:
        pipeline: Of a run.
        cross_entropy: Whether the cross-entropy is followed as well.
        learning_rate: η; None takes N/λ_max, half of what gradient descent bears.
        ridge: ≥ 0, relative to the mean of the diagonal: a pull back to the beginning.
        times: How many points in time, 3 or more.
        folds: Parts of the training images that are held out in turn to choose the stopping
            time; of more than 2500 images one part only.
        seed: Of that deal.

    Returns:
        What was found.

    Raises:
        InputError: For settings that do not fit, or more images than the memory limit holds.
    """
    from ntkdist.learning.dynamics import GradientFlow, log_times
    from ntkdist.learning.dynamics.checks import check_count, check_folds, check_rate
    from ntkdist.learning.dynamics.curves import squared_curves
    from ntkdist.learning.spectrum import check_ridge
    from ntkdist.learning.targets import targets_of

    held = held_out(pipeline)
    K = held.num_classes
    if K < 2:
        raise InputError("the run has one class: there is nothing to learn; give images of two")
    # before hours of tiles
    check_ridge(ridge)
    check_folds(folds, None, len(held.train))
    if learning_rate is not None:
        check_rate(learning_rate)
    check_count(times)
    _check_size(pipeline, held, 2 * times * K if cross_entropy else 0)
    pipeline.gram()
    cross = held.cross("ntk")
    gram = held.gram("ntk")
    answers = _answers(pipeline, held)
    with pipeline.stage("spectrum") as detail:
        flow = GradientFlow.of(
            gram,
            targets_of(held.train_labels, K),
            learning_rate="auto" if learning_rate is None else learning_rate,
            ridge=ridge,
        )
        projected = flow.project(cross)
        detail.append(f"{flow.images} eigenvalues")
    at = log_times(flow, times)
    stopping = _stopping(pipeline, gram, flow, held, at, ridge, folds, seed)
    with pipeline.stage("curves") as detail:
        squared = squared_curves(flow, projected, answers, lambda y: targets_of(y, K), at)
        detail.append(f"{len(at)} times")
    found = TrainingDynamics(
        how=held.how,
        trained_on=flow.images,
        tested_on=len(held.labels),
        learning_rate=flow.learning_rate,
        largest_stable_rate=flow.largest_stable_rate,
        ridge=float(ridge),
        squared=squared,
        cross_entropy=_cross_entropy(pipeline, gram, cross, flow, answers, at)
        if cross_entropy
        else None,
        stopping=stopping,
        eigenvalues=flow.spectrum.values,
        time_constants=flow.time_constants,
        energy=flow.energy,
        spread=_spread(pipeline, held, flow, projected, stopping.time),
        unsettled=_unsettled(pipeline, flow),
        place=pipeline.run.url,
    )
    store_dynamics(pipeline.run, found)
    return found


def _unsettled(pipeline: Pipeline, flow: GradientFlow) -> int:
    shifted = flow.spectrum.values + flow.ridge
    rounding = np.finfo(pipeline.config.gram.dtype).eps * shifted[0]
    return int((shifted <= rounding).sum())


def _check_size(pipeline: Pipeline, held: HeldOut, columns: int) -> None:
    """Refuse what the memory limit does not hold; ``columns`` are numbers an image beside it."""
    from ntkdist.linalg import parse_memory

    n, m, text = len(held.train), len(held.labels), pipeline.config.factor.memory_limit
    limit = parse_memory(text)
    beside = _WIDE * m + columns
    needed = 8 * n * (_SQUARE * n + beside)
    if needed > limit:
        # n that solves 8n(5n + beside) = limit
        fits = (np.sqrt(beside**2 + 4 * _SQUARE * limit / 8) - beside) / (2 * _SQUARE)
        raise InputError(
            f"{n} images need {needed / 2**30:.1f} GiB for all eigenvectors, factor.memory_limit "
            f"is {text}; begin a run of at most {int(fits)} images (--data.n), or raise the limit"
        )


def _answers(pipeline: Pipeline, held: HeldOut) -> Answers:
    from ntkdist.learning.dynamics.curves import Answers

    run, true = pipeline.run, None
    if run.has("inputs", "labels_true"):
        true = run.read("inputs", "labels_true")[held.train]
        if np.array_equal(true, held.train_labels):
            true = None
    return Answers(held.train_labels, true, held.labels)


def _stopping(
    pipeline: Pipeline,
    gram: Any,
    flow: GradientFlow,
    held: HeldOut,
    at: NDArray[np.float64],
    ridge: float,
    folds: int,
    seed: int,
) -> Stopping:
    from ntkdist.learning.dynamics import choose_stopping_time
    from ntkdist.learning.targets import targets_of

    with pipeline.stage("stopping time") as detail:
        began = time.monotonic()
        found = choose_stopping_time(
            gram,
            targets_of(held.train_labels, held.num_classes),
            at,
            learning_rate=flow.learning_rate,
            ridge=ridge,
            folds=folds,
            rounds=None if flow.images <= _MOST_FOLDED else 1,
            seed=seed,
            on_fold=lambda done, turns: pipeline.forward(
                DynamicsProgress("stopping time", done / turns, time.monotonic() - began)
            ),
        )
        detail.append(f"t = {found.time:.3g} by {found.images} images held out in turn")
    return found


def _cross_entropy(
    pipeline: Pipeline,
    gram: Any,
    cross: Any,
    flow: GradientFlow,
    answers: Answers,
    at: NDArray[np.float64],
) -> Curves:
    from ntkdist.learning.dynamics.cross_entropy import cross_entropy_flow
    from ntkdist.learning.dynamics.curves import cross_entropy_curves

    longest = _LONGEST * float(flow.time_constants[0])
    finite = at[at <= longest]

    def tell(now: float, products: int) -> None:
        fraction = float(np.log1p(now / finite[1]) / np.log1p(finite[-1] / finite[1]))
        pipeline.forward(DynamicsProgress("cross-entropy", fraction, time.monotonic() - began))

    with pipeline.stage("cross-entropy") as detail:
        began = time.monotonic()
        found = cross_entropy_flow(
            gram,
            np.eye(flow.distances.shape[1])[answers.train],
            finite,
            learning_rate=flow.learning_rate,
            on_step=tell,
        )
        detail.append(f"to t = {found.times[-1]:.3g} in {found.products} products")
        return cross_entropy_curves(found, cross, answers)


def _spread(
    pipeline: Pipeline,
    held: HeldOut,
    flow: GradientFlow,
    projected: NDArray[np.float64],
    time: float,
) -> Spread | None:
    """Return the ensemble's spread at a time, or None where the run has no NNGP kernel."""
    from ntkdist.learning.dynamics import Ensemble
    from ntkdist.learning.dynamics.spread import spread_of

    if "nngp" not in pipeline.config.gram.kinds:
        return None
    with pipeline.stage("ensemble") as detail:
        ensemble = Ensemble.of(flow, held.gram("nngp"))
        nngp = flow.project(held.cross("nngp"))
        variance = ensemble.test_variance(projected, nngp, held.diagonal("nngp"), time)
        detail.append(f"spread of {len(variance)} predictions at t = {time:.3g}")
        return spread_of(flow.test(projected, time), variance, held.labels)
