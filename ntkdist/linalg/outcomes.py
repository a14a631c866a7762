"""Every way a factorisation can end badly, as data: the value is the whole message.

The messages say what happened, why that is likely, and what to pass instead. The fields in
braces are filled by :meth:`Outcome.message`.
"""

from __future__ import annotations

import enum

from ntkdist.errors import NtkdistError

#: Ridges tried, in order, when one has to be suggested; relative to mean(diag).
RIDGE_LADDER: tuple[float, ...] = tuple(float(f"1e-{k}") for k in range(12, -1, -1))


class Outcome(enum.Enum):
    """What went wrong; ``.value`` is the message with its fields in braces."""

    NOT_SQUARE = "the matrix has shape {shape}; it must be square (N, N) with N >= 1"
    NOT_REAL = "the matrix has dtype {dtype}; pass real numbers (float32 or float64)"
    NOT_FINITE = (
        "entry ({row}, {col}) of the matrix's upper triangle is {value}; a missing or failed tile "
        "reads as NaN: compute it again, then start the factorisation again"
    )
    OVERFLOW = (
        "the factorisation overflowed float64 although every entry of the matrix is finite; "
        "scale the matrix down"
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
