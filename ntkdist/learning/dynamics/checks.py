"""Checks of what users give to training dynamics; each error names value, limit and remedy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError


def check_time(time: Any) -> float:
    """Return a training time from 0 to infinity, or raise ``InputError``."""
    number = isinstance(time, (int, float, np.integer, np.floating))
    if not number or isinstance(time, bool) or not time >= 0:
        raise InputError(f"time={time!r} must be a number of at least 0; inf trains to the end")
    return float(time)


def check_rate(learning_rate: Any) -> float:
    """Return a learning rate that is a finite number above 0, or raise ``InputError``."""
    number = isinstance(learning_rate, (int, float, np.integer, np.floating))
    if not number or isinstance(learning_rate, bool) or not 0 < learning_rate < math.inf:
        raise InputError(
            f"learning_rate={learning_rate!r} must be a finite number above 0; with 1, times are "
            "those of gradient flow"
        )
    return float(learning_rate)


def check_targets(targets: Any, n: int) -> NDArray[np.float64]:
    """Return targets as float64 (N, K), K ≥ 1, finite.

    Args:
        targets: What was given.
        n: Images of the Gram.

    Returns:
        (N, K) float64.

    Raises:
        InputError: For another shape, or NaN or infinity.
    """
    Y = np.asarray(targets, dtype=np.float64)
    if Y.ndim != 2 or len(Y) != n or not Y.shape[1]:
        raise InputError(
            f"targets have shape {Y.shape}; the Gram is of {n} images, so ({n}, K) is needed"
        )
    if not np.isfinite(Y).all():
        raise InputError("targets hold NaN or infinity; give finite numbers")
    return Y


def check_outputs(outputs: Any, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return outputs at time 0 as float64 of a shape; None stands for 0.

    Args:
        outputs: What was given.
        shape: (images, K).

    Returns:
        Of that shape.

    Raises:
        InputError: For another shape, or NaN or infinity.
    """
    if outputs is None:
        return np.zeros(shape)
    f = np.asarray(outputs, dtype=np.float64)
    if f.shape != shape or not np.isfinite(f).all():
        raise InputError(
            f"initial outputs have shape {f.shape} or are not finite; {shape} finite numbers are "
            "needed, or None for 0"
        )
    return f


def check_width(matrix: Any, n: int, name: str) -> None:
    """Raise ``InputError`` unless a test × train matrix has a column for each training image."""
    shape = tuple(int(edge) for edge in matrix.shape)
    if len(shape) != 2 or shape[1] != n:
        raise InputError(
            f"{name} has shape {shape}; a row for each test image and {n} columns, one for each "
            "training image, are needed"
        )


def check_folds(folds: Any, rounds: Any, n: int) -> int:
    """Return how many folds take their turn.

    Args:
        folds: What was given.
        rounds: How many of them take their turn; None is all.
        n: Images.

    Returns:
        1 to ``folds``.

    Raises:
        InputError: Unless 2 ≤ folds ≤ n and 1 ≤ rounds ≤ folds.
    """
    whole = isinstance(folds, (int, np.integer)) and not isinstance(folds, bool)
    if not whole or not 2 <= folds <= n:
        raise InputError(f"folds={folds!r} must be a whole number from 2 to {n}, the images")
    if rounds is None:
        return int(folds)
    whole = isinstance(rounds, (int, np.integer)) and not isinstance(rounds, bool)
    if not whole or not 1 <= rounds <= folds:
        raise InputError(f"rounds={rounds!r} must be a whole number from 1 to folds={folds}")
    return int(rounds)


def check_count(count: Any) -> int:
    """Return a number of times that is whole and at least 3, or raise ``InputError``."""
    whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
    if not whole or count < 3:
        raise InputError(f"times={count!r} must be a whole number of at least 3: 0, inf and one")
    return int(count)
