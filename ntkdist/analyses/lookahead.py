"""Active learning simulated on a run: how few labels its images would have needed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.errors import InputError
from ntkdist.events.types import LabelsAsked
from ntkdist.pipeline.stages import Pipeline

if TYPE_CHECKING:
    from ntkdist.learning.active import Learner, Round

# (pool, held-out images, seed) → what is trained on some of the pool
_Make: TypeAlias = "Callable[[NDArray[np.int64], NDArray[np.int64], int], Learner]"

# What the default compares; entropy is there for the asking.
COMPARED = ("mlmoc", "emoc", "eer", "margin", "random")


@dataclass(frozen=True, eq=False)
class ActiveLearning:
    """Accuracy over labels, for each way of asking for them.

    Attributes:
        model: What was trained, in words.
        counts: (R+1,) labelled images.
        accuracy: Criterion → (seeds, R+1) share of held-out images that are right.
        pool: Images that could be asked for.
        held_out: Images that accuracy is measured on.
        place: The run.
    """

    model: str
    counts: NDArray[np.int64]
    accuracy: dict[str, NDArray[np.float64]]
    pool: int
    held_out: int
    place: str

    def gain(self, criterion: str) -> float | None:
        """Return the mean accuracy over queries and seeds, less that of ``random``, if it is there.

        Args:
            criterion: One of those compared.

        Returns:
            The difference; None without ``random``.
        """
        if "random" not in self.accuracy:
            return None
        return float((self.accuracy[criterion] - self.accuracy["random"])[:, 1:].mean())


def simulate_active_learning(
    pipeline: Pipeline,
    *,
    criteria: Sequence[str] = COMPARED,
    start: int = 50,
    rounds: int = 10,
    count: int = 10,
    seeds: int = 3,
    share: float = 0.25,
    most: int = 3000,
    picks: str = "greedy",
    empirical: bool = False,
    width: int = 128,
) -> ActiveLearning:
    """Ask for the run's labels a few at a time and measure what they teach.

    For each seed a share of the images is held out, and the labels of the others are told as they
    are asked for. The model is kernel regression with the run's Gram and ridge; with
    ``empirical`` it is a network of the run's architecture, trained anew after each query, whose
    own tangent kernel looks ahead. The figures go into lookahead/accuracy of the run,
    with a picture in lookahead.svg.

    Args:
        pipeline: Of a run; missing tiles of its Gram are computed first.
        criteria: Some of ``ntkdist.learning.active.CRITERIA``.
        start: Images labelled at first, drawn at random.
        rounds: Queries.
        count: Images of a query.
        seeds: How many splits and first draws, from 0.
        share: Of the images, held out.
        most: Of larger runs as many images are drawn, by seed 0: a query costs their square.
        picks: ``greedy`` or ``top``, as for ``query``.
        empirical: Train networks instead.
        width: Of the networks.

    Returns:
        The curves.

    Raises:
        InputError: For settings that do not fit the run.
    """
    from ntkdist.learning.active import active_learning, check_criterion

    asked = list(dict.fromkeys(check_criterion(name) for name in criteria))
    if not asked:
        raise InputError(f"no criterion to compare; give some of {', '.join(COMPARED)}")
    if not 0 < share < 1:
        raise InputError(f"share={share} must lie between 0 and 1, such as 0.25")
    for name, value, least in (("seeds", seeds, 1), ("most", most, 4), ("width", width, 1)):
        if value < least:
            raise InputError(f"{name}={value} must be at least {least}")
    run = pipeline.run
    labels = run.read("inputs", "labels")
    order = np.random.default_rng(0).permutation(len(labels))
    sample = np.sort(order[:most])
    test_count = min(max(1, round(share * len(sample))), len(sample) - 1)
    make = _networks(pipeline, sample, width) if empirical else _regressions(pipeline, sample)
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in asked}
    with pipeline.stage("lookahead") as detail:
        for seed in range(seeds):
            parted = np.random.default_rng(seed).permutation(len(sample))
            test, pool = np.sort(parted[:test_count]), np.sort(parted[test_count:])
            learner = make(pool, test, seed)
            for name in asked:
                curve = active_learning(
                    learner,
                    labels[sample[pool]],
                    labels[sample[test]],
                    criterion=name,
                    start=start,
                    rounds=rounds,
                    count=count,
                    picks=picks,
                    seed=seed,
                    on_round=functools.partial(_tell, pipeline, seed),
                )
                found[name].append(curve.accuracy)
        detail.append(f"{', '.join(asked)}; seeds 0 to {seeds - 1}")
    result = ActiveLearning(
        model=f"networks of width {width}" if empirical else "kernel regression",
        counts=curve.counts,
        accuracy={name: np.stack(rows) for name, rows in found.items()},
        pool=len(sample) - test_count,
        held_out=test_count,
        place=run.url,
    )
    _store(pipeline, result)
    return result


def describe_active_learning(found: ActiveLearning) -> str:
    """Return what the command prints: one line a criterion, the best mean accuracy first."""
    counts = found.counts
    lines = [
        f"{found.model}: {counts[0]} to {counts[-1]} labels of {found.pool} images, "
        f"{found.held_out} held out"
    ]
    order = sorted(found.accuracy, key=lambda name: -found.accuracy[name][:, 1:].mean())
    wide = max(map(len, order))
    for name in order:
        accuracy = found.accuracy[name]
        line = (
            f"{name:<{wide}}  mean {accuracy[:, 1:].mean():.2%}, last {accuracy[:, -1].mean():.2%}"
        )
        gain = found.gain(name)
        if gain is not None and name != "random":
            line += f", {100 * gain:+.2f} points over random"
        lines.append(line)
    lines.append("picture lookahead.svg in the run")
    return "\n".join(lines)


def _regressions(pipeline: Pipeline, sample: NDArray[np.int64]) -> _Make:
    from ntkdist.learning.active import KernelLearner
    from ntkdist.linalg import submatrix

    pipeline.gram()
    H = submatrix(pipeline.gram_store(), sample, sample)
    ridge, K = pipeline.ridge(), pipeline.run.num_classes

    def make(pool: NDArray[np.int64], test: NDArray[np.int64], seed: int) -> Learner:
        return KernelLearner(H[np.ix_(pool, pool)], H[np.ix_(test, pool)], K, ridge=ridge)

    return make


def _networks(pipeline: Pipeline, sample: NDArray[np.int64], width: int) -> _Make:
    from ntkdist.learning.active import NetworkLearner

    run = pipeline.run
    images = run.read("inputs", "images")[sample]

    def make(pool: NDArray[np.int64], test: NDArray[np.int64], seed: int) -> Learner:
        return NetworkLearner(
            run.architecture, images[pool], images[test], run.num_classes, width=width, seed=seed
        )

    return make


def _tell(pipeline: Pipeline, seed: int, one: Round) -> None:
    pipeline.forward(LabelsAsked(one.criterion, seed, one.number, one.labelled, one.accuracy))


def _store(pipeline: Pipeline, found: ActiveLearning) -> None:
    from ntkdist.analyses.lookahead_plot import draw_active_learning

    run = pipeline.run
    run.write("lookahead/accuracy", np.stack(list(found.accuracy.values())))
    run.write("lookahead/counts", found.counts)
    gains = {name: found.gain(name) for name in found.accuracy}
    run.write_attributes(
        "lookahead",
        {
            "criteria": list(found.accuracy),
            "model": found.model,
            "pool": found.pool,
            "held_out": found.held_out,
            "gain_over_random": gains,
        },
    )
    seeds = len(next(iter(found.accuracy.values())))
    title = f"{found.model}, mean and range of seeds 0 to {seeds - 1}"
    with storage.writing(run.address("lookahead.svg")) as path:
        draw_active_learning(found.accuracy, found.counts, title, path)
