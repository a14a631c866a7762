"""Active learning simulated on a run: which images to label next, and how few labels suffice."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntkdist import words
from ntkdist.analyses import (
    Analysis,
    ReportSection,
    numbered,
    panel,
    store_result,
    stored_results,
)
from ntkdist.display.svg import FONT_SIZE, svg_file
from ntkdist.display.words import counted, percent
from ntkdist.errors import InputError
from ntkdist.events.types import LabelsAsked
from ntkdist.pipeline.stages import Pipeline
from ntkdist.runs.run import Run

if TYPE_CHECKING:
    from ntkdist.learning.active import Learner, Round

# (pool, held-out images, seed) → what is trained on some of the pool
_Make: TypeAlias = "Callable[[NDArray[np.int64], NDArray[np.int64], int], Learner]"

# The criteria compared by default; entropy is compared where it is named.
COMPARED = ("mlmoc", "emoc", "eer", "margin", "random")
_BASELINE = "random"  # drawn in black


@dataclass(frozen=True, eq=False)
class LookaheadResult:
    """Accuracy over the number of labels, for each criterion that chooses the images.

    Attributes:
        model: That was trained, in words.
        counts: (R+1,) labelled images.
        accuracy: Criterion → (seeds, R+1) share of held-out images that are right.
        pool: How many images could be labelled.
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
        """Return the mean accuracy of a criterion less that of ``random``; None without it."""
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
) -> LookaheadResult:
    """Reveal the run's labels a few at a time and measure the accuracy after each query.

    For each seed a share of the images is held out, and the labels of the others are revealed as
    the criterion asks for them. The model is kernel regression with the run's Gram and ridge;
    with ``empirical`` it is a network of the run's architecture, trained anew after each query,
    and its own tangent kernel is used to look ahead. The figures go into lookahead/accuracy of
    the run, with a picture in lookahead.svg.

    Args:
        pipeline: Of a run; missing tiles of its Gram are computed first.
        criteria: Some of ``ntkdist.learning.active.CRITERIA``.
        start: Images labelled at first, drawn at random.
        rounds: Queries.
        count: Images of a query.
        seeds: How many splits and first draws, from 0.
        share: Of the images, held out.
        most: Of larger runs so many images are drawn, with seed 0: the time of a query grows with
            their square.
        picks: ``greedy`` or ``top``, as for ``query``.
        empirical: Whether networks are trained instead.
        width: Of the networks.

    Raises:
        InputError: For settings that do not fit the run.
    """
    from ntkdist.checks import check_choice
    from ntkdist.learning.active import CRITERIA, active_learning

    asked = list(dict.fromkeys(criteria))
    for name in asked:
        check_choice("criterion", name, CRITERIA)
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
    accuracy: dict[str, list[NDArray[np.float64]]] = {name: [] for name in asked}
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
                accuracy[name].append(curve.accuracy)
        detail.append(f"{', '.join(asked)}; seeds 0 to {seeds - 1}")
    result = LookaheadResult(
        model=f"networks of width {width}" if empirical else "kernel regression",
        counts=curve.counts,
        accuracy={name: np.stack(rows) for name, rows in accuracy.items()},
        pool=len(sample) - test_count,
        held_out=test_count,
        place=run.url,
    )
    settings = {
        **{"criteria": asked, "start": start, "rounds": rounds, "count": count, "seeds": seeds},
        **{"share": share, "most": most, "picks": picks, "model": result.model},
    }
    _store(run, result, settings)
    return result


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


def _store(run: Run, result: LookaheadResult, settings: Mapping[str, Any]) -> None:
    gains = {name: result.gain(name) for name in result.accuracy}
    store_result(
        run,
        "lookahead",
        settings,
        {"accuracy": np.stack(list(result.accuracy.values())), "counts": result.counts},
        {
            "criteria": list(result.accuracy),
            "model": result.model,
            "pool": result.pool,
            "held_out": result.held_out,
            "gain_over_random": gains,
        },
    )
    seeds = len(next(iter(result.accuracy.values())))
    small = FONT_SIZE - 3
    with svg_file(run.address("lookahead.svg"), 6.2, 4.2) as figure:
        axes = figure.add_subplot()
        _plot_curves(axes, result.accuracy, result.counts, small)
        title = f"{result.model}, mean and range of seeds 0 to {seeds - 1}"
        axes.set_title(title, fontsize=small)


