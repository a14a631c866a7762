"""The matrix being factored, read through its upper triangle alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, NtkdistError, StoreError
from ntkdist.linalg.status import Outcome, not_finite
from ntkdist.linalg.tasks import side_by_side

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

#: Largest |A_ij - A_ji|, relative to the largest entry around, that rounding explains.
ASYMMETRY = 1e-5
#: Row ranges of the survey: enough to spread, few enough that their sums stay small.
_SURVEY_PARTS = 64
_LARGEST_PIECE = 2048
_MIRROR_EDGE = 64


class Source:
    """A symmetric matrix known by its upper triangle.

    Not a dataclass: Dask would look inside one and compute a Dask array it finds there.

    Args:
        array: NumPy, Dask or Zarr array (N, N), or anything with ``.shape``, ``.dtype`` and
            two-dimensional basic slicing.

    Raises:
        InputError: It is not square, empty, or not real.
    """

    def __init__(self, array: Any) -> None:
        shape = tuple(getattr(array, "shape", ()))
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
            raise InputError(Outcome.NOT_SQUARE.message(shape=shape))
        self.n = int(shape[0])
        self.dtype = real_dtype(array)
        self._array = array

    @property
    def edge(self) -> int:
        """Edge of the array's own chunks (1 where it has none), for aligned reads."""
        chunks = getattr(self._array, "chunks", None)
        if not (isinstance(chunks, (tuple, list)) and chunks):
            return 1
        return int(chunks[0][0] if isinstance(chunks[0], (tuple, list)) else chunks[0])

    def block(self, r0: int, r1: int, c0: int, c1: int) -> Matrix:
        """Read rows r0:r1 and columns c0:c1 as float64 (may be a view: do not write to it).

        Raises:
            StoreError: The array could not be read there.
        """
        return np.asarray(self.raw(r0, r1, c0, c1), dtype=np.float64)

    def raw(self, r0: int, r1: int, c0: int, c1: int) -> NDArray[Any]:
        """Read like :meth:`block`, in the array's own dtype."""
        return read_region(self._array, r0, r1, c0, c1)

    def mirror(self, r0: int, r1: int, c0: int, c1: int) -> Matrix | None:
        """Read what lies below the diagonal, mirrored: A[c0:c1, r0:r1]ᵀ.

        Returns:
            (r1 - r0, c1 - c0) float64; None where the array has nothing of its own there (a
            symmetric store answers with its upper triangle) or is lazy.
        """
        import zarr

        if not isinstance(self._array, (np.ndarray, zarr.Array)):
            return None
        return self.block(c0, c1, r0, r1).T

    def diagonal(self) -> Vector:
        """Read the diagonal, (N,) float64."""
        step = self.edge if self.edge > 1 else 256
        parts = [
            np.diagonal(self.block(r, min(r + step, self.n), r, min(r + step, self.n)))
            for r in range(0, self.n, step)
        ]
        return np.concatenate(parts)

    def fill_lower(self, out: Matrix, first: int, step: int) -> None:
        """Write the lower triangle of a diagonal block, mirrored from the upper one.

        Args:
            out: (w, w) float64; the strictly upper triangle is left as it is.
            first: Row of the matrix where the block begins.
            step: Edge of the pieces read at a time (more where the array's chunks are larger).
        """
        w = out.shape[0]
        step = max(step, min(self.edge, _LARGEST_PIECE))  # a chunk is decoded once, not often

        def fill(corner: tuple[int, int]) -> None:
            (r, c), rows, cols = corner, min(corner[0] + step, w), min(corner[1] + step, w)
            piece = self.block(first + r, first + rows, first + c, first + cols).T
            out[c:cols, r:rows] = np.tril(piece) if c == r else piece

        side_by_side(fill, [(r, c) for r in range(0, w, step) for c in range(r, w, step)])

    def fingerprint(self) -> str:
        """Hash of shape, dtype, diagonal, first row and last column.

        A sample, so that a resume need not read the whole matrix: it notices another matrix,
        not a single changed entry. Callers who know better pass their own.
        """
        step = self.edge if self.edge > 1 else 256

        def sample(r: int) -> bytes:
            rows = min(r + step, self.n)
            return b"".join(
                (
                    np.diagonal(self.block(r, rows, r, rows)).tobytes(),
                    self.block(0, 1, r, rows).tobytes(),
                    self.block(r, rows, self.n - 1, self.n).tobytes(),
                )
            )

        digest = hashlib.sha256(f"{self.n} {self.dtype.str}".encode())
        for part in side_by_side(sample, list(range(0, self.n, step))):
            digest.update(part)
        return f"sample-sha256:{digest.hexdigest()}"


