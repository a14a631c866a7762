"""The live page: its parts from a snapshot of the run, and the whole for a first visit."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from ntkdist.display.tile_map import DONE, FAILED, FLIGHT, legend, tile_map
from ntkdist.display.words import count, duration, percent, rate
from ntkdist.networks.architecture import preset_of
from ntkdist.report.live.state import Snapshot
from ntkdist.report.templates import HERE, templates
from ntkdist.runs import STAGES
from ntkdist.runs.run import Run
from ntkdist.words import CANNOT_JUDGE

_MOST_CELLS = 200
_MOST_FAULTS = 8
_LONGEST = 200  # characters of an error


@dataclass(frozen=True)
class State:
    """What the page shows at one moment.

    Attributes:
        version: Goes up with every state.
        title: Of the window.
        html: What changes.
        summary: What a screen reader is told: changes seldom.
        report: Changes whenever a report was written; None where there is none.
    """

    version: int
    title: str
    html: str
    summary: str
    report: str | None


class Page:
    """Makes the page of a run.

    Args:
        run: The run.
        interval: Seconds between two looks.
    """

    def __init__(self, run: Run, interval: float) -> None:
        from markupsafe import Markup

        self._run, self._interval = run, interval
        self._markup = Markup
        environment = templates()
        self._whole = environment.get_template("live.html.j2")
        self._part = environment.get_template("live_part.html.j2")
        self._style = (HERE / "live.css").read_text(encoding="utf-8")
        self._last: Snapshot | None = None
        self._version = 0

    def state(self, now: Snapshot | None, trouble: str = "") -> State:
        """Return the next state.

        Args:
            now: The run; None before it was looked at, or where it cannot be read.
            trouble: Why it cannot be read.
        """
        self._version += 1
        self._last = now or self._last
        return State(
            version=self._version,
            title=self._title(now),
            html=self._part.render(self._context(now, trouble)),
            summary=f"Cannot be read: {trouble}" if trouble else self._summary(now),
            report=None if self._last is None else self._last.report,
        )

    def whole(self, state: State, nonce: str) -> str:
        """Return the page as a browser first gets it; its script runs under the nonce alone."""
        return self._whole.render(
            state=replace(state, html=self._markup(state.html)),
            style=self._markup(self._style),
            nonce=nonce,
            refresh=max(1, round(self._interval)),
            milliseconds=round(1000 * self._interval),
        )

    def _title(self, now: Snapshot | None) -> str:
        if now is None or not now.states.size:
            return f"{self._run.url} – ntkdist"
        tiles = now.tiles
        return f"{percent(tiles[DONE] / sum(tiles.values()))} – {self._run.url} – ntkdist"

    def _summary(self, now: Snapshot | None) -> str:
        """Return a sentence that changes with every twentieth of the tiles and with the stage."""
        if now is None:
            return "Reading what has happened so far."
        activity, tiles = now.activity, now.tiles
        total = sum(tiles.values())
        parts = []
        if total:
            parts.append(f"{100 * tiles[DONE] // total // 5 * 5} % of the tiles are stored.")
        if tiles[FAILED]:
            parts.append(f"{count(tiles[FAILED])} tiles failed.")
        if now.driver is None:
            parts.append("No driver works on the run.")
        elif activity.stage:
            parts.append(f"At work: {activity.stage}.")
        if now.verdict is not None:
            parts.append(f"Verdict on the labels: {now.verdict}.")
        if now.report is not None:
            parts.append("The report is written.")
        return " ".join(parts)

    def _context(self, now: Snapshot | None, trouble: str) -> dict[str, Any]:
        run = self._run
        name = preset_of(run.architecture) or "a network of its own"
        about = f"{run.config.data.source}, {run.num_classes} classes, {name}"
        context: dict[str, Any] = {"run": run, "about": about, "now": now, "trouble": trouble}
        if now is None:
            return context
        tiles, activity = now.tiles, now.activity
        faults = [*activity.given_up, *activity.retried][::-1]
        since = activity.since_last_event(time.time())
        return context | {
            "total": sum(tiles.values()),
            "done": tiles[DONE],
            "speed": _speed(now, tiles),
            "driver": f"At work: {now.driver}" if now.driver else "No driver works on the run",
            "heard": None if since is None else _coarse(since),
            "map": self._markup(tile_map(now.states, most=_MOST_CELLS)) if now.states.size else "",
            "legend": self._markup(legend(parts=len(now.states) > _MOST_CELLS)),
            "stages": _stages(now),
            "workers": activity.alive if now.driver else {},
            "faults": [replace(one, error=one.error[:_LONGEST]) for one in faults[:_MOST_FAULTS]],
            "more_faults": max(0, len(faults) - _MOST_FAULTS),
        }


def _speed(now: Snapshot, tiles: dict[int, int]) -> str:
    activity = now.activity
    parts = []
    if tiles[FLIGHT]:
        parts.append(f"{count(tiles[FLIGHT])} in work")
    if tiles[FAILED]:
        parts.append(f"{count(tiles[FAILED])} failed")
    if activity.tiles_per_second is not None and now.driver and tiles[FLIGHT]:
        parts.append(f"{rate(60 * activity.tiles_per_second)} a minute")
        if activity.seconds_left is not None:
            parts.append(f"about {_coarse(activity.seconds_left)} left")
    return ", ".join(parts)


def _coarse(seconds: float) -> str:
    """Return a time in whole seconds, so that the page is quiet."""
    return f"{seconds:.0f}\u00a0s" if seconds < 59.5 else duration(seconds)


def _judged(verdict: str, detail: str) -> str:
    """Return the outcome of the label stage with its verdict, and no counts where it has none."""
    if verdict == CANNOT_JUDGE:
        return f"verdict: {verdict}; nothing is flagged and nothing is called clean"
    return f"{detail}; verdict: {verdict}" if detail else f"verdict: {verdict}"


def _stages(now: Snapshot) -> list[dict[str, str]]:
    """Return the stages of a run in order, then others that it went through."""
    activity = now.activity
    at_work = activity.stage if now.driver else None
    names = [*STAGES, *(name for name in activity.stages if name not in (*STAGES, "inputs"))]
    if at_work and at_work not in names:
        names.append(at_work)
    rows = []
    for name in names:
        seconds, detail = activity.stages.get(name, (0.0, ""))
        if name == at_work:
            row = {"mark": "▸", "look": "", "words": "at work"}
        elif name in activity.stages:
            words = f"done in {duration(seconds)}"
            if name == "labels" and now.verdict is not None:
                detail = _judged(now.verdict, detail)
            row = {"mark": "✓", "look": "done", "words": words + (f", {detail}" if detail else "")}
        elif name == activity.stage:
            row = {"mark": "‖", "look": "bad", "words": "stopped"}
        else:
            row = {"mark": "·", "look": "soft", "words": "not yet"}
        rows.append({"name": name, **row})
    return rows
