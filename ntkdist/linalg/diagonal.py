"""The diagonal of the inverse from a stored factor: N numbers, kept beside the panels."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ntkdist.linalg import blas, groups
from ntkdist.linalg.events import InverseBlockDone, Listener
from ntkdist.linalg.panels import ITEM, LARGEST_BLOCK, PanelPlan
from ntkdist.linalg.progress import Progress
from ntkdist.linalg.tasks import Runner, Scheduler, blas_threads, task_runner
from ntkdist.linalg.solve import backward, forward, substitution_flops
from ntkdist.linalg.matrix import Vector
from ntkdist.linalg.store import FactorStore

KIND = "diagonal"
HOW = "the diagonal"
NAME = "diagonal"
RECORDS = "column_blocks"
_BATCH = 16  # tasks between two records, where it is not known how many run at once


@dataclass(frozen=True)
class Former:
    """A factor before rows were appended to it.

    Args:
        rows: How many it had.
        digest: What identified it.
    """

    rows: int
    digest: str


def is_stored(url: str, digest: str) -> bool:
    """Return whether the whole diagonal of a factor is stored.

    Args:
        url: The diagonal's group.
        digest: What identifies the factor.
    """
    group = groups.open_result_of(url, KIND, digest)
    return group is not None and _is_whole(group)


def compute_diagonal(
    factor: FactorStore,
    digest: str,
    url: str,
    *,
    former: Sequence[Former] = (),
    threads: int,
    memory_limit: int,
    scheduler: Scheduler = None,
    on_event: Listener | None = None,
    overwrite: bool = False,
) -> Vector:
    """Compute diag((L Lᵀ)⁻¹), the squared column norms of L⁻¹; resumable.

    Dask tasks take some columns of L⁻¹ each, from their own row on (N³/3 operations in all). A
    stored diagonal of the factor before a few rows were appended is extended by them.

    Args:
        factor: The factor.
        digest: What identifies the factor.
        url: Where the diagonal goes.
        former: The factor before each time that rows were appended, the oldest first.
        threads: Of BLAS, where nothing runs side by side.
        memory_limit: Bytes; decides how many columns go together.
        scheduler: As for :func:`ntkdist.linalg.factorize`.
        on_event: Called with an ``InverseBlockDone`` for each chunk of columns, and every few
            seconds with a ``LinalgProgress``.
        overwrite: Drop what is there.

    Returns:
        (N,) float64.

    Raises:
        InputError: Something else is at ``url``, or it cannot be written.
        StoreError: A stored part is damaged, or the store refuses to be written.
    """
    plan = PanelPlan(factor.plan.n, factor.plan.width, factor.plan.block)
    chunks = plan.blocks(0, plan.n)
    group = groups.open_group(url, KIND, mode="r+", any_schema=True)
    known = None
    if group is not None and (overwrite or group.attrs["schema"] != groups.SCHEMA):
        group = None
    if group is not None and group.attrs["factor"] != digest:
        known, group = _known(url, group, former, plan), None
    extended = None if known is None else _extended(factor, known, threads, memory_limit, on_event)
    if group is None:
        cut = {"n": plan.n, "block": plan.block}
        group = groups.create_group(url, KIND, {**cut, "factor": digest})
    groups.create_array(group, NAME, shape=(plan.n,), chunks=(plan.block,))
    array = groups.CheckedArray(url, NAME, KIND, HOW)
    notify: Listener = on_event or (lambda event: None)
    done = len(groups.read_records(group, RECORDS))
    for index in range(done):
        notify(InverseBlockDone("diagonal", index, len(chunks), 0.0, True))
    groups.drop_records(group, RECORDS, done)

    def keep(index: int, values: Vector, seconds: float) -> None:
        array.write(f"chunk {index}", (slice(*chunks[index]),), values)
        groups.write_record(group, RECORDS, index, {"seconds": seconds})
        notify(InverseBlockDone("diagonal", index, len(chunks), seconds, False))

    if extended is not None:
        for index, chunk in enumerate(chunks):
            keep(index, extended[slice(*chunk)], 0.0)
    elif done < len(chunks):
        with task_runner(scheduler) as run:
            work = _Columns(factor, chunks, run, memory_limit, on_event)
            for indices, values, seconds in work.from_chunk(done):
                first = chunks[indices[0]][0]
                for index in indices:
                    c0, c1 = chunks[index]
                    keep(index, values[c0 - first : c1 - first], seconds / len(indices))
    return read_diagonal(url, plan)


def _is_whole(group: Any) -> bool:
    count = -(-group.attrs["n"] // group.attrs["block"])
    return len(groups.read_records(group, RECORDS)) == count


def read_diagonal(url: str, plan: PanelPlan) -> Vector:
    """Read a whole diagonal, (N,) float64.

    Raises:
        StoreError: It is damaged.
    """
    array = groups.CheckedArray(url, NAME, KIND, HOW)
    values = array.read("diagonal", RECORDS, (slice(0, plan.n),))
    if np.isnan(values).any():
        index = int(np.isnan(values).argmax()) // plan.block
        record = groups.record_name(RECORDS, index)
        raise array.damaged(f"chunk {index}", record, array.key(index), "is missing")
    return values


def _known(url: str, group: Any, former: Sequence[Former], plan: PanelPlan) -> Vector | None:
    """Return the stored diagonal of a smaller factor, if few enough rows were appended to it."""
    for one in former:
        # each appended row costs N² operations, the whole diagonal N³/3
        if one.digest == group.attrs["factor"] and 3 * (plan.n - one.rows) < plan.n:
            smaller = PanelPlan(one.rows, plan.width, plan.block)
            return read_diagonal(url, smaller) if _is_whole(group) else None
    return None


class _Columns:
    """The columns of L⁻¹, a batch of tasks at a time."""

    def __init__(
        self,
        factor: FactorStore,
        chunks: Sequence[tuple[int, int]],
        run: Runner,
        memory_limit: int,
        listener: Listener | None,
    ) -> None:
        n, block = factor.plan.n, factor.plan.block
        free = memory_limit - (factor.kept_bytes() if factor.keep else 0)
        self._edge = max(1, min(2 * LARGEST_BLOCK, free // (4 * ITEM * n), n))
        each = ITEM * (n * self._edge + 2 * n * block)
        self._at_once = max(1, free // each)
        self._factor, self._chunks, self._run = factor, chunks, run
        tasks = run.batch(self._at_once, _BATCH)
        # a task takes whole chunks, or several tasks take one
        self._together = max(1, self._edge // block)
        self._step = self._together * max(1, tasks * min(self._edge, block) // block)
        self._work = [substitution_flops(n - c0, c1 - c0) for c0, c1 in chunks]
        self._progress = Progress("diagonal", sum(self._work), listener)

    def from_chunk(self, first: int) -> Iterator[tuple[range, Vector, float]]:
        """Yield the chunks of each batch, their part of the diagonal, and the seconds it took."""
        from dask import delayed

        source = delayed(self._factor, pure=False, traverse=False)
        counter = delayed(self._progress, pure=False, traverse=False)
        task = delayed(_column_norms, pure=False)
        for start in range(first, len(self._chunks), self._step):
            self._progress.reach(sum(self._work[:start]))
            began = time.perf_counter()
            stop = min(start + self._step, len(self._chunks))
            tasks = [task(source, *piece, counter) for piece in self._pieces(start, stop)]
            parts = self._progress.watch(partial(self._run, tasks, self._at_once))
            yield range(start, stop), np.concatenate(parts), time.perf_counter() - began

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the columns that each task takes of chunks ``start`` to ``stop``."""
        groups_of = range(start, stop, self._together)
        wide = [
            (self._chunks[i][0], self._chunks[min(i + self._together, stop) - 1][1])
            for i in groups_of
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
    listener: Listener | None,
) -> Vector:
    """Return the diagonal from that of the first rows, a few rows of the factor at a time.

    With rows (X, S) below L, the inverse of the larger factor is (L⁻¹ 0; −S⁻¹XL⁻¹ S⁻¹): squared
    column norms grow by those of S⁻¹XL⁻¹, and S⁻¹ has the others.
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