def real_dtype(array: Any) -> np.dtype[Any]:
    """Return an array's dtype.

    Raises:
        InputError: It is not of real numbers.
    """
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "fiu":
        raise InputError(Outcome.NOT_REAL.message(dtype=dtype))
    return dtype


def read_region(array: Any, r0: int, r1: int, c0: int, c1: int) -> NDArray[Any]:
    """Read rows r0:r1 and columns c0:c1 of anything with basic slicing.

    Raises:
        StoreError: The array could not be read there.
    """
    try:
        part = array[r0:r1, c0:c1]
        if hasattr(part, "__dask_graph__"):
            # inside a task already: a nested pool would multiply threads and memory
            part = part.compute(scheduler="synchronous")
        return np.asarray(part)
    except NtkdistError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise StoreError(
            Outcome.UNREADABLE.message(
                rows=f"{r0}:{r1}", cols=f"{c0}:{c1}", reason=f"{type(error).__name__}: {error}"
            )
        ) from error


def mirrored(piece: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of a diagonal block with its upper triangle mirrored below.

    Block by block: ``np.triu`` on the whole would take longer than a product with it.
    """
    out = piece.copy()
    for s in range(0, len(out), _MIRROR_EDGE):
        e = min(s + _MIRROR_EDGE, len(out))
        square = out[s:e, s:e]
        square[...] = np.triu(square) + np.triu(square, 1).T
        out[e:, s:e] = out[s:e, e:].T
    return out


class KeptSource(Source):
    """A source that keeps what it read, in this process; elsewhere it reads anew.

    Args:
        source: The matrix; its upper triangle has to fit the memory.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source._array)
        self._kept: dict[tuple[int, int, int, int], NDArray[Any]] | None = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def raw(self, r0: int, r1: int, c0: int, c1: int) -> NDArray[Any]:
        """Return rows r0:r1 and columns c0:c1, read once."""
        if self._kept is None or isinstance(self._array, np.ndarray):
            return super().raw(r0, r1, c0, c1)
        piece = self._kept.get((r0, r1, c0, c1))
        if piece is None:
            piece = self._kept[r0, r1, c0, c1] = super().raw(r0, r1, c0, c1)
        return piece


@dataclass(frozen=True)
class Survey:
    """What one pass over the upper triangle finds.

    Args:
        start: First row looked at.
        diagonal: Diagonal entries of the rows looked at.
        sums: (N - start,) sums of |entry| off the diagonal: by column, and by row for the rows
            looked at, so that all parts together give every column's sum of the full matrix.
        bad: (row, column, value) of the first entry that is not finite, row by row; or None.
        skew: (row, column, value, value of its mirror image) where the two differ; or None.
    """

    start: int
    diagonal: Vector
    sums: Vector
    bad: tuple[int, int, float] | None = None
    skew: tuple[int, int, float, float] | None = None


