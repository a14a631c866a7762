"""Panels of a stored factor that are no longer what was stored: dropped, to be computed again."""

from __future__ import annotations

from typing import Any

from ntkdist import storage
from ntkdist.errors import StoreError
from ntkdist.linalg import groups
from ntkdist.linalg.store import BAND_RECORDS, KIND, FactorStore


def drop_damaged(url: Any) -> int | None:
    """Forget the first damaged panel of a factor, and all that stands on it.

    ``factorize`` then goes on at that panel; rows that were appended are appended again.

    Args:
        url: Folder or URL of the factor.

    Returns:
        The first panel that is to be computed again, the number of panels if appended rows alone
        are damaged, None if nothing is.
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
    """Leave an empty group in place of a factor, with nothing of it behind."""
    groups.clear_group(storage.normal(url), KIND)


def drop_inverse(url: Any) -> None:
    """Drop a factor's inverse; the factor stays."""
    group = groups.open_group(storage.normal(url), KIND, mode="r+")
    if group is not None and "inverse" in group:
        del group["inverse"]


def drop_diagonal(url: Any) -> None:
    """Drop the diagonal of the inverse that is stored beside a factor; the factor stays."""
    group = groups.open_group(storage.normal(url), KIND, mode="r+")
    if group is not None and "diagonal" in group:
        del group["diagonal"]


def _digest(store: FactorStore, k: int, band: int = 0) -> str | None:
    try:
        return store.digest(k, band)
    except StoreError:
        return None
