"""A Zarr store for reading arrays that have an object for every chunk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from ntkdist import storage
from ntkdist.errors import StoreError


class CompleteStore(WrapperStore[Any]):
    """The store below one address, where a missing chunk is an error instead of the fill value.

    Args:
        address: Folder or URL.
        remedy: What the message of the ``StoreError`` says to do.
    """

    def __init__(self, address: str, remedy: str) -> None:
        store = storage.zarr_store(address)
        super().__init__(
            LocalStore(store, read_only=True)
            if isinstance(store, str)
            else store.with_read_only(True)
        )
        self._address, self._remedy = address, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return CompleteStore, (self._address, self._remedy)

    def with_read_only(self, read_only: bool = False) -> CompleteStore:
        """Return the store itself; it is for reading."""
        if not read_only:
            raise ValueError(f"{self._address}: is opened for reading only")
        return self

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read an object or a range of it; None for missing metadata alone."""
        value: Buffer | None = await self._store.get(key, prototype, byte_range)
        if value is None and _is_chunk(key):
            raise StoreError(
                f"{self._address}/{key}: this part of an array is missing; {self._remedy}"
            )
        return value

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read several objects or ranges."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]


def _is_chunk(key: str) -> bool:
    """Return whether a key is that of a chunk: ``c`` or ``…c/0/1``; not ``zarr.json``."""
    return key.rpartition("/")[2].isdecimal() or key == "c" or key.endswith("/c")