def describe_active_learning(result: LookaheadResult) -> str:
    """Return what the command prints: one line a criterion, the best mean accuracy first."""
    counts = result.counts
    lines = [
        f"{result.model}: {counts[0]} to {counts[-1]} labels of {result.pool} images, "
        f"{result.held_out} held out"
    ]
    order = sorted(result.accuracy, key=lambda name: -result.accuracy[name][:, 1:].mean())
    wide = max(map(len, order))
    for name in order:
        accuracy = result.accuracy[name]
        mean, last = accuracy[:, 1:].mean(), accuracy[:, -1].mean()
        line = f"{name:<{wide}}  mean {words.percent(mean, 2)}, last {words.percent(last, 2)}"
        gain = result.gain(name)
        if gain is not None and name != "random":
            line += f", {100 * gain:+.2f} points over random"
        lines.append(line)
    lines.append("picture lookahead.svg in the run")
    return "\n".join(lines)


def _plot_curves(
    axes: Any,
    curves: Mapping[str, NDArray[np.float64]],
    counts: NDArray[np.int64],
    small: float,
) -> None:
    """Draw mean and range of the accuracies (seeds, R+1) of each criterion over ``counts``."""
    from matplotlib.ticker import MaxNLocator

    others = [name for name in curves if name != _BASELINE]
    for name, accuracy in curves.items():
        color = "black" if name == _BASELINE else f"C{others.index(name)}"
        shown = 100 * accuracy
        axes.plot(counts, shown.mean(axis=0), "o-", color=color, ms=3, lw=1.4, label=name)
        axes.fill_between(
            counts, shown.min(axis=0), shown.max(axis=0), color=color, alpha=0.12, lw=0
        )
    axes.set_xlabel("labelled images", fontsize=small)
    axes.set_ylabel("held-out images that are right, %", fontsize=small)
    axes.tick_params(labelsize=small)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.legend(fontsize=small, frameon=False, loc="lower right")


def _sections(run: Run) -> list[ReportSection]:
    """Read the accuracy that the labels asked for by each criterion give."""
    results = stored_results(run, "lookahead", "criteria", "model", "pool", "held_out")
    return numbered([_section(run, group, kept) for group, kept in results])


def _section(run: Run, group: str, kept: Mapping[str, Any]) -> ReportSection:
    name = group.replace("/", "-")
    accuracy, counts = run.read(group, "accuracy"), run.read(group, "counts")
    curves = dict(zip(kept["criteria"], accuracy, strict=True))
    last = {criterion: float(values[:, -1].mean()) for criterion, values in curves.items()}
    best = max(last, key=lambda criterion: last[criterion])
    sentence = (
        f"With {counted(int(counts[-1]), 'label')} chosen by {best}, {kept['model']} is right "
        f"about {percent(last[best])} of {counted(kept['held_out'], 'held-out image')}"
    )
    if _BASELINE in last and best != _BASELINE:
        sentence += f"; with as many drawn at random, about {percent(last[_BASELINE])}"
    listed = ", ".join(f"{key} {percent(value)}" for key, value in last.items())
    alt = f"Accuracy over labels asked for; at the end {listed}."
    svg = panel(f"{name}-curves", alt, _plot_curves, curves, counts, height=330)
    caption = "Mean and range over draws of the first labels; black: at random."
    title = "Which images to label next"
    return ReportSection(name, title, (f"{sentence}.",), (), ((svg, caption),))


ANALYSIS = Analysis(
    command="lookahead",
    question="Which images should be labelled next?",
    place=6,
    sections=_sections,
)
