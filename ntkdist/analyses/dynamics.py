"""How training would go on a run: loss and accuracy at all times, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    which_images,
)
from ntkdist.display.svg import FONT_SIZE, svg_file
from ntkdist.display.words import count, counted, number, percent
from ntkdist.errors import InputError
from ntkdist.events.types import DynamicsProgress
from ntkdist.pipeline.cross import HeldOut, held_out
from ntkdist.pipeline.stages import Pipeline
from ntkdist.runs.run import Run

if TYPE_CHECKING:
    from ntkdist.learning.dynamics import CurveLabels, Curves, GradientFlow, Spread, Stopping

# Matrices of N × N and of M × N float64 that are held at the same time.
_SQUARE, _WIDE = 5, 3
# The cross-entropy is followed for this many times the first time constant, at most.
_LONGEST = 1e5
# From so many images on, one validation split takes the place of the folds.
_MOST_FOLDED = 2500
_LISTED = 8  # eigenvectors that the command prints
_STOP = "C3"
_MOST_DOTS = 1000  # more make the file large and cannot be told apart


@dataclass(frozen=True, eq=False)
class DynamicsResult:
    """What the kernel says about training on a run's images.

    Attributes:
        how: Which images test curves are of: ``test``, ``rest`` or ``holdout``.
        trained_on: N.
        tested_on: M.
        learning_rate: η, the unit in which times are counted.
        largest_stable_rate: From which on gradient descent diverges.
        ridge: Relative to the mean of the Gram's diagonal.
        squared: Curves of the squared loss, at times from 0 to infinity.
        cross_entropy: Curves of the cross-entropy, at finite times; None where not asked for.
        stopping: The stopping time by held-out training images, from the times of ``squared``.
        eigenvalues: (N,) of the Gram, descending.
        time_constants: (N,) N/(η(λ + ρ)).
        energy: (N,) share of each eigenvector in the targets.
        spread: Of the infinite ensemble at the stopping time; None without the NNGP kernel.
        unsettled: How many eigenvalues, ridge included, lie within the rounding of the Gram's
            entries: what is learned along them is noise.
        place: The run.
    """

    how: str
    trained_on: int
    tested_on: int
    learning_rate: float
    largest_stable_rate: float
    ridge: float
    squared: Curves
    cross_entropy: Curves | None
    stopping: Stopping
    eigenvalues: NDArray[np.float64] = field(repr=False)
    time_constants: NDArray[np.float64] = field(repr=False)
    energy: NDArray[np.float64] = field(repr=False)
    spread: Spread | None
    unsettled: int
    place: str

    def learned_at(self, time: float) -> int:
        """Return how many eigenvectors are learned to at least 1 − 1/e at a time."""
        return int((self.time_constants <= time).sum())


def find_dynamics(
    pipeline: Pipeline,
    *,
    cross_entropy: bool = False,
    learning_rate: float | None = None,
    ridge: float = 0.0,
    times: int = 60,
    folds: int = 5,
    seed: int = 0,
) -> DynamicsResult:
    """Follow training on a run's labels from beginning to end, without training.

    The images to predict are those that the configuration's ``predict`` names; their labels are
    reported, never used to choose. Missing tiles are computed first. Results go into dynamics/ of
    the run, with a picture in dynamics.svg.

    Args:
        pipeline: Of a run.
        cross_entropy: Whether the cross-entropy is followed as well.
        learning_rate: η; None takes N/λ_max, half of the largest stable rate.
        ridge: ≥ 0, relative to the mean of the diagonal: a pull towards the initial function.
        times: How many points in time, 3 or more.
        folds: Parts of the training images that are held out in turn to choose the stopping
            time; of more than 2500 images one part only.
        seed: Of the folds.

    Raises:
        InputError: For settings that do not fit, or more images than the memory limit holds.
    """
    from ntkdist.checks import check_whole
    from ntkdist.learning import targets_of
    from ntkdist.learning.checks import check_rate
    from ntkdist.learning.dynamics import GradientFlow, log_times, squared_curves
    from ntkdist.linalg import check_ridge

    held = held_out(pipeline)
    K = held.num_classes
    if K < 2:
        raise InputError("the run has one class: there is nothing to learn; give images of two")
    # before hours of tiles
    check_ridge(ridge)
    check_whole("folds", folds, 2, "each holds at least one image", most=len(held.train))
    if learning_rate is not None:
        check_rate(learning_rate)
    check_whole("times", times, 3, "0 and infinity are two of them")
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
    result = DynamicsResult(
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
    settings = {
        **{"on": held.name, "labels": pipeline.config.predict.labels, "ridge": float(ridge)},
        **{"cross_entropy": cross_entropy, "learning_rate": learning_rate},
        **{"times": times, "folds": folds, "seed": seed},
    }
    _store(pipeline.run, result, settings)
    return result


def _unsettled(pipeline: Pipeline, flow: GradientFlow) -> int:
    shifted = flow.spectrum.values + flow.ridge
    rounding = np.finfo(pipeline.config.gram.dtype).eps * shifted[0]
    return int((shifted <= rounding).sum())


def _check_size(pipeline: Pipeline, held: HeldOut, columns: int) -> None:
    """Refuse more images than the memory limit holds, with ``columns`` more numbers an image."""
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


def _answers(pipeline: Pipeline, held: HeldOut) -> CurveLabels:
    from ntkdist.learning.dynamics import CurveLabels

    run, true = pipeline.run, None
    if run.has("inputs", "labels_true"):
        true = run.read("inputs", "labels_true")[held.train]
        if np.array_equal(true, held.train_labels):
            true = None
    return CurveLabels(held.train_labels, true, held.labels)


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
    from ntkdist.learning import targets_of
    from ntkdist.learning.dynamics import choose_stopping_time

    with pipeline.stage("stopping time") as detail:
        began = time.monotonic()
        stopping = choose_stopping_time(
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
        detail.append(f"t = {stopping.time:.3g} by {stopping.images} images held out in turn")
    return stopping


def _cross_entropy(
    pipeline: Pipeline,
    gram: Any,
    cross: Any,
    flow: GradientFlow,
    answers: CurveLabels,
    at: NDArray[np.float64],
) -> Curves:
    from ntkdist.learning.cross_entropy import cross_entropy_flow
    from ntkdist.learning.dynamics import cross_entropy_curves

    longest = _LONGEST * float(flow.time_constants[0])
    finite = at[at <= longest]

    def tell(now: float, products: int) -> None:
        fraction = float(np.log1p(now / finite[1]) / np.log1p(finite[-1] / finite[1]))
        pipeline.forward(DynamicsProgress("cross-entropy", fraction, time.monotonic() - began))

    with pipeline.stage("cross-entropy") as detail:
        began = time.monotonic()
        followed = cross_entropy_flow(
            gram,
            np.eye(flow.distances.shape[1])[answers.train],
            finite,
            learning_rate=flow.learning_rate,
            on_step=tell,
        )
        detail.append(f"to t = {followed.times[-1]:.3g} in {followed.products} products")
        return cross_entropy_curves(followed, cross, answers)


def _spread(
    pipeline: Pipeline,
    held: HeldOut,
    flow: GradientFlow,
    projected: NDArray[np.float64],
    time: float,
) -> Spread | None:
    """Return the ensemble's spread at a time, or None where the run has no NNGP kernel."""
    from ntkdist.learning.dynamics import Ensemble, spread_of

    if "nngp" not in pipeline.config.gram.kinds:
        return None
    with pipeline.stage("ensemble") as detail:
        ensemble = Ensemble.of(flow, held.gram("nngp"))
        nngp = flow.project(held.cross("nngp"))
        variance = ensemble.test_variance(projected, nngp, held.diagonal("nngp"), time)
        detail.append(f"spread of {len(variance)} predictions at t = {time:.3g}")
        return spread_of(flow.test(projected, time), variance, held.labels)


