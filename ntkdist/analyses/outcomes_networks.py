"""Networks and kernels held against one another, and labels asked for, for the report."""

from __future__ import annotations

import json
import math
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from ntkdist import storage
from ntkdist.analyses.label_aware_plot import KernelPoint, plot_choices, plot_kernels
from ntkdist.analyses.lookahead_plot import plot_active_learning
from ntkdist.analyses.outcomes import CANNOT_JUDGE, Outcome, panel, read_verdict, stored
from ntkdist.analyses.sweep_plot import plot_measure
from ntkdist.analyses.widths_plot import Gap, plot_gaps
from ntkdist.display import kernel_plots
from ntkdist.display.svg import FONT_SIZE, inline_svg, new_figure
from ntkdist.display.words import count, counted, number, percent
from ntkdist.errors import NtkdistError
from ntkdist.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SWEPT = ("depth", "W_std", "b_std", "nonlinearity", "width")
_GAPS = {
    "kernel_gap": "kernel",
    "difference": "one output",
    "linear_gap": "trained",
}
_MOST_PANELS = 4
_LITTLE_NOISE = 0.005  # limits no accuracy that anyone would miss


def widths(run: Run) -> list[Outcome]:
    """Return what ``ntkdist widths`` found: how far networks are from the infinite one."""
    found = stored(run, "widths", "images", "test", "exponents")
    if found is None or not run.has("widths", "kernel_gap"):
        return []
    sizes = run.read("widths", "widths")
    values = {name: run.read("widths", name) for name in _GAPS}
    gap, exponents = values["kernel_gap"], found["exponents"]
    sentences = [
        f"A network of width {count(int(sizes[-1]))} has a kernel {percent(float(gap[-1]))} away "
        f"from the infinite one, of width {count(int(sizes[0]))} {percent(float(gap[0]))}."
    ]
    figures: tuple[tuple[str, str], ...] = ()
    if exponents:
        law = exponents["kernel_gap"]
        sentences.append(
            f"The distance goes with width to the power {number(law['exponent'], 2)}, where theory "
            "says −½."
        )
        gaps = [
            Gap(
                title,
                values[name],
                exponents[name]["constant"] * sizes.astype(float) ** exponents[name]["exponent"],
                exponents[name]["exponent"],
            )
            for name, title in _GAPS.items()
        ]
        alt = "Distances from the infinite network over width, on log scales, with fitted lines."
        caption = (
            "Relative distances and their exponents. Kernel: from the infinite one; one output: "
            "of the kernel of one output from the whole; trained: of the trained network from its "
            "linearisation."
        )
        figures = ((panel("widths-gaps", alt, plot_gaps, sizes, gaps, height=320), caption),)
    rows = tuple(
        (count(int(size)), *(number(float(values[name][k]), 3) for name in _GAPS))
        for k, size in enumerate(sizes)
    )
    head = ("Width", *(title.capitalize() for title in _GAPS.values()))
    return [
        Outcome("widths", "Networks of finite width", tuple(sentences), (), figures, head, rows)
    ]


def sweeps(run: Run) -> list[Outcome]:
    """Return what ``ntkdist sweep`` found, a section for each setting that was swept."""
    return [one for over in _SWEPT if (one := _swept(run, over)) is not None]


