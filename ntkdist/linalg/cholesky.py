"""Block Cholesky by stored panels: H + ridge = L Lᵀ, resumable at the first missing panel.

Left-looking: panel k is A's columns minus the contributions of the earlier panels; then its
diagonal block is factored and the rows below are solved with it. Source: Golub and Van Loan 2013,
section 4.2.5 (block Cholesky).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ntkdist import storage
from ntkdist.checks import check_choice, check_flag, check_text
from ntkdist.events.bus import Subscriber
from ntkdist.events.types import FactorDevice, PanelDone, PanelStarted, RidgeTried
from ntkdist.linalg import blas, groups
from ntkdist.linalg.blas import Matrix, Vector, blas_threads
from ntkdist.linalg.device import DEVICES, Device, PanelRow, Place, Shared, joined, probe, together
from ntkdist.linalg.factor import CholeskyFactor
from ntkdist.linalg.matrix import Source, Survey, not_finite_in, survey_ranges, survey_rows
from ntkdist.linalg.panels import KIND, FactorStore, PanelPlan, panel_digest, plan_panels
from ntkdist.linalg.status import (
    RIDGE_LADDER,
    LinalgStatus,
    NotPositiveDefiniteError,
    check_ridge,
    not_finite,
    not_symmetric,
    parse_memory,
)
from ntkdist.linalg.tasks import (
    Progress,
    Runner,
    Scheduler,
    constant,
    notifier,
    side_by_side,
    task,
    task_runner,
    thread_count,
)
from ntkdist.words import counted


def factorize(
    a: Any,
    url: Any,
    *,
    ridge: float = 0.0,
    memory_limit: int | str = "2GiB",
    scheduler: Scheduler = None,
    device: str = "auto",
    on_event: Subscriber | None = None,
    fingerprint: str | None = None,
    overwrite: bool = False,
) -> CholeskyFactor:
    """Factor A + ridge·mean(diag A)·I = L Lᵀ in float64, panel by panel, into a Zarr group.

    Equivalent to ``scipy.linalg.cholesky(a, lower=True)`` where one panel fits the limit (one
    LAPACK call). After an interruption, the same call keeps the panels that are recorded as whole.
    The factor is the same to the bit under every scheduler and on any number of workers (given the
    same BLAS and the number of its threads, which is stored). Before the first panel, one pass
    over the matrix checks that it is finite and symmetric and takes its norm; until then nothing
    is written. A panel computed on a GPU has the same plan and differs by rounding; its record
    names the device.

    Args:
        a: (N, N) real symmetric: NumPy, Dask or Zarr array, or anything with ``.shape``,
            ``.dtype`` and two-dimensional basic slicing. Only the upper triangle is used; entries
            that a NumPy or Zarr array has below it (neither NaN nor zero) must equal those above.
            A Dask array is computed slice by slice, twice in all: store an expensive one first.
            On a cluster, pass a Zarr or Dask array: a NumPy array is sent with every panel.
        url: Folder or URL of the factor's own Zarr group.
        ridge: Added to the diagonal, relative to its mean; finite, >= 0.
        memory_limit: Bytes (or ``"2GiB"``, ``"500MB"``) for one process's work, without the
            matrix ``a`` itself. Decides the panel width of a new factor; a stored factor keeps
            its width.
        scheduler: None (whatever Dask is configured with), a Dask scheduler's name, ``"ray"``,
            an address ``tcp://host:port``, a Dask ``get`` function or a distributed Client.
        device: Where the products, the factorisation of the diagonal block and the triangular
            solves of a panel are computed: ``cpu``, ``cuda`` (CuPy on the first visible GPU), or
            ``auto``: a GPU where CuPy finds one and a panel fits its free memory, else the CPU; a
            factor begun on the CPU is continued there. Each worker process looks for a GPU of its
            own. A factor may be continued on another device.
        on_event: Called with ``PanelStarted``, ``PanelDone``, every few seconds
            ``LinalgProgress``, ``FactorDevice`` where a GPU computes or is passed over and, after
            a failure, ``RidgeTried``, from this thread.
        fingerprint: Text that identifies the matrix; None hashes its shape, dtype, diagonal,
            first row and last column.
        overwrite: Replace a stored factor.

    Returns:
        The factor, opened.

    Raises:
        InputError: The matrix is not square, real, symmetric and finite; the limit is too small;
            another ridge, fingerprint or matrix is stored at ``url``; it cannot be written; or
            ``device`` is ``cuda`` and a worker has no GPU, or too little memory on it.
        NotPositiveDefiniteError: There is no factor. ``url`` then holds an empty group.
        StoreError: A stored panel is damaged, or a panel could not be written.
        DeviceLostError: ``device`` is ``cuda`` and the GPU failed.
    """
    source = Source(a)
    ridge = check_ridge(ridge)
    overwrite = check_flag("overwrite", overwrite)
    check_text("fingerprint", fingerprint)
    check_choice("device", device, DEVICES)
    limit = parse_memory(memory_limit)
    address = storage.normal(url)
    with task_runner(scheduler) as run:
        old = None if overwrite else FactorStore.open(address)
        plan = plan_panels(source.n, limit) if old is None else old[0].plan
        fingerprint = source.fingerprint() if fingerprint is None else fingerprint
        if old is not None:
            store, attributes = old
            wanted = {"n": source.n, "ridge": ridge, "fingerprint": fingerprint}
            groups.check_same(address, "a factor", attributes, wanted)
            store.prepare()
            device, place = _settle_device(device, plan, store.records(), run)
        else:
            device, place = _settle_device(device, plan, [], run)
            attributes, sums = _survey(source, plan, run, limit, ridge, fingerprint, on_event)
            store = FactorStore.create(address, plan, attributes, sums)
        failure = _resume(source, store, attributes, run, limit, device, place, on_event)
        if failure is not None:
            _explain(failure, source, store, attributes, run, limit, device, on_event)
    return CholeskyFactor.open(address, memory_limit=limit, scheduler=scheduler)


def _settle_device(
    device: str, plan: PanelPlan, done: list[dict[str, Any]], run: Runner
) -> tuple[str, Place]:
    """Return the device to ask of the tasks, and where the first of them will compute.

    ``auto`` keeps to the CPU where all stored panels were computed there, as the number of BLAS
    threads is kept: the factor then has the bits of one that was not interrupted. Where another
    device has to go on, or is asked for, the stored panels are kept all the same.
    """
    if len(done) == plan.first_count:
        return device, Place("")  # nothing is left to compute
    place: Place = run([task(probe)(device, plan)])[0]
    begun = joined(record.get("device", "cpu") for record in done)
    if device == "auto" and begun == "cpu":
        panels = counted(len(done), "panel")
        reason = f"as the {panels} stored; device cuda continues on the GPU"
        return "cpu", Place("cpu", reason, expected=place.device == "cpu")
    if begun not in ("", place.device):
        kept = f"{counted(len(done), 'panel')} computed on {begun} kept: they agree to rounding"
        return device, Place(place.device, "; ".join(filter(None, (place.reason, kept))))
    return device, place


def _survey(
    source: Source,
    plan: PanelPlan,
    run: Runner,
    limit: int,
    ridge: float,
    fingerprint: str,
    listener: Subscriber | None,
) -> tuple[dict[str, Any], Vector]:
    """Take one pass over the matrix; return its factor's attributes, and its column sums."""
    ranges = survey_ranges(source.n, source.edge, plan.block)
    progress = Progress("survey", source.n, listener)
    matrix, counter, survey = constant(source), constant(progress), task(_survey_counted)
    tasks = [survey(matrix, r0, r1, plan.block, counter) for r0, r1 in ranges]
    parts = progress.watch(lambda: run(tasks, plan.tasks_at_once(limit)))
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
    survey = survey_rows(source, r0, r1, block)
    progress.add(r1 - r0)
    return survey