def _store(run: Run, result: DynamicsResult, settings: Mapping[str, Any]) -> None:
    """Write figures, arrays and the picture into a run."""
    stopping = result.stopping
    squared = result.squared.arrays()
    entropy = None if result.cross_entropy is None else result.cross_entropy.arrays()
    arrays = {
        f"{name}/{part}": values
        for name, curves in (("squared", squared), ("cross_entropy", entropy))
        for part, values in (curves or {}).items()
    }
    arrays |= {f"stopping/{part}": getattr(stopping, part) for part in ("losses", "accuracies")}
    arrays |= {part: getattr(result, part) for part in ("eigenvalues", "time_constants", "energy")}
    if result.spread is not None:
        arrays["spread/std"] = result.spread.std
        arrays["spread/disagreement"] = result.spread.disagreement
    store_result(run, "dynamics", settings, arrays, _summary(result))
    small = FONT_SIZE - 4
    with svg_file(run.address("dynamics.svg"), 12.0, 3.9, math=True) as figure:
        left, middle, right = figure.subplots(1, 3)
        _plot_losses(left, squared, stopping.losses, stopping.time, small)
        _plot_accuracies(middle, squared, entropy, stopping.time, small)
        learned = result.learned_at(stopping.time)
        _plot_targets(right, result.eigenvalues, result.energy, learned, small)


