"""Rows appended to a stored factor: a bordered update in O(N²m), not O(N³).

With A = L Lᵀ known, [A Bᵀ; B C] has the factor [L 0; X S] where X = B L⁻ᵀ and S Sᵀ = C − X Xᵀ
(Golub and Van Loan 2013, section 4.2.5). The stored chunks of L do not change.
"""

from __future__ import annotations

import hashlib
import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.events.bus import Subscriber
from ntkdist.events.types import BandDone
from ntkdist.linalg import blas
from ntkdist.linalg.blas import ITEM, Matrix, Vector, blas_threads
from ntkdist.linalg.matrix import Source, first_skew, read_region, real_dtype
from ntkdist.linalg.panels import FactorStore, panel_digest
from ntkdist.linalg.solve import forward
from ntkdist.linalg.status import (
    LinalgStatus,
    NotPositiveDefiniteError,
    check_memory,
    not_finite,
    not_symmetric,
)
from ntkdist.linalg.tasks import Progress, notifier, side_by_side

#: Arrays of a band's size in memory: the rows, one or two strips of the factor, the written copy.
_COPIES = 4


class NewRows:
    """The rows of a larger matrix (``total`` rows) that a factor of n rows does not have yet.

    Given as the larger matrix, of which the upper triangle is used, or as its last rows alone
    (at least the new ones, all columns).
    """

    def __init__(self, rows: Any, n: int) -> None:
        shape = tuple(getattr(rows, "shape", ()))
        if len(shape) != 2 or shape[1] < n or not shape[1] - n <= shape[0] <= shape[1]:
            raise LinalgStatus.BAD_APPENDED_ROWS.error(shape=shape, n=n)
        self.total = int(shape[1])
        self._offset = int(shape[1] - shape[0])
        self._square = Source(rows) if self._offset == 0 else None
        real_dtype(rows)
        self._rows = rows

    def fingerprint(self, before: str) -> str:
        """Return the larger matrix's fingerprint from that of the matrix without these rows."""
        if self._square is not None:
            return self._square.fingerprint()
        digest = hashlib.sha256(before.encode())
        digest.update(np.ascontiguousarray(self._read_rows(self.total - 1, self.total)).tobytes())
        return f"sample-sha256:{digest.hexdigest()}"

    def read(self, r0: int, r1: int) -> tuple[Matrix, Matrix]:
        """Read rows r0:r1 of the larger matrix, up to column r1, and check them.

        Returns new arrays: the transposed columns before the diagonal block, (r0, r1 - r0), and the
        diagonal block, (r1 - r0, r1 - r0).
        """
        above = np.empty((r0, r1 - r0))
        if self._square is not None:
            source = self._square
            step = max(1, 1024 // source.edge) * source.edge

            def copy(c: int) -> None:
                past = min(c + step, r0)
                above[c:past] = source.block(c, past, r0, r1)

            side_by_side(copy, list(range(0, r0, step)))
            square = np.array(source.block(r0, r1, r0, r1))
        else:
            rows = self._read_rows(r0, r1)
            above[...] = rows[:, :r0].T
            square = np.array(rows[:, r0:r1].T, dtype=np.float64, order="C")
        for part, first in ((above, 0), (np.triu(square), r0)):
            if not np.isfinite(part).all():
                i, j = (int(v) for v in np.argwhere(~np.isfinite(part))[0])
                raise not_finite((first + i, r0 + j, float(part[i, j])))
        skew = first_skew(square, np.ascontiguousarray(square.T), r0, r0)
        if skew is not None:
            raise not_symmetric(skew)
        return above, np.triu(square) + np.triu(square, 1).T

    def _read_rows(self, r0: int, r1: int) -> NDArray[Any]:
        return read_region(self._rows, r0 - self._offset, r1 - self._offset, 0, self.total)


def append_rows(
    store: FactorStore,
    attributes: dict[str, Any],
    new: NewRows,
    *,
    fingerprint: str,
    memory_limit: int,
    on_event: Subscriber | None,
) -> None:
    """Append the new rows to a complete factor, in bands that fit the memory limit.

    Each band is recorded when it is whole, so that after an interruption the same call continues
    after the last recorded one. See ``CholeskyFactor.append``.
    """
    notify = notifier(on_event)
    first, done = store.plan.n, store.plan.n
    total = (float(new.total) ** 3 - float(first) ** 3) / 3
    progress = Progress("append", total, on_event)
    while done < new.total:
        began = time.perf_counter()
        stop = min(done + _band_rows(done, store, memory_limit), new.total)
        attributes = progress.watch(
            partial(_append_band, store, new, stop, attributes, fingerprint, began, progress)
        )
        progress.reach((float(stop) ** 3 - float(first) ** 3) / 3)
        seconds = time.perf_counter() - began
        m = stop - done
        flops = float(m) * done * done + float(m) * m * done + m**3 / 3
        index, done = len(store.plan.added), stop
        store = FactorStore(store.url, store.plan.grown(m))
        share = (done - first) / (new.total - first)
        notify(BandDone(index, m, done, seconds, flops / max(seconds, 1e-9) / 1e9, share))


def _band_rows(n: int, store: FactorStore, memory_limit: int) -> int:
    """Return the most rows that one band may have."""
    each = _COPIES * ITEM * n
    check_memory(each, memory_limit, vectors=1, n=n)
    rows, block = memory_limit // each, store.plan.block
    return rows if rows < block else rows // block * block  # whole chunks where one fits


def _append_band(
    store: FactorStore,
    new: NewRows,
    stop: int,
    attributes: dict[str, Any],
    fingerprint: str,
    began: float,
    progress: Progress,
) -> dict[str, Any]:
    """Factor, store and record the rows up to ``stop``; return the larger factor's attributes."""
    above, square = new.read(store.plan.n, stop)
    n, m = above.shape
    grown = FactorStore(store.url, store.plan.grown(m))
    np.fill_diagonal(square, square.diagonal() + attributes["ridge_absolute"])
    sums = _grown_sums(store.sums(), above, square)
    diagonal = square.diagonal().copy()
    with blas_threads(attributes["blas_threads"]):
        forward(store, above, progress=progress)  # L⁻¹ Bᵀ = Xᵀ
        blas.subtract_gram(square, above, transposed=True)
        schur = square.diagonal().copy()
        pivot = blas.cholesky_lower(square)
    if pivot >= 0:
        value = float(schur[pivot] - square[pivot, :pivot] @ square[pivot, :pivot])
        text = LinalgStatus.APPENDED_NOT_POSITIVE_DEFINITE.message(
            row=n + pivot, n=n, value=value, entry=diagonal[pivot], ridge=attributes["ridge"]
        )
        raise NotPositiveDefiniteError(
            text, pivot=n + pivot, value=value, ridge=attributes["ridge"]
        )
    if not (np.isfinite(above).all() and np.isfinite(square.diagonal()).all()):
        raise LinalgStatus.OVERFLOW.error()
    grown.prepare_band()
    digests = _store_band(grown, above, np.tril(square))
    group = grown.group
    grown.write_sums(group, sums)
    roots = square.diagonal()
    own = {"fingerprint": fingerprint, "norm1": float(sums.max())}
    record = {
        "rows": m,
        "sha256": digests,
        "min_pivot": float(np.square(roots).min()),
        "log_diagonal": float(np.log(roots).sum()),
        "seconds": time.perf_counter() - began,
        "attributes": own,
    }
    grown.record_band(record)
    if "inverse" in group:
        del group["inverse"]  # of the smaller matrix; a diagonal is kept, to be extended later
    return {**attributes, **own}


def _grown_sums(sums: Vector, above: Matrix, square: Matrix) -> Vector:
    """Return the column sums of |entry| of the larger matrix, for its norm."""
    beside = np.empty(len(above))
    below = np.abs(square).sum(axis=0)
    step = 1024
    for r in range(0, len(above), step):
        sizes = np.abs(above[r : r + step])
        beside[r : r + step] = sizes.sum(axis=1)
        below += sizes.sum(axis=0)
    return np.concatenate([sums + beside, below])


def _store_band(grown: FactorStore, above: Matrix, square: Matrix) -> list[str]:
    """Store the last band's rows; return the digest of each panel's part."""
    plan = grown.plan
    band = len(plan.added)
    start, _ = plan.bands[band]
    tasks = [(k, *chunk) for k in range(plan.count) for chunk in grown.chunks(k, band)]

    def write(task: tuple[int, int, int, int, int]) -> bytes:
        k, r0, r1, c0, c1 = task
        if c1 <= start:
            values = np.ascontiguousarray(above[c0:c1, r0 - start : r1 - start].T)
        else:
            values = square[r0 - start : r1 - start, c0 - start : c1 - start]
        return grown.write(k, r0, r1, c0, c1, values)

    parts: dict[int, list[bytes]] = {}
    for (k, *_), digest in zip(tasks, side_by_side(write, tasks), strict=True):
        parts.setdefault(k, []).append(digest)
    return [panel_digest(parts[k]) for k in range(plan.count)]
