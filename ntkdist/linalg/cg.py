"""Preconditioned block conjugate gradients over stored tiles, for N where N³ is out of reach."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntkdist import storage
from ntkdist.errors import InputError
from ntkdist.linalg import groups
from ntkdist.linalg._checks import check_ridge, check_room, check_setting, check_vectors
from ntkdist.linalg._iterates import IterateStore, State
from ntkdist.linalg.events import IterationDone, Listener, SketchDone
from ntkdist.linalg.nystrom import Nystrom, choose_rank, sketch_bytes
from ntkdist.linalg.operator import SymmetricOperator
from ntkdist.linalg.status import NotConvergedError, NotPositiveDefiniteError, Outcome
from ntkdist.linalg.panels import ITEM, parse_memory
from ntkdist.linalg.tasks import (
    Scheduler,
    blas_threads_between,
    task_runner,
    thread_count,
)
from ntkdist.linalg.matrix import Matrix, Source, Vector

#: Directions whose share of the others' span exceeds 1 minus this are dropped.
_DEPENDENT = 1e-10
#: Iterations in which the residual has to halve.
_PATIENCE = 150
#: Arrays of the right-hand sides' size that an iteration holds.
_COPIES = 10


@dataclass(frozen=True)
class CgResult:
    """What conjugate gradients reached.

    Attributes:
        x: (N,) or (N, K) float64, the solution.
        outcome: ``Outcome.CONVERGED``, ``TOO_MANY_ITERATIONS`` or ``STAGNATED``.
        residuals: (K,) float64, ‖B_k − (A + ridge) X_k‖ / ‖B_k‖, computed from ``x`` itself.
        history: (iterations,) float64, the largest of them after each iteration, by recurrence.
        rank: Of the preconditioner.
        passes: Passes over the matrix in this call (0 where a stored result was found).
    """

    x: NDArray[np.float64]
    outcome: Outcome
    residuals: Vector
    history: Vector
    rank: int
    passes: int

    @property
    def iterations(self) -> int:
        """How many iterations there were, those of earlier starts included."""
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
    on_event: Listener | None = None,
    fingerprint: str | None = None,
    overwrite: bool = False,
    throw: bool = True,
) -> CgResult:
    """Solve (A + ridge·mean(diag A)·I) X = B by block conjugate gradients.

    All right-hand sides share one Krylov space, and an iteration is one pass over the upper
    triangle of A, which is kept in memory where half of ``memory_limit`` holds it. Search
    directions are orthonormalised and those that became dependent are dropped, so that right-hand
    sides may converge at different times, repeat or be zero.

    With a ``url`` the iterates are stored there every ``save_every`` seconds, before an exception
    of ``on_event`` passes, and at the end; starting again goes on from the last one with the same
    bits.

    Args:
        a: (N, N) real symmetric, as for :func:`ntkdist.linalg.factorize`.
        b: (N,) or (N, K) right-hand sides.
        ridge: Added to the diagonal, relative to its mean; finite, >= 0.
        tolerance: Largest ‖B_k − (A + ridge) X_k‖ / ‖B_k‖ to stop at; 0 < tolerance < 1.
        max_iterations: Most iterations, those of earlier starts included.
        rank: Eigenpairs in the randomised Nyström preconditioner; 0 for none; ``"auto"`` takes
            N/8, at most 768, and what half of the memory limit holds.
        seed: Of the sketch.
        url: Folder or URL of the solution's own Zarr group; None stores nothing.
        save_every: Seconds between two stored iterates.
        memory_limit: Bytes (or ``"2GiB"``) for one process's work.
        scheduler: As for :func:`ntkdist.linalg.factorize`.
        on_event: Called with ``SketchDone`` and an ``IterationDone`` for each iteration.
        fingerprint: What identifies the matrix; None hashes a sample of it.
        overwrite: Drop the iterates that are at ``url``.
        throw: Whether stopping short of the tolerance raises; else the result says so.

    Returns:
        The solution and how it was reached.

    Raises:
        InputError: A bad argument, too little memory, or ``url`` holds another system.
        NotPositiveDefiniteError: A direction of negative curvature turned up.
        NotConvergedError: It stopped short of the tolerance; ``.result`` holds what it reached.
        StoreError: The matrix or the stored iterates cannot be read or written.

    Source:
        O'Leary 1980, "The block conjugate gradient algorithm"; Ji and Li 2017, "A breakdown-free
        block conjugate gradient method", algorithm 2; Frangella, Tropp and Udell 2023.
    """
    source = Source(a)
    rhs = check_vectors(b, source.n)
    n, k = rhs.shape
    ridge = check_ridge(ridge)
    check_setting("tolerance", tolerance, 0 < tolerance < 1, "a number between 0 and 1")
    check_setting("max_iterations", max_iterations, max_iterations >= 1, "an integer >= 1")
    limit = parse_memory(memory_limit)
    if rank == "auto":
        rank = choose_rank(n, limit)
    check_setting(
        "rank",
        rank,
        isinstance(rank, int | np.integer) and 0 <= rank <= n,
        f"'auto' or an integer from 0 to {n}",
    )
    rank = int(rank)
    need = _COPIES * ITEM * n * k + sketch_bytes(n, rank)
    remedy = ", or pass a smaller rank" if rank else ""
    check_room(need, limit, vectors=k, n=n, remedy=remedy)
    notify: Listener = on_event or (lambda event: None)

    store: IterateStore | None = None
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
        how = {"blas_threads": threads}
        store = IterateStore.open(storage.normal(url), identity | how, overwrite=overwrite)
        groups.refuse_other(store.url, "a solution", store.identity, identity)
        threads = store.identity.get("blas_threads", threads)  # older stores do not say
    with task_runner(scheduler) as run, blas_threads_between(threads):
        mean = float(source.diagonal().mean())
        system = _System(
            SymmetricOperator(source, run, memory_limit=limit), rhs, ridge, mean, tolerance
        )
        solver = _Solver(system, store, notify, max_iterations, save_every)
        result = solver.solve(rank, seed)
    x = result.x.reshape(np.shape(b))
    result = CgResult(
        x, result.outcome, result.residuals, result.history, result.rank, system.multiply.passes
    )
    if throw and result.outcome is not Outcome.CONVERGED:
        text = result.outcome.message(
            residual=result.residuals.max(),
            iterations=result.iterations,
            tolerance=tolerance,
            rank=result.rank,
        )
        raise NotConvergedError(text, result)
    return result


@dataclass(frozen=True)
class _System:
    """(A + shift) X = B, and when a solution is good enough."""

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
    store: IterateStore | None
    notify: Listener
    max_iterations: int
    save_every: float

    def solve(self, rank: int, seed: int) -> CgResult:
        """Go on from what is stored, or begin."""
        state = self.store.latest() if self.store is not None else None
        if state is not None and state.finished(self.system.tolerance):
            return _result(state, Outcome.CONVERGED, rank)
        inverse = self._preconditioner(rank, seed)
        if state is None:
            state = self._restart(np.zeros_like(self.system.rhs), self.system.rhs.copy(), inverse)
        before = math.inf
        while True:
            state, outcome = self._iterate(state, inverse)
            r = self.system.rhs - self.system.apply(state.x)
            residuals = self.system.relative(r)
            state = State(state.x, state.r, state.p, state.history, residuals)
            worst = float(residuals.max(initial=0.0))
            if worst <= self.system.tolerance:
                outcome = Outcome.CONVERGED
            elif outcome is not Outcome.TOO_MANY_ITERATIONS and worst <= before / 2:
                # the recurrence lost touch with the true residual: afresh from there
                fresh = self._restart(state.x, r, inverse)
                state = State(fresh.x, fresh.r, fresh.p, state.history, residuals)
                before = worst
                continue
            elif outcome is not Outcome.TOO_MANY_ITERATIONS:
                outcome = Outcome.STAGNATED
            break
        self._save(state)
        return _result(state, outcome, inverse.rank)

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
                self.store.keep_preconditioner(stored)
        largest, smallest = (float(stored.values[i]) if stored.rank else 0.0 for i in (0, -1))
        self.notify(SketchDone(stored.rank, largest, smallest, seconds))
        return stored

    def _restart(self, x: Matrix, r: Matrix, inverse: Nystrom) -> State:
        return State(x, r, _orthonormal(inverse(r)), (), None)

    def _iterate(self, state: State, inverse: Nystrom) -> tuple[State, Outcome]:
        """Iterate until the recurrence's residual is small enough, or does not fall any more."""
        tolerance = self.system.tolerance
        saved = time.monotonic()
        best, patience = math.inf, _PATIENCE
        while self.system.relative(state.r).max(initial=0.0) > tolerance and state.p.shape[1]:
            if len(state.history) >= self.max_iterations:
                return state, Outcome.TOO_MANY_ITERATIONS
            began = time.perf_counter()
            state = self._step(state, inverse)
            if not math.isfinite(state.history[-1]):
                raise InputError(Outcome.OVERFLOW.message())
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
                return state, Outcome.STAGNATED
        return state, Outcome.CONVERGED

    def _step(self, state: State, inverse: Nystrom) -> State:
        """One block step; directions are orthonormal, and conjugate to the ones before."""
        from scipy.linalg import cho_factor, cho_solve

        x, r, p = state.x, state.r, state.p
        q = self.system.apply(p)
        inner = p.T @ q
        inner = (inner + inner.T) / 2
        try:
            factor = cho_factor(inner)
        except np.linalg.LinAlgError:
            raise self._indefinite(inner, len(state.history) + 1) from None
        alpha = cho_solve(factor, p.T @ r)
        x = x + p @ alpha
        r = r - q @ alpha
        z = inverse(r)
        directions = z - p @ cho_solve(factor, q.T @ z)
        residual = float(self.system.relative(r).max())
        return State(x, r, _orthonormal(directions), (*state.history, residual), None)

    def _indefinite(self, inner: Matrix, iteration: int) -> NotPositiveDefiniteError:
        value = float(np.linalg.eigvalsh(inner)[0])
        text = Outcome.INDEFINITE.message(
            ridge=self.system.ridge, iteration=iteration, value=value, mean=self.system.mean
        )
        return NotPositiveDefiniteError(text, value=value, ridge=self.system.ridge)

    def _save(self, state: State) -> None:
        if self.store is not None:
            self.store.save(state)


def _result(state: State, outcome: Outcome, rank: int) -> CgResult:
    residuals = np.zeros(0) if state.residuals is None else state.residuals
    return CgResult(state.x, outcome, residuals, np.array(state.history), rank, 0)


def _orthonormal(directions: Matrix) -> Matrix:
    """Return an orthonormal basis of the columns' span, without what is dependent."""
    from scipy.linalg import qr

    sizes = np.linalg.norm(directions, axis=0)
    scaled = directions[:, sizes > 0] / sizes[sizes > 0]
    if not scaled.shape[1]:
        return np.zeros((len(directions), 0))
    q, upper, _ = qr(scaled, mode="economic", pivoting=True, check_finite=False)
    kept = int(np.count_nonzero(np.abs(np.diag(upper)) > _DEPENDENT * abs(upper[0, 0])))
    return np.ascontiguousarray(q[:, :kept])
