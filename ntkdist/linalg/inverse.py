"""The inverse of a stored factor: the whole of it stored by rows, or its diagonal alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.checks import check_whole
from ntkdist.errors import InputError, shown
from ntkdist.events.bus import Subscriber
from ntkdist.events.types import InverseBlockDone
from ntkdist.linalg import blas, groups
from ntkdist.linalg.blas import ITEM, Matrix, Vector, blas_threads
from ntkdist.linalg.panels import LARGEST_BLOCK, FactorStore, PanelPlan
from ntkdist.linalg.solve import backward, forward, substitution_flops
from ntkdist.linalg.status import LinalgStatus, check_indices
from ntkdist.linalg.tasks import (
    Progress,
    Runner,
    Scheduler,
    constant,
    notifier,
    task,
    task_runner,
)

INVERSE = "inverse"
DIAGONAL = "diagonal"
#: Series of records that marks each result as whole.
RECORDS = {INVERSE: "row_blocks", DIAGONAL: "column_blocks"}
_PROCESS = {INVERSE: "the inverse", DIAGONAL: "the diagonal"}
_COLUMN_RECORDS = "column_blocks"
#: Blocks between two records of the inverse; tasks between two records of the diagonal, where it
#: is not known how many run at once.
_BATCH = 16


def is_whole(url: str, kind: str, digest: str) -> bool:
    """Return whether a factor's whole inverse or diagonal (``kind``) is stored."""
    group = groups.open_result_of(url, kind, digest)
    return group is not None and _is_whole(group, kind)


