"""Every way in which a factorisation or a solver can end, its errors, and checks of arguments.

The value of a :class:`LinalgStatus` is the whole message: it says what happened, the likely causes
and what to pass instead.
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import (
    check_indices as check_indices,
    check_ridge as check_ridge,
    is_number,
    real_array,
)
from ntkdist.errors import InputError, NtkdistError, StoreError, shown
from ntkdist.words import format_bytes

#: Ridges tried, in order, when one has to be suggested; relative to mean(diag).
RIDGE_LADDER: tuple[float, ...] = tuple(float(f"1e-{k}") for k in range(12, -1, -1))


class LinalgStatus(enum.Enum):
    """How it ended; ``.value`` is the message with its fields in braces."""

    NOT_SQUARE = "the matrix has shape {shape}; it must be square (N, N) with N >= 1"
    NOT_REAL = "the matrix has dtype {dtype}; pass real numbers (float32 or float64)"
    NOT_FINITE = (
        "entry ({row}, {col}) of the matrix's upper triangle is {value}; a missing or failed tile "
        "reads as NaN: compute it again, then start this again"
    )
    NOT_SYMMETRIC = (
        "entry ({row}, {col}) of the matrix is {value:.9g} and its mirror image ({col}, {row}) is "
        "{other:.9g}: the matrix is not symmetric. One of its tiles may be damaged or belong to "
        "another run: compute it again; or pass the upper triangle alone (NaN below), or "
        "(A + A.T) / 2"
    )
    OVERFLOW = (
        "float64 overflowed although every entry of the matrix is finite; scale the matrix down"
    )
    UNREADABLE = "rows {rows} and columns {cols} of the matrix could not be read: {reason}"
    BAD_MEMORY = (
        "memory_limit {given} is not a size; pass bytes or a string such as '2GiB' or '500MB'"
    )
    PANEL_EXCEEDS_MEMORY = (
        "memory_limit {given} is below the {need} that panels of {width} columns need at "
        "N = {n}; raise memory_limit to at least {need_bytes} bytes"
    )
    VECTORS_EXCEED_MEMORY = (
        "memory_limit {given} is below the {need} that {vectors} vectors of {n} rows need; raise "
        "memory_limit to at least {need_bytes} bytes{remedy}"
    )
    DIFFERENT = (
        "{url} holds {kind} with {field} = {old}, and {field} = {new} was asked for; keep "
        "{field} = {old}, choose another url, or pass overwrite=True to compute it again"
    )
    OTHER_CONTENT = "{url} holds other content and no {kind}; choose another url"
    UNREADABLE_GROUP = "{url} holds no readable {kind} ({reason}); choose another url"
    NEWER_SCHEMA = (
        "{url} was written in schema {old}, and this version reads up to {new}; "
        "upgrade ntkdist or choose another url"
    )
    OLDER_SCHEMA = (
        "{url} was written in schema {old}, and this version reads schema {new}; choose another "
        "url, or pass overwrite=True to compute the {kind} again"
    )
    UNWRITABLE = "{url} cannot be written: {reason}"
    WRITE_FAILED = (
        "writing {what} to {url} failed: {reason}; free space or repair the store, then start "
        "again: finished parts are kept"
    )
    ABSENT = "{url} holds no {kind}; {remedy}"
    INCOMPLETE = (
        "the {kind} at {url} has {done} of {count} {parts}; start {process} again with the same "
        "arguments: it resumes at the first missing one"
    )
    DAMAGED = (
        "{part} of the {kind} at {url} is damaged: {key} {reason}; remove {record} and start "
        "{process} again: it computes everything from there on"
    )
    NOT_POSITIVE_DEFINITE = (
        "the matrix is not positive definite: pivot {pivot} of {n} is {value:.6g} at ridge "
        "{ridge:g}. Likely causes: duplicate images, float32 rounding of a nearly singular kernel, "
        "or a damaged tile. Pass ridge={suggested:g} (relative to the mean of the diagonal, "
        "{mean:.6g}): the smallest of 1e-12, 1e-11, ..., 1 that passes"
    )
    NO_RIDGE_PASSES = (
        "the matrix is not positive definite: pivot {pivot} of {n} is {value:.6g} at ridge "
        "{ridge:g}, and no ridge up to 1 (relative to the mean of the diagonal, {mean:.6g}) "
        "passes. Rounding errors of a kernel matrix are never that large: check how the matrix "
        "was computed"
    )
    NEGATIVE_CURVATURE = (
        "the matrix is not positive definite at ridge {ridge:g}: a search direction p of iteration "
        "{iteration} has pᵀAp = {value:.6g}; pass a larger ridge (relative to the mean of the "
        "diagonal, {mean:.6g})"
    )
    BAD_APPENDED_ROWS = (
        "the rows to append have shape {shape}; the factor has {n} rows, so pass the larger matrix "
        "(N, N) with N >= {n}, or its last m rows, (m, {n} + m)"
    )
    APPENDED_NOT_POSITIVE_DEFINITE = (
        "the matrix with the appended rows is not positive definite: pivot {row} is {value:.6g} "
        "(row {row} has {entry:.6g} on its diagonal) at ridge {ridge:g}. The factor of the first "
        "{n} rows is kept. Likely causes: an appended image that equals an earlier one, or "
        "rounding; drop the image, or factorize the larger matrix anew with a larger ridge"
    )
    COLUMN_SUMS_UNREADABLE = (
        "the column sums of the factor at {url} cannot be read, and the norm of a larger matrix "
        "needs them ({reason}); factorize with overwrite=True"
    )
    CONVERGED = "converged: relative residual {residual:.3g} after {iterations} iterations"
    TOO_MANY_ITERATIONS = (
        "no convergence: relative residual {residual:.3g} after {iterations} iterations, asked for "
        "{tolerance:g}; start it again with a larger max_iterations (with a url it continues from "
        "the last iterate), a larger rank of the preconditioner (now {rank}), or a larger ridge"
    )
    STAGNATED = (
        "no further progress: the true relative residual stays at {residual:.3g} after "
        "{iterations} iterations, asked for {tolerance:g}; rounding allows no smaller one at this "
        "condition number: pass a larger tolerance or a larger ridge, or factorize the matrix"
    )
    EIGEN_NOT_CONVERGED = (
        "no convergence: the largest residual of an eigenpair is {residual:.3g} of the largest "
        "eigenvalue after {passes} passes of method {method!r}, asked for {tolerance:g}; pass a "
        "larger tolerance, fewer eigenpairs, or method='lanczos'"
    )

    def message(self, **fields: object) -> str:
        """Fill the fields of the message.

        Args:
            **fields: One value for each name in braces.

        Returns:
            The whole message, one line.
        """
        return self.value.format(**fields)

    def error(self, **fields: object) -> InputError | StoreError:
        """Return the error with this message: a ``StoreError`` if the store is the cause.

        Args:
            **fields: One value for each name in braces.
        """
        of_store = self.name in _STORE_ERRORS
        return (StoreError if of_store else InputError)(self.message(**fields))


_STORE_ERRORS = (
    "UNREADABLE", "UNREADABLE_GROUP", "WRITE_FAILED", "ABSENT", "INCOMPLETE", "DAMAGED",
    "COLUMN_SUMS_UNREADABLE",
)  # fmt: skip


class NotPositiveDefiniteError(NtkdistError):
    """The matrix plus its ridge has no Cholesky factor.

    Args:
        message: The whole message.
        pivot: First failing pivot, counted from 0 in the whole matrix.
        value: The Schur complement's diagonal entry there (<= 0).
        ridge: The ridge that failed, relative to mean(diag).
        suggested_ridge: Smallest step of ``RIDGE_LADDER`` that passes; None where none does.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        pivot: int = -1,
        value: float = 0.0,
        ridge: float = 0.0,
        suggested_ridge: float | None = None,
    ) -> None:
        super().__init__(message)
        self.pivot = pivot
        self.value = value
        self.ridge = ridge
        self.suggested_ridge = suggested_ridge

    def __reduce__(self) -> tuple[object, ...]:
        # the default would call the class with the message alone and lose the attributes
        return (type(self), (str(self),), self.__dict__)


