"""An architecture at finite width: shapes and draws of its weights, and the forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ntkdist.checks import check_classes, check_seed, check_whole
from ntkdist.errors import InputError, shown
from ntkdist.learning.checks import require_jax
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import (
    ABRelu,
    AvgPool,
    CellLayer,
    Conv,
    Cos,
    Dense,
    Erf,
    Exp,
    ExpNormalized,
    Flatten,
    Gaussian,
    Gelu,
    GlobalAvgPool,
    Identity,
    Layer,
    LayerNorm,
    LeakyRelu,
    Relu,
    Residual,
    Sin,
    output_size,
)
from ntkdist.pixels import array_of, channels_last

Params: TypeAlias = tuple[tuple[Any, Any], ...]
Shape: TypeAlias = tuple[int, ...]

# Distinguishes the random numbers of the weights from those of the order of images in training.
_WEIGHTS = 11
_NO_FUNCTION = (
    "ExpNormalized is a kernel of infinite width for which no nonlinearity is known, so that no "
    "finite network has it; take Gaussian or another nonlinearity in its place"
)
_MOST_PARAMETERS = 2**31  # 8 GiB in float32


@dataclass(frozen=True)
class FiniteNetwork:
    """An architecture at finite width, in the NTK parameterisation.

    Weights and biases are N(0, 1); a weight layer computes W_std/√fan_in · (W ∗ x) + b_std · b,
    so that the NNGP and tangent kernels at initialisation tend to ``kernel_matrix`` with an
    error of O(width^−1/2). The last Dense has ``num_classes`` outputs, whose kernels are equal and
    independent. Layers with ``trainable=False`` keep their initial weights: of ``cntk-gap-D`` these
    are the first and the last layer.

    Attributes:
        arch: The architecture; anything that ``Architecture.parse`` takes can be given.
        width: Channels or units of every weight layer but the last.
        num_classes: K, units of the last layer.

    Raises:
        InputError: For a width or number of classes below 1, or a network with ExpNormalized.

    Source:
        Jacot et al. 2018 (parameterisation); Lee et al. 2019 (width^−1/2).
    """

    arch: Architecture
    width: int
    num_classes: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "arch", Architecture.parse(self.arch))
        check_finite(self.arch)
        width = check_whole(
            "width", self.width, 1, "give the channels of a hidden layer, such as 64", most=10**6
        )
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "num_classes", check_classes(self.num_classes))

    def init(self, seed: int, image_shape: tuple[int, int, int]) -> Params:
        """Draw the parameters.

        Args:
            seed: At least 0; the same seed gives the same bits.
            image_shape: (H, W, C).

        Returns:
            (W, b) of every weight layer in order, float32 jax arrays; b is None where
            b_std = 0. The branch of a Residual comes before its shortcut.

        Raises:
            InputError: If the images do not fit the architecture.
        """
        require_jax()
        import jax.numpy as jnp

        check_seed(seed)
        random = np.random.default_rng([seed, _WEIGHTS])
        params = []
        for layer, shape in zip(
            weight_layers(self.arch.layers), self._shapes(image_shape), strict=True
        ):
            W = jnp.asarray(random.standard_normal(shape, dtype=np.float32))
            b = None
            if layer.b_std:
                b = jnp.asarray(random.standard_normal(shape[-1], dtype=np.float32))
            params.append((W, b))
        return tuple(params)

    def apply(self, params: Params, x: Any) -> Any:
        """Return the outputs for images; may be differentiated and compiled by jax.

        Args:
            params: As ``init`` returns them.
            x: (N, H, W, C) images, or (N, D) features.

        Returns:
            (N, K) float32 jax array.

        Raises:
            InputError: If images and parameters have shapes that do not fit the network.
        """
        import jax
        import jax.numpy as jnp

        if not isinstance(x, jax.Array):
            with np.errstate(over="ignore"):  # infinity, as jax makes of them
                x = array_of(x).astype(np.float32)
        x = jnp.asarray(x, jnp.float32)
        if x.ndim == 2:
            self.arch.check_features()
            x = x[:, None, None, :]
        x = channels_last(x)
        self.check(params, x.shape[1:])
        return forward(executed_layers(self.arch), iter(params), x)

    def check(self, params: Params, image_shape: tuple[int, ...]) -> None:
        """Check that parameters fit the network and images.

        Args:
            params: As ``init`` returns them.
            image_shape: (H, W, C).

        Raises:
            InputError: If their shapes do not fit.
        """
        needed = self._shapes(image_shape)
        try:
            given = tuple(tuple(W.shape) for W, _ in params)
        except (TypeError, ValueError, AttributeError):
            raise InputError(
                f"params is {shown(params)}; give what init or training returned"
            ) from None
        if needed != given:
            raise InputError(
                f"parameters of shapes {given} do not fit images {image_shape}, which need "
                f"{needed}; draw them with init(seed, {image_shape})"
            )

    def trainable(self) -> tuple[bool, ...]:
        """Return whether each (W, b) of ``init`` trains."""
        return tuple(layer.trainable for layer in weight_layers(self.arch.layers))

    def _shapes(self, image_shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return weight_shapes(self.arch, self.width, self.num_classes, image_shape)


def check_finite(arch: Architecture) -> None:
    """Raise ``InputError`` for a network that exists at infinite width alone."""
    if _has_exp_normalized(arch.layers):
        raise InputError(f"architecture {arch}: {_NO_FUNCTION}")


def _has_exp_normalized(layers: Sequence[Layer]) -> bool:
    return any(
        _has_exp_normalized(layer.branch + layer.shortcut)
        if isinstance(layer, Residual)
        else isinstance(layer, ExpNormalized)
        for layer in layers
    )


def check_trainable(arch: Architecture) -> None:
    """Raise ``InputError`` for a network in which no layer trains."""
    if not any(layer.trainable for layer in weight_layers(arch.layers)):
        raise InputError(f"architecture {arch}: no layer is trainable; give one trainable=True")


def executed_layers(arch: Architecture) -> tuple[Layer, ...]:
    """Return the layers in order; a network without spatial layers reads the flattened image."""
    if arch.is_spatial:
        return arch.layers
    return (Flatten(), *(x for x in arch.layers if not isinstance(x, Flatten)))


def weight_layers(layers: Sequence[Layer]) -> Iterator[Conv | Dense]:
    """Yield the weight layers in the order of their parameters: branches before shortcuts."""
    for layer in layers:
        if isinstance(layer, (Conv, Dense)):
            yield layer
        elif isinstance(layer, Residual):
            yield from weight_layers(layer.branch)
            yield from weight_layers(layer.shortcut)


def weight_shapes(
    arch: Architecture, width: int, outputs: int, image_shape: Shape
) -> tuple[Shape, ...]:
    """Return the shape of W of every weight layer, in the order of ``weight_layers``.

    (size, size, fan_in, width) of a convolution, (fan_in, width) of a dense layer; the last one
    has ``outputs`` units.
    """
    shapes: list[Shape] = []
    layers = executed_layers(arch)
    if not isinstance(image_shape, tuple | list) or len(image_shape) != 3:
        raise InputError(f"image_shape={shown(image_shape)} must be (H, W, C)")
    for side in image_shape:
        check_whole("image_shape: a side", side, 1, "give (H, W, C)", most=10**6)
    arch.check_image(*image_shape[:2])
    features = _append_shapes(layers[:-1], width, image_shape, shapes)
    shapes.append((features[-1], outputs))
    if (total := sum(map(math.prod, shapes))) > _MOST_PARAMETERS:
        raise InputError(
            f"a network of width {width} on images {tuple(image_shape)} has {total:.3g} "
            f"parameters, more than {_MOST_PARAMETERS:.3g}; give a smaller width"
        )
    return tuple(shapes)


def _append_shapes(layers: Sequence[Layer], width: int, at: Shape, shapes: list[Shape]) -> Shape:
    """Append the weight shapes of these layers to ``shapes`` and return their output's shape."""
    for layer in layers:
        match layer:
            case Conv():
                shapes.append((layer.size, layer.size, at[-1], width))
                at = (*output_size([layer], at[0], at[1], "these"), width)
            case Dense():
                shapes.append((at[-1], width))
                at = (*at[:-1], width)
            case AvgPool():
                at = (*output_size([layer], at[0], at[1], "these"), at[-1])
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


