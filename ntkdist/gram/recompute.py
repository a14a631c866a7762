"""Tiles and entries of a stored matrix, computed again to compare them with what is there."""

from __future__ import annotations

from typing import Any

import numpy as np

from ntkdist import storage
from ntkdist.errors import InputError, NtkdistError
from ntkdist.gram.job import GramJob
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey
from ntkdist.gram.worker import TileWorker
from ntkdist.networks.architecture import Architecture

_PROBES = 3  # rows and columns of a tile
_ROUNDING = {"float32": 5e-5, "float64": 1e-9}
"""Relative difference of entries that other groups of images, or another backend, may make."""


class Recomputer:
    """Computes parts of one matrix with the backend that made it.

    Args:
        job: What the matrix was computed from.
        kind: Of kernel.
        store: Where it is.

    Attributes:
        why_not: Why the backend cannot be used here; empty if it can.
    """

    def __init__(self, job: GramJob, kind: str, store: GramStore) -> None:
        self._job, self._kind, self._store = job, kind, store
        self._images: dict[str, Any] = {}
        self._reference: Any = None
        self._worker = TileWorker(job, "verify")
        self.why_not = ""
        try:
            self._worker.start_computing()
        except (NtkdistError, ImportError) as error:
            self.why_not = str(error)

    def compare(self, key: TileKey) -> str:
        """Compute a tile again; return what differs, in words, or nothing."""
        block = self._worker.blocks(key)[self._kind]
        if self._store.tiling.symmetric and key.row == key.col:
            block = np.triu(block) + np.triu(block, 1).T
        stored = self._store.block(key.row, key.col)
        same = self._store.made_by(key) in ("", self._job.arithmetic)
        if same and (block == stored).all():
            return ""
        gap = _gap(block, stored)
        if not same and gap <= _ROUNDING[str(self._store.dtype)]:
            return ""
        return f"computed again it differs by {gap:.1e} (relative)"

    def probe(self, key: TileKey, random: np.random.Generator) -> str:
        """Compute a few entries of a tile again; return what differs, in words, or nothing."""
        rows, cols = self._store.tiling.slices(key)
        inside = [
            np.sort(random.permutation(part.stop - part.start)[:_PROBES]) for part in (rows, cols)
        ]
        a = self._take(self._job.images, inside[0] + rows.start)
        b = self._take(self._job.columns or self._job.images, inside[1] + cols.start)
        block = self._worker.block_of(a, b)[self._kind]
        gap = _gap(block, self._store.block(key.row, key.col)[np.ix_(*inside)])
        if gap <= _ROUNDING[str(self._store.dtype)]:
            return ""
        return f"entries computed again differ by {gap:.1e} (relative)"

    def reference_error(self, i: int, j: int) -> float:
        """Return the relative error of a stored entry against the float64 reference."""
        from ntkdist.kernels.registry import get_backend

        if self._reference is None:
            self._reference = get_backend("reference", dtype="float64")
        arch = Architecture.parse(self._job.architecture)
        a = self._reference.prepare(arch, self._take(self._job.images, [i]))
        columns = self._job.columns or self._job.images
        same = columns == self._job.images and i == j
        b = a if same else self._reference.prepare(arch, self._take(columns, [j]))
        exact = float(self._reference.block(a, b, (self._kind,))[self._kind][0, 0])
        edge = self._store.tiling.edge
        stored = self._store.block(i // edge, j // edge)[i % edge, j % edge]
        return abs(float(stored) - exact) / max(abs(exact), np.finfo(np.float64).tiny)

    def _take(self, address: str, indices: Any) -> np.ndarray:
        import zarr

        if address not in self._images:
            self._images[address] = zarr.open_array(storage.zarr_store(address), mode="r")
        images = self._images[address]
        return np.stack([np.asarray(images[int(i)]) for i in indices])


def _gap(block: np.ndarray, stored: np.ndarray) -> float:
    """Return the largest difference relative to the largest entry."""
    if block.shape != stored.shape:
        raise InputError(f"blocks of shape {block.shape} and {stored.shape} are compared")
    scale = max(float(np.abs(block).max()), np.finfo(np.float64).tiny)
    return float(np.abs(block.astype(np.float64) - stored).max()) / scale
