"""Computing the whole inverse from a stored factor, block by block, resumable."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from ntkdist.linalg import blas, groups
from ntkdist.linalg.events import InverseBlockDone, Listener
from ntkdist.linalg.inverse import HOW, KIND, ROW_RECORDS, InverseStore
from ntkdist.linalg.panels import ITEM, PanelPlan
from ntkdist.linalg.progress import Progress
from ntkdist.linalg.tasks import Scheduler, blas_threads, task_runner
from ntkdist.linalg.solve import backward, forward, substitution_flops
from ntkdist.linalg.matrix import Matrix
from ntkdist.linalg.store import FactorStore

COLUMN_RECORDS = "column_blocks"
_BATCH = 16  # blocks between two records


def compute_inverse(
    factor: FactorStore,
    digest: str,
    url: str,
    *,
    threads: int,
    memory_limit: int,
    scheduler: Scheduler = None,
    on_event: Listener | None = None,
    overwrite: bool = False,
) -> InverseStore:
    """Compute the inverse from a finished factor, block by block; resumable.

    One panel: one LAPACK call (dpotri). Several: Dask tasks compute block columns of the lower
    triangle by two substitutions each, which start at their own row (so 2N³/3 operations in
    all), and the rows are then put together from them.

    Args:
        factor: The factor.
        digest: What identifies the factor.
        url: Where the inverse goes.
        threads: Of BLAS, where it is one call.
        memory_limit: Bytes; caps the tasks that run at once in this process.
        scheduler: As for :func:`ntkdist.linalg.factorize`.
        on_event: Called with an ``InverseBlockDone`` for each block, and every few seconds with a
            ``LinalgProgress``.
        overwrite: Drop what is there.

    Returns:
        The inverse, opened.

    Raises:
        InputError: ``url`` holds another factor's inverse, or cannot be written.
        StoreError: A stored part is damaged, or the store refuses to be written.
    """
    notify: Listener = on_event or (lambda event: None)
    plan = PanelPlan(factor.plan.n, factor.plan.width, factor.plan.block)
    group = None if overwrite else groups.open_group(url, KIND, mode="r+")
    if group is None:
        cut = {"n": plan.n, "panel_width": plan.width, "block": plan.block}
        group = groups.create_group(url, KIND, {**cut, "factor": digest})
    else:
        groups.refuse_other(url, "the inverse", dict(group.attrs), {"factor": digest})
    n, block = plan.n, plan.block
    groups.create_array(group, "rows", shape=(n, n), chunks=(1, n), shards=(block, n))
    groups.create_array(group, "diagonal", shape=(n,), chunks=(block,))
    blocks = plan.blocks(0, n)
    done = len(groups.read_records(group, ROW_RECORDS))
    for index in range(done):
        notify(InverseBlockDone("rows", index, len(blocks), 0.0, True))
    if done < len(blocks):
        groups.drop_records(group, ROW_RECORDS, done)
        lower: Matrix | groups.CheckedArray
        if factor.plan.count == 1:
            factor.release()  # what LAPACK overwrites is read afresh

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
        groups.drop_records(group, COLUMN_RECORDS, 0)
        del group["columns"]
    return InverseStore.open(url)


def _compute_columns(
    factor: FactorStore,
    url: str,
    group: Any,
    memory_limit: int,
    scheduler: Scheduler,
    listener: Listener | None,
) -> groups.CheckedArray:
    """Compute the lower triangle in square chunks, a batch of block columns at a time."""
    from dask import delayed

    notify: Listener = listener or (lambda event: None)
    plan = PanelPlan(factor.plan.n, factor.plan.width, factor.plan.block)
    n, edge = plan.n, plan.block
    groups.create_array(group, "columns", shape=(n, n), chunks=(edge, edge))
    blocks = plan.blocks(0, n)
    done = len(groups.read_records(group, COLUMN_RECORDS))
    groups.drop_records(group, COLUMN_RECORDS, done)
    for index in range(done):
        notify(InverseBlockDone("columns", index, len(blocks), 0.0, True))
    free = memory_limit - (factor.kept_bytes() if factor.keep else 0)
    each = ITEM * (2 * n * edge + 2 * n * plan.block)  # x, its copy in the codec, two strips
    at_once = max(1, free // each)
    columns = groups.CheckedArray(url, "columns", KIND, HOW)
    source = delayed(factor, pure=False, traverse=False)
    target = delayed(columns, pure=False, traverse=False)
    task = delayed(_column_block, pure=False)
    work = [2 * substitution_flops(n - c0, c1 - c0) for c0, c1 in blocks]
    progress = Progress("columns", sum(work), listener)
    counter = delayed(progress, pure=False, traverse=False)
    with task_runner(scheduler) as run:
        for start in range(done, len(blocks), _BATCH):
            progress.reach(sum(work[:start]))
            began = time.perf_counter()
            some = range(start, min(start + _BATCH, len(blocks)))
            tasks = [task(source, target, *blocks[index], counter) for index in some]
            progress.watch(partial(run, tasks, at_once))
            seconds = (time.perf_counter() - began) / len(some)
            for index in some:
                groups.write_record(group, COLUMN_RECORDS, index, {"seconds": seconds})
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
    listener: Listener | None,
) -> None:
    """Put the rows together from the lower triangle and its mirror image."""
    notify: Listener = listener or (lambda event: None)
    plan = inverse.plan
    n = plan.n

    def read(r0: int, r1: int, c0: int, c1: int) -> Matrix:
        if isinstance(lower, np.ndarray):
            return lower[r0:r1, c0:c1]
        index = c0 // plan.block
        record = groups.record_name(COLUMN_RECORDS, index)
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
            record = groups.record_name(COLUMN_RECORDS, block)
            raise inverse.row_array.damaged(f"column block {block}", record, key, "misses a chunk")
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
        groups.write_record(group, ROW_RECORDS, index, {"seconds": seconds})
        notify(InverseBlockDone("rows", index, len(blocks), seconds, False))
