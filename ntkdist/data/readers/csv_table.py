"""CSV files as people save them: which delimiter, which columns, what stands in which line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ntkdist.data.paths import existing_file
from ntkdist.errors import InputError, did_you_mean

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True)
class Row:
    """The fields of a row, as many as there are columns, and the line of the file they end in."""

    line: int
    fields: list[str]


@dataclass(frozen=True)
class Table:
    """A CSV file.

    Attributes:
        columns: Names in lower case.
        rows: In order, without empty lines.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def find(self, names: Sequence[str]) -> int:
        """Return which column has the first of ``names`` that there is."""
        return next(self.columns.index(name) for name in names if name in self.columns)


def read_table(path: Path, needed: Sequence[Sequence[str]]) -> Table:
    """Read a CSV file with a header.

    The delimiter is that of comma, semicolon and tab under which the header has the needed
    columns.

    Args:
        path: The file, in UTF-8.
        needed: For each column that must be there, the names it may have.

    Returns:
        Its columns and rows, at least one.

    Raises:
        InputError: The file is missing, in another encoding, has no rows, lacks a column, or has
            a row of another length; the line is named.
    """
    text = _text(existing_file(path))
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise InputError(f"{path} is empty; it needs a header such as {_example(needed)}")
    headers = {mark: _header(path, first, mark) for mark in _DELIMITERS}
    fits = [mark for mark, names in headers.items() if not _lacking(names, needed)]
    if not fits:
        raise InputError(_no_columns(path, headers, needed))
    columns = headers[fits[0]]
    rows = _rows(path, text, fits[0], columns)
    if not rows:
        raise InputError(f"{path} has a header but no rows; add a line for each image")
    return Table(columns, rows)


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} is in UTF-16; save it as CSV in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
            "save the table as CSV in UTF-8"
        ) from None


def _header(path: Path, line: str, mark: str) -> tuple[str, ...]:
    try:
        fields = next(csv.reader([line], delimiter=mark))
    except csv.Error as error:
        raise InputError(f"{path}, line 1: {error}; save the table as CSV in UTF-8") from None
    return tuple(name.strip().casefold() for name in fields)


def _lacking(columns: Sequence[str], needed: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    return [names for names in needed if not set(names) & set(columns)]


def _no_columns(
    path: Path, headers: dict[str, tuple[str, ...]], needed: Sequence[Sequence[str]]
) -> str:
    """Say which columns were looked for, and what the likeliest reading of the header has."""
    columns = max(headers.values(), key=lambda names: (-len(_lacking(names, needed)), len(names)))
    lacking = _lacking(columns, needed)
    wanted = " and no ".join(f"column {', '.join(names[:-1])} or {names[-1]}" for names in lacking)
    looked_for = [name for names in lacking for name in names]
    near = next(filter(None, (did_you_mean(name, looked_for) for name in columns)), "")
    shown = ", ".join(map(repr, columns[:8])) + (", ..." if len(columns) > 8 else "")
    return (
        f"{path}, line 1: no {wanted} in the header; it has {shown}{near}; "
        f"begin the file with a line such as {_example(needed)}"
    )


def _example(needed: Sequence[Sequence[str]]) -> str:
    return ",".join(names[0] for names in needed)


def _rows(path: Path, text: str, mark: str, columns: tuple[str, ...]) -> tuple[Row, ...]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    rows: list[Row] = []
    header = True
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if header:
                header = False
                continue
            if len(fields) != len(columns):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields, but the header has "
                    f"{len(columns)} columns separated by {_DELIMITERS[mark]}; put quotes around "
                    "a field that holds one"
                )
            rows.append(Row(reader.line_num, fields))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}; close or double the quotes there"
        ) from None
    return tuple(rows)