def _resume(
    source: Source,
    store: FactorStore,
    attributes: dict[str, Any],
    run: Runner,
    limit: int,
    device: str,
    place: Place,
    listener: Subscriber | None,
) -> _PanelFailure | None:
    """Compute the panels that have no record, and record each.

    ``place`` is where the first of them is expected to be computed.
    """
    notify = notifier(listener)
    plan = store.plan
    count = plan.first_count
    total = sum(plan.flops(k) for k in range(count))
    progress = Progress("factor", total, listener)
    done = store.records()
    if len(done) < count:
        store.forget(len(done))
        _announce(place, notify)
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
            panel = _compute_panel(source, store, k, shift, run, limit, threads, device, progress)
            if isinstance(panel, _PanelFailure):
                return panel
            seconds = time.perf_counter() - began
            fields, here = panel
            store.record(k, {"index": k, "seconds": seconds, "device": here.device, **fields})
            if here.device != place.device:
                _announce(here, notify)
            place = here
        progress.reach(share * total)
        rate = flops / max(seconds, 1e-9) / 1e9
        notify(PanelDone(k, count, seconds, rate, resumed, min(share, 1.0)))
    return None


def _announce(place: Place, notify: Subscriber) -> None:
    """Emit where panels are computed, unless it is the CPU and no GPU was expected."""
    if place.device != "cpu" or not place.expected:
        notify(FactorDevice(place.device, place.reason))


