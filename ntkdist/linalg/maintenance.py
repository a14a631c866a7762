"""Stored factors as folders: repaired, dropped, and copied with all that lies beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ntkdist import storage
from ntkdist.errors import StoreError
from ntkdist.linalg import groups
from ntkdist.linalg.factor import CholeskyFactor
from ntkdist.linalg.panels import ADDED, BAND_RECORDS, KIND, FactorStore
from ntkdist.storage.arrays import damages

_METADATA = "zarr.json"
_PANELS = ("lower", ADDED)  # read by CholeskyFactor.verify


def drop_damaged(url: Any) -> int | None:
    """Drop the records of the first damaged panel of a factor, and of all that depend on it.

    ``factorize`` then continues at that panel; appended rows have to be appended again.

    Args:
        url: Folder or URL of the factor.

    Returns:
        The first panel to compute again; the number of panels if only appended rows are damaged;
        None if nothing is.
    """
    opened = FactorStore.open(storage.normal(url))
    if opened is None:
        return None
    store, _ = opened
    for k, record in enumerate(store.records()):
        if _digest(store, k) != record["sha256"]:
            store.forget(k)
            return k
    for band, record in enumerate(store.bands(), start=1):
        if any(_digest(store, k, band) != right for k, right in enumerate(record["sha256"])):
            groups.drop_records(store.group, BAND_RECORDS, band - 1)
            return store.plan.first_count
    return None


def drop_factor(url: Any) -> None:
    """Replace a factor, and all that is stored beside it, by an empty group."""
    groups.clear_group(storage.normal(url), KIND)


def drop_part(url: Any, part: str) -> None:
    """Drop the inverse, or its diagonal, that is stored beside a factor; the factor is kept.

    Args:
        url: Folder or URL of the factor.
        part: ``"inverse"`` or ``"diagonal"``.
    """
    group = groups.open_group(storage.normal(url), KIND, mode="r+")
    if group is not None and part in group:
        del group[part]


def _digest(store: FactorStore, k: int, band: int = 0) -> str | None:
    """Return the sha256 of a panel's rows; None where they cannot be read."""
    try:
        return store.digest(k, band)
    except StoreError:
        return None


def copy_factor(
    source: str, target: str, *, fingerprint: str, between: Callable[[], None] = lambda: None
) -> bool:
    """Copy a finished factor with the inverse, its diagonal and all else that its folder holds.

    Everything is verified first: panels against the sha256 of their records, all other arrays
    against their checksums. The metadata of the group, without which there is no factor, is
    written last; after a kill the same call starts again.

    Args:
        source: The factor's folder or URL.
        target: Folder or URL of the copy; it must not hold a finished factor.
        fingerprint: Fingerprint of the matrix whose factor is wanted.
        between: Called between objects; may raise to stop.

    Returns:
        Whether it was copied. A factor is not copied if it is unfinished, belongs to another
        matrix, or has appended rows, because their absolute ridge is that of the smaller matrix.

    Raises:
        StoreError: A part of it is damaged; nothing was copied.
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
        if name.rpartition("/")[2] == _METADATA:  # no link: Zarr may write it in place
            storage.write_bytes(there, storage.read_bytes(here) or b"")
        elif not storage.copy(here, there):
            raise StoreError(f"{here}: was removed while the factor was copied; start again")
    return True


def drop_unfinished_copy(target: str) -> None:
    """Remove the objects of a killed ``copy_factor``; a finished factor is kept."""
    if storage.list_objects(target) and not storage.exists(storage.join(target, _METADATA)):
        storage.remove_all(target)


def _is_unfinished(name: str) -> bool:
    """Return whether a file is the unfinished one of a killed writer."""
    last = name.rpartition("/")[2]
    return last.startswith(".") or last.endswith(".partial")


def _read_arrays(source: str, names: list[str], between: Callable[[], None]) -> None:
    """Read every array except the panels, so that all checksums are compared."""
    for name in names:
        folder, _, last = name.rpartition("/")
        if last != _METADATA or not folder or folder.split("/")[0] in _PANELS:
            continue
        address = storage.join(source, folder)
        metadata = json.loads(storage.read_text(storage.join(source, name)) or "{}")
        if metadata.get("node_type") != "array":
            continue
        for error in damages(
            address, f"ntkdist verify repairs the run that {source} is of", between
        ):
            raise error
