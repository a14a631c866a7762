"""How long a tile may take before its worker is taken to hang."""

from __future__ import annotations

from collections import deque
from statistics import median

FIRST_SECONDS = 1800.0
"""Limit while too few tiles are measured: compiling and a slow store count too."""

LEAST_SECONDS = 60.0
LEAST_SECONDS_REMOTE = 600.0
"""Object stores that are away for a while are tried again for minutes before a tile fails."""

TIMES_MEDIAN = 10.0
_ENOUGH = 3
_KEPT = 101


class TimeLimit:
    """A limit from the times of the last tiles: ten times their median, at least a minute
    (ten on an object store).

    Args:
        seconds: A limit to take instead; None measures.
        remote: Whether tiles go to an object store.
    """

    def __init__(self, seconds: float | None = None, *, remote: bool = False) -> None:
        self._given = seconds
        self._least = LEAST_SECONDS_REMOTE if remote else LEAST_SECONDS
        self._measured: deque[float] = deque(maxlen=_KEPT)
        self._limit = FIRST_SECONDS if seconds is None else seconds

    @property
    def seconds(self) -> float:
        """The limit as it is now."""
        return self._limit

    def measured(self, seconds: float) -> None:
        """Take in what a finished tile took."""
        if self._given is not None:
            return
        self._measured.append(seconds)
        if len(self._measured) >= _ENOUGH:
            self._limit = max(self._least, TIMES_MEDIAN * median(self._measured))
