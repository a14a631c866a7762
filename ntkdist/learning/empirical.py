"""Tangent kernels of networks of finite width at given parameters, without forming a Jacobian.

A weight layer computes z = s (W ∗ a) + β b. The derivatives of an output by W and b are products
of the layer's input a and of δ = ∂f/∂z, so that one pass forward and one back per output describe
a network of any number of parameters. For outputs o, o' of images x, x' a convolution adds

    Σ_{p,p'} (patch_p · patch'_{p'}) (δ_{o,p} · δ'_{o',p'})
        = (Σ_p patch_p ⊗ δ_{o,p}) · (Σ_{p'} patch'_{p'} ⊗ δ'_{o',p'}),

a dense layer the same with one position. The left side costs, for n × m images, V outputs, P
positions (P₀ of the input), a filter of q² offsets, C channels in and c out,
nm(P₀²C + q²P² + V P²c + V²P c) multiplications; the right side, whose factors are the weight
gradients, (n + m) V P q²C c + nm V² q²C c. The cheaper one is taken: gradients for large images
of few channels, positions after pooling and in wide layers.

The pNTK of K outputs, which is K² times smaller than the full kernel, is compared with it.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_choice, check_labels, check_made, check_whole
from ntkdist.errors import InputError
from ntkdist.learning.checks import check_images, check_sets, require_jax
from ntkdist.learning.finite.network import (
    FiniteNetwork,
    Params,
    apply_weights,
    check_trainable,
    conv_padding,
    executed_layers,
    forward,
    weight_layers,
)
from ntkdist.learning.finite.training import padded_batches
from ntkdist.learning.regression import targets_of
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import Conv, Dense
from ntkdist.pixels import check_raw_scale, image_array

KINDS = ("ntk", "trace", "pntk", "logit")
PARAMETERIZATIONS = ("ntk", "standard")

# Memory of the states of a batch of rows and a batch of columns together.
_STATE_BYTES = 2**30
# Memory of the states that one call of the compiled function returns; its temporaries are a few
# times as large.
_CALL_BYTES = 64 * 2**20
# Memory of each temporary of a thread.
BLOCK_BYTES = 64 * 2**20
# Least number of blocks for the threads to share; results do not depend on the number of threads.
_BLOCKS = 8
# Cost of an addition in memory, in multiplications inside a matrix product.
_ADDITION = 8

# Memory of a block of the full kernel between test and training images.
_CROSSED_BYTES = 256 * 2**20


def empirical_kernel(
    network: FiniteNetwork,
    params: Params,
    x1: Any,
    x2: Any = None,
    *,
    kind: str = "ntk",
    parameterization: str = "ntk",
    batch: int | None = None,
) -> NDArray[np.float64]:
    """Return the tangent kernel Θ = ∇f(x) ∇f(x')ᵀ of a network of finite width.

    Passes through the network and products are float32, the sum over layers float64. Layers with
    ``trainable=False`` add nothing.

    Args:
        network: The network.
        params: Its parameters, as ``FiniteNetwork.init`` or training leave them.
        x1: (n, H, W, C) images, or (n, D) features.
        x2: (m, H, W, C) images; None means ``x1``, and little more than half of the
            entries are computed.
        kind: ``ntk``: all pairs of outputs. ``trace``: the mean over outputs, (1/K) Σ_o Θ_oo.
            ``pntk``: (1/K) Σ_oo' Θ_oo', the kernel of (1/√K) Σ_o f_o. ``logit``: Θ_00, of the
            first output. At initialisation and large width the mean of the last three over draws
            is the infinite network's kernel; ``pntk`` and ``logit`` need one backward pass instead
            of K.
        parameterization: ``ntk``, in which networks are drawn and trained here, or ``standard``:
            derivatives by weights and biases whose standard deviations are W_std/√fan_in and b_std.
        batch: Images of the rows, and of the columns, whose states are held at once; None takes
            what 1 GiB holds. If it is smaller than n, images pass through the network repeatedly.

    Returns:
        (n, K, m, K) for ``ntk``, else (n, m), float64; symmetric to the bit when ``x2`` is None.

    Raises:
        InputError: For images, parameters or settings that do not fit, a network without
            trainable layers, or derivatives beyond float32.

    Source:
        Jacot et al. 2018 (tangent kernel); Novak, Sohl-Dickstein and Schoenholz 2022 (structured
        derivatives); Mohamadi, Bae and Sutherland 2023 (pNTK); Sohl-Dickstein et al. 2020
        (parameterisations).
    """
    require_jax()
    check_made("network", network, FiniteNetwork, "make one")
    check_choice("kind", kind, KINDS)
    check_choice("parameterization", parameterization, PARAMETERIZATIONS)
    first = check_images(x1, arch=network.arch)
    second = first
    if x2 is not None:
        second = check_images(x2, first.shape[1:])
        check_raw_scale(image_array(x1), image_array(x2), "images of x2")
    network.check(params, first.shape[1:])
    check_trainable(network.arch)
    cotangents = _cotangents(kind, network.num_classes)
    if batch is None:
        each = _image_bytes(network, params, first.shape[1:], len(cotangents))
        batch = max(1, _STATE_BYTES // (2 * each))
    batch = check_whole("batch", batch, 1, "give the images to hold at once, or None")
    V = len(cotangents) if kind == "ntk" else 1

    def states_at(images: NDArray[np.float32], start: int) -> Any:
        part, standard = images[start : start + batch], parameterization == "standard"
        fold = kind == "trace"
        return _states(network, params, part, cotangents, fold=fold, standard=standard)

    out = np.zeros((len(first), V, len(second), V))
    for i in range(0, len(first), batch):
        rows = states_at(first, i)
        for j in range(i if x2 is None else 0, len(second), batch):
            columns = rows if x2 is None and i == j else states_at(second, j)
            block = out[i : i + batch, :, j : j + batch]
            for a, b in zip(rows, columns, strict=True):
                _add_layer(block, a, b)
    flat = out.reshape(len(first) * V, -1)
    if x2 is None:
        _mirror(flat)
    if not np.isfinite(flat).all():
        raise InputError(
            "the network's derivatives are beyond float32; give smaller images or parameters"
        )
    return out if kind == "ntk" else flat


def _cotangents(kind: str, K: int) -> NDArray[np.float32]:
    """Return the combinations (V, K) of outputs whose kernels a kind needs."""
    if kind == "pntk":
        return np.full((1, K), K**-0.5, dtype=np.float32)
    if kind == "logit":
        return np.eye(1, K, dtype=np.float32)
    return np.eye(K, dtype=np.float32) * np.float32(1.0 if kind == "ntk" else K**-0.5)


def _mirror(square: NDArray[np.float64]) -> None:
    """Copy the upper triangle to the lower one, in bands so that no second matrix is needed."""
    band = 512
    for start in range(0, len(square), band):
        stop = start + band
        corner = square[start:stop, start:stop]
        corner[...] = np.triu(corner) + np.triu(corner, 1).T
        square[stop:, start:stop] = square[start:stop, stop:].T


@dataclass(frozen=True, eq=False)
class LayerState:
    """Inputs and deltas of one trained weight layer for n images and V outputs.

    Attributes:
        layer: The layer.
        inputs: (n, C) or (n, H, W, C) float32: a.
        deltas: (n, V, c) or (n, V, H', W', c) float32: δ of each output.
        weight: Factor of a·a' δ·δ': W_std²/fan_in in the NTK parameterisation, 1 in the standard.
        bias: Factor of δ·δ': b_std² or 1; 0 without biases.
    """

    layer: Conv | Dense
    inputs: NDArray[np.float32]
    deltas: NDArray[np.float32]
    weight: float
    bias: float


def _image_bytes(network: FiniteNetwork, params: Params, image_shape: Any, outputs: int) -> int:
    """Return the bytes of one image's states for V outputs."""
    import jax

    x = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    shapes = jax.eval_shape(functools.partial(_activations, network.arch), params, x)
    count = sum(math.prod(a.shape) + outputs * math.prod(z.shape) for a, z in shapes)
    return 4 * count


def _states(
    network: FiniteNetwork,
    params: Params,
    images: NDArray[np.float32],
    cotangents: NDArray[np.float32],
    *,
    fold: bool,
    standard: bool,
) -> list[LayerState]:
    """Return the state of every trained layer for images (n, H, W, C).

    Output v is Σ_k cotangents[v, k] f_k. ``fold`` puts the V outputs side by side into the channels
    of one delta, so that the kernel is the sum of theirs.
    """
    each = _image_bytes(network, params, images.shape[1:], len(cotangents))
    parts: list[Any] = []
    for part, count in padded_batches(images, max(1, _CALL_BYTES // each)):
        pairs = _inputs_and_deltas(network.arch)(params, part, cotangents)
        parts.append([[np.asarray(x)[:count] for x in pair] for pair in pairs])
    states = []
    layers = zip(weight_layers(network.arch.layers), params, strict=True)
    for number, (layer, (W, _)) in enumerate(pair for pair in layers if pair[0].trainable):
        inputs, deltas = (np.concatenate([part[number][side] for part in parts]) for side in (0, 1))
        if fold:
            V, c = deltas.shape[1], deltas.shape[-1]
            shape = (len(deltas), 1, *deltas.shape[2:-1], V * c)
            deltas = np.moveaxis(deltas, 1, -2).reshape(shape)
        weight, bias = layer.W_std**2 / math.prod(W.shape[:-1]), layer.b_std**2
        if standard:
            weight, bias = 1.0, float(bias > 0)
        states.append(LayerState(layer, inputs, deltas, weight, bias))
    return states


def _activations(arch: Architecture, params: Any, x: Any) -> list[tuple[Any, Any]]:
    """Return (input, output) of every weight layer."""
    pairs = []

    def apply_and_record(layer: Conv | Dense, pair: Any, a: Any) -> Any:
        z = apply_weights(layer, pair, a)
        pairs.append((a, z))
        return z

    forward(executed_layers(arch), iter(params), x, apply_and_record)
    return pairs


@functools.lru_cache(maxsize=8)
def _inputs_and_deltas(arch: Architecture) -> Any:
    """Return the compiled (params, images, cotangents) → (inputs, deltas) of trained layers."""
    import jax
    import jax.numpy as jnp

    layers = executed_layers(arch)
    trains = [layer.trainable for layer in weight_layers(layers)]

    def pairs(params: Any, x: Any, cotangents: Any) -> list[tuple[Any, Any]]:
        # The deltas are the derivatives by zeros that are added to each trained layer's output;
        # those of the last layer are the cotangents themselves.
        outputs = [z for _, z in jax.eval_shape(functools.partial(_activations, arch), params, x)]
        moved = zip([*trains[:-1], False], outputs, strict=True)
        zeros = [jnp.zeros(z.shape, z.dtype) if moves else None for moves, z in moved]

        def with_added(terms: Any) -> Any:
            inputs, remaining = [], iter(terms)

            def apply_and_add(layer: Conv | Dense, pair: Any, a: Any) -> Any:
                inputs.append(a)
                z, term = apply_weights(layer, pair, a), next(remaining)
                return z if term is None else z + term

            return forward(layers, iter(params), x, apply_and_add), inputs

        f, pull_back, inputs = jax.vjp(with_added, zeros, has_aux=True)

        def deltas_of(cotangent: Any) -> Any:
            return pull_back(jnp.broadcast_to(cotangent, f.shape))[0]

        deltas = jax.vmap(deltas_of, out_axes=1)(cotangents)
        deltas[-1] = jnp.broadcast_to(cotangents, (len(x), *cotangents.shape))
        return [(a, d) for a, d, t in zip(inputs, deltas, trains, strict=True) if t]

    return jax.jit(pairs)


def _add_layer(out: NDArray[np.float64], a: LayerState, b: LayerState) -> None:
    """Add a layer's part to ``out`` (n, V, m, V); where ``b`` is ``a``, to its upper triangle.

    ``a`` is the layer's state for the n images of the rows, ``b`` for the m images of the columns.
    """
    from threadpoolctl import threadpool_limits

    # Many products are small: giving each product one thread, and running several at a time, is
    # faster than all threads on one product, and far faster when other processes use the cores.
    with threadpool_limits(1, user_api="blas"):
        if a.inputs.ndim == 2:
            _add_dense(out, a, b)
            return
        if a.bias:
            left = _flat(a.deltas.sum(axis=(2, 3)))
            _add_products(out, a.bias, left, left if a is b else _flat(b.deltas.sum(axis=(2, 3))))
        by_positions, by_gradients = costs(a, b)
        if by_positions <= by_gradients:
            _add_by_positions(out, a, b)
        else:
            _add_by_gradients(out, a, b)


def costs(a: LayerState, b: LayerState) -> tuple[float, float]:
    """Return the multiplications of a contraction by positions, and by weight gradients."""
    n, H, W, C = a.inputs.shape
    m = len(b.inputs)
    V, P, c = a.deltas.shape[1], math.prod(a.deltas.shape[2:4]), a.deltas.shape[-1]
    offsets = _size(a) ** 2
    each = (H * W) ** 2 * C + _ADDITION * offsets * P**2 + V * P**2 * c + V**2 * P * c
    weights = offsets * C * c
    return float(n * m * each), float((n + m) * V * P * weights + n * m * V**2 * weights)


def _add_dense(out: NDArray[np.float64], a: LayerState, b: LayerState) -> None:
    """Add (weight a·a' + bias) (δ·δ')."""
    n, V, m, _ = out.shape
    later = _flat(b.deltas)

    def add(rows: slice) -> None:
        start = rows.start if a is b else 0
        left = a.weight * (a.inputs[rows] @ b.inputs[start:].T) + np.float32(a.bias)
        right = _flat(a.deltas[rows]) @ later[start * V :].T
        out[rows, :, start:] += left[:, None, :, None] * right.reshape(-1, V, m - start, V)

    _in_threads(add, _blocks(n, 4 * V * V * m))


def _add_by_positions(out: NDArray[np.float64], a: LayerState, b: LayerState) -> None:
    V, c = a.deltas.shape[1], a.deltas.shape[-1]
    n, m = len(a.inputs), len(b.inputs)
    P, P_in = math.prod(a.deltas.shape[2:4]), math.prod(a.inputs.shape[1:3])
    later = np.moveaxis(b.deltas.reshape(m, V, P, c), 1, 2).reshape(m, P, V * c)
    each = 4 * max(m * max(P, P_in) ** 2, 2 * P * V * c)

    def add(rows: slice) -> None:
        start = rows.start if a is b else 0
        products = _patch_products(a, a.inputs[rows], b.inputs[start:])
        left = a.deltas[rows].reshape(-1, V, P * c)
        for column in range(start, m):
            patches = products[:, :, column - start].reshape(-1, P)
            right = (patches @ later[column]).reshape(-1, P, V, c)
            right = np.moveaxis(right, 2, 1).reshape(-1, V, P * c)
            out[rows, :, column] += a.weight * (left @ right.swapaxes(1, 2))

    _in_threads(add, _blocks(n, each))


def _patch_products(
    state: LayerState, first: NDArray[np.float32], second: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return patch_p · patch'_{p'}, (n, P, m, P): sums of the inputs' products over offsets."""
    layer, size = state.layer, _size(state)
    (n, H, W, C), m = first.shape, len(second)
    if not isinstance(layer, Conv) or layer.size == layer.stride == 1:
        products = first.reshape(-1, C) @ second.reshape(-1, C).T
        return products.reshape(n, H * W, m, H * W)
    pads = conv_padding(layer, H, W)
    if layer.padding == "CIRCULAR":
        first, second = (np.pad(x, ((0, 0), *pads, (0, 0)), mode="wrap") for x in (first, second))
        pads = [(0, 0), (0, 0)]
        H, W = first.shape[1:3]
    products = (first.reshape(-1, C) @ second.reshape(-1, C).T).reshape(n, H, W, m, H, W)
    P, Q = state.deltas.shape[2:4]
    sums = np.zeros((n, P, Q, m, P, Q), dtype=np.float32)
    for offset in np.ndindex(size, size):
        (to_i, from_i), (to_j, from_j) = (
            _overlap(edge, count, d - before, layer.stride)
            for edge, count, d, (before, _) in zip((H, W), (P, Q), offset, pads, strict=True)
        )
        sums[:, to_i, to_j, :, to_i, to_j] += products[:, from_i, from_j, :, from_i, from_j]
    return sums.reshape(n, P * Q, m, P * Q)


def _overlap(edge: int, count: int, shift: int, stride: int) -> tuple[slice, slice]:
    """Return the positions whose pixel at ``shift`` lies inside the image, and those pixels."""
    start = max(0, -(shift // stride))
    stop = min(count, (edge - 1 - shift) // stride + 1)
    if stop <= start:
        return slice(0, 0), slice(0, 0)
    first = start * stride + shift
    return slice(start, stop), slice(first, first + (stop - start - 1) * stride + 1, stride)


def _add_by_gradients(out: NDArray[np.float64], a: LayerState, b: LayerState) -> None:
    n, V, m, _ = out.shape
    weights = _size(a) ** 2 * a.inputs.shape[-1]
    step = max(1, BLOCK_BYTES // (4 * max(n, m) * V * weights))
    for first in range(0, a.deltas.shape[-1], step):
        channels = slice(first, first + step)
        left = _gradients(a, channels)
        _add_products(out, a.weight, left, left if a is b else _gradients(b, channels))


def _gradients(state: LayerState, channels: slice) -> NDArray[np.float32]:
    """Return Σ_p patch_p ⊗ δ_p for some of the output channels, (n V, q²C · channels)."""
    n, V, P, Q, _ = state.deltas.shape
    weights = _size(state) ** 2 * state.inputs.shape[-1]
    deltas = state.deltas[..., channels].reshape(n, V, P * Q, -1)
    gradients = np.empty((n, V, weights, deltas.shape[-1]), dtype=np.float32)

    def form(images: slice) -> None:
        for image in range(images.start, images.stop):
            patches = _patches(state, state.inputs[image])
            np.matmul(patches.T, deltas[image], out=gradients[image])

    _in_threads(form, _blocks(n, 0))
    return gradients.reshape(n * V, -1)


def _patches(state: LayerState, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the filter's inputs at every position, (P, q²C)."""
    from numpy.lib.stride_tricks import sliding_window_view

    layer, size = state.layer, _size(state)
    if not isinstance(layer, Conv):
        return image.reshape(-1, image.shape[-1])
    mode: Any = "wrap" if layer.padding == "CIRCULAR" else "constant"
    image = np.pad(image, (*conv_padding(layer, *image.shape[:2]), (0, 0)), mode=mode)
    windows = sliding_window_view(image, (size, size), axis=(0, 1))
    windows = windows[:: layer.stride, :: layer.stride]
    return windows.reshape(math.prod(windows.shape[:2]), -1)


def _add_products(
    out: NDArray[np.float64], scale: float, left: NDArray[np.float32], right: NDArray[np.float32]
) -> None:
    """Add scale · left rightᵀ, (n V, ·) and (m V, ·)."""
    n, V, m, _ = out.shape

    def add(rows: slice) -> None:
        start = rows.start if left is right else 0
        products = left[rows.start * V : rows.stop * V] @ right[start * V :].T
        out[rows, :, start:] += scale * products.reshape(-1, V, m - start, V)

    _in_threads(add, _blocks(n, 4 * V * V * m))


def _flat(deltas: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return deltas (n, V, c) as (n V, c)."""
    return np.ascontiguousarray(deltas).reshape(-1, deltas.shape[-1])


def _size(state: LayerState) -> int:
    return state.layer.size if isinstance(state.layer, Conv) else 1


def _blocks(count: int, each: int) -> Iterator[slice]:
    """Yield slices of 0..count−1 whose temporaries, ``each`` bytes an item, fit ``BLOCK_BYTES``."""
    step = max(1, min(-(-count // _BLOCKS), BLOCK_BYTES // max(each, 1)))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _in_threads(work: Callable[[slice], None], blocks: Iterable[slice]) -> None:
    def without_warnings(block: slice) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # the caller checks the sums
            work(block)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(without_warnings, blocks):
            pass


@dataclass(frozen=True)
class PseudoKernel:
    """How well pNTK ⊗ I_K approximates the full kernel.

    Attributes:
        difference: ‖Θ − pNTK ⊗ I_K‖/‖Θ‖ (Frobenius).
        top_ratio: Largest eigenvalue of the pNTK over that of Θ.
        full_accuracy: Accuracy of kernel regression without ridge with Θ on test images.
        pseudo_accuracy: The same with the pNTK.
        agreement: Share of test images on which both predict the same class.
    """

    difference: float
    top_ratio: float
    full_accuracy: float
    pseudo_accuracy: float
    agreement: float


def compare_pseudo_kernel(
    full: NDArray[np.float64],
    crossed: NDArray[np.float64],
    labels: NDArray[Any],
    test_labels: NDArray[Any],
) -> PseudoKernel:
    """Compare the full kernel with the pNTK that follows from it.

    ``full`` (N, K, N, K) is the kernel of the training images and ``crossed`` (m, K, N, K) that of
    test images with them (Mohamadi, Bae and Sutherland 2023, sections 4.1 to 4.4).
    """
    n, K = full.shape[:2]
    pseudo = full.mean(axis=(1, 3)) * K
    Y = targets_of(labels, K)
    flat = full.reshape(n * K, n * K)
    by_full = (crossed.reshape(-1, n * K) @ solve(flat, Y.reshape(-1, 1))).reshape(-1, K)
    by_pseudo = crossed.mean(axis=(1, 3)) * K @ solve(pseudo, Y)
    return _comparison(full, pseudo, by_full.argmax(axis=1), by_pseudo.argmax(axis=1), test_labels)


@dataclass(frozen=True)
class PseudoCosts:
    """Both kernels of one network, and what each costs.

    Attributes:
        comparison: Their difference and the accuracy of each.
        full_seconds: Duration of the full kernel of the training images.
        full_predict_seconds: Duration of the solution, the kernel of test images and its product.
        full_bytes: Size of the kernel of the training images.
        pseudo_seconds: As above, of the pNTK computed by itself.
        pseudo_predict_seconds: As above.
        pseudo_bytes: As above.
    """

    comparison: PseudoKernel
    full_seconds: float
    full_predict_seconds: float
    full_bytes: int
    pseudo_seconds: float
    pseudo_predict_seconds: float
    pseudo_bytes: int


def measure_pseudo_kernel(
    network: FiniteNetwork,
    params: Params,
    images: Any,
    labels: Any,
    test: tuple[Any, Any],
) -> PseudoCosts:
    """Compute both kernels of a network, each by itself, and predict with both without ridge.

    The full kernel between test and training images is computed for a block of test images at a
    time; that of the training images and its factor are both held in memory.

    Args:
        network: The network.
        params: Its parameters.
        images: (N, H, W, C) training images.
        labels: (N,) classes 0..K−1.
        test: (m, H, W, C) images and (m,) labels.

    Returns:
        The comparison and the costs.

    Raises:
        InputError: For images, labels or parameters that do not fit.

    Source:
        Mohamadi, Bae and Sutherland 2023.
    """
    K = network.num_classes
    x, held = check_sets(images, test[0], network.arch)
    y = check_labels(labels, K, len(x))
    truth = check_labels(test[1], K, len(held))
    Y = targets_of(y, K)
    step = max(1, _CROSSED_BYTES // (8 * len(x) * K * K))

    def predict(kernel: NDArray[np.float64], kind: str) -> NDArray[np.int64]:
        size = len(x) * (1 if kind == "pntk" else K)
        alpha = solve(kernel.reshape(size, size), Y.reshape(size, -1))
        outputs = []
        for start in range(0, len(held), step):
            crossed = empirical_kernel(network, params, held[start : start + step], x, kind=kind)
            outputs.append((crossed.reshape(-1, size) @ alpha).reshape(-1, K))
        return np.concatenate(outputs).argmax(axis=1)

    full, full_seconds = _timed(lambda: empirical_kernel(network, params, x))
    by_full, full_predict = _timed(lambda: predict(full, "ntk"))
    pseudo, pseudo_seconds = _timed(lambda: empirical_kernel(network, params, x, kind="pntk"))
    by_pseudo, pseudo_predict = _timed(lambda: predict(pseudo, "pntk"))
    return PseudoCosts(
        comparison=_comparison(full, pseudo, by_full, by_pseudo, truth),
        full_seconds=full_seconds,
        full_predict_seconds=full_predict,
        full_bytes=full.nbytes,
        pseudo_seconds=pseudo_seconds,
        pseudo_predict_seconds=pseudo_predict,
        pseudo_bytes=pseudo.nbytes,
    )


def _comparison(
    full: NDArray[np.float64],
    pseudo: NDArray[np.float64],
    by_full: NDArray[np.int64],
    by_pseudo: NDArray[np.int64],
    truth: NDArray[Any],
) -> PseudoKernel:
    """Compare kernels (N, K, N, K) and (N, N), and the classes (m,) that each predicts."""
    n, K = full.shape[:2]
    return PseudoKernel(
        difference=frobenius_difference(full, pseudo),
        top_ratio=top_eigenvalue(pseudo) / top_eigenvalue(full.reshape(n * K, n * K)),
        full_accuracy=float((by_full == truth).mean()),
        pseudo_accuracy=float((by_pseudo == truth).mean()),
        agreement=float((by_full == by_pseudo).mean()),
    )


def frobenius_difference(full: NDArray[np.float64], pseudo: NDArray[np.float64]) -> float:
    """Return ‖Θ − P ⊗ I_K‖/‖Θ‖ of Θ (N, K, N, K) and P (N, N), without a copy of Θ."""
    squares = float(np.vdot(full, full))
    diagonal = np.einsum("iojo->ijo", full)
    # P is subtracted from the entries of equal outputs only.
    off = squares - float(np.square(diagonal).sum())
    inside = float(np.square(diagonal - pseudo[:, :, None]).sum())
    return float(np.sqrt(max(off, 0.0) + inside) / np.sqrt(squares))


def top_eigenvalue(a: NDArray[np.float64]) -> float:
    """Return the largest eigenvalue of a symmetric matrix."""
    from scipy.sparse.linalg import eigsh

    if len(a) < 3:
        return float(np.linalg.eigvalsh(a)[-1])
    start = np.random.default_rng(0).standard_normal(len(a))
    return float(eigsh(a, k=1, which="LA", return_eigenvectors=False, v0=start)[0])


def solve(kernel: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return kernel⁻¹ · targets, the coefficients (n, k) of kernel regression without ridge.

    The kernel of a narrow network may be singular. Eigenvalues within the rounding of its float32
    entries are then left out, which gives the solution of least norm.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh

    try:
        factor = cho_factor(kernel, lower=True, check_finite=False)
    except LinAlgError:
        values, vectors = eigh(kernel, check_finite=False)
        kept = values > len(values) * np.finfo(np.float32).eps * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        return vectors @ ((vectors.T @ targets) / values[:, None])
    return cho_solve(factor, targets, check_finite=False)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
