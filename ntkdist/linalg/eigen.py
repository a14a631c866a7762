"""The top eigenpairs of a (centred) Gram matrix, by streamed products: KPCA and spectra."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.linalg._checks import check_room, check_setting
from ntkdist.linalg.events import IterationDone, Listener
from ntkdist.linalg.operator import SymmetricOperator
from ntkdist.linalg.status import NotConvergedError, Outcome
from ntkdist.linalg.panels import ITEM, parse_memory
from ntkdist.linalg.tasks import (
    Scheduler,
    blas_threads_between,
    task_runner,
    thread_count,
)
from ntkdist.linalg.matrix import Matrix, Source, Vector

METHODS = ("auto", "lobpcg", "lanczos")
#: Below this many rows, or this many times the block, all eigenpairs are computed by LAPACK.
_DENSE_ROWS = 512
_DENSE_BLOCKS = 8
#: Columns of LOBPCG's block beside the wanted ones: the gap behind them decides its speed.
_EXTRA = 16
#: Arrays of the block's size that LOBPCG holds; vectors that Lanczos holds for each wanted one.
_COPIES = 12
_MOST_STEPS = 200


@dataclass(frozen=True)
class Eigenpairs:
    """The largest eigenvalues and their vectors.

    Attributes:
        values: (k,) float64, descending.
        vectors: (N, k) float64, orthonormal columns; each one's largest entry is positive.
        residuals: (k,) float64, ‖A v − λ v‖: an eigenvalue of A lies within that of each λ.
        total: Trace of the (centred) matrix: what all eigenvalues add up to.
        passes: Passes over the matrix.
    """

    values: Vector
    vectors: Matrix
    residuals: Vector
    total: float
    passes: int

    @property
    def explained(self) -> Vector:
        """Share of each eigenvalue in the sum of all, (k,)."""
        return self.values / self.total


def top_eigenpairs(
    a: Any,
    k: int,
    *,
    centered: bool = False,
    tolerance: float = 1e-8,
    method: str = "auto",
    seed: int = 0,
    memory_limit: int | str = "2GiB",
    scheduler: Scheduler = None,
    on_event: Listener | None = None,
) -> Eigenpairs:
    """Compute the ``k`` largest eigenpairs of A, or of the centred A, without holding it.

    Equivalent to ``scipy.linalg.eigh(a, subset_by_index=[N - k, N - 1])``, largest first. Each
    step is one pass over the upper triangle, which is kept in memory where half of
    ``memory_limit`` holds it. LOBPCG (block of 2k or k + 16 vectors, started with a pass over
    random ones) needs the fewest passes; where it does not reach the tolerance, ``"auto"`` goes
    on with Lanczos (ARPACK), which is slower and surer. Small matrices go to LAPACK.

    Args:
        a: (N, N) real symmetric, as for :func:`ntkdist.linalg.factorize`.
        k: How many, 1 to N.
        centered: Whether rows and columns are centred first (C A C with C = I − 11ᵀ/N), as
            kernel PCA does.
        tolerance: Largest ‖A v − λ v‖ relative to the largest eigenvalue; 0 < tolerance < 1.
        method: ``"auto"``, ``"lobpcg"`` or ``"lanczos"``.
        seed: Of the random start.
        memory_limit: Bytes (or ``"2GiB"``) for one process's work.
        scheduler: As for :func:`ntkdist.linalg.factorize`.
        on_event: Called with an ``IterationDone`` for each pass.

    Returns:
        The eigenpairs.

    Raises:
        InputError: A bad argument, or too little memory for the vectors.
        NotConvergedError: The tolerance was not reached; ``.result`` holds what was.
        StoreError: The matrix cannot be read.

    Source:
        Knyazev 2001, "Toward the optimal preconditioned eigensolver" (LOBPCG); Lehoucq, Sorensen
        and Yang 1998 (ARPACK); Schölkopf, Smola and Müller 1998 (centring).
    """
    source = Source(a)
    limit = parse_memory(memory_limit)
    _check(source.n, k, tolerance, method)
    block = min(max(2 * k, k + _EXTRA), source.n)
    room = _COPIES * ITEM * source.n * block
    check_room(room, limit, vectors=block, n=source.n, remedy=", or pass a smaller k")
    with task_runner(scheduler) as run, blas_threads_between(thread_count()):
        multiply = SymmetricOperator(source, run, memory_limit=limit, centered=centered)
        product = _Counted(multiply, tolerance, on_event or (lambda event: None))
        total = _trace(source, product, centered)
        if source.n <= max(_DENSE_ROWS, _DENSE_BLOCKS * block):
            found = _dense(product, k)
        else:
            found = _streamed(product, k, block, tolerance, method, seed)
    values, vectors, residuals = found
    result = Eigenpairs(values, vectors, residuals, total, multiply.passes)
    if residuals.max() > tolerance * max(abs(values[0]), np.finfo(np.float64).tiny):
        text = Outcome.EIGEN_NOT_CONVERGED.message(
            residual=residuals.max() / max(abs(values[0]), np.finfo(np.float64).tiny),
            passes=multiply.passes,
            tolerance=tolerance,
            method=method,
        )
        raise NotConvergedError(text, result)
    return result


class _Counted:
    """The operator, telling each pass."""

    def __init__(self, multiply: SymmetricOperator, tolerance: float, notify: Listener) -> None:
        self.n = multiply.n
        self._multiply, self._tolerance, self._notify = multiply, tolerance, notify

    def mean_of_sums(self) -> float:
        """Return 1ᵀA1/N of the matrix that is centred."""
        return self._multiply.mean_of_sums()

    def __call__(self, x: NDArray[np.float64]) -> Matrix:
        began = time.perf_counter()
        y = self._multiply(np.asarray(x, dtype=np.float64))
        seconds = time.perf_counter() - began
        index = self._multiply.passes
        self._notify(IterationDone("eigen", index, float("nan"), self._tolerance, seconds))
        return y


def _dense(product: _Counted, k: int) -> tuple[Vector, Matrix, Vector]:
    from scipy.linalg import eigh

    n = product.n
    whole = product(np.eye(n))
    whole = (whole + whole.T) / 2
    values, vectors = eigh(whole, subset_by_index=[n - k, n - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    return _finish(values, vectors, whole @ vectors)


def _streamed(
    product: _Counted, k: int, block: int, tolerance: float, method: str, seed: int
) -> tuple[Vector, Matrix, Vector]:
    from scipy.sparse.linalg import LinearOperator, eigsh, lobpcg

    n = product.n
    operator = LinearOperator((n, n), matvec=product, matmat=product, dtype=np.float64)
    # one pass over random vectors leaves mostly the leading eigenvectors in them
    start, upper = np.linalg.qr(product(np.random.default_rng(seed).standard_normal((n, block))))
    if method != "lanczos":
        largest = float(np.linalg.norm(upper, 2)) / np.sqrt(block)  # about; checked below
        with warnings.catch_warnings():
            # what it reached is checked below, pair by pair
            warnings.simplefilter("ignore", UserWarning)
            _, vectors = lobpcg(
                operator, start, largest=True, tol=tolerance * largest / 2,
                maxiter=_MOST_STEPS,
            )  # fmt: skip
        found = _rayleigh_ritz(product, vectors, k)
        if method == "lobpcg" or found[2].max() <= tolerance * abs(found[0][0]):
            return found
        start = np.hstack([found[1], start])
    _, vectors = eigsh(
        operator, k, which="LA", v0=start.sum(axis=1), tol=tolerance / 10, ncv=min(n, 4 * k + 20)
    )
    return _rayleigh_ritz(product, vectors, k)


def _rayleigh_ritz(product: _Counted, vectors: Matrix, k: int) -> tuple[Vector, Matrix, Vector]:
    """Return the best pairs of a subspace, with their residuals; one pass."""
    from scipy.linalg import eigh

    basis = np.linalg.qr(vectors)[0]
    image = product(basis)
    inner = basis.T @ image
    values, turn = eigh((inner + inner.T) / 2)
    turn = turn[:, ::-1][:, :k]
    return _finish(values[::-1][:k], basis @ turn, image @ turn)


def _finish(values: Vector, vectors: Matrix, image: Matrix) -> tuple[Vector, Matrix, Vector]:
    """Fix the vectors' signs and take the residuals."""
    residuals = np.linalg.norm(image - vectors * values, axis=0)
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.where(vectors[largest, np.arange(len(values))] < 0, -1.0, 1.0)
    return np.ascontiguousarray(values), np.ascontiguousarray(vectors * signs), residuals


def _trace(source: Source, product: _Counted, centered: bool) -> float:
    """Return the trace of the matrix the operator stands for."""
    trace = float(source.diagonal().sum())
    if not centered:
        return trace
    return trace - product.mean_of_sums()  # tr(C A C) = tr A − 1ᵀA1/N


def _check(n: int, k: int, tolerance: float, method: str) -> None:
    fits = isinstance(k, int | np.integer) and 1 <= k <= n
    for name, value, good, allowed in (
        ("k", k, fits, f"an integer from 1 to {n}"),
        ("tolerance", tolerance, 0 < tolerance < 1, "a number between 0 and 1"),
        ("method", repr(method), method in METHODS, f"one of {', '.join(METHODS)}"),
    ):
        check_setting(name, value, good, allowed)
