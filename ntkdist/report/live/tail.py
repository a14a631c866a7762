"""The events of a run as they come: every line once, and of a large file only what is new."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ntkdist import storage
from ntkdist.events.records import Record, real

_AT_ONCE = 1 << 25  # bytes


class NewEvents:
    """Reads a run's events from where it ended the last time.

    Args:
        url: Folder or URL of the run.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._offset = 0
        self._torn = b""  # the beginning of a line whose end is not written yet
        self._parts: set[str] = set()

    def read(self) -> Iterator[Record]:
        """Yield the events that are new, in order; what is torn or no event is left out."""
        for content in self._contents():
            *lines, self._torn = (self._torn + content).split(b"\n")
            for line in lines:
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict) and real(record, "time") is not None:
                    yield record

    def _contents(self) -> Iterator[bytes]:
        path = storage.local_path(storage.join(self._url, "events.jsonl"))
        if path is None:
            place = storage.join(self._url, "events")
            for name in sorted(set(storage.list_objects(place)) - self._parts):
                yield storage.read_bytes(storage.join(place, name)) or b""
                self._parts.add(name)
            return
        try:
            with path.open("rb") as file:
                file.seek(self._offset)
                while content := file.read(_AT_ONCE):
                    self._offset += len(content)
                    yield content
        except FileNotFoundError:
            return
