"""A symmetric matrix, read through its upper triangle, and products with it, tile by tile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_matrix, check_whole
from ntkdist.errors import NtkdistError
from ntkdist.linalg.blas import ITEM, Matrix, Vector, blas_threads
from ntkdist.linalg.status import LinalgStatus, check_indices, not_finite
from ntkdist.linalg.tasks import Runner, constant, side_by_side, task

#: Largest |A_ij - A_ji|, relative to the largest entry of the piece, that rounding explains.
ASYMMETRY = 1e-5
#: Bytes of the float64 rows of a band.
BAND_BYTES = 64 * 2**20
#: Row ranges of the survey: enough to spread, few enough that their sums stay small.
_SURVEY_PARTS = 64
_LARGEST_PIECE = 2048
_MIRROR_EDGE = 64
#: Rows of a tile where the matrix has no chunks of its own.
_STEP = 1024
#: Most parts of a pass: enough to spread over a cluster's workers.
_MOST_PARTS = 64
#: Rows of a tile that are widened to float64 at a time, to stay in cache.
_SLAB = 256
#: Share of the memory limit for the results of the parts.
_RESULTS_SHARE = 0.25
#: Share of the memory limit for the matrix: a triangle that fits is read once.
_KEPT_SHARE = 0.5


class Source:
    """A symmetric matrix known by its upper triangle.

    Not a dataclass: Dask would compute a Dask array that it finds inside one.

    Args:
        array: NumPy, Dask or Zarr array (N, N), or anything with ``.shape``, ``.dtype`` and
            two-dimensional basic slicing.

    Raises:
        InputError: It is not square, empty, or not real.
    """

    def __init__(self, array: Any) -> None:
        try:
            shape = tuple(getattr(array, "shape", ()))
        except TypeError:
            shape = ()
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
            raise LinalgStatus.NOT_SQUARE.error(shape=shape)
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
        """Read rows r0:r1 and columns c0:c1 as float64 (may be a view: do not write to it)."""
        return np.asarray(self.raw(r0, r1, c0, c1), dtype=np.float64)

    def raw(self, r0: int, r1: int, c0: int, c1: int) -> NDArray[Any]:
        """Read like :meth:`block`, in the array's own dtype."""
        return read_region(self._array, r0, r1, c0, c1)

    def mirror(self, r0: int, r1: int, c0: int, c1: int) -> Matrix | None:
        """Read the entries below the diagonal, A[c0:c1, r0:r1]ᵀ, as float64.

        None where the array stores nothing there (a symmetric store returns its upper triangle) or
        is lazy.
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
        """Write the lower triangle of a diagonal block (w, w), mirrored from the upper one.

        The block begins at row ``first`` of the matrix; its strictly upper triangle is not changed.
        ``step`` is the edge of the pieces read at a time, at least that of the array's chunks.
        """
        w = out.shape[0]
        step = max(step, min(self.edge, _LARGEST_PIECE))  # each chunk is decoded only once

        def fill(corner: tuple[int, int]) -> None:
            (r, c), rows, cols = corner, min(corner[0] + step, w), min(corner[1] + step, w)
            piece = self.block(first + r, first + rows, first + c, first + cols).T
            out[c:cols, r:rows] = np.tril(piece) if c == r else piece

        side_by_side(fill, [(r, c) for r in range(0, w, step) for c in range(r, w, step)])

    def fingerprint(self) -> str:
        """Return a hash of shape, dtype, diagonal, first row and last column.

        A sample, so that a resume need not read the whole matrix: it detects another matrix, not
        every changed entry. Callers that can identify the matrix pass their own fingerprint.
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
    """Return an array's dtype, if it is of real numbers."""
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "fiu":
        raise LinalgStatus.NOT_REAL.error(dtype=dtype)
    return dtype


