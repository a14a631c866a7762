"""``events.jsonl``: every event of a run, one JSON line each, across all its drivers."""

from __future__ import annotations

import json
from typing import Any

from ntkdist.events.serialise import to_record
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
