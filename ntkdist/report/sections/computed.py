"""What was computed, at what cost, what went wrong, and how to do it again."""

from __future__ import annotations

from typing import Any

from ntkdist.display.words import (
    count,
    counted,
    duration,
    in_words,
    moment,
    number,
    percent,
    rate,
    size,
)
from ntkdist.events.history import Timeline
from ntkdist.networks.architecture import preset_of
from ntkdist.report.sections.findings import Findings
from ntkdist.report.sections.story import interval_words, noise_words
from ntkdist.runs.inputs import source_of
from ntkdist.runs.run import Run


def facts(run: Run, timeline: Timeline, findings: Findings | None) -> list[tuple[str, str]]:
    """Return (term, description) of what was computed and with what."""
    config, manifest, data = run.config, run.manifest, run.config.data
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
        ("Data", f"{source_of(data)}, {data.split}, {drawn}, {data.preprocess}"),
        ("Label noise", noise),
        ("Architecture", f"{name}: {architecture}" if name else architecture),
        ("Kernels", ", ".join(kind.upper() for kind in config.gram.kinds)),
        ("Backend", _backend(run)),
        ("Numbers", f"{config.gram.dtype} kernel, float64 factor"),
        *_labels(run, findings),
        *_tiles(timeline),
        ("Fingerprint", run.fingerprint[:12]),
        ("Created", moment(manifest.created)),
        ("Versions", ", ".join(f"{key} {value}" for key, value in manifest.versions.items())),
    ]
    return [(term, text) for term, text in rows if text]


def faults(timeline: Timeline) -> str:
    """Return in one or two sentences what went wrong while the matrix was computed."""
    if not (timeline.total or timeline.computed):
        return ""
    parts = []
    if timeline.interruptions:
        parts.append(f"{counted(timeline.interruptions, 'interruption')} by a signal")
    if timeline.worker_losses:
        parts.append(f"{counted(timeline.worker_losses, 'worker')} lost")
    if timeline.failures:
        parts.append(f"{counted(timeline.failures, 'failed attempt')} at a tile")
    began = f"The matrix was computed in {counted(timeline.starts, 'start')}"
    if timeline.resumes:
        went_on = f"{count(timeline.resumes)} of which went on with the tiles already stored"
        began += f", {went_on}"
    if not parts:
        whole = "in one go" if timeline.starts == 1 else ""
        return f"The matrix was computed {whole}; nothing went wrong." if whole else f"{began}."
    kept = "what was finished was kept, and the rest was computed again."
    if timeline.given_up:
        kept = f"{counted(timeline.given_up, 'tile')} had to be given up."
    return f"{began}. There {_be(timeline, parts)} {', '.join(parts)}: {kept}"


def _be(timeline: Timeline, parts: list[str]) -> str:
    firsts = (timeline.interruptions, timeline.worker_losses, timeline.failures)
    return "was" if next(n for n in firsts if n) == 1 and len(parts) == 1 else "were"


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
    rows += _noise(findings)
    if stored.get("abstained"):
        rows.append(("No sure class", f"{count(stored['abstained'])} images"))
    if stored.get("stopped"):
        rows.append(("Changing labels", f"stopped: {stored['stopped']}"))
    if stored.get("left_out"):
        rows.append(("Left out of L(Z)", "; ".join(map(str, stored["left_out"]))))
    return rows


def _noise(findings: Findings | None) -> list[tuple[str, str]]:
    """Return the noise model, its rate with the interval, and the verdict."""
    if findings is None:
        return []
    reliability, rate_alone = findings.reliability, findings.summary.get("noise_rate")
    if reliability is None:
        if rate_alone is None:
            return []
        return [("Noise estimated", f"{percent(rate_alone)} of the given labels")]
    text = f"{percent(reliability.rate)} of the given labels, "
    text += interval_words(reliability)
    if not reliability.can_judge:
        text += "; not to be relied on, because the labels cannot be judged"
    return [
        ("Verdict", reliability.verdict),
        ("Noise model", noise_words(reliability)),
        ("Noise estimated", text),
    ]


def _limit(steps: int | str | None) -> str:
    if steps is None or steps == "none":
        return "until no change helps"
    if steps == "auto":
        return "stopped by the estimated noise"
    return f"at most {count(int(steps))} changes"


def _tiles(timeline: Timeline) -> list[tuple[str, str]]:
    rows = [("Cost", _cost(timeline))]
    if not (timeline.total or timeline.computed):
        return rows
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
    rows += [("Tiles", tiles), ("Workers", workers)]
    if timeline.mean_rate is not None:
        speed = f"{rate(timeline.mean_rate)} {timeline.unit} over {duration(timeline.seconds)}"
        rows.append(("Throughput", speed))
    return rows


def _cost(timeline: Timeline) -> str:
    """Return the time of all processors together, as in ``3.2 core-hours``."""
    parts = []
    for device, shown in (("gpu", "GPU"), ("core", "core")):
        seconds = timeline.work.get(device)
        if seconds:
            unit, length = next(
                (unit, length)
                for unit, length in (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
                if seconds >= length or unit == "seconds"
            )
            parts.append(f"{number(seconds / length, 3)} {shown}-{unit}")
    return " and ".join(parts) + " for all kernel entries" if parts else ""
