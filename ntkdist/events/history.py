"""The state of a run, folded once from its events: stages, tiles, workers, faults, rates.

Writers of events may be killed at any moment or be of another version: a field that is missing,
unknown or of another type counts as not said, and an unknown event changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import NtkdistError
from ntkdist.events.log import Record, read_events

WINDOW = 300.0
"""Seconds before the last event over which rates are averaged."""

_FEWEST = 8  # tiles that a rate is averaged over, however long they take
_GRAM = "gram"


@dataclass(frozen=True)
class FailedTile:
    """A tile that failed, how often, its last error in one line, and whether it was given up."""

    key: str
    times: int
    error: str
    final: bool


@dataclass(frozen=True)
class Activity:
    """The state of the matrix that was computed last.

    Rates and times left are measured on the driver's clock and count only its steps forward, so
    that a clock that is set, or another machine's clock, does not distort them.

    Attributes:
        total: Its tiles; 0 if none was begun.
        done: Of them, those that are stored according to the events.
        given_up: Failed for good, and not computed since.
        retried: Failed and tried again, whatever became of them.
        in_flight: Tiles that workers had at the last event.
        alive: Host → workers that were alive at the last event.
        lost: Deaths of workers since the driver began.
        seen: Host → processes that ever worked on the run.
        tiles_per_second: Over the last minutes; None where no tile was finished in them.
        entries_per_second: Likewise.
        seconds_left: At that rate; None where there is none, or nothing is left.
        last_event: Time of the last event, seconds since 1970 by the driver's clock.
        stages: Stage → (seconds, outcome) of those that were finished, the latest of each; of
            the Gram stage the latest that computed tiles.
        stage: The one begun last and not finished since.
    """

    total: int = 0
    done: int = 0
    given_up: tuple[FailedTile, ...] = ()
    retried: tuple[FailedTile, ...] = ()
    in_flight: tuple[str, ...] = ()
    alive: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    tiles_per_second: float | None = None
    entries_per_second: float | None = None
    seconds_left: float | None = None
    last_event: float | None = None
    stages: dict[str, tuple[float, str]] = field(default_factory=dict)
    stage: str | None = None

    def since_last_event(self, now: float) -> float | None:
        """Return the seconds since the last event; never below 0, whatever the clocks say."""
        return None if self.last_event is None else max(0.0, now - self.last_event)


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
    """All starts of a run, added up. Its clock leaves out the pauses between starts.

    Attributes:
        stages: In the order they were first begun.
        starts: How many times a driver began to compute tiles of the Gram.
        resumes: Of them, how many found tiles stored already.
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
        seconds: Time in which tiles were computed.
        spans: (T, 3) float64: begin, end (s) and entries of each tile; 1 for each where entries
            are unknown.
        restarts: Times at which another start began.
        presence: (P, 2) float64: from when to when each worker took tiles.
        marks: (time, ``lost`` or ``failed``) for each lost worker and failed attempt.
        work: Seconds of computing by device, ``core`` or ``gpu``, all matrices of the run: a
            worker with four threads counts four core-seconds a second.
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
        """Unit of the rates: ``entries/s``, or ``tiles/s`` where entries are unknown."""
        return "entries/s" if self.entries else "tiles/s"

    @property
    def mean_rate(self) -> float | None:
        """Mean rate over all starts; None if nothing was computed."""
        return float(self.spans[:, 2].sum() / self.seconds) if self.seconds > 0 else None

    def worker_counts(self) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
        """Return how many workers there were."""
        if not len(self.presence):
            return None
        times, where = np.unique(np.append(self.presence.ravel(), 0.0), return_inverse=True)
        change = np.zeros(len(times), dtype=np.int64)
        begins, ends = where[:-1].reshape(-1, 2).T
        np.add.at(change, begins, 1)
        np.add.at(change, ends, -1)
        return times, np.cumsum(change)

    def binned_rates(self, bins: int = 80) -> tuple[NDArray[Any], NDArray[Any]]:
        """Spread each tile evenly over the time it took; return the rate in equal bins of time.

        They are (bins+1,) edges in seconds and (bins,) rates in ``unit``.
        """
        begin, end, weight = self.spans.T
        slope = weight / np.maximum(end - begin, 1e-6)
        times = np.concatenate([begin, np.maximum(end, begin + 1e-6)])
        order = np.argsort(times, kind="stable")
        times = times[order]
        rate = np.cumsum(np.concatenate([slope, -slope])[order])
        reached = np.concatenate([[0.0], np.cumsum(rate[:-1] * np.diff(times))])
        edges = np.linspace(0.0, max(self.seconds, float(times[-1])), bins + 1)
        return edges, np.maximum(np.diff(np.interp(edges, times, reached)), 0) / np.diff(edges)


