"""Checks of arguments that several functions take: labels, ridges, β, class matrices, masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer, and not a bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a real number, and not a bool."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def check_labels(labels: Any, num_classes: int, length: int | None = None) -> NDArray[np.int64]:
    """Return labels as a new int64 vector.

    Args:
        labels: (N,) integers in 0..num_classes−1.
        num_classes: K, at least 1.
        length: N if it is known from elsewhere.

    Returns:
        (N,) int64, a copy.

    Raises:
        InputError: For a wrong shape, length, type or value (the first one is named).
    """
    if not is_whole(num_classes):
        raise InputError(f"num_classes={num_classes!r} is not a whole number; give K ≥ 1")
    if num_classes < 1:
        raise InputError(f"num_classes={num_classes} is below 1; give the number of classes")
    given = np.asarray(labels)
    if given.ndim != 1:
        raise InputError(f"labels have shape {given.shape}; give one class number an image, (N,)")
    if given.dtype.kind not in "iu":
        whole = given.dtype.kind == "f" and bool(np.all(given == np.floor(given)))
        if not (whole and np.isfinite(given).all()):
            raise InputError(
                f"labels of type {given.dtype} are not class numbers 0..K−1; "
                "number the classes from 0"
            )
    if length is not None and len(given) != length:
        raise InputError(f"{len(given)} labels for a matrix of {length} images; give {length}")
    wrong = np.flatnonzero((given < 0) | (given >= num_classes))
    if wrong.size:
        first = int(wrong[0])
        raise InputError(
            f"label {given[first]} at index {first} lies outside 0..{num_classes - 1} "
            f"({wrong.size} such); correct it or raise num_classes={num_classes}"
        )
    return np.array(given, dtype=np.int64)


def check_beta(beta: Any) -> float:
    """Return β, the weight of the between-class sum of L(Z), as a float.

    Raises:
        InputError: If it is not a finite number ≥ 0.
    """
    if not is_number(beta) or not math.isfinite(beta) or beta < 0:
        raise InputError(f"beta={beta!r} must be a finite number ≥ 0 (the default is 1)")
    return float(beta)


def check_class_matrix(Z: Any, counts: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return copies of Z = YᵀH⁻¹Y (K, K) and the class sizes (K,), contiguous float64.

    Raises:
        InputError: For shapes that do not fit, or values that no class matrix or size can have.
    """
    Z, n = (np.array(x, dtype=np.float64, order="C") for x in (Z, counts))
    if Z.ndim != 2 or Z.shape[0] != Z.shape[1] or n.shape != Z.shape[:1] or not len(n):
        raise InputError(f"Z has shape {Z.shape} and counts {n.shape}; expected (K, K) and (K,)")
    if not np.isfinite(Z).all():
        raise InputError("Z holds NaN or infinity; check the inverse, or raise the ridge")
    if not (np.isfinite(n).all() and (n >= 0).all()):
        raise InputError(f"counts {n.tolist()} must be finite and ≥ 0: the size of each class")
    return Z, n


def check_locked(locked: Any, n: int) -> NDArray[np.bool_]:
    """Return which labels are known to be right, as a new mask.

    Args:
        locked: (N,) bool, (m,) indices, or None for none.
        n: N.

    Returns:
        (N,) bool.

    Raises:
        InputError: For a wrong length, type or index.
    """
    mask = np.zeros(n, dtype=np.bool_)
    if locked is None:
        return mask
    given = np.asarray(locked)
    if given.dtype.kind == "b" and given.shape == (n,):
        return given.copy()
    if given.size == 0:
        return mask
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise InputError(
            f"locked has type {given.dtype} and shape {given.shape}; give ({n},) bool or indices"
        )
    wrong = given[(given < 0) | (given >= n)]
    if wrong.size:
        raise InputError(f"locked names image {wrong[0]}; they are numbered 0 to {n - 1}")
    mask[given] = True
    return mask


def check_probs(probs: Any, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Return class probabilities as float64, or None if none are given.

    Args:
        probs: (N, K), rows sum to 1; or None.
        shape: (N, K).

    Returns:
        (N, K) float64, or None.

    Raises:
        InputError: For a wrong shape, or rows that are not probabilities.
    """
    if probs is None:
        return None
    given = np.asarray(probs, dtype=np.float64)
    if given.shape != shape:
        raise InputError(f"first_probs has shape {given.shape}; it must be {shape}")
    # the comparisons are False for NaN
    good = (given >= 0).all(axis=1) & (np.abs(given.sum(axis=1) - 1) < 1e-3)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise InputError(
            f"first_probs: row {row} does not hold probabilities (sum {given[row].sum():.4g}, "
            f"minimum {given[row].min():.4g}); each row must be ≥ 0 and sum to 1"
        )
    return given
