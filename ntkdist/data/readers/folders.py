"""``images:DIR``: a folder for each class, holding image files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ntkdist.checks import normal_name, refuse_one_class, refuse_two_spellings, refuse_undecoded
from ntkdist.data.dataset import ImageSet
from ntkdist.data.paths import existing_folder
from ntkdist.data.readers.assemble import assemble
from ntkdist.data.readers.image_files import KINDS, SUFFIXES, UNREAD, decode
from ntkdist.data.scaling import Size
from ntkdist.errors import InputError, MissingSplitError
from ntkdist.words import counted, first_of

_SPLITS = ("train", "test")
# What operating systems and Python leave behind; archives of macOS have copies in __MACOSX.
_SYSTEM_FILES = frozenset(["thumbs.db", "desktop.ini"])
_SYSTEM_FOLDERS = frozenset(["__macosx", "__pycache__"])


def recognises(path: Path) -> bool:
    """Return whether a path has class folders with image files, of kinds that are read or not."""
    splits = [path / split / name for split in _SPLITS for name in _folders(path / split)]
    classes = splits or [path / name for name in _folders(path)]
    return any(_Contents.of(folder).has_images for folder in classes)


def holds_runs(folder: Path) -> bool:
    """Return whether a folder is that of a run, or holds some and no image: neither is a class."""
    run = os.path.isfile(folder / "zarr.json")
    found = run
    with os.scandir(folder) as entries:
        for entry in entries:
            # a run has pictures of its own, as SVG
            if Path(entry.name).suffix.lower() in (SUFFIXES if run else SUFFIXES | UNREAD):
                return False
            found = found or os.path.isfile(os.path.join(entry.path, "zarr.json"))
    return found


def read(folder: Path, split: str, size: Size | None = None) -> ImageSet:
    """Read one split, as ``image_files.decode`` reads the files.

    The folder holds a folder for each class; or ``train`` and ``test`` folders that do, which then
    are the splits. Class names and files are taken in sorted order (by code point, so ``10`` comes
    before ``2``); hidden ones and the folders of runs are passed over. Other files and folders that
    are passed over are counted in the notes. File names are relative to the folder.

    Raises:
        InputError: There are no class folders, one of them is empty or has no name, two have
            spellings of one name, a link leads nowhere, or an image cannot be read.
    """
    existing_folder(folder)
    names, place = _classes(folder, split)
    for at in (folder, place):
        _Contents.of(at).refuse_broken()
    files: list[Path] = []
    labels: list[int] = []
    contents: list[_Contents] = []
    for name in _folders(place):
        held = _Contents.of(place / name)
        held.check()
        contents.append(held)
        files += held.images
        labels += [names.index(normal_name(name))] * len(held.images)
    order = np.argsort(labels, kind="stable")  # two folders may have one name
    numbers = np.asarray(labels, dtype=np.int64)[order]
    files = [files[i] for i in order]
    if len(names) == 1 and len(files) > 1:
        refuse_one_class(numbers, names)
    refuse_undecoded(map(str, files), "a file")
    images, notes = decode(files, size)
    return assemble(
        f"{folder} ({split})",
        images,
        numbers,
        class_names=names,
        files=[path.relative_to(folder).as_posix() for path in files],
        notes=[*_together(_folders(place)), *_passed_over(folder, place, contents), *notes],
    )


def _together(names: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each class whose images lie in several folders."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(normal_name(name), []).append(repr(name))
    for name, same in folders.items():
        if len(same) > 1:
            yield f"{len(same)} folders are read as one class, {name!r}: {first_of(same)}"


@dataclass(frozen=True)
class _Contents:
    """What lies in a folder, hidden files and those of the system left out, each in sorted order.

    Attributes:
        folder: The folder.
        images: Image files of the kinds that are read.
        unread: Those of other kinds.
        others: Other files.
        folders: Folders, except for those of runs.
        broken: Links that lead nowhere.
    """

    folder: Path
    images: list[Path]
    unread: list[Path]
    others: list[Path]
    folders: list[Path]
    broken: list[Path]

    @classmethod
    def of(cls, folder: Path) -> _Contents:
        """Look at a folder, not below it."""
        held = cls(folder, [], [], [], [], [])
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path, suffix = Path(entry.path), Path(entry.name).suffix.lower()
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
                continue
            if entry.is_dir():
                if entry.name.lower() not in _SYSTEM_FOLDERS and not holds_runs(path):
                    held.folders.append(path)
            elif entry.is_symlink() and not path.exists():
                held.broken.append(path)
            elif entry.is_file():
                known = held.images if suffix in SUFFIXES else held.unread
                (known if suffix in SUFFIXES | UNREAD else held.others).append(path)
        return held

    @property
    def has_images(self) -> bool:
        """Whether it holds images, of kinds that are read or not, or links to some."""
        return bool(self.images or self.unread or self.broken)

    def refuse_broken(self) -> None:
        """Raise ``InputError`` where a link leads nowhere."""
        if self.broken:
            raise InputError(
                f"{_and_others(self.broken)}: a link to what does not exist; repair or remove it"
            )

    def check(self) -> None:
        """Raise ``InputError`` where it is not the folder of a class whose images can be read."""
        self.refuse_broken()
        if self.unread:
            raise InputError(
                f"{_and_others(self.unread)}: images of this kind are not read; convert them to "
                "PNG, or move them elsewhere"
            )
        if self.images:
            return
        below, remedy = (
            sum(_images_below(one) for one in self.folders),
            "remove the folder or fill it",
        )
        if below:
            lie = counted(below, "image lies", "images lie")
            remedy = (
                f"{lie} in folders inside it: move them into it, or, if those are the classes, "
                f"give {self.folder} as the source"
            )
        elif self.others:
            remedy = (
                f"it holds {_kinds(self.others)}: give the files the suffix of their kind, such as "
                ".png, or remove the folder"
            )
        raise InputError(f"{self.folder} holds no {KINDS} file; {remedy}")


def _classes(folder: Path, split: str) -> tuple[list[str], Path]:
    """Return the class names of all splits and the folder that holds this split's."""
    by_split = {name: _folders(folder / name) for name in _SPLITS}
    if any(by_split.values()):
        if not by_split[split]:
            raise MissingSplitError(
                f"{folder} has no class folders under {split}/; add them or read the other split"
            )
        return _names([folder / name / one for name in _SPLITS for one in by_split[name]]), (
            folder / split
        )
    if split == "test":
        raise MissingSplitError(
            f"{folder} has no test split; put the class folders into {folder}/train and "
            f"{folder}/test"
        )
    names = _folders(folder)
    if not names:
        loose = len(_Contents.of(folder).images)
        raise InputError(
            f"{folder} holds no class folders ({loose} images lie in it directly); "
            "put the images of each class into a folder of its own"
        )
    return _names([folder / name for name in names]), folder


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the names of the classes that folders stand for, sorted."""
    refuse_undecoded(map(str, folders), "the folder of a class")
    names = [normal_name(folder.name) for folder in folders]
    if not all(names):
        raise InputError(
            f"{folders[names.index('')]}: the name of this folder stands for a missing label; "
            "give the class another name, or move the folder elsewhere"
        )
    refuse_two_spellings(names, lambda i: f"is the folder {folders[i]}")
    return sorted(set(names))


def _folders(folder: Path) -> list[str]:
    return [path.name for path in _Contents.of(folder).folders] if folder.is_dir() else []


def _images_below(folder: Path) -> int:
    """Return the number of images in a folder and in those inside it."""
    suffixes = SUFFIXES | UNREAD
    return sum(
        Path(name).suffix.lower() in suffixes and not name.startswith(".")
        for _, _, files in os.walk(folder)
        for name in files
    )


def _passed_over(folder: Path, place: Path, contents: Sequence[_Contents]) -> Iterator[str]:
    """Yield sentences on what is not read beside and in the class folders of a split."""

    def shown(paths: Collection[Path], counts: Sequence[int] = ()) -> str:
        names = [path.relative_to(folder).as_posix() for path in paths]
        return first_of(
            [f"{a} ({b})" for a, b in zip(names, counts, strict=True)] if counts else names
        )

    inside = {path: _images_below(path) for held in contents for path in held.folders}
    inside = {path: count for path, count in inside.items() if count}
    if inside:
        yield (
            f"{_not_read(sum(inside.values()), 'image', 'in folders inside class folders')}: "
            f"{shown(inside, list(inside.values()))}"
        )
    beside = {}
    if place != folder:
        others = [path for path in _Contents.of(folder).folders if path.name not in _SPLITS]
        beside = {path: count for path in others if (count := _images_below(path))}
    if beside:
        yield (
            f"{_not_read(sum(beside.values()), 'image', 'in folders beside train and test')}: "
            f"{shown(beside, list(beside.values()))}"
        )
    loose = [path for at in dict.fromkeys([folder, place]) for path in _Contents.of(at).images]
    if loose:
        yield f"{_not_read(len(loose), 'image', 'beside class folders')}: {shown(loose)}"
    files = [path for held in contents for path in held.others]
    if files:
        words = _not_read(len(files), "other file", "in class folders")
        yield f"{words} ({_kinds(files)}): {shown(files)}"


def _not_read(count: int, noun: str, where: str) -> str:
    return f"{counted(count, noun)} {where} {'is' if count == 1 else 'are'} not read"


def _kinds(files: Sequence[Path]) -> str:
    """Return how many files there are of each suffix, in words."""
    suffixes = [path.suffix.lower() for path in files]
    words = [
        f"{suffixes.count(one)} {one or 'without a suffix'}" for one in dict.fromkeys(suffixes)
    ]
    return first_of(words)


def _and_others(paths: Sequence[Path]) -> str:
    more = len(paths) - 1
    return f"{paths[0]}" + (f" and {counted(more, 'other')}" if more else "")
