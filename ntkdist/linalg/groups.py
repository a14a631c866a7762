"""A Zarr group that is written part by part, each part followed by a record that marks it as whole.

A record is an empty sub-group whose attributes describe the part. Its metadata is one object,
written in one step, so that a record exists whole or not at all, and always after its data.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.errors import NtkdistError
from ntkdist.linalg.status import LinalgStatus
from ntkdist.storage import arrays

SCHEMA = 2
#: Everything that this package writes into a group, in the order of removal: records before data.
_MEMBERS = (
    "bands", "panels", "row_blocks", "column_blocks", "states", "sketch", "inverse", "diagonal",
    "added", "iterates", "basis", "values", "lower", "column_sums", "rows", "columns",
)  # fmt: skip


def open_group(url: str, kind: str, *, mode: str = "r", any_schema: bool = False) -> Any | None:
    """Open the group of one kind of result; None where there is nothing, or an empty group.

    Other content, or another schema, raises an error. ``any_schema`` opens a group of an older
    schema too, to drop it.
    """
    import zarr
    from zarr.errors import ContainsArrayError, GroupNotFoundError

    try:
        store = storage.zarr_store(url)
        group = zarr.open_group(store, mode=mode, zarr_format=3)  # type: ignore[arg-type]
        attributes: dict[str, Any] = dict(group.attrs)
    except (FileNotFoundError, GroupNotFoundError):
        return None
    except ContainsArrayError as error:
        raise LinalgStatus.OTHER_CONTENT.error(url=url, kind=kind) from error
    except NtkdistError:
        raise
    except (ValueError, OSError, TypeError, AttributeError, KeyError) as error:
        raise LinalgStatus.UNREADABLE_GROUP.error(url=url, kind=kind, reason=error) from error
    if not attributes and not _has_members(group):
        return None
    if attributes.get("kind") != f"ntkdist-{kind}":
        raise LinalgStatus.OTHER_CONTENT.error(url=url, kind=kind)
    schema = attributes["schema"]
    if schema > SCHEMA:
        raise LinalgStatus.NEWER_SCHEMA.error(url=url, old=schema, new=SCHEMA)
    if schema < SCHEMA and not any_schema:
        raise LinalgStatus.OLDER_SCHEMA.error(url=url, old=schema, new=SCHEMA, kind=kind)
    return group


def open_result_of(url: str, kind: str, digest: str) -> Any | None:
    """Open a result of the factor with this digest; None where it belongs to another factor."""
    group = open_group(url, kind, any_schema=True)
    if group is None or group.attrs["schema"] != SCHEMA:
        return None
    return group if group.attrs["factor"] == digest else None


def _has_members(group: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about other files in the folder
        return bool(group.nmembers())


def check_same(url: str, kind: str, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise an error that names the first field whose stored value is not the wanted one."""
    for field, new in wanted.items():
        if stored[field] != new:
            raise LinalgStatus.DIFFERENT.error(
                url=url, kind=kind, field=field, old=stored[field], new=new
            )


def create_group(url: str, kind: str, attributes: dict[str, Any]) -> Any:
    """Create the group, in place of one of the same kind."""
    try:
        group = _emptied(url, kind)
        group.attrs.put({"kind": f"ntkdist-{kind}", "schema": SCHEMA, **attributes})
    except OSError as error:
        raise LinalgStatus.UNWRITABLE.error(url=url, reason=error) from error
    return group


def clear_group(url: str, kind: str) -> None:
    """Remove all members and attributes of the group; an empty group counts as absent."""
    _emptied(url, kind).attrs.put({})


def _emptied(url: str, kind: str) -> Any:
    import zarr

    # member by member: Zarr's overwrite=True would delete other files in the folder too
    open_group(url, kind, any_schema=True)
    group = zarr.open_group(storage.zarr_store(url), mode="a", zarr_format=3)
    for name in _MEMBERS:
        if name in group:
            del group[name]
    return group


def create_array(group: Any, name: str, **layout: Any) -> None:
    """Create a float64 array with checksums, unless it exists from an earlier start.

    The fill value is NaN: a lost chunk then reads as NaN, never as plausible zeros.
    """
    if name not in group:
        with _write_errors(group, name):
            arrays.create_array(
                group, name, compressed=False, dtype="float64", fill_value=np.nan, **layout
            )


def write_record(group: Any, series: str, index: int, fields: dict[str, Any]) -> None:
    """Mark one part as whole; its data must be stored already."""
    name = record_name(series, index)
    with _write_errors(group, name):
        group.create_group(name, overwrite=True, attributes=fields)


