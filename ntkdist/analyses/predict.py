"""How well the kernel predicts images that it has not seen: kernel regression on a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage, words
from ntkdist.analyses import (
    Analysis,
    ReportSection,
    panel,
    read_verdict,
    store_result,
    stored,
    stored_results,
    which_images,
)
from ntkdist.display import heatmaps
from ntkdist.display.svg import FONT_SIZE, inline_svg, svg_file
from ntkdist.display.words import count, counted, number, percent, shorten
from ntkdist.pipeline.cross import HeldOut, held_out
from ntkdist.pipeline.stages import Pipeline
from ntkdist.runs.run import Run
from ntkdist.words import CANNOT_JUDGE

if TYPE_CHECKING:
    from ntkdist.learning import Evaluation, RidgeSweep

_MOST_NAMES = 20  # class names that can be read beside the rows of the confusion matrix
_LONGEST_NAME = 12
_MOST_PAIRS = 5  # confused pairs of classes that the command prints


@dataclass(frozen=True, eq=False)
class PredictionResult:
    """Predictions of a run's kernel, and how good they are.

    Attributes:
        how: Which images were predicted: ``test``, ``rest`` or ``holdout``.
        images: M, how many were predicted.
        trained_on: n, how many were trained on.
        ridge: Relative to the mean of the Gram's diagonal.
        sweep: Leave-one-out accuracy and error of each ridge on the training images.
        evaluation: The predictions compared with the labels.
        outputs: (M, K) float64 of the regression.
        place: Folder of the run that holds predictions.csv.
        names: (K,) of the classes.
    """

    how: str
    images: int
    trained_on: int
    ridge: float
    sweep: RidgeSweep
    evaluation: Evaluation
    outputs: NDArray[np.float64] = field(repr=False)
    place: str
    names: tuple[str, ...]


def predict(pipeline: Pipeline) -> PredictionResult:
    """Predict the images that the configuration's ``predict`` names.

    Missing tiles of the Gram and of the test × train kernel are computed first, and the factor
    of the Gram with the ridge; each resumes where it ended. The outputs go into
    cross/NAME/outputs of the run and into cross/NAME/predictions.csv, with a
    picture in predict.svg.

    Raises:
        InputError: If the settings do not fit the run or its source.
        NotPositiveDefiniteError: If the Gram plus a ridge that was asked for has no factor.
    """
    from ntkdist.learning import KernelRegression, evaluate, sweep_ridge
    from ntkdist.learning.regression import RIDGES

    run, settings = pipeline.run, pipeline.config.predict
    held = held_out(pipeline)
    pipeline.gram()
    cross = held.cross(settings.kind)
    gram = held.gram(settings.kind)
    with pipeline.stage("ridge") as detail:
        ridges = RIDGES if settings.ridge == "auto" else (float(settings.ridge),)
        sweep = sweep_ridge(
            gram, held.train_labels, held.num_classes, ridges=ridges, targets=settings.targets
        )
        detail.append(f"{len(sweep.rows)} tried on {sweep.images} images, {sweep.best.ridge:g}")
    factor = _factor(pipeline, held, gram, sweep)
    with pipeline.stage("predict") as detail:
        model = KernelRegression.from_factor(
            factor, held.train_labels, held.num_classes, targets=settings.targets
        )
        outputs = model.predict(cross)
        evaluation = evaluate(outputs, held.labels, sweep.best.scale)
        detail.append(f"{len(outputs)} images, {words.percent(evaluation.accuracy, 2)} right")
    result = PredictionResult(
        how=held.how,
        images=len(outputs),
        trained_on=len(held.train),
        ridge=model.ridge,
        sweep=sweep,
        evaluation=evaluation,
        outputs=outputs,
        place=run.address("cross", held.name),
        names=run.manifest.class_names,
    )
    _store(pipeline, held, result)
    return result


def _factor(pipeline: Pipeline, held: HeldOut, gram: Any, sweep: RidgeSweep) -> Any:
    """Factor the Gram with the chosen ridge, or with the next larger one that has a factor."""
    from ntkdist.linalg import NotPositiveDefiniteError, factorize

    settings, wanted = pipeline.config.factor, pipeline.config.predict
    larger = [row.ridge for row in sweep.rows if row.ridge >= sweep.best.ridge]
    with pipeline.stage("factor") as detail, pipeline.scheduler() as scheduler:
        for ridge in larger:
            address = held.factor_address(wanted.kind, ridge)
            pipeline.grow_factor(address, gram, appended=held.how != "holdout")
            try:
                factor = factorize(
                    gram,
                    address,
                    ridge=ridge,
                    memory_limit=settings.memory_limit,
                    scheduler=scheduler,
                    device=settings.device,
                    on_event=pipeline.forward,
                    fingerprint=pipeline.run.fingerprint,
                )
            except NotPositiveDefiniteError:
                if ridge == larger[-1]:
                    raise
                detail.append(f"ridge {ridge:g} has no factor")
                continue
            panels = counted(factor.panel_count, "panel")
            detail.append(f"{panels} on {factor.device}, ridge {factor.ridge:g}")
            return factor
    raise AssertionError("the sweep holds its best ridge")


def _store(pipeline: Pipeline, held: HeldOut, result: PredictionResult) -> None:
    from ntkdist.learning.evaluation import softmax

    run, evaluation = pipeline.run, result.evaluation
    run.write(f"cross/{held.name}/outputs", result.outputs)
    run.write(f"cross/{held.name}/labels", held.labels, {"fingerprint": held.fingerprint})
    summary = {
        "on": held.name,
        "images": result.images,
        "trained_on": result.trained_on,
        "ridge": result.ridge,
        "targets": pipeline.config.predict.targets,
        "kind": pipeline.config.predict.kind,
        "labels": pipeline.config.predict.labels,
        "accuracy": evaluation.accuracy,
        "log_loss": evaluation.log_loss,
        "brier": evaluation.brier,
        "calibration_error": evaluation.calibration_error,
        "confusion": evaluation.confusion.tolist(),
        "bins": evaluation.bins.tolist(),
        "ridges": [vars(row) for row in result.sweep.rows],
    }
    settings = {name: summary[name] for name in ("on", "targets", "kind", "labels")}
    settings["ridge"] = pipeline.config.predict.ridge
    store_result(run, "predict", settings, {}, summary)
    run.write_attributes("predict", summary)  # the last one
    p = softmax(result.sweep.best.scale * result.outputs)
    _write_csv(storage.join(result.place, "predictions.csv"), held, p, result.names)
    small = FONT_SIZE - 4
    with svg_file(run.address("predict.svg"), 11.4, 3.9) as figure:
        title = f"{words.percent(evaluation.accuracy, 2)} of {result.images} images right"
        figure.suptitle(title, fontsize=FONT_SIZE - 2)
        left, middle, right = figure.subplots(1, 3)
        _plot_confusion(left, evaluation.confusion, result.names, small)
        _plot_calibration(middle, evaluation.bins, small)
        ridges = [[row.ridge, row.accuracy, row.squared_error] for row in result.sweep.rows]
        _plot_ridges(right, np.array(ridges), result.ridge, small)


def _write_csv(address: str, held: HeldOut, p: NDArray[np.float64], names: Sequence[str]) -> None:
    import pandas as pd

    best = p.argmax(axis=1)
    table = pd.DataFrame(
        {
            "index": held.indices,
            "label": held.labels,
            "predicted": best,
            "predicted_name": [names[k] for k in best],
            "probability": p.max(axis=1),
            "probability_of_label": p[np.arange(len(p)), held.labels],
        }
    )
    with storage.writing(address) as path:
        table.to_csv(path, index=False, float_format="%.6g")


def describe_predictions(result: PredictionResult) -> str:
    """Return what the command prints: the figures, and the pairs most often confused."""
    e, best = result.evaluation, result.sweep.best
    lines = [
        f"accuracy  {words.percent(e.accuracy, 2)} of {result.images} images "
        f"{which_images(result.how)}, {result.trained_on} trained on",
        f"ridge     {result.ridge:g}; leave-one-out accuracy {words.percent(best.accuracy, 2)} "
        f"on {result.sweep.images} images trained on",
        f"calibration  error {e.calibration_error:.3f} (0 is perfect), log-loss {e.log_loss:.4f}, "
        f"Brier {e.brier:.4f}",
    ]
    off = e.confusion.copy()
    np.fill_diagonal(off, 0)
    order = [int(i) for i in np.argsort(-off, axis=None, kind="stable")[:_MOST_PAIRS]]
    pairs = [divmod(i, len(off)) for i in order if off.flat[i]]
    if pairs:
        shown = [
            f"{result.names[k]} taken for {result.names[d]} "
            f"({off[k, d]} time{'' if off[k, d] == 1 else 's'})"
            for k, d in pairs
        ]
        lines.append("confused  " + ", ".join(shown))
    lines.append(f"table     {result.place}/predictions.csv, picture predict.svg in the run")
    return "\n".join(lines)


def _plot_confusion(
    ax: Any, confusion: NDArray[np.int64], names: Sequence[str], small: float
) -> None:
    """Draw the confusion matrix (K, K) as shares of each row, with letters of ``small`` points."""
    rows = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    ax.imshow(confusion / rows, cmap="Blues", vmin=0, vmax=1)
    K = len(confusion)
    if K <= _MOST_NAMES:
        short = [shorten(name, _LONGEST_NAME) for name in names]
        ax.set_yticks(range(K), short, fontsize=small)
        ax.set_xticks(range(K), short, fontsize=small, rotation=90)
        for k, d in np.argwhere(confusion > 0):
            dark = confusion[k, d] / rows[k, 0] > 0.5
            ax.text(
                d, k, str(confusion[k, d]), ha="center", va="center", fontsize=small - 1.5,
                color="white" if dark else "black",
            )  # fmt: skip
    ax.set_xlabel("predicted", fontsize=small)
    ax.set_ylabel("label", fontsize=small)


def _plot_calibration(ax: Any, bins: NDArray[np.float64], small: float) -> None:
    """Draw accuracy over confidence; ``bins`` (B, 3) hold images, mean confidence, accuracy."""
    ax.plot([0, 1], [0, 1], color="0.6", lw=1)
    images, sure, right = bins.T
    ax.scatter(sure, right, s=8 + 150 * images / images.sum(), color="C0")
    ax.plot(sure, right, color="C0", lw=1)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.set_xlabel("probability of the predicted class", fontsize=small)
    ax.set_ylabel("share that is right (area: images)", fontsize=small)
    ax.tick_params(labelsize=small)


def _plot_ridges(ax: Any, ridges: NDArray[np.float64], chosen: float, small: float) -> None:
    """Draw the columns accuracy and squared error of ``ridges`` (R, 3) over the ridge."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    positive = ridges[:, 0][ridges[:, 0] > 0]
    least = positive.min() / 10**0.5 if len(positive) else 1e-6  # where a ridge of 0 is drawn
    at = np.maximum(ridges[:, 0], least)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(numticks=5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlim(at.min() / 2, at.max() * 2)  # a single ridge gives no other range
    ax.plot(at, 100 * ridges[:, 1], "o-", color="C0", ms=3)
    ax.axvline(max(chosen, least), color="C1", lw=1, ls="--")
    ax.set_xlabel(f"ridge (the leftmost is {ridges[0, 0]:g})", fontsize=small)
    ax.set_ylabel("leave-one-out accuracy in %", fontsize=small, color="C0")
    ax.tick_params(labelsize=small)
    other = ax.twinx()
    other.plot(at, ridges[:, 2], "s-", color="C2", ms=3)
    other.set_ylabel("leave-one-out squared error", fontsize=small, color="C2")
    other.tick_params(labelsize=small)


def _sections(run: Run) -> list[ReportSection]:
    """Read the last predictions, and what others, of other labels or images, came to."""
    keys = ("on", "images", "trained_on", "ridge", "labels", "accuracy", "calibration_error")
    last = stored(run, "predict", *keys, "confusion", "ridges", "log_loss", "brier")
    if last is None:
        return []
    results = [one for _, one in stored_results(run, "predict", *keys)]
    by_labels = {one["labels"]: one for one in results if one["on"] == last["on"]}
    by_labels[last["labels"]] = last
    sentences = [
        f"Trained on the {last['labels']} labels of {counted(last['trained_on'], 'image')}, the "
        f"kernel is right about {percent(last['accuracy'])} of {counted(last['images'], 'image')} "
        f"{which_images(str(last['on']))}."
    ]
    if {"given", "refurbished"} <= by_labels.keys():
        before, after = (by_labels[name]["accuracy"] for name in ("given", "refurbished"))
        sentences.append(
            f"With the given labels that is {percent(before)}, with the refurbished ones "
            f"{percent(after)}: {_points(after - before)}."
        )
    sentences.append(
        "Its stated probability of being right is off by "
        f"{100 * last['calibration_error']:.1f} points on average."
    )
    numbers = [
        (f"Accuracy, {name} labels", percent(one["accuracy"]), f"of {count(one['images'])}")
        for name, one in sorted(by_labels.items())
    ]
    numbers += [
        (
            f"Accuracy, {one['labels']} labels",
            percent(one["accuracy"]),
            f"of {count(one['images'])} {which_images(str(one['on']))}",
        )
        for one in results
        if one["on"] != last["on"]
    ]
    numbers += [
        ("Calibration error", number(last["calibration_error"], 3), "0 is perfect"),
        ("Log-loss", number(last["log_loss"], 4), f"Brier score {number(last['brier'], 4)}"),
    ]
    # labels changed by a kernel that cannot judge them are not worth training on
    judged = read_verdict(run) != CANNOT_JUDGE
    left = [
        name
        for name in ("given", "refurbished")
        if name not in by_labels and (judged or name == "given")
    ]
    more = None
    if left:
        command = f"ntkdist predict {run.url} --predict.labels {left[0]}"
        more = (command, f"The same after training on the {left[0]} labels:")
    return [
        ReportSection(
            "predict",
            "Images it has not seen",
            tuple(sentences),
            tuple(numbers),
            tuple(_figures(run, last)),
            more=more,
        )
    ]


def _points(difference: float) -> str:
    points = 100 * difference
    if abs(points) < 0.05:
        return "no difference"
    return f"{abs(points):.1f} points {'more' if points > 0 else 'fewer'}"


def _figures(run: Run, last: dict[str, Any]) -> list[tuple[str, str]]:
    confusion = np.asarray(last["confusion"], dtype=np.int64)
    wrong = int(confusion.sum() - np.trace(confusion))
    svg = inline_svg(
        "predict-confusion",
        f"Confusion matrix: {count(wrong)} of {count(int(confusion.sum()))} images are taken for "
        "another class.",
        heatmaps.confusion,
        confusion,
        run.manifest.class_names,
    )
    figures = [(svg, "Rows: the class of an image; columns: the class that is predicted.")]
    if "bins" in last:
        alt = "Accuracy over the stated probability, in bins; on the diagonal both are equal."
        svg = panel("predict-calibration", alt, _plot_calibration, np.asarray(last["bins"], float))
        figures.append(
            (svg, "Below the diagonal the kernel is overconfident, above it underconfident.")
        )
    rows = [[row["ridge"], row["accuracy"], row["squared_error"]] for row in last["ridges"]]
    alt = f"Leave-one-out accuracy and squared error over ridges; {last['ridge']:g} is taken."
    svg = panel("predict-ridges", alt, _plot_ridges, np.array(rows, float), float(last["ridge"]))
    figures.append((svg, "How the ridge was chosen: on the images trained on, each left out once."))
    return figures


ANALYSIS = Analysis(
    command="predict",
    question="How well does the kernel predict images it has not seen?",
    place=1,
    sections=_sections,
    suggested=True,
)
