"""Paths as users write them: ``~``, environment variables, relative to a root."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ntkdist.errors import InputError, did_you_mean

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def resolve(place: str, root: str | None) -> Path:
    """Return the path that a user's text with ``~``, ``$NAME`` or ``${NAME}`` means.

    A relative one starts from ``root``, or from the current folder. InputError where a variable is
    unset or empty.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        folder = os.environ.get(name)
        if not folder:
            raise InputError(
                f"{place!r}: the environment variable {name} is not set; "
                f"export {name}=FOLDER, or write the path out"
            )
        return folder

    path = Path(os.path.expanduser(_VARIABLE.sub(value, place)))
    return path if root is None or path.is_absolute() else Path(root).expanduser() / path


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


def holds_runs(folder: Path) -> bool:
    """Return whether a folder is that of a run, or holds some: Zarr groups, which no class is."""
    with os.scandir(folder) as entries:
        return any(
            entry.name == "zarr.json"
            or (entry.is_dir() and os.path.isfile(os.path.join(entry.path, "zarr.json")))
            for entry in entries
        )


def _hint(path: Path) -> str:
    """Return the end of the message that a path does not exist, with a remedy."""
    parent = path.parent
    if not parent.is_dir():
        return f", nor does its folder {parent}; check the path"
    near = did_you_mean(path.name, (entry.name for entry in parent.iterdir()))
    return near or "; check the path"
