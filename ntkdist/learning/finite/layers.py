"""The layers of an architecture at finite width: shapes of their weights, and the forward pass.

NTK parameterisation (Jacot et al. 2018): weights and biases are N(0, 1) and a weight layer
computes W_std/√fan_in · (W ∗ x) + b_std · b.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ntkdist.errors import InputError
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import (
    AvgPool,
    Conv,
    Dense,
    Erf,
    Flatten,
    GlobalAvgPool,
    Layer,
    Relu,
    Residual,
    pixels_behind,
)

Shape = tuple[int, ...]


def executed(arch: Architecture) -> tuple[Layer, ...]:
    """Return the layers in order; a network that looks at no pixels reads the flattened image."""
    if arch.is_spatial:
        return arch.layers
    return (Flatten(), *(x for x in arch.layers if not isinstance(x, Flatten)))


def weighted(layers: Sequence[Layer]) -> Iterator[Conv | Dense]:
    """Yield the weight layers in the order of their parameters: branches before shortcuts."""
    for layer in layers:
        if isinstance(layer, (Conv, Dense)):
            yield layer
        elif isinstance(layer, Residual):
            yield from weighted(layer.branch)
            yield from weighted(layer.shortcut)


def weight_shapes(
    arch: Architecture, width: int, outputs: int, image_shape: Shape
) -> tuple[Shape, ...]:
    """Return the shape of W of every weight layer, in the order of ``weighted``.

    Args:
        arch: The network.
        width: Channels or units of every weight layer but the last.
        outputs: Units of the last layer.
        image_shape: (H, W, C).

    Returns:
        (size, size, fan_in, width) of a convolution, (fan_in, width) of a dense layer.

    Raises:
        InputError: If the image is too small for a layer, or the branches of a residual sum
            end in different numbers of channels.
    """
    shapes: list[Shape] = []
    layers = executed(arch)
    arch.check_image(*image_shape[:2])
    features = _append_shapes(layers[:-1], width, image_shape, shapes)
    shapes.append((features[-1], outputs))
    return tuple(shapes)


def _append_shapes(layers: Sequence[Layer], width: int, at: Shape, shapes: list[Shape]) -> Shape:
    """Add the shapes of these layers to ``shapes`` and return the shape of what they leave."""
    for layer in layers:
        match layer:
            case Conv():
                shapes.append((layer.size, layer.size, at[-1], width))
                at = (*pixels_behind([layer], at[0], at[1], "these"), width)
            case Dense():
                shapes.append((at[-1], width))
                at = (*at[:-1], width)
            case AvgPool():
                at = (*pixels_behind([layer], at[0], at[1], "these"), at[-1])
            case GlobalAvgPool():
                at = at[-1:]
            case Flatten():
                at = (math.prod(at),)
            case Residual():
                ends = [
                    _append_shapes(inner, width, at, shapes)
                    for inner in (layer.branch, layer.shortcut)
                ]
                if ends[0] != ends[1]:
                    raise InputError(
                        f"Residual: its branches end in {ends[0][-1]} and {ends[1][-1]} channels, "
                        "which have no sum at finite width; put a Conv before it or into the "
                        "shorter branch"
                    )
                at = ends[0]
            case _:
                continue
    return at


def weigh(layer: Conv | Dense, pair: tuple[Any, Any], x: Any) -> Any:
    """Return W_std/√fan_in · (W ∗ x) + b_std · b of one weight layer.

    Args:
        layer: The layer.
        pair: (W, b); b is None without biases.
        x: Its input.

    Returns:
        Its output.
    """
    W, b = pair
    scale = layer.W_std / math.sqrt(math.prod(W.shape[:-1]))
    # scaled behind the sum, where the compiler joins it with what follows
    z = scale * (_convolve(x, W, layer) if isinstance(layer, Conv) else x @ W)
    return z if b is None else z + layer.b_std * b


def forward(
    layers: Sequence[Layer],
    params: Iterator[Any],
    x: Any,
    weigh: Callable[[Conv | Dense, tuple[Any, Any], Any], Any] = weigh,
) -> Any:
    """Push images (N, H, W, C) through the layers; ``params`` yields (W, b) of each weight layer.

    Args:
        layers: As ``executed`` gives them.
        params: (W, b) by (W, b); b is None without biases.
        x: Images, or what the layers before left of them.
        weigh: What a weight layer does: who wants to see its input, or add to its output, gives
            another.

    Returns:
        What the layers leave: (N, units) behind Flatten or GlobalAvgPool.
    """
    import jax
    from jax import lax

    for layer in layers:
        match layer:
            case Conv() | Dense():
                x = weigh(layer, next(params), x)
            case Relu():
                x = jax.nn.relu(x)
            case Erf():
                x = lax.erf(x)
            case AvgPool():
                x = _pool(x, layer.size)
            case GlobalAvgPool():
                x = x.mean(axis=(1, 2))
            case Flatten():
                x = x.reshape(len(x), -1)
            case Residual():
                main = forward(layer.branch, params, x, weigh)
                x = main + forward(layer.shortcut, params, x, weigh)
    return x


def padding(conv: Conv, height: int, width: int) -> list[tuple[int, int]]:
    """Return how many pixels a convolution adds (above, below) and (left, right) of an image."""
    pads = []
    for edge in (height, width):
        total = 0
        if conv.padding != "VALID":
            total = max((-(-edge // conv.stride) - 1) * conv.stride + conv.size - edge, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def _convolve(x: Any, W: Any, conv: Conv) -> Any:
    import jax.numpy as jnp
    from jax import lax

    pads = padding(conv, *x.shape[1:3])
    if conv.padding == "CIRCULAR":
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode="wrap")
        pads = [(0, 0), (0, 0)]
    if conv.size**2 > x.shape[1] * x.shape[2]:
        return _convolve_by_positions(x, W, conv.stride, pads)
    return lax.conv_general_dilated(
        x, W, (conv.stride, conv.stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolve_by_positions(x: Any, W: Any, stride: int, pads: list[tuple[int, int]]) -> Any:
    """Compute each output pixel as one matrix product.

    XLA swaps image and filter where the filter is the larger, and has no fast code for that on
    CPUs: ``cnn-3`` on 8×8 pixels, which ends in 2×2, takes 18 times as long with it.
    """
    import jax.numpy as jnp

    size, edges = len(W), x.shape[1:3]
    counts = [(e + sum(p) - size) // stride + 1 for e, p in zip(edges, pads, strict=True)]
    found = []
    for place in np.ndindex(*counts):
        seen, used = [], []
        for at, edge, (before, _) in zip(place, edges, pads, strict=True):
            first = at * stride - before
            pixels = slice(max(0, first), min(edge, first + size))
            seen.append(pixels)
            used.append(slice(pixels.start - first, pixels.stop - first))
        pixels, weights = x[:, seen[0], seen[1]], W[used[0], used[1]]
        found.append(pixels.reshape(len(x), -1) @ weights.reshape(-1, W.shape[-1]))
    return jnp.stack(found, axis=1).reshape(len(x), *counts, W.shape[-1])


def _pool(x: Any, size: int) -> Any:
    n, height, width, channels = x.shape
    p, q = height // size, width // size
    cut = x[:, : p * size, : q * size]
    return cut.reshape(n, p, size, q, size, channels).mean(axis=(2, 4))
