"""The stored factor: a lower triangle in square chunks, one record a finished panel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ntkdist.errors import StoreError
from ntkdist.linalg import groups
from ntkdist.linalg.outcomes import Outcome
from ntkdist.linalg.panels import ITEM, PanelPlan
from ntkdist.linalg.source import Matrix

KIND = "factor"
HOW = "the factorisation"
RECORDS = "panels"
_STRIP_BYTES = 64 << 20


class FactorStore:
    """Panels of L on disk, by panel number and rows.

    Picklable: a task in another process opens the array itself; panels kept in memory stay
    where they are.

    Args:
        url: The group's folder or URL.
        plan: How the factor is cut.
    """

    def __init__(self, url: str, plan: PanelPlan) -> None:
        self.url = url
        self.plan = plan
        self.keep = False
        self._lower = groups.CheckedArray(url, "lower", KIND, HOW)
        self._kept: dict[int, Matrix] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}, "keep": False}

    @classmethod
    def create(cls, url: str, plan: PanelPlan, attributes: dict[str, Any]) -> FactorStore:
        """Write the metadata of a new factor, in place of an old one."""
        cut = {"n": plan.n, "panel_width": plan.width, "block": plan.block}
        groups.create_group(url, KIND, {**cut, **attributes})
        store = cls(url, plan)
        store.prepare()
        return store

    @classmethod
    def open(cls, url: str) -> tuple[FactorStore, dict[str, Any]] | None:
        """Open what an earlier start created.

        Returns:
            The store and the group's attributes; None where nothing is there.
        """
        group = groups.open_group(url, KIND)
        if group is None:
            return None
        attributes = group.attrs.asdict()
        plan = PanelPlan(attributes["n"], attributes["panel_width"], attributes["block"])
        return cls(url, plan), attributes

    @property
    def group(self) -> Any:
        """The factor's Zarr group, opened for reading and writing."""
        group = groups.open_group(self.url, KIND, mode="r+")
        if group is None:
            raise StoreError(
                Outcome.ABSENT.message(url=self.url, kind=KIND, remedy=f"start {HOW} again")
            )
        return group

    def prepare(self) -> None:
        """Create the array where a start was killed before it did."""
        n, block = self.plan.n, self.plan.block
        groups.create_array(self.group, "lower", shape=(n, n), chunks=(block, block))

    def records(self) -> list[dict[str, Any]]:
        """Return the records of the finished panels, up to the first missing one."""
        return groups.read_records(self.group, RECORDS, self.plan.count)

    def record(self, k: int, fields: dict[str, Any]) -> None:
        """Mark panel ``k`` as whole."""
        groups.write_record(self.group, RECORDS, k, fields)

    def forget(self, start: int) -> None:
        """Drop the records from panel ``start`` on."""
        groups.drop_records(self.group, RECORDS, start, self.plan.count)

    def write_rows(self, k: int, r0: int, r1: int, values: Matrix) -> bytes:
        """Store rows r0:r1 of panel ``k``.

        Args:
            k: Panel.
            r0: First row, on the chunk grid.
            r1: Past the last row, at most one chunk further.
            values: (r1 - r0, width of the panel) float64, zero above the diagonal.

        Returns:
            sha256 of the rows' bytes.
        """
        first, past = self.plan.columns(k)
        past = min(past, r1)  # chunks above the diagonal are never written
        where = (slice(r0, r1), slice(first, past))
        self._lower.write(f"panel {k}", where, values[:, : past - first])
        return _sha256(values)

    def rows(self, k: int, r0: int, r1: int) -> Matrix:
        """Read rows r0:r1 of panel ``k``, below its diagonal block.

        Returns:
            (r1 - r0, width of the panel) float64; may be shared: do not write to it.

        Raises:
            StoreError: A chunk is damaged or missing.
        """
        first, past = self.plan.columns(k)
        if k in self._kept:
            return self._kept[k][r0 - first : r1 - first]
        return self._read(k, r0, r1, first, past)

    def diagonal(self, k: int) -> Matrix:
        """Read the diagonal block of panel ``k``, zero above the diagonal.

        Raises:
            StoreError: A chunk is damaged or missing.
        """
        first, past = self.plan.columns(k)
        if k in self._kept:
            return self._kept[k][: past - first]
        out = np.zeros((past - first, past - first))
        self._fill_diagonal(k, out)
        return out

    def strips(self, k: int) -> Iterator[tuple[int, int]]:
        """Yield the row ranges below panel ``k``'s diagonal in which to read it."""
        first, past = self.plan.columns(k)
        height = self.plan.n
        if k not in self._kept:
            blocks = max(1, _STRIP_BYTES // (ITEM * self.plan.block * (past - first)))
            height = blocks * self.plan.block
        for r0 in range(past, self.plan.n, height):
            yield r0, min(r0 + height, self.plan.n)

    def hold(self, k: int) -> None:
        """Keep panel ``k`` in memory from now on, where the factor fits there."""
        if not self.keep or k in self._kept:
            return
        first, past = self.plan.columns(k)
        panel = np.zeros((self.plan.n - first, past - first))
        self._fill_diagonal(k, panel)
        for r0, r1 in self.strips(k):
            panel[r0 - first : r1 - first] = self.rows(k, r0, r1)
        self._kept[k] = panel

    def release(self) -> None:
        """Give back the memory of the panels kept."""
        self._kept.clear()

    def kept_bytes(self) -> int:
        """Return the bytes all panels take in memory."""
        cuts = [self.plan.columns(k) for k in range(self.plan.count)]
        return sum(ITEM * (self.plan.n - first) * (past - first) for first, past in cuts)

    def digest(self, k: int) -> str:
        """Return the sha256 of panel ``k`` as stored now; see :func:`panel_digest`."""
        first, past = self.plan.columns(k)
        diagonal = self.diagonal(k)
        parts = [
            _sha256(diagonal[r0 - first : r1 - first]) for r0, r1 in self.plan.blocks(first, past)
        ]
        for r0, r1 in self.plan.blocks(past, self.plan.n):
            parts.append(_sha256(self.rows(k, r0, r1)))
        return panel_digest(parts)

    def damaged(self, k: int, key: str, reason: str) -> StoreError:
        """Build the error for a part of panel ``k`` that cannot be trusted."""
        return self._lower.damaged(f"panel {k}", groups.record_name(RECORDS, k), key, reason)

    def _fill_diagonal(self, k: int, out: Matrix) -> None:
        first, past = self.plan.columns(k)
        for r0, r1 in self.plan.blocks(first, past):
            out[r0 - first : r1 - first, : r1 - first] = self._read(k, r0, r1, first, r1)

    def _read(self, k: int, r0: int, r1: int, c0: int, c1: int) -> Matrix:
        where = (slice(r0, r1), slice(c0, c1))
        values = self._lower.read(f"panel {k}", groups.record_name(RECORDS, k), where)
        block = self.plan.block
        corners = values[::block, ::block]
        if np.isnan(corners).any():
            i, j = (int(v) for v in np.argwhere(np.isnan(corners))[0])
            key = self._lower.key(r0 // block + i, c0 // block + j)
            raise self.damaged(k, key, "is missing")
        return values


def panel_digest(parts: list[bytes]) -> str:
    """Return the sha256 (hex) over the sha256 of a panel's row blocks, top to bottom.

    Two levels, so that the tasks that compute the row blocks hash them too.
    """
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _sha256(values: Matrix) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values).data).digest()
