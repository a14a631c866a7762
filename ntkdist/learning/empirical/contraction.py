"""One weight layer's part of the tangent kernel, contracted from its inputs and deltas.

For outputs o, o' of images x, x' a convolution adds

    Σ_{p,p'} (patch_p · patch'_{p'}) (δ_{o,p} · δ'_{o',p'})
        = (Σ_p patch_p ⊗ δ_{o,p}) · (Σ_{p'} patch'_{p'} ⊗ δ'_{o',p'}),

a dense layer the same with one position. The left side costs, for n × m images, V outputs, P
positions (P₀ of the input), a filter of q² offsets, C channels in and c out,
nm(P₀²C + q²P² + V P²c + V²P c) multiplications; the right side, whose factors are the weight
gradients, (n + m) V P q²C c + nm V² q²C c. The cheaper one is taken: gradients for large pictures
of few channels, positions behind pools and in wide layers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.learning.empirical.states import LayerState
from ntkdist.learning.finite.layers import padding
from ntkdist.networks.layers import Conv

# Of each temporary of a thread.
BLOCK_BYTES = 64 * 2**20
# At least this many blocks: threads take them in turn, and they do not depend on their number.
_BLOCKS = 8
# What an addition in memory costs, in multiplications inside a matrix product.
_ADDITION = 8


def add_layer(out: NDArray[np.float64], a: LayerState, b: LayerState) -> None:
    """Add a layer's part to ``out``; where ``b`` is ``a``, at least to its upper triangle.

    Args:
        out: (n, V, m, V) float64.
        a: The layer's state for the n images of the rows.
        b: For the m images of the columns.
    """
    from threadpoolctl import threadpool_limits

    # Many products are small: one thread each, side by side, is faster than all threads for one
    # after another, and far faster where other processes want the cores too.
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
    """(weight a·a' + bias) (δ·δ')."""
    n, V, m, _ = out.shape
    later = _flat(b.deltas)

    def add(rows: slice) -> None:
        start = rows.start if a is b else 0
        left = a.weight * (a.inputs[rows] @ b.inputs[start:].T) + np.float32(a.bias)
        right = _flat(a.deltas[rows]) @ later[start * V :].T
        out[rows, :, start:] += left[:, None, :, None] * right.reshape(-1, V, m - start, V)

    _side_by_side(add, _blocks(n, 4 * V * V * m))


def _add_by_positions(out: NDArray[np.float64], a: LayerState, b: LayerState) -> None:
    V, c = a.deltas.shape[1], a.deltas.shape[-1]
    n, m = len(a.inputs), len(b.inputs)
    P, P_in = math.prod(a.deltas.shape[2:4]), math.prod(a.inputs.shape[1:3])
    later = np.moveaxis(b.deltas.reshape(m, V, P, c), 1, 2).reshape(m, P, V * c)
    each = 4 * max(m * max(P, P_in) ** 2, 2 * P * V * c)

    def add(rows: slice) -> None:
        start = rows.start if a is b else 0
        products = _patch_products(a, a.inputs[rows], b.inputs[start:])
        ahead = a.deltas[rows].reshape(-1, V, P * c)
        for column in range(start, m):
            seen = products[:, :, column - start].reshape(-1, P)
            turned = (seen @ later[column]).reshape(-1, P, V, c)
            turned = np.moveaxis(turned, 2, 1).reshape(-1, V, P * c)
            out[rows, :, column] += a.weight * (ahead @ turned.swapaxes(1, 2))

    _side_by_side(add, _blocks(n, each))


def _patch_products(
    state: LayerState, first: NDArray[np.float32], second: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return patch_p · patch'_{p'}, (n, P, m, P): sums of the inputs' products along offsets."""
    layer, size = state.layer, _size(state)
    (n, H, W, C), m = first.shape, len(second)
    if not isinstance(layer, Conv) or layer.size == layer.stride == 1:
        products = first.reshape(-1, C) @ second.reshape(-1, C).T
        return products.reshape(n, H * W, m, H * W)
    pads = padding(layer, H, W)
    if layer.padding == "CIRCULAR":
        first, second = (np.pad(x, ((0, 0), *pads, (0, 0)), mode="wrap") for x in (first, second))
        pads = [(0, 0), (0, 0)]
        H, W = first.shape[1:3]
    products = (first.reshape(-1, C) @ second.reshape(-1, C).T).reshape(n, H, W, m, H, W)
    P, Q = state.deltas.shape[2:4]
    found = np.zeros((n, P, Q, m, P, Q), dtype=np.float32)
    for offset in np.ndindex(size, size):
        (to_i, from_i), (to_j, from_j) = (
            _overlap(edge, count, d - before, layer.stride)
            for edge, count, d, (before, _) in zip((H, W), (P, Q), offset, pads, strict=True)
        )
        found[:, to_i, to_j, :, to_i, to_j] += products[:, from_i, from_j, :, from_i, from_j]
    return found.reshape(n, P * Q, m, P * Q)


def _overlap(edge: int, count: int, shift: int, stride: int) -> tuple[slice, slice]:
    """Return the outputs whose pixel at ``shift`` lies inside the image, and those pixels."""
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
    """Return Σ_p patch_p ⊗ δ_p of some channels out, (n V, q²C · channels)."""
    n, V, P, Q, _ = state.deltas.shape
    weights = _size(state) ** 2 * state.inputs.shape[-1]
    deltas = state.deltas[..., channels].reshape(n, V, P * Q, -1)
    found = np.empty((n, V, weights, deltas.shape[-1]), dtype=np.float32)

    def form(images: slice) -> None:
        for image in range(images.start, images.stop):
            patches = _patches(state, state.inputs[image])
            np.matmul(patches.T, deltas[image], out=found[image])

    _side_by_side(form, _blocks(n, 0))
    return found.reshape(n * V, -1)


def _patches(state: LayerState, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the filter sees at every position, (P, q²C)."""
    from numpy.lib.stride_tricks import sliding_window_view

    layer, size = state.layer, _size(state)
    if not isinstance(layer, Conv):
        return image.reshape(-1, image.shape[-1])
    mode: Any = "wrap" if layer.padding == "CIRCULAR" else "constant"
    image = np.pad(image, (*padding(layer, *image.shape[:2]), (0, 0)), mode=mode)
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

    _side_by_side(add, _blocks(n, 4 * V * V * m))


def _flat(deltas: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, V, c) as (n V, c)."""
    return np.ascontiguousarray(deltas).reshape(-1, deltas.shape[-1])


def _size(state: LayerState) -> int:
    return state.layer.size if isinstance(state.layer, Conv) else 1


def _blocks(count: int, each: int) -> Iterator[slice]:
    """Yield slices of 0..count−1 whose temporaries of ``each`` bytes an item fit a block."""
    step = max(1, min(-(-count // _BLOCKS), BLOCK_BYTES // max(each, 1)))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _side_by_side(work: Callable[[slice], None], blocks: Iterable[slice]) -> None:
    def quietly(block: slice) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # who asked looks at the sums
            work(block)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(quietly, blocks):
            pass
