"""One kernel matrix as a Zarr array whose chunks are the tiles; symmetric on read.

Zarr v3, one chunk a tile, no shards, fill value NaN, Blosc (lz4, bitshuffle) and then
crc32c, so that a torn or flipped chunk is noticed. The driver writes the metadata
once; workers open ``r+`` and write whole tiles. A tile is done when its object is
there and the fingerprint in the metadata is the one asked for.

A checksum inside a tile shows that its bytes are whole, not that they belong to this tile: two
exchanged tiles, or one of an older run, would pass. The driver therefore logs the digest of every
tile that a worker has stored.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ntkdist import storage
from ntkdist.errors import InputError, NtkdistError, StoreError
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.storage import arrays
from ntkdist.storage.append_log import AppendLog, read_lines

_MIXED = "made_by"  # folder of the records of mixed tiles


class NotFiniteError(StoreError):
    """A tile with an entry that is NaN or infinite is never stored."""


class GramStore:
    """A kernel matrix, tile by tile; made by ``GramStore.create`` or ``GramStore.open``.

    Attributes:
        address: Folder or URL of the Zarr array.
        tiling: How the matrix is cut.
        kind: ``ntk`` or ``nngp``.
        fingerprint: Of the inputs the tiles were computed from.
        attributes: Everything in the array's attributes.
    """

    ndim = 2

    def __init__(self, address: str, array: Any, metadata: Metadata) -> None:
        self.address = address
        self._array = array
        self.tiling = metadata.tiling
        self.kind = metadata.kind
        self.fingerprint = metadata.fingerprint
        self.attributes = metadata.attributes

    # -- opening ------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        address: str,
        tiling: Tiling,
        *,
        fingerprint: str,
        kind: str,
        dtype: str = "float32",
        attributes: Mapping[str, Any] | None = None,
    ) -> GramStore:
        """Write the metadata of an empty store (the template the workers fill).

        Args:
            address: Folder or URL; nothing may exist there yet.
            tiling: Shape of the matrix and of its tiles.
            fingerprint: Of everything that determines the entries.
            kind: ``ntk`` or ``nngp``.
            dtype: ``float32`` or ``float64``.
            attributes: More to keep in the array's attributes (JSON).

        Raises:
            InputError: If the address is taken, or cannot be written.
        """
        address = storage.normal(address)
        if cls.exists(address):
            raise InputError(f"{address}: a store exists already; open it, or remove it first")
        everything: dict[str, Any] = {
            **(attributes or {}),
            "schema_version": SCHEMA_VERSION,
            "written_by": f"ntkdist {package_version()}",
            "fingerprint": fingerprint,
            "kind": kind,
            "edge": tiling.edge,
            "symmetric": tiling.symmetric,
        }
        try:
            arrays.create_array(
                address,
                shape=tiling.shape,
                chunks=(tiling.edge, tiling.edge),
                dtype=dtype,
                fill_value=float("nan"),
                attributes=everything,
                config={"write_empty_chunks": False},
                zarr_format=3,
            )
        except OSError as error:
            raise storage.write_error(error, address) from error
        return cls.open(address, "r+", fingerprint)

    @classmethod
    def open(cls, address: str, mode: str = "r", fingerprint: str | None = None) -> GramStore:
        """Open an existing store.

        Args:
            address: Folder or URL.
            mode: ``r`` to read, ``r+`` to write tiles as well.
            fingerprint: The one the tiles must have been computed for; None takes any.

        Raises:
            InputError: If the store was written by a newer version or for another
                fingerprint.
            StoreError: If there is no store, or it is not one of this package.
        """
        import zarr

        address = storage.normal(address)
        if mode not in ("r", "r+"):
            raise InputError(f"mode={mode!r} is not one of r, r+")
        try:
            array = zarr.open_array(storage.zarr_store(address), mode=mode)
        except FileNotFoundError as error:
            raise StoreError(f"{address}: no kernel matrix is stored there") from error
        except PermissionError as error:
            raise storage.write_error(error, address) from error
        except NtkdistError:
            raise
        except Exception as error:
            raise StoreError(f"{address}: cannot be opened as a Zarr array: {error}") from error
        metadata = Metadata.read(address, array)
        if fingerprint is not None and metadata.fingerprint != fingerprint:
            raise InputError(
                f"{address}: fingerprint differs: the stored tiles belong to"
                f" {metadata.fingerprint}, this job is {fingerprint};"
                " take another folder, or the configuration the store was made with"
            )
        # A chunk of fill values (NaN) means a missing tile, so none may be written.
        return cls(address, array.with_config({"write_empty_chunks": False}), metadata)

    @staticmethod
    def exists(address: str) -> bool:
        """Return whether a store's metadata is at this address."""
        return storage.exists(storage.join(address, "zarr.json"))

    def __reduce__(self) -> tuple[Any, ...]:
        mode = "r" if self._array.read_only else "r+"
        return GramStore.open, (self.address, mode, self.fingerprint)

    def __repr__(self) -> str:
        rows, cols = self.shape
        edge = self.tiling.edge
        return f"<GramStore {self.kind} {rows}×{cols} {self.dtype}, edge {edge}, {self.address}>"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the whole matrix."""
        return self.tiling.shape

    @property
    def chunks(self) -> tuple[int, int]:
        """Rows and columns of a tile, under the name that arrays have for it."""
        return self.tiling.edge, self.tiling.edge

    @property
    def dtype(self) -> np.dtype:
        """Type of the entries."""
        return np.dtype(self._array.dtype)

    # -- writing ------------------------------------------------------------------

    def write(self, key: TileKey, block: np.ndarray) -> str:
        """Store one finished tile.

        Args:
            key: Which; in the block upper triangle if the matrix is symmetric.
            block: Its entries, of exactly the tile's shape. A diagonal tile's upper
                triangle is mirrored first, so that it is symmetric to the bit.

        Returns:
            The tile's digest, for ``DigestLog``.

        Raises:
            NotFiniteError: If an entry is NaN or infinite; the message names the images.
            StoreError: If the key is not a tile of this store, the shape is not the
                tile's, the store is open for reading only, or the disk is full.
            InputError: If the address cannot be written.
        """
        self._check_key(key)
        expected = self.tiling.tile_shape(key)
        if block.shape != expected:
            raise StoreError(
                f"tile {key} of {self.kind} has shape {expected}, the block written has"
                f" {block.shape}; write whole tiles"
            )
        block = np.ascontiguousarray(block, dtype=self.dtype)
        self._check_finite(key, block)
        if self.tiling.symmetric and key.row == key.col:
            block = np.triu(block) + np.triu(block, 1).T
        try:
            self._array[self.tiling.slices(key)] = block
        except OSError as error:
            raise storage.write_error(error, self.path_of(key)) from error
        except ValueError as error:
            if not self._array.read_only:
                raise
            raise StoreError(f"{self.address}: open for reading only; open it with 'r+'") from error
        return tile_digest(self.kind, key, block)

    def write_at(self, rows: slice, cols: slice, block: np.ndarray) -> None:
        """Store one tile named by the rows and columns it covers.

        Args:
            rows: Rows of the matrix, both ends given.
            cols: Columns of the matrix, both ends given.
            block: The entries.

        Raises:
            StoreError: If the two are not exactly one tile, or ``write`` refuses.
        """
        edge = self.tiling.edge
        key = TileKey((rows.start or 0) // edge, (cols.start or 0) // edge)
        self._check_key(key)
        if (rows, cols) != self.tiling.slices(key):
            r, c = self.tiling.slices(key)
            raise StoreError(
                f"rows {rows.start}:{rows.stop}, columns {cols.start}:{cols.stop} are not one tile"
                f" of {self.kind}; the nearest is {key} = rows {r.start}:{r.stop},"
                f" columns {c.start}:{c.stop} (edge {edge})"
            )
        self.write(key, block)

    def remove(self, key: TileKey) -> None:
        """Remove one tile, so that the next run computes it again.

        Raises:
            StoreError: If the key is not a tile of this store.
        """
        self._check_key(key)
        try:
            storage.remove(self.path_of(key))
            storage.remove(storage.join(self.address, _MIXED, str(key)))
        except OSError as error:
            raise storage.write_error(error, self.path_of(key)) from error

    def _check_finite(self, key: TileKey, block: np.ndarray) -> None:
        bad = ~np.isfinite(block)
        if not bad.any():
            return
        where = ""
        for name, part, whole in zip(
            ("row", "column"),
            self.tiling.slices(key),
            (bad.all(axis=1), bad.all(axis=0)),
            strict=True,
        ):
            images = (np.flatnonzero(whole) + part.start).tolist()
            if 0 < len(images) < len(whole):
                where += f", including every entry of {name} images {images[:8]}"
        raise NotFiniteError(
            f"tile {key} of {self.kind}: {int(bad.sum())} of {bad.size} entries are NaN or"
            f" infinite{where}; check these images and the scale of the inputs"
        )

    def _check_key(self, key: TileKey) -> None:
        if key in self.tiling:
            return
        rows, cols = self.tiling.grid
        if self.tiling.symmetric and 0 <= key.col < key.row < rows:
            raise StoreError(
                f"tile {key} of {self.kind} lies below the diagonal, where nothing is stored;"
                f" use its mirror {TileKey(key.col, key.row)}, transposed"
            )
        raise StoreError(
            f"tile {key} lies outside the grid of {rows}×{cols} tiles of {self.kind};"
            f" the last one is {TileKey(rows - 1, cols - 1)}"
        )

    # -- stored tiles ---------------------------------------------------------------

    def path_of(self, key: TileKey) -> str:
        """Return the address of one tile's object."""
        return storage.join(self.address, "c", str(key.row), str(key.col))

    def done(self) -> set[TileKey]:
        """Return the tiles whose object exists, from one listing of the store."""
        keys = set()
        for name in storage.list_objects(storage.join(self.address, "c")):
            row, _, col = name.partition("/")
            # any other name is the temporary file of a writer that was killed
            if row.isdecimal() and col.isdecimal():
                keys.add(TileKey(int(row), int(col)))
        return {key for key in keys if key in self.tiling}

    def missing(self) -> list[TileKey]:
        """Return the tiles still to compute, row by row."""
        done = self.done()
        return [key for key in self.tiling.keys() if key not in done]  # noqa: SIM118

    @property
    def arithmetic(self) -> str:
        """The arithmetic that the tiles are computed with, as in ``cuda-1``; empty if unknown."""
        return str(self.attributes.get("arithmetic", ""))

    def mixed_tiles(self) -> dict[TileKey, str]:
        """Return the arithmetic of tiles that another backend computed.

        Earlier versions let several backends compute one matrix and wrote a record for each such
        tile. A record whose tile is absent means nothing.
        """
        records = storage.read_all(storage.join(self.address, _MIXED))
        return {
            TileKey.parse(name): content.decode()
            for name, content in records.items()
            if not name.startswith(".")
        }

    def count_by_arithmetic(self) -> dict[str, int]:
        """Return how many stored tiles each arithmetic computed, the most first."""
        done = self.done()
        mixed = [name for key, name in self.mixed_tiles().items() if key in done]
        counts = Counter({self.arithmetic: len(done) - len(mixed)})
        counts.update(mixed)
        return {name: count for name, count in counts.most_common() if count}

    # -- reading ------------------------------------------------------------------

    def block(self, i: int, j: int) -> np.ndarray:
        """Read one tile.

        Args:
            i: Block row.
            j: Block column; left of the diagonal a symmetric store answers with the
                mirror tile, transposed.

        Returns:
            The entries, of the tile's shape.

        Raises:
            StoreError: If the tile is absent, or its checksum or contents are wrong.
            InputError: If it lies outside the grid.
        """
        mirrored = self.tiling.symmetric and i > j
        key = TileKey(j, i) if mirrored else TileKey(i, j)
        where = self.tiling.slices(key)
        try:
            block = np.asarray(self._array[where])
        except FileNotFoundError:
            raise self._missing(key) from None
        except OSError as error:
            raise StoreError(
                f"tile {key} of {self.kind} cannot be read ({self.path_of(key)}): {error}"
            ) from error
        except NtkdistError:
            raise
        except Exception as error:
            raise self._corrupt(key, f"{type(error).__name__}: {error}") from error
        if np.isnan(block).any():
            if not storage.exists(self.path_of(key)):
                raise self._missing(key)
            raise self._corrupt(key, "it holds NaN")
        return block.T if mirrored else block

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read ``store[rows, cols]`` of the whole (symmetric) matrix.

        Integers, slices, boolean masks and index arrays are taken; two arrays select
        the rows and the columns (as ``numpy.ix_`` does), not pairs. Only the tiles
        that are touched are read, one at a time.
        """
        rows, cols = parse_index(index, self.shape)
        out = np.empty((rows.count, cols.count), dtype=self.dtype)
        edge = self.tiling.edge
        for row_part in rows.by_tile(edge):
            for col_part in cols.by_tile(edge):
                block = self.block(row_part.block, col_part.block)
                out[outer(row_part.places, col_part.places)] = block[
                    outer(row_part.inside, col_part.inside)
                ]
        return out[0 if rows.scalar else slice(None), ...][..., 0 if cols.scalar else slice(None)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:, :]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def diagonal(self) -> np.ndarray:
        """Read the diagonal, (N,), from the diagonal tiles alone.

        Raises:
            StoreError: If the matrix is not symmetric, or a tile is absent or corrupt.
        """
        if not self.tiling.symmetric:
            raise StoreError(f"{self.address}: a rectangular matrix has no diagonal")
        blocks = [np.diagonal(self.block(i, i)) for i in range(self.tiling.grid[0])]
        return np.concatenate(blocks)

    def to_dask(self) -> Any:
        """Return the whole (symmetric) matrix as a Dask array, chunk = tile."""
        import dask.array as da
        from dask.base import tokenize

        edge = self.tiling.edge
        name = f"gram-{self.kind}-" + tokenize(self.address, self.fingerprint, self.shape, edge)
        return da.from_array(
            self, chunks=(edge, edge), name=name, lock=False, asarray=False, fancy=False
        )

    def _missing(self, key: TileKey) -> StoreError:
        return StoreError(
            f"tile {key} of {self.kind} is missing ({self.path_of(key)});"
            " compute it with: ntkdist gram RUN"
        )

    def _corrupt(self, key: TileKey, reason: str) -> StoreError:
        return StoreError(
            f"tile {key} of {self.kind} is corrupt ({self.path_of(key)}): {reason};"
            f" restore it with: ntkdist gram RUN --recompute {key}"
        )


SCHEMA_VERSION = 1
"""Version of the layout written here; older code must refuse newer layouts."""


@dataclass(frozen=True)
class Metadata:
    """The attributes of a stored matrix, checked; see ``GramStore``."""

    tiling: Tiling
    kind: str
    fingerprint: str
    attributes: dict[str, Any]

    @classmethod
    def read(cls, address: str, array: Any) -> Metadata:
        """Read and check the attributes of an open Zarr array.

        Raises:
            InputError: If a newer version of the package wrote the store.
            StoreError: If the array is not a store of this package.
        """
        attributes = dict(array.attrs)
        schema = attributes.get("schema_version")
        if not isinstance(schema, int):
            raise StoreError(f"{address}: a Zarr array, but not a kernel matrix of ntkdist")
        if schema > SCHEMA_VERSION:
            writer = attributes.get("written_by", "an unknown version")
            raise InputError(
                f"{address}: schema {schema}, written by {writer}; this is ntkdist"
                f" {package_version()}, which reads up to schema {SCHEMA_VERSION}; upgrade ntkdist"
            )
        try:
            edge, symmetric = int(attributes["edge"]), bool(attributes["symmetric"])
            kind, fingerprint = str(attributes["kind"]), str(attributes["fingerprint"])
            rows, cols = array.shape
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{address}: its attributes are damaged: {error!r}") from error
        if tuple(array.chunks) != (edge, edge) or (symmetric and rows != cols):
            raise StoreError(
                f"{address}: its attributes do not fit: edge {edge}, symmetric {symmetric},"
                f" shape {array.shape}, chunks {array.chunks}"
            )
        return cls(Tiling(rows, edge, None if symmetric else cols), kind, fingerprint, attributes)


def package_version() -> str:
    """Return the installed version of this package, or ``unknown`` outside an installation."""
    try:
        return importlib.metadata.version("ntkdist")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


Places: TypeAlias = "slice | np.ndarray"


@dataclass(frozen=True)
class Part:
    """The positions of one axis inside one tile, and their places in the result."""

    block: int
    inside: Places
    places: Places


@dataclass(frozen=True)
class Selection:
    """What one axis of ``store[rows, cols]`` selects.

    Attributes:
        positions: (m,) row or column numbers of the matrix, in the order asked for.
        scalar: Whether one integer was given, so that the axis falls away.
    """

    positions: np.ndarray
    scalar: bool

    @property
    def count(self) -> int:
        """How many positions there are."""
        return len(self.positions)

    def by_tile(self, edge: int) -> Iterator[Part]:
        """Yield the selection tile by tile."""
        blocks = self.positions // edge
        for block in np.unique(blocks):
            places = np.flatnonzero(blocks == block)
            inside = self.positions[places] - block * edge
            yield Part(int(block), _compact(inside), _compact(places))


def _compact(positions: np.ndarray) -> Places:
    """Return a run of successive positions as a slice, which copies a block at a time."""
    if np.all(np.diff(positions) == 1):
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def outer(rows: Places, cols: Places) -> tuple[Places, Places]:
    """Return an index that selects rows and columns independently."""
    if isinstance(rows, slice) or isinstance(cols, slice):
        return rows, cols
    row_grid, col_grid = np.ix_(rows, cols)
    return row_grid, col_grid


def parse_index(index: Any, shape: tuple[int, int]) -> tuple[Selection, Selection]:
    """Read the index of ``matrix[index]``.

    Args:
        index: One or two of integer, slice, boolean mask, index array, ``...``.
        shape: Of the matrix.

    Raises:
        InputError: If an index is of another kind or lies outside the matrix.
    """
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(slice(None) if part is Ellipsis else part for part in parts)
    if len(parts) > 2:
        raise InputError(f"{len(parts)} indices for a matrix; give rows and columns")
    parts += (slice(None),) * (2 - len(parts))
    return _parse(parts[0], shape[0], "row"), _parse(parts[1], shape[1], "column")


def _parse(part: Any, n: int, name: str) -> Selection:
    if isinstance(part, slice):
        return Selection(np.arange(n)[part], scalar=False)
    array = np.asarray(part)
    if array.dtype == bool:
        if array.shape != (n,):
            raise InputError(f"{name} mask has shape {array.shape}; it must be ({n},)")
        return Selection(np.flatnonzero(array), scalar=False)
    if array.size == 0:
        return Selection(np.zeros(0, dtype=np.intp), scalar=False)
    if array.ndim > 1 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} index {part!r} is no integer, slice, mask or 1-d index array")
    flat = np.atleast_1d(array).astype(np.intp)
    outside = (flat < -n) | (flat >= n)
    if outside.any():
        raise InputError(f"{name} {flat[outside][0]} is outside 0..{n - 1}")
    return Selection(np.where(flat < 0, flat + n, flat), scalar=array.ndim == 0)


_DIGESTS, _GONE = "digests", "gone"


def tile_digest(kind: str, key: TileKey, block: np.ndarray) -> str:
    """Return a digest of a tile's entries and of where they belong."""
    where = f"{kind} {key} {block.dtype.str} {block.shape}"
    digest = hashlib.blake2b(where.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


class DigestLog:
    """Appends the digests of the tiles of one store."""

    def __init__(self, address: str) -> None:
        self._log = AppendLog(address, _DIGESTS)

    def append(self, key: TileKey | str, digest: str) -> None:
        """Log the digest of a stored tile; the last entry of a tile counts."""
        self._log.append(f"{key} {digest}")

    def forget(self, key: TileKey) -> None:
        """Log that a tile was removed; its digest no longer counts."""
        self._log.append(f"{key} {_GONE}")

    def close(self) -> None:
        """Write the entries that are still buffered."""
        self._log.close()


def read_digests(address: str) -> dict[TileKey, str]:
    """Read the digests of a store's tiles; a tile stored right before a kill may have none."""
    digests: dict[TileKey, str] = {}
    for line in read_lines(address, _DIGESTS):
        key, _, digest = line.partition(" ")
        if len(digest) == 32:  # else torn by a kill
            digests[TileKey.parse(key)] = digest
        elif digest == _GONE:
            digests.pop(TileKey.parse(key), None)
    return digests
