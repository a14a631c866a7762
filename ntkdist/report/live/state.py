"""What is known of a run that another process works on, from its store, lease and events."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from ntkdist import storage
from ntkdist.analyses.section import read_verdict
from ntkdist.display.tile_map import ABSENT, DONE, FAILED, FLIGHT, States, counts
from ntkdist.display.words import moment
from ntkdist.errors import StoreError
from ntkdist.events.activity import Activity, History
from ntkdist.events.records import Record, text
from ntkdist.report.live.tail import NewEvents
from ntkdist.runs.run import Run
from ntkdist.storage import lease

_KEY = re.compile(r"r(\d+)c(\d+)")
_GRAM = "gram"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A run at one moment.

    Attributes:
        activity: What its events say.
        states: (B, B) of the Gram's tiles; (0, 0) where it was not begun.
        driver: Who works on it, in words; None where nobody does.
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
    """Follows a run; every ``look`` costs what is new since the last one.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._events = NewEvents(run.url)
        self._history = History()
        self._stage = _GRAM  # events of old versions name none
        self._states: States = np.zeros((0, 0), np.uint8)
        self._listed = False
        self._reports = 0
        self._verdict: str | None = None
        self._judged = True  # whether the verdict is the latest one

    def look(self) -> Snapshot:
        """Read what is new.

        Returns:
            The run as it is now.

        Raises:
            StoreError: If the store cannot be read.
        """
        for record in self._events.read():
            self._history.take(record)
            self._take(record)
        if not self._listed:
            self._list()
        if not self._judged:
            self._verdict = read_verdict(self._run)
            self._judged = True
        driver = self._driver()
        states = self._states
        if driver is None and (states == FLIGHT).any():  # of a driver that was killed
            states = np.where(states == FLIGHT, np.uint8(ABSENT), states)
        there = storage.exists(self._run.address("report.html"))
        report = f"{self._reports}" if there else None
        activity = self._history.result()
        return Snapshot(activity, states.copy(), driver, report, self._verdict)

    def _take(self, record: Record) -> None:
        event = text(record, "event")
        if event == "StageStarted":
            self._stage = text(record, "stage")
        elif event == "StageDone":
            self._reports += text(record, "stage") == "report"
            self._judged &= text(record, "stage") != "labels"
            self._listed &= text(record, "stage") != _GRAM
            self._stage = _GRAM
        elif event in ("RunStarted", "GramStarted"):
            self._clear(FLIGHT)
            if event == "GramStarted" and self._stage == _GRAM:
                self._clear(FAILED)
                self._listed = False  # tiles may have been removed, or the matrix has grown
                self._resize()
        elif self._stage == _GRAM:
            self._take_tile(event, record)

    def _take_tile(self, event: str, record: Record) -> None:
        if event == "TileStarted":
            self._set(text(record, "key"), FLIGHT)
        elif event == "TileDone":
            self._set(text(record, "key"), DONE)
        elif event == "TileFailed":
            self._set(text(record, "key"), FAILED if record.get("final") else ABSENT)
        elif event == "WorkerLost":
            keys = record.get("keys")
            for key in keys if isinstance(keys, list) else ():
                self._set(str(key), ABSENT)

    def _clear(self, state: int) -> None:
        self._states[self._states == state] = ABSENT

    def _set(self, key: str, state: int) -> None:
        match = _KEY.fullmatch(key)
        if match is None:
            return
        i, j = int(match[1]), int(match[2])
        if i <= j < len(self._states):
            self._states[i, j] = state

    def _resize(self) -> bool:
        """Give the map the size that the stored matrix has now; return whether it has one."""
        try:
            array = self._run.array("gram", "ntk")
        except StoreError:
            return False
        blocks = -(-array.shape[0] // array.chunks[0])
        if blocks != len(self._states):
            before, self._states = self._states, np.zeros((blocks, blocks), np.uint8)
            kept = min(blocks, len(before))
            self._states[:kept, :kept] = before[:kept, :kept]
        return True

    def _list(self) -> None:
        """Take from the store which tiles are there; what events said of them came before."""
        if not self._resize():
            return
        self._clear(DONE)
        for name in storage.list_objects(self._run.address("gram", "ntk", "c")):
            row, _, column = name.partition("/")
            # what is not a number is the temporary file of a writer that was killed
            if row.isdecimal() and column.isdecimal():
                i, j = int(row), int(column)
                if i <= j < len(self._states):
                    self._states[i, j] = DONE
        self._listed = True

    def _driver(self) -> str | None:
        holder = lease.holder_of(self._run.url)
        if holder is None or holder.lives() is False:
            return None
        who = f"{holder.user}@{holder.host}, process {holder.pid}"
        return f"{who}, since {moment(holder.since)}"
