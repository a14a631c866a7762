"""Block Cholesky by stored panels: H + ridge = L Lᵀ, resumable at the first missing panel."""

from __future__ import annotations

import time
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.linalg import groups
from ntkdist.linalg._checks import check_ridge
from ntkdist.linalg.events import Listener, PanelDone, PanelStarted
from ntkdist.linalg.factor import CholeskyFactor
from ntkdist.linalg.status import not_finite, not_positive_definite, not_symmetric
from ntkdist.linalg.panel_tasks import (
    DiagonalDone,
    PanelFailure,
    factor_diagonal,
    finish_rows,
    read_row,
)
from ntkdist.linalg.panels import PanelPlan, parse_memory, plan_panels
from ntkdist.linalg.progress import Progress
from ntkdist.linalg.ridge import suggest_ridge
from ntkdist.linalg.tasks import Runner, Scheduler, task_runner, thread_count
from ntkdist.linalg.matrix import Source, Survey, spoiled, survey_ranges, survey_rows
from ntkdist.linalg.store import KIND, FactorStore, panel_digest


def factorize(
    a: Any,
    url: Any,
    *,
    ridge: float = 0.0,
    memory_limit: int | str = "2GiB",
    scheduler: Scheduler = None,
    on_event: Listener | None = None,
    fingerprint: str | None = None,
    overwrite: bool = False,
) -> CholeskyFactor:
    """Factor A + ridge·mean(diag A)·I = L Lᵀ in float64, panel by panel, into a Zarr group.

    Equivalent to ``scipy.linalg.cholesky(a, lower=True)`` where one panel fits the limit (one
    LAPACK call). Start it again with the same arguments after an interruption: panels recorded
    as whole are kept, and the factor is the same to the bit, whichever scheduler and however many
    workers compute it (given the same BLAS and the number of its threads, which is stored).
    Before the first panel, one pass over the matrix checks that it is finite and symmetric and
    takes its norm; nothing is written until that is done.

    Args:
        a: (N, N) real symmetric: NumPy, Dask or Zarr array, or anything with ``.shape``,
            ``.dtype`` and two-dimensional basic slicing. Only the upper triangle is used; what a
            NumPy or Zarr array has below it (neither NaN nor zero) must mirror it. A Dask
            array is computed slice by slice, twice in all: store an expensive one first. On a
            cluster, pass a Zarr or Dask array: a NumPy array would travel with every panel.
        url: Folder or URL of the factor's own Zarr group.
        ridge: Added to the diagonal, relative to its mean; finite, >= 0.
        memory_limit: Bytes (or ``"2GiB"``, ``"500MB"``) for one process's work, the matrix ``a``
            itself not counted. Decides the panel width of a new factor; a stored factor keeps
            the width it has.
        scheduler: None (whatever Dask is configured with), a Dask scheduler's name, ``"ray"``,
            an address ``tcp://host:port``, a Dask ``get`` function or a distributed Client.
        on_event: Called with ``PanelStarted``, ``PanelDone``, every few seconds
            ``LinalgProgress`` and, after a failure, ``RidgeTried``, from this thread.
        fingerprint: What identifies the matrix; None hashes its shape, dtype, diagonal, first
            row and last column.
        overwrite: Drop a factor that is there and compute it anew.

    Returns:
        The factor, opened.

    Raises:
        InputError: The matrix is not square, real, symmetric and finite; the limit is too small;
            another ridge, fingerprint or matrix is stored at ``url``; or it cannot be written.
        NotPositiveDefiniteError: There is no factor. ``url`` is left as an empty group.
        StoreError: A stored panel is damaged, or the store refuses to be written.
    """
    source = Source(a)
    ridge = check_ridge(ridge)
    limit = parse_memory(memory_limit)
    address = storage.normal(url)
    with task_runner(scheduler) as run:
        old = None if overwrite else FactorStore.open(address)
        plan = plan_panels(source.n, limit) if old is None else old[0].plan
        print_of = source.fingerprint() if fingerprint is None else fingerprint
        if old is not None:
            store, attributes = old
            wanted = {"n": source.n, "ridge": ridge, "fingerprint": print_of}
            groups.refuse_other(address, "a factor", attributes, wanted)
            store.prepare()
        else:
            attributes, sums = _survey(source, plan, run, limit, ridge, print_of, on_event)
            store = FactorStore.create(address, plan, attributes, sums)
        failure = _resume(source, store, attributes, run, limit, on_event)
        if failure is not None:
            _explain(failure, source, store, attributes, run, limit, on_event)
    return CholeskyFactor.open(address, memory_limit=limit, scheduler=scheduler)