class NotConvergedError(NtkdistError):
    """An iterative solver stopped short of its tolerance.

    Args:
        message: The whole message.
        result: The result so far (a ``CgResult`` or ``Eigenpairs``).
    """

    exit_code = 1

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result


def not_finite(bad: tuple[int, int, float]) -> Exception:
    """Return the error for an entry (row, column, value) that is not finite."""
    row, col, value = bad
    return LinalgStatus.NOT_FINITE.error(row=row, col=col, value=value)


def not_symmetric(skew: tuple[int, int, float, float]) -> Exception:
    """Return the error for an entry (row, column, value, mirror) whose mirror image differs."""
    row, col, value, other = skew
    return LinalgStatus.NOT_SYMMETRIC.error(row=row, col=col, value=value, other=other)


def check_vectors(b: Any, n: int) -> NDArray[np.float64]:
    """Return right-hand sides (N,) or (N, K), real and finite, as a new (N, K) float64 array."""
    given = real_array("the right-hand side", b)
    if given.ndim not in (1, 2) or given.shape[0] != n:
        raise InputError(
            f"the right-hand side has shape {given.shape}; it must be ({n},) or ({n}, K)"
        )
    x = np.array(given, dtype=np.float64, order="C").reshape(n, -1)
    if not np.isfinite(x).all():
        row, col = (int(v) for v in np.argwhere(~np.isfinite(x))[0])
        raise InputError(f"entry ({row}, {col}) of the right-hand side is {x[row, col]}")
    return x


def check_memory(need: int, limit: int, *, vectors: int, n: int, remedy: str = "") -> None:
    """Raise an error if work on vectors needs more bytes than the limit.

    ``remedy`` names another remedy than a larger limit, as the end of the message.
    """
    if need > limit:
        raise LinalgStatus.VECTORS_EXCEED_MEMORY.error(
            given=format_bytes(limit),
            need=format_bytes(need),
            vectors=vectors,
            n=n,
            need_bytes=need,
            remedy=remedy,
        )


def parse_memory(memory_limit: int | float | str) -> int:
    """Return a size in bytes.

    Args:
        memory_limit: Bytes, or a string such as ``"2GiB"`` or ``"500MB"``.

    Returns:
        Bytes.

    Raises:
        InputError: It is not a positive size.
    """
    from dask.utils import parse_bytes

    try:
        if not is_number(memory_limit) and not isinstance(memory_limit, str):
            raise TypeError
        size = int(parse_bytes(memory_limit))
        if isinstance(memory_limit, str) and not any(c.isdigit() for c in memory_limit):
            size = 0  # Dask reads "" as 1 and "GiB" as 2**30
    except (ValueError, TypeError, AttributeError, OverflowError):
        size = 0
    if size <= 0:
        raise LinalgStatus.BAD_MEMORY.error(given=shown(memory_limit))
    return size
