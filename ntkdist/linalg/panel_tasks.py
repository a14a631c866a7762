"""The tasks of one panel: what a Dask worker runs.

Left-looking: panel k is A's columns minus the earlier panels' contributions, then its diagonal
block is factored and the rows below are solved with it. Source: Golub and Van Loan 2013,
section 4.2.5 (block Cholesky).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntkdist.linalg import blas
from ntkdist.linalg.progress import Progress
from ntkdist.linalg.tasks import blas_threads, side_by_side
from ntkdist.linalg.matrix import Matrix, Source
from ntkdist.linalg.store import FactorStore


@dataclass(frozen=True)
class PanelFailure:
    """Why a panel could not be finished.

    Args:
        pivot: First failing pivot, from 0 in the whole matrix; None where a value overflowed or
            the matrix changed to something not finite.
        value: The Schur complement's diagonal entry there.
    """

    pivot: int | None
    value: float = float("nan")


@dataclass(frozen=True)
class DiagonalDone:
    """What the driver needs to know of a factored diagonal block.

    Args:
        digests: sha256 of its chunks, a row of chunks each.
        log_diagonal: Sum of log L_ii.
        min_pivot: Smallest L_ii squared.
        failure: None where it succeeded; nothing was stored otherwise.
    """

    digests: tuple[bytes, ...] = ()
    log_diagonal: float = 0.0
    min_pivot: float = 0.0
    failure: PanelFailure | None = None


def read_row(store: FactorStore, k: int) -> list[Matrix]:
    """Read what the earlier panels hold in panel k's rows: L[k, 0], ..., L[k, k-1]."""
    first, past = store.plan.columns(k)
    return [store.rows(j, first, past) for j in range(k)]


def factor_diagonal(
    source: Source,
    store: FactorStore,
    k: int,
    shift: float,
    row: list[Matrix],
    threads: int,
    progress: Progress,
) -> tuple[DiagonalDone, Matrix | None]:
    """Factor and store the diagonal block of panel ``k``.

    Args:
        source: The matrix.
        store: The factor.
        k: Panel.
        shift: Absolute ridge, added to the diagonal.
        row: From :func:`read_row`.
        threads: Of BLAS.
        progress: Counts the operations.

    Returns:
        What was done, and L[k, k] (w, w) float64 for the rows below (None where there are none
        or it failed).
    """
    first, past = store.plan.columns(k)
    lower = np.zeros((past - first, past - first))
    source.fill_lower(lower, first, store.plan.block)
    diagonal = lower.diagonal().copy() + shift
    np.fill_diagonal(lower, diagonal)
    with blas_threads(threads):
        for block in row:
            blas.subtract_gram(lower, block)
            progress.add(float(block.shape[0]) * block.size)
        diagonal = lower.diagonal().copy()
        pivot = blas.cholesky_lower(lower)
    progress.add(len(lower) ** 3 / 3)
    if pivot >= 0:
        # row ``pivot`` of L is finished up to its diagonal; that entry may hold anything
        done = lower[pivot, :pivot]
        value = float(diagonal[pivot] - done @ done)
        finite = bool(np.isfinite(value))
        return DiagonalDone(failure=PanelFailure(first + pivot if finite else None, value)), None

    def store_rows(rows: tuple[int, int]) -> bytes | None:
        r0, r1 = rows
        values = lower[r0 - first : r1 - first]
        return store.write(k, r0, r1, first, past, values) if np.isfinite(values).all() else None

    digests = side_by_side(store_rows, store.plan.blocks(first, past))
    if None in digests:
        return DiagonalDone(failure=PanelFailure(None)), None
    roots = lower.diagonal()
    summary = DiagonalDone(
        tuple(digests), float(np.log(roots).sum()), float(np.square(roots).min())
    )
    return summary, lower if past < store.plan.n else None


def finish_rows(
    source: Source,
    store: FactorStore,
    k: int,
    r0: int,
    r1: int,
    row: list[Matrix],
    lower: Matrix | None,
    progress: Progress,
) -> bytes | PanelFailure | None:
    """Update, solve and store rows r0:r1 of panel ``k``, with one BLAS thread.

    Args:
        source: The matrix.
        store: The factor.
        k: Panel.
        r0: First row, below the diagonal block.
        r1: Past the last row.
        row: From :func:`read_row`.
        lower: L[k, k]; None where it failed.
        progress: Counts the operations.

    Returns:
        sha256 of the rows' chunks; None where there was nothing to do; a failure otherwise.
    """
    if lower is None:
        return None
    first, past = store.plan.columns(k)
    values = np.array(source.block(first, past, r0, r1).T, order="C")
    with blas_threads(1):
        for j, block in enumerate(row):
            blas.subtract_product(values, store.rows(j, r0, r1), block, tb=True)
            progress.add(2.0 * len(values) * block.size)
        blas.solve_lower(lower, values, transposed=True, from_right=True)
        progress.add(float(len(values)) * lower.size)
    if not np.isfinite(values).all():
        return PanelFailure(None)
    return store.write(k, r0, r1, first, past, values)
