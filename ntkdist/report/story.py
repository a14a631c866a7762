"""The sentences and key numbers of a report."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.report.findings import Findings, verdicts
from ntkdist.report.timeline import Timeline
from ntkdist.report.words import (
    count,
    counted,
    duration,
    in_words,
    moment,
    number,
    percent,
    preset_of,
    rate,
    size,
)
from ntkdist.run import Run


def title(run: Run, shape: tuple[int, ...]) -> str:
    """Return the page's title."""
    source = run.config.data.source
    scheme, _, place = source.partition(":")
    name = scheme if scheme.startswith("cifar") else PurePath(place).name or source
    return f"{name}: {counted(shape[0], 'image')} and their labels"


def subtitle(run: Run, shape: tuple[int, ...]) -> str:
    """Return what the data are, in one line."""
    sides = " × ".join(str(side) for side in shape[1:])
    classes = counted(run.num_classes, "class", "classes")
    return f"{counted(shape[0], 'image')} of {sides} · {classes} · {run.config.data.split} split"


def summary(findings: Findings | None, n: int) -> list[str]:
    """Return what was found, as sentences with their numbers."""
    if findings is None:
        return ["The labels of this run have not been analysed yet."]
    issues, values = findings.num_issues, findings.block_error
    said = [f"None of the {counted(n, 'label')} looks wrong."]
    if issues:
        verb = "looks" if issues == 1 else "look"
        said = [f"{count(issues)} of {counted(n, 'label')} ({percent(issues / n)}) {verb} wrong."]
    flips = findings.summary.get("flips")
    if flips and {"given", "refurbished"} <= values.keys():
        before, after = values["given"], values["refurbished"]
        verb = "lowered" if after < before else "raised"
        said.append(
            f"Changing labels {counted(flips, 'time')} {verb} the label error L(Z) from "
            f"{number(before, 4)} to {number(after, 4)}."
        )
    corrupted = findings.summary.get("corrupted")
    restored, accuracy, at_first = _shares(findings)
    if corrupted and restored is not None:
        verb = "label was" if corrupted == 1 else "labels were"
        said.append(
            f"{count(corrupted)} {verb} corrupted for this experiment; "
            f"{percent(restored)} of them are restored."
        )
    if accuracy is not None:
        before_text = "" if at_first is None else f", {percent(at_first)} before"
        said.append(f"Now {percent(accuracy)} of all labels are right{before_text}.")
    return said


def key_numbers(findings: Findings | None, n: int) -> list[tuple[str, str, str]]:
    """Return (what, number, note) of what matters most."""
    if findings is None:
        return []
    tiles = [("Suspicious labels", count(findings.num_issues), f"of {count(n)}")]
    values = findings.block_error
    if {"given", "refurbished"} <= values.keys():
        before = f"from {number(values['given'], 4)}; lower is cleaner"
        tiles.append(("Label error L(Z)", number(values["refurbished"], 4), before))
    restored, accuracy, at_first = _shares(findings)
    if restored is not None:
        corrupted = findings.summary.get("corrupted") or 0
        tiles.append(("Corrupted labels restored", percent(restored), f"of {count(corrupted)}"))
    if accuracy is not None:
        note = "" if at_first is None else f"from {percent(at_first)}"
        tiles.append(("Labels that are right", percent(accuracy), note))
    return tiles


def loss_rows(findings: Findings) -> list[tuple[str, str, str]]:
    """Return (labels, L(Z), share of the given labels' L(Z)) for the table."""
    values = findings.block_error
    given = values.get("given")
    rows = []
    for name, value in values.items():
        share = percent(value / given) if given and given > 0 else "–"
        rows.append((name, number(value), share))
    return rows


def judgement(
    findings: Findings | None, given: NDArray[np.int64], true: NDArray[np.int64] | None
) -> str:
    """Return how good all suggestions are by the true labels; empty if those are not known."""
    if findings is None or true is None or not findings.num_issues:
        return ""
    flagged = findings.is_issue
    judged = verdicts(given[flagged], findings.suggested[flagged], true[flagged])
    right, other, kept = (int((judged == name).sum()) for name in ("right", "other", "kept"))
    return (
        f"By the true labels, {count(right)} of {counted(findings.num_issues, 'suggestion')} "
        f"{'is' if right == 1 else 'are'} right, {count(other)} "
        f"{'names' if other == 1 else 'name'} another wrong class, and in "
        f"{counted(kept, 'case')} the given label was right."
    )


