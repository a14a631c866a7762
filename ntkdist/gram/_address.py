"""Addresses: a folder's path or an fsspec URL, and the few things done to one directly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse


def local_path(address: str) -> Path | None:
    """Return the folder an address names on this machine, or None for a remote URL."""
    if "://" not in address:
        return Path(address)
    if address.startswith("file://"):
        return Path(unquote(urlparse(address).path))
    return None


def normal(address: str) -> str:
    """Return a ``file://`` URL as its path, anything else as it is.

    Zarr writes paths by renaming a finished file; through fsspec's ``file://`` it would
    write in place, and a killed writer would leave half a chunk.
    """
    path = local_path(address)
    return address if path is None else str(path)


def join(address: str, *names: str) -> str:
    """Return the address of something inside."""
    return "/".join([address.rstrip("/"), *names])


def filesystem(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it."""
    import fsspec

    return fsspec.core.url_to_fs(address)


def exists(address: str) -> bool:
    """Return whether an object or folder is there."""
    path = local_path(address)
    if path is not None:
        return path.exists()
    fs, inside = filesystem(address)
    return bool(fs.exists(inside))


def remove(address: str) -> None:
    """Delete one object; its absence is fine."""
    path = local_path(address)
    if path is not None:
        path.unlink(missing_ok=True)
        return
    fs, inside = filesystem(address)
    if fs.exists(inside):
        fs.rm_file(inside)


def write_text(address: str, text: str) -> None:
    """Write a small object, whole or not at all."""
    path = local_path(address)
    if path is None:
        fs, inside = filesystem(address)
        fs.pipe_file(inside, text.encode())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def read_text(address: str) -> str | None:
    """Read a small object; None if it is not there."""
    path = local_path(address)
    try:
        if path is not None:
            return path.read_text(encoding="utf-8")
        fs, inside = filesystem(address)
        found: bytes = fs.cat_file(inside)
        return found.decode()
    except FileNotFoundError:
        return None


def list_objects(address: str) -> list[str]:
    """List the objects below an address that hold at least one byte.

    One walk over the folder or one listing of the bucket, whatever their number.

    Args:
        address: A folder; it need not exist.

    Returns:
        Their paths relative to ``address``, with ``/``.
    """
    path = local_path(address)
    if path is not None:
        return list(_walk(path, ""))
    fs, inside = filesystem(address)
    fs.invalidate_cache(inside)  # another process may have written since the last listing
    try:
        found = fs.find(inside, detail=True)
    except FileNotFoundError:
        return []
    start = len(inside.rstrip("/")) + 1
    return [name[start:] for name, info in found.items() if info.get("size") != 0]


def _walk(folder: Path, prefix: str) -> list[str]:
    names = []
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            names += _walk(folder / entry.name, f"{prefix}{entry.name}/")
        elif _size(entry):
            names.append(prefix + entry.name)
    return names


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # a temporary file renamed since the scan
        return 0
