"""Launching GPU kernels that have one thread for each thing, and bringing arrays to the device."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from ntkdist.errors import InputError
from ntkdist.kernels.backend import as_images
from ntkdist.kernels.cuda.intrinsics import SIMULATED

SIMPLE = 1 if SIMULATED else 256  # of a block of threads that know nothing of each other


def on_device(images: Any) -> Any:
    """Return (n, H, W, C) images on the device; those that are there are not copied."""
    if hasattr(images, "__cuda_array_interface__") or hasattr(images, "copy_to_host"):
        x = images if hasattr(images, "copy_to_host") else cuda.as_cuda_array(images)
        if x.ndim != 4 or 0 in x.shape:
            raise InputError(f"images have shape {tuple(x.shape)}; (n, H, W, C) is needed")
        if np.dtype(x.dtype) not in (np.float32, np.float64):
            raise InputError(
                f"images on the device are {x.dtype}; float32 or float64 is needed there"
            )
        if not x.is_c_contiguous():
            raise InputError("images on the device are not contiguous; make a copy in C order")
        return x
    return put(as_images(np.asarray(images)))


def put(values: np.ndarray) -> Any:
    """Return a copy on the device."""
    return cuda.to_device(np.ascontiguousarray(values))


def each(function: Any, count: int) -> Any:
    """Return a kernel set up to run one thread for each of ``count`` things."""
    return function[max(1, -(-count // SIMPLE)), SIMPLE]
