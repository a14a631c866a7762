"""Which figures a report has, and what is said about each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ntkdist.report import heatmaps, plots
from ntkdist.report.findings import Findings
from ntkdist.report.svg import inline_svg
from ntkdist.report.timeline import Timeline, binned_rates
from ntkdist.report.words import count, counted, number, rate

_OF = {
    "given": "the given labels",
    "refurbished": "the refurbished labels",
    "true": "the true labels",
}


def draw_figures(
    names: Sequence[str], findings: Findings | None, timeline: Timeline
) -> dict[str, tuple[str, str]]:
    """Draw every figure there is something to show for.

    Args:
        names: Class names.
        findings: What the label stage found, if it has finished.
        timeline: The run's events.

    Returns:
        (SVG, caption) by name: ``bars``, ``curve``, ``gram``, ``centred``, ``Z_given``,
        ``Z_refurbished``, ``Z_true``, ``throughput``.
    """
    figures: dict[str, tuple[str, str]] = {}
    if findings is not None:
        figures |= _losses(findings)
        figures |= _gram(names, findings)
        figures |= _class_matrices(names, findings)
    return figures | _throughput(timeline)


def _losses(findings: Findings) -> dict[str, tuple[str, str]]:
    figures: dict[str, tuple[str, str]] = {}
    values = findings.block_error
    if values and all(np.isfinite(v) for v in values.values()):
        said = ", ".join(f"{number(v)} for {_OF[k]}" for k, v in values.items())
        svg = inline_svg("bars", f"Bars: L(Z) is {said}.", plots.loss_bars, list(values.items()))
        figures["bars"] = (svg, "L(Z) of each set of labels; lower is cleaner.")
    losses = findings.losses
    if losses is not None and len(losses) > 1 and np.isfinite(losses).all():
        changes = len(losses) - 1
        alt = (
            f"Curve: L(Z) goes from {number(float(losses[0]))} to {number(float(losses[-1]))} "
            f"over {count(changes)} changes of labels."
        )
        svg = inline_svg("curve", alt, plots.loss_curve, losses, values.get("true"))
        figures["curve"] = (svg, "L(Z) while labels are changed one at a time.")
    return figures


def _gram(names: Sequence[str], findings: Findings) -> dict[str, tuple[str, str]]:
    if findings.gram is None or findings.gram.ndim != 2 or not findings.gram.size:
        return {}
    low, high = heatmaps.shown_range(findings.gram)
    shown = (findings.gram, findings.boundaries, names)
    ordered = f"images ordered by their {counted(len(names), 'given class', 'given classes')}"
    alt = (
        f"Heatmap of the kernel matrix, {ordered}; "
        f"colours span {number(low, 3)} to {number(high, 3)}."
    )
    centred = (
        f"Heatmap of the centred kernel matrix, {ordered}; blocks on the diagonal are classes "
        "whose images are alike."
    )
    return {
        "gram": (
            inline_svg("gram", alt, heatmaps.gram, *shown),
            "The kernel matrix, images ordered by given class; lines part the classes. Colours "
            "span the 2nd to the 98th percentile.",
        ),
        "centred": (
            inline_svg("centred", centred, heatmaps.centred_gram, *shown),
            "The same, centred: the mean of every row and column is taken out. Orange is more "
            "alike than usual, blue less. Clean labels make orange blocks.",
        ),
    }


def _class_matrices(names: Sequence[str], findings: Findings) -> dict[str, tuple[str, str]]:
    figures: dict[str, tuple[str, str]] = {}
    limit = heatmaps.between_limit(list(findings.Z.values()))
    for name, Z in findings.Z.items():
        diagonal = np.diagonal(Z)
        within = f"{number(float(diagonal.min()), 3)} to {number(float(diagonal.max()), 3)}"
        off = Z[~np.eye(len(Z), dtype=bool)]
        alt = f"Heatmap of Z for {_OF[name]}: the diagonal runs from {within}"
        if off.size:
            between = f"{number(float(off.min()), 3)} to {number(float(off.max()), 3)}"
            alt += f", the entries between classes from {between}"
        svg = inline_svg(f"z-{name}", alt + ".", heatmaps.class_matrix, Z, names, limit)
        figures[f"Z_{name}"] = (svg, f"Z of {_OF[name]}; its diagonal: {within}.")
    return figures


def _throughput(timeline: Timeline) -> dict[str, tuple[str, str]]:
    mean = timeline.mean_rate
    if mean is None:
        return {}
    edges, rates = binned_rates(timeline)
    alt = f"Curve of kernel throughput over time; the mean is {rate(mean)} {timeline.unit}."
    svg = inline_svg(
        "throughput", alt, plots.throughput, edges, rates, timeline.unit, timeline.restarts
    )
    caption = "Throughput while the kernel matrix was computed."
    if timeline.restarts:
        caption += " Pauses between starts are left out; dashed lines mark where it went on."
    return {"throughput": (svg, caption)}
