"""What a run's events say of its tiles and of the workers that computed them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ntkdist.events.records import Record, real, text, whole

if TYPE_CHECKING:
    from ntkdist.events.timeline import Timeline


def add_tiles(timeline: Timeline, records: list[Record]) -> None:
    """Add tiles, workers and troubles of the kernel matrix to a timeline.

    Tiles of other matrices, such as those of test images, count as work and as nothing else.

    Args:
        timeline: Added to.
        records: A run's events in order.
    """
    tally = _Tally(timeline)
    for record in records:
        event = record.get("event")
        if isinstance(event, str) and event in _HANDLERS:
            _HANDLERS[event](tally, record, float(record["time"]))
    tally.finish()


@dataclass
class _Tally:
    """The state between events; one clock goes through all starts, without their pauses."""

    timeline: Timeline
    stage: str = "gram"  # events of old versions name none
    start: float | None = None
    shift: float = 0.0  # this start's clock against ours
    before: int = 0  # tiles done before this start
    keys: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    threads: dict[str, int] = field(default_factory=dict)
    there: dict[str, float] = field(default_factory=dict)
    spans: list[tuple[float, float, float]] = field(default_factory=list)
    presence: list[tuple[float, float]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)

    def clock(self, now: float) -> float:
        """Return a time on our clock, not before this start."""
        return max(now - self.shift, self.restarts[-1] if self.restarts else 0.0)

    def stage_started(self, record: Record, now: float) -> None:
        self.stage = text(record, "stage")

    def gram_started(self, record: Record, now: float) -> None:
        timeline = self.timeline
        if self.stage != "gram":
            return
        self.all_leave()
        self.start, self.keys = now, set()
        timeline.total, self.before = whole(record, "total"), whole(record, "done")
        if timeline.total == self.before:
            return  # nothing was missing
        timeline.starts += 1
        timeline.resumes += self.before > 0
        timeline.edge, timeline.workers = whole(record, "edge"), whole(record, "workers")
        timeline.executor = text(record, "executor")
        self.shift = now - timeline.seconds
        if timeline.computed:
            self.restarts.append(timeline.seconds)

    def worker_started(self, record: Record, now: float) -> None:
        name = text(record, "worker")
        self.threads[name] = whole(record, "threads") or 1
        if self.stage == "gram" and self.start is not None:
            self.there[name] = self.clock(now)

    def tile_done(self, record: Record, now: float) -> None:
        timeline, worker = self.timeline, text(record, "worker")
        took = max(0.0, real(record, "seconds") or 0.0)
        device = "gpu" if text(record, "backend").startswith("cuda") else "core"
        cores = 1 if device == "gpu" else self.threads.get(worker, 1)
        computing = real(record, "computing") or took  # one at a time, while others are written
        timeline.work[device] = timeline.work.get(device, 0.0) + computing * cores
        if self.stage != "gram":
            return
        if self.start is None:
            self.start = self.shift = now - took
        self.keys.add(text(record, "key"))
        self.seen.add(worker)
        end = self.clock(now)
        begin = self.clock(now - took)
        self.there.setdefault(worker, begin)
        self.spans.append((begin, end, float(whole(record, "entries"))))
        timeline.seconds = max(timeline.seconds, end)
        timeline.computed += 1
        timeline.entries += whole(record, "entries")
        timeline.bytes += whole(record, "bytes")

    def tile_failed(self, record: Record, now: float) -> None:
        if self.stage == "gram":
            self.timeline.failures += 1
            self.timeline.given_up += bool(record.get("final"))
            self.marks.append((self.clock(now), "failed"))

    def worker_lost(self, record: Record, now: float) -> None:
        if self.stage == "gram":
            self.timeline.worker_losses += 1
            self.marks.append((self.clock(now), "lost"))
            began = self.there.pop(text(record, "worker"), None)
            if began is not None:
                self.presence.append((began, max(began, self.clock(now))))

    def interrupted(self, record: Record, now: float) -> None:
        self.timeline.interruptions += 1

    def all_leave(self) -> None:
        """Let every worker leave with the last tile: drivers do not tell when they end them."""
        end = self.timeline.seconds
        self.presence += [(began, max(end, began)) for began in self.there.values()]
        self.there = {}

    def finish(self) -> None:
        """Write what was gathered into the timeline."""
        timeline = self.timeline
        self.all_leave()
        timeline.done = self.before + len(self.keys)
        timeline.workers = timeline.workers or len(self.seen)
        timeline.restarts = tuple(self.restarts)
        # what went wrong after the last tile is marked at the end of the picture
        timeline.marks = tuple((min(at, timeline.seconds), what) for at, what in self.marks)
        if self.presence:
            timeline.presence = np.array(self.presence, dtype=np.float64)
        if self.spans:
            timeline.spans = np.array(self.spans, dtype=np.float64)
            if not timeline.entries:
                timeline.spans[:, 2] = 1.0


_HANDLERS = {
    "StageStarted": _Tally.stage_started,
    "GramStarted": _Tally.gram_started,
    "WorkerStarted": _Tally.worker_started,
    "TileDone": _Tally.tile_done,
    "TileFailed": _Tally.tile_failed,
    "WorkerLost": _Tally.worker_lost,
    "Interrupted": _Tally.interrupted,
}
