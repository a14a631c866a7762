"""A Zarr store over an object store that holds an address, but no client and no credentials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import obstore
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from ntkdist.storage.addresses import Place, parse
from ntkdist.storage.object_stores import MULTIPART_BYTES, store_of, with_retries_async


class RemoteStore(Store):
    """The Zarr store below one address.

    Differs from ``zarr.storage.ObjectStore``: requests are retried while a server restarts, errors
    are those of this package, and a pickle holds the address alone, while that of an obstore
    client holds the secret key.

    Args:
        place: Bucket and key above all names.
        read_only: Whether writing raises an error.
    """

    def __init__(self, place: Place, *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self._place = place

    @property
    def address(self) -> str:
        """The address above all names."""
        return str(self._place)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.address, self.read_only)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RemoteStore):
            return False
        return (self._place, self.read_only) == (other._place, other.read_only)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"RemoteStore({self.address!r})"

    def with_read_only(self, read_only: bool = False) -> RemoteStore:
        """Return the same store, read-only or not."""
        return RemoteStore(self._place, read_only=read_only)

    @property
    def supports_writes(self) -> bool:
        """Whether objects can be written."""
        return True

    @property
    def supports_deletes(self) -> bool:
        """Whether objects can be deleted."""
        return True

    @property
    def supports_listing(self) -> bool:
        """Whether objects can be listed."""
        return True

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read an object or a range of it; None if it does not exist."""
        options: Any = None if byte_range is None else {"range": _range(byte_range)}

        async def request() -> Any:
            path = self._place.below(key)
            answer = await obstore.get_async(store_of(self._place), path, options=options)
            return await answer.bytes_async()

        content = await with_retries_async(self._place, request)
        return None if content is None else prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read several objects or ranges."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        """Return whether an object exists."""
        return await self._head(key) is not None

    async def getsize(self, key: str) -> int:
        """Return an object's size in bytes."""
        head = await self._head(key)
        if head is None:
            raise FileNotFoundError(key)
        return int(head["size"])

    async def _head(self, key: str) -> Any:
        path = self._place.below(key)
        return await with_retries_async(
            self._place, lambda: obstore.head_async(store_of(self._place), path)
        )

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object, whole or not at all."""
        self._check_writable()
        path, content = self._place.below(key), value.as_buffer_like()
        multipart = len(value) > MULTIPART_BYTES
        await with_retries_async(
            self._place,
            lambda: obstore.put_async(
                store_of(self._place), path, content, use_multipart=multipart
            ),
        )

    async def delete(self, key: str) -> None:
        """Delete an object if it exists."""
        self._check_writable()
        path = self._place.below(key)
        await with_retries_async(
            self._place, lambda: obstore.delete_async(store_of(self._place), path)
        )

    async def delete_dir(self, prefix: str) -> None:
        """Delete everything below a name."""
        self._check_writable()
        paths = [self._place.below(name) async for name in self.list_prefix(prefix)]
        if paths:
            await with_retries_async(
                self._place, lambda: obstore.delete_async(store_of(self._place), paths)
            )

    def list(self) -> AsyncIterator[str]:
        """List all keys."""
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List the keys below a name."""
        path = self._place.below(prefix.rstrip("/")) or None

        async def request() -> Any:
            return await obstore.list(store_of(self._place), path).collect_async()

        for meta in await with_retries_async(self._place, request) or []:
            yield self._place.relative(meta["path"])

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List the names directly below a name."""
        path = self._place.below(prefix.rstrip("/"))
        listing: Any = await with_retries_async(
            self._place,
            lambda: obstore.list_with_delimiter_async(store_of(self._place), path or None),
        )
        above = Place(self._place.scheme, self._place.bucket, path)
        for key in listing["common_prefixes"]:
            yield above.relative(key)
        for meta in listing["objects"]:
            yield above.relative(meta["path"])


def _range(part: ByteRequest) -> Any:
    if isinstance(part, RangeByteRequest):
        return part.start, part.end
    if isinstance(part, OffsetByteRequest):
        return {"offset": part.offset}
    assert isinstance(part, SuffixByteRequest)
    return {"suffix": part.suffix}


def _open(address: str, read_only: bool) -> RemoteStore:
    place = parse(address)
    assert isinstance(place, Place)
    return RemoteStore(place, read_only=read_only)
