"""Where things are kept: a folder of this machine, or a prefix of an object store.

An address is a path or ``file://``, ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX`` or
``az://CONTAINER/PREFIX``. Credentials, the region and another endpoint come from the environment
alone (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_REGION``,
``AWS_ENDPOINT_URL``; an endpoint without TLS only if its URL begins with ``http://``). Addresses
travel between processes, clients never do.

A server that is away costs waiting: every request is sent again for ``NTKDIST_STORE_PATIENCE``
seconds (300 unless set). Refusals are an ``InputError`` (no such bucket, no or refused
credentials, a place that cannot be written) or a ``StoreError`` (no answer, a full disk, anything
else), one line each.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ntkdist.storage import _local, _remote
from ntkdist.storage._addresses import join, parse
from ntkdist.storage._refusals import write_error

__all__ = [
    "children",
    "copy",
    "create_text",
    "exists",
    "join",
    "list_objects",
    "local_path",
    "normal",
    "read_all",
    "read_bytes",
    "read_text",
    "read_versioned",
    "remove",
    "remove_all",
    "replace_text",
    "write_bytes",
    "write_error",
    "write_text",
    "writing",
    "zarr_store",
]

_READERS = 16


def normal(address: str | os.PathLike[str]) -> str:
    """Return an address in its one spelling, a ``file://`` URL as its path.

    Raises:
        InputError: The address is none, or carries credentials; they are not repeated.
    """
    return str(parse(address))


def local_path(address: str | os.PathLike[str]) -> Path | None:
    """Return the path an address names on this machine, or None for an object store."""
    place = parse(address)
    return place if isinstance(place, Path) else None


def exists(address: str) -> bool:
    """Return whether an object, or on this machine a folder, is there."""
    place = parse(address)
    return place.exists() if isinstance(place, Path) else _remote.exists(place)


def remove(address: str) -> None:
    """Delete one object; its absence is fine."""
    place = parse(address)
    _local.remove(place) if isinstance(place, Path) else _remote.remove(place)


def remove_all(address: str) -> None:
    """Delete everything below an address; it need not exist."""
    place = parse(address)
    _local.remove_all(place) if isinstance(place, Path) else _remote.remove_all(place)


def read_bytes(address: str) -> bytes | None:
    """Read an object; None if it is not there."""
    place = parse(address)
    if isinstance(place, Path):
        return _local.read(place)
    found = _remote.read(place)
    return None if found is None else found[0]


def read_text(address: str) -> str | None:
    """Read a text in UTF-8; None if it is not there."""
    content = read_bytes(address)
    return None if content is None else content.decode("utf-8")


def write_bytes(address: str, content: bytes) -> None:
    """Write an object, whole or not at all."""
    place = parse(address)
    _local.write(place, content) if isinstance(place, Path) else _remote.write(place, content)


def copy(source: str, target: str) -> bool:
    """Put an object at another address as well, whole or not at all, in place of one there.

    In folders of one file system both become names of one file, which takes no time and no room;
    removing one leaves the other. So it is for objects that are replaced and never changed in
    place, as chunks of arrays are.

    Args:
        source: An object.
        target: Where it is to be too.

    Returns:
        Whether there is an object at ``source``.

    Raises:
        InputError: The place cannot be written.
        StoreError: The disk is full, or an object store refused.
    """
    one, other = parse(source), parse(target)
    if isinstance(one, Path) and isinstance(other, Path):
        return _local.copy(one, other)
    if not isinstance(one, Path) and not isinstance(other, Path) and one.shares_bucket(other):
        return _remote.copy(one, other)
    content = read_bytes(source)
    if content is None:
        return False
    write_bytes(target, content)
    return True


def write_text(address: str, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    write_bytes(address, text.encode("utf-8"))


def create_text(address: str, text: str) -> bool:
    """Write a text only if nothing is there.

    Some servers that speak S3 ignore the condition and overwrite: a caller for whom that
    matters reads back, a little later, what is there now.

    Args:
        address: Where.
        text: What; it should name its writer.

    Returns:
        Whether it was written.
    """
    place, content = parse(address), text.encode("utf-8")
    if isinstance(place, Path):
        return _local.create(place, content)
    return _remote.write_if(place, content, "create")


def read_versioned(address: str) -> tuple[str, str] | None:
    """Read a text and its version, for :func:`replace_text`; None if it is not there."""
    place = parse(address)
    found = _local.read_versioned(place) if isinstance(place, Path) else _remote.read(place)
    return None if found is None else (found[0].decode("utf-8"), found[1])


def replace_text(address: str, text: str, version: str) -> bool:
    """Write a text only if what is there has not changed since it was read.

    Some servers ignore the condition: see :func:`create_text`.

    Args:
        address: Where.
        text: What.
        version: What :func:`read_versioned` returned.

    Returns:
        Whether it was written; False too if nothing is there any more.
    """
    place, content = parse(address), text.encode("utf-8")
    if isinstance(place, Path):
        return _local.replace(place, content, version)
    return _remote.write_if(place, content, {"e_tag": version})


def list_objects(address: str) -> list[str]:
    """List the objects below an address that hold at least one byte.

    One walk over the folder or one listing of the bucket, whatever their number.

    Args:
        address: A folder or prefix; it need not exist.

    Returns:
        Their paths relative to ``address``, with ``/``, in no order.
    """
    place = parse(address)
    return _local.walk(place) if isinstance(place, Path) else _remote.walk(place)


def children(address: str) -> list[str]:
    """Return the names right below an address, none where nothing is there."""
    place = parse(address)
    return _local.children(place) if isinstance(place, Path) else _remote.children(place)


def read_all(address: str) -> dict[str, bytes]:
    """Read every object below an address, several at a time, by relative path in order."""
    names = sorted(list_objects(address))
    with ThreadPoolExecutor(_READERS) as pool:
        contents = pool.map(lambda name: read_bytes(join(address, name)), names)
        return {n: c for n, c in zip(names, contents, strict=True) if c is not None}


@contextmanager
def writing(address: str) -> Iterator[str]:
    """Let other code write a file, which is at the address, whole, if nothing was raised.

    Yields:
        A path on this machine, with the address's own ending.

    Raises:
        InputError: The place cannot be written.
        StoreError: The disk is full, or the object store refused.
    """
    place = parse(address)
    if isinstance(place, Path):
        with _local.refusals(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            half = _local.unfinished(place)
            half = half.with_name(half.name + place.suffix)
            try:
                yield str(half)
                half.replace(place)
            finally:
                half.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, place.key.rpartition("/")[2])
        yield str(path)
        _remote.write(place, path.read_bytes())


def zarr_store(address: str) -> Any:
    """Return what Zarr's functions take as ``store`` for an address.

    Returns:
        The path for a folder of this machine, which Zarr writes by renaming finished files; else
        a Zarr store whose pickle is the address alone.
    """
    place = parse(address)
    if isinstance(place, Path):
        return str(place)
    from ntkdist.storage._zarr import RemoteStore

    return RemoteStore(place)
