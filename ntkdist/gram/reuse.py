"""Finished tiles of another store of the same matrix, taken where they are whole."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from ntkdist import storage
from ntkdist.errors import StoreError
from ntkdist.gram.digests import DigestLog, read_digests, tile_digest
from ntkdist.gram.makers import Makers
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey

_READERS = 4


@dataclass(frozen=True)
class TilesTaken:
    """What became of the tiles of another store.

    Attributes:
        stored: Tiles that the store has now.
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

    Args:
        source: The other store.
        target: The store, created like the other if it is absent.
        fingerprint: Of both.
        between: Called between tiles; may raise to stop.

    Returns:
        What was taken.

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
    done = old.done() if old.tiling == new.tiling else set()
    wanted = [key for key in new.missing() if key in done]
    digests = read_digests(source)
    makers = Makers(source, old.arithmetic), Makers(target, new.arithmetic)
    others = makers[0].recorded()

    def take(key: TileKey) -> bool:
        try:
            block = old.block(key.row, key.col)
        except StoreError:
            return False
        if digests.get(key) not in (None, tile_digest(old.kind, key, block)):
            return False
        if key in others:
            makers[1].record(key, makers[0].of(key))
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
