"""What kind of image set lies at a path, found out by looking at names alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ntkdist.data.paths import resolve
from ntkdist.data.readers import SOURCES
from ntkdist.data.readers.image_files import SUFFIXES, UNREAD
from ntkdist.errors import InputError, did_you_mean

_PICTURES = SUFFIXES | UNREAD  # what is not read is refused by the reader, with its name
_NAMES = tuple(source.partition(":")[0] for source in SOURCES)
_IDX = ("train-images-idx3-ubyte", "train-images.idx3-ubyte")
_CIFAR = {
    "cifar10": ("data_batch_1", "data_batch_1.bin"),
    "cifar100": ("train", "train.bin"),
}
_CIFAR_FOLDERS = {
    "cifar10": ("", "cifar-10-batches-py", "cifar-10-batches-bin"),
    "cifar100": ("", "cifar-100-python", "cifar-100-binary"),
}
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z")
_SHOWN = 4
WANTED = (
    "give a folder that holds a folder of image files for each class, a .csv file with "
    "columns file and label, an .npz file with x_train (images or features) and y_train, or "
    "MNIST's idx files"
)


def recognise(source: str) -> str:
    """Return the data source that a user's word means.

    Args:
        source: A path, or a data source such as ``images:photos`` or ``digits`` already.

    Returns:
        A data source, as ``data.source`` takes it.

    Raises:
        InputError: There is nothing at the path, or nothing that is known: what was found there
            and what would do.
    """
    name, colon, _ = source.partition(":")
    if name in _NAMES and (colon or (source in SOURCES and not Path(source).exists())):
        return source
    source = source.rstrip("/") or "/"  # the same run, however the folder is written
    path = resolve(source, None)
    if not path.exists():
        raise InputError(f"{source}: {_nothing(path)}")
    kind = kind_of(source)
    if kind == "run":
        raise InputError(
            f"{source}: is a run, not images; what it found: ntkdist labels {source}, or resume "
            f"it: ntkdist run {source}"
        )
    if kind is None:
        raise InputError(f"{source}: {_found(path)}; {WANTED}")
    return f"{kind}:{source}"


def kind_of(source: str) -> str | None:
    """Return images, csv, npz, idx, cifar10, cifar100 or run; None for anything else."""
    if "://" in source:
        return None
    path = resolve(source, None)
    if path.is_file():
        return {".csv": "csv", ".npz": "npz"}.get(path.suffix.lower())
    if not path.is_dir():
        return None
    if (path / "zarr.json").is_file():
        return "run"
    if any((path / f"{name}{suffix}").is_file() for name in _IDX for suffix in ("", ".gz")):
        return "idx"
    for name, files in _CIFAR.items():
        places = (path / folder for folder in _CIFAR_FOLDERS[name])
        if any((place / file).is_file() for place in places for file in files):
            return name
    return "images" if _has_class_folders(path) else None


def run_name_of(source: str, features: str | None) -> str:
    """Return a short name for the runs of a data source with some features beside it."""
    name = name_of(source)
    if features is None:
        return name
    stem = Path(features.strip()).stem
    return f"{name}-" + ("".join(c if c.isalnum() or c in "-_." else "-" for c in stem))


def name_of(source: str) -> str:
    """Return a short name for the runs of a data source.

    Args:
        source: A data source, such as ``images:data/photos/``.

    Returns:
        The last part of its path without a suffix, or the source's own name.
    """
    kind, _, place = source.partition(":")
    path = Path(os.path.abspath(resolve(place, None))) if place else Path(kind)
    name = path.stem if path.is_file() else path.name
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name) or kind


def _has_class_folders(folder: Path) -> bool:
    below = _folders(folder)
    split = [path for path in below if path.name in ("train", "test")]
    classes = [one for path in split for one in _folders(path)] or below
    return any(_pictures(path) for path in classes)


def _folders(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _pictures(folder: Path) -> int:
    return sum(path.suffix.lower() in _PICTURES for path in folder.iterdir() if path.is_file())


def _nothing(path: Path) -> str:
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    near = did_you_mean(path.name, (one.name for one in siblings))
    return f"there is no such file or folder{near}"


def _found(path: Path) -> str:
    """Return in words what lies at a path that is not an image set."""
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in (".yaml", ".yml"):
            return f"is a run file, which ntkdist run {path} takes"
        if suffix in _ARCHIVES:
            return f"is an archive ({suffix}), which has to be unpacked first"
        if suffix == ".npy":
            return (
                "is an array without labels (features go beside their images: ntkdist audit "
                f"FOLDER --data.features {path})"
            )
        return f"is a file of kind {suffix or 'unknown'}"
    loose = _pictures(path)
    if loose:
        return f"holds no class folders ({loose} images lie in it directly)"
    folders = _folders(path)
    if folders:
        names = _listed(p.name for p in folders)
        return f"holds folders ({names}), and no image file in any of them"
    kinds = Counter(p.suffix.lower() or p.name for p in sorted(path.iterdir()))
    if not kinds:
        return "is an empty folder"
    return f"holds {_listed(f'{count} {kind}' for kind, count in kinds.most_common())}"


def _listed(words: Iterable[str]) -> str:
    words = list(words)
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