@dataclass(frozen=True)
class _PanelFailure:
    """Why a panel could not be finished.

    ``pivot`` is the first failing pivot, from 0 in the whole matrix, and ``value`` the Schur
    complement's diagonal entry there; None where a value was not finite.
    """

    pivot: int | None
    value: float = float("nan")


@dataclass(frozen=True)
class _DiagonalDone:
    """A stored diagonal block, or its failure, after which nothing was stored.

    ``digests`` has the sha256 of its chunks, one entry for each row of chunks; ``log_diagonal`` is
    the sum of log L_ii and ``min_pivot`` the smallest L_ii squared.
    """

    place: Place
    digests: tuple[bytes, ...] = ()
    log_diagonal: float = 0.0
    min_pivot: float = 0.0
    failure: _PanelFailure | None = None


@dataclass(frozen=True)
class _RowsDone:
    """Stored rows below a diagonal block: the sha256 of their chunks, and where."""

    place: Place
    digest: bytes


def _read_row(store: FactorStore, k: int, device: str) -> PanelRow:
    """Read panel k's rows of the earlier panels: L[k, 0], ..., L[k, k-1]."""
    first, past = store.plan.columns(k)
    return PanelRow([store.rows(j, first, past) for j in range(k)], device, store.plan)


def _factor_diagonal(
    source: Source,
    store: FactorStore,
    k: int,
    shift: float,
    row: PanelRow,
    threads: int,
    progress: Progress,
) -> tuple[_DiagonalDone, Shared | None]:
    """Factor and store the diagonal block of panel ``k``; return L[k, k] too where rows follow."""
    first, past = store.plan.columns(k)
    lower = np.zeros((past - first, past - first))
    source.fill_lower(lower, first, store.plan.block)
    np.fill_diagonal(lower, lower.diagonal() + shift)

    def factor(device: Device, blocks: list[Any]) -> tuple[Any, int, float]:
        """Factor ``lower``; return its copy on a GPU, the failing pivot (or -1) and its value."""
        with blas_threads(threads):
            there = device.put(lower)
            for block in blocks:
                device.subtract_gram(there, block)
                progress.add(float(block.shape[0]) ** 2 * block.shape[1])
            factored = device.cholesky(there)
            device.fetch(there if factored is None else factored, lower)
            if factored is not None:
                return factored, -1, 0.0
            diagonal = lower.diagonal().copy()
            pivot = blas.cholesky_lower(lower)
        # row ``pivot`` of L is finished up to its diagonal entry, which is undefined
        done = lower[pivot, : max(pivot, 0)]
        return None, pivot, float(diagonal[pivot] - done @ done)

    (copy, pivot, value), place = row.compute(factor)
    progress.add(len(lower) ** 3 / 3)
    if pivot >= 0:
        failure = _PanelFailure(first + pivot if np.isfinite(value) else None, value)
        return _DiagonalDone(place, failure=failure), None

    def store_rows(rows: tuple[int, int]) -> bytes | None:
        r0, r1 = rows
        values = lower[r0 - first : r1 - first]
        return store.write(k, r0, r1, first, past, values) if np.isfinite(values).all() else None

    digests = side_by_side(store_rows, store.plan.blocks(first, past))
    if None in digests:
        return _DiagonalDone(place, failure=_PanelFailure(None)), None
    roots = lower.diagonal()
    summary = _DiagonalDone(
        place, tuple(digests), float(np.log(roots).sum()), float(np.square(roots).min())
    )
    if past == store.plan.n:
        return summary, None
    return summary, Shared([lower], None if copy is None else [copy])


