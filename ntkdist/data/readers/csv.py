"""``csv:FILE``: a table with a line for each image: its file, its label, perhaps its split."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ntkdist.data.dataset import ImageSet
from ntkdist.data.readers.assemble import assemble
from ntkdist.data.readers.csv_table import Row, Table, read_table
from ntkdist.data.readers.image_files import decode
from ntkdist.data.scaling import Size
from ntkdist.errors import InputError

# in the order in which they are taken where a table has several
FILE_COLUMNS = ("file", "filename", "path", "image")
LABEL_COLUMNS = ("label", "class", "target")
SPLIT_COLUMN = "split"

_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")  # 3.0 is how pandas writes the 3 of a column with gaps


@dataclass(frozen=True)
class _Image:
    """One line: where it stands, the file as written there, its label and split."""

    line: int
    file: str
    label: str
    split: str


def read(path: Path, split: str, size: Size | None = None) -> ImageSet:
    """Read one split.

    Args:
        path: A CSV file with a header, separated by commas, semicolons or tabs. A column names
            the image file (``file``, ``filename``, ``path`` or ``image``), absolute or
            relative to the table's folder; one the label (``label``, ``class`` or
            ``target``), a name or a whole number; one, if there is any, the ``split``,
            ``train`` or ``test``. Others are passed over.
        split: ``train``, or ``test`` where there is such a column.
        size: What to scale the images to (``data.size``); None keeps them.

    Returns:
        The images in the order of the table, as ``images:DIR`` reads them. Classes are the
        labels of both splits in sorted order, by number where all are whole numbers. File
        names are those of the table.

    Raises:
        InputError: A column, file or label is missing, a file is named twice, all labels are
            equal, two differ in case or blanks alone, or an image cannot be read; the line is
            named.
    """
    table = read_table(path, (FILE_COLUMNS, LABEL_COLUMNS))
    rows = list(_images(path, table))
    names = _class_names(path, rows)
    files = _locate(path, rows)
    chosen = [i for i, row in enumerate(rows) if row.split == split]
    if not chosen:
        has = SPLIT_COLUMN in table.columns
        raise InputError(
            f"{path} has no image of the {split} split; "
            + (f"write {split} into column {SPLIT_COLUMN}" if has else _HOW_TO_SPLIT)
        )
    numbers = {name: k for k, name in enumerate(names)}
    return assemble(
        f"{path} ({split})",
        decode([files[i] for i in chosen], size),
        np.asarray([numbers[rows[i].label] for i in chosen], dtype=np.int64),
        class_names=names,
        files=[rows[i].file for i in chosen],
    )


_HOW_TO_SPLIT = f"add a column {SPLIT_COLUMN} with train and test, or read the other split"


def _images(path: Path, table: Table) -> Iterator[_Image]:
    """Yield the lines of all splits, checked one by one."""
    file_at, label_at = table.find(FILE_COLUMNS), table.find(LABEL_COLUMNS)
    split_at = table.columns.index(SPLIT_COLUMN) if SPLIT_COLUMN in table.columns else None
    for row in table.rows:
        file, label = row.fields[file_at].strip(), row.fields[label_at].strip()
        where = f"{path}, line {row.line}"
        if not file:
            raise InputError(f"{where}: no file in column {table.columns[file_at]}; name one")
        if not label:
            raise InputError(
                f"{where}: no label for {file}; write one, or leave out the line until it has one"
            )
        split = "train" if split_at is None else _split(where, row, split_at)
        yield _Image(row.line, file, label, split)


def _split(where: str, row: Row, at: int) -> str:
    split = row.fields[at].strip().casefold()
    if split not in ("train", "test"):
        raise InputError(f"{where}: split {row.fields[at]!r} is unknown; write train or test")
    return split


def _class_names(path: Path, rows: list[_Image]) -> list[str]:
    """Return the sorted labels; where all are whole numbers, ``rows`` gets them in one form."""
    if all(_WHOLE.fullmatch(row.label) for row in rows):
        rows[:] = [_Image(r.line, r.file, _number(r.label), r.split) for r in rows]
        names = sorted({row.label for row in rows}, key=int)
    else:
        names = sorted({row.label for row in rows})
    if len(names) == 1:
        raise InputError(
            f"{path}: all {len(rows)} labels are {names[0]!r}; at least two classes are needed"
        )
    _refuse_two_spellings(path, rows)
    return names


def _refuse_two_spellings(path: Path, rows: Sequence[_Image]) -> None:
    """Refuse labels that differ in case or blanks alone: two classes where one is meant."""
    seen: dict[str, _Image] = {}
    for row in rows:
        before = seen.setdefault("".join(row.label.casefold().split()), row)
        if before.label != row.label:
            raise InputError(
                f"{path}, line {row.line}: label {row.label!r}, but {before.label!r} in line "
                f"{before.line}; write both alike, or, where two classes are meant, in different "
                "letters"
            )


def _number(label: str) -> str:
    return str(int(label.partition(".")[0]))


def _locate(path: Path, rows: Sequence[_Image]) -> list[Path]:
    """Return the files' places; refuse one that is named twice or is not there."""
    files = [path.parent / row.file for row in rows]
    seen: dict[str, int] = {}
    for row, file in zip(rows, files, strict=True):
        before = seen.setdefault(str(file), row.line)
        if before != row.line:
            raise InputError(
                f"{path}, line {row.line}: {row.file} stands in line {before} already; "
                "remove one of them"
            )
    missing = [i for i, file in enumerate(files) if not file.is_file()]
    if missing:
        first = missing[0]
        others = f" ({len(missing) - 1} other files are missing too)" if len(missing) > 1 else ""
        raise InputError(
            f"{path}, line {rows[first].line}: there is no file {files[first]}{others}; "
            f"paths count from the table's folder, {path.parent.resolve()}"
        )
    return files


def named_files(path: Path) -> list[Path]:
    """Return the image files that a table names, of all splits; refuses what ``read`` refuses."""
    return _locate(path, list(_images(path, read_table(path, (FILE_COLUMNS, LABEL_COLUMNS)))))
