"""``idx:DIR``: the original files of MNIST and Fashion-MNIST, gzipped or not.

Source: LeCun, Cortes and Burges (1998), the idx file format: two zero bytes, the type
(8 = unsigned byte), the number of axes, one big-endian uint32 an axis, the values.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.data.dataset import ImageSet
from ntkdist.data.paths import existing_folder
from ntkdist.data.readers.assemble import assemble
from ntkdist.errors import InputError, MissingSplitError

_PREFIX = {"train": "train", "test": "t10k"}
_GZIP = b"\x1f\x8b"


def recognises(path: Path) -> bool:
    """Return whether a path is a folder with the training images."""
    return any(file.is_file() for file in _candidates(path, "train", "images", 3))


def read(folder: Path, split: str) -> ImageSet:
    """Read one split as greyscale images, uint8, C = 1.

    The folder holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same with
    ``t10k``; ``train-images.idx3-ubyte`` and ``.gz`` are read too. K is one more than the largest
    label of both splits.
    """
    existing_folder(folder)
    images = _values(_find(folder, split, "images", 3), 3)
    labels = _values(_find(folder, split, "labels", 1), 1)
    other_split = "test" if split == "train" else "train"
    other = next((p for p in _candidates(folder, other_split, "labels", 1) if p.is_file()), None)
    return assemble(
        f"{folder} ({split})",
        images,
        labels,
        other_labels=None if other is None else _values(other, 1),
    )


def _candidates(folder: Path, split: str, what: str, axes: int) -> list[Path]:
    stem = f"{_PREFIX[split]}-{what}"
    names = (f"{stem}-idx{axes}-ubyte", f"{stem}.idx{axes}-ubyte")
    return [folder / (name + suffix) for suffix in ("", ".gz") for name in names]


def _find(folder: Path, split: str, what: str, axes: int) -> Path:
    tried = _candidates(folder, split, what, axes)
    for path in tried:
        if path.is_file():
            return path
    absent = not any(
        path.is_file()
        for other, n in (("images", 3), ("labels", 1))
        for path in _candidates(folder, split, other, n)
    )
    raise (MissingSplitError if absent else InputError)(
        f"{folder} has no {tried[0].name} (nor with a dot before idx{axes}, nor with .gz); "
        "give the folder that holds the idx files"
    )


def _values(path: Path, axes: int) -> NDArray[Any]:
    data = path.read_bytes()
    # by content, since some downloads keep .gz after unpacking, or lose it
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is a damaged gzip file ({error}); copy it again") from None
    start = 4 + 4 * axes
    magic = int.from_bytes(data[:4], "big")
    expected = (8 << 8) | axes
    if len(data) < start or magic != expected:
        raise InputError(
            f"{path} is not an idx file of {axes}-dimensional bytes: its magic number is {magic}, "
            f"{expected} is needed"
        )
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", axes, offset=4))
    size = math.prod(shape)
    if len(data) - start != size:
        raise InputError(
            f"{path} has {len(data) - start} bytes of values where its header promises {size} "
            f"for shape {shape}; copy it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
