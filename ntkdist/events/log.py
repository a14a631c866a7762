"""``events.jsonl``: every event of a run, one JSON line each, across all its drivers."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, TypeAlias

from ntkdist.storage.append_log import AppendLog, LogReader, read_lines

_NAME = "events"

Record: TypeAlias = dict[str, Any]
"""One event as it is stored: see ``to_record``."""


class EventLog:
    """Subscriber that appends events to a run's log.

    Args:
        address: The run's folder or URL.
        part_seconds: How long a part on an object store collects, see ``AppendLog``.

    Raises:
        InputError: If the folder cannot be written.
    """

    def __init__(self, address: str, *, part_seconds: float = 5.0) -> None:
        self._log = AppendLog(address, _NAME, part_seconds=part_seconds)

    def __call__(self, event: Any) -> None:
        """Append one event."""
        self._log.append(json.dumps(to_record(event), ensure_ascii=False))

    def close(self) -> None:
        """Write the events that still wait; no event may follow."""
        self._log.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class EventReader:
    """Reads a run's events, each once, from where it ended the last time."""

    def __init__(self, address: str) -> None:
        self._log = LogReader(address, _NAME)

    def read(self) -> Iterator[Record]:
        """Yield the new events, those of the oldest driver first; torn lines are left out.

        Raises:
            NtkdistError: If the store does not answer.
            OSError: If the log cannot be read.
        """
        return _records(self._log.read())


def read_events(address: str) -> list[Record]:
    """Read all events of a run, oldest driver first."""
    return list(_records(read_lines(address, _NAME)))


def _records(lines: Iterator[str]) -> Iterator[Record]:
    """Yield the lines that are objects with an event's name."""
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and "event" in record:
            yield record


def to_record(event: Any) -> dict[str, Any]:
    """Turn any dataclass into a JSON object with ``event`` and ``time``."""
    record: dict[str, Any] = {"event": type(event).__name__, "time": time.time()}
    for item in dataclasses.fields(event):
        record[item.name] = _plain(getattr(event, item.name))
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, PurePath) or type(value).__str__ is not object.__str__:
        to_list = getattr(value, "tolist", None)  # NumPy scalars and arrays
        return _plain(to_list()) if to_list is not None else str(value)
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return repr(value)
