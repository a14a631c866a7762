"""Digests of the stored tiles, by which a tile in the place of another is found.

A checksum inside a tile shows that its bytes are whole, not that they belong to this tile: two
exchanged tiles, or one of an older run, would pass. The driver therefore logs the digest of every
tile that a worker has stored.
"""

from __future__ import annotations

import hashlib

import numpy as np

from ntkdist.gram.tiling import TileKey
from ntkdist.storage.append_log import AppendLog, read_lines

_NAME, _GONE = "digests", "gone"


def tile_digest(kind: str, key: TileKey, block: np.ndarray) -> str:
    """Return a digest of a tile's entries and of where they belong."""
    where = f"{kind} {key} {block.dtype.str} {block.shape}"
    digest = hashlib.blake2b(where.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


class DigestLog:
    """Appends the digests of the tiles of one store."""

    def __init__(self, address: str) -> None:
        self._log = AppendLog(address, _NAME)

    def append(self, key: TileKey | str, digest: str) -> None:
        """Enter a tile that was stored; the last entry of a tile holds."""
        self._log.append(f"{key} {digest}")

    def forget(self, key: TileKey) -> None:
        """Enter that a tile was removed; its digest no longer holds."""
        self._log.append(f"{key} {_GONE}")

    def close(self) -> None:
        """Write the entries that still wait."""
        self._log.close()


def read_digests(address: str) -> dict[TileKey, str]:
    """Read the digests of a store's tiles; a tile stored right before a kill may have none."""
    found: dict[TileKey, str] = {}
    for line in read_lines(address, _NAME):
        key, _, digest = line.partition(" ")
        if len(digest) == 32:  # else torn by a kill
            found[TileKey.parse(key)] = digest
        elif digest == _GONE:
            found.pop(TileKey.parse(key), None)
    return found