def _summary(result: DynamicsResult) -> dict[str, Any]:
    """Return the figures that are kept as JSON; a stopping time of None is infinity, the end."""
    stopping, spread, entropy = result.stopping, result.spread, result.cross_entropy
    squared = result.squared.arrays()
    ends = {}
    for name, place in (("stopped", stopping.index), ("end", -1)):
        ends[name] = {k: float(v[place]) for k, v in squared.items() if k != "times"}
        ends[name]["held_out_loss"] = float(stopping.losses[place])
        ends[name]["held_out_accuracy"] = float(stopping.accuracies[place])
    last = None
    if entropy is not None:
        last = {name: float(values[-1]) for name, values in entropy.arrays().items()}
    return {
        "on": result.how,
        "trained_on": result.trained_on,
        "tested_on": result.tested_on,
        "learning_rate": result.learning_rate,
        "largest_stable_rate": result.largest_stable_rate,
        "ridge": result.ridge,
        "stopping_time": stopping.time if np.isfinite(stopping.time) else None,
        "held_out": stopping.images,
        "unsettled": result.unsettled,
        "learned_at_stopping": result.learned_at(stopping.time),
        "squared": ends,
        "cross_entropy": last,
        "spread": None
        if spread is None
        else {
            "std_auc": spread.std_auc,
            "disagreement_auc": spread.disagreement_auc,
            "errors_by_quarter": spread.errors.tolist(),
        },
    }


def describe_dynamics(result: DynamicsResult) -> str:
    """Return what the command prints."""
    stop, s, q = result.stopping, result.stopping.index, result.squared
    learned = result.learned_at(stop.time)

    def row(name: str, values: NDArray[np.float64], *, share: bool = False) -> str:
        ends = values[s], values[-1]
        then, last = (words.percent(end, 2) if share else f"{end:.4f}" for end in ends)
        return f"  {name:<18}{then:>9}       {last:>9}"

    lines = [
        f"time      counts steps of η = {result.learning_rate:.3g}; gradient descent diverges from "
        f"{result.largest_stable_rate:.3g} on",
        f"stop at   t = {_time(stop.time)}, where {stop.images} training images held out in turn "
        f"have the least loss ({words.percent(stop.accuracies[s], 2)} of them right; at the end "
        f"{words.percent(stop.accuracies[-1], 2)})",
        f"          {learned} of {result.trained_on} eigenvectors are learned by then, with "
        f"{words.percent(result.energy[:learned].sum())} of the targets",
        "",
        "squared loss          stopped      at the end",
        row("held-out loss", stop.losses),
        row("training accuracy", q.train_accuracy, share=True),
    ]
    if q.true_accuracy is not None:
        lines.append(row("... true labels", q.true_accuracy, share=True))
    lines += [
        row("test loss", q.test_loss),
        row("test accuracy", q.test_accuracy, share=True)
        + f"    {result.tested_on} images {which_images(result.how)}",
        "",
        "eigenvector  time constant  eigenvalue  share of the targets",
    ]
    lines += [
        f"{i + 1:11d}  {result.time_constants[i]:13.4g}  {result.eigenvalues[i]:10.4g}  "
        f"{words.percent(result.energy[i], 2):>20}"
        for i in range(min(_LISTED, result.trained_on))
    ]
    lines += ["", *_more(result)]
    return "\n".join(lines)