def read_history(url: str) -> History:
    """Fold all events of a run.

    Raises:
        NtkdistError: If the store does not answer.
        OSError: If the log cannot be read.
    """
    history = History()
    for record in read_events(url):
        history.take(record)
    return history


def read_timeline(url: str) -> Timeline:
    """Add up the events of a run; empty where they cannot be read, which a report survives."""
    try:
        return read_history(url).timeline()
    except (NtkdistError, OSError):
        return Timeline()


class History:
    """Takes events one after the other; its state may be asked for at any moment.

    Tiles of the Gram are told from those of other matrices, such as test × train, by the stage that
    is running; versions that wrote no stages computed the Gram alone.

    Attributes:
        in_gram: Whether events of tiles are now those of the Gram.
        gram_starts: How often a driver began to compute missing tiles of the Gram.
        failed: Tiles of the Gram that were given up since its last start.
        finished: Stage → how often it was finished.
    """

    def __init__(self) -> None:
        self.in_gram = True
        self.gram_starts = 0
        self.failed: set[str] = set()
        self.finished: Counter[str] = Counter()
        self._last: float | None = None
        self._elapsed = 0.0  # sum of the steps forward of the driver's clock
        # stages
        self._stage: str | None = None
        self._running: tuple[StageTime, float] | None = None
        self._stages: dict[str, StageTime] = {}
        self._latest: dict[str, tuple[float, str]] = {}
        self._computed = 0  # tiles since the stage began
        # the matrix computed last
        self._matrix: tuple[int, int] = (0, 0)
        self._total = self._done = self._lost = 0
        self._hosts: dict[str, str] = {}  # of workers that are alive
        self._processes: dict[tuple[str, int], None] = {}
        self._in_flight: dict[str, None] = {}
        self._failures: dict[tuple[tuple[int, int], str], FailedTile] = {}
        self._given_up: set[tuple[tuple[int, int], str]] = set()
        self._recent: deque[tuple[float, int]] = deque()
        self._since = 0.0
        # all starts of the Gram, on a clock without the pauses between them
        self._sum = Timeline()
        self._started = False
        self._shift = 0.0  # the driver's clock minus this one
        self._before = 0  # tiles stored before the last start
        self._keys: set[str] = set()  # computed since
        self._workers: set[str] = set()
        self._threads: dict[str, int] = {}
        self._joined: dict[str, float] = {}
        self._spans = array("d")
        self._presence = array("d")
        self._marks: list[tuple[float, str]] = []
        self._restarts: list[float] = []

    def take(self, record: Record) -> None:
        """Take one event in, as it is stored."""
        now = _real(record, "time")
        if now is None:
            return
        if self._last is not None:
            self._elapsed += max(0.0, now - self._last)
        take = _TAKES.get(_text(record, "event"))
        if take is not None:
            take(self, record, now)
        self._last = now

    # -- stages -----------------------------------------------------------------------------

    def _run_started(self, record: Record, now: float) -> None:
        self._end_killed()
        self._hosts.clear()
        self._in_flight.clear()
        self._stage = None

    def _end_killed(self) -> None:
        """Count a stage that a kill ended, up to the last event before."""
        if self._running is not None:
            stage, began = self._running
            stage.seconds += max(0.0, (self._last or began) - began)
            self._running = None

    def _stage_started(self, record: Record, now: float) -> None:
        name = _text(record, "stage")
        self._end_killed()
        self._stage = name
        self.in_gram = name == _GRAM
        self._computed = 0
        if name:
            stage = self._stages.setdefault(name, StageTime(name))
            stage.starts, stage.done = stage.starts + 1, False
            self._running = stage, now

    def _stage_done(self, record: Record, now: float) -> None:
        name, seconds = _text(record, "stage"), max(0.0, _real(record, "seconds") or 0.0)
        detail = _text(record, "detail")
        if name:
            stage = self._stages.setdefault(name, StageTime(name))
            stage.starts += self._running is None or self._running[0] is not stage
            stage.seconds += seconds
            stage.done, stage.detail = True, detail
            self._running = None
        # if no tile of the Gram was computed now, keep the duration recorded before
        if name != _GRAM or self._computed or name not in self._latest:
            self._latest[name] = seconds, detail
        self._stage = None
        self.in_gram = True
        self.finished[name] += 1
        self._hosts.clear()
        self._in_flight.clear()

    def _interrupted(self, record: Record, now: float) -> None:
        self._sum.interruptions += 1

    # -- tiles and workers ------------------------------------------------------------------

    def _gram_started(self, record: Record, now: float) -> None:
        total, done, edge = (_whole(record, name) for name in ("total", "done", "edge"))
        self._hosts.clear()
        self._in_flight.clear()
        self._stage = _GRAM
        self._matrix = total, edge
        self._total, self._done, self._lost = total, done, 0
        self._recent.clear()
        self._since = self._elapsed
        if not self.in_gram:
            return
        self.gram_starts += 1
        self.failed.clear()
        self._all_leave()
        self._started, self._keys = True, set()
        self._sum.total, self._before = total, done
        if total == done:
            return  # nothing was missing
        self._sum.starts += 1
        self._sum.resumes += done > 0
        self._sum.edge, self._sum.workers = edge, _whole(record, "workers")
        self._sum.executor = _text(record, "executor")
        self._shift = now - self._sum.seconds
        if self._sum.computed:
            self._restarts.append(self._sum.seconds)

    def _clock(self, now: float) -> float:
        """Return a time on the clock without pauses, not before the last start."""
        return max(now - self._shift, self._restarts[-1] if self._restarts else 0.0)

    def _worker_started(self, record: Record, now: float) -> None:
        name, host = _text(record, "worker"), _text(record, "host") or "unknown"
        if not self._recent:
            self._since = self._elapsed  # rates leave out the time to start up
        self._hosts[name] = host
        self._processes[host, _whole(record, "pid")] = None
        self._threads[name] = _whole(record, "threads") or 1
        if self.in_gram and self._started:
            self._joined[name] = self._clock(now)

    def _worker_lost(self, record: Record, now: float) -> None:
        name, keys = _text(record, "worker"), record.get("keys")
        self._lost += self._hosts.pop(name, None) is not None
        for key in keys if isinstance(keys, list) else ():
            self._in_flight.pop(str(key), None)
        if self.in_gram:
            at = self._clock(now)
            self._sum.worker_losses += 1
            self._marks.append((at, "lost"))
            joined = self._joined.pop(name, None)
            if joined is not None:
                self._presence.extend((joined, max(joined, at)))

    def _all_leave(self) -> None:
        """End every worker's presence with the last tile: no event says when drivers end them."""
        end = self._sum.seconds
        for joined in self._joined.values():
            self._presence.extend((joined, max(end, joined)))
        self._joined.clear()

    def _tile_started(self, record: Record, now: float) -> None:
        self._in_flight[_text(record, "key")] = None

    def _tile_done(self, record: Record, now: float) -> None:
        key, worker = _text(record, "key"), _text(record, "worker")
        entries = _whole(record, "entries")
        took = max(0.0, _real(record, "seconds") or 0.0)
        self._in_flight.pop(key, None)
        self._given_up.discard((self._matrix, key))
        self._done += 1
        self._computed += 1
        self._recent.append((self._elapsed, entries))
        while len(self._recent) > _FEWEST and self._recent[0][0] < self._elapsed - WINDOW:
            self._since = self._recent.popleft()[0]
        device = "gpu" if _text(record, "backend").startswith("cuda") else "core"
        cores = 1 if device == "gpu" else self._threads.get(worker, 1)
        computing = _real(record, "computing") or took  # without the writing of other tiles
        self._sum.work[device] = self._sum.work.get(device, 0.0) + computing * cores
        if not self.in_gram:
            return
        if not self._started:
            self._started, self._shift = True, now - took
        self.failed.discard(key)
        self._keys.add(key)
        self._workers.add(worker)
        begin, end = self._clock(now - took), self._clock(now)
        self._joined.setdefault(worker, begin)
        self._spans.extend((begin, end, entries))
        self._sum.seconds = max(self._sum.seconds, end)
        self._sum.computed += 1
        self._sum.entries += entries
        self._sum.bytes += _whole(record, "bytes")

    def _tile_failed(self, record: Record, now: float) -> None:
        key, final = _text(record, "key"), bool(record.get("final"))
        name = self._matrix, key
        before = self._failures.get(name)
        times = 1 if before is None else before.times + 1
        error = " ".join(str(record.get("error", "")).split())
        self._in_flight.pop(key, None)
        self._failures[name] = FailedTile(key, times, error, final)
        if final:
            self._given_up.add(name)
        if self.in_gram:
            self._sum.failures += 1
            self._sum.given_up += final
            self._marks.append((self._clock(now), "failed"))
            if final:
                self.failed.add(key)

    # -- the state --------------------------------------------------------------------------

    @property
    def in_flight(self) -> tuple[str, ...]:
        """Tiles that workers had at the last event, of whichever matrix is computed."""
        return tuple(self._in_flight)

    def activity(self) -> Activity:
        """Return the state of the matrix that was computed last."""
        tiles = entries = left = None
        seconds = self._elapsed - self._since
        if self._recent and seconds > 0:
            tiles = len(self._recent) / seconds
            entries = sum(count for _, count in self._recent) / seconds
            missing = self._total - self._done - len(self._given_up)
            left = missing / tiles if missing > 0 else None
        failures = self._failures.items()
        return Activity(
            total=self._total,
            done=min(self._done, self._total),
            given_up=tuple(tile for name, tile in failures if name in self._given_up),
            retried=tuple(
                tile for name, tile in failures if name not in self._given_up or tile.times > 1
            ),
            in_flight=self.in_flight,
            alive=dict(Counter(self._hosts.values())),
            lost=self._lost,
            seen=dict(Counter(host for host, _ in self._processes)),
            tiles_per_second=tiles,
            entries_per_second=entries,
            seconds_left=left,
            last_event=self._last,
            stages=dict(self._latest),
            stage=self._stage,
        )

    def timeline(self) -> Timeline:
        """Return all starts of the run, added up."""
        end = self._sum.seconds
        stages = {name: dataclasses.replace(stage) for name, stage in self._stages.items()}
        if self._running is not None and self._last is not None:
            stage, began = self._running
            stages[stage.stage].seconds += max(0.0, self._last - began)
        spans = np.array(self._spans).reshape(-1, 3)
        if not self._sum.entries:
            spans[:, 2] = 1.0
        joined = [(at, max(end, at)) for at in self._joined.values()]
        presence = np.concatenate(
            [np.array(self._presence).reshape(-1, 2), np.array(joined).reshape(-1, 2)]
        )
        return dataclasses.replace(
            self._sum,
            stages=stages,
            done=self._before + len(self._keys),
            workers=self._sum.workers or len(self._workers),
            restarts=tuple(self._restarts),
            # what failed after the last tile is marked at the end of the picture
            marks=tuple((min(at, end), what) for at, what in self._marks),
            presence=presence,
            spans=spans,
            work=dict(self._sum.work),
        )


_TAKES: Mapping[str, Callable[[History, Record, float], None]] = {
    "RunStarted": History._run_started,
    "StageStarted": History._stage_started,
    "StageDone": History._stage_done,
    "Interrupted": History._interrupted,
    "GramStarted": History._gram_started,
    "WorkerStarted": History._worker_started,
    "WorkerLost": History._worker_lost,
    "TileStarted": History._tile_started,
    "TileDone": History._tile_done,
    "TileFailed": History._tile_failed,
}


def _real(record: Record, name: str) -> float | None:
    """Return a finite number, or None if there is none under this name."""
    value = record.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _whole(record: Record, name: str) -> int:
    """Return a whole number of at least 0, 0 if there is none under this name."""
    return max(0, int(_real(record, name) or 0))


def _text(record: Record, name: str) -> str:
    """Return a text, empty if there is none under this name."""
    value = record.get(name)
    return value if isinstance(value, str) else ""
