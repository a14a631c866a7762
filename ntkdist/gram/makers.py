"""Which arithmetic made each tile, where a job mixes several: a small text beside the tiles.

A tile without a text was made by the store's own arithmetic. A text is written before its tile,
and one whose tile is absent is read by nobody.
"""

from __future__ import annotations

from ntkdist import storage
from ntkdist.gram.tiling import TileKey


class Makers:
    """The records of one store.

    Args:
        address: The store's folder or URL.
        own: Its own arithmetic.
    """

    def __init__(self, address: str, own: str) -> None:
        self._address = storage.join(address, "made_by")
        self._own = own

    def record(self, key: TileKey, made_by: str) -> None:
        """Say who makes a tile."""
        if made_by == self._own:
            self.forget(key)
        else:
            storage.write_text(self._place(key), made_by)

    def forget(self, key: TileKey) -> None:
        """Drop a tile's record; its absence is fine."""
        storage.remove(self._place(key))

    def of(self, key: TileKey) -> str:
        """Return who made a tile that is there."""
        return storage.read_text(self._place(key)) or self._own

    def recorded(self) -> set[TileKey]:
        """Return the tiles that have a record."""
        names = storage.list_objects(self._address)
        return {TileKey.parse(name) for name in names if not name.startswith(".")}

    def _place(self, key: TileKey) -> str:
        return storage.join(self._address, str(key))