def _more(result: DynamicsResult) -> list[str]:
    """Return the lines about rounding, the cross-entropy, the ensemble and the picture."""
    lines, c, spread = [], result.cross_entropy, result.spread
    if result.unsettled:
        lines.append(
            f"note          {result.unsettled} eigenvalues lie within the rounding of the Gram's "
            "entries: the end of training is noise there; give a ridge such as 1e-6"
        )
    if c is not None:
        lines.append(
            f"cross-entropy at t = {_time(c.times[-1])}: training accuracy "
            f"{words.percent(c.train_accuracy[-1], 2)}, test accuracy "
            f"{words.percent(c.test_accuracy[-1], 2)}, test loss "
            f"{c.test_loss[-1]:.4f} (least {c.test_loss.min():.4f} at t = "
            f"{_time(c.times[c.test_loss.argmin()])})"
        )
    if spread is None:
        lines.append(
            "ensemble      no spread: the run has no NNGP kernel; begin one with --gram.kinds "
            "ntk,nngp, under another --run"
        )
    elif spread.disagreement_auc is None:
        lines.append(
            "ensemble      all predictions are right, or all are wrong: the spread cannot be "
            "compared with errors"
        )
    else:
        quarters = ", ".join(words.percent(share) for share in spread.errors)
        lines.append(
            "ensemble      networks of different initialisation disagree more on a wrong "
            f"prediction than on a right one with chance {spread.disagreement_auc:.3f} (by the "
            f"spread alone {spread.std_auc:.3f}); wrong in each quarter of the images, the least "
            f"disagreement first: {quarters}"
        )
    lines.append(f"picture       {result.place}/dynamics.svg")
    return lines


def _time(t: float) -> str:
    return f"{t:.4g}" if np.isfinite(t) else "∞"


def _plot_losses(
    ax: Any,
    squared: Mapping[str, NDArray[np.float64]],
    held_out: NDArray[np.float64],
    stop: float,
    small: float,
) -> None:
    """Draw squared losses over time, those of held-out training images (T,) among them."""
    at = _places(squared["times"])
    for name, values, color, style in (
        ("training", squared["train_loss"], "C0", "-"),
        ("held-out training images", held_out, "C2", "--"),
        ("test", squared["test_loss"], "C1", "-"),
    ):
        _line(ax, at, values, color, style, name)
    ax.set_ylim(0)
    ax.set_ylabel("squared loss, (1/2N) Σ‖f − y‖²", fontsize=small)
    _time_axis(ax, squared["times"], stop, small)


def _plot_accuracies(
    ax: Any,
    squared: Mapping[str, NDArray[np.float64]],
    cross_entropy: Mapping[str, NDArray[np.float64]] | None,
    stop: float,
    small: float,
) -> None:
    """Draw accuracies over time; those of the cross-entropy are dotted, at finite times only."""
    at = _places(squared["times"])
    _line(ax, at, 100 * squared["train_accuracy"], "C0", "-", "training")
    if "true_accuracy" in squared:
        _line(ax, at, 100 * squared["true_accuracy"], "C4", "-", "training, true labels")
    _line(ax, at, 100 * squared["test_accuracy"], "C1", "-", "test")
    if cross_entropy is not None:
        then = at[1 : len(cross_entropy["times"])]
        for name, color in (("train_accuracy", "C0"), ("test_accuracy", "C1")):
            ax.plot(then, 100 * cross_entropy[name][1:], color=color, lw=1, ls=":")
        ax.plot([], [], color="0.4", lw=1, ls=":", label="the same, cross-entropy")
    ax.set_ylabel("accuracy in %", fontsize=small)
    _time_axis(ax, squared["times"], stop, small)