def _survey(
    source: Source,
    plan: PanelPlan,
    run: Runner,
    limit: int,
    ridge: float,
    fingerprint: str,
    listener: Listener | None,
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Take one pass over the matrix; return its factor's attributes, and its column sums."""
    from dask import delayed

    matrix = delayed(source, pure=False, traverse=False)
    ranges = survey_ranges(source.n, source.edge, plan.block)
    progress = Progress("survey", source.n, listener)
    counter = delayed(progress, pure=False, traverse=False)
    look = delayed(_survey_counted, pure=False)
    looks = [look(matrix, r0, r1, plan.block, counter) for r0, r1 in ranges]
    parts = progress.watch(lambda: run(looks, plan.tasks_at_once(limit)))
    sums = np.zeros(source.n)
    for part in parts:
        if part.bad is not None:
            raise not_finite(part.bad)
        if part.skew is not None:
            raise not_symmetric(part.skew)
        sums[part.start :] += part.sums
    diagonal = np.concatenate([part.diagonal for part in parts])
    mean = float(diagonal.mean())
    shift = ridge * mean
    sums += np.abs(diagonal + shift)
    attributes = {
        "ridge": ridge,
        "ridge_absolute": shift,
        "mean_diagonal": mean,
        "norm1": float(sums.max()),
        "blas_threads": thread_count(),
        "fingerprint": fingerprint,
    }
    return attributes, sums


def _survey_counted(source: Source, r0: int, r1: int, block: int, progress: Progress) -> Survey:
    found = survey_rows(source, r0, r1, block)
    progress.add(r1 - r0)
    return found


def _resume(
    source: Source,
    store: FactorStore,
    attributes: dict[str, Any],
    run: Runner,
    limit: int,
    listener: Listener | None,
) -> PanelFailure | None:
    """Compute the panels that have no record, and record each."""
    notify: Listener = listener or (lambda event: None)
    plan = store.plan
    count = plan.first_count
    total = sum(plan.flops(k) for k in range(count))
    progress = Progress("factor", total, listener)
    done = store.records()
    if len(done) < count:
        store.forget(len(done))
    share = 0.0
    for k in range(count):
        flops = plan.flops(k)
        share += flops / total
        resumed = k < len(done)
        if resumed:
            seconds = float(done[k]["seconds"])
        else:
            notify(PanelStarted(k, count))
            began = time.perf_counter()
            shift, threads = attributes["ridge_absolute"], attributes["blas_threads"]
            outcome = compute_panel(source, store, k, shift, run, limit, threads, progress)
            if isinstance(outcome, PanelFailure):
                return outcome
            seconds = time.perf_counter() - began
            store.record(k, {"index": k, "seconds": seconds, **outcome})
        progress.reach(share * total)
        rate = flops / max(seconds, 1e-9) / 1e9
        notify(PanelDone(k, count, seconds, rate, resumed, min(share, 1.0)))
    return None


def compute_panel(
    source: Source,
    store: FactorStore,
    k: int,
    shift: float,
    run: Runner,
    limit: int,
    threads: int,
    progress: Progress,
) -> dict[str, Any] | PanelFailure:
    """Compute and store one panel; its record is left to the caller.

    Args:
        source: The matrix.
        store: The factor, its earlier panels whole.
        k: Panel.
        shift: Absolute ridge.
        run: Computes Delayed objects.
        limit: Bytes; caps the tasks that run at once in this process.
        threads: Of BLAS, for the diagonal block.
        progress: Counts the panel's operations and tells of them.

    Returns:
        ``sha256``, ``min_pivot`` and ``log_diagonal`` of the panel; or why it failed.
    """
    from dask import delayed

    plan = store.plan
    # unexamined: Dask would otherwise hash the matrix, or compute a Dask array inside it
    matrix = delayed(source, pure=False, traverse=False)
    factor = delayed(store, pure=False, traverse=False)
    counter = delayed(progress, pure=False, traverse=False)
    row = delayed(read_row, pure=False)(factor, k)
    head, lower = delayed(factor_diagonal, pure=False, nout=2)(
        matrix, factor, k, shift, row, threads, counter
    )
    finish = delayed(finish_rows, pure=False)
    below = [
        finish(matrix, factor, k, r0, r1, row, lower, counter)
        for r0, r1 in plan.blocks(plan.columns(k)[1], plan.n)
    ]
    results = progress.watch(lambda: run([head, *below], plan.tasks_at_once(limit)))
    summary: DiagonalDone = results[0]
    if summary.failure is not None:
        return summary.failure
    digests = list(summary.digests)
    for result in results[1:]:
        if not isinstance(result, bytes):
            return PanelFailure(None)
        digests.append(result)
    return {
        "sha256": panel_digest(digests),
        "min_pivot": summary.min_pivot,
        "log_diagonal": summary.log_diagonal,
    }


def _explain(
    failure: PanelFailure,
    source: Source,
    store: FactorStore,
    attributes: dict[str, Any],
    run: Runner,
    limit: int,
    listener: Listener | None,
) -> NoReturn:
    """Raise the error for a failed panel, and leave nothing of the factor behind."""
    notify: Listener = listener or (lambda event: None)
    store.forget(0)
    plan, mean, ridge = store.plan, attributes["mean_diagonal"], attributes["ridge"]
    threads = attributes["blas_threads"]
    if failure.pivot is None:
        groups.clear_group(store.url, KIND)
        raise spoiled(source, plan.block)

    def fails(shift: float) -> bool:
        counts = range(plan.count)
        progress = Progress("ridge", sum(plan.flops(k) for k in counts), listener)
        panels = (
            compute_panel(source, store, k, shift, run, limit, threads, progress) for k in counts
        )
        return any(isinstance(panel, PanelFailure) for panel in panels)

    suggested = suggest_ridge(source, plan, ridge, mean, fails, notify)
    groups.clear_group(store.url, KIND)
    raise not_positive_definite(
        pivot=failure.pivot,
        value=failure.value,
        n=plan.n,
        ridge=ridge,
        mean=mean,
        suggested=suggested,
    )