def apply_weights(layer: Conv | Dense, pair: tuple[Any, Any], x: Any) -> Any:
    """Return W_std/√fan_in · (W ∗ x) + b_std · b of one weight layer; b is None without biases."""
    W, b = pair
    scale = layer.W_std / math.sqrt(math.prod(W.shape[:-1]))
    # Scaled after the sum, where the compiler fuses the factor with the next operation.
    z = scale * (_convolve(x, W, layer) if isinstance(layer, Conv) else x @ W)
    return z if b is None else z + layer.b_std * b


def forward(
    layers: Sequence[Layer],
    params: Iterator[Any],
    x: Any,
    apply_layer: Callable[[Conv | Dense, tuple[Any, Any], Any], Any] = apply_weights,
) -> Any:
    """Return the output (N, units) of the layers for images (N, H, W, C).

    ``params`` yields (W, b) of each weight layer; ``apply_layer`` replaces a weight layer's own
    computation, to record its input or to add to its output.
    """
    for layer in layers:
        match layer:
            case Conv() | Dense():
                x = apply_layer(layer, next(params), x)
            case AvgPool():
                x = _pool(x, layer)
            case GlobalAvgPool():
                x = x.mean(axis=(1, 2))
            case Flatten():
                x = x.reshape(len(x), -1)
            case Residual():
                main = forward(layer.branch, params, x, apply_layer)
                x = main + forward(layer.shortcut, params, x, apply_layer)
            case _:
                x = _apply_function(layer, x)
    return x


