"""The tangent kernel in the standard parameterisation, at the widths of a finite network.

In the standard parameterisation weights are N(0, W_std²/fan_in) and the forward pass scales
nothing. A weight layer then adds fan_in / W_std² times as much to Θ as in the NTK
parameterisation: layers with many inputs learn faster, and Θ grows with the width. The standard
kernel is therefore a weighted sum of the NTK kernels in which one layer trains alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_whole
from ntkdist.errors import InputError
from ntkdist.kernels import kernel_matrix
from ntkdist.learning.finite.network import check_trainable, weight_layers, weight_shapes
from ntkdist.networks.architecture import Architecture, ArchitectureSpec
from ntkdist.networks.layers import Conv, Dense, Layer, Residual
from ntkdist.pixels import image_array


def standard_kernel_matrix(
    arch: ArchitectureSpec,
    x1: Any,
    x2: Any = None,
    *,
    width: int,
    backend: str = "auto",
    dtype: str = "float32",
    threads: int | None = None,
    invariance: str = "none",
) -> NDArray[Any]:
    """Compute Θ of wide networks in the standard parameterisation.

    One kernel matrix is computed for each layer that trains. It describes networks in the limit of
    large s where every width is multiplied by s and the learning rate divided by s; without the
    division Θ diverges.

    Args:
        arch: A preset name, a list of layers, canonical text, or an ``Architecture``, without
            biases: the share of a bias in Θ cannot be separated from that of its weights.
        x1: As for ``ntkdist.kernel_matrix``.
        x2: The same; None means ``x1``.
        width: Channels or units of every weight layer but the last, ≥ 1.
        backend: As for ``ntkdist.kernel_matrix``.
        dtype: ``float32`` or ``float64``.
        threads: Threads to use; None takes all cores.
        invariance: As for ``ntkdist.kernel_matrix``.

    Returns:
        (n, m) of ``dtype``.

    Raises:
        InputError: For an architecture with biases or without trainable layers, or images that
            do not fit.

    Source:
        Sohl-Dickstein et al. 2020, equation 7 (there with widths s·N_l).
    """
    parsed = Architecture.parse(arch)
    width = check_whole(
        "width", width, 1, "give the channels of each hidden layer, such as 64", most=10**6
    )
    x1 = image_array(x1)
    if x1.ndim == 2:
        parsed.check_features()
    shape = x1.shape[1:] if x1.ndim == 4 else (1, 1, x1.shape[1])
    factors = layer_factors(parsed, width, shape)
    check_trainable(parsed)
    total: Any = None
    for place, factor in enumerate(factors):
        if not factor:
            continue
        part = kernel_matrix(
            _only(parsed, place),
            x1,
            x2,
            backend=backend,
            dtype=dtype,
            threads=threads,
            invariance=invariance,
        )
        part *= np.asarray(factor, part.dtype)
        total = part if total is None else total + part
    return total


def layer_factors(arch: Architecture, width: int, image_shape: Sequence[int]) -> tuple[float, ...]:
    """Return fan_in / W_std² of every weight layer that trains, 0 of the others.

    The order is that of ``weight_layers``; layers with biases raise ``InputError``.
    """
    shapes = weight_shapes(arch, width, 1, tuple(image_shape))
    factors = []
    for layer, shape in zip(weight_layers(arch.layers), shapes, strict=True):
        if layer.b_std:
            raise InputError(
                f"{layer!r} has biases, whose share of the tangent kernel cannot be separated from "
                "that of the weights; the standard parameterisation takes layers with b_std=0"
            )
        factors.append(math.prod(shape[:-1]) / layer.W_std**2 if layer.trainable else 0.0)
    return tuple(factors)


def change_layers(
    arch: Architecture, change: Callable[[int, Conv | Dense], Conv | Dense]
) -> Architecture:
    """Return the network with each weight layer replaced by ``change(place, layer)``.

    Places count from 0 in the order of ``weight_layers``.
    """
    return Architecture(tuple(_changed(arch.layers, change, itertools.count())))


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
