"""Folders of this machine: every file is written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ntkdist.storage._refusals import write_error

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn a refused write into one clear line."""
    try:
        yield
    except OSError as error:
        raise write_error(error, str(path)) from error


def unfinished(path: Path) -> Path:
    """Return where a file is written before it gets its name; unique to this thread."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident():x}")


def read(path: Path) -> bytes | None:
    """Read a file; None if it is not there."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with refusals(path), _beside(path, content) as half:
        half.replace(path)


def copy(source: Path, target: Path) -> bool:
    """Give a file a second name, or copy it where that cannot be; False if it is not there."""
    with refusals(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # never a name that a later writer may open: what it wrote would be in both files
        half = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            try:
                os.link(source, half)
            except FileNotFoundError:
                return False
            except OSError:  # another file system, one without links, or too many of them
                shutil.copyfile(source, half)
            half.replace(target)
        finally:
            half.unlink(missing_ok=True)  # renaming one name of a file to another keeps both
        return True


def remove(path: Path) -> None:
    """Delete a file; its absence is fine."""
    with refusals(path):
        path.unlink(missing_ok=True)


def remove_all(folder: Path) -> None:
    """Delete a folder with everything in it; its absence is fine."""
    with refusals(folder):
        if folder.exists():
            shutil.rmtree(folder)


def create(path: Path, content: bytes) -> bool:
    """Write a file only if there is none, and return whether that was so."""
    with refusals(path), _beside(path, content) as half:
        try:
            os.link(half, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with _locked(path):
                if path.exists():
                    return False
                half.replace(path)
        return True


def replace(path: Path, content: bytes, version: str) -> bool:
    """Write a file only if it still has a version, and return whether that was so."""
    if not path.exists():
        return False
    with refusals(path), _locked(path):
        there = read_versioned(path)
        if there is None or there[1] != version:
            return False
        with _beside(path, content) as half:
            half.replace(path)
        return True


def read_versioned(path: Path) -> tuple[bytes, str] | None:
    """Return a file and what tells this writing of it from any other; None if it is not there."""
    try:
        with open(path, "rb") as file:
            content, status = file.read(), os.fstat(file.fileno())
    except (FileNotFoundError, NotADirectoryError):
        return None
    digest = hashlib.sha256(content).hexdigest()
    return content, f"{status.st_ino}-{status.st_mtime_ns}-{digest}"


@contextmanager
def _beside(path: Path, content: bytes) -> Iterator[Path]:
    """Yield a whole file in the same folder, gone afterwards unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = unfinished(path)
    try:
        half.write_bytes(content)
        yield half
    finally:
        half.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # never removed: whoever waits for it would then hold a lock that nobody else sees
    with open(path.with_name(f".{path.name}.lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def walk(folder: Path, prefix: str = "") -> list[str]:
    """List the files below a folder that hold at least one byte, by relative path."""
    names = []
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            names += walk(folder / entry.name, f"{prefix}{entry.name}/")
        elif _size(entry):
            names.append(prefix + entry.name)
    return names


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # a temporary file renamed since the scan
        return 0


def children(folder: Path) -> list[str]:
    """Return the names in a folder, none where there is no folder."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
