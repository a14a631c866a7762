"""``cifar10:DIR`` and ``cifar100:DIR``: the python and the binary distribution.

Source: Krizhevsky (2009); the layouts are those of the archives cifar-10-python,
cifar-10-binary, cifar-100-python and cifar-100-binary. Fine labels for CIFAR-100.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.data.dataset import ImageSet
from ntkdist.data.paths import existing_folder
from ntkdist.data.readers.assemble import assemble
from ntkdist.data.readers.pickles import read_plain
from ntkdist.errors import InputError, MissingSplitError

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """The files of one distribution.

    In the binary ones ``label_bytes`` stand before the pixels of each image, the last of which is
    the label; 0 marks the python distribution.
    """

    num_classes: int
    folder: str
    files: Mapping[str, tuple[str, ...]]
    names_file: str
    label_bytes: int = 0
    label_key: str = ""
    names_key: str = ""


def _batches(suffix: str) -> dict[str, tuple[str, ...]]:
    train = tuple(f"data_batch_{i}{suffix}" for i in range(1, 6))
    return {"train": train, "test": (f"test_batch{suffix}",)}


_LAYOUTS = (
    _Layout(
        10,
        "cifar-10-batches-py",
        _batches(""),
        "batches.meta",
        label_key="labels",
        names_key="label_names",
    ),
    _Layout(10, "cifar-10-batches-bin", _batches(".bin"), "batches.meta.txt", label_bytes=1),
    _Layout(
        100,
        "cifar-100-python",
        {"train": ("train",), "test": ("test",)},
        "meta",
        label_key="fine_labels",
        names_key="fine_label_names",
    ),
    _Layout(
        100,
        "cifar-100-binary",
        {"train": ("train.bin",), "test": ("test.bin",)},
        "fine_label_names.txt",
        label_bytes=2,
    ),
)


def recognises(num_classes: int, path: Path) -> bool:
    """Return whether a path holds training files of CIFAR-10 or CIFAR-100."""
    return _find(path, "train", num_classes) is not None


def read(num_classes: int, folder: Path, split: str) -> ImageSet:
    """Read one split of CIFAR-10 or CIFAR-100 as images (N, 32, 32, 3), uint8.

    The folder is the unpacked one of a distribution, or the one that holds it; where both
    distributions are there, the python one is read. Classes are numbered where the file of their
    names is missing.
    """
    existing_folder(folder)
    match = _find(folder, split, num_classes)
    if match is None:
        raise MissingSplitError(_nothing_found(folder, split, num_classes))
    layout, place = match
    missing = [name for name in layout.files[split] if not (place / name).is_file()]
    if missing:
        raise InputError(f"{place} has no {', '.join(missing)}; unpack the archive again")
    read_one = _read_binary if layout.label_bytes else _read_python
    parts = [read_one(place / name, layout) for name in layout.files[split]]
    planes = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32)
    return assemble(
        f"{place} ({split})",
        np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
        np.concatenate([labels for _, labels in parts]),
        class_names=_names(place / layout.names_file, layout),
        num_classes=num_classes,
    )


def _find(folder: Path, split: str, num_classes: int) -> tuple[_Layout, Path] | None:
    for layout in _LAYOUTS:
        if layout.num_classes != num_classes:
            continue
        for place in (folder, folder / layout.folder):
            if any((place / name).is_file() for name in layout.files[split]):
                return layout, place
    return None


def _nothing_found(folder: Path, split: str, num_classes: int) -> str:
    other = 110 - num_classes
    if _find(folder, split, other):
        return f"{folder} holds CIFAR-{other}; use cifar{other}:DIR"
    layouts = [layout for layout in _LAYOUTS if layout.num_classes == num_classes]
    wanted = " nor ".join(layout.files[split][0] for layout in layouts)
    folders = " or ".join(layout.folder for layout in layouts)
    archive = next((p.name for p in sorted(folder.glob(f"cifar-{num_classes}-*.tar.gz"))), None)
    remedy = f"unpack {archive} there" if archive else f"give the folder that holds {folders}"
    return f"{folder} has neither {wanted}; {remedy}"


def _read_python(path: Path, layout: _Layout) -> tuple[NDArray[Any], NDArray[Any]]:
    batch = read_plain(path)
    missing = [key for key in ("data", layout.label_key) if key not in batch]
    if missing:
        raise InputError(
            f"{path} has no {' and no '.join(missing)}; it holds {', '.join(batch) or 'nothing'}"
        )
    pixels, given = batch["data"], batch[layout.label_key]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise InputError(f"{path}: data is not a matrix of bytes; get the original file")
    if pixels.shape[1] != _PIXELS:
        raise InputError(f"{path}: {pixels.shape[1]} values an image, {_PIXELS} are needed")
    if isinstance(given, list) and not all(type(label) is int for label in given):
        raise InputError(f"{path}: labels are not integers; get the original file")
    labels = np.asarray(given)
    # for each batch, since over all of them two errors could cancel
    if labels.shape != (len(pixels),):
        raise InputError(f"{path}: {len(pixels)} images but labels of shape {labels.shape}")
    return pixels, labels


def _read_binary(path: Path, layout: _Layout) -> tuple[NDArray[Any], NDArray[Any]]:
    record = layout.label_bytes + _PIXELS
    values = np.fromfile(path, dtype=np.uint8)
    if not values.size or values.size % record:
        raise InputError(
            f"{path} has {values.size} bytes, which is not a whole number of records of {record}; "
            f"is it cut short, or not CIFAR-{layout.num_classes}?"
        )
    records = values.reshape(-1, record)
    return records[:, layout.label_bytes :], records[:, layout.label_bytes - 1]


def _names(path: Path, layout: _Layout) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    if layout.label_bytes:
        text = path.read_text(encoding="utf-8", errors="replace")
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    names = read_plain(path).get(layout.names_key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} has no list {layout.names_key}; get the original file")
    return tuple(names)
