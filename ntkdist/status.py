"""Which stages of a run are done, read from its store alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ntkdist import lease
from ntkdist.gram.activity import Activity, Trouble, read_activity
from ntkdist.gram.events import read_events
from ntkdist.gram.progress import _duration as duration
from ntkdist.gram.store import GramStore
from ntkdist.run import Run

if TYPE_CHECKING:
    from ntkdist.labels.bias import ClassBias
    from ntkdist.pipeline.compare import Compared
    from ntkdist.pipeline.labelings import Labeling

_OTHER_RESULTS = ("predict", "dynamics", "widths", "sweep", "label_aware", "lookahead")
_SHOWN, _FEW_ERRORS, _LONGEST = 5, 3, 160
_SILENT = 120.0  # seconds


def describe_labels(run: Run) -> str:
    """Return what the label stage found in a few lines; empty if it has not run."""
    summary = run.attributes("labels").get("summary")
    if not summary:
        return ""
    losses = summary["block_error"]
    shown = [
        f"{name} {losses[name]:.5g}" for name in ("given", "refurbished", "true") if losses[name]
    ]
    total = run.array("inputs", "labels").shape[0]
    lines = [
        f"L(Z)      {', '.join(shown)} (lower is cleaner)",
        f"labels    {summary['num_issues']} of {total} look wrong; "
        f"estimated noise {summary['noise_rate']:.1%}; {summary['stopped']}",
    ]
    if summary["restored_share"] is not None:
        before, after = summary["accuracy_given"], summary["accuracy_refurbished"]
        lines.append(
            f"restored  {summary['restored_share']:.2%} of {summary['corrupted']} corrupted "
            f"labels; label accuracy {before:.2%} -> {after:.2%}"
        )
    return "\n".join(lines)


def describe_comparison(found: Sequence[Compared], folder: str) -> str:
    """Return a table of architectures, best leave-one-out accuracy first, with their ranks."""
    from ntkdist.pipeline.compare import ranks

    place = ranks(found)
    head = ("architecture", "accuracy", "log-lik.", "L(Z)", "separation", "noise", "Gram", "solve")
    rows = [
        (
            one.name,
            f"{one.accuracy:.2%} ({place['accuracy'][i]})",
            f"{one.log_likelihood:.3f} ({place['log_likelihood'][i]})",
            f"{one.block_error:.4g} ({place['block_error'][i]})",
            f"{one.separation:.3f} ({place['separation'][i]})",
            f"{one.noise_rate:.1%}",
            f"{one.gram_seconds:.1f} s",
            f"{one.factor_seconds:.1f} s",
        )
        for i, one in enumerate(found)
    ]
    notes = (
        "leave-one-out accuracy and log-likelihood of the given labels: higher is better; L(Z) "
        "times the mean diagonal: lower; separation of classes by kernel PCA: higher; rank in "
        f"brackets; all in {folder}/compare.json, "
        "a picture of the classes in compare.svg"
    )
    return "\n".join([*_columns([head, *rows]), notes])


def describe_labelings(found: Sequence[Labeling]) -> str:
    """Return a table of labelings, the cleanest first."""
    head = ("labels", "L(Z)", "differ from given", "estimated noise", "")
    rows = [
        (
            one.name,
            f"{one.block_error:.5g}",
            f"{one.changed:.2%}",
            f"{one.noise_rate:.1%}",
            "; ".join(one.left_out),
        )
        for one in found
    ]
    return "\n".join(_columns([head, *rows]))


def describe_bias(found: ClassBias, names: Sequence[str], most: int = 20) -> str:
    """Return the ranking of classes, and the first pairs of the ranking of pairs."""
    lines = ["classes, hardest first:"]
    lines += [f"  {names[k]}" for k in found.intra]
    pairs = [(int(k), int(d)) for k, d in found.inter]
    lines.append(f"pairs, most entangled first ({min(most, len(pairs))} of {len(pairs)}):")
    lines += [f"  {names[k]} – {names[d]}" for k, d in pairs[:most]]
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines in which the cells of a column begin at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def describe_driver(run: Run) -> str | None:
    """Return which driver holds the run, in words; None where nobody does."""
    holder = lease.holder_of(run.url)
    if holder is None:
        return None
    lives = holder.lives()
    if lives is None:  # whether it is still renewed can be seen by looking again
        return f"{holder}; renewed {holder.beat} times, every {holder.every:.0f} s while it lives"
    return f"{holder}" if lives else f"none; {holder}, was killed"


def describe(url: str, *, now: float | None = None) -> str:
    """Return the state of a run in a few lines, with what to run next.

    Args:
        url: Folder or URL of the run.
        now: Seconds since 1970; None asks the clock.

    Returns:
        A line for each thing there is to say.

    Raises:
        InputError: If there is no run.
    """
    run = Run.open(url, unsettled=True)
    if run.unsettled:
        lines = [f"run       {run.url}", "extended  interrupted in the midst"]
        return "\n".join([*lines, f"next      {run.extend_command}"])
    shape = run.array("inputs", "images").shape
    lines = [
        f"run       {run.url} ({run.fingerprint[:12]}), created {run.manifest.created}",
        f"inputs    {' × '.join(map(str, shape))}, {run.num_classes} classes, "
        f"{run.config.data.source}",
        f"backend   {run.manifest.reason}",
    ]
    lines += _extension_lines(run)
    gram, whole = _gram_lines(run)
    lines += gram
    ridge = f"ridge-{run.config.factor.ridge:g}" if run.config.factor.ridge != "auto" else ""
    done = bool(ridge) and _has_inverse(run, ridge)
    activity = read_activity(read_events(url))
    lines.append(f"factor    {ridge or 'ridge auto'}: {'there' if done else 'not finished'}")
    of_now = _labels_of_now(run)
    lines.append((describe_labels(run) if of_now else "") or "labels    not done")
    lines += _other_lines(run)
    lines += _activity_lines(activity, time.time() if now is None else now)
    driver = describe_driver(run)
    if driver is not None:
        lines.append(f"driver    {driver}")
    finished = whole and done and of_now and run.attributes("labels").get("summary")
    lines.append(f"next      {f'ntkdist report {run.url}' if finished else run.resume_command}")
    return "\n".join(lines)


def _extension_lines(run: Run) -> list[str]:
    """Return a line for a run that was extended, which says what is still of its smaller self."""
    extension = run.manifest.extension
    if extension is None:
        return []
    words = [f"from {' and '.join(str(one.images) for one in extension.former)} images"]
    old = [] if _labels_of_now(run) or not run.attributes("labels") else ["labels"]
    old += [name for name in _OTHER_RESULTS if run.attributes(name) and not run.is_current(name)]
    if old:
        words.append(f"{', '.join(old).replace('_', '-')} stored are of before")
    if extension.state != "done":
        words.append(f"not finished: {run.extend_command}")
    return [f"extended  {'; '.join(words)}"]


def _has_inverse(run: Run, ridge: str) -> bool:
    """Return whether the inverse with a ridge is stored, for the images that the run has now."""
    if not run.has("factor", "ntk", ridge, "inverse"):
        return False
    if run.manifest.extension is None:
        return True
    from ntkdist.pipeline._extend_factor import is_stale

    return not is_stale(run, f"ntk/{ridge}")


def _labels_of_now(run: Run) -> bool:
    """Return whether the labels found are of the images that the run has now."""
    if run.manifest.extension is None:
        return True
    return run.is_current("labels") and bool(run.attributes("labels").get("fingerprint"))


def _gram_lines(run: Run) -> tuple[list[str], bool]:
    """Return a line for each kind of kernel, and whether all tiles are there."""
    lines, whole = [], True
    for kind in run.config.gram.kinds:
        address = run.address("gram", kind)
        if not GramStore.exists(address):
            lines.append(f"gram      {kind}: not started")
            whole = False
            continue
        store = GramStore.open(address, "r", run.fingerprint)
        by = store.count_by_arithmetic()  # one listing of the store, which says all
        done, total = sum(by.values()), store.tiling.count
        mixed = ", ".join(f"{count} by {name}" for name, count in by.items())
        lines.append(
            f"gram      {kind}: {done} of {total} tiles of edge {store.tiling.edge}"
            + (f" ({mixed})" if len(by) > 1 else "")
        )
        whole = whole and done == total
    return lines, whole


def _other_lines(run: Run) -> list[str]:
    """Return a line that names the other results that are stored, if there are any."""
    stored = [name for name in _OTHER_RESULTS if run.attributes(name) and run.is_current(name)]
    return [f"results   {', '.join(name.replace('_', '-') for name in stored)}"] if stored else []


def _activity_lines(activity: Activity, now: float) -> list[str]:
    """Return what the run's events say: speed, workers, trouble, stages."""
    if activity.last_event is None:
        return []
    lines = []
    if activity.tiles_per_second is not None and activity.entries_per_second is not None:
        left = activity.seconds_left
        lines.append(
            f"rate      {60 * activity.tiles_per_second:.3g} tiles/min, "
            f"{activity.entries_per_second:,.4g} entries/s in the last minutes of work"
            + (f"; about {duration(left)} of work left at that rate" if left is not None else "")
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
            f"in flight {len(activity.in_flight)} tiles: {shown}"
            + (f" and {more} more" if more > 0 else "")
        )
    lines += _trouble_lines("retried", activity.retried)
    lines += _trouble_lines("given up", activity.given_up)
    if activity.stages:
        done = (f"{name} {duration(seconds)}" for name, (seconds, _) in activity.stages.items())
        lines.append(f"stages    {', '.join(done)}")
    at_work = f", in stage {activity.stage}" if activity.stage else ""
    since = activity.since_last_event(now) or 0.0
    silent = activity.tiles_per_second and since > max(_SILENT, 10 / activity.tiles_per_second)
    lines.append(
        f"last      event {duration(since)} ago{at_work}"
        + ("; a driver at work would have told more" if at_work and silent else "")
    )
    return lines


def _at(hosts: Mapping[str, int]) -> str:
    """Return where workers are, the hosts with the most of them first."""
    if not hosts:
        return ""
    ranked = sorted(hosts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count} on {host}" for host, count in ranked[:_SHOWN])
    more = len(ranked) - _SHOWN
    return f" ({shown}{f' and {more} hosts more' if more > 0 else ''})"


def _trouble_lines(name: str, tiles: Sequence[Trouble]) -> list[str]:
    """Return how many tiles failed, and the last error of a few of them."""
    if not tiles:
        return []
    lines = [f"{name:<10}{len(tiles)} tile{'' if len(tiles) == 1 else 's'}; last errors:"]
    lines += [
        f"  {tile.key} ({tile.times}×): {tile.error[:_LONGEST]}" for tile in tiles[-_FEW_ERRORS:]
    ]
    return lines
