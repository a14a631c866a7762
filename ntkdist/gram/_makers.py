"""Which arithmetic made each tile, where a job mixes several: a small text beside the tiles.

A tile without a text was made by the store's own arithmetic. A text is written before its tile,
and one whose tile is absent is read by nobody.
"""

from __future__ import annotations

from ntkdist.gram import _address
from ntkdist.gram.tiling import TileKey


class Makers:
    """The records of one store.

    Args:
        address: The store's folder or URL.
        own: Its own arithmetic.
    """

    def __init__(self, address: str, own: str) -> None:
        self._address = _address.join(address, "made_by")
        self._own = own

    def record(self, key: TileKey, made_by: str) -> None:
        """Say who makes a tile."""
        if made_by == self._own:
            self.forget(key)
        else:
            _address.write_text(self._place(key), made_by)

    def forget(self, key: TileKey) -> None:
        """Drop a tile's record; its absence is fine."""
        _address.remove(self._place(key))

    def of(self, key: TileKey) -> str:
        """Return who made a tile that is there."""
        return _address.read_text(self._place(key)) or self._own

    def recorded(self) -> set[TileKey]:
        """Return the tiles that have a record."""
        names = _address.list_objects(self._address)
        return {TileKey.parse(name) for name in names if not name.startswith(".")}

    def _place(self, key: TileKey) -> str:
        return _address.join(self._address, str(key))