def _finish_rows(
    source: Source,
    store: FactorStore,
    k: int,
    r0: int,
    r1: int,
    row: PanelRow,
    lower: Shared | None,
    progress: Progress,
) -> _RowsDone | _PanelFailure | None:
    """Update, solve and store rows r0:r1 of panel ``k``, with one BLAS thread.

    Returns None where the diagonal block failed.
    """
    if lower is None:
        return None
    first, past = store.plan.columns(k)

    def finish(device: Device, blocks: list[Any]) -> Matrix:
        values = np.array(source.block(first, past, r0, r1).T, order="C")
        with blas_threads(1):
            there = device.put(values)
            for j, block in enumerate(blocks):
                device.subtract_product(there, device.put(store.rows(j, r0, r1)), block)
                progress.add(2.0 * len(values) * block.shape[0] * block.shape[1])
            device.fetch(device.solve_lower(lower.on(device)[0], there), values)
            progress.add(float(len(values)) * (past - first) ** 2)
        return values

    values, place = row.compute(finish)
    if not np.isfinite(values).all():
        return _PanelFailure(None)
    return _RowsDone(place, store.write(k, r0, r1, first, past, values))


def _compute_panel(
    source: Source,
    store: FactorStore,
    k: int,
    shift: float,
    run: Runner,
    limit: int,
    threads: int,
    device: str,
    progress: Progress,
) -> tuple[dict[str, Any], Place] | _PanelFailure:
    """Compute and store one panel after the earlier ones.

    Returns the fields of its record, and where it was computed.
    """
    plan = store.plan
    matrix, factor, counter = constant(source), constant(store), constant(progress)
    row = task(_read_row)(factor, k, device)
    head, lower = task(_factor_diagonal, outputs=2)(matrix, factor, k, shift, row, threads, counter)
    finish = task(_finish_rows)
    below = [
        finish(matrix, factor, k, r0, r1, row, lower, counter)
        for r0, r1 in plan.blocks(plan.columns(k)[1], plan.n)
    ]
    results = progress.watch(lambda: run([head, *below], plan.tasks_at_once(limit)))
    diagonal: _DiagonalDone = results[0]
    if diagonal.failure is not None:
        return diagonal.failure
    digests, places = list(diagonal.digests), [diagonal.place]
    for result in results[1:]:
        if not isinstance(result, _RowsDone):
            return _PanelFailure(None)
        digests.append(result.digest)
        places.append(result.place)
    return {
        "sha256": panel_digest(digests),
        "min_pivot": diagonal.min_pivot,
        "log_diagonal": diagonal.log_diagonal,
    }, together(places)


