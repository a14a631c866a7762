"""What kind of image set lies at a path, found out by looking at names alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ntkdist.data.paths import resolve
from ntkdist.data.readers import READERS, SOURCES, reader_of
from ntkdist.data.readers.image_files import SUFFIXES, UNREAD
from ntkdist.errors import InputError, did_you_mean

_PICTURES = SUFFIXES | UNREAD  # what is not read is refused by the reader, with its name
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z")
_SHOWN = 4
WANTED = (
    "give a folder that holds a folder of image files for each class, a .csv file with "
    "columns file and label, an .npz file with x_train (images or features) and y_train, or "
    "MNIST's idx files"
)


def recognise(source: str) -> str:
    """Return the data source that a user's word means.

    Raises:
        InputError: There is nothing at the path, or nothing that is known: what was found there
            and what would do.
    """
    name, colon, _ = source.partition(":")
    if name in READERS and (colon or (source in SOURCES and not Path(source).exists())):
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
    """Return the name of the reader for a path, or run; None for anything else."""
    if "://" in source:
        return None
    path = resolve(source, None)
    if (path / "zarr.json").is_file():
        return "run"
    return reader_of(path)


def run_name_of(source: str, features: str | None) -> str:
    """Return a short name for the runs of a data source with some features beside it."""
    name = name_of(source)
    if features is None:
        return name
    stem = Path(features.strip()).stem
    return f"{name}-" + ("".join(c if c.isalnum() or c in "-_." else "-" for c in stem))


def name_of(source: str) -> str:
    """Return a short name for the runs of a data source."""
    kind, _, place = source.partition(":")
    path = Path(os.path.abspath(resolve(place, None))) if place else Path(kind)
    name = path.stem if path.is_file() else path.name
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name) or kind


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
