"""A run's events as they are stored.

That is ``events.jsonl`` in a folder, and numbered parts below ``events/`` in an object store. Their
writers may be killed at any moment or be of another version: what is missing, torn, unknown or of
another type is left out, and nothing here raises.
"""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

from ntkdist import storage
from ntkdist.errors import NtkdistError

Record: TypeAlias = dict[str, Any]


def _lines(url: str) -> list[str]:
    try:
        if storage.local_path(url) is not None:
            content = storage.read_bytes(storage.join(url, "events.jsonl")) or b""
        else:
            content = b"\n".join(storage.read_all(storage.join(url, "events")).values())
    except (NtkdistError, OSError):  # the report can do without events
        return []
    return content.decode("utf-8", errors="replace").split("\n")


def read_records(url: str) -> list[Record]:
    """Read a run's events.

    Args:
        url: Folder or URL of the run.

    Returns:
        Every line that is an object with a time; empty if nothing can be read.
    """
    records: list[Record] = []
    for line in _lines(url):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and real(record, "time") is not None:
            records.append(record)
    return records


def real(record: Record, name: str) -> float | None:
    """Return a finite number, or None if there is none under this name."""
    value = record.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def whole(record: Record, name: str) -> int:
    """Return a whole number of at least 0, 0 if there is none under this name."""
    return max(0, int(real(record, name) or 0))


def text(record: Record, name: str) -> str:
    """Return a text, empty if there is none under this name."""
    value = record.get(name)
    return value if isinstance(value, str) else ""
