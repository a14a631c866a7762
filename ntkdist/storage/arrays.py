"""Creation of Zarr arrays: every array has checksums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ntkdist import storage

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


def row_chunks(values: np.ndarray, chunk_bytes: int = _CHUNK_BYTES) -> tuple[int, ...]:
    """Return the shape of chunks that hold whole rows, at least one and at most so many bytes."""
    if not values.ndim:
        return ()
    rows = max(1, min(values.shape[0], chunk_bytes // max(1, values[:1].nbytes)))
    return (rows, *values.shape[1:])
