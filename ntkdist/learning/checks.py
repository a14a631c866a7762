"""Checks of arguments that several modules of learning take: images, times, targets, outputs."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import is_number, real_array
from ntkdist.errors import InputError, shown
from ntkdist.networks.architecture import Architecture
from ntkdist.pixels import PixelRange, image_array


def require_jax() -> None:
    """Raise ``InputError`` where jax or optax is not installed."""
    for name in ("jax", "optax"):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"finite networks need {name}, which is not installed: pip install {name}"
            )


def check_rate(learning_rate: Any) -> float:
    """Return a learning rate, a finite number above 0."""
    if not is_number(learning_rate) or not 0 < learning_rate < math.inf:
        raise InputError(
            f"learning_rate={learning_rate!r} must be a finite number above 0; with 1, times are "
            "those of gradient flow"
        )
    return float(learning_rate)


def check_time(time: Any) -> float:
    """Return a training time from 0 to infinity."""
    if not is_number(time) or not time >= 0:
        raise InputError(f"time={time!r} must be a number of at least 0; inf trains to the end")
    return float(time)


def check_times(times: Any) -> NDArray[np.float64]:
    """Return training times as float64 (T,), T ≥ 1, each above the one before."""
    if not isinstance(times, list | tuple | range | np.ndarray) or np.ndim(times) != 1:
        raise InputError(f"times={shown(times)} is no list of numbers; give (1, 10, 100) or so")
    checked = np.array([check_time(t) for t in times])
    if not checked.size or (np.diff(checked) <= 0).any():
        raise InputError(f"times={list(times)!r} must be at least one, each above the one before")
    return checked


def check_images(
    images: Any,
    image_shape: tuple[int, ...] | None = None,
    arch: Architecture | None = None,
    *,
    trained_on: PixelRange | None = None,
) -> NDArray[np.float32]:
    """Return images as float32 (n, H, W, C), n ≥ 1, finite, of ``image_shape`` where it is given.

    They are given so, as (n, H, W) or as a list of images (see ``pixels.image_array``). Features
    (n, D) become images of one pixel, (n, 1, 1, D), unless ``arch`` needs pixels.
    ``trained_on`` is the range of the training images, on whose scale they must be.
    """
    x = image_array(images)
    if x.ndim == 2:
        if arch is not None:
            arch.check_features()
        x = x[:, None, None, :]
    if 0 in x.shape:
        raise InputError(f"images have shape {x.shape}; (N, H, W, C) with N ≥ 1 is needed")
    if image_shape is not None and x.shape[1:] != tuple(image_shape):
        raise InputError(
            f"images are {x.shape[1:]}, but the network was trained on {tuple(image_shape)}; "
            "bring them to that shape"
        )
    if trained_on is not None:
        trained_on.check(PixelRange.of(x))
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise InputError("images hold NaN or infinity in float32; clean or rescale them")
    return x


def check_sets(
    images: Any, test: Any, arch: Architecture | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return training and test images as ``check_images`` does, of one shape and on one scale."""
    x = check_images(images, arch=arch)
    return x, check_images(test, x.shape[1:], trained_on=range_of(images))


def range_of(images: Any) -> PixelRange | None:
    """Return the range of checked images; None for features."""
    given = image_array(images)
    return None if given.ndim == 2 else PixelRange.of(given)


def check_targets(targets: Any, n: int) -> NDArray[np.float64]:
    """Return the targets of the n images of a Gram matrix as float64 (n, K), K ≥ 1, finite."""
    Y = real_array("targets", targets)
    if Y.ndim != 2 or len(Y) != n or not Y.shape[1]:
        raise InputError(
            f"targets have shape {Y.shape}; the Gram is of {n} images, so ({n}, K) is needed"
        )
    if not np.isfinite(Y).all():
        raise InputError("targets hold NaN or infinity; give finite numbers")
    return Y


def check_outputs(name: str, outputs: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return outputs as finite float64 of a shape; a number, or None for 0, fills it read-only."""
    f = real_array(name, 0.0 if outputs is None else outputs)
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
