"""Every way a factorisation or a solver can end, as data: the value is the whole message.

The messages say what happened, why that is likely, and what to pass instead. The fields in
braces are filled by :meth:`Outcome.message`.
"""

from __future__ import annotations

import enum

from ntkdist.errors import InputError, NtkdistError

#: Ridges tried, in order, when one has to be suggested; relative to mean(diag).
RIDGE_LADDER: tuple[float, ...] = tuple(float(f"1e-{k}") for k in range(12, -1, -1))


class Outcome(enum.Enum):
    """How it ended; ``.value`` is the message with its fields in braces."""

    NOT_SQUARE = "the matrix has shape {shape}; it must be square (N, N) with N >= 1"
    NOT_REAL = "the matrix has dtype {dtype}; pass real numbers (float32 or float64)"
    NOT_FINITE = (
        "entry ({row}, {col}) of the matrix's upper triangle is {value}; a missing or failed tile "
        "reads as NaN: compute it again, then start this again"
    )
    NOT_SYMMETRIC = (
        "entry ({row}, {col}) of the matrix is {value:.9g} and its mirror image ({col}, {row}) is "
        "{other:.9g}: the matrix is not symmetric. A tile of it may be damaged or of another run: "
        "compute it again; or pass the upper triangle alone (NaN below), or (A + A.T) / 2"
    )
    OVERFLOW = (
        "float64 overflowed although every entry of the matrix is finite; scale the matrix down"
    )
    UNREADABLE = "rows {rows} and columns {cols} of the matrix could not be read: {reason}"
    BAD_RIDGE = "ridge is {ridge}; pass a finite number >= 0 (relative to the mean of the diagonal)"
    BAD_MEMORY = (
        "memory_limit {given!r} is no size; pass bytes or a string such as '2GiB' or '500MB'"
    )
    TOO_LITTLE_MEMORY = (
        "memory_limit {given} is below the {need} that panels of {width} columns need at "
        "N = {n}; raise memory_limit to at least {need_bytes} bytes"
    )
    DIFFERENT = (
        "{url} holds {kind} with {field} = {old}, and {field} = {new} was asked for; keep "
        "{field} = {old}, choose another url, or pass overwrite=True to compute it again"
    )
    FOREIGN = "{url} holds something that is no {kind}; choose another url"
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
        "writing {what} to {url} failed: {reason}; make room or repair it and start again: "
        "what is recorded as done is kept"
    )
    ABSENT = "{url} holds no {kind}; {remedy}"
    INCOMPLETE = (
        "the {kind} at {url} has {done} of {count} {parts}; start {how} again with the same "
        "arguments: it resumes at the first missing one"
    )
    DAMAGED = (
        "{part} of the {kind} at {url} is damaged: {key} {reason}; remove {record} and start "
        "{how} again: it computes from there on anew"
    )
    NOT_POSITIVE_DEFINITE = (
        "the matrix is not positive definite: pivot {pivot} of {n} is {value:.6g} at ridge "
        "{ridge:g}. Likely causes: duplicate images, float32 rounding of a nearly singular kernel, "
        "or a damaged tile. Pass ridge={suggested:g} (relative to the mean of the diagonal, "
        "{mean:.6g}): the smallest of 1e-12, 1e-11, ..., 1 that passes"
    )
    HOPELESS = (
        "the matrix is not positive definite: pivot {pivot} of {n} is {value:.6g} at ridge "
        "{ridge:g}, and no ridge up to 1 (relative to the mean of the diagonal, {mean:.6g}) "
        "passes: this is no kernel matrix with rounding errors: check how it was computed"
    )

    BAD_SETTING = "{name} is {value}; pass {allowed}"
    LITTLE_FOR_VECTORS = (
        "memory_limit {given} is below the {need} that {vectors} vectors of {n} rows need; raise "
        "memory_limit to at least {need_bytes} bytes{remedy}"
    )
    INDEFINITE = (
        "the matrix is not positive definite at ridge {ridge:g}: a search direction p of iteration "
        "{iteration} has pᵀAp = {value:.6g}; pass a larger ridge (relative to the mean of the "
        "diagonal, {mean:.6g})"
    )
    BAD_ROWS = (
        "the rows to append have shape {shape}; the factor has {n} rows, so pass the larger matrix "
        "(N, N) with N >= {n}, or its last m rows, (m, {n} + m)"
    )
    BAD_BAND = (
        "the matrix with the appended rows is not positive definite: pivot {row} is {value:.6g} "
        "(row {row} has {entry:.6g} on its diagonal) at ridge {ridge:g}. The factor of the first "
        "{n} rows is kept. Likely causes: an appended image that equals one that is there, or "
        "rounding; drop it, or factorize the larger matrix anew with a larger ridge"
    )
    NO_SUMS = (
        "the column sums of the factor at {url} cannot be read, and the norm of a larger matrix "
        "needs them ({reason}); factorize with overwrite=True"
    )
    CONVERGED = "converged: relative residual {residual:.3g} after {iterations} iterations"
    TOO_MANY_ITERATIONS = (
        "no convergence: relative residual {residual:.3g} after {iterations} iterations, asked for "
        "{tolerance:g}; start it again with a larger max_iterations (it goes on where a url was "
        "given), a larger rank of the preconditioner (now {rank}), or a larger ridge"
    )
    EIGEN_NOT_CONVERGED = (
        "no convergence: the largest residual of an eigenpair is {residual:.3g} of the largest "
        "eigenvalue after {passes} passes of method {method!r}, asked for {tolerance:g}; pass a "
        "larger tolerance, fewer eigenpairs, or method='lanczos'"
    )
    STAGNATED = (
        "no further progress: the true relative residual stays at {residual:.3g} after "
        "{iterations} iterations, asked for {tolerance:g}; rounding allows no less for a matrix of "
        "this condition: pass a larger tolerance or a larger ridge, or factorize it"
    )

    def message(self, **fields: object) -> str:
        """Fill the fields of the message.

        Args:
            **fields: One value for each name in braces.

        Returns:
            The whole message, one line.
        """
        return self.value.format(**fields)


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
        result: What it had reached (a ``CgResult``).
    """

    exit_code = 1

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result


def not_positive_definite(
    *, pivot: int, value: float, n: int, ridge: float, mean: float, suggested: float | None
) -> NotPositiveDefiniteError:
    """Build the error for a failed pivot.

    Args:
        pivot: First failing pivot, from 0.
        value: The Schur complement's diagonal entry there.
        n: Rows of the matrix.
        ridge: The relative ridge that failed.
        mean: mean(diag) of the matrix.
        suggested: Smallest ridge of the ladder that passes, or None.

    Returns:
        The error, ready to raise.
    """
    outcome = Outcome.HOPELESS if suggested is None else Outcome.NOT_POSITIVE_DEFINITE
    text = outcome.message(
        pivot=pivot, n=n, value=value, ridge=ridge, mean=mean, suggested=suggested
    )
    return NotPositiveDefiniteError(
        text, pivot=pivot, value=value, ridge=ridge, suggested_ridge=suggested
    )


def not_finite(bad: tuple[int, int, float]) -> InputError:
    """Build the error for an entry (row, column, value) that is not finite."""
    row, col, value = bad
    return InputError(Outcome.NOT_FINITE.message(row=row, col=col, value=value))


def not_symmetric(skew: tuple[int, int, float, float]) -> InputError:
    """Build the error for an entry (row, column, value, mirror) whose mirror image differs."""
    row, col, value, other = skew
    return InputError(Outcome.NOT_SYMMETRIC.message(row=row, col=col, value=value, other=other))
