"""How a run stores an array: chunks of a few MiB along the first axis, with checksums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ntkdist import storage

_CHUNK_BYTES = 2**22


def write_array(address: str, values: np.ndarray, attributes: Mapping[str, Any] | None) -> None:
    """Store an array, in place of one that is there.

    Args:
        address: Folder or URL of the array.
        values: Of any shape and number type.
        attributes: JSON to keep beside it.
    """
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    rows = 1
    if values.ndim:
        rows = max(1, min(values.shape[0], _CHUNK_BYTES // max(1, values[:1].nbytes)))
    array = zarr.create_array(
        storage.zarr_store(address),
        shape=values.shape,
        dtype=values.dtype,
        chunks=(rows, *values.shape[1:]) if values.ndim else (),
        compressors=[BloscCodec(cname="lz4", shuffle="bitshuffle"), Crc32cCodec()],
        attributes=dict(attributes or {}),
        # which objects there are then depends on the shape alone
        config={"write_empty_chunks": True},
        overwrite=True,
    )
    array[...] = values
