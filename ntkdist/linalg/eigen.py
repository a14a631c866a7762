"""The largest eigenpairs of a (centred) Gram matrix by streamed products, for KPCA and spectra."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_choice, check_flag, check_fraction, check_seed, check_whole
from ntkdist.events.bus import Subscriber
from ntkdist.events.types import IterationDone
from ntkdist.linalg.blas import ITEM, Matrix, Vector, blas_threads_between
from ntkdist.linalg.matrix import Source, SymmetricOperator
from ntkdist.linalg.status import (
    LinalgStatus,
    NotConvergedError,
    check_memory,
    parse_memory,
)
from ntkdist.linalg.tasks import Scheduler, notifier, task_runner, thread_count

METHODS = ("auto", "lobpcg", "lanczos")
#: Up to this many rows, or this many times the block, LAPACK computes the eigenpairs.
_DENSE_ROWS = 512
_DENSE_BLOCKS = 8
#: Columns of LOBPCG's block beyond the wanted ones: the spectral gap after them decides its speed.
_EXTRA = 16
#: Arrays of the block's size that LOBPCG or Lanczos needs.
_COPIES = 12
_MOST_STEPS = 200


@dataclass(frozen=True)
class Eigenpairs:
    """The largest eigenvalues and their vectors.

    Attributes:
        values: (k,) float64, descending.
        vectors: (N, k) float64, orthonormal columns; each one's largest entry is positive.
        residuals: (k,) float64, ‖A v − λ v‖: an eigenvalue of A lies within that distance of λ.
        total: Trace of the (centred) matrix, the sum of all eigenvalues.
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
    on_event: Subscriber | None = None,
) -> Eigenpairs:
    """Compute the ``k`` largest eigenpairs of A, or of the centred A, without holding it.

    Equivalent to ``scipy.linalg.eigh(a, subset_by_index=[N - k, N - 1])``, largest first. Each
    step is one pass over the upper triangle, which stays in memory if it fits half of
    ``memory_limit``. LOBPCG (block of 2k or k + 16 vectors, started with a pass over random ones)
    needs the fewest passes; if it does not reach the tolerance, ``"auto"`` continues with Lanczos
    (ARPACK), which is slower and more reliable. LAPACK handles small matrices.

    Args:
        a: (N, N) real symmetric, as for :func:`ntkdist.linalg.factorize`.
        k: Number of eigenpairs, 1 to N.
        centered: Whether to centre rows and columns first (C A C with C = I − 11ᵀ/N), as
            kernel PCA does.
        tolerance: Largest ‖A v − λ v‖ relative to the largest eigenvalue; 0 < tolerance < 1.
        method: ``"auto"``, ``"lobpcg"`` or ``"lanczos"``.
        seed: Seed of the random start.
        memory_limit: Bytes (or ``"2GiB"``) for one process's work.
        scheduler: As for :func:`ntkdist.linalg.factorize`.
        on_event: Called with an ``IterationDone`` for each pass.

    Returns:
        The eigenpairs.

    Raises:
        InputError: A bad argument, or too little memory for the vectors.
        NotConvergedError: The tolerance was not reached; ``.result`` holds the eigenpairs so far.
        StoreError: The matrix cannot be read.

    Source:
        Knyazev 2001, "Toward the optimal preconditioned eigensolver" (LOBPCG); Lehoucq, Sorensen
        and Yang 1998 (ARPACK); Schölkopf, Smola and Müller 1998 (centring).
    """
    source = Source(a)
    limit = parse_memory(memory_limit)
    check_whole("k", k, 1, "give the number of eigenpairs", most=source.n)
    check_fraction("tolerance", tolerance, "1e-8 is usual")
    check_choice("method", method, METHODS)
    centered, seed = check_flag("centered", centered), check_seed(seed)
    block = min(max(2 * k, k + _EXTRA), source.n)
    need = _COPIES * ITEM * source.n * block
    check_memory(need, limit, vectors=block, n=source.n, remedy=", or pass a smaller k")
    with task_runner(scheduler) as run, blas_threads_between(thread_count()):
        multiply = SymmetricOperator(source, run, memory_limit=limit, centered=centered)
        product = _Counted(multiply, tolerance, notifier(on_event))
        total = _trace(source, product, centered)
        if source.n <= max(_DENSE_ROWS, _DENSE_BLOCKS * block):
            pairs = _dense(product, k)
        else:
            pairs = _streamed(product, k, block, tolerance, method, seed)
    values, vectors, residuals = pairs
    result = Eigenpairs(values, vectors, residuals, total, multiply.passes)
    if residuals.max() > tolerance * max(abs(values[0]), np.finfo(np.float64).tiny):
        text = LinalgStatus.EIGEN_NOT_CONVERGED.message(
            residual=residuals.max() / max(abs(values[0]), np.finfo(np.float64).tiny),
            passes=multiply.passes,
            tolerance=tolerance,
            method=method,
        )
        raise NotConvergedError(text, result)
    return result


class _Counted:
    """The operator, with an event for each pass."""

    def __init__(self, multiply: SymmetricOperator, tolerance: float, notify: Subscriber) -> None:
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
    # one product with random vectors leaves mostly leading eigenvectors in their span
    start, upper = np.linalg.qr(product(np.random.default_rng(seed).standard_normal((n, block))))
    if method != "lanczos":
        largest = float(np.linalg.norm(upper, 2)) / np.sqrt(block)  # approximately
        with warnings.catch_warnings():
            # the residual of each pair is checked below
            warnings.simplefilter("ignore", UserWarning)
            _, vectors = lobpcg(
                operator, start, largest=True, tol=tolerance * largest / 2,
                maxiter=_MOST_STEPS,
            )  # fmt: skip
        pairs = _rayleigh_ritz(product, vectors, k)
        if method == "lobpcg" or pairs[2].max() <= tolerance * abs(pairs[0][0]):
            return pairs
        start = np.hstack([pairs[1], start])
    _, vectors = eigsh(
        operator, k, which="LA", v0=start.sum(axis=1), tol=tolerance / 10, ncv=min(n, 4 * k + 20)
    )
    return _rayleigh_ritz(product, vectors, k)


def _rayleigh_ritz(product: _Counted, vectors: Matrix, k: int) -> tuple[Vector, Matrix, Vector]:
    """Return the Ritz pairs of a subspace, with their residuals; one pass."""
    from scipy.linalg import eigh

    basis = np.linalg.qr(vectors)[0]
    image = product(basis)
    inner = basis.T @ image
    values, turn = eigh((inner + inner.T) / 2)
    turn = turn[:, ::-1][:, :k]
    return _finish(values[::-1][:k], basis @ turn, image @ turn)


def _finish(values: Vector, vectors: Matrix, image: Matrix) -> tuple[Vector, Matrix, Vector]:
    """Fix the signs of the vectors and compute the residuals."""
    residuals = np.linalg.norm(image - vectors * values, axis=0)
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.where(vectors[largest, np.arange(len(values))] < 0, -1.0, 1.0)
    return np.ascontiguousarray(values), np.ascontiguousarray(vectors * signs), residuals


def _trace(source: Source, product: _Counted, centered: bool) -> float:
    """Return the trace of the (centred) matrix."""
    trace = float(source.diagonal().sum())
    if not centered:
        return trace
    return trace - product.mean_of_sums()  # tr(C A C) = tr A − 1ᵀA1/N
