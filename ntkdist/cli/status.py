"""Which stages of a run are done, and other results, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ntkdist.data.features import feature_words
from ntkdist.events.history import Activity, FailedTile
from ntkdist.events.progress import _duration as duration
from ntkdist.pipeline.status import LOSSES, GramState, LabelsFound, RunStatus, read_status
from ntkdist.words import percent

_SHOWN, _FEW_ERRORS, _LONGEST = 5, 3, 160
_SILENT = 120.0  # seconds
# Labels are called clean where at most this share may be wrong.
CLEAN = 0.03


def describe_labels(found: LabelsFound | None) -> str:
    """Return what the label stage found in a few lines; empty if it has not run."""
    if found is None:
        return ""
    losses = found.block_error
    shown = [f"{name} {losses[name]:.5g}" for name in LOSSES if losses[name]]
    lines = [
        f"L(Z)      {', '.join(shown)} (lower is cleaner)",
        f"labels    {describe_flags(found)}; ended because {found.stopped}",
        *describe_reliability(found),
    ]
    restored, before, after = found.restored_share, found.accuracy_given, found.accuracy_refurbished
    if restored is not None and before is not None and after is not None:
        lines.append(
            f"restored  {percent(restored, 2)} of {found.corrupted} corrupted labels; "
            f"label accuracy {percent(before, 2)} -> {percent(after, 2)}"
        )
    return "\n".join(lines)


def describe_flags(found: LabelsFound) -> str:
    """Return how many labels look wrong, in one line, or that they cannot be judged."""
    how = found.reliability
    if how is None:
        rate = percent(found.noise_rate)
        return f"{found.issues} of {found.images} look wrong; estimated noise {rate}"
    if how["verdict"] == "cannot judge":
        return "these labels cannot be judged: none is flagged, and none is called clean"
    if found.issues:
        return f"{found.issues} of {found.images} labels look wrong"
    share, images = how["noise_interval"][1], found.images
    if how["verdict"] == "reliable" and share <= CLEAN:
        most = f"at most {percent(share)} of {images} labels"
        return f"no label looks wrong; {most} are estimated wrong"
    return f"no label is flagged, but up to {percent(share, 0)} of {images} labels may be wrong"


def describe_reliability(found: LabelsFound) -> list[str]:
    """Return how far to trust what is said of the labels, a line each; none for old runs."""
    how = found.reliability
    if how is None:
        return []
    lines = [f"verdict   {how['verdict']}: {how['reason']}"]
    if how["verdict"] == "cannot judge":
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


def describe(url: str, *, now: float | None = None) -> str:
    """Return the state of a run in a few lines, with what to run next.

    Raises:
        InputError: If there is no run.
    """
    found = read_status(url, now=now)
    return f"{describe_status(found)}\nnext      {found.next}"


def describe_status(found: RunStatus) -> str:
    """Return the state of a run in a few lines; what to run next is left to the caller."""
    if found.unsettled:
        return f"run       {found.run}\nextended  interrupted in the midst"
    shape = " × ".join(map(str, found.shape))
    if len(found.shape) == 2:
        shape = feature_words(*found.shape)
    ridge = "ridge auto" if isinstance(found.ridge, str) else f"ridge-{found.ridge:g}"
    lines = [
        f"run       {found.run} ({found.fingerprint[:12]}), created {found.created}",
        f"inputs    {shape}, {found.classes} classes, {found.source}",
        f"backend   {found.backend}",
        *([f"extended  {found.extended}"] if found.extended else []),
        *(_gram_line(one) for one in found.gram),
        f"factor    {ridge}: {'there' if found.factored else 'not finished'}",
        describe_labels(found.labels) or "labels    not done",
        *([f"results   {', '.join(found.results)}"] if found.results else []),
        *_activity_lines(found.activity, found.silent_for),
        *([f"driver    {found.driver}"] if found.driver else []),
    ]
    return "\n".join(lines)


def _gram_line(found: GramState) -> str:
    if found.total is None:
        return f"gram      {found.kind}: not started"
    by = found.made_by or {}
    mixed = ", ".join(f"{count} by {name}" for name, count in by.items())
    return f"gram      {found.kind}: {found.done} of {found.total} tiles of edge {found.edge}" + (
        f" ({mixed})" if len(by) > 1 else ""
    )


def _activity_lines(activity: Activity, since: float | None) -> list[str]:
    """Return what the run's events say: speed, workers, trouble, stages."""
    if since is None:
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
    lines += _failure_lines("retried", activity.retried)
    lines += _failure_lines("given up", activity.given_up)
    if activity.stages:
        done = (f"{name} {duration(seconds)}" for name, (seconds, _) in activity.stages.items())
        lines.append(f"stages    {', '.join(done)}")
    at_work = f", in stage {activity.stage}" if activity.stage else ""
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


def _failure_lines(name: str, tiles: Sequence[FailedTile]) -> list[str]:
    """Return how many tiles failed, and the last error of a few of them."""
    if not tiles:
        return []
    lines = [f"{name:<10}{len(tiles)} tile{'' if len(tiles) == 1 else 's'}; last errors:"]
    lines += [
        f"  {tile.key} ({tile.times}×): {tile.error[:_LONGEST]}" for tile in tiles[-_FEW_ERRORS:]
    ]
    return lines
