"""Predictions of the kernel, and training followed over time, for the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from ntkdist.analyses.dynamics_plot import plot_accuracies, plot_losses, plot_targets
from ntkdist.analyses.outcomes import CANNOT_JUDGE, Outcome, panel, read_verdict, stored
from ntkdist.analyses.predict_plot import plot_calibration, plot_ridges
from ntkdist.display import heatmaps
from ntkdist.display.svg import inline_svg
from ntkdist.display.words import count, counted, number, percent
from ntkdist.runs.run import Run

_WHERE = {
    "test": "of the test split",
    "rest": "of the split that the run leaves out",
    "holdout": "of the run that were held out",
}


def predictions(run: Run) -> list[Outcome]:
    """Return what ``ntkdist predict`` found: accuracy with each kind of labels, and calibration."""
    keys = ("on", "images", "trained_on", "ridge", "labels", "accuracy", "calibration_error")
    last = stored(run, "predict", *keys, "confusion", "ridges", "log_loss", "brier")
    if last is None:
        return []
    others = {name: stored(run, f"predict/{name}", *keys) for name in ("given", "refurbished")}
    by_labels = {
        name: found
        for name, found in (others | {last["labels"]: last}).items()
        if found is not None and found["on"] == last["on"]
    }
    where = _WHERE.get(str(last["on"]).split("-")[0], "beside it")
    sentences = [
        f"Trained on the {last['labels']} labels of {counted(last['trained_on'], 'image')}, the "
        f"kernel is right about {percent(last['accuracy'])} of {counted(last['images'], 'image')} "
        f"{where}."
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
        (f"Accuracy, {name} labels", percent(found["accuracy"]), f"of {count(found['images'])}")
        for name, found in by_labels.items()
    ]
    numbers += [
        ("Calibration error", number(last["calibration_error"], 3), "0 is perfect"),
        ("Log-loss", number(last["log_loss"], 4), f"Brier score {number(last['brier'], 4)}"),
    ]
    better = read_verdict(run) != CANNOT_JUDGE  # else the refurbished labels are none to train on
    left = [
        name
        for name in ("given", "refurbished")
        if name not in by_labels and (better or name == "given")
    ]
    more = None
    if left:
        command = f"ntkdist predict {run.url} --predict.labels {left[0]}"
        more = (command, f"The same after training on the {left[0]} labels:")
    return [
        Outcome(
            "predict",
            "Images it has not seen",
            tuple(sentences),
            tuple(numbers),
            tuple(_prediction_figures(run, last)),
            more=more,
        )
    ]


def _prediction_figures(run: Run, last: dict[str, Any]) -> list[tuple[str, str]]:
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
        svg = panel("predict-calibration", alt, plot_calibration, np.asarray(last["bins"], float))
        figures.append((svg, "Below the diagonal it is surer than it should be, above less sure."))
    rows = [[row["ridge"], row["accuracy"], row["squared_error"]] for row in last["ridges"]]
    alt = f"Leave-one-out accuracy and squared error over ridges; {last['ridge']:g} is taken."
    svg = panel("predict-ridges", alt, plot_ridges, np.array(rows, float), float(last["ridge"]))
    figures.append((svg, "How the ridge was chosen: on the images trained on, each left out once."))
    return figures


def dynamics(run: Run) -> list[Outcome]:
    """Return what ``ntkdist dynamics`` found: when to stop, and what the ensemble is unsure of."""
    keys = ("on", "trained_on", "tested_on", "learning_rate", "held_out", "squared")
    found = stored(run, "dynamics", *keys, "learned_at_stopping", "stopping_time")
    if found is None or not run.has("dynamics", "squared", "times"):
        return []
    stopped, end = found["squared"]["stopped"], found["squared"]["end"]
    stop = found["stopping_time"]
    if stop is None:
        sentences = [
            "Training may go on to the end: images held out in turn then have the least loss."
        ]
    else:
        sentences = [
            f"Training should stop after {number(stop, 3)} steps of size "
            f"{number(found['learning_rate'], 3)}, where images held out in turn have the least "
            "loss; what follows is mostly the learning of single labels and of noise."
            if stopped["test_loss"] < end["test_loss"]
            else f"Images held out in turn have the least loss after {number(stop, 3)} steps of "
            f"size {number(found['learning_rate'], 3)}."
        ]
    sentences.append(
        f"Then {percent(stopped['test_accuracy'])} of {counted(found['tested_on'], 'image')} "
        f"{_WHERE.get(str(found['on']), 'beside it')} are right, at the end "
        f"{percent(end['test_accuracy'])}."
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
            count(found["learned_at_stopping"]),
            f"of {count(found['trained_on'])} eigenvectors",
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
    spread, more = found.get("spread"), None
    if spread and spread.get("disagreement_auc") is not None:
        quarters = [percent(share) for share in spread["errors_by_quarter"]]
        sentences.append(
            "The infinite ensemble of networks knows what it does not know: a wrong prediction is "
            f"more disputed than a right one with chance {number(spread['disagreement_auc'], 3)} "
            f"(½ would say nothing). Of the quarter most agreed on {quarters[0]} are wrong, of the "
            f"most disputed {quarters[-1]}."
        )
    elif not spread:
        more = (
            f"{run.repeat_command} --gram.kinds ntk --gram.kinds nngp",
            "How sure the ensemble of networks is needs a run begun with both of its kernels:",
        )
    figures = tuple(_dynamics_figures(run, found))
    return [
        Outcome(
            "dynamics",
            "Training, before any training",
            tuple(sentences),
            tuple(numbers),
            figures,
            more=more,
        )
    ]


def _dynamics_figures(run: Run, found: dict[str, Any]) -> list[tuple[str, str]]:
    def curves(kind: str) -> dict[str, Any] | None:
        names = ("times", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
        if not run.has("dynamics", kind, "times"):
            return None
        optional = [name for name in ("true_accuracy",) if run.has("dynamics", kind, name)]
        return {name: run.read("dynamics", kind, name) for name in (*names, *optional)}

    squared = curves("squared")
    stop = np.inf if found["stopping_time"] is None else float(found["stopping_time"])
    held_out = run.read("dynamics", "stopping", "losses")
    # a run whose last answer left out the cross-entropy may still hold that of the one before
    entropy = curves("cross_entropy") if found.get("cross_entropy") else None
    ends = found["squared"]
    loss = panel(
        "dynamics-loss",
        "Squared loss over training time for training, held-out and test images; the test loss is "
        f"{number(ends['stopped']['test_loss'], 3)} at the stopping time and "
        f"{number(ends['end']['test_loss'], 3)} at the end.",
        plot_losses,
        squared,
        held_out,
        stop,
    )
    accuracy = panel(
        "dynamics-accuracy",
        "Accuracy over training time; of the test images "
        f"{percent(ends['stopped']['test_accuracy'])} at the stopping time, "
        f"{percent(ends['end']['test_accuracy'])} at the end.",
        plot_accuracies,
        squared,
        entropy,
        stop,
    )
    learned = int(found["learned_at_stopping"])
    targets = panel(
        "dynamics-targets",
        "Eigenvalues of the kernel, and the share of the labels that lies in the first so many "
        f"eigenvectors; {count(learned)} are learned at the stopping time.",
        plot_targets,
        run.read("dynamics", "eigenvalues"),
        run.read("dynamics", "energy"),
        learned,
    )
    return [
        (loss, "Loss in the course of training; the dashed line is the stopping time."),
        (accuracy, "Accuracy in the course of training."),
        (targets, "Directions with large eigenvalues are learned first."),
    ]


def _points(difference: float) -> str:
    points = 100 * difference
    if abs(points) < 0.05:
        return "no difference"
    return f"{abs(points):.1f} points {'more' if points > 0 else 'fewer'}"
