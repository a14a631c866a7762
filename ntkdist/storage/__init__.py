"""Objects in folders of this machine and below prefixes of object stores.

An address is a path or ``file://``, ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX`` or
``az://CONTAINER/PREFIX``. Credentials, the region and the endpoint come from the environment alone
(``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_REGION``,
``AWS_ENDPOINT_URL``; an endpoint without TLS only if its URL begins with ``http://``). Addresses
are passed between processes, clients never are.

A request that fails for a transient reason is retried for ``NTKDIST_STORE_PATIENCE`` seconds (300
unless set). Other failures raise an ``InputError`` (no such bucket, missing or refused credentials,
a place that cannot be written) or a ``StoreError`` (no answer, a full disk, anything else), with a
message of one line.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ntkdist.storage import folders, object_stores
from ntkdist.storage.addresses import (
    expand as expand,
    join,
    local_path as local_path,
    normal as normal,
    parse,
)
from ntkdist.storage.folders import write_error as write_error

_READERS = 16


def exists(address: str) -> bool:
    """Return whether an object, or on this machine a folder, exists."""
    store, place = _resolve(address)
    return store.exists(place)


def remove(address: str) -> None:
    """Delete an object if it exists."""
    store, place = _resolve(address)
    store.remove(place)


def remove_all(address: str) -> None:
    """Delete everything below an address, which need not exist."""
    store, place = _resolve(address)
    store.remove_all(place)


def read_bytes(address: str) -> bytes | None:
    """Read an object; None if it does not exist."""
    store, place = _resolve(address)
    return store.read(place)


def read_text(address: str) -> str | None:
    """Read a text in UTF-8; None if it does not exist."""
    content = read_bytes(address)
    return None if content is None else content.decode("utf-8")


def write_bytes(address: str, content: bytes) -> None:
    """Write an object, whole or not at all."""
    place = parse(address)
    folders.write(place, content) if isinstance(place, Path) else object_stores.write(
        place, content
    )


def copy(source: str, target: str) -> bool:
    """Copy an object to another address, whole or not at all, in place of an object there.

    In folders of one file system the copy is a hard link, which takes no time and no disk space;
    removing one leaves the other. Use it only for objects that are replaced and never changed in
    place, such as chunks of arrays.

    Returns:
        Whether there is an object at ``source``.

    Raises:
        InputError: The target cannot be written.
        StoreError: The disk is full, or a request to an object store failed.
    """
    one, other = parse(source), parse(target)
    if isinstance(one, Path) and isinstance(other, Path):
        return folders.copy(one, other)
    if not isinstance(one, Path) and not isinstance(other, Path) and one.shares_bucket(other):
        return object_stores.copy(one, other)
    content = read_bytes(source)
    if content is None:
        return False
    write_bytes(target, content)
    return True


def write_text(address: str, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    write_bytes(address, text.encode("utf-8"))


def create_text(address: str, text: str) -> bool:
    """Write a text only if there is no object yet; return whether it was written.

    Some S3-compatible servers ignore the condition and overwrite the object. Where that matters,
    the text should name its writer: read the object back after a short time.
    """
    store, place = _resolve(address)
    return store.create(place, text.encode("utf-8"))


def read_versioned(address: str) -> tuple[str, str] | None:
    """Read a text and its version, for :func:`replace_text`; None if it does not exist."""
    store, place = _resolve(address)
    answer = store.read_versioned(place)
    return None if answer is None else (answer[0].decode("utf-8"), answer[1])


def replace_text(address: str, text: str, version: str) -> bool:
    """Write a text only if the object still has the version that ``read_versioned`` returned.

    Some servers ignore the condition: see :func:`create_text`. Return whether it was written; False
    also if the object no longer exists.
    """
    store, place = _resolve(address)
    return store.replace(place, text.encode("utf-8"), version)


def list_objects(address: str) -> list[str]:
    """Return the relative paths of all objects of at least one byte below an address.

    They are separated by ``/`` and in no particular order; the address need not exist. It takes one
    walk over the folder or one listing of the bucket, whatever their number.
    """
    store, place = _resolve(address)
    return store.walk(place)


def children(address: str) -> list[str]:
    """Return the names directly below an address; none if it does not exist."""
    store, place = _resolve(address)
    return store.children(place)


def read_all(address: str) -> dict[str, bytes]:
    """Read every object below an address in parallel; return them sorted by relative path."""
    names = sorted(list_objects(address))
    with ThreadPoolExecutor(_READERS) as pool:
        contents = pool.map(lambda name: read_bytes(join(address, name)), names)
        return {n: c for n, c in zip(names, contents, strict=True) if c is not None}


@contextmanager
def writing(address: str) -> Iterator[str]:
    """Yield a path on this machine to write to; the file then becomes the object, whole.

    The path has the ending of the address. If the block raises an exception, the object does not
    change.

    Raises:
        InputError: The address cannot be written.
        StoreError: The disk is full, or the request to the object store failed.
    """
    place = parse(address)
    if isinstance(place, Path):
        with folders.write_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            half = folders.unfinished(place)
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
        object_stores.write(place, path.read_bytes())


def zarr_store(address: str) -> Any:
    """Return the ``store`` argument of Zarr's functions for an address.

    Of a folder of this machine it is the path: Zarr then renames finished files. Else it is a Zarr
    store whose pickle is the address alone.
    """
    place = parse(address)
    if isinstance(place, Path):
        return str(place)
    from ntkdist.storage.remote_zarr import RemoteStore

    return RemoteStore(place)


def _resolve(address: str) -> tuple[Any, Any]:
    """Return the module that handles an address (both have the same functions), and its place."""
    place = parse(address)
    return (folders if isinstance(place, Path) else object_stores), place
