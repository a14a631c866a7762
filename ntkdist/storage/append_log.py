"""A log of text lines to which lines are only appended, in a folder or on an object store."""

from __future__ import annotations

import os
import time
from typing import IO

from ntkdist import storage


class AppendLog:
    """Appends lines to a log below an address.

    In a folder the log is one file, ``NAME.jsonl``, flushed after each line. Object stores cannot
    append: there it is a series of numbered parts below ``NAME/``, written every ``part_seconds``
    and on ``close``, so that a killed driver loses at most one part.

    Args:
        address: Folder or URL.
        name: Name of the file or of the parts' folder.
        part_seconds: Seconds of lines in one part.

    Raises:
        InputError: If the folder cannot be written.
    """

    def __init__(self, address: str, name: str, *, part_seconds: float = 5.0) -> None:
        self._parts = storage.join(address, name)
        self._part_seconds = part_seconds
        self._waiting: list[str] = []
        self._last_part = time.monotonic()
        self._part = 0
        # sorts by start time, and is unique to this driver
        self._stem = f"{time.time_ns():020d}-{os.getpid()}"
        folder = storage.local_path(address)
        self._file: IO[str] | None = None
        if folder is not None:
            path = folder / f"{name}.jsonl"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                torn = _ends_torn(str(path))
                self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
                if torn:
                    self._file.write("\n")
            except OSError as error:
                raise storage.write_error(error, str(path)) from error

    def append(self, line: str) -> None:
        """Append one line, given without a line end."""
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()
            return
        self._waiting.append(line + "\n")
        if time.monotonic() - self._last_part >= self._part_seconds:
            self._write_part()

    def _write_part(self) -> None:
        self._last_part = time.monotonic()
        if not self._waiting:
            return
        name = f"{self._stem}-{self._part:06d}.jsonl"
        storage.write_text(storage.join(self._parts, name), "".join(self._waiting))
        self._part += 1
        self._waiting.clear()

    def close(self) -> None:
        """Write the remaining lines; no line may follow."""
        if self._file is not None:
            self._file.close()
        else:
            self._write_part()


def read_lines(address: str, name: str) -> list[str]:
    """Read all lines, in the order of their writers' starts; a kill may have torn the last one.

    Args:
        address: Folder or URL.
        name: Name of the log.

    Returns:
        The lines without line ends; none if there is no log.
    """
    folder = storage.local_path(address)
    if folder is not None:
        content = storage.read_bytes(str(folder / f"{name}.jsonl")) or b""
    else:
        content = b"".join(storage.read_all(storage.join(address, name)).values())
    return content.decode("utf-8", errors="replace").split("\n")


def _ends_torn(path: str) -> bool:
    """Return whether a killed driver left a line without a line end."""
    try:
        with open(path, "rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except FileNotFoundError:
        return False