def _is_whole(group: Any, kind: str) -> bool:
    count = -(-group.attrs["n"] // group.attrs["block"])
    return len(groups.read_records(group, RECORDS[kind])) == count


class InverseStore:
    """(A + ridge)⁻¹ on disk, with ``.shape``, ``.diagonal()`` and ``.columns()``.

    Use :meth:`open` or :meth:`ntkdist.linalg.CholeskyFactor.inverse`. One row is one contiguous
    read.

    Args:
        url: Folder or URL of its group.
        plan: The factor's cut; one file holds ``plan.block`` rows.
    """

    def __init__(self, url: str, plan: PanelPlan) -> None:
        self.url = url
        self.plan = plan
        self.dtype = np.dtype(np.float64)
        self.row_array = groups.CheckedArray(url, "rows", INVERSE, _PROCESS[INVERSE])
        self.diagonal_array = groups.CheckedArray(url, "diagonal", INVERSE, _PROCESS[INVERSE])

    @classmethod
    def open(cls, url: Any) -> InverseStore:
        """Open a finished inverse.

        Raises:
            InputError: ``url`` holds other content.
            StoreError: There is no inverse, or it is not finished.
        """
        address = storage.normal(url)
        group = groups.open_group(address, INVERSE)
        if group is None:
            remedy = "compute it with CholeskyFactor.inverse"
            raise LinalgStatus.ABSENT.error(url=address, kind=INVERSE, remedy=remedy)
        plan = PanelPlan(group.attrs["n"], group.attrs["panel_width"], group.attrs["block"])
        count = len(plan.blocks(0, plan.n))
        done = len(groups.read_records(group, RECORDS[INVERSE]))
        if done < count:
            raise LinalgStatus.INCOMPLETE.error(
                kind=INVERSE,
                url=address,
                done=done,
                count=count,
                parts="row blocks",
                process=_PROCESS[INVERSE],
            )
        return cls(address, plan)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""
        return self.plan.n, self.plan.n

    def diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal, (N,) float64."""
        return self._read(self.diagonal_array, slice(0, self.plan.n))

    def rows(self, start: int, stop: int) -> NDArray[np.float64]:
        """Return rows ``start`` to ``stop``, (stop - start, N) float64: one contiguous read each.

        Raises:
            InputError: The range is not within the matrix.
            StoreError: A stored row is damaged.
        """
        start = check_whole("start", start, 0, "give the first row")
        stop = check_whole("stop", stop, 0, "give the row behind the last")
        if not start <= stop <= self.plan.n:
            raise InputError(f"rows {shown(start)}:{shown(stop)} are outside 0:{self.plan.n}")
        return self._read(self.row_array, slice(start, stop), slice(0, self.plan.n))

    def columns(self, indices: Any) -> NDArray[np.float64]:
        """Return columns, read as rows (the inverse is symmetric to the bit).

        Args:
            indices: (m,) integers from 0 to N - 1; repeats allowed.

        Returns:
            (N, m) float64, each column contiguous, in the order asked for.

        Raises:
            InputError: An index is out of range.
            StoreError: A stored row is damaged.
        """
        wanted = check_indices(indices, self.plan.n)
        out = np.empty((len(wanted), self.plan.n))
        seen: dict[int, int] = {}
        for position, index in enumerate(wanted.tolist()):
            if index in seen:
                out[position] = out[seen[index]]
            else:
                seen[index] = position
                out[position] = self.rows(index, index + 1)[0]
        return out.T

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the stored inverse cannot become an array without a copy")
        out = np.empty(self.shape)
        for r0, r1 in self.plan.blocks(0, self.plan.n):
            out[r0:r1] = self.rows(r0, r1)
        return out if dtype is None else out.astype(dtype)

    def _read(self, array: groups.CheckedArray, *where: slice) -> NDArray[np.float64]:
        index = where[0].start // self.plan.block
        part, record = f"row block {index}", groups.record_name(RECORDS[INVERSE], index)
        values = array.read(part, record, where)
        edge = values[:, 0] if values.ndim == 2 else values
        if np.isnan(edge).any():
            row = where[0].start + int(np.isnan(edge).argmax())
            index = row // self.plan.block
            record = groups.record_name(RECORDS[INVERSE], index)
            key = array.key(index, *([0] * (values.ndim - 1)))
            raise array.damaged(f"row block {index}", record, key, f"has no row {row}")
        return values


def compute_inverse(
    factor: FactorStore,
    digest: str,
    url: str,
    *,
    threads: int,
    memory_limit: int,
    scheduler: Scheduler = None,
    on_event: Subscriber | None = None,
    overwrite: bool = False,
) -> InverseStore:
    """Compute the inverse from a finished factor, block by block; resumable.

    One panel: one LAPACK call (dpotri) on ``threads`` BLAS threads. Several panels: Dask tasks
    compute block columns of the lower triangle by two substitutions each, from the block's own row
    on (2N³/3 operations in all); the rows are then assembled from these. See
    ``CholeskyFactor.inverse``.
    """
    notify = notifier(on_event)
    plan = factor.plan.without_bands
    group = None if overwrite else groups.open_group(url, INVERSE, mode="r+")
    if group is None:
        cut = {"n": plan.n, "panel_width": plan.width, "block": plan.block}
        group = groups.create_group(url, INVERSE, {**cut, "factor": digest})
    else:
        groups.check_same(url, "the inverse", dict(group.attrs), {"factor": digest})
    n, block = plan.n, plan.block
    groups.create_array(group, "rows", shape=(n, n), chunks=(1, n), shards=(block, n))
    groups.create_array(group, "diagonal", shape=(n,), chunks=(block,))
    blocks = plan.blocks(0, n)
    done = len(groups.read_records(group, RECORDS[INVERSE]))
    for index in range(done):
        notify(InverseBlockDone("rows", index, len(blocks), 0.0, True))
    if done < len(blocks):
        groups.drop_records(group, RECORDS[INVERSE], done)
        lower: Matrix | groups.CheckedArray
        if factor.plan.count == 1:
            factor.release()  # LAPACK overwrites the array that is read below

            def invert() -> Matrix:
                lower = factor.whole()
                with blas_threads(threads):
                    blas.inverse_from_lower(lower)
                return lower

            lower = Progress("inverse", 1.0, on_event).watch(invert)
        else:
            lower = _compute_columns(factor, url, group, memory_limit, scheduler, on_event)
        _store_rows(InverseStore(url, plan), group, lower, done, on_event)
    if "columns" in group:
        groups.drop_records(group, _COLUMN_RECORDS, 0)
        del group["columns"]
    return InverseStore.open(url)


def _compute_columns(
    factor: FactorStore,
    url: str,
    group: Any,
    memory_limit: int,
    scheduler: Scheduler,
    listener: Subscriber | None,
) -> groups.CheckedArray:
    """Compute the lower triangle in square chunks, a batch of block columns at a time."""
    notify = notifier(listener)
    plan = factor.plan.without_bands
    n, edge = plan.n, plan.block
    groups.create_array(group, "columns", shape=(n, n), chunks=(edge, edge))
    blocks = plan.blocks(0, n)
    done = len(groups.read_records(group, _COLUMN_RECORDS))
    groups.drop_records(group, _COLUMN_RECORDS, done)
    for index in range(done):
        notify(InverseBlockDone("columns", index, len(blocks), 0.0, True))
    free = memory_limit - (factor.kept_bytes() if factor.keep else 0)
    each = ITEM * (2 * n * edge + 2 * n * plan.block)  # x, its copy in the codec, two strips
    at_once = max(1, free // each)
    columns = groups.CheckedArray(url, "columns", INVERSE, _PROCESS[INVERSE])
    work = [2 * substitution_flops(n - c0, c1 - c0) for c0, c1 in blocks]
    progress = Progress("columns", sum(work), listener)
    source, target, counter = constant(factor), constant(columns), constant(progress)
    compute = task(_column_block)
    with task_runner(scheduler) as run:
        for start in range(done, len(blocks), _BATCH):
            progress.reach(sum(work[:start]))
            began = time.perf_counter()
            batch = range(start, min(start + _BATCH, len(blocks)))
            tasks = [compute(source, target, *blocks[index], counter) for index in batch]
            progress.watch(partial(run, tasks, at_once))
            seconds = (time.perf_counter() - began) / len(batch)
            for index in batch:
                groups.write_record(group, _COLUMN_RECORDS, index, {"seconds": seconds})
                notify(InverseBlockDone("columns", index, len(blocks), seconds, False))
    return columns


def _column_block(
    factor: FactorStore, columns: groups.CheckedArray, c0: int, c1: int, progress: Progress
) -> None:
    """Compute and store columns c0:c1 of the inverse, from row c0 on."""
    x = np.zeros((factor.plan.n - c0, c1 - c0))
    np.fill_diagonal(x, 1.0)
    with blas_threads(1):
        forward(factor, x, c0, progress)
        backward(factor, x, c0, progress)
    columns.write(f"columns {c0}:{c1}", (slice(c0, factor.plan.n), slice(c0, c1)), x)


def _store_rows(
    inverse: InverseStore,
    group: Any,
    lower: Matrix | groups.CheckedArray,
    done: int,
    listener: Subscriber | None,
) -> None:
    """Assemble the rows from the lower triangle and its mirror image, and store them."""
    notify = notifier(listener)
    plan = inverse.plan
    n = plan.n

    def read(r0: int, r1: int, c0: int, c1: int) -> Matrix:
        if isinstance(lower, np.ndarray):
            return lower[r0:r1, c0:c1]
        index = c0 // plan.block
        record = groups.record_name(_COLUMN_RECORDS, index)
        return lower.read(f"column block {index}", record, (slice(r0, r1), slice(c0, c1)))

    def store(index: int, r0: int, r1: int) -> None:
        rows = np.empty((r1 - r0, n))
        if r0:
            rows[:, :r0] = read(r0, r1, 0, r0)
        square = np.tril(read(r0, r1, r0, r1))
        rows[:, r0:r1] = square + np.tril(square, -1).T
        if r1 < n:
            rows[:, r1:] = read(r1, n, r0, r1).T
        if np.isnan(rows).any():
            col = int(np.isnan(rows).any(axis=0).argmax())
            key = "columns" if isinstance(lower, np.ndarray) else lower.name
            block = min(index, col // plan.block)
            record = groups.record_name(_COLUMN_RECORDS, block)
            raise inverse.row_array.damaged(f"column block {block}", record, key, "lacks a chunk")
        inverse.diagonal_array.write(f"row block {index}", (slice(r0, r1),), square.diagonal())
        inverse.row_array.write(f"row block {index}", (slice(r0, r1), slice(0, n)), rows)
        progress.add(r1 - r0)

    progress = Progress("rows", n, listener)
    blocks = plan.blocks(0, n)
    for index, (r0, r1) in enumerate(blocks):
        if index < done:
            continue
        began = time.perf_counter()
        progress.reach(r0)
        progress.watch(partial(store, index, r0, r1))
        seconds = time.perf_counter() - began
        groups.write_record(group, RECORDS[INVERSE], index, {"seconds": seconds})
        notify(InverseBlockDone("rows", index, len(blocks), seconds, False))


@dataclass(frozen=True)
class Former:
    """A factor before rows were appended to it."""

    rows: int
    digest: str


def compute_diagonal(
    factor: FactorStore,
    digest: str,
    url: str,
    *,
    former: Sequence[Former] = (),
    threads: int,
    memory_limit: int,
    scheduler: Scheduler = None,
    on_event: Subscriber | None = None,
    overwrite: bool = False,
) -> Vector:
    """Compute diag((L Lᵀ)⁻¹), the squared column norms of L⁻¹; resumable.

    Dask tasks compute some columns of L⁻¹ each, from their own row on (N³/3 operations in all). A
    stored diagonal of a ``former`` factor (the oldest first), to which a few rows were appended
    since, is extended by them, on ``threads`` BLAS threads. See
    ``CholeskyFactor.diagonal_of_inverse``.
    """
    plan = factor.plan.without_bands
    chunks = plan.blocks(0, plan.n)
    group = groups.open_group(url, DIAGONAL, mode="r+", any_schema=True)
    known = None
    if group is not None and (overwrite or group.attrs["schema"] != groups.SCHEMA):
        group = None
    if group is not None and group.attrs["factor"] != digest:
        known, group = _known(url, group, former, plan), None
    extended = None if known is None else _extended(factor, known, threads, memory_limit, on_event)
    if group is None:
        cut = {"n": plan.n, "block": plan.block}
        group = groups.create_group(url, DIAGONAL, {**cut, "factor": digest})
    groups.create_array(group, DIAGONAL, shape=(plan.n,), chunks=(plan.block,))
    array = groups.CheckedArray(url, DIAGONAL, DIAGONAL, _PROCESS[DIAGONAL])
    notify = notifier(on_event)
    done = len(groups.read_records(group, RECORDS[DIAGONAL]))
    for index in range(done):
        notify(InverseBlockDone("diagonal", index, len(chunks), 0.0, True))
    groups.drop_records(group, RECORDS[DIAGONAL], done)

    def store(index: int, values: Vector, seconds: float) -> None:
        array.write(f"chunk {index}", (slice(*chunks[index]),), values)
        groups.write_record(group, RECORDS[DIAGONAL], index, {"seconds": seconds})
        notify(InverseBlockDone("diagonal", index, len(chunks), seconds, False))

    if extended is not None:
        for index, chunk in enumerate(chunks):
            store(index, extended[slice(*chunk)], 0.0)
    elif done < len(chunks):
        with task_runner(scheduler) as run:
            work = _Columns(factor, chunks, run, memory_limit, on_event)
            for indices, values, seconds in work.from_chunk(done):
                first = chunks[indices[0]][0]
                for index in indices:
                    c0, c1 = chunks[index]
                    store(index, values[c0 - first : c1 - first], seconds / len(indices))
    return read_diagonal(url, plan)


def read_diagonal(url: str, plan: PanelPlan) -> Vector:
    """Read a whole diagonal, (N,) float64."""
    array = groups.CheckedArray(url, DIAGONAL, DIAGONAL, _PROCESS[DIAGONAL])
    values = array.read("diagonal", RECORDS[DIAGONAL], (slice(0, plan.n),))
    if np.isnan(values).any():
        index = int(np.isnan(values).argmax()) // plan.block
        record = groups.record_name(RECORDS[DIAGONAL], index)
        raise array.damaged(f"chunk {index}", record, array.key(index), "is missing")
    return values


def _known(url: str, group: Any, former: Sequence[Former], plan: PanelPlan) -> Vector | None:
    """Return the stored diagonal of a smaller factor if few enough rows were appended since."""
    for one in former:
        # each appended row costs N² operations, a new diagonal N³/3
        if one.digest == group.attrs["factor"] and 3 * (plan.n - one.rows) < plan.n:
            smaller = PanelPlan(one.rows, plan.width, plan.block)
            return read_diagonal(url, smaller) if _is_whole(group, DIAGONAL) else None
    return None


class _Columns:
    """The columns of L⁻¹, a batch of tasks at a time."""

    def __init__(
        self,
        factor: FactorStore,
        chunks: Sequence[tuple[int, int]],
        run: Runner,
        memory_limit: int,
        listener: Subscriber | None,
    ) -> None:
        n, block = factor.plan.n, factor.plan.block
        free = memory_limit - (factor.kept_bytes() if factor.keep else 0)
        self._edge = max(1, min(2 * LARGEST_BLOCK, free // (4 * ITEM * n), n))
        each = ITEM * (n * self._edge + 2 * n * block)
        self._at_once = max(1, free // each)
        self._factor, self._chunks, self._run = factor, chunks, run
        tasks = run.batch(self._at_once, _BATCH)
        # a task computes whole chunks, or several tasks compute one chunk
        self._together = max(1, self._edge // block)
        self._step = self._together * max(1, tasks * min(self._edge, block) // block)
        self._work = [substitution_flops(n - c0, c1 - c0) for c0, c1 in chunks]
        self._progress = Progress("diagonal", sum(self._work), listener)

    def from_chunk(self, first: int) -> Iterator[tuple[range, Vector, float]]:
        """Yield the chunks of each batch, their part of the diagonal, and its seconds."""
        source, counter = constant(self._factor), constant(self._progress)
        norms = task(_column_norms)
        for start in range(first, len(self._chunks), self._step):
            self._progress.reach(sum(self._work[:start]))
            began = time.perf_counter()
            stop = min(start + self._step, len(self._chunks))
            tasks = [norms(source, *piece, counter) for piece in self._pieces(start, stop)]
            parts = self._progress.watch(partial(self._run, tasks, self._at_once))
            yield range(start, stop), np.concatenate(parts), time.perf_counter() - began

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the columns of each task for the chunks ``start`` to ``stop``."""
        wide = [
            (self._chunks[i][0], self._chunks[min(i + self._together, stop) - 1][1])
            for i in range(start, stop, self._together)
        ]
        if self._together > 1:
            return wide
        return [(c, min(c + self._edge, c1)) for c0, c1 in wide for c in range(c0, c1, self._edge)]


def _column_norms(factor: FactorStore, c0: int, c1: int, progress: Progress) -> Vector:
    """Return the squared norms of columns c0:c1 of L⁻¹."""
    x = np.zeros((factor.plan.n - c0, c1 - c0))
    np.fill_diagonal(x, 1.0)
    with blas_threads(1):
        forward(factor, x, c0, progress)
    return np.einsum("ij,ij->j", x, x)


def _extended(
    factor: FactorStore,
    before: Vector,
    threads: int,
    memory_limit: int,
    listener: Subscriber | None,
) -> Vector:
    """Return the diagonal from that of the first rows, a few rows of the factor at a time.

    With rows (X, S) below L, the inverse of the larger factor is (L⁻¹ 0; −S⁻¹XL⁻¹ S⁻¹): the old
    columns' squared norms grow by those of S⁻¹XL⁻¹, and the new columns' are those of S⁻¹.
    """
    n, first = factor.plan.n, len(before)
    free = memory_limit - (factor.kept_bytes() if factor.keep else 0)
    most = max(1, min(factor.plan.block, free // (4 * ITEM * n)))
    pieces = [
        (r0, r1, p, min(p + most, r1))
        for r0, r1 in factor.plan.blocks(first, n)
        for p in range(r0, r1, most)
    ]
    total = sum(substitution_flops(p0, p1 - p0) for _, _, p0, p1 in pieces)
    progress = Progress("diagonal", total, listener)

    def extend() -> Vector:
        out = np.zeros(n)
        out[:first] = before
        for r0, r1, p0, p1 in pieces:
            rows = factor.strip(r0, r1)[p0 - r0 : p1 - r0]
            corner = rows[:, p0:p1]
            y, own = np.ascontiguousarray(rows[:, :p0].T), np.eye(p1 - p0)
            with blas_threads(threads):
                backward(factor, y, progress=progress, stop=p0)
                blas.solve_lower(corner, y, transposed=True, from_right=True)
                blas.solve_lower(corner, own)
            out[:p0] += np.einsum("ij,ij->i", y, y)
            out[p0:p1] = np.einsum("ij,ij->j", own, own)
        return out

    return progress.watch(extend)
