"""``images:DIR``: a folder for each class, holding image files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from ntkdist.data.dataset import ImageSet
from ntkdist.data.paths import existing_folder
from ntkdist.data.readers.assemble import assemble
from ntkdist.data.readers.image_files import KINDS, SUFFIXES, UNREAD, decode
from ntkdist.data.scaling import Size
from ntkdist.errors import InputError


def recognises(path: Path) -> bool:
    """Return whether a path has class folders with image files, of kinds that are read or not."""
    splits = [path / split / name for split in ("train", "test") for name in _folders(path / split)]
    classes = splits or [path / name for name in _folders(path)]
    return any(_images(folder, SUFFIXES | UNREAD) for folder in classes)


def read(folder: Path, split: str, size: Size | None = None) -> ImageSet:
    """Read one split, as ``image_files.decode`` reads the files.

    The folder holds a folder for each class; or ``train`` and ``test`` folders that do, which then
    are the splits. Class names and files are taken in sorted order (by code point, so ``10`` comes
    before ``2``); hidden ones are passed over. File names are relative to the folder.
    """
    existing_folder(folder)
    names, place = _classes(folder, split)
    files: list[Path] = []
    labels: list[int] = []
    for k, name in enumerate(names):
        if not (place / name).is_dir():
            continue  # a class of the other split only
        _refuse_unread(place / name)
        images = _images(place / name)
        if not images:
            raise InputError(f"{place / name} holds no {KINDS} file; remove the folder or fill it")
        files += images
        labels += [k] * len(images)
    return assemble(
        f"{folder} ({split})",
        decode(files, size),
        np.asarray(labels, dtype=np.int64),
        class_names=names,
        files=[path.relative_to(folder).as_posix() for path in files],
    )


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if not entry.name.startswith((".", "__")) and entry.is_dir()
    )


def _images(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in suffixes and not entry.name.startswith(".") and entry.is_file()
    )


def _refuse_unread(folder: Path) -> None:
    unread = _images(folder, UNREAD)
    if unread:
        more = len(unread) - 1
        others = f" and {more} {'other' if more == 1 else 'others'}" if more else ""
        raise InputError(
            f"{unread[0]}{others}: images of this kind are not read; convert them to PNG, or move "
            "them elsewhere"
        )


def _classes(folder: Path, split: str) -> tuple[list[str], Path]:
    """Return the class names of all splits and the folder that holds this split's."""
    by_split = {name: _folders(folder / name) for name in ("train", "test")}
    if any(by_split.values()):
        if not by_split[split]:
            raise InputError(
                f"{folder} has no class folders under {split}/; add them or read the other split"
            )
        return sorted({*by_split["train"], *by_split["test"]}), folder / split
    if split == "test":
        raise InputError(
            f"{folder} has no test split; put the class folders into {folder}/train and "
            f"{folder}/test"
        )
    names = _folders(folder)
    if not names:
        loose = len(_images(folder))
        raise InputError(
            f"{folder} holds no class folders ({loose} images lie in it directly); "
            "put the images of each class into a folder of its own"
        )
    return names, folder
