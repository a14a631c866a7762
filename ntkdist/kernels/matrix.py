"""Kernel matrices in memory, for sets small enough not to need a store."""

from __future__ import annotations

import os

import numpy as np

from ntkdist.errors import InputError
from ntkdist.kernels.backend import as_images, check_kinds
from ntkdist.kernels.registry import select_backend
from ntkdist.networks.architecture import Architecture, ArchitectureSpec


def kernel_matrix(
    arch: ArchitectureSpec,
    x1: np.ndarray,
    x2: np.ndarray | None = None,
    *,
    kind: str = "ntk",
    backend: str = "auto",
    dtype: str = "float32",
    threads: int | None = None,
) -> np.ndarray:
    """Compute the kernel matrix of two sets of images, or of rows of features.

    Args:
        arch: A preset name, a list of layers, canonical text, or an ``Architecture``.
        x1: (n, H, W, C) images, or (n, D) features for a fully connected network. What is on a
            GPU already (``__cuda_array_interface__``) is read there by the cuda backend.
        x2: (m, H, W, C) images or (m, D) features; None means ``x1``, and half of the entries are
            computed.
        kind: ``ntk`` or ``nngp``.
        backend: ``auto``, ``cuda``, ``cpu``, ``stax`` or ``reference``.
        dtype: ``float32`` or ``float64``.
        threads: Threads to use; None takes all cores.

    Returns:
        (n, m) of ``dtype``; symmetric to the bit when ``x2`` is None.

    Raises:
        InputError: For bad images, an unknown kind or backend, or an architecture that
            no backend covers.
    """
    (kind,) = check_kinds([kind])
    arch = Architecture.parse(arch)
    x1 = _rows(arch, x1)
    x2 = None if x2 is None else _rows(arch, x2)
    threads = threads or len(os.sched_getaffinity(0))
    if x1.ndim != 4:
        as_images(np.asarray(x1))  # raises with the shape that is needed
    chosen = select_backend(arch, x1.shape[1:], name=backend, dtype=dtype, threads=threads).backend
    a = chosen.prepare(arch, x1 if chosen.name == "cuda" else np.asarray(x1))
    b = a
    if x2 is not None:
        b = chosen.prepare(arch, x2 if chosen.name == "cuda" else np.asarray(x2))
    return chosen.block(a, b, (kind,))[kind]


def _rows(arch: Architecture, x: np.ndarray) -> np.ndarray:
    """Return features (n, D) as images of one pixel, which a network for pixels may not see."""
    on_device = hasattr(x, "__cuda_array_interface__")
    x = x if on_device else np.asarray(x)
    if x.ndim != 2:
        return x
    arch.check_features()
    if not on_device:
        if x.dtype.kind not in "buif":
            raise InputError(f"features have dtype {x.dtype}; real numbers are needed")
        if not (finite := np.isfinite(x)).all():
            row, column = np.unravel_index(int(np.argmin(finite)), x.shape)
            raise InputError(
                f"features hold NaN or infinity, the first in row {row}, column {column} (counted "
                "from 0); repair or leave out these rows"
            )
    return x.reshape(x.shape[0], 1, 1, x.shape[1])
