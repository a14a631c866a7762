"""``write_report``: one HTML file about a run, complete in itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.errors import InputError
from ntkdist.report import story
from ntkdist.report.figures import draw_figures
from ntkdist.report.findings import class_rows, missing_parts, read_findings, worst_issues
from ntkdist.report.timeline import read_timeline
from ntkdist.report.words import count, counted, duration, number, percent
from ntkdist.run import Run

_PIXELATED = 64  # pictures up to this edge are shown with their pixels as squares
_HERE = Path(__file__).parent


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
    import jinja2
    from markupsafe import Markup

    timeline = read_timeline(run.url)
    findings = read_findings(run)
    given = run.read("inputs", "labels")
    true: NDArray[np.int64] | None = None
    if run.has("inputs", "labels_true"):
        true = run.read("inputs", "labels_true")
    shape = run.array("inputs", "pictures").shape
    figures = draw_figures(run.manifest.class_names, findings, timeline)
    issues = [] if findings is None else worst_issues(run, findings, given, true, max_issues)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=count, counted=counted, duration=duration, number=number, percent=percent
    )
    context: dict[str, Any] = {
        "style": Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        "title": story.title(run, shape),
        "subtitle": story.subtitle(run, shape),
        "sentences": story.summary(findings, len(given)),
        "tiles": story.key_numbers(findings, len(given)),
        "missing": missing_parts(run, timeline, findings),
        "resume_command": run.resume_command,
        "findings": findings,
        "losses": [] if findings is None else story.loss_rows(findings),
        "figures": {name: (Markup(svg), caption) for name, (svg, caption) in figures.items()},
        "issues": issues,
        "smooth": max(shape[1:3]) > _PIXELATED,
        "judgement": story.judgement(findings, given, true),
        "classes": class_rows(run.manifest.class_names, findings, given, true),
        "facts": story.facts(run, timeline, findings),
        "canonical": str(run.architecture),
        "stages": [stage for stage in timeline.stages.values() if stage.stage != "report"],
        "run_url": run.url,
    }
    return environment.get_template("template.html.j2").render(context)
