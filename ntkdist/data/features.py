"""Features: one row of numbers an image, from a pretrained network or a table.

N is the number of rows, D the number of features (columns).
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.data.paths import existing_file
from ntkdist.errors import InputError

#: Names of the arrays of an archive that holds the features of both splits.
_PAIRS = ("{}", "x_{}", "features_{}", "{}_features")


def feature_words(rows: int, columns: int) -> str:
    """Return the size of features in words, such as ``4,000 rows of 1,280 features``."""
    return f"{rows:,} row{'' if rows == 1 else 's'} of {columns:,} features"


def check_features(values: NDArray[Any]) -> None:
    """Raise InputError unless features are (N, D) finite real numbers, D ≥ 2, within float32."""
    if values.ndim != 2 or values.shape[1] < 2:
        what = "1 column" if values.ndim == 2 and values.shape[1] == 1 else f"shape {values.shape}"
        raise InputError(
            f"features have {what}; (N, D) is needed, a row for each image, with at least 2 columns"
        )
    if values.dtype.kind not in "buif":
        raise InputError(
            f"features have dtype {values.dtype}; real numbers are needed, such as float32"
        )
    if bad := not_finite(values):
        counts, (row, column) = bad
        raise InputError(
            f"features hold {counts} values, the first in row {row}, column {column} (counted "
            "from 0); repair them, or leave out these rows or columns"
        )
    if values.dtype.kind == "f" and values.dtype.itemsize > 4:
        limit = float(np.finfo(np.float32).max)
        beyond = (values > limit) | (values < -limit)
        if beyond.any():
            row, column = map(int, np.unravel_index(int(np.argmax(beyond)), values.shape))
            raise InputError(
                f"features reach {float(values[row, column]):.3g} in row {row}, column {column} "
                f"(counted from 0), above float32's {limit:.3g}; divide that column by a constant"
            )


def not_finite(values: NDArray[Any]) -> tuple[str, tuple[int, ...]] | None:
    """Count the values that are not finite.

    Args:
        values: Of any shape and real dtype.

    Returns:
        Their numbers in words and the index of the first; None where all are finite.
    """
    if values.dtype.kind != "f":
        return None
    finite = np.isfinite(values)
    if finite.all():
        return None
    nan = int(np.isnan(values).sum())
    infinite = int(finite.size - finite.sum()) - nan
    first = np.unravel_index(int(np.argmin(finite)), values.shape)
    return f"{nan} NaN and {infinite} infinite", tuple(int(i) for i in first)


def read_features(path: Path, split: str) -> NDArray[Any]:
    """Read the features of one split as they are stored.

    Args:
        path: A ``.npy`` file with an array (N, D); or an ``.npz`` archive with arrays for both
            splits (``train`` and ``test``, also as ``x_train`` or ``features_train``), with one
            called ``features``, or with one array.
        split: ``train`` or ``test``.

    Returns:
        (N, D) of any real dtype.

    Raises:
        InputError: The file is missing, damaged, holds Python objects or no such array, or the
            array is no table of finite real numbers.
    """
    existing_file(path)
    try:
        if zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as archive:
                values = archive[_name_in(path, archive.files, split)]
        else:
            values = np.load(path, allow_pickle=False)
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        if "pickle" not in str(error):
            raise InputError(f"{path} is damaged ({error}); copy it again") from None
        with path.open("rb") as file:
            if file.read(6).startswith((b"\x93NUMPY", b"PK")):
                reason = "holds Python objects, which are not read; store an array of float32"
            else:
                reason = "is no .npy or .npz file; write it with numpy.save"
        raise InputError(f"{path} {reason}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        check_features(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return values


def holds_split(path: Path, split: str) -> bool:
    """Return whether a file of features has an array of its own for a split."""
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return False
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    return any(pair.format(split) in names for pair in _PAIRS)


def _name_in(path: Path, names: list[str], split: str) -> str:
    """Return which array of an archive holds the features of a split."""
    for pair in _PAIRS:
        if pair.format(split) in names:
            return pair.format(split)
    of_splits = [one for one in names for part in ("train", "test") if part in one.split("_")]
    if "features" in names:
        return "features"
    if len(names) == 1 and not of_splits:
        return names[0]
    raise InputError(
        f"{path} holds {', '.join(names) or 'nothing'}, and no features of the {split} split; "
        "store one array, or one for each split, called train and test"
    )
