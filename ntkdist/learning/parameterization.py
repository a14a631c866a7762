"""The tangent kernel in the standard parameterisation, at the widths of a finite network.

In the NTK parameterisation a weight layer adds its own K to Θ, whatever its width. In the standard
one, where weights are N(0, W_std²/fan_in) and nothing is scaled in the forward pass, it adds
fan_in / W_std² times as much: layers with many inputs learn faster, and Θ grows with the width.
What a layer adds reaches the output through the same products in both, so the standard kernel
is a weighted sum of the kernels in which one layer trains alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.kernels import kernel_matrix
from ntkdist.learning.checks import check_whole
from ntkdist.learning.finite.layers import executed, weight_shapes, weighted
from ntkdist.networks.architecture import Architecture, ArchitectureSpec
from ntkdist.networks.layers import Conv, Dense, Layer, Residual


def standard_kernel_matrix(
    arch: ArchitectureSpec,
    x1: Any,
    x2: Any = None,
    *,
    width: int,
    backend: str = "auto",
    dtype: str = "float32",
    threads: int | None = None,
) -> NDArray[Any]:
    """Compute Θ of wide networks in the standard parameterisation.

    As many kernel matrices are computed as layers train. Where every width is multiplied by s and
    the learning rate divided by s, networks train as this kernel says in the limit of
    large s; without the division Θ diverges.

    Args:
        arch: A preset name, a list of layers, canonical text, or an ``Architecture``, without
            biases: what a bias adds cannot be told from what its weights add.
        x1: (n, H, W, C) images, or (n, D) features for a fully connected network.
        x2: (m, H, W, C) images or (m, D) features; None means ``x1``.
        width: Channels or units of every weight layer but the last, ≥ 1.
        backend: As for ``ntkdist.kernel_matrix``.
        dtype: ``float32`` or ``float64``.
        threads: Threads to use; None takes all cores.

    Returns:
        (n, m) of ``dtype``.

    Raises:
        InputError: For an architecture with biases or without trainable layers, or images that
            do not fit.

    Source:
        Sohl-Dickstein et al. 2020, equation 7 (there with widths s·N_l).
    """
    parsed = Architecture.parse(arch)
    width = check_whole("width", width, 1, "give the channels of each hidden layer, such as 64")
    x1 = np.asarray(x1)
    if x1.ndim == 2:
        parsed.check_features()
    elif x1.ndim != 4:
        raise InputError(f"images have shape {x1.shape}; (N, H, W, C) is needed")
    shape = x1.shape[1:] if x1.ndim == 4 else (1, 1, x1.shape[1])
    factors = layer_factors(parsed, width, shape)
    total: NDArray[Any] | None = None
    for place, factor in enumerate(factors):
        if not factor:
            continue
        part = kernel_matrix(
            _only(parsed, place), x1, x2, backend=backend, dtype=dtype, threads=threads
        )
        part *= np.asarray(factor, part.dtype)
        total = part if total is None else total + part
    if total is None:
        raise InputError(f"architecture {parsed}: no layer is trainable; give one trainable=True")
    return total


def layer_factors(arch: Architecture, width: int, image_shape: Sequence[int]) -> tuple[float, ...]:
    """Return fan_in / W_std² of every weight layer that trains, 0 of the others.

    Args:
        arch: The network.
        width: Channels or units of every weight layer but the last.
        image_shape: (H, W, C).

    Returns:
        One factor a weight layer; branches before shortcuts.

    Raises:
        InputError: For layers with biases.
    """
    shapes = weight_shapes(arch, width, 1, tuple(image_shape))
    factors = []
    for layer, shape in zip(weighted(executed(arch)), shapes, strict=True):
        if layer.b_std:
            raise InputError(
                f"{layer!r} has biases, whose share of the tangent kernel cannot be weighted "
                "apart; the standard parameterisation takes layers with b_std=0"
            )
        factors.append(math.prod(shape[:-1]) / layer.W_std**2 if layer.trainable else 0.0)
    return tuple(factors)


def change_layers(
    arch: Architecture, change: Callable[[int, Conv | Dense], Conv | Dense]
) -> Architecture:
    """Return the network with every weight layer replaced.

    Args:
        arch: The network.
        change: Takes the place (0, 1, …; branches before shortcuts) and the layer.

    Returns:
        The changed network.
    """
    places = iter(range(arch_weights(arch)))
    return Architecture(tuple(_changed(arch.layers, change, places)))


def arch_weights(arch: Architecture) -> int:
    """Return the number of weight layers, those of all branches counted."""
    return sum(1 for _ in weighted(arch.layers))


def _changed(
    layers: Sequence[Layer],
    change: Callable[[int, Conv | Dense], Conv | Dense],
    places: Iterator[int],
) -> Iterator[Layer]:
    for layer in layers:
        if isinstance(layer, (Conv, Dense)):
            yield change(next(places), layer)
        elif isinstance(layer, Residual):
            branch = tuple(_changed(layer.branch, change, places))
            yield Residual(branch, tuple(_changed(layer.shortcut, change, places)))
        else:
            yield layer


def _only(arch: Architecture, place: int) -> Architecture:
    """Return the network in which one weight layer trains alone."""
    return change_layers(arch, lambda at, layer: dataclasses.replace(layer, trainable=at == place))
