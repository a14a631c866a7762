"""The state of a run, read from its store alone: stages, activity, results, what to run next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ntkdist import storage
from ntkdist.analyses import analyses
from ntkdist.data.features import feature_words
from ntkdist.events.history import Activity, FailedTile, read_history
from ntkdist.pipeline.gram import stored_gram
from ntkdist.runs.inputs import source_of
from ntkdist.runs.run import Run
from ntkdist.storage import lease
from ntkdist.words import CANNOT_JUDGE, CLEAN_SHARE, RELIABLE, counted, duration, percent

_RECENT = 600.0  # a driver on another machine is taken to live so many seconds after its last event
_SILENT = 120.0  # seconds without an event after which a driver may have ended
_SHOWN, _FEW_ERRORS, _LONGEST = 5, 3, 160
LOSSES = ("given", "refurbished", "true")
_KEPT = (
    "noise_rate", "flips", "stopped", "method", "ridge", "corrupted", "restored_share",
    "accuracy_given", "accuracy_refurbished",
)  # fmt: skip


@dataclass(frozen=True)
class GramState:
    """How far one kernel matrix is.

    Attributes:
        kind: Of the kernel.
        done: Tiles that are stored.
        total: Tiles in all; None if the matrix was not begun.
        edge: Images of a tile; None if the matrix was not begun.
        made_by: Arithmetic → tiles.
    """

    kind: str
    done: int = 0
    total: int | None = None
    edge: int | None = None
    made_by: dict[str, int] | None = None


@dataclass(frozen=True)
class LabelsSummary:
    """The results of the label stage.

    Attributes:
        images: N.
        issues: Labels that look wrong.
        noise_rate: Share of labels estimated wrong.
        reliability: How far to trust the results, as ``ntkdist.labels.Reliability``; None in runs
            of versions that stored none.
        transition: (K, K) P(given label | true class) under class-conditional noise; else None.
        flips: Labels that were changed.
        stopped: Why it stopped.
        method: posterior, exact or paper.
        ridge: Relative to the mean diagonal.
        block_error: L(Z) of the given, refurbished and true labels; None where there are none.
        corrupted: Labels replaced for an experiment; None where none were.
        restored_share: Of them, those that got their true label back.
        accuracy_given: Share of given labels that are true, where that is known.
        accuracy_refurbished: The same of the refurbished.
    """

    images: int
    issues: int
    noise_rate: float
    reliability: dict[str, Any] | None
    transition: list[list[float]] | None
    flips: int
    stopped: str
    method: str
    ridge: float
    block_error: dict[str, float | None]
    corrupted: int | None
    restored_share: float | None
    accuracy_given: float | None
    accuracy_refurbished: float | None


@dataclass(frozen=True)
class RunStatus:
    """Which stages of a run are done.

    Attributes:
        run: Its address.
        fingerprint: Of its Gram.
        created: When, UTC.
        unsettled: Whether a killed extension left it between two sizes; the attributes below are
            then empty.
        shape: (N, H, W, C) of images, (N, D) of features.
        classes: K.
        source: Of its images.
        backend: Why that backend was chosen.
        extended: How the run was extended, in words; None if it was not.
        gram: One state for each kind of kernel.
        ridge: Of the factor, or auto.
        factored: Whether the factor with that ridge is stored, with what the label method needs
            of its inverse: the diagonal for posterior, all of it for the others.
        labels: Results of the label stage; None if it has not run on the run's present images.
        results: Commands of the other analyses whose results are stored.
        activity: What the events say.
        silent_for: Seconds since the last event; None without events.
        driver: Which process holds the run, in words; None if none does.
        finished: Whether gram, factor and labels are done.
        next: The command to run next.
    """

    run: str
    fingerprint: str
    created: str
    unsettled: bool
    next: str
    shape: tuple[int, ...] = ()
    classes: int = 0
    source: str = ""
    backend: str = ""
    extended: str | None = None
    gram: tuple[GramState, ...] = ()
    ridge: float | str = "auto"
    factored: bool = False
    labels: LabelsSummary | None = None
    results: tuple[str, ...] = ()
    activity: Activity = field(default_factory=Activity)
    silent_for: float | None = None
    driver: str | None = None
    finished: bool = False


def read_status(url: str, *, now: float | None = None) -> RunStatus:
    """Read the state of a run.

    Raises:
        InputError: If there is no run.
    """
    run = Run.open(url, pending_extension=True)
    about = (run.url, run.fingerprint, run.manifest.created)
    if run.has_pending_extension:
        return RunStatus(*about, unsettled=True, next=run.extend_command)
    gram = tuple(read_gram(run))
    whole = all(one.done == one.total for one in gram)
    ridge = run.config.factor.ridge
    factored = ridge != "auto" and is_factored(run, f"ridge-{ridge:g}")
    activity = read_history(url).activity()
    holder = lease.holder_of(run.url)
    if holder is not None and holder.lives() is False:  # its workers ended with it
        activity = replace(activity, alive={}, in_flight=())
    labels = read_labels(run) if _labels_of_now(run) else None
    finished = whole and factored and labels is not None
    silent = activity.since_last_event(time.time() if now is None else now)
    return RunStatus(
        *about,
        unsettled=False,
        next=_next(run, finished, silent),
        shape=run.shape,
        classes=run.num_classes,
        source=source_of(run.config.data),
        backend=run.manifest.reason,
        extended=_extended(run),
        gram=gram,
        ridge=ridge,
        factored=factored,
        labels=labels,
        results=tuple(one.command for one in analyses() if one.is_current(run)),
        activity=activity,
        silent_for=silent,
        driver=describe_driver(run),
        finished=finished,
    )


def next_after_report(run: Run) -> str | None:
    """Return the suggested command whose results a finished run lacks; None if it has all."""
    lacking = (one for one in analyses() if one.suggested and not one.is_current(run))
    first = next(lacking, None)
    return None if first is None else first.command_line(run)


def _next(run: Run, finished: bool, silent: float | None) -> str:
    """Return the command to run next: while a driver holds the run, one that only reads."""
    report = f"ntkdist report {run.url}"
    holder = lease.holder_of(run.url)
    if holder is not None:
        lives = holder.lives()
        if lives or (lives is None and silent is not None and silent < _RECENT):
            return f"{report} --watch"
    if not finished:
        return run.resume_command
    if not storage.exists(run.address("report.html")):
        return report
    return next_after_report(run) or report


def read_gram(run: Run) -> list[GramState]:
    """Return how far each kernel matrix of a run is."""
    states = []
    for kind in run.config.gram.kinds:
        store = stored_gram(run, kind)
        if store is None:
            states.append(GramState(kind))
            continue
        by = store.count_by_arithmetic()  # lists the store once
        tiling = store.tiling
        states.append(GramState(kind, sum(by.values()), tiling.count, tiling.edge, dict(by)))
    return states


def read_labels(run: Run) -> LabelsSummary | None:
    """Return the results of the label stage, or None if it has not run."""
    summary = run.attributes("labels").get("summary")
    if not summary:
        return None
    return LabelsSummary(
        images=int(run.array("inputs", "labels").shape[0]),
        issues=summary["num_issues"],
        block_error={name: summary["block_error"].get(name) for name in LOSSES},
        reliability=(how := summary.get("reliability")),
        transition=(
            run.read("labels", "transition").tolist()
            if how and how["noise"] == "class-conditional"
            else None
        ),
        **{name: summary[name] for name in _KEPT},
    )


def describe_driver(run: Run) -> str | None:
    """Return which driver holds the run, in words; None if none does."""
    holder = lease.holder_of(run.url)
    if holder is None:
        return None
    lives = holder.lives()
    if lives is None:  # on another machine: look again to see whether the lease is renewed
        return f"{holder}; renewed {holder.beat} times, every {holder.every:.0f} s while it lives"
    return f"{holder}" if lives else f"none; {holder}, was killed"


def _extended(run: Run) -> str | None:
    """Return how a run was extended, and which stored results are of its former images."""
    extension = run.manifest.extension
    if extension is None:
        return None
    words = [f"from {' and '.join(str(one.images) for one in extension.former)} images"]
    old = [] if _labels_of_now(run) or not run.attributes("labels") else ["labels"]
    old += [one.command for one in analyses() if one.is_stored(run) and not one.is_current(run)]
    if old:
        words.append(f"the stored results of {', '.join(old)} are of the former images")
    if extension.state != "done":
        words.append(f"not finished: {run.extend_command}")
    return "; ".join(words)


def is_factored(run: Run, ridge: str) -> bool:
    """Return whether the factor stage is done with a ridge, for the run's present images."""
    from ntkdist.pipeline.growth import is_ready, is_stale

    name = f"ntk/{ridge}"
    return is_ready(run, name, run.config.labels.method) and not is_stale(run, name)