def _swept(run: Run, over: str) -> Outcome | None:
    found = stored(run, f"sweep/{over}", "images", "rows")
    if found is None or not found["rows"]:
        return None
    rows = found["rows"]
    most = max(row["accuracy"] for row in rows)
    tied = [row["value"] for row in rows if row["accuracy"] == most]
    measures = {
        "accuracy in %": [100 * row["accuracy"] for row in rows],
        "mean cosine": [row["cosine"] for row in rows],
        "condition number": [_finite(row["condition"]) for row in rows],
        "effective rank": [row["effective_rank"] for row in rows],
    }
    values = [row["value"] for row in rows]

    def make() -> Figure:
        figure = new_figure(390, 380)
        for axes, (name, y) in zip(figure.subplots(2, 2).flat, measures.items(), strict=True):
            plot_measure(axes, values, np.array(y, dtype=np.float64), FONT_SIZE - 1)
            axes.set_title(name, fontsize=FONT_SIZE - 1)
        figure.supxlabel(over, fontsize=FONT_SIZE)
        return figure

    listed = ", ".join(f"{row['value']}: {percent(row['accuracy'])}" for row in rows)
    svg = inline_svg(f"sweep-{over}", f"Measures over {over}; accuracy at {listed}.", make)
    sentence = (
        f"Of {counted(len(rows), 'value')} of {over}, {_all_of(tied)} "
        f"{'predicts' if len(tied) == 1 else 'predict'} best: {percent(most)} of "
        f"{counted(found['images'], 'image')} are right when each is left out."
    )
    caption = (
        "Cosine: mean over pairs of images, 1 where the kernel tells none apart. Effective rank: "
        "(Σλ)²/Σλ²."
    )
    return Outcome(f"sweep-{over}", f"Other values of {over}", (sentence,), (), ((svg, caption),))


def label_aware(run: Run) -> list[Outcome]:
    """Return what ``ntkdist label-aware`` found for two classes."""
    found = stored(run, "label_aware", "names", "trained_on", "held_out", "validated", "kernels")
    if found is None:
        return []
    kernels = found["kernels"]
    plain, *others = kernels
    best = max(others, key=lambda one: one["accuracy"])
    a, b = found["names"]
    sentence = (
        f"The plain kernel tells {a} from {b} for {percent(plain['accuracy'])} of "
        f"{counted(found['held_out'], 'held-out image')}; "
    )
    if best["accuracy"] > plain["accuracy"]:
        sentence += f"a label-aware one, {best['variant']}, for {percent(best['accuracy'])}."
    else:
        sentence += "no label-aware one does better."
    points = [
        KernelPoint(one["variant"], one["accuracy"], one["validated"], one["elasticity"])
        for one in kernels
    ]
    curves = {
        name: (np.asarray(tried["multipliers"]), np.asarray(tried["accuracy"]))
        for name, tried in found["validated"].items()
    }
    listed = ", ".join(f"{one['variant']} {percent(one['accuracy'])}" for one in kernels)
    figures = (
        (
            panel(
                "label-aware-kernels", f"Accuracy of each kernel: {listed}.", plot_kernels, points
            ),
            "Accuracy on images held out. Elasticity: how much more images of one class move "
            "together in training than others; ½ where classes do not matter.",
        ),
        (
            panel(
                "label-aware-choice",
                "Cross-validated accuracy over the weight of the label-aware part.",
                plot_choices,
                curves,
            ),
            "How the weight of the label-aware part was chosen, on the training images.",
        ),
    )
    return [
        Outcome("label-aware", f"Labels inside the kernel: {a} or {b}", (sentence,), (), figures)
    ]


def lookahead(run: Run) -> list[Outcome]:
    """Return what ``ntkdist lookahead`` found about asking for labels."""
    found = stored(run, "lookahead", "criteria", "model", "pool", "held_out")
    if found is None or not run.has("lookahead", "accuracy"):
        return []
    accuracy, counts = run.read("lookahead", "accuracy"), run.read("lookahead", "counts")
    curves = dict(zip(found["criteria"], accuracy, strict=True))
    last = {name: float(values[:, -1].mean()) for name, values in curves.items()}
    best = max(last, key=lambda name: last[name])
    sentence = (
        f"With {counted(int(counts[-1]), 'label')} chosen by {best}, {found['model']} is right "
        f"about {percent(last[best])} of {counted(found['held_out'], 'held-out image')}"
    )
    if "random" in last and best != "random":
        sentence += f"; with as many drawn at random, about {percent(last['random'])}"
    listed = ", ".join(f"{name} {percent(value)}" for name, value in last.items())
    alt = f"Accuracy over labels asked for; at the end {listed}."
    svg = panel("lookahead-curves", alt, plot_active_learning, curves, counts, height=330)
    caption = "Mean and range over draws of the first labels; black: at random."
    return [
        Outcome("lookahead", "Which images to label next", (f"{sentence}.",), (), ((svg, caption),))
    ]


