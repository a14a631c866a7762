"""``events.jsonl``: every event of a run, one JSON line each, across all its drivers."""

from __future__ import annotations

import json
import os
import time
from typing import IO, Any

from ntkdist.gram import _address
from ntkdist.gram._metadata import write_error
from ntkdist.gram._records import to_record

_FILE = "events.jsonl"
_PARTS = "events"


class EventLog:
    """Subscriber that appends events to a run.

    In a folder each event is one line of ``events.jsonl``, flushed at once. Object
    stores cannot append, so there the events go into numbered parts below
    ``events/``, written every ``part_seconds`` and on ``close``; a driver that is
    killed loses at most the part it was collecting.

    Args:
        address: The run's folder or URL.
        part_seconds: How long a remote part collects.

    Raises:
        InputError: If the folder cannot be written.
    """

    def __init__(self, address: str, *, part_seconds: float = 5.0) -> None:
        self._address = address
        self._part_seconds = part_seconds
        self._waiting: list[str] = []
        self._last_part = time.monotonic()
        self._part = 0
        # sorts by start; two drivers never share a name
        self._stem = f"{time.time_ns():020d}-{os.getpid()}"
        folder = _address.local_path(address)
        self._file: IO[str] | None = None
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                torn = _ends_torn(str(folder / _FILE))
                self._file = open(folder / _FILE, "a", encoding="utf-8")  # noqa: SIM115
                if torn:
                    self._file.write("\n")
            except OSError as error:
                raise write_error(error, str(folder / _FILE)) from error

    def __call__(self, event: Any) -> None:
        """Append one event."""
        line = json.dumps(to_record(event), ensure_ascii=False) + "\n"
        if self._file is not None:
            self._file.write(line)
            self._file.flush()
            return
        self._waiting.append(line)
        if time.monotonic() - self._last_part >= self._part_seconds:
            self._write_part()

    def _write_part(self) -> None:
        self._last_part = time.monotonic()
        if not self._waiting:
            return
        fs, inside = _address.filesystem(
            _address.join(self._address, _PARTS, f"{self._stem}-{self._part:06d}.jsonl")
        )
        fs.pipe_file(inside, "".join(self._waiting).encode())
        self._part += 1
        self._waiting.clear()

    def close(self) -> None:
        """Write what is still waiting; more events may not follow."""
        if self._file is not None:
            self._file.close()
        else:
            self._write_part()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _ends_torn(path: str) -> bool:
    """Return whether a killed driver left a line without its end."""
    try:
        with open(path, "rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except FileNotFoundError:
        return False


def read_events(address: str) -> list[dict[str, Any]]:
    """Read all events of a run, oldest driver first.

    Args:
        address: The run's folder or URL.

    Returns:
        One dictionary an event, as ``to_record`` made it; lines torn by a kill are
        left out. Empty if there are none yet.
    """
    folder = _address.local_path(address)
    if folder is not None:
        try:
            text = (folder / _FILE).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
    else:
        parts = _address.join(address, _PARTS)
        names = sorted(_address.list_objects(parts))
        text = ""
        for name in names:
            fs, inside = _address.filesystem(_address.join(parts, name))
            text += fs.cat_file(inside).decode("utf-8", errors="replace")
    records = []
    for line in text.split("\n"):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "event" in record:
            records.append(record)
    return records