def _labels_of_now(run: Run) -> bool:
    """Return whether the results of the label stage are of the run's present images."""
    if run.manifest.extension is None:
        return True
    return run.is_current("labels") and bool(run.attributes("labels").get("fingerprint"))


def describe_labels(labels: LabelsSummary | None) -> str:
    """Return the results of the label stage in a few lines; empty if it has not run."""
    if labels is None:
        return ""
    losses = labels.block_error
    shown = [f"{name} {losses[name]:.5g}" for name in LOSSES if losses[name]]
    lines = [
        f"L(Z)      {', '.join(shown)} (lower is cleaner)",
        f"labels    {describe_flags(labels)}; stopped: {labels.stopped}",
        *describe_reliability(labels),
    ]
    restored, before, after = (
        labels.restored_share, labels.accuracy_given, labels.accuracy_refurbished
    )  # fmt: skip
    if restored is not None and before is not None and after is not None:
        lines.append(
            f"restored  {percent(restored, 2)} of {labels.corrupted} corrupted labels; "
            f"label accuracy {percent(before, 2)} -> {percent(after, 2)}"
        )
    return "\n".join(lines)


def describe_flags(labels: LabelsSummary) -> str:
    """Return how many labels look wrong, in one line, or that they cannot be judged."""
    how = labels.reliability
    if how is None:
        rate = percent(labels.noise_rate)
        return f"{labels.issues} of {labels.images} look wrong; estimated noise {rate}"
    if how["verdict"] == CANNOT_JUDGE:
        return "these labels cannot be judged: none is flagged, and none is called clean"
    if labels.issues:
        return f"{labels.issues} of {labels.images} labels look wrong"
    share, images = how["noise_interval"][1], labels.images
    if how["verdict"] == RELIABLE and share <= CLEAN_SHARE:
        most = f"at most {percent(share)} of {images} labels"
        return f"no label looks wrong; {most} are estimated wrong"
    return f"no label is flagged, but up to {percent(share, 0)} of {images} labels may be wrong"