def facts(run: Run, timeline: Timeline, findings: Findings | None) -> list[tuple[str, str]]:
    """Return (term, description) of what was computed, with what, and how it went."""
    config, manifest = run.config, run.manifest
    name = preset_of(run.architecture)
    architecture = in_words(run.architecture)
    noise = "none put on"
    if config.noise.rate > 0:
        noise = f"symmetric, {percent(config.noise.rate)} of the labels, seed {config.noise.seed}"
    drawn = (
        "all images" if config.data.n is None else f"{config.data.subset} {count(config.data.n)}"
    )
    if config.data.n is not None and config.data.subset != "first":
        drawn += f", seed {config.data.seed}"
    rows = [
        ("Architecture", f"{name}: {architecture}" if name else architecture),
        ("Kernels", ", ".join(kind.upper() for kind in config.gram.kinds)),
        ("Backend", _backend(run)),
        ("Numbers", f"{config.gram.dtype} kernel, float64 factor"),
        ("Data", f"{config.data.source}, {config.data.split}, {drawn}, {config.data.preprocess}"),
        ("Label noise", noise),
        *_labels(run, findings),
        *_tiles(timeline),
        ("Fingerprint", run.fingerprint[:12]),
        ("Created", moment(manifest.created)),
        ("Versions", ", ".join(f"{key} {value}" for key, value in manifest.versions.items())),
    ]
    return [(term, text) for term, text in rows if text]


def _backend(run: Run) -> str:
    name, reason = run.manifest.backend, run.manifest.reason
    if not reason or reason.startswith(name):
        return reason or name
    return f"{name} ({reason})"


def _labels(run: Run, findings: Findings | None) -> list[tuple[str, str]]:
    stored: dict[str, Any] = {} if findings is None else findings.summary
    labels = run.config.labels
    ridge = stored.get("ridge", run.config.factor.ridge)
    method, steps = stored.get("method", labels.method), stored.get("steps", labels.steps)
    beta = stored.get("beta", labels.beta)
    rows = [
        (
            "Labels",
            f"{method} method, {_limit(steps)}, β {number(beta)}, "
            f"ridge {ridge if ridge == 'auto' else number(ridge)} of the mean diagonal",
        )
    ]
    if stored.get("noise_rate") is not None:
        rows.append(("Noise estimated", f"{percent(stored['noise_rate'])} of the given labels"))
    if stored.get("abstained"):
        rows.append(("No sure class", f"{count(stored['abstained'])} images"))
    if stored.get("stopped"):
        rows.append(("Stopped because", str(stored["stopped"])))
    if stored.get("left_out"):
        rows.append(("Left out of L(Z)", "; ".join(map(str, stored["left_out"]))))
    return rows


def _limit(steps: int | str | None) -> str:
    if steps is None or steps == "none":
        return "until no change helps"
    if steps == "auto":
        return "stopped by the estimated noise"
    return f"at most {count(int(steps))} changes"


def _tiles(timeline: Timeline) -> list[tuple[str, str]]:
    if not (timeline.total or timeline.computed):
        return []
    tiles = counted(timeline.done, "tile")
    if timeline.total:
        tiles = f"{count(timeline.done)} of {counted(timeline.total, 'tile')}"
    if timeline.edge:
        tiles += f" of {count(timeline.edge)} × {count(timeline.edge)}"
    if timeline.bytes:
        tiles += f", {size(timeline.bytes)} computed"
    workers = counted(timeline.workers, "worker") if timeline.workers else ""
    if timeline.executor:
        workers += f" ({timeline.executor})"
    troubles = f"{counted(timeline.worker_losses, 'worker')} lost, "
    troubles += f"{counted(timeline.failures, 'failed attempt')} at a tile"
    if timeline.given_up:
        troubles += f", {counted(timeline.given_up, 'tile')} given up"
    starts = f"{counted(timeline.starts, 'start')}, {counted(timeline.resumes, 'resume')}"
    if timeline.interruptions:
        starts += f", {counted(timeline.interruptions, 'interruption')} by a signal"
    rows = [("Tiles", tiles), ("Workers", workers), ("Troubles", troubles), ("Starts", starts)]
    if timeline.mean_rate is not None:
        speed = f"{rate(timeline.mean_rate)} {timeline.unit} over {duration(timeline.seconds)}"
        rows.insert(1, ("Throughput", speed))
    return rows


def _shares(findings: Findings) -> tuple[float | None, float | None, float | None]:
    """Return share restored, accuracy after and before; None where true labels are not known."""
    names = ("restored_share", "accuracy_refurbished", "accuracy_given")
    restored, after, before = (findings.summary.get(name) for name in names)
    return restored, after, before
