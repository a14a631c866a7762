"""What happens during a run, as plain values; who wants to know subscribes.

Subscribers are callables that take one event: the progress bar, ``events.jsonl``,
metrics, a test. Events are told in the driver's
thread, in order. ``EventLog`` writes them to the run, ``read_events`` reads them back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ntkdist.events.log import EventLog, read_events
from ntkdist.events.serialise import to_record

__all__ = [
    "DriverWaited",
    "Event",
    "EventLog",
    "GramStarted",
    "Interrupted",
    "RunStarted",
    "StageDone",
    "StageStarted",
    "Subscriber",
    "SubscriberFailed",
    "Subscribers",
    "TileDone",
    "TileFailed",
    "TileStarted",
    "WorkerLost",
    "WorkerStarted",
    "read_events",
    "to_record",
]

Subscriber: TypeAlias = Callable[[Any], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of the events told here; any other dataclass may be told as well.

    Attributes:
        time: Seconds since 1970, UTC.
    """

    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class RunStarted(Event):
    """A driver began to work on a run.

    Attributes:
        run: Address of the run.
        fingerprint: Of its inputs and configuration.
    """

    run: str
    fingerprint: str = ""


@dataclass(frozen=True)
class DriverWaited(Event):
    """A driver found another one's lease on the run, and watches whether it is still renewed.

    Attributes:
        holder: Who that is.
        seconds: How long it watches at most.
    """

    holder: str
    seconds: float


@dataclass(frozen=True)
class GramStarted(Event):
    """A driver began to compute the missing tiles of a matrix.

    Attributes:
        total: Tiles of the matrix.
        done: Of them, tiles that were there already.
        edge: Rows and columns of a tile.
        workers: How many workers were asked for; 0 if not known yet.
        backend: Kernel backend.
        executor: ``inline`` or ``ray``.
    """

    total: int
    done: int
    edge: int
    workers: int
    backend: str
    executor: str


@dataclass(frozen=True)
class TileStarted(Event):
    """A tile was handed to a worker (which may have another before it).

    Attributes:
        key: The tile.
        worker: The worker's name.
        attempt: How many times this driver has handed this tile out, from 1.
    """

    key: str
    worker: str
    attempt: int


@dataclass(frozen=True)
class TileDone(Event):
    """A tile is computed and stored.

    Attributes:
        key: The tile.
        worker: The worker's name.
        seconds: From reading the images to having written the tile; while it is written, the
            worker computes another.
        bytes: Of the tile's entries, all kinds, before compression.
        attempt: As in ``TileStarted``.
        entries: Kernel entries of the tile (of one kind).
        backend: The arithmetic it was computed with, as in ``cuda-1``.
        digests: Of the tile as stored, in the order of the job's kinds.
        computing: Of the seconds, those until it was computed; 0 if not known.
    """

    key: str
    worker: str
    seconds: float
    bytes: int
    attempt: int
    entries: int = 0
    backend: str = ""
    digests: tuple[str, ...] = ()
    computing: float = 0.0


@dataclass(frozen=True)
class TileFailed(Event):
    """A tile raised, or its worker died with it too often.

    Attributes:
        key: The tile.
        worker: The worker's name.
        attempt: As in ``TileStarted``.
        error: The error in one line.
        traceback: Where it was raised.
        final: Whether the tile is given up; otherwise it will be tried again.
    """

    key: str
    worker: str
    attempt: int
    error: str
    traceback: str
    final: bool


@dataclass(frozen=True)
class WorkerStarted(Event):
    """A worker is ready for tiles.

    Attributes:
        worker: Its name.
        pid: Its process.
        host: Its machine.
        threads: How many threads it computes with.
    """

    worker: str
    pid: int = 0
    host: str = ""
    threads: int = 1


@dataclass(frozen=True)
class WorkerLost(Event):
    """A worker died or could not start.

    Attributes:
        worker: Its name.
        reason: Why, in one line.
        keys: The tiles it had; they go back to the queue.
    """

    worker: str
    reason: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage of a run began.

    Attributes:
        stage: Its name.
    """

    stage: str


@dataclass(frozen=True)
class StageDone(Event):
    """A stage of a run is finished.

    Attributes:
        stage: Its name.
        seconds: What it took.
        detail: Its outcome in one line.
    """

    stage: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class Interrupted(Event):
    """A signal asked the driver to stop; no more tiles are handed out.

    Attributes:
        signal: Its name, empty if the caller stopped the job itself.
        in_flight: Tiles that are waited for.
    """

    signal: str
    in_flight: tuple[str, ...] = ()


@dataclass(frozen=True)
class SubscriberFailed(Event):
    """A subscriber raised and hears no more events; the job goes on.

    Attributes:
        subscriber: Which.
        error: What it raised, in one line.
    """

    subscriber: str
    error: str


class Subscribers:
    """Tells each event to every subscriber; itself a subscriber.

    A subscriber that raises an ``Exception`` is not asked again: hours of tiles are
    worth more than a progress bar. It does not go unnoticed: the failure is logged
    as a warning with its traceback, and the others are told ``SubscriberFailed``.
    """

    def __init__(self, *subscribers: Subscriber) -> None:
        self._subscribers = list(subscribers)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Add one more, from the next event on."""
        self._subscribers.append(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Leave one out from the next event on; one that was dropped before is fine."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)

    def __call__(self, event: Any) -> None:
        """Tell every subscriber."""
        failures = []
        for subscriber in list(self._subscribers):
            try:
                subscriber(event)
            except Exception as error:
                self._subscribers.remove(subscriber)
                name = getattr(subscriber, "__qualname__", type(subscriber).__name__)
                _log.warning("subscriber %s failed and is dropped", name, exc_info=True)
                failures.append(SubscriberFailed(name, f"{type(error).__name__}: {error}"))
        for failure in failures:
            self(failure)
