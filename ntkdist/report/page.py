"""``write_report``: one HTML file about a run, complete in itself: its parts and its figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.analyses import read_sections
from ntkdist.display import heatmaps, plots
from ntkdist.display.svg import inline_svg
from ntkdist.display.words import class_name, count, counted, number, percent, rate
from ntkdist.errors import InputError
from ntkdist.events.history import StageTime, Timeline, read_timeline
from ntkdist.report import story
from ntkdist.report.findings import (
    CLASS_CONDITIONAL,
    Discovery,
    Findings,
    Geometry,
    Spectrum,
    class_rows,
    colored_classes,
    confusions,
    entangled_pairs,
    missing_parts,
    read_findings,
    read_geometry,
    worst_issues,
)
from ntkdist.report.story import facts, faults
from ntkdist.report.templates import HERE, templates
from ntkdist.runs.run import Run
from ntkdist.words import CANNOT_JUDGE

_PIXELATED = 64  # pictures up to this edge are shown with their pixels as squares
_PART = re.compile(r"[^/\\_]+[/\\_]*|[/\\_]+")  # of a file name, which may be broken after it


def write_report(run: Run, path: str | None = None, *, max_issues: int = 60) -> str:
    """Write what a run found and how, as one HTML file without scripts or links outside.

    A run that is not complete gives a report of what is there, with what is missing and the
    command that resumes it. The same run gives the same bytes.

    Args:
        run: The run.
        path: Where to write, a path or URL; None means ``report.html`` in the run.
        max_issues: How many suspicious labels to show with their pictures, at least 0.

    Raises:
        InputError: If ``path`` cannot be written, or ``max_issues`` is negative.
        StoreError: If the run holds something that cannot be read.
    """
    if max_issues < 0:
        raise InputError(f"max_issues={max_issues} must be at least 0")
    path = run.address("report.html") if path is None else storage.expand(path)
    storage.write_text(path, _render(run, max_issues))
    return path


def _render(run: Run, max_issues: int) -> str:
    from markupsafe import Markup

    environment = templates()
    environment.filters["svg"] = Markup  # drawn here, with every text escaped
    environment.filters["breakable"] = lambda name: Markup("<wbr>").join(_PART.findall(name))
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))
    return environment.get_template("template.html.j2").render(
        style=style, run_url=run.url, **_context(run, max_issues)
    )


def _context(run: Run, max_issues: int) -> dict[str, Any]:
    timeline = read_timeline(run.url)
    findings, geometry = read_findings(run), read_geometry(run)
    given = run.read("inputs", "labels")
    true: NDArray[np.int64] | None = None
    if run.has("inputs", "labels_true"):
        true = run.read("inputs", "labels_true")
    pictured = run.has_pictures
    shape = run.array("inputs", "pictures").shape if pictured else run.shape
    names = run.manifest.class_names
    discovery = None
    if findings is not None and true is not None:
        discovery = Discovery.of(findings.quality, given != true, findings.is_issue)
    issues = [] if findings is None else worst_issues(run, findings, given, true, max_issues)
    sections, missing = read_sections(run)
    judgement = story.judgement(findings, given, true)
    files = any(issue.file for issue in issues)
    figures = draw_figures(names, findings, geometry, discovery, given, timeline)
    return {
        "title": story.title(run, shape),
        "subtitle": story.subtitle(run, shape),
        "trust": story.trust(run, findings, len(given)),
        "judged": findings is None or findings.can_judge,
        "sentences": story.summary(findings, len(given)),
        "next_step": story.next_step(run, findings),
        "tiles": story.key_numbers(findings, len(given)),
        "missing": missing_parts(run, timeline, findings),
        "resume_command": run.resume_command,
        "findings": findings,
        "losses": [] if findings is None else story.loss_rows(findings),
        "checks": [] if discovery is None else story.discovery_sentences(discovery),
        "spectrum": _spectrum(findings, geometry),
        "pairs": _pairs(names, findings),
        "geometry": geometry,
        "figures": figures,
        **_noise(names, findings, given),
        "issues": issues,
        "listing": story.listing(run, findings, issues, files, judgement),
        "table": run.address("labels.csv") if storage.exists(run.address("labels.csv")) else "",
        "pictured": pictured,
        "smooth": pictured and max(shape[1:3]) > _PIXELATED,
        "judgement": judgement,
        "classes": class_rows(names, findings, given, true),
        "sections": sections,
        "questions": [(one.question, one.command_line(run)) for one in missing],
        "facts": facts(run, timeline, findings),
        "faults": faults(timeline),
        "repeat_command": run.repeat_command,
        "canonical": str(run.architecture),
        "stages": _stages(timeline, findings),
        "version": run.manifest.versions.get("ntkdist", ""),
    }


def _spectrum(findings: Findings | None, geometry: Geometry) -> list[str]:
    ridge = None if findings is None else findings.summary.get("ridge")
    values = geometry.eigenvalues
    if ridge is None or values is None or not len(values) or values[0] <= 0:
        return []
    return story.spectrum_sentences(Spectrum.of(values, float(ridge)), float(ridge))


def _noise(
    names: Sequence[str], findings: Findings | None, given: NDArray[np.int64]
) -> dict[str, Any]:
    """Say how labels go wrong, where that can be said."""
    reliability = None if findings is None else findings.reliability
    if reliability is None or not reliability.can_judge:
        return {"noise": [], "confused": [], "confusions": []}
    pairs = []
    if reliability.noise == CLASS_CONDITIONAL:
        pairs = confusions(reliability, given)
    return {
        "noise": story.noise_sentences(reliability, len(names)),
        "confused": story.confusion_sentences(pairs, names),
        "confusions": story.confusion_rows(pairs, names),
    }


def _stages(timeline: Timeline, findings: Findings | None) -> list[StageTime]:
    """Return the stages, without a count of suspicious labels where none can be judged."""
    stages = [stage for stage in timeline.stages.values() if stage.stage != "report"]
    if findings is None or findings.can_judge:
        return stages
    return [
        replace(stage, detail=CANNOT_JUDGE) if stage.stage == "labels" and stage.detail else stage
        for stage in stages
    ]


def _pairs(names: Sequence[str], findings: Findings | None) -> str:
    """Name the most entangled pairs by the best labels there are: the refurbished ones."""
    matrices = {} if findings is None else findings.class_matrices
    if findings is None or "refurbished" not in matrices:
        return ""
    Z = matrices["refurbished"]
    counts = np.bincount(findings.refurbished, minlength=len(Z))
    return story.pairs_sentence(names, entangled_pairs(Z, counts))


# Confusions that are circled where cells are too small for letters.
_NUMBERED = 5
_OF = {
    "given": "the given labels",
    "refurbished": "the refurbished labels",
    "true": "the true labels",
}


def draw_figures(
    names: Sequence[str],
    findings: Findings | None,
    geometry: Geometry,
    discovery: Discovery | None,
    given: NDArray[np.int64],
    timeline: Timeline,
) -> dict[str, tuple[str, str]]:
    """Draw every figure there is something to show for: name → (SVG, caption)."""
    figures: dict[str, tuple[str, str]] = {}
    if findings is not None:
        figures |= _losses(findings)
        figures |= _noise_figure(names, findings, given)
        figures |= _checks(findings, discovery)
        figures |= _gram(names, findings)
        figures |= _spectrum_figure(geometry, findings)
        figures |= _components(names, geometry, findings, given)
        figures |= _class_matrices(names, findings)
    return figures | _throughput(timeline)


def _losses(findings: Findings) -> dict[str, tuple[str, str]]:
    figures: dict[str, tuple[str, str]] = {}
    values = findings.block_error
    if len(values) > 1 and all(np.isfinite(v) for v in values.values()):
        said = ", ".join(f"{number(v)} for {_OF[k]}" for k, v in values.items())
        svg = inline_svg("bars", f"Bars: L(Z) is {said}.", plots.loss_bars, list(values.items()))
        figures["bars"] = (svg, "L(Z) of each set of labels; lower fits the kernel better.")
    if not findings.can_judge:
        return figures
    if findings.at_once:
        return figures | _changes(findings)
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


def _changes(findings: Findings) -> dict[str, tuple[str, str]]:
    """Draw what each changed label alone does, where all were decided at once."""
    deltas = findings.deltas
    if deltas is None or not len(deltas) or not np.isfinite(deltas).all():
        return {}
    lower = int((deltas < 0).sum())
    alt = (
        f"Dots: the change of L(Z) by each of {counted(len(deltas), 'changed label')} alone, the "
        f"surest first; {count(lower)} of them lie below zero."
    )
    svg = inline_svg("changes", alt, plots.change_marks, deltas)
    caption = (
        "What each changed label alone does to L(Z), the surest first; below zero it fits the "
        "kernel better than the given one."
    )
    return {"changes": (svg, caption)}


def _noise_figure(
    names: Sequence[str], findings: Findings, given: NDArray[np.int64]
) -> dict[str, tuple[str, str]]:
    """Draw which classes are taken for which, where that was estimated."""
    reliability = findings.reliability
    if reliability is None or not reliability.can_judge or reliability.noise != CLASS_CONDITIONAL:
        return {}
    pairs = confusions(reliability, given)
    T = reliability.transition
    if T is None or not pairs or not np.isfinite(T).all():
        return {}
    k, d, most = pairs[0]
    kept = np.diagonal(T)
    alt = (
        "Heatmap of the estimated label noise, true classes in rows and given labels in columns: "
        f"off the diagonal at most {percent(most)} ({class_name(names, k)} labelled "
        f"{class_name(names, d)}), on it {percent(float(kept.min()))} to "
        f"{percent(float(kept.max()))}."
    )
    shown = (T, names, [(k, d) for k, d, _ in pairs[:_NUMBERED]])
    svg = inline_svg("noise", alt, heatmaps.transition, *shown)
    caption = (
        "How many percent of a class (row) have which label (column), by estimate. Colours are of "
        "the wrong labels alone; the diagonal has the right ones."
    )
    if heatmaps.is_lettered(len(T)):
        caption += " What rounds to zero is left blank."
    else:
        caption += f" Circles: the {count(len(shown[2]))} most frequent."
    return {"noise": (svg, caption)}


def _checks(findings: Findings, discovery: Discovery | None) -> dict[str, tuple[str, str]]:
    if discovery is not None:
        alt = (
            f"Curve: share of the {count(discovery.total)} wrong labels found over the labels "
            "checked in the order of their quality"
        )
        if discovery.flagged:
            alt += (
                f"; a dot: the {count(discovery.flagged)} flagged ones hold "
                f"{percent(discovery.flagged_share)}"
            )
        alt += "."
        svg = inline_svg(
            "discovery", alt, plots.discovery_curve, discovery.found, discovery.flagged,
            discovery.flagged_share,
        )  # fmt: skip
        caption = (
            "Line: wrong labels found when labels are checked in the order of their quality. "
            "Dotted: the best possible order; dashed: any order."
        )
        if discovery.flagged:
            caption += (
                " Dot: by checking the flagged ones, which need not be the first in that order."
            )
        return {"discovery": (svg, caption)}
    quality = findings.quality[np.isfinite(findings.quality)]
    if not len(quality) or not findings.can_judge:
        return {}
    alt = (
        f"Histogram of label quality, 0 to 1: {count(int((quality < 0.5).sum()))} of "
        f"{count(len(quality))} labels lie below one half."
    )
    shown = (quality, findings.is_issue[np.isfinite(findings.quality)])
    svg = inline_svg("quality", alt, plots.quality_histogram, *shown)
    caption = (
        "Label quality, low is suspicious. With a clear gap in the middle the decisions are sure."
    )
    return {"quality": (svg, caption)}


def _spectrum_figure(geometry: Geometry, findings: Findings) -> dict[str, tuple[str, str]]:
    values = geometry.eigenvalues
    if values is None or not len(values) or values[0] <= 0:
        return {}
    ridge = findings.summary.get("ridge")
    of = (
        ""
        if len(values) == len(findings.quality)
        else f" of a sample of {count(len(values))} images"
    )
    alt = (
        f"Eigenvalues{of} on log scales, from {number(float(values[0]), 3)} down to "
        f"{number(float(values[-1]), 3)}"
    )
    if ridge is not None:
        above = int((values > ridge).sum())
        alt += f"; {count(above)} lie above the ridge of {number(ridge, 3)}"
    svg = inline_svg("spectrum", f"{alt}.", plots.spectrum, values, ridge)
    caption = (
        f"Eigenvalues of the kernel matrix{of}, over the mean of its diagonal. Directions below "
        "the ridge are not fitted."
    )
    return {"spectrum": (svg, caption)}


def _components(
    names: Sequence[str], geometry: Geometry, findings: Findings, given: NDArray[np.int64]
) -> dict[str, tuple[str, str]]:
    points, images = geometry.points, geometry.images
    if points is None or images is None or not len(images) or images.max() >= len(given):
        return {}
    labels, suspicious = given[images], findings.is_issue[images]
    colored = colored_classes(given, findings.is_issue, len(names))
    figures = {}
    shown = "The images"
    if len(images) < len(given):
        shown = f"A balanced sample of {counted(len(images), 'image')}"
    for name, first in (("kpca", 0), ("kpca_next", 2)):
        if points.shape[1] <= first:
            break
        pair = f"{first + 1} and {first + 2}"
        alt = f"Scatter of images in kernel principal components {pair}, coloured by given class"
        if suspicious.any():
            alt += f"; {count(int(suspicious.sum()))} suspicious ones have a ring"
        alt += "."
        svg = inline_svg(
            name, alt, plots.components, points, labels, names, suspicious, colored,
            geometry.explained, first,
        )  # fmt: skip
        caption = f"{shown} in kernel principal components {pair}, coloured by given class."
        if suspicious.any():
            caption += " A ring: suspicious; often it lies among another colour."
        if len(colored) < len(names):
            fewer = "suspicious labels" if suspicious.any() else "images"
            caption += f" Grey: classes with fewer {fewer}."
        figures[name] = (svg, caption)
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
            "alike than usual, blue less. Classes whose images are alike make orange blocks.",
        ),
    }


def _class_matrices(names: Sequence[str], findings: Findings) -> dict[str, tuple[str, str]]:
    figures: dict[str, tuple[str, str]] = {}
    matrices = findings.class_matrices
    limit = heatmaps.between_limit(list(matrices.values()))
    for name, Z in matrices.items():
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
    edges, rates = timeline.binned_rates()
    alt = f"Curve of kernel throughput over time; the mean is {rate(mean)} {timeline.unit}"
    workers = timeline.worker_counts()
    if workers is not None:
        alt += f"; below it the workers, at most {count(int(workers[1].max()))}"
    if timeline.marks:
        alt += f", and {counted(len(timeline.marks), 'mark')} where something went wrong"
    svg = inline_svg(
        "throughput", f"{alt}.", plots.throughput, edges, rates, timeline.unit,
        timeline.restarts, workers, timeline.marks,
    )  # fmt: skip
    caption = "Throughput while the kernel matrix was computed"
    caption += ", and the workers." if workers is not None else "."
    if timeline.restarts:
        caption += " Pauses between starts are left out; dashed lines mark the restarts."
    return {"throughput": (svg, caption)}
