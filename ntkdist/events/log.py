"""``events.jsonl``: every event of a run, one JSON line each, across all its drivers."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import PurePath
from typing import Any

from ntkdist.storage.append_log import AppendLog, read_lines

_NAME = "events"


class EventLog:
    """Subscriber that appends events to a run: see ``AppendLog``.

    Args:
        address: The run's folder or URL.
        part_seconds: How long a part on an object store collects.

    Raises:
        InputError: If the folder cannot be written.
    """

    def __init__(self, address: str, *, part_seconds: float = 5.0) -> None:
        self._lines = AppendLog(address, _NAME, part_seconds=part_seconds)

    def __call__(self, event: Any) -> None:
        """Append one event."""
        self._lines.append(json.dumps(to_record(event), ensure_ascii=False))

    def close(self) -> None:
        """Write what is still waiting; more events may not follow."""
        self._lines.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_events(address: str) -> list[dict[str, Any]]:
    """Read all events of a run, oldest driver first.

    Args:
        address: The run's folder or URL.

    Returns:
        One dictionary an event, as ``to_record`` made it; lines torn by a kill are
        left out. Empty if there are none yet.
    """
    records = []
    for line in read_lines(address, _NAME):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "event" in record:
            records.append(record)
    return records


def to_record(event: Any) -> dict[str, Any]:
    """Turn any dataclass into a JSON object with ``event`` and ``time``.

    Args:
        event: A dataclass instance, of this module or any other.

    Returns:
        Its fields as plain JSON values, ``event`` = the name of its class, and
        ``time`` = now if it has none.
    """
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
