"""A stored matrix becomes part of a larger one: its whole tiles stay, ragged ones go."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from ntkdist import storage
from ntkdist.errors import StoreError
from ntkdist.gram.digests import DigestLog
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling


def ragged_tiles(tiling: Tiling) -> list[TileKey]:
    """Return the tiles of a symmetric matrix whose shape is another one in a larger matrix."""
    if tiling.n_rows % tiling.edge == 0:
        return []
    last = tiling.grid[1] - 1
    return [TileKey(row, last) for row in range(last + 1)]


def grow_store(address: str, n: int, *, fingerprint: str, former: str) -> None:
    """Make a store of a symmetric matrix that of a larger one, with the same edge.

    The new metadata are one write behind all else, so that after a kill at any moment the same
    call goes on; one that was made larger already stays as it is.

    Args:
        address: Folder or URL of the store.
        n: Rows of the larger matrix.
        fingerprint: Of the larger matrix.
        former: Of the matrix that is stored; a store of any other is left alone.

    Raises:
        StoreError: If nothing is there, or it does not answer.
    """
    store = GramStore.open(address, "r+")
    if store.fingerprint != former:
        return
    ragged = ragged_tiles(store.tiling)
    for key in ragged:
        store.remove(key)
    if ragged:
        with closing(DigestLog(address)) as log:
            for key in ragged:
                log.forget(key)
    place = storage.join(address, "zarr.json")
    metadata: dict[str, Any] = json.loads(storage.read_text(place) or "{}")
    try:
        metadata["shape"] = [n, n]
        metadata["attributes"]["fingerprint"] = fingerprint
    except KeyError as error:
        raise StoreError(f"{place}: is damaged: it holds no {error}") from error
    storage.write_text(place, json.dumps(metadata, indent=2))
