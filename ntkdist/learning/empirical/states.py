"""What a weight layer's part of the tangent kernel is made of: its inputs and its deltas.

With z = s (W ∗ a) + β b, the derivatives of an output by W and b are products of a and
δ = ∂f/∂z, so that a network of P parameters is described by its activations, once forward and
once back, and never by its Jacobian.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.learning.finite.layers import executed, forward, weigh, weighted
from ntkdist.learning.finite.network import FiniteNetwork, Params
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import Conv, Dense

# Of what one call passes forward and back; its temporaries are a few times as large.
_CALL_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class LayerState:
    """Inputs and deltas of one trained weight layer for n images and V outputs.

    Attributes:
        layer: The layer.
        inputs: (n, C) or (n, H, W, C) float32: a.
        deltas: (n, V, c) or (n, V, H', W', c) float32: δ of each output.
        weight: What a·a' δ·δ' is multiplied by: W_std²/fan_in in the NTK parameterisation, 1 in
            the standard one.
        bias: What δ·δ' is multiplied by: b_std² or 1; 0 without biases.
    """

    layer: Conv | Dense
    inputs: NDArray[np.float32]
    deltas: NDArray[np.float32]
    weight: float
    bias: float


def image_bytes(network: FiniteNetwork, params: Params, image_shape: Any, outputs: int) -> int:
    """Return the bytes of one image's states for this many outputs."""
    import jax

    x = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    shapes = jax.eval_shape(functools.partial(_activations, network.arch), params, x)
    count = sum(math.prod(a.shape) + outputs * math.prod(z.shape) for a, z in shapes)
    return 4 * count


def states(
    network: FiniteNetwork,
    params: Params,
    images: NDArray[np.float32],
    cotangents: NDArray[np.float32],
    *,
    fold: bool,
    standard: bool,
) -> list[LayerState]:
    """Return the state of every trained layer.

    Args:
        network: The network.
        params: Its parameters.
        images: (n, H, W, C).
        cotangents: (V, K); output v is Σ_k cotangents[v, k] f_k.
        fold: Whether the outputs stand beside one another in the channels of one delta, which
            makes the kernel the sum of theirs.
        standard: Whether in the standard parameterisation.

    Returns:
        One state a trained layer.
    """
    each = image_bytes(network, params, images.shape[1:], len(cotangents))
    step = min(len(images), max(1, _CALL_BYTES // each))
    parts: list[Any] = []
    for start in range(0, len(images), step):
        part = images[start : start + step]
        # one shape, compiled once: the last call repeats images that are dropped again
        rows = np.minimum(np.arange(step), len(part) - 1)
        found = _program(network.arch)(params, part[rows], cotangents)
        parts.append([[np.asarray(x)[: len(part)] for x in pair] for pair in found])
    kept = []
    chosen = (place for place, trains in enumerate(network.trainable()) if trains)
    layers = list(weighted(executed(network.arch)))
    for number, place in enumerate(chosen):
        layer, W = layers[place], params[place][0]
        inputs, deltas = (np.concatenate([part[number][side] for part in parts]) for side in (0, 1))
        if fold:
            V, c = deltas.shape[1], deltas.shape[-1]
            shape = (len(deltas), 1, *deltas.shape[2:-1], V * c)
            deltas = np.moveaxis(deltas, 1, -2).reshape(shape)
        weight, bias = layer.W_std**2 / math.prod(W.shape[:-1]), layer.b_std**2
        if standard:
            weight, bias = 1.0, float(bias > 0)
        kept.append(LayerState(layer, inputs, deltas, weight, bias))
    return kept


def _activations(arch: Architecture, params: Any, x: Any) -> list[tuple[Any, Any]]:
    """Return (input, output) of every weight layer."""
    seen = []

    def watched(layer: Conv | Dense, pair: Any, a: Any) -> Any:
        z = weigh(layer, pair, a)
        seen.append((a, z))
        return z

    forward(executed(arch), iter(params), x, watched)
    return seen


@functools.lru_cache(maxsize=8)
def _program(arch: Architecture) -> Any:
    """Return the compiled (params, images, cotangents) → (inputs, deltas) of trained layers."""
    import jax
    import jax.numpy as jnp

    layers = executed(arch)
    trains = [layer.trainable for layer in weighted(layers)]

    def pairs(params: Any, x: Any, cotangents: Any) -> list[tuple[Any, Any]]:
        # zeros added to what each trained layer puts out: derivatives by them are the deltas;
        # the last one's are the cotangents themselves
        outputs = [z for _, z in jax.eval_shape(functools.partial(_activations, arch), params, x)]
        moved = zip([*trains[:-1], False], outputs, strict=True)
        zeros = [jnp.zeros(z.shape, z.dtype) if moves else None for moves, z in moved]

        def tapped(taps: Any) -> Any:
            inputs, ahead = [], iter(taps)

            def weigh_and_add(layer: Conv | Dense, pair: Any, a: Any) -> Any:
                inputs.append(a)
                z, tap = weigh(layer, pair, a), next(ahead)
                return z if tap is None else z + tap

            return forward(layers, iter(params), x, weigh_and_add), inputs

        f, back, inputs = jax.vjp(tapped, zeros, has_aux=True)

        def of_one(cotangent: Any) -> Any:
            return back(jnp.broadcast_to(cotangent, f.shape))[0]

        deltas = jax.vmap(of_one, out_axes=1)(cotangents)
        deltas[-1] = jnp.broadcast_to(cotangents, (len(x), *cotangents.shape))
        return [(a, d) for a, d, t in zip(inputs, deltas, trains, strict=True) if t]

    return jax.jit(pairs)
