"""A log of text lines to which lines are only appended, in a folder or on an object store."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import IO

from ntkdist import storage

_AT_ONCE = 1 << 25  # bytes


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


class LogReader:
    """Reads the lines of one log, which may be absent, each once, from where it ended last."""

    def __init__(self, address: str, name: str) -> None:
        self._address = storage.join(address, name)
        self._path = storage.local_path(f"{self._address}.jsonl")
        self._offset = 0
        self._parts: set[str] = set()
        self._rest = b""

    @property
    def rest(self) -> str:
        """The last line, whose end is not written yet; a kill may have torn it."""
        return self._rest.decode("utf-8", errors="replace")

    def read(self) -> Iterator[str]:
        """Yield the new lines without their ends, those of the oldest writer first.

        Raises:
            NtkdistError: If the store does not answer.
            OSError: If the file cannot be read.
        """
        for content in self._contents():
            *lines, self._rest = (self._rest + content).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", errors="replace")

    def _contents(self) -> Iterator[bytes]:
        """Yield what is new, of a large file a piece at a time."""
        if self._path is None:
            if not self._parts:  # several at a time
                for name, content in storage.read_all(self._address).items():
                    self._parts.add(name)
                    yield content
                return
            for name in sorted(set(storage.list_objects(self._address)) - self._parts):
                yield storage.read_bytes(storage.join(self._address, name)) or b""
                self._parts.add(name)
            return
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                while content := file.read(_AT_ONCE):
                    self._offset += len(content)
                    yield content
        except (FileNotFoundError, NotADirectoryError):
            return


def read_lines(address: str, name: str) -> Iterator[str]:
    """Yield all lines of a log; the last one may be torn by a kill."""
    log = LogReader(address, name)
    yield from log.read()
    yield log.rest


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