def survey_ranges(n: int, edge: int, block: int) -> list[tuple[int, int]]:
    """Return the row ranges to survey, aligned with the source's chunks."""
    step = max(-(-n // _SURVEY_PARTS), min(block, n))
    step = -(-step // edge) * edge
    return [(r, min(r + step, n)) for r in range(0, n, step)]


def survey_rows(source: Source, r0: int, r1: int, block: int) -> Survey:
    """Look at the upper triangle's rows r0:r1: diagonal, sums of magnitudes, what is wrong.

    What an array in memory or a Zarr array has below the diagonal (neither NaN nor zero) must
    mirror what is above.

    Args:
        source: The matrix.
        r0: First row.
        r1: Past the last row.
        block: Rows read at a time (rounded to the source's chunks).

    Returns:
        What was found; it stops at the strip with the first entry that is wrong.
    """
    n, edge = source.n, source.edge
    height = max(1, block // edge) * edge
    sums = np.zeros(n - r0)
    diagonal = np.empty(r1 - r0)
    for r in range(r0, r1, height):
        rows = min(r + height, r1)
        bad: tuple[int, int, float] | None = None
        skew: tuple[int, int, float, float] | None = None
        c = r
        while c < n:
            # the first piece ends with the diagonal, later ones are wider
            cols = rows if c == r else min(c + 4 * height, n)
            piece = source.block(r, rows, c, cols)
            if c == r:
                diagonal[r - r0 : rows - r0] = np.diagonal(piece)
                magnitude = np.abs(np.triu(piece, 1))
                mirror: Matrix | None = piece.T
            else:
                magnitude = np.abs(piece)
                mirror = source.mirror(r, rows, c, cols)
            with np.errstate(over="ignore"):  # an infinite sum is looked into below
                sums[c - r0 : cols - r0] += magnitude.sum(axis=0)
                by_row = magnitude.sum(axis=1)
                sums[r - r0 : rows - r0] += by_row
            if not (np.isfinite(by_row).all() and (c > r or np.isfinite(np.diagonal(piece)).all())):
                bad = _earliest(bad, _first_bad(piece, r, c))
            elif skew is None and mirror is not None:
                skew = first_skew(piece, mirror, r, c)
            c = cols
        if bad is not None or skew is not None:
            return Survey(r0, diagonal, sums, bad, skew)
    return Survey(r0, diagonal, sums)


def spoiled(source: Source, block: int) -> InputError:
    """Build the error for a matrix that made a result infinite or NaN: looks for the entry.

    Args:
        source: The matrix.
        block: Rows read at a time.
    """
    for r0, r1 in survey_ranges(source.n, source.edge, block):
        bad = survey_rows(source, r0, r1, block).bad
        if bad is not None:
            return not_finite(bad)
    return InputError(Outcome.OVERFLOW.message())


def first_skew(
    piece: Matrix, mirror: Matrix, row: int, col: int
) -> tuple[int, int, float, float] | None:
    """Compare a piece above the diagonal with what lies below, where there is something.

    Args:
        piece: (m, n) float64, rows ``row``.. and columns ``col``.. of the matrix.
        mirror: (m, n) float64, what is stored for it below the diagonal.
        row: First row.
        col: First column; equal to ``row`` for a piece on the diagonal.

    Returns:
        (row, column, value, value of its mirror image) of the first entry that differs, or None.
    """
    if row == col:
        piece, mirror = np.triu(piece, 1), np.triu(mirror, 1)
    # NaN and zero are what an array has where nothing was stored
    wrong = (np.abs(piece - mirror) > ASYMMETRY * np.abs(piece).max()) & (mirror != 0)
    if not wrong.any():
        return None
    i, j = (int(v) for v in np.unravel_index(np.argmax(wrong), wrong.shape))
    return row + i, col + j, float(piece[i, j]), float(mirror[i, j])


def _first_bad(piece: Matrix, row: int, col: int) -> tuple[int, int, float] | None:
    upper = ~np.isfinite(np.triu(piece) if row == col else piece)
    where = np.argwhere(upper)
    if not len(where):
        return None  # finite entries whose sum overflows
    i, j = (int(v) for v in where[0])
    return row + i, col + j, float(piece[i, j])


def _earliest(
    one: tuple[int, int, float] | None, other: tuple[int, int, float] | None
) -> tuple[int, int, float] | None:
    found = [entry for entry in (one, other) if entry is not None]
    return min(found, key=lambda entry: entry[:2]) if found else None
