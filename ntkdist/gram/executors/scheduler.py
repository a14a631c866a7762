"""What an executor is, which worker gets which tile next, and how often a tile is tried."""

from __future__ import annotations

import heapq
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ntkdist.errors import StageError
from ntkdist.events.types import TileDone, TileFailed, TileStarted
from ntkdist.gram.tiling import TileKey
from ntkdist.gram.worker import GramJob, TileRecord


@dataclass(frozen=True)
class ExecutorSummary:
    """What became of the tiles that an executor was given.

    Attributes:
        done: Tiles computed and stored, in the order they were finished.
        failed: Tile → its last error in one line.
        left: Tiles not computed because the job was stopped.
    """

    done: tuple[TileKey, ...] = ()
    failed: dict[TileKey, str] = field(default_factory=dict)
    left: tuple[TileKey, ...] = ()


class Executor(Protocol):
    """Computes tiles somewhere; its name is ``inline`` or ``ray``."""

    name: str

    @property
    def workers(self) -> int:
        """How many workers are asked for; 0 if that is found out later."""

    def run(
        self,
        job: GramJob,
        keys: Sequence[TileKey],
        emit: Callable[[Any], None],
        stop: threading.Event,
    ) -> ExecutorSummary:
        """Compute the tiles, whatever happens to the workers.

        Raises:
            StageError: If no worker is left, or twelve tiles in a row could not be stored.
            DeviceLostError: If this process computes the tiles, and cannot use its GPU any more.
        """


_MAX_REFUSED = 12  # tiles in a row that the store refuses


class RowQueue:
    """Hands out tiles so that a worker keeps its row, and its prepared states, while it can.

    A worker takes its row from the left. When the row is done it takes the longest row
    that nobody works on, and when there is none it steals from the right end of the row
    with the most tiles left, so that nobody idles at the end. A tile costs O(log rows).
    """

    def __init__(self, keys: Iterable[TileKey]) -> None:
        self._rows: dict[int, deque[TileKey]] = {}
        self._row_of: dict[Hashable, int] = {}
        self._owners: Counter[int] = Counter()
        self._count = 0
        for key in sorted(keys):
            self._rows.setdefault(key.row, deque()).append(key)
            self._count += 1
        # (-tiles, row) of at least every row: rows shrink without being entered again
        self._longest = [(-len(keys), row) for row, keys in self._rows.items()]
        heapq.heapify(self._longest)
        self._free = list(self._longest)

    def __len__(self) -> int:
        return self._count

    def take(self, worker: Hashable) -> TileKey | None:
        """Return the next tile for a worker, or None if all are handed out."""
        if not self._count:
            return None
        self._count -= 1
        row = self._row_of.get(worker)
        if row is not None and row in self._rows:
            return self._pop(row, left=True)
        self.forget(worker)
        free = self._top(self._free, owned=False)
        if free is not None:
            self._row_of[worker] = free
            self._owners[free] += 1
            return self._pop(free, left=True)
        longest = self._top(self._longest, owned=True)
        assert longest is not None
        return self._pop(longest, left=False)

    def _top(self, heap: list[tuple[int, int]], *, owned: bool) -> int | None:
        """Return the longest row of a heap, and put right the entries that come up on the way."""
        while heap:
            size, row = heap[0]
            left = len(self._rows.get(row, ()))
            if not left or (self._owners[row] and not owned):
                heapq.heappop(heap)
            elif left != -size:
                heapq.heapreplace(heap, (-left, row))
            else:
                return row
        return None

    def _enter(self, row: int) -> None:
        """Enter a row that has grown, or that nobody works on any more."""
        if row in self._rows:
            entry = (-len(self._rows[row]), row)
            heapq.heappush(self._longest, entry)
            if not self._owners[row]:
                heapq.heappush(self._free, entry)

    def _pop(self, row: int, *, left: bool) -> TileKey:
        keys = self._rows[row]
        key = keys.popleft() if left else keys.pop()
        if not keys:
            del self._rows[row]
        return key

    def put_back(self, keys: Iterable[TileKey]) -> None:
        """Return unfinished tiles to the queue; they come first in their rows."""
        for key in sorted(keys, reverse=True):
            self._rows.setdefault(key.row, deque()).appendleft(key)
            self._count += 1
            self._enter(key.row)

    def forget(self, worker: Hashable) -> None:
        """Free the row of a worker that is gone."""
        row = self._row_of.pop(worker, None)
        if row is not None:
            self._owners[row] -= 1
            self._enter(row)

    def rest(self) -> tuple[TileKey, ...]:
        """Return the tiles nobody has taken."""
        return tuple(sorted(key for keys in self._rows.values() for key in keys))


