"""``npz:FILE``: x_train, y_train, x_test, y_test in one NumPy archive."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import text_of
from ntkdist.data.dataset import ImageSet
from ntkdist.data.paths import existing_file
from ntkdist.data.readers.assemble import assemble
from ntkdist.errors import InputError, MissingSplitError
from ntkdist.words import first_of

_ARRAYS = ("x_train", "y_train", "x_test", "y_test", "class_names")


def recognises(path: Path) -> bool:
    """Return whether a path is an archive, by its name."""
    return path.is_file() and path.suffix.lower() == ".npz"


def read(path: Path, split: str) -> ImageSet:
    """Read one split; only that split's images are unpacked.

    The archive has ``x_<split>``, images (N, H, W[, C]) or features (N, D), and ``y_<split>``, (N,)
    or (N, 1). ``class_names`` (K,), text, sets K; without it K is one more than the largest label
    of both splits. Other arrays are named in a note.
    """
    existing_file(path)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an npz archive; write it with numpy.savez_compressed")
    try:
        # object arrays would run code on loading
        with np.load(path, allow_pickle=False) as archive:
            wanted = (f"x_{split}", f"y_{split}")
            missing = [key for key in wanted if key not in archive.files]
            if missing:
                kind = MissingSplitError if missing == list(wanted) else InputError
                raise kind(
                    f"{path} has no {' and no '.join(missing)}; it holds "
                    f"{', '.join(archive.files) or 'nothing'}"
                )
            images, labels = (_array(archive, key, path) for key in wanted)
            other = f"y_{'test' if split == 'train' else 'train'}"
            other_labels = _array(archive, other, path) if other in archive.files else None
            others = [name for name in archive.files if name not in _ARRAYS]
            names: tuple[str, ...] = ()
            if "class_names" in archive.files:
                names = tuple(map(text_of, _array(archive, "class_names", path).ravel()))
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is damaged ({error}); copy it again") from None
    notes = [f"arrays that are not read: {first_of(others)}"] if others else []
    return assemble(
        f"{path} ({split})",
        images,
        labels,
        class_names=names,
        other_labels=other_labels,
        notes=notes,
    )


def holds_features(path: Path) -> bool:
    """Return whether an archive's ``x_train`` is a table of features; reads its header alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            name = next(one for one in ("x_train.npy", "x_test.npy") if one in names)
            with archive.open(name) as file:
                version = np.lib.format.read_magic(file)
                if version == (1, 0):
                    shape, _, _ = np.lib.format.read_array_header_1_0(file)
                else:
                    shape, _, _ = np.lib.format.read_array_header_2_0(file)
    except (OSError, zipfile.BadZipFile, zlib.error, StopIteration, ValueError, EOFError):
        return False  # read() says what is wrong with it
    return len(shape) == 2


def _array(archive: Any, key: str, path: Path) -> NDArray[Any]:
    try:
        return archive[key]
    except ValueError as error:
        if "pickle" in str(error):
            raise InputError(
                f"{path}: {key} holds Python objects, which are not read; store a plain array"
            ) from None
        raise InputError(f"{path}: {key} is damaged ({error}); copy the file again") from None