def describe_reliability(labels: LabelsSummary) -> list[str]:
    """Return how far to trust what is said of the labels, a line each; none for old runs."""
    how = labels.reliability
    if how is None:
        return []
    lines = [f"verdict   {how['verdict']}: {how['reason']}"]
    if how["verdict"] == CANNOT_JUDGE:
        return lines
    rate, low, high = map(percent, (how["noise_rate"], *how["noise_interval"]))
    lines.append(
        f"noise     {rate} of the labels are estimated wrong ({low} to {high}), "
        f"{how['noise']} noise"
    )
    if how["expected_precision"] is not None:
        precision = percent(how["expected_precision"], 0)
        lines.append(f"flags     {precision} of the flagged labels are expected to be wrong")
    return lines


def describe_status(status: RunStatus) -> str:
    """Return the state of a run in a few lines, without the command to run next."""
    if status.unsettled:
        return f"run       {status.run}\nextended  interrupted"
    shape = " × ".join(map(str, status.shape))
    if len(status.shape) == 2:
        shape = feature_words(*status.shape)
    ridge = "ridge auto" if isinstance(status.ridge, str) else f"ridge-{status.ridge:g}"
    lines = [
        f"run       {status.run} ({status.fingerprint[:12]}), created {status.created}",
        f"inputs    {shape}, {status.classes} classes, {status.source}",
        f"backend   {status.backend}",
        *([f"extended  {status.extended}"] if status.extended else []),
        *(_gram_line(one) for one in status.gram),
        f"factor    {ridge}: {'stored' if status.factored else 'not finished'}",
        describe_labels(status.labels) or "labels    not done",
        *([f"results   {', '.join(status.results)}"] if status.results else []),
        *_activity_lines(status.activity, status.silent_for),
        *([f"driver    {status.driver}"] if status.driver else []),
    ]
    return "\n".join(lines)


