"""``csv:FILE``: a table with a line for each image: its file, its label, perhaps its split.

The delimiter is that of comma, semicolon and tab under which the header has the needed columns.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import number_names
from ntkdist.data.dataset import ImageSet
from ntkdist.data.paths import existing_file
from ntkdist.data.readers.assemble import assemble
from ntkdist.data.readers.image_files import decode
from ntkdist.data.scaling import Size
from ntkdist.errors import InputError, MissingSplitError, did_you_mean
from ntkdist.words import counted

# in the order in which they are taken where a table has several
FILE_COLUMNS = ("file", "filename", "path", "image")
LABEL_COLUMNS = ("label", "class", "target")
SPLIT_COLUMN = "split"

_NEEDED = (FILE_COLUMNS, LABEL_COLUMNS)
_EXAMPLE = ",".join(names[0] for names in _NEEDED)
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True)
class _Row:
    """The image of one row: the line of the file that the row ends in, and its fields."""

    line: int
    file: str
    label: str
    split: str


def recognises(path: Path) -> bool:
    """Return whether a path is a CSV file, by its name."""
    return path.is_file() and path.suffix.lower() == ".csv"


def read(path: Path, split: str, size: Size | None = None) -> ImageSet:
    """Read one split of a table in UTF-8 with a header.

    A column names the image file, absolute or relative to the table's folder; one the label, a name
    or a whole number; one, if there is any, the ``split``, without which all images are of
    ``train``. Others are passed over. Images come in the order of the table, under the file names
    of the table. Classes are the labels of both splits, as ``number_names`` numbers them.
    """
    columns, rows = _table(path)
    labels, names = _numbered(path, rows)
    files = _locate(path, rows)
    chosen = [i for i, row in enumerate(rows) if row.split == split]
    if not chosen:
        raise MissingSplitError(
            f"{path} has no image of the {split} split; "
            + (
                f"write {split} into column {SPLIT_COLUMN}"
                if SPLIT_COLUMN in columns
                else f"add a column {SPLIT_COLUMN} with train and test, or read the other split"
            )
        )
    images, notes = decode([files[i] for i in chosen], size)
    return assemble(
        f"{path} ({split})",
        images,
        labels[chosen],
        class_names=names,
        files=[rows[i].file for i in chosen],
        notes=notes,
    )


def named_files(path: Path) -> list[Path]:
    """Return the image files that a table names, of all splits; same errors as ``read``."""
    return _locate(path, _table(path)[1])


def _table(path: Path) -> tuple[Sequence[str], list[_Row]]:
    """Return the names of the columns in lower case, and the rows of all splits."""
    text = _text(existing_file(path))
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise InputError(f"{path} is empty; it needs a header such as {_EXAMPLE}")
    headers = {mark: _header(path, first, mark) for mark in _DELIMITERS}
    delimiter = next((mark for mark, names in headers.items() if not _lacking(names)), None)
    if delimiter is None:
        raise InputError(_no_columns(path, headers))
    columns = headers[delimiter]
    lines = list(_lines(path, text, delimiter, len(columns)))
    if not lines:
        raise InputError(f"{path} has a header but no rows; add a line for each image")
    return columns, [_row(path, columns, line, fields) for line, fields in lines]


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


def _header(path: Path, line: str, delimiter: str) -> list[str]:
    try:
        fields = next(csv.reader([line], delimiter=delimiter))
    except csv.Error as error:
        raise InputError(f"{path}, line 1: {error}; save the table as CSV in UTF-8") from None
    return [name.strip().casefold() for name in fields]


def _lacking(columns: Sequence[str]) -> list[Sequence[str]]:
    return [names for names in _NEEDED if not set(names) & set(columns)]


def _no_columns(path: Path, headers: dict[str, list[str]]) -> str:
    """Say which columns were looked for, and which the header has under the likeliest delimiter."""
    columns = max(headers.values(), key=lambda names: (-len(_lacking(names)), len(names)))
    lacking = _lacking(columns)
    wanted = " and no ".join(f"column {', '.join(names[:-1])} or {names[-1]}" for names in lacking)
    looked_for = [name for names in lacking for name in names]
    near = next(filter(None, (did_you_mean(name, looked_for) for name in columns)), "")
    shown = ", ".join(map(repr, columns[:8])) + (", ..." if len(columns) > 8 else "")
    return (
        f"{path}, line 1: no {wanted} in the header; it has {shown}{near}; "
        f"begin the file with a line such as {_EXAMPLE}"
    )


def _lines(path: Path, text: str, delimiter: str, count: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the fields of each row that is not empty, without the header."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = True
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if header:
                header = False
                continue
            if len(fields) != count:
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields, but the header has "
                    f"{count} columns separated by {_DELIMITERS[delimiter]}; put quotes around "
                    "a field that holds one"
                )
            yield reader.line_num, fields
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}; close or double the quotes there"
        ) from None


def _row(path: Path, columns: Sequence[str], line: int, fields: Sequence[str]) -> _Row:
    where = f"{path}, line {line}"
    # of columns with the same name the first counts
    by_name = dict(zip(reversed(columns), reversed(fields), strict=True))
    file_column, label_column = (
        next(name for name in names if name in by_name) for names in _NEEDED
    )
    file, label = by_name[file_column].strip(), by_name[label_column].strip()
    if not file:
        raise InputError(f"{where}: no file in column {file_column}; name one")
    given = by_name.get(SPLIT_COLUMN, "train")
    split = given.strip().casefold()
    if split not in ("train", "test"):
        raise InputError(f"{where}: split {given!r} is unknown; write train or test")
    return _Row(line, file, label, split)


def _numbered(path: Path, rows: Sequence[_Row]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    try:
        return number_names(
            [row.label for row in rows], lambda i: f"in line {rows[i].line} ({rows[i].file})"
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _locate(path: Path, rows: Sequence[_Row]) -> list[Path]:
    """Return the paths of the files; ``InputError`` for one that is named twice or is missing."""
    files = [_path_of(path.parent, row.file) for row in rows]
    seen: dict[str, int] = {}
    for row, file in zip(rows, files, strict=True):
        before = seen.setdefault(os.path.normpath(file), row.line)
        if before != row.line:
            raise InputError(
                f"{path}, line {row.line}: {row.file} is already in line {before}; "
                "remove one of them"
            )
    missing = [i for i, file in enumerate(files) if not file.is_file()]
    if missing:
        first = missing[0]
        more = counted(len(missing) - 1, "other file is", "other files are")
        others = f" ({more} missing too)" if len(missing) > 1 else ""
        raise InputError(
            f"{path}, line {rows[first].line}: there is no file {files[first]}{others}; "
            f"paths count from the table's folder, {path.parent.resolve()}"
        )
    return files


def _path_of(folder: Path, text: str) -> Path:
    """Return the path that a field means: ``~`` and the separators of Windows are known too."""
    path = folder / text
    if path.is_file():
        return path
    other = folder / os.path.expanduser(text.replace("\\", "/"))
    return other if other.is_file() else folder / os.path.expanduser(text)
