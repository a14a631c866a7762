"""Preconditioned block conjugate gradients over stored tiles, for N where N³ is out of reach."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntkdist import storage
from ntkdist.checks import (
    check_flag,
    check_fraction,
    check_number,
    check_seed,
    check_text,
    check_whole,
    is_auto,
)
from ntkdist.events.bus import Subscriber
from ntkdist.events.types import IterationDone, SketchDone
from ntkdist.linalg import groups
from ntkdist.linalg.blas import ITEM, Matrix, Vector, blas_threads_between
from ntkdist.linalg.matrix import Source, SymmetricOperator
from ntkdist.linalg.status import (
    LinalgStatus,
    NotConvergedError,
    NotPositiveDefiniteError,
    check_memory,
    check_ridge,
    check_vectors,
    parse_memory,
)
from ntkdist.linalg.tasks import Scheduler, notifier, task_runner, thread_count
from ntkdist.storage.arrays import row_chunks

#: A direction is dropped if its component outside the span of the others is below this share.
_DEPENDENT = 1e-10
#: Iterations in which the residual has to halve.
_PATIENCE = 150
#: Arrays of the right-hand sides' size that an iteration holds.
_COPIES = 10
#: Columns of the sketch beyond which it costs more than the saved iterations (N near 20,000).
_LARGEST_RANK = 768
#: Eigenvalues below this share of the largest are rounding errors.
_ROUNDING = 1e-14
#: Copies of an (N, rank) array while the preconditioner is built.
_SKETCH_COPIES = 6

_KIND = "solution"
_PROCESS = "the solver"
_STATES = "states"
_SKETCH = "sketch"
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class CgResult:
    """Result of conjugate gradients.

    Attributes:
        x: (N,) or (N, K) float64, the solution.
        status: ``LinalgStatus.CONVERGED``, ``TOO_MANY_ITERATIONS`` or ``STAGNATED``.
        residuals: (K,) float64, ‖B_k − (A + ridge) X_k‖ / ‖B_k‖, computed from ``x`` itself.
        history: (iterations,) float64, the largest of them after each iteration, by recurrence.
        rank: Rank of the preconditioner.
        passes: Passes over the matrix in this call (0 if the result was stored).
    """

    x: NDArray[np.float64]
    status: LinalgStatus
    residuals: Vector
    history: Vector
    rank: int
    passes: int

    @property
    def iterations(self) -> int:
        """Number of iterations, with those of earlier starts."""
        return len(self.history)


def cg_solve(
    a: Any,
    b: ArrayLike,
    *,
    ridge: float = 0.0,
    tolerance: float = 1e-8,
    max_iterations: int = 500,
    rank: int | str = "auto",
    seed: int = 0,
    url: Any = None,
    save_every: float = 60.0,
    memory_limit: int | str = "2GiB",
    scheduler: Scheduler = None,
    on_event: Subscriber | None = None,
    fingerprint: str | None = None,
    overwrite: bool = False,
    throw: bool = True,
) -> CgResult:
    """Solve (A + ridge·mean(diag A)·I) X = B by block conjugate gradients.

    All right-hand sides share one Krylov space, and an iteration is one pass over the upper
    triangle of A, which stays in memory if it fits half of ``memory_limit``. Search directions
    are orthonormalised and dependent ones are dropped, so that right-hand sides may converge at
    different times, repeat or be zero.

    With a ``url`` the iterates are stored there every ``save_every`` seconds, when ``on_event``
    raises, and at the end; the same call continues from the last one with the same bits.

    Args:
        a: (N, N) real symmetric, as for :func:`ntkdist.linalg.factorize`.
        b: (N,) or (N, K) right-hand sides.
        ridge: Added to the diagonal, relative to its mean; finite, >= 0.
        tolerance: Largest ‖B_k − (A + ridge) X_k‖ / ‖B_k‖ to stop at; 0 < tolerance < 1.
        max_iterations: Most iterations, with those of earlier starts.
        rank: Eigenpairs in the randomised Nyström preconditioner; 0 for none; ``"auto"`` takes
            N/8, at most 768 and at most what fits half of the memory limit.
        seed: Seed of the sketch.
        url: Folder or URL of the solution's own Zarr group; None stores nothing.
        save_every: Seconds between two stored iterates.
        memory_limit: Bytes (or ``"2GiB"``) for one process's work.
        scheduler: As for :func:`ntkdist.linalg.factorize`.
        on_event: Called with ``SketchDone`` and an ``IterationDone`` for each iteration.
        fingerprint: Text that identifies the matrix; None hashes a sample of it.
        overwrite: Drop the iterates stored at ``url``.
        throw: Whether to raise if the tolerance is not reached; if not, ``.status`` tells.

    Returns:
        The solution and its residuals.

    Raises:
        InputError: A bad argument, too little memory, or ``url`` holds another system.
        NotPositiveDefiniteError: A search direction has negative curvature.
        NotConvergedError: The tolerance was not reached; ``.result`` holds the result so far.
        StoreError: The matrix or the stored iterates cannot be read or written.

    Source:
        O'Leary 1980, "The block conjugate gradient algorithm"; Ji and Li 2017, "A breakdown-free
        block conjugate gradient method", algorithm 2; Frangella, Tropp and Udell 2023.
    """
    source = Source(a)
    rhs = check_vectors(b, source.n)
    n, k = rhs.shape
    ridge = check_ridge(ridge)
    check_fraction("tolerance", tolerance, "1e-8 is usual")
    check_whole("max_iterations", max_iterations, 1, "give a larger one")
    limit = parse_memory(memory_limit)
    if is_auto(rank):
        rank = choose_rank(n, limit)
    rank = check_whole("rank", rank, 0, "or pass 'auto'", most=n)
    seed = check_seed(seed)
    check_number("save_every", save_every, 0.0, math.inf, "give seconds")
    for name, flag in (("overwrite", overwrite), ("throw", throw)):
        check_flag(name, flag)
    check_text("fingerprint", fingerprint)
    need = _COPIES * ITEM * n * k + _sketch_bytes(n, rank)
    remedy = ", or pass a smaller rank" if rank else ""
    check_memory(need, limit, vectors=k, n=n, remedy=remedy)
    notify = notifier(on_event)

    store: _IterateStore | None = None
    threads = thread_count()
    if url is not None:
        identity = {
            "n": n,
            "ridge": ridge,
            "fingerprint": source.fingerprint() if fingerprint is None else fingerprint,
            "right_hand_sides": hashlib.sha256(rhs.data).hexdigest(),
            "rank": rank,
            "seed": seed,
        }
        attributes = identity | {"blas_threads": threads}
        store = _IterateStore.open(storage.normal(url), attributes, overwrite=overwrite)
        groups.check_same(store.url, "a solution", store.identity, identity)
        threads = store.identity.get("blas_threads", threads)  # older stores lack it
    with task_runner(scheduler) as run, blas_threads_between(threads):
        mean = float(source.diagonal().mean())
        system = _System(
            SymmetricOperator(source, run, memory_limit=limit), rhs, ridge, mean, tolerance
        )
        solver = _Solver(system, store, notify, max_iterations, save_every)
        result = solver.solve(rank, seed)
    x = result.x.reshape(np.shape(b))
    result = replace(result, x=x, passes=system.multiply.passes)
    if throw and result.status is not LinalgStatus.CONVERGED:
        text = result.status.message(
            residual=result.residuals.max(),
            iterations=result.iterations,
            tolerance=tolerance,
            rank=result.rank,
        )
        raise NotConvergedError(text, result)
    return result


@dataclass(frozen=True)
class Nystrom:
    """P⁻¹ ≈ (A + μ)⁻¹ from the top eigenpairs of a randomised Nyström approximation of A.

    P⁻¹ = (τ + μ) U (Λ + μ)⁻¹ Uᵀ + (I − U Uᵀ).

    Attributes:
        basis: U (N, r) float64, orthonormal columns; with r = 0, P is the identity.
        values: Λ (r,) float64, descending.
        shift: μ, the absolute ridge.
        tail: τ, the value assumed for the other eigenvalues: the smallest of Λ, or zero where
            the matrix has no others.

    Source:
        Frangella, Tropp and Udell 2023, "Randomized Nyström preconditioning", algorithm 2.1 and
        equation (1.3).
    """

    basis: Matrix
    values: Vector
    shift: float
    tail: float

    @classmethod
    def sketch(cls, multiply: SymmetricOperator, rank: int, shift: float, seed: int) -> Nystrom:
        """Build it from a sketch of ``rank`` ≥ 1 columns, with one pass over the matrix.

        ``shift`` is μ, and ``seed`` that of the random test matrix. The preconditioner's rank is
        smaller where the matrix has a smaller one.
        """
        from scipy.linalg import solve_triangular

        n = multiply.n
        omega = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, rank)))[0]
        y = multiply(omega)
        nu = float(np.sqrt(n) * np.finfo(np.float64).eps * np.linalg.norm(y))
        while True:
            # a matrix that is slightly indefinite through rounding needs a larger shift
            small = omega.T @ y
            small[np.diag_indices(rank)] += nu
            try:
                lower = np.linalg.cholesky((small + small.T) / 2)
                break
            except np.linalg.LinAlgError:
                nu = max(10 * nu, np.finfo(np.float64).tiny)
        omega *= nu
        y += omega
        del omega
        b = solve_triangular(lower, y.T, lower=True, overwrite_b=True, check_finite=False).T
        basis, singular, _ = np.linalg.svd(b, full_matrices=False)
        values = np.maximum(singular**2 - nu, 0.0)
        kept = int(np.count_nonzero(values > _ROUNDING * values[0])) if values[0] > 0 else 0
        exhausted = kept < rank and shift > 0
        tail = float(values[kept - 1]) if kept and not exhausted else 0.0
        return cls(np.ascontiguousarray(basis[:, :kept]), values[:kept], shift, tail)

    @classmethod
    def none(cls, n: int) -> Nystrom:
        """Return the identity as a preconditioner."""
        return cls(np.zeros((n, 0)), np.zeros(0), 0.0, 0.0)

    @property
    def rank(self) -> int:
        """Columns of the basis."""
        return len(self.values)

    def __call__(self, r: NDArray[Any]) -> Matrix:
        """Apply P⁻¹ to (N, K) float64."""
        if not self.rank:
            return r.copy()
        inside = self.basis.T @ r
        weights = (self.tail + self.shift) / (self.values + self.shift) - 1.0
        return r + self.basis @ (weights[:, None] * inside)


def _sketch_bytes(n: int, rank: int) -> int:
    """Return the bytes needed to build a preconditioner."""
    return _SKETCH_COPIES * ITEM * n * rank


def choose_rank(n: int, memory_limit: int) -> int:
    """Return the rank of ``rank="auto"``.

    Args:
        n: Rows of the matrix.
        memory_limit: Bytes; the sketch may take half of them.
    """
    return max(1, min(_LARGEST_RANK, n // 8, memory_limit // (2 * _sketch_bytes(n, 1))))


@dataclass(frozen=True)
class _State:
    """The input of the next iteration.

    ``x`` (N, K) is the solution so far, ``r`` (N, K) its residual by recurrence and ``p`` (N, <= K)
    the next search directions; ``history`` has the largest relative residual after each iteration,
    and ``residuals`` (K,) the true relative residuals once they were computed.
    """

    x: Matrix
    r: Matrix
    p: Matrix
    history: tuple[float, ...]
    residuals: Vector | None

    def finished(self, tolerance: float) -> bool:
        """Return whether the true residuals are known and small enough."""
        return self.residuals is not None and float(self.residuals.max(initial=0.0)) <= tolerance


class _IterateStore:
    """The Zarr group of one system: its identity, its preconditioner and its last iterate."""

    def __init__(self, url: str, group: Any) -> None:
        self.url = url
        self.identity: dict[str, Any] = dict(group.attrs)
        self._group = group

    @classmethod
    def open(cls, url: str, identity: dict[str, Any], *, overwrite: bool = False) -> _IterateStore:
        """Open the group, or create it with these attributes."""
        group = None if overwrite else groups.open_group(url, _KIND, mode="r+")
        if group is None:
            group = groups.create_group(url, _KIND, identity)
        return cls(url, group)

    def latest(self) -> _State | None:
        """Read the last whole iterate; None where there is none."""
        index = self._last()
        if index is None:
            return None
        record = self._group[groups.record_name(_STATES, index)].attrs
        x, r, p = (
            self._read(f"iterates/{index:05d}/{name}", _STATES, index, width)
            for name, width in (("x", None), ("r", None), ("p", record["directions"]))
        )
        residuals = record["residuals"]
        return _State(
            x, r, p, tuple(record["history"]), None if residuals is None else np.array(residuals)
        )

    def save(self, state: _State) -> None:
        """Store an iterate, then drop the one before."""
        before = self._last()
        index = 0 if before is None else before + 1
        folder = f"iterates/{index:05d}"
        if folder in self._group:
            del self._group[folder]  # of a start that was killed before its record
        for name, values in (("x", state.x), ("r", state.r), ("p", state.p)):
            if values.shape[1]:
                self._write(f"{folder}/{name}", values)
        residuals = None if state.residuals is None else state.residuals.tolist()
        record = {
            "history": list(state.history),
            "residuals": residuals,
            "directions": state.p.shape[1],
        }
        groups.write_record(self._group, _STATES, index, record)
        if before is not None:
            del self._group[groups.record_name(_STATES, before)]
            del self._group[f"iterates/{before:05d}"]

    def preconditioner(self, shift: float) -> Nystrom | None:
        """Read the preconditioner; None where it was not stored whole."""
        records = groups.read_records(self._group, _SKETCH)
        if not records:
            return None
        rank, tail = records[0]["rank"], records[0]["tail"]
        basis, values = (self._read(name, _SKETCH, 0, rank) for name in ("basis", "values"))
        return Nystrom(basis, values, shift, tail)

    def save_preconditioner(self, inverse: Nystrom) -> None:
        """Store the preconditioner."""
        for name, values in (("basis", inverse.basis), ("values", inverse.values)):
            if name in self._group:
                del self._group[name]
            if inverse.rank:
                self._write(name, values)
        groups.write_record(self._group, _SKETCH, 0, {"rank": inverse.rank, "tail": inverse.tail})

    def _last(self) -> int | None:
        return max(groups.record_indices(self._group, _STATES), default=None)

    def _write(self, name: str, values: NDArray[np.float64]) -> None:
        chunks = row_chunks(values, _CHUNK_BYTES)
        groups.create_array(self._group, name, shape=values.shape, chunks=chunks)
        where = tuple(slice(0, size) for size in values.shape)
        groups.CheckedArray(self.url, name, _KIND, _PROCESS).write(name, where, values)

    def _read(self, name: str, series: str, index: int, width: int | None) -> NDArray[np.float64]:
        array = groups.CheckedArray(self.url, name, _KIND, _PROCESS)
        if width == 0:
            return np.zeros((self.identity["n"], 0) if name != "values" else 0)
        shape = array.array.shape
        record = groups.record_name(series, index)
        values = array.read(name, record, tuple(slice(0, size) for size in shape))
        if np.isnan(values).any():
            raise array.damaged(name, record, name, "lacks a chunk")
        return values


@dataclass(frozen=True)
class _System:
    """(A + shift) X = B, and the tolerance of its solution."""

    multiply: SymmetricOperator
    rhs: Matrix
    ridge: float
    mean: float
    tolerance: float

    @property
    def shift(self) -> float:
        return self.ridge * self.mean

    def apply(self, x: Matrix) -> Matrix:
        y = self.multiply(x)
        y += self.shift * x
        return y

    def relative(self, r: Matrix) -> Vector:
        norms = np.linalg.norm(self.rhs, axis=0)
        return np.linalg.norm(r, axis=0) / np.where(norms > 0, norms, 1.0)


@dataclass(frozen=True)
class _Solver:
    """The iteration, with its store and its limits."""

    system: _System
    store: _IterateStore | None
    notify: Subscriber
    max_iterations: int
    save_every: float

    def solve(self, rank: int, seed: int) -> CgResult:
        """Continue from the stored iterate, or begin."""
        state = self.store.latest() if self.store is not None else None
        if state is not None and state.finished(self.system.tolerance):
            return _result(state, LinalgStatus.CONVERGED, rank)
        inverse = self._preconditioner(rank, seed)
        if state is None:
            state = self._restart(np.zeros_like(self.system.rhs), self.system.rhs.copy(), inverse)
        before = math.inf
        while True:
            state, status = self._iterate(state, inverse)
            r = self.system.rhs - self.system.apply(state.x)
            residuals = self.system.relative(r)
            state = replace(state, residuals=residuals)
            worst = float(residuals.max(initial=0.0))
            if worst <= self.system.tolerance:
                status = LinalgStatus.CONVERGED
            elif status is not LinalgStatus.TOO_MANY_ITERATIONS and worst <= before / 2:
                # the recurrence differs from the true residual: restart from the true one
                fresh = self._restart(state.x, r, inverse)
                state = replace(fresh, history=state.history, residuals=residuals)
                before = worst
                continue
            elif status is not LinalgStatus.TOO_MANY_ITERATIONS:
                status = LinalgStatus.STAGNATED
            break
        self._save(state)
        return _result(state, status, inverse.rank)

    def _preconditioner(self, rank: int, seed: int) -> Nystrom:
        if rank == 0:
            return Nystrom.none(len(self.system.rhs))
        began = time.perf_counter()
        stored = self.store.preconditioner(self.system.shift) if self.store is not None else None
        seconds = 0.0
        if stored is None:
            stored = Nystrom.sketch(self.system.multiply, rank, self.system.shift, seed)
            seconds = time.perf_counter() - began
            if self.store is not None:
                self.store.save_preconditioner(stored)
        largest, smallest = (float(stored.values[i]) if stored.rank else 0.0 for i in (0, -1))
        self.notify(SketchDone(stored.rank, largest, smallest, seconds))
        return stored

    def _restart(self, x: Matrix, r: Matrix, inverse: Nystrom) -> _State:
        return _State(x, r, _orthonormal(inverse(r)), (), None)

    def _iterate(self, state: _State, inverse: Nystrom) -> tuple[_State, LinalgStatus]:
        """Iterate until the recurrence's residual is small enough, or no longer falls."""
        tolerance = self.system.tolerance
        saved = time.monotonic()
        best, patience = math.inf, _PATIENCE
        while self.system.relative(state.r).max(initial=0.0) > tolerance and state.p.shape[1]:
            if len(state.history) >= self.max_iterations:
                return state, LinalgStatus.TOO_MANY_ITERATIONS
            began = time.perf_counter()
            state = self._step(state, inverse)
            if not math.isfinite(state.history[-1]):
                raise LinalgStatus.OVERFLOW.error()
            patience -= 1
            if state.history[-1] <= best / 2:
                best, patience = state.history[-1], _PATIENCE
            if time.monotonic() - saved >= self.save_every:
                self._save(state)
                saved = time.monotonic()
            seconds = time.perf_counter() - began
            index, residual = len(state.history), state.history[-1]
            try:
                self.notify(IterationDone("cg", index, residual, tolerance, seconds))
            except BaseException:
                self._save(state)
                raise
            if patience == 0:
                return state, LinalgStatus.STAGNATED
        return state, LinalgStatus.CONVERGED

    def _step(self, state: _State, inverse: Nystrom) -> _State:
        """One block step; directions are orthonormal, and conjugate to the earlier ones."""
        from scipy.linalg import cho_factor, cho_solve

        x, r, p = state.x, state.r, state.p
        q = self.system.apply(p)
        inner = p.T @ q
        inner = (inner + inner.T) / 2
        try:
            factor = cho_factor(inner)
        except np.linalg.LinAlgError:
            raise self._negative_curvature(inner, len(state.history) + 1) from None
        alpha = cho_solve(factor, p.T @ r)
        x = x + p @ alpha
        r = r - q @ alpha
        z = inverse(r)
        directions = z - p @ cho_solve(factor, q.T @ z)
        residual = float(self.system.relative(r).max())
        return _State(x, r, _orthonormal(directions), (*state.history, residual), None)

    def _negative_curvature(self, inner: Matrix, iteration: int) -> NotPositiveDefiniteError:
        value = float(np.linalg.eigvalsh(inner)[0])
        text = LinalgStatus.NEGATIVE_CURVATURE.message(
            ridge=self.system.ridge, iteration=iteration, value=value, mean=self.system.mean
        )
        return NotPositiveDefiniteError(text, value=value, ridge=self.system.ridge)

    def _save(self, state: _State) -> None:
        if self.store is not None:
            self.store.save(state)


def _result(state: _State, status: LinalgStatus, rank: int) -> CgResult:
    residuals = np.zeros(0) if state.residuals is None else state.residuals
    return CgResult(state.x, status, residuals, np.array(state.history), rank, 0)


def _orthonormal(directions: Matrix) -> Matrix:
    """Return an orthonormal basis of the columns' span, without dependent directions."""
    from scipy.linalg import qr

    sizes = np.linalg.norm(directions, axis=0)
    scaled = directions[:, sizes > 0] / sizes[sizes > 0]
    if not scaled.shape[1]:
        return np.zeros((len(directions), 0))
    q, upper, _ = qr(scaled, mode="economic", pivoting=True, check_finite=False)
    kept = int(np.count_nonzero(np.abs(np.diag(upper)) > _DEPENDENT * abs(upper[0, 0])))
    return np.ascontiguousarray(q[:, :kept])