def read_region(array: Any, r0: int, r1: int, c0: int, c1: int) -> NDArray[Any]:
    """Read rows r0:r1 and columns c0:c1 of anything with basic slicing."""
    try:
        part = array[r0:r1, c0:c1]
        if hasattr(part, "__dask_graph__"):
            # this already runs in a task: a nested pool would multiply threads and memory
            part = part.compute(scheduler="synchronous")
        return np.asarray(part)
    except NtkdistError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise LinalgStatus.UNREADABLE.error(
            rows=f"{r0}:{r1}", cols=f"{c0}:{c1}", reason=f"{type(error).__name__}: {error}"
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
    """A source that keeps the pieces it has read in this process; a pickled copy reads again.

    The upper triangle must fit in memory.
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
    """Result of one pass over some rows of the upper triangle.

    Args:
        start: First of the rows.
        diagonal: Diagonal entries of the rows.
        sums: (N - start,) sums of |entry| off the diagonal: by column, and by row for these
            rows, so that all parts together give every column's sum of the full matrix.
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
    """Check the upper triangle's rows r0:r1, and take their diagonal and sums of magnitudes.

    Entries that an array in memory or a Zarr array stores below the diagonal (neither NaN nor
    zero) must equal those above. The result ends with the strip of ``block`` rows that has the
    first wrong entry.
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
            # the first piece ends at the diagonal, later ones are wider
            cols = rows if c == r else min(c + 4 * height, n)
            piece = source.block(r, rows, c, cols)
            if c == r:
                diagonal[r - r0 : rows - r0] = np.diagonal(piece)
                magnitude = np.abs(np.triu(piece, 1))
                mirror: Matrix | None = piece.T
            else:
                magnitude = np.abs(piece)
                mirror = source.mirror(r, rows, c, cols)
            with np.errstate(over="ignore"):  # an infinite sum is examined below
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


def not_finite_in(source: Source, block: int) -> Exception:
    """Return the error for a matrix whose product or factor is not finite; names the entry."""
    for r0, r1 in survey_ranges(source.n, source.edge, block):
        bad = survey_rows(source, r0, r1, block).bad
        if bad is not None:
            return not_finite(bad)
    return LinalgStatus.OVERFLOW.error()


def first_skew(
    piece: Matrix, mirror: Matrix, row: int, col: int
) -> tuple[int, int, float, float] | None:
    """Return (row, column, value, mirror value) of the first entry unlike its mirror image.

    ``piece`` (m, n) begins at (row, col) of the matrix, on or above the diagonal; ``mirror``
    (m, n) has the stored entries below the diagonal. None if all are equal up to rounding.
    """
    if row == col:
        piece, mirror = np.triu(piece, 1), np.triu(mirror, 1)
    # an array reads as NaN or zero where nothing was stored
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
    entries = [entry for entry in (one, other) if entry is not None]
    return min(entries, key=lambda entry: entry[:2]) if entries else None


def submatrix(matrix: Any, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float64]:
    """Return matrix[rows][:, columns] in float64, read in bands where it is not in memory.

    Args:
        matrix: (M, N), NumPy or anything that can be sliced by rows.
        rows: (m,) indices.
        columns: (n,) indices.

    Returns:
        (m, n) float64.

    Raises:
        InputError: There is no such matrix, row or column.
    """
    matrix = check_matrix("matrix", matrix)
    M, N = (int(edge) for edge in matrix.shape)
    rows, columns = check_indices(rows, M), check_indices(columns, N)
    if isinstance(matrix, np.ndarray):
        return np.array(matrix[np.ix_(rows, columns)], dtype=np.float64)
    out = np.empty((len(rows), len(columns)))
    for band in bands(M, N):
        inside = np.flatnonzero((rows >= band.start) & (rows < band.stop))
        if inside.size:
            out[inside] = np.asarray(matrix[band, :])[rows[inside] - band.start][:, columns]
    return out


def bands(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices of rows, each of at most ``BAND_BYTES`` in float64 but of one row at least."""
    rows = check_whole("rows", rows, 0, "give the rows of a matrix")
    columns = check_whole("columns", columns, 1, "give the columns of a matrix")
    step = max(1, BAND_BYTES // (ITEM * columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


class SymmetricOperator:
    """X -> A X, or (C A C) X with C = I - 11ᵀ/N, in one pass over A's upper triangle.

    The parts of a pass depend on N, the width of X and the memory limit alone, and their results
    are added in one order, so that a product has the same bits under every scheduler and on any
    number of workers.

    Args:
        source: The matrix A, (N, N).
        run: Computes Delayed objects (from ``task_runner``).
        memory_limit: Bytes held at a time, without A itself.
        centered: Whether to centre A (rows and columns of mean zero).

    Attributes:
        n: N.
        passes: How many times the matrix was read.
    """

    def __init__(
        self,
        source: Source,
        run: Runner,
        *,
        memory_limit: int,
        centered: bool = False,
    ) -> None:
        self.n = source.n
        self.passes = 0
        self._step = max(1, _STEP // source.edge) * source.edge
        kept = source.n * (source.n + self._step) // 2 * source.dtype.itemsize
        self._source = KeptSource(source) if kept <= _KEPT_SHARE * memory_limit else source
        self._run, self._centered = run, centered
        self._limit = memory_limit - kept if self._source is not source else memory_limit

    def __call__(self, x: NDArray[np.float64]) -> Matrix:
        """Multiply.

        Args:
            x: (N,) or (N, K) float64.

        Returns:
            The product, of x's shape.

        Raises:
            InputError: The matrix has an entry that is not finite; names the first.
            StoreError: The matrix cannot be read.
        """
        given = x
        x = np.ascontiguousarray(x.reshape(self.n, -1))
        if self._centered:
            x = x - x.mean(axis=0)
        y = self._multiply(x)
        if self._centered:
            y -= y.mean(axis=0)
        return y.reshape(given.shape)

    def mean_of_sums(self) -> float:
        """Return 1ᵀA1/N of A itself, one pass."""
        return float(self._multiply(np.ones((self.n, 1))).mean())

    def _multiply(self, x: Matrix) -> Matrix:
        matrix, right, multiply = constant(self._source), constant(x), task(multiply_rows)
        width = max(1, x.shape[1])
        parts = self._parts(width)
        tasks = [multiply(matrix, right, r0, r1, self._step) for r0, r1 in parts]
        y = np.zeros_like(x)
        each = ITEM * (self.n * width + _SLAB * self._step + self._step**2)
        at_once = max(1, self._limit // each)
        batch = max(at_once, int(_RESULTS_SHARE * self._limit) // (ITEM * self.n * width))
        for start in range(0, len(tasks), batch):  # one batch of results at a time is in memory
            results = self._run(tasks[start : start + batch], at_once)
            for (r0, _), part in zip(parts[start : start + batch], results, strict=True):
                y[r0:] += part
        self.passes += 1
        if not np.isfinite(y).all():
            raise not_finite_in(self._source, self._step)
        return y

    def _parts(self, k: int) -> list[tuple[int, int]]:
        """Cut the rows into parts with about equal shares of the upper triangle."""
        steps = -(-self.n // self._step)
        fitting = int(_RESULTS_SHARE * self._limit) // (ITEM * self.n * k)
        wanted = max(1, min(steps, _MOST_PARTS, max(fitting, 4)))
        # the rows from r on hold the share (1 - r/n)² of the upper triangle
        cuts = [1 - (1 - part / wanted) ** 0.5 for part in range(wanted + 1)]
        edges = sorted({min(round(cut * steps), steps) * self._step for cut in cuts})
        return [(r0, min(r1, self.n)) for r0, r1 in pairwise(edges) if r0 < self.n]


def multiply_rows(source: Source, x: Matrix, r0: int, r1: int, step: int) -> Matrix:
    """Multiply x (N, K) with rows r0:r1 of the upper triangle and with their mirror image.

    Returns the share of these entries in the product's rows from r0 on, (N - r0, K) float64.
    Pieces of ``step`` rows and columns are read at a time.
    """
    n = source.n
    out = np.zeros((n - r0, x.shape[1]))
    wide = np.empty((min(_SLAB, step), min(step, n)))
    with blas_threads(1):
        for r in range(r0, r1, step):
            rows = min(r + step, r1)
            for c in range(r, n, step):
                cols = min(c + step, n)
                piece = source.raw(r, rows, c, cols)
                if c == r:
                    piece = mirrored(piece)
                for s in range(r, rows, _SLAB):
                    past = min(s + _SLAB, rows)
                    slab = wide[: past - s, : cols - c]
                    slab[...] = piece[s - r : past - r]
                    out[s - r0 : past - r0] += slab @ x[c:cols]
                    if c > r:
                        out[c - r0 : cols - r0] += slab.T @ x[s:past]
    return out
