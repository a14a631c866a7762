"""Paths as users write them: ``~``, environment variables, relative to a root."""

from __future__ import annotations

import os
from pathlib import Path

from ntkdist.errors import InputError, did_you_mean
from ntkdist.storage import expand


def resolve(place: str, root: str | None) -> Path:
    """Return the path that a user's text means, with ``~``, ``$NAME`` or ``${NAME}`` expanded.

    A relative one starts from ``root``, or from the current folder. A file or folder whose name
    holds ``$`` is meant where there is one. InputError where a variable is unset or empty.
    """
    if root is not None and "$" in place and (Path(root).expanduser() / place).exists():
        return Path(root).expanduser() / place
    path = Path(expand(place))
    return path if root is None or path.is_absolute() else Path(root).expanduser() / path


def same_path(one: str, other: str) -> bool:
    """Return whether two paths are one place, however they are written; links are followed."""
    try:
        return one == other or os.path.realpath(resolve(one, None)) == os.path.realpath(
            resolve(other, None)
        )
    except InputError:  # for a variable that is not set
        return False


def same_source(one: str, other: str) -> bool:
    """Return whether two data sources, such as ``images:DIR``, are one; see ``same_path``."""
    (name, colon, place), (other_name, _, other_place) = (x.partition(":") for x in (one, other))
    same_name = name.strip() == other_name.strip()
    return one == other or bool(
        same_name and colon and same_path(place.strip(), other_place.strip())
    )


def found_from(place: str, root: str | None) -> str:
    """Return a relative path as an absolute one if it exists from ``root`` but not from here."""
    if root is None:
        return place
    try:
        here, there = resolve(place, None), resolve(place, root)
    except InputError:  # for a variable that is not set
        return place
    return str(there) if there.exists() and not here.exists() else place


def source_found_from(source: str, root: str | None) -> str:
    """Return a data source with its path as ``found_from`` returns it."""
    name, _, place = source.partition(":")
    return f"{name}:{found_from(place.strip(), root)}" if place.strip() else source


def existing_file(path: Path) -> Path:
    """Return ``path`` if it is a file, else raise InputError with the nearest names."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; a file is needed")
    if not path.is_file():
        raise InputError(f"{path} does not exist{_hint(path)}")
    return path


def existing_folder(path: Path) -> Path:
    """Return ``path`` if it is a folder, else raise InputError with the nearest names."""
    if path.is_file():
        raise InputError(f"{path} is a file; a folder is needed")
    if not path.is_dir():
        raise InputError(f"{path} does not exist{_hint(path)}")
    return path


def _hint(path: Path) -> str:
    """Return the end of the message that a path does not exist, with a remedy."""
    parent = path.parent
    if not parent.is_dir():
        return f", nor does its folder {parent}; check the path"
    near = did_you_mean(path.name, (entry.name for entry in parent.iterdir()))
    return near or "; check the path"
