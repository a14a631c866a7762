"""A finished factor: computed once, opened anywhere, used for many solves, extended by rows.

Appended rows are a bordered update in O(N²m), not O(N³): with A = L Lᵀ known, [A Bᵀ; B C] has the
factor [L 0; X S] where X = B L⁻ᵀ and S Sᵀ = C − X Xᵀ (Golub and Van Loan 2013, section 4.2.5). The
stored chunks of L do not change.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntkdist import storage
from ntkdist.checks import check_choice, check_seed
from ntkdist.errors import InputError
from ntkdist.events.bus import Subscriber
from ntkdist.events.types import BandDone
from ntkdist.linalg import blas, groups
from ntkdist.linalg.blas import ITEM, Matrix, Vector, blas_threads
from ntkdist.linalg.device import joined
from ntkdist.linalg.inverse import (
    DIAGONAL,
    INVERSE,
    RECORDS,
    Former,
    InverseStore,
    compute_diagonal,
    compute_inverse,
    is_whole,
    read_diagonal,
)
from ntkdist.linalg.matrix import Source, SymmetricOperator, first_skew, read_region, real_dtype
from ntkdist.linalg.panels import KIND, PROCESS, FactorStore, panel_digest
from ntkdist.linalg.solve import backward, forward, inverse_norm1, refine, substitution_flops
from ntkdist.linalg.status import (
    LinalgStatus,
    NotPositiveDefiniteError,
    check_indices,
    check_memory,
    check_vectors,
    not_finite,
    not_symmetric,
    parse_memory,
)
from ntkdist.linalg.tasks import Progress, Scheduler, notifier, side_by_side, task_runner

_REMEDY = "compute it with ntkdist.linalg.factorize"
#: Arrays of a band's size in memory: the rows, one or two strips of the factor, the written copy.
_COPIES = 4


class CholeskyFactor:
    """L of A + ridge = L Lᵀ, stored panel by panel; equivalent to ``scipy.linalg.cho_factor``.

    Use :meth:`open` or :func:`ntkdist.linalg.factorize`. Panels stay in memory after their first
    use if all of them fit ``memory_limit``; otherwise they are streamed.

    Args:
        store: The panels.
        attributes: The group's attributes.
        records: One record for each panel of the first band.
        bands: One record for each appended band.
        memory_limit: Bytes for panels kept in memory and for batches of columns.
        scheduler: The scheduler of its tasks.
    """

    def __init__(
        self,
        store: FactorStore,
        attributes: dict[str, Any],
        records: list[dict[str, Any]],
        bands: list[dict[str, Any]],
        memory_limit: int,
        scheduler: Scheduler,
    ) -> None:
        self._store = store
        self._attributes = attributes
        self._records = records
        self._bands = bands
        self._limit = memory_limit
        self._scheduler = scheduler
        store.keep = store.kept_bytes() <= memory_limit

    @classmethod
    def open(
        cls, url: Any, *, memory_limit: int | str = "2GiB", scheduler: Scheduler = None
    ) -> CholeskyFactor:
        """Open a finished factor.

        Args:
            url: Folder or URL of the factor.
            memory_limit: Bytes (or ``"2GiB"``) for panels kept in memory and for batches of
                columns.
            scheduler: As for :func:`ntkdist.linalg.factorize`; used by :meth:`inverse`,
                :meth:`diagonal_of_inverse` and for refinement.

        Returns:
            The factor.

        Raises:
            InputError: ``url`` holds other content.
            StoreError: There is no factor, or it is not finished.
        """
        address = storage.normal(url)
        opened = FactorStore.open(address)
        if opened is None:
            raise LinalgStatus.ABSENT.error(url=address, kind=KIND, remedy=_REMEDY)
        store, attributes = opened
        records = store.records()
        count = store.plan.first_count
        if len(records) < count:
            raise LinalgStatus.INCOMPLETE.error(
                kind=KIND,
                url=address,
                done=len(records),
                count=count,
                parts="panels",
                process=PROCESS,
            )
        bands = store.bands()[: len(store.plan.added)]
        return cls(store, attributes, records, bands, parse_memory(memory_limit), scheduler)

    @property
    def url(self) -> str:
        """Folder or URL of the factor."""
        return self._store.url

    @property
    def n(self) -> int:
        """Rows of the matrix."""
        return self._store.plan.n

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""
        return self.n, self.n

    @property
    def panel_width(self) -> int:
        """Columns of every panel but the last."""
        return self._store.plan.width

    @property
    def panel_count(self) -> int:
        """Number of panels."""
        return self._store.plan.count

    @property
    def device(self) -> str:
        """Where its panels were computed: ``cpu``, ``cuda``, or ``cpu+cuda``."""
        return joined(record.get("device", "cpu") for record in self._records)

    @property
    def ridge(self) -> float:
        """The ridge, relative to mean(diag A)."""
        return float(self._attributes["ridge"])

    @property
    def ridge_absolute(self) -> float:
        """The number that was added to every diagonal entry."""
        return float(self._attributes["ridge_absolute"])

    @property
    def fingerprint(self) -> str:
        """Text that identifies the factored matrix."""
        return str(self._attributes["fingerprint"])

    @property
    def min_pivot(self) -> float:
        """Smallest pivot (L_ii squared); near 0 for a nearly singular matrix."""
        return min(float(record["min_pivot"]) for record in self._all_records())

    @property
    def has_inverse(self) -> bool:
        """Whether the whole inverse of this factor is stored beside its panels."""
        return is_whole(f"{self.url}/inverse", INVERSE, self.digest())

    def stored_diagonal(self) -> NDArray[np.float64] | None:
        """Read the diagonal of the inverse that is stored without the inverse; None if not whole.

        Raises:
            StoreError: It is damaged.
        """
        address = f"{self.url}/diagonal"
        if not is_whole(address, DIAGONAL, self.digest()):
            return None
        return read_diagonal(address, self._store.plan)

    @property
    def has_diagonal(self) -> bool:
        """Whether the diagonal of the inverse is stored, alone or with the inverse."""
        return is_whole(f"{self.url}/diagonal", DIAGONAL, self.digest()) or self.has_inverse

    def solve(
        self,
        b: ArrayLike,
        *,
        matrix: Any = None,
        steps: int = 3,
        on_event: Subscriber | None = None,
    ) -> NDArray[np.float64]:
        """Solve (A + ridge) X = B; equivalent to ``scipy.linalg.cho_solve``.

        With ``matrix`` the solution is refined: corrected by its residual (in float64) as long as
        that makes the residual smaller. Each step is one pass over the matrix and one solve.

        Args:
            b: (N,) or (N, K) real, finite.
            matrix: A, as it was given to ``factorize``; None solves without refinement.
            steps: Most refinement steps.
            on_event: Called every few seconds with a ``LinalgProgress``, except in refinement.

        Returns:
            X, of b's shape, float64.

        Raises:
            InputError: ``b`` has another length or is not finite, or the matrix another shape.
            StoreError: A stored panel or the matrix is damaged.
        """
        rhs = check_vectors(b, self.n)
        progress = Progress("solve", 2 * substitution_flops(*rhs.shape), on_event)
        x = progress.watch(lambda: self._substitute(rhs.copy(), progress))
        if matrix is not None:
            source = self._source_of(matrix)
            with task_runner(self._scheduler) as run:
                product = SymmetricOperator(source, run, memory_limit=self._limit)
                shift = self.ridge_absolute
                x = refine(lambda v: product(v) + shift * v, self._substitute, rhs, x, steps)
        return x.reshape(np.shape(b))

    def _source_of(self, matrix: Any) -> Source:
        source = Source(matrix)
        if source.n != self.n:
            raise InputError(
                f"the matrix has {source.n} rows and the factor {self.n}; pass the matrix that "
                "was factored"
            )
        return source

    def _substitute(self, x: Matrix, progress: Progress | None = None) -> Matrix:
        with blas_threads(self._attributes["blas_threads"]):
            forward(self._store, x, progress=progress)
            backward(self._store, x, progress=progress)
        return x

    def inverse_columns(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float64]:
        """Compute some columns of (A + ridge)⁻¹.

        Args:
            indices: (m,) integers from 0 to N - 1; repeats allowed.

        Returns:
            (N, m) float64, in the order of ``indices``.

        Raises:
            InputError: An index is out of range.
            StoreError: A stored panel is damaged.
        """
        wanted = check_indices(indices, self.n)
        out = np.empty((self.n, len(wanted)))
        batch = max(1, self._limit // (4 * ITEM * self.n))
        for start in range(0, len(wanted), batch):
            columns = wanted[start : start + batch]
            x = np.zeros((self.n, len(columns)))
            x[columns, np.arange(len(columns))] = 1.0
            first = int(columns.min())
            with blas_threads(self._attributes["blas_threads"]):
                forward(self._store, x[first:], first)
                backward(self._store, x)
            out[:, start : start + len(columns)] = x
        return out

    def diagonal_of_inverse(
        self, *, on_event: Subscriber | None = None, overwrite: bool = False
    ) -> NDArray[np.float64]:
        """Compute the diagonal of (A + ridge)⁻¹ alone; resumable.

        N³/3 operations, half of those of the whole inverse. The N numbers are stored beside the
        panels, and the next call reads them. If the inverse is stored, its diagonal is read
        instead. After :meth:`append` of m rows, fewer than a third of all, a stored diagonal is
        extended in O(N²m) operations. With G = H⁻¹Y it gives leave-one-out residuals: G_ik / A_ii.

        Args:
            on_event: Called with an ``InverseBlockDone`` (stage ``"diagonal"``) for each chunk of
                columns and every few seconds with a ``LinalgProgress``, from this thread.
            overwrite: Compute it again even if it is stored.

        Returns:
            (N,) float64.

        Raises:
            InputError: The factor's group cannot be written.
            StoreError: A stored part is damaged, or a part could not be written.
        """
        if not overwrite and self.has_inverse:
            return InverseStore.open(f"{self.url}/inverse").diagonal()
        bands = self._store.plan.bands
        return compute_diagonal(
            self._store,
            self.digest(),
            f"{self.url}/diagonal",
            former=[
                Former(bands[count][1], self._digest(count)) for count in range(len(self._bands))
            ],
            threads=self._attributes["blas_threads"],
            memory_limit=self._limit,
            scheduler=self._scheduler,
            on_event=on_event,
            overwrite=overwrite,
        )

    def append(
        self,
        rows: Any,
        *,
        fingerprint: str | None = None,
        on_event: Subscriber | None = None,
    ) -> CholeskyFactor:
        """Extend the factor by rows of a larger matrix, in O(N²m) operations.

        The factor at the same url becomes that of the larger matrix; this object remains that of
        the smaller one. The absolute ridge does not change (``ridge`` remains relative to the mean
        of the first rows' diagonal). Rows that do not fit the memory limit together are appended
        in bands; after an interruption the same call with the larger matrix continues after the
        last band. An inverse stored beside the panels is dropped. A stored diagonal of the inverse
        is kept; :meth:`diagonal_of_inverse` extends it.

        Args:
            rows: The larger matrix (N + m, N + m), of which the upper triangle is used, or its
                last rows (m, N + m), at least all new ones: NumPy, Dask or Zarr array, or anything
                with ``.shape``, ``.dtype`` and two-dimensional basic slicing.
            fingerprint: Text that identifies the larger matrix; None hashes a sample of it, or
                of its rows.
            on_event: Called with a ``BandDone`` for each band stored, and every few seconds with
                a ``LinalgProgress``.

        Returns:
            The factor of the larger matrix, opened; the same factor if there are no new rows.

        Raises:
            InputError: The rows have another shape or are not finite; the factor was extended
                meanwhile; or the memory limit is too small.
            NotPositiveDefiniteError: There is no factor with these rows; this one is kept.
            StoreError: A stored part is damaged, or a band could not be written.
        """
        now = CholeskyFactor.open(self.url, memory_limit=self._limit, scheduler=self._scheduler)
        if now.digest() != self.digest():
            raise InputError(
                f"the factor at {self.url} now has {now.n} rows and is not the one that was "
                "opened; open it again"
            )
        new = _NewRows(rows, self.n)
        _append_rows(
            FactorStore(self.url, self._store.plan),  # keeps no strip: each part is used once
            self._attributes,
            new,
            fingerprint=new.fingerprint(self.fingerprint) if fingerprint is None else fingerprint,
            memory_limit=self._limit,
            on_event=on_event,
        )
        return CholeskyFactor.open(self.url, memory_limit=self._limit, scheduler=self._scheduler)

    def inverse(
        self, url: Any = None, *, on_event: Subscriber | None = None, overwrite: bool = False
    ) -> InverseStore:
        """Compute and store (A + ridge)⁻¹ by rows, so that one row is one read; resumable.

        It is symmetric to the bit, and takes twice the operations of the factorisation.

        Args:
            url: Folder or URL of its own group; None stores it beside the panels, in place of
                that of an earlier factor.
            on_event: Called with an ``InverseBlockDone`` for each block and every few seconds
                with a ``LinalgProgress``, from this thread.
            overwrite: Replace a stored inverse.

        Returns:
            The inverse, opened; without computation if it was finished before.

        Raises:
            InputError: ``url`` holds another factor's inverse, or cannot be written.
            StoreError: A stored part is damaged, or a part could not be written.
        """
        address = f"{self.url}/inverse" if url is None else storage.normal(url)
        if url is None and not overwrite:
            stored = groups.open_group(address, INVERSE, any_schema=True)
            overwrite = stored is not None and stored.attrs["factor"] != self.digest()
        return compute_inverse(
            self._store,
            self.digest(),
            address,
            threads=self._attributes["blas_threads"],
            memory_limit=self._limit,
            scheduler=self._scheduler,
            on_event=on_event,
            overwrite=overwrite,
        )

    def logdet(self) -> float:
        """Return log det (A + ridge)."""
        return 2.0 * sum(float(record["log_diagonal"]) for record in self._all_records())

    def condition_estimate(self) -> float:
        """Estimate the 1-norm condition number of A + ridge.

        Equivalent to LAPACK's dpocon: a lower bound that is rarely off by more than a factor 3.
        The norm of the matrix is stored with the factor; that of the inverse takes up to 12
        solves.

        Returns:
            The estimate of ‖A + ridge‖₁ · ‖(A + ridge)⁻¹‖₁.
        """
        return float(self._attributes["norm1"]) * inverse_norm1(self.solve, self.n)

    def digest(self) -> str:
        """Return a sha256 (hex) that changes with any bit of the factor."""
        return self._digest(len(self._bands))

    def _digest(self, bands: int) -> str:
        """Return the digest of the factor with so many of its appended bands."""
        parts = [str(record["sha256"]) for record in self._records]
        parts += [part for band in self._bands[:bands] for part in band["sha256"]]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def verify(self) -> None:
        """Read every panel and compare it with the sha256 of its record; read the column sums.

        Raises:
            StoreError: A panel, or the column sums, are damaged or missing; names it.
        """
        reason = "differs from the sha256 recorded for it"
        for k, record in enumerate(self._records):
            if self._store.digest(k) != record["sha256"]:
                raise self._store.damaged(k, "lower", reason)
        for band, record in enumerate(self._bands, start=1):
            for k, expected in enumerate(record["sha256"]):
                if self._store.digest(k, band) != expected:
                    raise self._store.damaged(k, f"added/{band:05d}/{k:05d}", reason, band)
        self._store.sums()

    def backward_error(self, matrix: Any, *, seed: int = 0) -> float:
        """Return the backward error of one solve: about 1e-16 if the factor is the matrix's.

        Takes one random right-hand side, one solve, and one pass over the matrix.

        Args:
            matrix: A, as it was given to ``factorize``.
            seed: Seed of the right-hand side.

        Returns:
            ‖(A + ridge) x − b‖ / (‖A + ridge‖₁ ‖x‖ + ‖b‖), in the 2-norm.

        Raises:
            InputError: The matrix has another shape.
            StoreError: A stored panel or the matrix is damaged.
        """
        source = self._source_of(matrix)
        b = np.random.default_rng(check_seed(seed)).normal(size=(self.n, 1))
        x = self._substitute(b.copy())
        with task_runner(self._scheduler) as run:
            product = SymmetricOperator(source, run, memory_limit=self._limit)
            residual = product(x) + self.ridge_absolute * x - b
        scale = float(self._attributes["norm1"]) * np.linalg.norm(x) + np.linalg.norm(b)
        return float(np.linalg.norm(residual) / scale)

    def _all_records(self) -> list[dict[str, Any]]:
        return [*self._records, *self._bands]


def holds(url: Any, part: str, n: int) -> bool:
    """Return whether the whole inverse, or its whole diagonal, is stored beside a factor's panels.

    Takes one listing of its records. Does not check which factor of ``n`` rows it belongs to.

    Args:
        url: Folder or URL of the factor.
        part: ``"inverse"`` or ``"diagonal"``.
        n: Rows of the factor.
    """
    check_choice("part", part, tuple(RECORDS))
    address = f"{storage.normal(url)}/{part}"
    group = groups.open_group(address, part, any_schema=True)
    if group is None or group.attrs["schema"] != groups.SCHEMA or group.attrs["n"] != n:
        return False
    names = storage.children(storage.join(address, RECORDS[part]))
    return sum(name.isdecimal() for name in names) >= -(-n // group.attrs["block"])


class _NewRows:
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


def _append_rows(
    store: FactorStore,
    attributes: dict[str, Any],
    new: _NewRows,
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
    new: _NewRows,
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
