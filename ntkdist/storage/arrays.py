"""Zarr arrays with checksums, whose missing chunks are errors.

Zarr reads a chunk whose object is missing as the fill value, zeros unless set. Arrays written here
have an object for every chunk, and ``open_array`` raises an error where one is missing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ntkdist import storage
from ntkdist.errors import NtkdistError, StoreError

#: Object with the metadata of an array or group.
METADATA = "zarr.json"
_CHUNK_BYTES = 2**22


def create_array(
    place: Any, name: str | None = None, *, compressed: bool = True, **layout: Any
) -> Any:
    """Create an empty Zarr array with checksums.

    Args:
        place: Folder or URL of the array; or the Zarr group that contains it.
        name: Name of the array in the group.
        compressed: Whether chunks are compressed (Blosc lz4 with bit shuffle).
        **layout: Arguments of ``zarr.create_array``: shape, dtype, chunks, fill_value and so on.
    """
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    # the checksum last, so that it covers the stored bytes
    codecs = [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")] if compressed else []
    layout["compressors"] = [*codecs, Crc32cCodec()]
    if name is not None:
        return place.create_array(name, **layout)
    return zarr.create_array(storage.zarr_store(place), **layout)


def write_array(
    address: str, values: np.ndarray, attributes: Mapping[str, Any] | None = None
) -> None:
    """Store an array in chunks of a few MiB along the first axis, in place of an earlier one."""
    array = create_array(
        address,
        shape=values.shape,
        dtype=values.dtype,
        chunks=row_chunks(values),
        attributes=dict(attributes or {}),
        # so that the set of objects depends on the shape alone
        config={"write_empty_chunks": True},
        overwrite=True,
    )
    array[...] = values


def open_array(address: str, remedy: str = "restore it from a copy") -> Any:
    """Open a stored array for reading; every chunk of it must be there.

    Args:
        address: Folder or URL.
        remedy: What the error of a missing or damaged chunk says to do.

    Returns:
        A Zarr array. Reading a chunk that has no object raises ``StoreError``. Arrays whose fill
        value is NaN are written chunk by chunk (tiles of a Gram, panels of a factor): there a
        missing chunk reads as NaN.

    Raises:
        FileNotFoundError: There is no array.
    """
    import zarr

    from ntkdist.storage.complete import CompleteStore

    read_metadata(address, remedy)
    array = zarr.open_array(CompleteStore(address, remedy), mode="r")
    if array.dtype.kind == "f" and np.isnan(array.fill_value):
        return zarr.open_array(storage.zarr_store(address), mode="r")
    return array


def read_metadata(address: str, remedy: str = "restore it from a copy") -> dict[str, Any]:
    """Return the metadata of an array or group; its JSON attributes are ``["attributes"]``.

    Raises:
        FileNotFoundError: There is neither.
        StoreError: The metadata are damaged.
    """
    name = storage.join(address, METADATA)
    content = storage.read_bytes(name)
    if content is None:
        raise FileNotFoundError(f"{address}: holds no array or group")
    try:
        metadata = json.loads(content)
        if not isinstance(metadata, dict):
            raise TypeError(f"it holds {content[:20].decode()!r}")
        if not isinstance(metadata.setdefault("attributes", {}), dict):
            raise TypeError(f"attributes are {metadata['attributes']!r}")
        return dict(metadata)
    except (ValueError, AttributeError, TypeError) as error:
        reason = str(error) if content else "it is empty"
        raise StoreError(f"{name}: cannot be read ({reason}); {remedy}") from error


def read_array(address: str, remedy: str = "restore it from a copy") -> np.ndarray:
    """Read a stored array whole.

    Raises:
        FileNotFoundError: There is no array.
        StoreError: An object is missing or damaged; the message names it.
    """
    array = open_array(address, remedy)
    try:
        return np.asarray(array[...])
    except NtkdistError:
        raise
    except Exception as error:
        raise next(damages(address, remedy), _unreadable(address, error, remedy)) from error


def damages(
    address: str, remedy: str, between: Callable[[], None] = lambda: None
) -> Iterator[StoreError]:
    """Read a stored array object by object; yield an error for each missing or damaged one.

    ``between`` is called before each object and may raise to stop.
    """
    array = open_array(address, remedy)
    edges = array.shards or array.chunks
    axes = [range(-(-size // edge)) for size, edge in zip(array.shape, edges, strict=True)]
    for index in itertools.product(*axes):
        between()
        where = tuple(slice(i * e, (i + 1) * e) for i, e in zip(index, edges, strict=True))
        try:
            array[where]
        except StoreError as error:
            yield error
        except NtkdistError:
            raise
        except Exception as error:
            name = f"{address}/{array.metadata.encode_chunk_key(index)}"
            yield _unreadable(name, error, remedy)


def _unreadable(name: str, error: Exception, remedy: str) -> StoreError:
    reason = "its checksum is wrong" if "checksum" in str(error) else str(error)
    return StoreError(f"{name}: cannot be read ({' '.join(reason.split())}); {remedy}")


def row_chunks(values: np.ndarray, chunk_bytes: int = _CHUNK_BYTES) -> tuple[int, ...]:
    """Return the shape of chunks that hold whole rows, at least one and at most so many bytes."""
    if not values.ndim:
        return ()
    rows = max(1, min(values.shape[0], chunk_bytes // max(1, values[:1].nbytes)))
    return (rows, *values.shape[1:])
