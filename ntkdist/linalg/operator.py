"""Products with a symmetric matrix that lives on disk, streamed tile by tile through Dask."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ntkdist.linalg.panels import ITEM
from ntkdist.linalg.tasks import Runner, blas_threads
from ntkdist.linalg.matrix import KeptSource, Matrix, Source, mirrored, spoiled

#: Rows of a tile where the matrix has no chunks of its own.
_STEP = 1024
#: Parts of a pass: enough to spread over a cluster's workers.
_MOST_PARTS = 64
#: Rows of a tile that are widened to float64 at a time, to stay in cache.
_SLAB = 256
#: Share of the memory limit for the parts' results.
_SHARE = 0.25
#: Share of it for the matrix: where its upper triangle fits, it is read once.
_KEPT_SHARE = 0.5


class SymmetricOperator:
    """X -> A X, or (C A C) X with C = I - 11ᵀ/N, one pass over A's upper triangle.

    A pass is cut into parts by N, the width of X and the memory limit alone, and the parts'
    results are added in one order, so that a product has the same bits under every scheduler and
    on any number of workers.

    Args:
        source: The matrix A, (N, N).
        run: Computes Delayed objects (from ``task_runner``).
        memory_limit: Bytes for what is held at a time, A itself not counted.
        centered: Whether A is centred (rows and columns of mean zero).

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
        from dask import delayed

        matrix = delayed(self._source, pure=False, traverse=False)
        right = delayed(x, pure=False, traverse=False)
        multiply = delayed(multiply_rows, pure=False)
        width = max(1, x.shape[1])
        parts = self._parts(width)
        tasks = [multiply(matrix, right, r0, r1, self._step) for r0, r1 in parts]
        y = np.zeros_like(x)
        # the results of one lot at a time are held
        each = ITEM * (self.n * width + _SLAB * self._step + self._step**2)
        at_once = max(1, self._limit // each)
        lot = max(at_once, int(_SHARE * self._limit) // (ITEM * self.n * width))
        for start in range(0, len(tasks), lot):
            found = self._run(tasks[start : start + lot], at_once)
            for (r0, _), part in zip(parts[start : start + lot], found, strict=True):
                y[r0:] += part
        self.passes += 1
        if not np.isfinite(y).all():
            raise spoiled(self._source, self._step)
        return y

    def _parts(self, k: int) -> list[tuple[int, int]]:
        """Cut the rows into parts with about equal shares of the upper triangle."""
        steps = -(-self.n // self._step)
        room = int(_SHARE * self._limit) // (ITEM * self.n * k)
        wanted = max(1, min(steps, _MOST_PARTS, max(room, 4)))
        # rows r: of the upper triangle hold (1 - r/n)² of it
        cuts = [1 - (1 - part / wanted) ** 0.5 for part in range(wanted + 1)]
        edges = sorted({min(round(cut * steps), steps) * self._step for cut in cuts})
        return [(r0, min(r1, self.n)) for r0, r1 in pairwise(edges) if r0 < self.n]


def multiply_rows(source: Source, x: Matrix, r0: int, r1: int, step: int) -> Matrix:
    """Multiply with rows r0:r1 of the upper triangle and with their mirror image.

    Args:
        source: The matrix.
        x: (N, K) float64.
        r0: First row.
        r1: Past the last row.
        step: Edge of the pieces read at a time.

    Returns:
        (N - r0, K) float64, what these entries add to the product's rows from r0 on.
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