@contextmanager
def _write_errors(group: Any, name: str) -> Iterator[None]:
    """Turn a failed write into a ``StoreError``."""
    try:
        yield
    except OSError as error:
        url = str(group.store_path).removeprefix("file://")
        raise LinalgStatus.WRITE_FAILED.error(what=name, url=url, reason=error) from error


def read_records(group: Any, series: str) -> list[dict[str, Any]]:
    """Return the records of parts 0, 1, ... up to the first missing one."""
    records: list[dict[str, Any]] = []
    while (name := record_name(series, len(records))) in group:
        records.append(dict(group[name].attrs))
    return records


def drop_records(group: Any, series: str, start: int) -> None:
    """Remove the records from ``start`` on, last one first."""
    for index in reversed(record_indices(group, series)):
        if index >= start:
            del group[record_name(series, index)]


def record_indices(group: Any, series: str) -> list[int]:
    """Return the numbers of the parts that have a record, in order; there may be gaps."""
    if series not in group:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the rest of a record removed by hand
        return sorted(int(name) for name in group[series].group_keys() if name.isdecimal())


def record_name(series: str, index: int) -> str:
    """Return a record's path in its group, for example ``'panels/00003'``."""
    return f"{series}/{index:05d}"


def _buffer(out: NDArray[np.float64]) -> Any:
    from zarr.core.buffer import default_buffer_prototype

    prototype: Any = default_buffer_prototype()
    return prototype.nd_buffer.from_ndarray_like(out)


class CheckedArray:
    """Reads and writes one array of such a group, and names a damaged part.

    Picklable: a copy in another process opens the array itself. ``kind`` of the result and the
    ``process`` that computes it again are for messages.
    """

    def __init__(self, url: str, name: str, kind: str, process: str) -> None:
        self.url, self.name, self.kind, self.process = url, name, kind, process
        self._array: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}

    @property
    def array(self) -> Any:
        """The Zarr array, opened on first use for reading and writing."""
        if self._array is None:
            import zarr

            try:
                address = storage.join(self.url, self.name)
                self._array = zarr.open_array(storage.zarr_store(address), mode="r+")
            except NtkdistError:
                raise
            except (OSError, ValueError, KeyError) as error:
                raise LinalgStatus.ABSENT.error(
                    url=self.url, kind=f"array {self.name!r}", remedy=f"start {self.process} again"
                ) from error
        return self._array

    def write(self, part: str, where: tuple[slice, ...], values: NDArray[np.float64]) -> None:
        """Write a region aligned with the chunks; ``part`` names it in messages."""
        try:
            self.array[where] = values
        except OSError as error:
            raise LinalgStatus.WRITE_FAILED.error(what=part, url=self.url, reason=error) from error

    def read(
        self,
        part: str,
        record: str,
        where: tuple[slice, ...],
        out: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Read a region, checksums verified, into ``out`` if given; a missing chunk reads as NaN.

        Messages name the ``part`` and the ``record`` that marks it as whole.
        """
        try:
            if out is None:
                return np.asarray(self.array[where])
            self.array.get_basic_selection(where, out=_buffer(out))
            return out
        except NtkdistError:
            raise
        except (ValueError, OSError, RuntimeError) as error:
            key, reason = self._find_damage(where) or (self.name, f"({error})")
            raise self.damaged(part, record, key, reason) from error

    def damaged(self, part: str, record: str, key: str, reason: str) -> Exception:
        """Return the error for a damaged chunk."""
        return LinalgStatus.DAMAGED.error(
            part=part,
            kind=self.kind,
            url=self.url,
            key=key,
            reason=reason,
            record=f"{self.url}/{record}",
            process=self.process,
        )

    def key(self, *chunk: int) -> str:
        """Return the key of the object that holds a chunk, for example ``'lower/c/3/1'``."""
        return f"{self.name}/{self.array.metadata.encode_chunk_key(chunk)}"

    def _find_damage(self, where: tuple[slice, ...]) -> tuple[str, str] | None:
        edges = self.array.shards or self.array.chunks
        grid = [
            range(cut.start // edge, -(-cut.stop // edge))
            for cut, edge in zip(where, edges, strict=True)
        ]
        for chunk in np.ndindex(*(len(axis) for axis in grid)):
            index = tuple(axis[i] for axis, i in zip(grid, chunk, strict=True))
            region = tuple(
                slice(max(i * edge, cut.start), min((i + 1) * edge, cut.stop))
                for i, edge, cut in zip(index, edges, where, strict=True)
            )
            try:
                self.array[region]
            except NtkdistError:
                raise
            except (ValueError, OSError, RuntimeError) as error:
                checksum = "checksum" in str(error)
                return self.key(*index), "fails its checksum" if checksum else f"({error})"
        return None