def _apply_function(layer: CellLayer, x: Any) -> Any:
    """Return the output of a layer without weights that keeps the shape (N, ..., channels)."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    match layer:
        case Relu():
            return jax.nn.relu(x)
        case LeakyRelu():
            return jnp.where(x < 0, layer.alpha * x, x)
        case ABRelu():
            return jnp.where(x < 0, layer.a * x, layer.b * x)
        case Erf():
            return lax.erf(x)
        case Gelu():
            return jax.nn.gelu(x, approximate=False)
        case Sin():
            return layer.a * jnp.sin(layer.b * x + layer.c)
        case Cos():
            return layer.a * jnp.cos(layer.b * x + layer.c)
        case Exp():
            return layer.a * jnp.exp(layer.b * x)
        case Gaussian():
            return layer.a * jnp.exp(layer.b * x**2)
        case LayerNorm():
            centred = x - x.mean(axis=-1, keepdims=True)
            return centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + layer.eps)
        case Identity():
            return x
        case ExpNormalized():
            raise InputError(_NO_FUNCTION)


def conv_padding(conv: Conv, height: int, width: int) -> list[tuple[int, int]]:
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

    pads = conv_padding(conv, *x.shape[1:3])
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

    Where the filter is larger than the image, XLA exchanges the two and has no fast code for that
    on CPUs: ``cnn-3`` on 8×8 pixels, which ends in 2×2, takes 18 times as long.
    """
    import jax.numpy as jnp

    size, edges = len(W), x.shape[1:3]
    counts = [(e + sum(p) - size) // stride + 1 for e, p in zip(edges, pads, strict=True)]
    outputs = []
    for place in np.ndindex(*counts):
        inside, used = [], []
        for at, edge, (before, _) in zip(place, edges, pads, strict=True):
            first = at * stride - before
            part = slice(max(0, first), min(edge, first + size))
            inside.append(part)
            used.append(slice(part.start - first, part.stop - first))
        pixels, weights = x[:, inside[0], inside[1]], W[used[0], used[1]]
        outputs.append(pixels.reshape(len(x), -1) @ weights.reshape(-1, W.shape[-1]))
    return jnp.stack(outputs, axis=1).reshape(len(x), *counts, W.shape[-1])


def _pool(x: Any, pool: AvgPool) -> Any:
    n, height, width, channels = x.shape
    size = pool.size
    if not pool.side_by_side:
        from jax import lax

        area, step = (1, size, size, 1), (1, pool.step, pool.step, 1)
        return lax.reduce_window(x, 0.0, lax.add, area, step, pool.padding) / size**2
    p, q = height // size, width // size
    cut = x[:, : p * size, : q * size]
    return cut.reshape(n, p, size, q, size, channels).mean(axis=(2, 4))
