"""What a run's events say about its workers and tiles, from one pass over them.

Rates and times left use the driver's clock alone, and of it only how far it goes forward, so that
neither another machine's clock nor one that is set back makes them absurd.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

WINDOW = 300.0
"""Seconds that a rate is of: the last ones before the last event."""

_FEWEST = 8  # tiles that a rate is of at least, however long they take


@dataclass(frozen=True)
class Trouble:
    """A tile that failed.

    Attributes:
        key: The tile.
        times: How often.
        error: The last error, one line.
        final: Whether it was given up.
    """

    key: str
    times: int
    error: str
    final: bool


@dataclass(frozen=True)
class Activity:
    """The state of the matrix that was computed last.

    Attributes:
        total: Its tiles; 0 if none was begun.
        done: Of them, those that are stored by what the events say.
        given_up: Failed for good, and not computed since.
        retried: Failed and tried again, whatever became of them.
        in_flight: Tiles that workers had at the last event.
        alive: Host → workers that were alive at the last event.
        lost: Deaths of workers since the driver began.
        seen: Host → processes that ever worked on the run.
        tiles_per_second: Of the last minutes; None where no tile was finished in them.
        entries_per_second: Likewise.
        seconds_left: By that rate; None where there is none, or nothing is left.
        last_event: When the last event was told, seconds since 1970 by the driver's clock.
        stages: Stage → (seconds, outcome) of those that were finished, the latest of each; of
            the Gram stage the latest that computed tiles.
        stage: The one begun last and not finished since.
    """

    total: int = 0
    done: int = 0
    given_up: tuple[Trouble, ...] = ()
    retried: tuple[Trouble, ...] = ()
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


def read_activity(records: Iterable[Mapping[str, Any]]) -> Activity:
    """Take a run's events in, once and in order.

    Args:
        records: From ``read_events``.

    Returns:
        What they say. Events and fields that are not known are passed over.
    """
    history = History()
    for record in records:
        history.take(record)
    return history.result()


class History:
    """Takes events in one after the other; ``result`` may be asked for at any moment."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._elapsed = 0.0  # sum of the steps forward of the driver's clock
        self._matrix: tuple[Any, ...] = ()
        self._total = self._done = self._lost = self._computed = 0
        self._workers: dict[str, str] = {}
        self._processes: dict[tuple[str, Any], None] = {}
        self._in_flight: dict[str, str] = {}
        self._troubles: dict[tuple[Any, str], Trouble] = {}
        self._given_up: set[tuple[Any, str]] = set()
        self._recent: deque[tuple[float, float]] = deque()
        self._since = 0.0
        self._stages: dict[str, tuple[float, str]] = {}
        self._stage: str | None = None

    def take(self, record: Mapping[str, Any]) -> None:
        """Take one event in."""
        self._tick(record.get("time"))
        take = _TAKES.get(str(record.get("event")))
        if take is not None:
            take(self, record)

    def _tick(self, time: Any) -> None:
        if not isinstance(time, (int, float)) or not math.isfinite(time):
            return
        if self._last is not None:
            self._elapsed += max(0.0, time - self._last)
        self._last = float(time)

    def _run_started(self, record: Mapping[str, Any]) -> None:
        self._workers.clear()
        self._in_flight.clear()
        self._stage = None

    def _stage_started(self, record: Mapping[str, Any]) -> None:
        self._stage = str(record.get("stage", ""))
        self._computed = 0

    def _stage_done(self, record: Mapping[str, Any]) -> None:
        name = str(record.get("stage", ""))
        # of a Gram that was whole already, what it took to compute stands
        if name != "gram" or self._computed or name not in self._stages:
            self._stages[name] = _number(record.get("seconds")), str(record.get("detail", ""))
        self._stage = None
        self._workers.clear()
        self._in_flight.clear()

    def _gram_started(self, record: Mapping[str, Any]) -> None:
        self._run_started(record)
        self._stage = "gram"
        self._matrix = record.get("total"), record.get("edge")
        self._total, self._done = (
            int(_number(record.get("total"))),
            int(_number(record.get("done"))),
        )
        self._lost = 0
        self._recent.clear()
        self._since = self._elapsed

    def _worker_started(self, record: Mapping[str, Any]) -> None:
        host = str(record.get("host") or "unknown")
        if not self._recent:
            self._since = self._elapsed  # rates are of computing, not of starting up
        self._workers[str(record.get("worker"))] = host
        self._processes[host, record.get("pid")] = None

    def _worker_lost(self, record: Mapping[str, Any]) -> None:
        self._lost += self._workers.pop(str(record.get("worker")), None) is not None
        for key in record.get("keys", ()):
            self._in_flight.pop(key, None)

    def _tile_started(self, record: Mapping[str, Any]) -> None:
        self._in_flight[str(record.get("key"))] = str(record.get("worker"))

    def _tile_done(self, record: Mapping[str, Any]) -> None:
        key = str(record.get("key"))
        self._in_flight.pop(key, None)
        self._given_up.discard((self._matrix, key))
        self._done += 1
        self._computed += 1
        self._recent.append((self._elapsed, _number(record.get("entries"))))
        while len(self._recent) > _FEWEST and self._recent[0][0] < self._elapsed - WINDOW:
            self._since = self._recent.popleft()[0]

    def _tile_failed(self, record: Mapping[str, Any]) -> None:
        key, final = str(record.get("key")), bool(record.get("final"))
        self._in_flight.pop(key, None)
        name = self._matrix, key
        before = self._troubles.get(name)
        times = 1 if before is None else before.times + 1
        error = " ".join(str(record.get("error", "")).split())
        self._troubles[name] = Trouble(key, times, error, final)
        if final:
            self._given_up.add(name)

    def result(self) -> Activity:
        """Return what the events say so far."""
        tiles = entries = left = None
        seconds = self._elapsed - self._since
        if self._recent and seconds > 0:
            tiles = len(self._recent) / seconds
            entries = sum(count for _, count in self._recent) / seconds
            missing = self._total - self._done - len(self._given_up)
            left = missing / tiles if missing > 0 else None
        given_up = tuple(t for name, t in self._troubles.items() if name in self._given_up)
        retried = tuple(
            t for name, t in self._troubles.items() if name not in self._given_up or t.times > 1
        )
        return Activity(
            total=self._total,
            done=min(self._done, self._total),
            given_up=given_up,
            retried=retried,
            in_flight=tuple(self._in_flight),
            alive=dict(Counter(self._workers.values())),
            lost=self._lost,
            seen=dict(Counter(host for host, _ in self._processes)),
            tiles_per_second=tiles,
            entries_per_second=entries,
            seconds_left=left,
            last_event=self._last,
            stages=dict(self._stages),
            stage=self._stage,
        )


_TAKES: dict[str, Callable[[History, Mapping[str, Any]], None]] = {
    "RunStarted": History._run_started,
    "StageStarted": History._stage_started,
    "StageDone": History._stage_done,
    "GramStarted": History._gram_started,
    "WorkerStarted": History._worker_started,
    "WorkerLost": History._worker_lost,
    "TileStarted": History._tile_started,
    "TileDone": History._tile_done,
    "TileFailed": History._tile_failed,
}


def _number(value: Any) -> float:
    ok = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if ok else 0.0
