"""Arguments that several solvers take, checked in one place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ntkdist.errors import InputError
from ntkdist.linalg.status import Outcome
from ntkdist.linalg.panels import format_bytes
from ntkdist.linalg.matrix import Matrix


def check_ridge(ridge: Any) -> float:
    """Return a ridge as a float.

    Raises:
        InputError: It is no finite number >= 0.
    """
    if not (isinstance(ridge, int | float | np.floating) and math.isfinite(ridge) and ridge >= 0):
        raise InputError(Outcome.BAD_RIDGE.message(ridge=ridge))
    return float(ridge)


def check_vectors(b: Any, n: int) -> Matrix:
    """Return right-hand sides as a new (N, K) float64 array.

    Args:
        b: (N,) or (N, K) real, finite.
        n: Rows of the matrix.

    Raises:
        InputError: Another shape, or an entry that is not finite.
    """
    given = np.asarray(b)
    if given.ndim not in (1, 2) or given.shape[0] != n:
        raise InputError(
            f"the right-hand side has shape {given.shape}; it must be ({n},) or ({n}, K)"
        )
    x = np.array(given, dtype=np.float64, order="C").reshape(n, -1)
    if not np.isfinite(x).all():
        row, col = (int(v) for v in np.argwhere(~np.isfinite(x))[0])
        raise InputError(f"entry ({row}, {col}) of the right-hand side is {x[row, col]}")
    return x


def check_setting(name: str, value: Any, fits: bool, allowed: str) -> None:
    """Refuse a value that does not fit.

    Args:
        name: Of the argument.
        value: What was given.
        fits: Whether it is allowed.
        allowed: What is, in words.

    Raises:
        InputError: It does not fit.
    """
    if not fits:
        raise InputError(Outcome.BAD_SETTING.message(name=name, value=value, allowed=allowed))


def check_room(need: int, limit: int, *, vectors: int, n: int, remedy: str = "") -> None:
    """Refuse work on vectors that does not fit the memory limit.

    Args:
        need: Bytes it takes.
        limit: Bytes allowed.
        vectors: How many vectors there are.
        n: Their length.
        remedy: What helps beside a larger limit, as the end of a sentence.

    Raises:
        InputError: It needs more; names both and the knob.
    """
    if need > limit:
        raise InputError(
            Outcome.LITTLE_FOR_VECTORS.message(
                given=format_bytes(limit),
                need=format_bytes(need),
                vectors=vectors,
                n=n,
                need_bytes=need,
                remedy=remedy,
            )
        )