def _line(
    ax: Any,
    at: NDArray[np.float64],
    values: NDArray[np.float64],
    color: str,
    style: str,
    name: str,
) -> None:
    """Draw the finite times as a line, the beginning and the end as dots beside it."""
    ax.plot(at[1:-1], values[1:-1], color=color, lw=1.3, ls=style, label=name)
    ax.plot(at[[0, -1]], values[[0, -1]], "o", color=color, ms=3)


def _places(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where times are drawn on a log axis: 0 and infinity one step beside the others."""
    finite = times[1:-1]
    return np.array([finite[0] / 4, *finite, finite[-1] * 4])


def _time_axis(ax: Any, times: NDArray[np.float64], stop: float, small: float) -> None:
    at = _places(times)
    place = float(at[int(np.argmax(times >= stop))])
    ax.axvline(place, color=_STOP, lw=1, ls="--", label="stopping time")
    ax.set_xscale("log")
    ax.set_xlabel("time t, steps of η (the dots: 0 and ∞)", fontsize=small)
    ax.tick_params(labelsize=small)
    ax.legend(fontsize=small - 1, frameon=False)


def _plot_targets(
    ax: Any,
    eigenvalues: NDArray[np.float64],
    energy: NDArray[np.float64],
    learned: int,
    small: float,
) -> None:
    """Draw the eigenvalues (N,), and how much of the targets lies in the first of them."""
    rank = np.arange(1, len(eigenvalues) + 1)
    shown = np.unique(np.geomspace(1, len(rank), _MOST_DOTS).astype(int)) - 1
    least = 1e-16 * eigenvalues[0]
    ax.plot(rank[shown], np.maximum(eigenvalues, least)[shown], color="C0", lw=1.3)
    ax.set(xscale="log", yscale="log")
    ax.set_xlabel("eigenvector", fontsize=small)
    ax.set_ylabel("eigenvalue", fontsize=small, color="C0")
    ax.tick_params(labelsize=small)
    if 0 < learned < len(rank):
        ax.axvline(learned + 0.5, color=_STOP, lw=1, ls="--")
    other = ax.twinx()
    other.plot(rank[shown], 100 * np.cumsum(energy)[shown], color="C1", lw=1.3)
    other.set_ylim(0, 103)
    other.set_ylabel("targets in this one and those before, in %", fontsize=small, color="C1")
    other.tick_params(labelsize=small)


def _sections(run: Run) -> list[ReportSection]:
    """Read when to stop, and where the ensemble is unsure."""
    keys = ("on", "trained_on", "tested_on", "learning_rate", "held_out", "squared")
    results = stored_results(run, "dynamics", *keys, "learned_at_stopping", "stopping_time")
    return numbered([_section(run, *one) for one in results])


def _section(run: Run, group: str, kept: dict[str, Any]) -> ReportSection:
    stopped, end = kept["squared"]["stopped"], kept["squared"]["end"]
    stop = kept["stopping_time"]
    if stop is None:
        sentences = [
            "Training may go on to the end: images held out in turn then have the least loss."
        ]
    else:
        sentences = [
            f"Training should stop after {number(stop, 3)} steps of size "
            f"{number(kept['learning_rate'], 3)}, where images held out in turn have the least "
            "loss; what follows is mostly the learning of single labels and of noise."
            if stopped["test_loss"] < end["test_loss"]
            else f"Images held out in turn have the least loss after {number(stop, 3)} steps of "
            f"size {number(kept['learning_rate'], 3)}."
        ]
    sentences.append(
        f"Then {percent(stopped['test_accuracy'])} of {counted(kept['tested_on'], 'image')} "
        f"{which_images(str(kept['on']))} are right, at the end {percent(end['test_accuracy'])}."
    )
    numbers = [
        ("Stop at step", "never" if stop is None else number(stop, 3), ""),
        (
            "Test accuracy when stopped",
            percent(stopped["test_accuracy"]),
            f"at the end {percent(end['test_accuracy'])}",
        ),
        (
            "Directions learned by then",
            count(kept["learned_at_stopping"]),
            f"of {count(kept['trained_on'])} eigenvectors",
        ),
    ]
    if "true_accuracy" in stopped:
        numbers.insert(
            2,
            (
                "True labels met when stopped",
                percent(stopped["true_accuracy"]),
                f"at the end {percent(end['true_accuracy'])}",
            ),
        )
    spread, more = kept.get("spread"), None
    if spread and spread.get("disagreement_auc") is not None:
        quarters = [percent(share) for share in spread["errors_by_quarter"]]
        sentences.append(
            "The infinite ensemble of networks disagrees more on a wrong prediction than on a "
            f"right one with chance {number(spread['disagreement_auc'], 3)} (½ would say nothing). "
            f"Of the quarter with the least disagreement {quarters[0]} are wrong, of the quarter "
            f"with the most {quarters[-1]}."
        )
    elif not spread:
        more = (
            f"{run.repeat_command} --gram.kinds ntk --gram.kinds nngp",
            "How sure the ensemble of networks is needs a run begun with both of its kernels:",
        )
    name = group.replace("/", "-")
    figures = tuple(_figures(run, group, name, kept))
    title = "Training dynamics"
    return ReportSection(name, title, tuple(sentences), tuple(numbers), figures, more=more)


def _figures(run: Run, group: str, name: str, kept: dict[str, Any]) -> list[tuple[str, str]]:
    def curves(kind: str) -> dict[str, Any] | None:
        names = ("times", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
        if not run.has(group, kind, "times"):
            return None
        optional = [name for name in ("true_accuracy",) if run.has(group, kind, name)]
        return {name: run.read(group, kind, name) for name in (*names, *optional)}

    squared = curves("squared")
    stop = np.inf if kept["stopping_time"] is None else float(kept["stopping_time"])
    held_out = run.read(group, "stopping", "losses")
    # runs of earlier versions may hold the cross-entropy of a result before the last
    entropy = curves("cross_entropy") if kept.get("cross_entropy") else None
    ends = kept["squared"]
    loss = panel(
        f"{name}-loss",
        "Squared loss over training time for training, held-out and test images; the test loss is "
        f"{number(ends['stopped']['test_loss'], 3)} at the stopping time and "
        f"{number(ends['end']['test_loss'], 3)} at the end.",
        _plot_losses,
        squared,
        held_out,
        stop,
    )
    accuracy = panel(
        f"{name}-accuracy",
        "Accuracy over training time; of the test images "
        f"{percent(ends['stopped']['test_accuracy'])} at the stopping time, "
        f"{percent(ends['end']['test_accuracy'])} at the end.",
        _plot_accuracies,
        squared,
        entropy,
        stop,
    )
    learned = int(kept["learned_at_stopping"])
    targets = panel(
        f"{name}-targets",
        "Eigenvalues of the kernel, and the share of the labels that lies in the first so many "
        f"eigenvectors; {count(learned)} are learned at the stopping time.",
        _plot_targets,
        run.read(group, "eigenvalues"),
        run.read(group, "energy"),
        learned,
    )
    return [
        (loss, "Loss in the course of training; the dashed line is the stopping time."),
        (accuracy, "Accuracy in the course of training."),
        (targets, "Directions with large eigenvalues are learned first."),
    ]


ANALYSIS = Analysis(
    command="dynamics",
    question="How does training go, and when should it stop?",
    place=2,
    sections=_sections,
    suggested=True,
)
