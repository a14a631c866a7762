"""Checks of what users give to finite networks; each error names value, limit and remedy."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.networks.architecture import Architecture


def require_jax() -> None:
    """Raise ``InputError`` where jax or optax is not installed."""
    for name in ("jax", "optax"):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"finite networks need {name}, which is not installed: pip install {name}"
            )


def check_whole(name: str, value: Any, least: int, remedy: str) -> int:
    """Refuse what is not a whole number of at least ``least``.

    Args:
        name: What it is called where the user gave it.
        value: What was given.
        least: The limit.
        remedy: What to do.

    Returns:
        The number.

    Raises:
        InputError: If it is not.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise InputError(f"{name}={value!r} must be a whole number of at least {least}; {remedy}")
    return int(value)


def check_number(name: str, value: Any, least: float, below: float, remedy: str) -> float:
    """Refuse what is not a number in [least, below).

    Args:
        name: What it is called where the user gave it.
        value: What was given.
        least: The smallest that is taken.
        below: The first that is not; may be infinite.
        remedy: What to do.

    Returns:
        The number.

    Raises:
        InputError: If it is not.
    """
    number = isinstance(value, (int, float, np.integer, np.floating))
    if not number or isinstance(value, bool) or not least <= value < below:
        limit = f"at least {least:g}" + (f" and below {below:g}" if math.isfinite(below) else "")
        raise InputError(f"{name}={value!r} must be a finite number, {limit}; {remedy}")
    return float(value)


def check_images(
    images: Any,
    image_shape: tuple[int, ...] | None = None,
    arch: Architecture | None = None,
) -> NDArray[np.float32]:
    """Return images as float32 (n, H, W, C), n ≥ 1, finite.

    Args:
        images: What was given; features (n, D) count as images of one pixel.
        image_shape: (H, W, C) that they must have; None takes any.
        arch: The network that is to see them; features are refused by one for pixels.

    Returns:
        (n, H, W, C) float32; (n, 1, 1, D) of features.

    Raises:
        InputError: For another shape, none at all, or NaN or infinity.
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
    """Return labels as int32 (n,), refusing what is not a class number for each image.

    Args:
        labels: What was given.
        count: Number of images.
        num_classes: K.

    Returns:
        (n,) int32.

    Raises:
        InputError: For another shape, type or a value outside 0..K−1.
    """
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
