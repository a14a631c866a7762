"""Which worker gets which tile next, how often a tile is tried, and who is told."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from ntkdist.gram.events import TileDone, TileFailed, TileStarted
from ntkdist.gram.executors import ExecutorSummary
from ntkdist.gram.tiling import TileKey
from ntkdist.gram.worker import TileRecord


class RowQueue:
    """Hands out tiles so that a worker keeps its row, and its prepared states, while it can.

    A worker takes its row from the left. When the row is done it takes the longest row
    that nobody works on, and when there is none it steals from the right end of the row
    with the most tiles left, so that nobody idles at the end.
    """

    def __init__(self, keys: Iterable[TileKey]) -> None:
        self._rows: dict[int, deque[TileKey]] = {}
        self._row_of: dict[Hashable, int] = {}
        self._count = 0
        for key in sorted(keys):
            self._rows.setdefault(key.row, deque()).append(key)
            self._count += 1

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
        taken = set(self._row_of.values())
        free = [candidate for candidate in self._rows if candidate not in taken]
        if free:
            row = max(free, key=lambda r: (len(self._rows[r]), -r))
            self._row_of[worker] = row
            return self._pop(row, left=True)
        return self._pop(max(self._rows, key=lambda r: (len(self._rows[r]), -r)), left=False)

    def _pop(self, row: int, *, left: bool) -> TileKey:
        keys = self._rows[row]
        key = keys.popleft() if left else keys.pop()
        if not keys:
            del self._rows[row]
        return key

    def put_back(self, keys: Iterable[TileKey]) -> None:
        """Take tiles back that were handed out and not finished; they come first again."""
        for key in sorted(keys, reverse=True):
            self._rows.setdefault(key.row, deque()).appendleft(key)
            self._count += 1

    def forget(self, worker: Hashable) -> None:
        """Free the row of a worker that is gone."""
        self._row_of.pop(worker, None)

    def rest(self) -> tuple[TileKey, ...]:
        """Return the tiles nobody has taken."""
        return tuple(sorted(key for keys in self._rows.values() for key in keys))


class Ledger:
    """The books of one job: tiles handed out, done, tried again, given up.

    Args:
        keys: All tiles of the job.
        emit: Told every event.
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
        self._done: list[TileKey] = []
        self._failed: dict[TileKey, str] = {}

    @property
    def waiting(self) -> int:
        """Tiles that nobody has."""
        return len(self._queue)

    def take(self, worker: str) -> tuple[TileKey, int] | None:
        """Hand out a tile with the number of the attempt; None if there is none."""
        key = self._queue.take(worker)
        if key is None:
            return None
        self._handed[key] += 1
        self._emit(TileStarted(str(key), worker, self._handed[key]))
        return key, self._handed[key]

    def book(self, key: TileKey, record: TileRecord) -> None:
        """Enter what a worker said about a tile."""
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
                )
            )
            return
        self._strike(key, record.worker, record.error, record.traceback)

    def lost(self, worker: str, keys: Sequence[TileKey], reason: str) -> None:
        """Take back the tiles of a worker that died.

        Args:
            worker: Its name.
            keys: What it had, the oldest first: the one it was computing, which may be
                what killed it, and which is tried only as often as one that raises.
            reason: Why it died.
        """
        self._queue.forget(worker)
        self._queue.put_back(keys[1:])
        if keys:
            self._strike(keys[0], worker, f"its worker died: {reason}", "")

    def unstarted(self, worker: str, keys: Sequence[TileKey]) -> None:
        """Take back tiles that a worker certainly did not begin."""
        self._queue.forget(worker)
        self._queue.put_back(keys)

    def _strike(self, key: TileKey, worker: str, error: str, traceback: str) -> None:
        self._strikes[key] += 1
        final = self._strikes[key] > self._retries
        self._emit(TileFailed(str(key), worker, self._handed[key], error, traceback, final))
        if final:
            self._failed[key] = error
        else:
            self._queue.put_back([key])

    def summary(self) -> ExecutorSummary:
        """Return what became of the tiles."""
        return ExecutorSummary(tuple(self._done), dict(self._failed), self._queue.rest())
