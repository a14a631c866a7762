"""A run's events as they are stored.

That is ``events.jsonl`` in a folder, and numbered parts below ``events/`` at a remote URL. Their
writers may be killed at any moment or be of another version: what is missing, torn, unknown or of
another type is left out, and nothing here raises.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlparse

Record: TypeAlias = dict[str, Any]


def local_folder(url: str) -> Path | None:
    """Return the folder a run's URL names on this machine, or None if it is remote."""
    if "://" not in url:
        return Path(url)
    return Path(unquote(urlparse(url).path)) if url.startswith("file://") else None


def _lines(url: str) -> list[str]:
    folder = local_folder(url)
    if folder is not None:
        try:
            whole_text = (folder / "events.jsonl").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return whole_text.split("\n")
    import fsspec

    try:
        files, inside = fsspec.core.url_to_fs(f"{url.rstrip('/')}/events")
        parts = [files.cat_file(name) for name in sorted(files.glob(f"{inside}/*.jsonl"))]
    except Exception:  # every store has errors of its own; the report can do without events
        return []
    return b"\n".join(parts).decode("utf-8", errors="replace").split("\n")


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
