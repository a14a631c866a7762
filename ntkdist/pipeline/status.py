"""The state of a run, read from its store alone: stages, activity, results, what to run next."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from ntkdist import storage
from ntkdist.events.history import Activity, read_history
from ntkdist.gram.store import GramStore
from ntkdist.runs.inputs import source_of
from ntkdist.runs.run import Run
from ntkdist.storage import lease

_AFTER = ("predict", "dynamics")  # what follows the report, unless it is there already
_HEARD = 600.0  # seconds since its last event in which a driver elsewhere is taken to live
OTHER_RESULTS = ("predict", "dynamics", "widths", "sweep", "label_aware", "lookahead")


@dataclass(frozen=True)
class GramState:
    """How far one kernel matrix is.

    Attributes:
        kind: Of kernel.
        done: Tiles that are stored.
        total: Tiles in all; None where it was not begun.
        edge: Images of a tile; None likewise.
        made_by: Arithmetic → tiles.
    """

    kind: str
    done: int = 0
    total: int | None = None
    edge: int | None = None
    made_by: dict[str, int] | None = None


@dataclass(frozen=True)
class LabelsFound:
    """What the label stage found.

    Attributes:
        images: N.
        issues: Labels that look wrong.
        noise_rate: Share of labels estimated wrong.
        reliability: How far to trust what is said of the labels, as
            ``ntkdist.labels.Reliability``; None in runs of versions that did not say.
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
        unsettled: Whether a killed extension left it between two sizes; all below is then empty.
        shape: (N, H, W, C) of images, (N, D) of features.
        classes: K.
        source: Of its images.
        backend: Why that backend was taken.
        extended: How it grew, in words; None for a run that did not.
        gram: One state for each kind of kernel.
        ridge: Of the factor, or auto.
        factored: Whether the factor with that ridge is stored, with what the label method needs
            of its inverse: the diagonal for posterior, all of it for the others.
        labels: What the label stage found; None where it has not run on the images of now.
        results: Other results that are stored.
        activity: What the events say.
        silent_for: Seconds since the last event; None where there is none.
        driver: Which process holds the run, in words; None where none does.
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
    labels: LabelsFound | None = None
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
    factored = ridge != "auto" and _is_factored(run, f"ridge-{ridge:g}")
    activity = read_history(url).activity()
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
        results=tuple(
            name.replace("_", "-")
            for name in OTHER_RESULTS
            if run.attributes(name) and run.is_current(name)
        ),
        activity=activity,
        silent_for=silent,
        driver=describe_driver(run),
        finished=finished,
    )


def next_after_report(run: Run) -> str | None:
    """Return the command that tells more of a finished run; None where all of it is stored."""
    wanted = (name for name in _AFTER if not (run.attributes(name) and run.is_current(name)))
    name = next(wanted, None)
    return None if name is None else f"ntkdist {name} {run.url}"


def _next(run: Run, finished: bool, silent: float | None) -> str:
    """Return the command to run next; one that a driver at work does not refuse."""
    report = f"ntkdist report {run.url}"
    holder = lease.holder_of(run.url)
    if holder is not None:
        lives = holder.lives()
        if lives or (lives is None and silent is not None and silent < _HEARD):
            return f"{report} --watch"
    if not finished:
        return run.resume_command
    if not storage.exists(run.address("report.html")):
        return report
    return next_after_report(run) or report


def read_gram(run: Run) -> list[GramState]:
    """Return how far each kernel matrix of a run is."""
    found = []
    for kind in run.config.gram.kinds:
        address = run.address("gram", kind)
        if not GramStore.exists(address):
            found.append(GramState(kind))
            continue
        store = GramStore.open(address, "r", run.fingerprint)
        by = store.count_by_arithmetic()  # one listing of the store, which says all
        tiling = store.tiling
        found.append(GramState(kind, sum(by.values()), tiling.count, tiling.edge, dict(by)))
    return found


def read_labels(run: Run) -> LabelsFound | None:
    """Return what the label stage stored, or None if it has not run."""
    summary = run.attributes("labels").get("summary")
    if not summary:
        return None
    return LabelsFound(
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


LOSSES = ("given", "refurbished", "true")
_KEPT = (
    "noise_rate", "flips", "stopped", "method", "ridge", "corrupted", "restored_share",
    "accuracy_given", "accuracy_refurbished",
)  # fmt: skip


def describe_driver(run: Run) -> str | None:
    """Return which driver holds the run, in words; None where nobody does."""
    holder = lease.holder_of(run.url)
    if holder is None:
        return None
    lives = holder.lives()
    if lives is None:  # whether it is still renewed can be seen by looking again
        return f"{holder}; renewed {holder.beat} times, every {holder.every:.0f} s while it lives"
    return f"{holder}" if lives else f"none; {holder}, was killed"


def _extended(run: Run) -> str | None:
    """Return how a run was extended, and what is still of its smaller self."""
    extension = run.manifest.extension
    if extension is None:
        return None
    words = [f"from {' and '.join(str(one.images) for one in extension.former)} images"]
    old = [] if _labels_of_now(run) or not run.attributes("labels") else ["labels"]
    old += [name for name in OTHER_RESULTS if run.attributes(name) and not run.is_current(name)]
    if old:
        words.append(f"{', '.join(old).replace('_', '-')} stored are of before")
    if extension.state != "done":
        words.append(f"not finished: {run.extend_command}")
    return "; ".join(words)


def _is_factored(run: Run, ridge: str) -> bool:
    """Return whether the factor stage is done with a ridge, for the images that the run has now."""
    from ntkdist.pipeline.growth import is_ready, is_stale

    name = f"ntk/{ridge}"
    return is_ready(run, name, run.config.labels.method) and not is_stale(run, name)


def _labels_of_now(run: Run) -> bool:
    """Return whether the labels found are of the images that the run has now."""
    if run.manifest.extension is None:
        return True
    return run.is_current("labels") and bool(run.attributes("labels").get("fingerprint"))
