"""Checks of arguments; each error names the value, the limit and the remedy."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, did_you_mean
from ntkdist.linalg import check_ridge as check_ridge
from ntkdist.networks.architecture import Architecture


def require_jax() -> None:
    """Raise ``InputError`` where jax or optax is not installed."""
    for name in ("jax", "optax"):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"finite networks need {name}, which is not installed: pip install {name}"
            )


def check_choice(name: str, value: Any, known: Collection[str]) -> None:
    """Raise ``InputError`` unless the value is one of the known words."""
    if value not in known:
        *most, last = known
        raise InputError(
            f"{name}={value!r} is unknown; use {', '.join(most)} or {last}"
            + did_you_mean(str(value), known)
        )


def check_whole(name: str, value: Any, least: int, remedy: str, *, most: int | None = None) -> int:
    """Return a whole number of at least ``least`` and, where given, at most ``most``."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name}={value!r} must be a whole number {limits}; {remedy}")
    return int(value)


def check_number(name: str, value: Any, least: float, below: float, remedy: str) -> float:
    """Return a number that is at least ``least`` and below ``below``, which may be infinite."""
    if not _is_number(value) or not least <= value < below:
        limit = f"at least {least:g}" + (f" and below {below:g}" if math.isfinite(below) else "")
        raise InputError(f"{name}={value!r} must be a finite number, {limit}; {remedy}")
    return float(value)


def check_rate(learning_rate: Any) -> float:
    """Return a learning rate, a finite number above 0."""
    if not _is_number(learning_rate) or not 0 < learning_rate < math.inf:
        raise InputError(
            f"learning_rate={learning_rate!r} must be a finite number above 0; with 1, times are "
            "those of gradient flow"
        )
    return float(learning_rate)


def check_time(time: Any) -> float:
    """Return a training time from 0 to infinity."""
    if not _is_number(time) or not time >= 0:
        raise InputError(f"time={time!r} must be a number of at least 0; inf trains to the end")
    return float(time)


def check_times(times: Any) -> NDArray[np.float64]:
    """Return training times as float64 (T,), T ≥ 1, each above the one before."""
    checked = np.array([check_time(t) for t in times])
    if not checked.size or (np.diff(checked) <= 0).any():
        raise InputError(f"times={list(times)!r} must be at least one, each above the one before")
    return checked


def check_images(
    images: Any,
    image_shape: tuple[int, ...] | None = None,
    arch: Architecture | None = None,
) -> NDArray[np.float32]:
    """Return images as float32 (n, H, W, C), n ≥ 1, finite, of ``image_shape`` where it is given.

    Features (n, D) become images of one pixel, (n, 1, 1, D), unless ``arch`` needs pixels.
    """
    x = np.asarray(images)
    if x.ndim == 2:
        if arch is not None:
            arch.check_features()
        x = x[:, None, None, :]
    if x.ndim != 4 or 0 in x.shape:
        raise InputError(f"images have shape {x.shape}; (N, H, W, C) with N ≥ 1 is needed")
    if image_shape is not None and x.shape[1:] != tuple(image_shape):
        raise InputError(
            f"images are {x.shape[1:]}, but the network was trained on {tuple(image_shape)}; "
            "bring them to that shape"
        )
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise InputError("images hold NaN or infinity in float32; clean or rescale them")
    return x


def check_labels(labels: Any, count: int, num_classes: int) -> NDArray[np.int32]:
    """Return the labels of ``count`` images as int32 (count,), each from 0 to K−1."""
    y = np.asarray(labels)
    if y.shape != (count,) or y.dtype.kind not in "iu":
        raise InputError(
            f"labels are {y.dtype} of shape {y.shape}; give one whole number an image, ({count},)"
        )
    wrong = np.flatnonzero((y < 0) | (y >= num_classes))
    if wrong.size:
        raise InputError(
            f"label {y[wrong[0]]} at index {wrong[0]} lies outside 0..{num_classes - 1}; "
            f"correct it or raise num_classes={num_classes}"
        )
    return y.astype(np.int32)


def check_targets(targets: Any, n: int) -> NDArray[np.float64]:
    """Return the targets of the n images of a Gram matrix as float64 (n, K), K ≥ 1, finite."""
    Y = np.asarray(targets, dtype=np.float64)
    if Y.ndim != 2 or len(Y) != n or not Y.shape[1]:
        raise InputError(
            f"targets have shape {Y.shape}; the Gram is of {n} images, so ({n}, K) is needed"
        )
    if not np.isfinite(Y).all():
        raise InputError("targets hold NaN or infinity; give finite numbers")
    return Y


def check_outputs(name: str, outputs: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return outputs as finite float64 of a shape, read-only where a number stands for all.

    None stands for 0.
    """
    f = np.asarray(0.0 if outputs is None else outputs, dtype=np.float64)
    if f.ndim and f.shape != shape:
        raise InputError(f"{name} have shape {f.shape}; {shape} is needed, or None for 0")
    if not np.isfinite(f).all():
        raise InputError(f"{name} hold NaN or infinity; give finite numbers")
    return np.broadcast_to(f, shape)


def check_columns(matrix: Any, n: int, name: str) -> None:
    """Raise ``InputError`` unless a test × train matrix has a column for each training image."""
    shape = tuple(int(edge) for edge in matrix.shape)
    if len(shape) != 2 or shape[1] != n:
        raise InputError(
            f"{name} has shape {shape}; (M, {n}) is needed, a column for each training image"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
