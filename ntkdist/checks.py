"""Checks of arguments; each error names the value, the limit and the remedy."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, did_you_mean


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer, and not a bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a real number, and not a bool."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def check_choice(name: str, value: Any, known: Collection[str]) -> None:
    """Raise ``InputError`` unless the value is one of the known words."""
    if value not in known:
        raise InputError(
            f"{name}={value!r} is not one of {', '.join(known)}" + did_you_mean(str(value), known)
        )


def check_whole(name: str, value: Any, least: int, remedy: str, *, most: int | None = None) -> int:
    """Return the value as int; ``InputError`` unless it is an integer in ``least``..``most``."""
    if not is_whole(value) or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name}={value!r} must be a whole number {limits}; {remedy}")
    return int(value)


def check_number(name: str, value: Any, least: float, below: float, remedy: str) -> float:
    """Return the value as float; ``InputError`` unless ``least`` <= value < ``below``."""
    if not is_number(value) or not least <= value < below:
        limit = f"at least {least:g}" + (f" and below {below:g}" if math.isfinite(below) else "")
        raise InputError(f"{name}={value!r} must be a finite number, {limit}; {remedy}")
    return float(value)


def check_fraction(name: str, value: Any, remedy: str) -> float:
    """Return the value as float; ``InputError`` unless it is above 0 and below 1."""
    if not is_number(value) or not 0 < value < 1:
        raise InputError(f"{name}={value!r} must be a number above 0 and below 1; {remedy}")
    return float(value)


def check_labels(
    labels: Any, num_classes: int | None, count: int | None = None, *, floats: bool = False
) -> NDArray[np.int64]:
    """Return labels as a new int64 vector.

    Args:
        labels: (N,) integers in 0..K−1.
        num_classes: K, at least 1; None sets no upper limit.
        count: N if it is known from elsewhere.
        floats: Whether whole numbers of a floating-point dtype are accepted.

    Returns:
        (N,) int64, a copy.

    Raises:
        InputError: For a wrong shape, length, type or value (the first one is named).
    """
    if num_classes is not None:
        check_whole("num_classes", num_classes, 1, "give the number of classes")
    given = np.asarray(labels)
    if given.ndim != 1:
        raise InputError(f"labels have shape {given.shape}; give one whole number an image, (N,)")
    whole = given.dtype.kind in "iu"
    if floats and given.dtype.kind == "f":
        whole = bool(np.isfinite(given).all() and (given == np.floor(given)).all())
    if not whole:
        raise InputError(
            f"labels have dtype {given.dtype}; integers 0..K-1 are needed: "
            "number the classes from 0"
        )
    if count is not None and len(given) != count:
        raise InputError(
            f"{len(given)} labels for {count} images; give one whole number an image, ({count},)"
        )
    limit = np.iinfo(np.int64).max if num_classes is None else num_classes - 1
    # compared before the conversion, which would wrap large unsigned labels
    outside = (given < 0) | (given > limit)
    if outside.any():
        first = int(np.argmax(outside))
        upper = "K-1" if num_classes is None else str(limit)
        raise InputError(
            f"label {given[first]} at index {first} is outside the classes 0..{upper} "
            f"({int(outside.sum())} such labels); number the classes from 0"
        )
    return np.array(given, dtype=np.int64)