def _explain(
    failure: _PanelFailure,
    source: Source,
    store: FactorStore,
    attributes: dict[str, Any],
    run: Runner,
    limit: int,
    device: str,
    listener: Subscriber | None,
) -> NoReturn:
    """Raise the error for a failed panel, and remove the unfinished factor."""
    store.forget(0)
    plan, mean, ridge = store.plan, attributes["mean_diagonal"], attributes["ridge"]
    threads = attributes["blas_threads"]
    if failure.pivot is None:
        groups.clear_group(store.url, KIND)
        raise not_finite_in(source, plan.block)

    def fails(shift: float) -> bool:
        counts = range(plan.count)
        progress = Progress("ridge", sum(plan.flops(k) for k in counts), listener)
        panels = (
            _compute_panel(source, store, k, shift, run, limit, threads, device, progress)
            for k in counts
        )
        return any(isinstance(panel, _PanelFailure) for panel in panels)

    suggested = _suggest_ridge(source, plan, ridge, mean, fails, notifier(listener))
    groups.clear_group(store.url, KIND)
    status = LinalgStatus.NOT_POSITIVE_DEFINITE
    if suggested is None:
        status = LinalgStatus.NO_RIDGE_PASSES
    pivot, value = failure.pivot, failure.value
    text = status.message(
        pivot=pivot, n=plan.n, value=value, ridge=ridge, mean=mean, suggested=suggested
    )
    raise NotPositiveDefiniteError(
        text, pivot=pivot, value=value, ridge=ridge, suggested_ridge=suggested
    )


def _suggest_ridge(
    source: Source,
    plan: PanelPlan,
    ridge: float,
    mean: float,
    fails: Callable[[float], bool],
    notify: Subscriber,
) -> float | None:
    """Return the smallest step of the ladder above ``ridge`` that passes; None where none does.

    Every answer comes from a factorisation. Where the matrix fits the memory limit (one panel),
    its smallest eigenvalue tells which step to try first, and that step and its neighbours are
    factored in memory. Otherwise the ladder is bisected with whole factorisations in the failed
    factor's store: at most four. ``fails`` takes an absolute ridge.
    """
    steps = [step for step in RIDGE_LADDER if step > ridge]
    if mean <= 0 or not steps:
        return None
    start = None
    if plan.count == 1:
        needed = -_smallest_eigenvalue(source, plan) / mean
        start = next((i for i, step in enumerate(steps) if step > needed), len(steps))
        fails = _in_memory(source, plan)

    def passes(index: int) -> bool:
        passed = not fails(steps[index] * mean)
        notify(RidgeTried(steps[index], passed))
        return passed

    best = first_passing(len(steps), passes, start)
    return steps[best] if best < len(steps) else None


def first_passing(count: int, passes: Callable[[int], bool], start: int | None = None) -> int:
    """Return the first of ``count`` steps that passes, ``count`` where none does.

    Steps after a passing one are assumed to pass. Both sides of the answer are tried: the step
    returned has passed and the one before it has failed.

    Args:
        count: Number of steps.
        passes: Tries one step.
        start: A guess, from which the search moves step by step; None bisects.
    """
    low, high = 0, count  # before low all fail, from high on all pass
    guess = start
    while low < high:
        middle = (low + high) // 2 if guess is None else min(max(guess, low), high - 1)
        if passes(middle):
            high = middle
            guess = None if guess is None else middle - 1
        else:
            low = middle + 1
            guess = None if guess is None else middle + 1
    return high


def _smallest_eigenvalue(source: Source, plan: PanelPlan) -> float:
    """Return the smallest eigenvalue of the whole matrix (LAPACK syevr)."""
    from scipy.linalg import eigh

    return float(
        eigh(
            _load(source, plan).T,  # column-major for LAPACK: no second copy
            lower=False,
            eigvals_only=True,
            subset_by_index=[0, 0],
            overwrite_a=True,
            check_finite=False,
        )[0]
    )


def _in_memory(source: Source, plan: PanelPlan) -> Callable[[float], bool]:
    """Return a function that factors in memory, on the CPU, and returns whether that fails."""

    def fails(shift: float) -> bool:
        lower = _load(source, plan)
        np.fill_diagonal(lower, lower.diagonal() + shift)
        return blas.cholesky_lower(lower) >= 0

    return fails


def _load(source: Source, plan: PanelPlan) -> Matrix:
    lower = np.zeros((source.n, source.n))
    source.fill_lower(lower, 0, plan.block)
    return lower
