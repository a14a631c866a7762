"""What each tile held when it was stored, so that one in another's place is noticed.

A tile's own checksum tells that its bytes are whole, not that they are those of this tile: two
tiles exchanged, or one of an older run, would pass. So the driver keeps a digest of every tile
beside the tiles, as the worker that stored it told it.
"""

from __future__ import annotations

import hashlib

import numpy as np

from ntkdist.gram.tiling import TileKey
from ntkdist.storage.append_log import AppendLog, read_lines

_NAME, _GONE = "digests", "gone"


def tile_digest(kind: str, key: TileKey, block: np.ndarray) -> str:
    """Return a digest of a tile's entries and of where they belong.

    Args:
        kind: ``ntk`` or ``nngp``.
        key: The tile.
        block: Its entries as stored.

    Returns:
        32 hexadecimal digits (BLAKE2b).
    """
    where = f"{kind} {key} {block.dtype.str} {block.shape}"
    digest = hashlib.blake2b(where.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


class DigestLog:
    """Appends the digests of the tiles of one store.

    Args:
        address: The store's folder or URL.
    """

    def __init__(self, address: str) -> None:
        self._log = AppendLog(address, _NAME)

    def append(self, key: TileKey | str, digest: str) -> None:
        """Enter a tile that was stored; the last entry of a tile holds."""
        self._log.append(f"{key} {digest}")

    def forget(self, key: TileKey) -> None:
        """Enter that a tile is gone, so that what it held is not expected any more."""
        self._log.append(f"{key} {_GONE}")

    def close(self) -> None:
        """Write what is still waiting."""
        self._log.close()


def read_digests(address: str) -> dict[TileKey, str]:
    """Read the digests of a store's tiles; a tile stored right before a kill may have none.

    Args:
        address: The store's folder or URL.
    """
    found: dict[TileKey, str] = {}
    for line in read_lines(address, _NAME):
        key, _, digest = line.partition(" ")
        if len(digest) == 32:  # else torn by a kill
            found[TileKey.parse(key)] = digest
        elif digest == _GONE:
            found.pop(TileKey.parse(key), None)
    return found
