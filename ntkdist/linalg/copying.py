"""A finished factor at another place: all that lies in its folder, if all of it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from ntkdist import storage
from ntkdist.errors import NtkdistError, StoreError
from ntkdist.linalg.factor import CholeskyFactor
from ntkdist.linalg.store import ADDED, FactorStore

_METADATA = "zarr.json"
_PANELS = ("lower", ADDED)  # read by CholeskyFactor.verify


def copy_factor(
    source: str, target: str, *, fingerprint: str, between: Callable[[], None] = lambda: None
) -> bool:
    """Copy a finished factor with all that is stored beside it: the inverse, its diagonal.

    Everything is read first: panels must have the sha256 of their records, all other arrays right
    checksums. The group's own metadata come last, without which there is no factor: after a kill
    the same call begins anew.

    Args:
        source: The factor's folder or URL.
        target: Where it is to be too; nothing of a finished factor may be there.
        fingerprint: Of the matrix that it must be of.
        between: Called between objects; may raise to stop.

    Returns:
        Whether it was copied: not where it is unfinished, of another matrix, or has appended rows,
        whose absolute ridge is that of the smaller matrix.

    Raises:
        StoreError: Something of it is damaged; nothing was copied.
        InputError: The target cannot be written.
    """
    opened = FactorStore.open(source)
    if opened is None or opened[1]["fingerprint"] != fingerprint or opened[0].plan.added:
        return False
    if len(opened[0].records()) < opened[0].plan.first_count:
        return False
    between()
    CholeskyFactor.open(source, memory_limit=1).verify()  # keeps no panel in memory
    names = sorted(name for name in storage.list_objects(source) if not _is_unfinished(name))
    _read_arrays(source, names, between)
    for name in sorted(names, key=lambda name: (name == _METADATA, name)):
        between()
        here, there = storage.join(source, name), storage.join(target, name)
        if name.rpartition("/")[2] == _METADATA:  # small, and it may be written by other means
            storage.write_bytes(there, storage.read_bytes(here) or b"")
        elif not storage.copy(here, there):
            raise StoreError(f"{here}: has gone while it was copied")
    return True


def drop_unfinished_copy(target: str) -> None:
    """Remove what a killed ``copy_factor`` left; a factor that is there stays."""
    if storage.list_objects(target) and not storage.exists(storage.join(target, _METADATA)):
        storage.remove_all(target)


def _is_unfinished(name: str) -> bool:
    """Return whether a file is one that a killed writer left half written."""
    last = name.rpartition("/")[2]
    return last.startswith(".") or last.endswith(".partial")


def _read_arrays(source: str, names: list[str], between: Callable[[], None]) -> None:
    """Read every array but the panels, so that each stored checksum is compared."""
    import zarr

    for name in names:
        folder, _, last = name.rpartition("/")
        if last != _METADATA or not folder or folder.split("/")[0] in _PANELS:
            continue
        address = storage.join(source, folder)
        metadata = json.loads(storage.read_text(storage.join(source, name)) or "{}")
        if metadata.get("node_type") != "array":
            continue
        array = zarr.open_array(storage.zarr_store(address), mode="r")
        for where in _objects(array):
            between()
            try:
                array[where]
            except NtkdistError:
                raise
            except (ValueError, OSError, RuntimeError) as error:
                raise StoreError(f"{address}: cannot be read ({error})") from error


def _objects(array: Any) -> Iterator[tuple[slice, ...]]:
    """Yield the region of each object that an array is stored in."""
    edges = array.shards or array.chunks
    axes = [range(0, size, edge) for size, edge in zip(array.shape, edges, strict=True)]
    for first in product(*axes):
        yield tuple(slice(i, i + edge) for i, edge in zip(first, edges, strict=True))
