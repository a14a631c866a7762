"""Whether a stored kernel matrix is what it says: every tile read, some computed again.

Three things can be wrong with a tile: its bytes (its checksum fails, or it cannot be read), its
place (it is whole, and another tile's or another run's), or its origin (it was wrong when it was
stored). Digests kept when tiles were stored find the second. A tile without one (stored right
before a kill) is probed: a few of its entries are computed again. The third is looked for by
computing whole tiles again, and single entries by the float64 reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ntkdist import storage
from ntkdist.errors import InputError, NtkdistError, StoreError
from ntkdist.events.types import TilesVerified
from ntkdist.gram.digests import read_digests, tile_digest
from ntkdist.gram.job import GramJob
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.gram.worker import TileWorker
from ntkdist.networks.architecture import Architecture
from ntkdist.words import counted

REFERENCE_BOUND = {"float32": 2e-5, "float64": 1e-9}
"""Largest relative error of an entry against the float64 reference that is let pass."""

_READERS = 4
_PSD_IMAGES = 256


@dataclass(frozen=True)
class BadTile:
    """A tile that cannot be trusted.

    Attributes:
        key: Which.
        reason: Why, in a few words.
    """

    key: TileKey
    reason: str


@dataclass(frozen=True)
class GramCheck:
    """What was found out about one stored matrix.

    Attributes:
        kind: Of kernel.
        address: Where it is.
        tiles: Tiles it has in all.
        missing: Tiles that are not there.
        bad: Tiles that cannot be trusted.
        stale: The fingerprint in its metadata, if it is not the one it should have.
        probed: Tiles without a digest, of which single entries were computed again.
        recomputed: Tiles computed again as a whole, with the same bits.
        entries: Entries compared with the float64 reference.
        reference_error: Largest relative error of these.
        least_eigenvalue: Of a principal submatrix, relative to its largest; None where there
            is none to look at.
        notes: What could not be checked here, and why.
        dtype: Of the entries.
    """

    kind: str
    address: str
    tiles: int
    missing: tuple[TileKey, ...] = ()
    bad: tuple[BadTile, ...] = ()
    stale: str | None = None
    probed: int = 0
    recomputed: int = 0
    entries: int = 0
    reference_error: float = 0.0
    least_eigenvalue: float | None = None
    notes: tuple[str, ...] = ()
    dtype: str = "float32"

    @property
    def problems(self) -> list[str]:
        """What is wrong, one line each; empty if nothing is."""
        found = []
        if self.stale is not None:
            found.append(f"its metadata have the fingerprint {self.stale[:12]} of another run")
        if self.missing:
            count = f"{len(self.missing)} of {self.tiles}"
            found.append(f"{count} tiles are missing: {_few(self.missing)}")
        found += [f"tile {tile.key}: {tile.reason}" for tile in self.bad]
        if self.reference_error > REFERENCE_BOUND[self.dtype]:
            found.append(
                f"an entry is {self.reference_error:.1e} from the float64 reference (relative);"
                f" {REFERENCE_BOUND[self.dtype]:g} is let pass"
            )
        if self.least_eigenvalue is not None and self.least_eigenvalue < -_psd_bound(self.dtype):
            found.append(
                f"it is not positive semi-definite: an eigenvalue of a submatrix is"
                f" {self.least_eigenvalue:.1e} of the largest"
            )
        return found


def verify_gram(
    job: GramJob,
    kind: str,
    tiling: Tiling,
    *,
    recompute: int = 4,
    entries: int = 16,
    seed: int = 0,
    on_event: Callable[[Any], None] | None = None,
) -> GramCheck:
    """Check one stored matrix; nothing of it is changed.

    Args:
        job: What it was computed from and where it is.
        kind: Which of the job's kinds.
        tiling: What it must be cut like.
        recompute: How many tiles, drawn at random, are computed again and compared bit by bit.
        entries: How many entries, drawn at random, are compared with the float64 reference.
        seed: Of the draws.
        on_event: Told ``TilesVerified`` now and then.

    Raises:
        InputError: If a newer version wrote the store.
        StoreError: If there is none, it is cut otherwise, or it does not answer.
    """
    check = _Check(job, kind, tiling, np.random.default_rng(seed), on_event or (lambda event: None))
    check.read_all()
    check.recompute(recompute)
    check.compare(entries)
    check.spectrum()
    return check.result()


def restamp(address: str, fingerprint: str) -> None:
    """Write the fingerprint that a matrix should have into its metadata.

    Only after every tile of another run was found out: see ``GramCheck.bad``.
    """
    place = storage.join(address, "zarr.json")
    metadata = json.loads(storage.read_text(place) or "{}")
    metadata["attributes"]["fingerprint"] = fingerprint
    storage.write_text(place, json.dumps(metadata, indent=2))


@dataclass
class _Check:
    job: GramJob
    kind: str
    tiling: Tiling
    random: np.random.Generator
    emit: Callable[[Any], None]
    bad: dict[TileKey, str] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = GramStore.open(dict(self.job.outputs)[self.kind], "r")
        if self.store.tiling != self.tiling:
            raise StoreError(
                f"{self.store.address}: is a matrix of shape {self.store.shape} in tiles of edge"
                f" {self.store.tiling.edge}, not {self.tiling.shape} and {self.tiling.edge}; it"
                " belongs to another run: move it away and compute it again"
            )
        self.stale = self.store.fingerprint != self.job.fingerprint
        self.digests = {} if self.stale else read_digests(self.store.address)
        self.again = Recomputer(self.job, self.kind, self.store)
        self.good: list[TileKey] = []

    def read_all(self) -> None:
        """Read every tile, and compare it with its digest or probe it."""
        done = sorted(self.store.done())
        missing = sorted(set(self.store.tiling.keys()) - set(done))
        unknown: list[TileKey] = []
        with ThreadPoolExecutor(_READERS) as pool:
            for count, (key, reason) in enumerate(pool.map(self._read, done), start=1):
                if reason == "":
                    self.good.append(key)
                elif reason is None:
                    unknown.append(key)
                else:
                    self.bad[key] = reason
                self.emit(TilesVerified(self.kind, count, len(done)))
        probed = 0
        if unknown and self.again.why_not:
            self.notes.append(
                f"not probed, without a digest: {counted(len(unknown), 'tile')};"
                f" {self.again.why_not}"
            )
        elif unknown:
            for key in unknown:
                reason = self.again.probe(key, self.random)
                if reason:
                    self.bad[key] = reason
                else:
                    self.good.append(key)
            probed = len(unknown)
        self.found |= {"missing": tuple(missing), "probed": probed}

    def _read(self, key: TileKey) -> tuple[TileKey, str | None]:
        """Return "" for a tile that is right, a reason for one that is not, None if unknown."""
        try:
            block = self.store.block(key.row, key.col)
        except StoreError as error:
            return key, _reason(error)
        if self.store.tiling.symmetric and key.row == key.col and not (block == block.T).all():
            return key, "it lies on the diagonal and is not symmetric"
        digest = self.digests.get(key)
        if digest is None:
            return key, None
        if tile_digest(self.kind, key, block) != digest:
            return key, "its entries are not those that were stored for it"
        return key, ""

    def recompute(self, count: int) -> None:
        """Compute some tiles again."""
        if self.again.why_not:
            if count:
                self.notes.append(f"no tile was computed again: {self.again.why_not}")
            return
        chosen = self._draw(count)
        for key in chosen:
            reason = self.again.compare(key)
            if reason:
                self.bad[key] = reason
                self.good.remove(key)
        self.found["recomputed"] = sum(key in self.good for key in chosen)

    def _draw(self, count: int) -> list[TileKey]:
        picked = self.random.permutation(len(self.good))[:count]
        return [self.good[i] for i in sorted(picked)]

    def compare(self, count: int) -> None:
        """Compare entries of good tiles with the float64 reference."""
        worst = 0.0
        pairs = []
        for _ in range(count if self.good else 0):
            key = self.good[self.random.integers(len(self.good))]
            rows, cols = self.store.tiling.slices(key)
            i, j = (
                self.random.integers(rows.start, rows.stop),
                self.random.integers(cols.start, cols.stop),
            )
            pairs.append((int(i), int(j)))
        for i, j in pairs:
            worst = max(worst, self.again.reference_error(i, j))
        self.found |= {"entries": len(pairs), "reference_error": worst}

    def spectrum(self) -> None:
        """Take the eigenvalues of a principal submatrix out of a few block rows."""
        tiling = self.store.tiling
        if not tiling.symmetric:
            return
        good = set(self.good)
        drawn = self.random.permutation(tiling.grid[0])[:4].tolist()
        blocks = [block for block in drawn if TileKey(block, block) in good]
        kept: list[int] = []
        for block in blocks:
            if all(TileKey(min(block, b), max(block, b)) in good for b in kept):
                kept.append(block)
        if not kept:
            self.notes.append("no submatrix of good tiles was found to take eigenvalues of")
            return
        edge, images = tiling.edge, []
        for block in kept:
            rows = np.arange(block * edge, min((block + 1) * edge, tiling.n_rows))
            images.append(self.random.permutation(rows)[: _PSD_IMAGES // len(kept)])
        chosen = np.sort(np.concatenate(images))
        values = np.linalg.eigvalsh(self.store[chosen, chosen].astype(np.float64))
        self.found["least_eigenvalue"] = float(values[0] / max(values[-1], np.finfo(float).tiny))

    def result(self) -> GramCheck:
        """Return what was found."""
        return GramCheck(
            kind=self.kind,
            address=self.store.address,
            tiles=self.store.tiling.count,
            bad=tuple(BadTile(key, self.bad[key]) for key in sorted(self.bad)),
            stale=self.store.fingerprint if self.stale else None,
            notes=tuple(self.notes),
            dtype=str(self.store.dtype),
            **self.found,
        )


def _psd_bound(dtype: str) -> float:
    """Return how far below 0 rounding takes an eigenvalue, relative to the largest."""
    return _PSD_IMAGES * float(np.finfo(dtype).eps)


def _reason(error: NtkdistError) -> str:
    """Return what a store says of a tile, without address and remedy."""
    text = " ".join(str(error).split())
    return text.partition("): ")[2].partition("; restore it")[0] or text


def _few(keys: tuple[TileKey, ...]) -> str:
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(map(str, keys[:5])) + more


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
        self._mixed = store.mixed_tiles()
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
        same = self._mixed.get(key, self._store.arithmetic) in ("", self._job.arithmetic)
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
