"""What a run's events say: stages, starts, workers, tiles over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.report.records import Record, read_records, real, text, whole


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

    @property
    def unit(self) -> str:
        """What the rates count: ``entries/s``, or ``tiles/s`` where entries are unknown."""
        return "entries/s" if self.entries else "tiles/s"

    @property
    def mean_rate(self) -> float | None:
        """Mean rate over all starts; None if nothing was computed."""
        return float(self.spans[:, 2].sum() / self.seconds) if self.seconds > 0 else None


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
    _add_tiles(timeline, records)
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


def _add_tiles(timeline: Timeline, records: list[Record]) -> None:
    spans: list[tuple[float, float, float]] = []
    restarts: list[float] = []
    workers: set[str] = set()
    keys: set[str] = set()
    start: float | None = None
    shift = before = 0.0  # this start's clock against ours; tiles done before it
    for record in records:
        event, now = record.get("event"), float(record["time"])
        if event == "GramStarted":
            start, keys = now, set()
            timeline.total, before = whole(record, "total"), whole(record, "done")
            if timeline.total == before:
                continue  # nothing was missing
            timeline.starts += 1
            timeline.resumes += before > 0
            timeline.edge, timeline.workers = whole(record, "edge"), whole(record, "workers")
            timeline.executor = text(record, "executor")
            shift = start - timeline.seconds
            if timeline.computed:
                restarts.append(timeline.seconds)
        elif event == "TileDone":
            took = max(0.0, real(record, "seconds") or 0.0)
            if start is None:
                start = shift = now - took
            keys.add(text(record, "key"))
            workers.add(text(record, "worker"))
            floor = restarts[-1] if restarts else 0.0
            end = max(now - shift, floor)
            spans.append((max(end - took, floor), end, float(whole(record, "entries"))))
            timeline.seconds = max(timeline.seconds, end)
            timeline.computed += 1
            timeline.entries += whole(record, "entries")
            timeline.bytes += whole(record, "bytes")
        elif event == "TileFailed":
            timeline.failures += 1
            timeline.given_up += bool(record.get("final"))
        elif event == "WorkerLost":
            timeline.worker_losses += 1
        elif event == "Interrupted":
            timeline.interruptions += 1
    timeline.done = int(before) + len(keys)
    timeline.workers = timeline.workers or len(workers)
    timeline.restarts = tuple(restarts)
    if spans:
        timeline.spans = np.array(spans, dtype=np.float64)
        if not timeline.entries:
            timeline.spans[:, 2] = 1.0
