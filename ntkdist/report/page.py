"""``write_report``: one HTML file about a run, complete in itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.analyses import read_sections
from ntkdist.errors import InputError
from ntkdist.events.history import StageTime, Timeline, read_timeline
from ntkdist.report.sections import story
from ntkdist.report.sections.computed import facts, faults
from ntkdist.report.sections.figures import draw_figures
from ntkdist.report.sections.findings import (
    CLASS_CONDITIONAL,
    Discovery,
    Findings,
    Geometry,
    Spectrum,
    class_rows,
    confusions,
    entangled_pairs,
    missing_parts,
    read_findings,
    read_geometry,
    worst_issues,
)
from ntkdist.report.templates import HERE, templates
from ntkdist.runs.run import Run
from ntkdist.words import CANNOT_JUDGE

_PIXELATED = 64  # pictures up to this edge are shown with their pixels as squares
_PART = re.compile(r"[^/\\_]+[/\\_]*|[/\\_]+")  # of a file name, which may be broken after it


def write_report(run: Run, path: str | None = None, *, max_issues: int = 60) -> str:
    """Write what a run found and how, as one HTML file without scripts or links outside.

    A run that is not complete gives a report of what is there, with what is missing and the
    command that goes on. The same run gives the same bytes.

    Args:
        run: The run.
        path: Where to write, a path or URL; None means ``report.html`` in the run.
        max_issues: How many suspicious labels to show with their pictures, at least 0.

    Returns:
        The path or URL.

    Raises:
        InputError: If ``path`` cannot be written, or ``max_issues`` is negative.
        StoreError: If the run holds something that cannot be read.
    """
    if max_issues < 0:
        raise InputError(f"max_issues={max_issues} must be at least 0")
    path = run.address("report.html") if path is None else path
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