class TileScheduler:
    """The tiles of one job: waiting, handed out, done, tried again, given up. Not thread-safe.

    When a worker dies, each of its tiles may be the cause: they are quarantined.
    A quarantined tile is run alone, to find out whether it is the one that kills its worker.

    Args:
        keys: All tiles of the job.
        emit: Receives every event.
        retries: How often a tile that failed is tried again.
    """

    def __init__(
        self, keys: Sequence[TileKey], emit: Callable[[Any], None], *, retries: int
    ) -> None:
        self._queue = RowQueue(keys)
        self._emit = emit
        self._retries = retries
        self._handed: Counter[TileKey] = Counter()
        self._strikes: Counter[TileKey] = Counter()
        self._shared: Counter[TileKey] = Counter()  # deaths at which it was one of several tiles
        self._quarantined: deque[TileKey] = deque()  # waiting
        self._done: list[TileKey] = []
        self._failed: dict[TileKey, str] = {}
        self._refused = 0
        self._last_refusal = ""

    def check_store(self) -> None:
        """Raise ``StageError`` if the store refused the last twelve tiles."""
        if self.refusing:
            raise StageError(
                f"the last {self._refused} tiles could not be stored; {len(self._done)} are stored,"
                f" {self.waiting} wait: {self._last_refusal}"
            )

    @property
    def refusing(self) -> bool:
        """Whether the store refused the last twelve tiles."""
        return self._refused >= _MAX_REFUSED

    @property
    def waiting(self) -> int:
        """How many tiles no worker has."""
        return len(self._queue) + len(self._quarantined)

    def is_quarantined(self, key: TileKey) -> bool:
        """Return whether a worker that has this tile must have no other."""
        return key in self._shared

    def take(self, worker: str, *, idle: bool = True) -> tuple[TileKey, int] | None:
        """Hand out a tile with the number of the attempt; None if there is none."""
        key = (
            self._quarantined.popleft() if idle and self._quarantined else self._queue.take(worker)
        )
        if key is None:
            return None
        self._handed[key] += 1
        self._emit(TileStarted(str(key), worker, self._handed[key]))
        return key, self._handed[key]

    def report(self, key: TileKey, record: TileRecord) -> None:
        """Take the record of a tile that a worker computed, or failed to compute."""
        if record.error is None:
            self._done.append(key)
            self._emit(
                TileDone(
                    str(key),
                    record.worker,
                    record.seconds,
                    record.bytes,
                    record.attempt,
                    record.entries,
                    record.backend,
                    tuple(record.digests),
                    record.computing,
                )
            )
            self._refused = 0
            return
        if record.unwritable:
            self._refused += 1
            self._last_refusal = record.error
        self._strike(key, record.worker, record.error, record.traceback)

    def lost(self, worker: str, keys: Sequence[TileKey], reason: str, traceback: str = "") -> None:
        """Take back the tiles of a worker that died.

        If the worker had one tile, this death and all earlier ones at which the tile was one of
        several count as failures of it; if it had several tiles, none counts yet.
        """
        self._queue.forget(worker)
        if len(keys) == 1:
            self._strikes[keys[0]] += self._shared[keys[0]]
            self._shared[keys[0]] = 0
            self._strike(keys[0], worker, f"its worker died: {reason}", traceback)
            return
        for key in keys:
            self._shared[key] += 1
        self._put_back(keys)

    def take_back(self, worker: str, keys: Sequence[TileKey]) -> None:
        """Take back tiles of a worker that was ended on purpose; no failure is counted."""
        self._queue.forget(worker)
        self._put_back(keys)

    def _put_back(self, keys: Sequence[TileKey]) -> None:
        self._quarantined.extend(key for key in keys if key in self._shared)
        self._queue.put_back(key for key in keys if key not in self._shared)

    def _strike(self, key: TileKey, worker: str, error: str, traceback: str) -> None:
        self._strikes[key] += 1
        final = self._strikes[key] > self._retries
        self._emit(TileFailed(str(key), worker, self._handed[key], error, traceback, final))
        if final:
            self._failed[key] = error
        else:
            self._put_back([key])

    def summary(self) -> ExecutorSummary:
        """Return what became of the tiles."""
        left = tuple(sorted((*self._queue.rest(), *self._quarantined)))
        return ExecutorSummary(tuple(self._done), dict(self._failed), left)
