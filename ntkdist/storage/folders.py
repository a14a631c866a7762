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

from ntkdist.errors import InputError, NtkdistError, StoreError

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def write_error(error: OSError, address: str) -> NtkdistError:
    """Return the one-line error for a failed write of a file."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"{address}: cannot be written ({reason}); free some space and resume")
    return InputError(
        f"{address}: cannot be written ({reason}); choose a folder that can be written"
    )


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn a failed write into a one-line error."""
    try:
        yield
    except OSError as error:
        raise write_error(error, str(path)) from error


def unfinished(path: Path) -> Path:
    """Return the temporary path of a file before it is renamed; unique to this thread."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident():x}")


def exists(path: Path) -> bool:
    """Return whether a file or folder exists."""
    return path.exists()


def read(path: Path) -> bytes | None:
    """Read a file; None if it does not exist."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with write_errors(path), _beside(path, content) as half:
        half.replace(path)


def copy(source: Path, target: Path) -> bool:
    """Link a file, or copy it where links do not work; return False if it does not exist."""
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # a name that no later writer opens: it would write into both files
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
            half.unlink(missing_ok=True)  # renaming a link to the same file keeps both names
        return True


def remove(path: Path) -> None:
    """Delete a file if it exists."""
    with write_errors(path):
        path.unlink(missing_ok=True)


def remove_all(folder: Path) -> None:
    """Delete a folder with everything in it, if it exists."""
    with write_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)


def create(path: Path, content: bytes) -> bool:
    """Write a file only if there is none; return whether it was written."""
    with write_errors(path), _beside(path, content) as half:
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
    """Write a file only if it still has this version; return whether it was written."""
    if not path.exists():
        return False
    with write_errors(path), _locked(path):
        there = read_versioned(path)
        if there is None or there[1] != version:
            return False
        with _beside(path, content) as half:
            half.replace(path)
        return True


def read_versioned(path: Path) -> tuple[bytes, str] | None:
    """Return a file's content and version; None if it does not exist."""
    try:
        with open(path, "rb") as file:
            content, status = file.read(), os.fstat(file.fileno())
    except (FileNotFoundError, NotADirectoryError):
        return None
    digest = hashlib.sha256(content).hexdigest()
    return content, f"{status.st_ino}-{status.st_mtime_ns}-{digest}"


@contextmanager
def _beside(path: Path, content: bytes) -> Iterator[Path]:
    """Yield a finished temporary file in the same folder; it is removed unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = unfinished(path)
    try:
        half.write_bytes(content)
        yield half
    finally:
        half.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # the lock file stays: a process waiting for a removed file would hold a lock of its own
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
    """Return the names in a folder; none if it does not exist."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
