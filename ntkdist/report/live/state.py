"""State of a run that another process works on, from its store, lease and events."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.analyses.section import read_verdict
from ntkdist.display.tile_map import ABSENT, DONE, FAILED, FLIGHT, States, counts
from ntkdist.display.words import moment
from ntkdist.errors import StoreError
from ntkdist.events.history import Activity, History
from ntkdist.events.log import EventReader
from ntkdist.runs.run import Run
from ntkdist.storage import lease

_KEY = re.compile(r"r(\d+)c(\d+)")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A run at one moment.

    Attributes:
        activity: The state of its workers, tiles and stages.
        states: (B, B) of the Gram's tiles; (0, 0) where it was not begun.
        driver: Which process works on it, in words; None where none does.
        report: Changes whenever the report was written; None where there is none.
        verdict: How far to trust what is said about labels; None where the run does not say.
    """

    activity: Activity
    states: States = field(repr=False)
    driver: str | None
    report: str | None
    verdict: str | None = None

    @property
    def tiles(self) -> dict[int, int]:
        """State → how many tiles of the Gram."""
        return counts(self.states)


class Follower:
    """Follows a run; every ``look`` reads only what is new since the last one.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._events = EventReader(run.url)
        self._history = History()
        self._stored: NDArray[np.bool_] = np.zeros((0, 0), bool)
        self._listed: tuple[int, int] | None = None  # starts and ends of the Gram at the listing
        self._judged = 0  # label stages finished when the verdict was read
        self._verdict: str | None = None

    def look(self) -> Snapshot:
        """Read what is new.

        Returns:
            The run as it is now.

        Raises:
            StoreError: If the store cannot be read.
        """
        history = self._history
        for record in self._events.read():
            history.take(record)
            if record["event"] == "TileDone" and history.in_gram:
                self._mark(self._stored, str(record.get("key")), True)
        # a start may have removed tiles, or found a larger matrix
        begun = history.gram_starts, history.finished["gram"]
        if begun != self._listed and self._list():
            self._listed = begun
        if history.finished["labels"] != self._judged:
            self._verdict = read_verdict(self._run)
            self._judged = history.finished["labels"]
        driver = self._driver()
        written = storage.exists(self._run.address("report.html"))
        return Snapshot(
            activity=history.activity(),
            states=self._states(at_work=driver is not None),
            driver=driver,
            report=f"{history.finished['report']}" if written else None,
            verdict=self._verdict,
        )

    def _states(self, *, at_work: bool) -> States:
        """Return the map of the Gram; a driver that was killed has no tile in work."""
        states = np.where(self._stored, np.uint8(DONE), np.uint8(ABSENT))
        for key in self._history.failed:
            self._mark(states, key, FAILED)
        if at_work and self._history.in_gram:
            for key in self._history.in_flight:
                self._mark(states, key, FLIGHT)
        return states

    def _mark(self, tiles: NDArray, key: str, value: int) -> None:
        match = _KEY.fullmatch(key)
        if match is not None and (i := int(match[1])) <= (j := int(match[2])) < len(tiles):
            tiles[i, j] = value

    def _list(self) -> bool:
        """List the tiles that are stored; return False where there is no matrix yet."""
        try:
            array = self._run.array("gram", "ntk")
        except StoreError:
            return False
        blocks = -(-array.shape[0] // array.chunks[0])
        self._stored = np.zeros((blocks, blocks), bool)
        for name in storage.list_objects(self._run.address("gram", "ntk", "c")):
            row, _, column = name.partition("/")
            # any other name is the temporary file of a writer that was killed
            if row.isdecimal() and column.isdecimal():
                i, j = int(row), int(column)
                if i <= j < blocks:
                    self._stored[i, j] = True
        return True

    def _driver(self) -> str | None:
        holder = lease.holder_of(self._run.url)
        if holder is None or holder.lives() is False:
            return None
        who = f"{holder.user}@{holder.host}, process {holder.pid}"
        return f"{who}, since {moment(holder.since)}"