def _gram_line(state: GramState) -> str:
    if state.total is None:
        return f"gram      {state.kind}: not started"
    by = state.made_by or {}
    mixed = ", ".join(f"{count} by {name}" for name, count in by.items())
    return f"gram      {state.kind}: {state.done} of {state.total} tiles of edge {state.edge}" + (
        f" ({mixed})" if len(by) > 1 else ""
    )


def _activity_lines(activity: Activity, since: float | None) -> list[str]:
    """Return what the run's events say: speed, workers, failures, stages."""
    if since is None:
        return []
    lines = []
    if activity.tiles_per_second is not None and activity.entries_per_second is not None:
        left = activity.seconds_left
        remaining = ""
        if left is not None:
            remaining = f"; about {duration(left, whole=True)} of work left at that rate"
        lines.append(
            f"rate      {60 * activity.tiles_per_second:.3g} tiles/min, "
            f"{activity.entries_per_second:,.4g} entries/s in the last minutes of work{remaining}"
        )
    if activity.seen:
        words = [f"{sum(activity.alive.values())} alive{_at(activity.alive)}"]
        words += [f"{activity.lost} lost"] if activity.lost else []
        words.append(f"{sum(activity.seen.values())} seen{_at(activity.seen)}")
        lines.append(f"workers   {', '.join(words)}")
    if activity.in_flight:
        shown = ", ".join(activity.in_flight[:_SHOWN])
        more = len(activity.in_flight) - _SHOWN
        lines.append(
            f"in flight {counted(len(activity.in_flight), 'tile')}: {shown}"
            + (f" and {more} more" if more > 0 else "")
        )
    lines += _failure_lines("retried", activity.retried)
    lines += _failure_lines("given up", activity.given_up)
    if activity.stages:
        stages = activity.stages.items()
        done = (f"{name} {duration(seconds, whole=True)}" for name, (seconds, _) in stages)
        lines.append(f"stages    {', '.join(done)}")
    at_work = f", in stage {activity.stage}" if activity.stage else ""
    silent = activity.tiles_per_second and since > max(_SILENT, 10 / activity.tiles_per_second)
    lines.append(
        f"last      event {duration(since, whole=True)} ago{at_work}"
        + ("; a running driver would have written more" if at_work and silent else "")
    )
    return lines


def _at(hosts: Mapping[str, int]) -> str:
    """Return how many workers are on which host, the largest numbers first."""
    if not hosts:
        return ""
    ranked = sorted(hosts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count} on {host}" for host, count in ranked[:_SHOWN])
    more = len(ranked) - _SHOWN
    return f" ({shown}{f' and {more} hosts more' if more > 0 else ''})"


def _failure_lines(name: str, tiles: Sequence[FailedTile]) -> list[str]:
    """Return how many tiles failed, and the last error of a few of them."""
    if not tiles:
        return []
    lines = [f"{name:<10}{counted(len(tiles), 'tile')}; last errors:"]
    lines += [
        f"  {tile.key} ({tile.times}×): {tile.error[:_LONGEST]}" for tile in tiles[-_FEW_ERRORS:]
    ]
    return lines