def compared(run: Run) -> list[Outcome]:
    """Return what ``ntkdist compare`` found on this run's data, stored beside the run."""
    folder = f"{run.url}-compare"
    try:
        text = storage.read_text(storage.join(folder, "compare.json"))
        rows = json.loads(text)["architectures"] if text else []
    except (NtkdistError, OSError, ValueError, KeyError):
        return []
    mine = [(row, one) for row in rows if (one := _same_data(run, folder, row)) is not None]
    if len(mine) < 2:
        return []
    most = max(row["accuracy"] for row, _ in mine)
    tied = [row["name"] for row, _ in mine if row["accuracy"] == most]
    suits = "suits the data best: its kernel" if len(tied) == 1 else "suit the data best: each"
    sentences = [
        f"Of {counted(len(mine), 'architecture')}, {_all_of(tied)} {suits} gives {percent(most)} "
        "of the images their given label from all others.",
        *_ceiling(run, [row for row, _ in mine]),
        "Separation is the mean distance between classes over that within.",
    ]
    head = ("Architecture", "Accuracy", "Log-likelihood", "L(Z), scaled", "Separation")
    table = tuple(
        (
            row["name"] + (" (this run)" if other is run else ""),
            percent(row["accuracy"]),
            number(row["log_likelihood"], 4),
            number(row["block_error"], 4),
            number(row["separation"], 3),
        )
        for row, other in mine
    )
    return [
        Outcome(
            "compare",
            "Other architectures",
            tuple(sentences),
            (),
            tuple(_layouts(run, mine)),
            head,
            table,
        )
    ]


def _ceiling(run: Run, rows: list[dict[str, Any]]) -> list[str]:
    """Say how far accuracy on wrong labels can go, by the noise known or estimated."""
    noise, which = run.config.noise.rate, "were made wrong"
    if not noise:
        if read_verdict(run) == CANNOT_JUDGE:
            return []
        likeliest = max(rows, key=lambda row: row["log_likelihood"])
        noise, which = likeliest.get("noise_rate", 0.0), "are wrong by estimate"
    if noise < _LITTLE_NOISE:
        return []
    return [
        f"{percent(noise)} of these labels {which}, so that hardly more than {percent(1 - noise)} "
        "can be met."
    ]


def _same_data(run: Run, folder: str, row: dict[str, Any]) -> Run | None:
    """Return the run of a row if it is there and of the same images and labels."""
    try:
        name = PurePath(row["run"]).name
        own = name == PurePath(run.url).name and row.get("architecture") == str(run.architecture)
        if own:
            return run
        other = Run.open(storage.join(folder, name))
    except (NtkdistError, KeyError):
        return None
    same = other.config.data == run.config.data and other.config.noise == run.config.noise
    return other if same else None


def _layouts(run: Run, mine: list[tuple[dict[str, Any], Run]]) -> list[tuple[str, str]]:
    labels = run.read("inputs", "labels")
    colored = np.argsort(-np.bincount(labels, minlength=run.num_classes), kind="stable")
    figures = []
    for k, (row, one) in enumerate(mine[:_MOST_PANELS]):
        if not one.has("compare", "points"):
            continue
        points = one.read("compare", "points")
        if len(points) != len(labels):
            continue
        shown = np.random.default_rng(0).permutation(len(labels))[:800]
        svg = inline_svg(
            f"compare-{k}",
            f"Images in the two leading kernel principal components of {row['name']}.",
            kernel_plots.components,
            points[shown],
            labels[shown],
            run.manifest.class_names,
            np.zeros(len(shown), dtype=bool),
            sorted(colored[: kernel_plots.MOST_COLORS].tolist()),
            (),
        )
        figures.append((svg, f"{row['name']}: images in its two leading principal components."))
    return figures


def _all_of(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _finite(value: float | None) -> float:
    return math.nan if value is None else value
