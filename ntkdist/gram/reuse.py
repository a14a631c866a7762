"""Tiles that are stored already become part of a matrix.

They come from another store of the same matrix, or from a smaller matrix that has grown.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ntkdist import storage
from ntkdist.errors import StoreError
from ntkdist.gram.digests import DigestLog, read_digests, tile_digest
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling

_READERS = 4


@dataclass(frozen=True)
class TilesTaken:
    """Result of taking the tiles of another store.

    Attributes:
        stored: Tiles that the store holds now.
        bad: Tiles that were not taken because they are damaged in the other store.
    """

    stored: frozenset[TileKey]
    bad: frozenset[TileKey]


def take_tiles(
    source: str, target: str, *, fingerprint: str, between: Callable[[], None] = lambda: None
) -> TilesTaken:
    """Take every tile of another store that is finished, whole and not in this one.

    Each tile is read first: its checksum must be right, no entry may be NaN, and where a digest of
    it was kept when it was stored, its entries must be those. A tile is taken whole or not at all,
    so after a kill the same call goes on.

    Raises:
        InputError: If one of them is of another fingerprint, or cannot be written.
        StoreError: If the other is not there.
    """
    old = GramStore.open(source, "r", fingerprint)
    if not GramStore.exists(target):
        # the very metadata: chunks are bytes of its codecs
        metadata = storage.read_bytes(storage.join(source, "zarr.json")) or b""
        storage.write_bytes(storage.join(target, "zarr.json"), metadata)
    new = GramStore.open(target, "r+", fingerprint)
    done = old.done() - set(old.mixed_tiles()) if old.tiling == new.tiling else set()
    wanted = [key for key in new.missing() if key in done]
    digests = read_digests(source)

    def take(key: TileKey) -> bool:
        try:
            block = old.block(key.row, key.col)
        except StoreError:
            return False
        if digests.get(key) not in (None, tile_digest(old.kind, key, block)):
            return False
        return storage.copy(old.path_of(key), new.path_of(key))

    bad = set()
    with closing(DigestLog(target)) as log, ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(wanted), _READERS):
            between()
            some = wanted[start : start + _READERS]
            for key, taken in zip(some, pool.map(take, some), strict=True):
                if not taken:
                    bad.add(key)
                elif key in digests:
                    log.append(key, digests[key])
    return TilesTaken(frozenset(new.done()), frozenset(bad))


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
