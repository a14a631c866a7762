"""What a run's events say: stages, starts, workers, tiles over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.events.records import Record, read_records, real, text
from ntkdist.events.tile_events import add_tiles


@dataclass
class StageTime:
    """The time one stage took, over all starts.

    Attributes:
        stage: Its name.
        seconds: In all, including starts that were interrupted.
        starts: How many times it was begun.
        done: Whether it finished after it was last begun.
        detail: Its outcome in one line, when it last finished.
    """

    stage: str
    seconds: float = 0.0
    starts: int = 0
    done: bool = False
    detail: str = ""


@dataclass
class Timeline:
    """The events of a run, added up.

    Attributes:
        stages: In the order they were first begun.
        starts: How many times tiles were begun to be computed.
        resumes: Of them, how many found tiles already there.
        interruptions: How often a signal stopped the driver.
        executor: ``inline`` or ``ray``, of the last start; empty if unknown.
        workers: How many workers were asked for at the last start, or seen.
        worker_losses: How often a worker died or could not start.
        failures: Failed attempts at a tile.
        given_up: Tiles given up after their last attempt.
        edge: Rows and columns of a tile; 0 if unknown.
        total: Tiles of the matrix; 0 if unknown.
        done: Tiles known to be done.
        computed: Tiles computed, those computed twice counted twice.
        entries: Kernel entries computed; 0 if unknown.
        bytes: Bytes written.
        seconds: Time in which tiles were computed, pauses between starts left out.
        spans: (T, 3) float64: begin, end (s, on a clock without the pauses) and entries of each
            tile; 1 for each where entries are unknown.
        restarts: Times on the same clock where another start began.
        presence: (P, 2) float64: from when to when on that clock each worker was there.
        marks: (time on that clock, ``lost`` or ``failed``) for each lost worker and failed attempt.
        work: Seconds of computing by the device that did it, ``core`` or ``gpu``, all matrices
            of the run: a worker with four threads counts four core-seconds a second.
    """

    stages: dict[str, StageTime] = field(default_factory=dict)
    starts: int = 0
    resumes: int = 0
    interruptions: int = 0
    executor: str = ""
    workers: int = 0
    worker_losses: int = 0
    failures: int = 0
    given_up: int = 0
    edge: int = 0
    total: int = 0
    done: int = 0
    computed: int = 0
    entries: int = 0
    bytes: int = 0
    seconds: float = 0.0
    spans: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    restarts: tuple[float, ...] = ()
    presence: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    marks: tuple[tuple[float, str], ...] = ()
    work: dict[str, float] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What the rates count: ``entries/s``, or ``tiles/s`` where entries are unknown."""
        return "entries/s" if self.entries else "tiles/s"

    @property
    def mean_rate(self) -> float | None:
        """Mean rate over all starts; None if nothing was computed."""
        return float(self.spans[:, 2].sum() / self.seconds) if self.seconds > 0 else None

    def worker_counts(self) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
        """Return how many workers there were.

        Returns:
            (T,) times at which their number changed, from 0 on, and (T,) the numbers; None if no
            worker is known.
        """
        if not len(self.presence):
            return None
        times, where = np.unique(np.append(self.presence.ravel(), 0.0), return_inverse=True)
        change = np.zeros(len(times), dtype=np.int64)
        begins, ends = where[:-1].reshape(-1, 2).T
        np.add.at(change, begins, 1)
        np.add.at(change, ends, -1)
        return times, np.cumsum(change)


def read_timeline(url: str) -> Timeline:
    """Add up the events of a run.

    Args:
        url: Folder or URL of the run.

    Returns:
        The timeline; empty if there are no events or they cannot be read.
    """
    records = read_records(url)
    timeline = Timeline()
    _add_stages(timeline, records)
    add_tiles(timeline, records)
    return timeline


def binned_rates(timeline: Timeline, bins: int = 80) -> tuple[NDArray[Any], NDArray[Any]]:
    """Spread each tile evenly over the time it took and return the rate in equal bins of time.

    Args:
        timeline: With at least one tile.
        bins: How many.

    Returns:
        (bins+1,) edges in seconds and (bins,) rates in ``timeline.unit``.
    """
    begin, end, weight = timeline.spans.T
    slope = weight / np.maximum(end - begin, 1e-6)
    times = np.concatenate([begin, np.maximum(end, begin + 1e-6)])
    order = np.argsort(times, kind="stable")
    times = times[order]
    rate = np.cumsum(np.concatenate([slope, -slope])[order])
    reached = np.concatenate([[0.0], np.cumsum(rate[:-1] * np.diff(times))])
    edges = np.linspace(0.0, max(timeline.seconds, float(times[-1])), bins + 1)
    return edges, np.maximum(np.diff(np.interp(edges, times, reached)), 0) / np.diff(edges)


def _add_stages(timeline: Timeline, records: list[Record]) -> None:
    running: tuple[StageTime, float] | None = None
    last = 0.0
    for record in records:
        event, now, name = record.get("event"), float(record["time"]), text(record, "stage")
        if event in ("StageStarted", "RunStarted") and running is not None:
            running[0].seconds += max(0.0, last - running[1])  # killed at the last thing it said
            running = None
        if event == "StageStarted" and name:
            stage = timeline.stages.setdefault(name, StageTime(name))
            stage.starts, stage.done = stage.starts + 1, False
            running = (stage, now)
        elif event == "StageDone" and name:
            stage = timeline.stages.setdefault(name, StageTime(name))
            stage.starts += running is None or running[0] is not stage
            stage.seconds += max(0.0, real(record, "seconds") or 0.0)
            stage.done, stage.detail = True, text(record, "detail")
            running = None
        last = now
    if running is not None:
        running[0].seconds += max(0.0, last - running[1])
