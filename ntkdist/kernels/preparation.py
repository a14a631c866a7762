"""The numbers of one image that a graph's program reads, computed once for each image.

Most are computed in float64 with NumPy, node by node. Three quantities come from a backend's own
loops, so that Δ of two equal images is exactly 0: half the variances behind Erf, Gelu, Sin, Cos,
Exp and Gaussian, from which the loops subtract covariances; the sums of Δ(x, x) over the windows of
a pool; and the mean of Δ(x, x) at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from ntkdist.kernels.duals import dual
from ntkdist.kernels.graph import (
    CONSTANTS,
    Array,
    Graph,
    cell_op,
    graph_plan,
    graph_state_dtype,
)
from ntkdist.kernels.windows import padding_before
from ntkdist.networks.layers import (
    ABRelu,
    AvgPool,
    CellLayer,
    Conv,
    Dense,
    Erf,
    ExpNormalized,
    Gaussian,
    Gelu,
    LayerNorm,
    LeakyRelu,
    Relu,
)


def divisors(x: np.ndarray) -> np.ndarray:
    """Return the divisor of each of (n, H, W, C) images; 1 for an all-zero image.

    It is the largest absolute pixel times the power of two that brings the mean square near 1.
    Images with the same largest pixel, and about the same mean square, have the same divisor, so
    that equal windows in them stay equal to the bit. Copies of different contrast become equal up
    to rounding.
    """
    largest = np.abs(x).max(axis=(1, 2, 3))
    largest[largest == 0] = 1.0
    square = np.mean((x / largest[:, None, None, None]) ** 2, axis=(1, 2, 3))
    square[square == 0] = 1.0
    return largest * 2.0 ** np.round(np.log2(square) / 2)


def window_sums(x: np.ndarray, axis: int, conv: Conv) -> np.ndarray:
    """Sum (n, H, W) over a filter's windows along an axis, one pixel of the window at a time."""
    edge, size, stride = x.shape[axis], conv.size, conv.stride
    if conv.padding == "VALID":
        count = (edge - size) // stride + 1
        before = after = 0
    else:
        count = -(-edge // stride)
        before = padding_before(edge, size, stride)
        after = max((count - 1) * stride + size - edge - before, 0)
    pads = [(0, 0)] * 3
    pads[axis] = before, after
    mode = "wrap" if conv.padding == "CIRCULAR" else "constant"
    padded = np.moveaxis(np.pad(x, pads, mode=mode), axis, -1)  # type: ignore[call-overload]
    parts = [padded[..., u : u + (count - 1) * stride + 1 : stride] for u in range(size)]
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return np.moveaxis(total, -1, axis)


class GraphPreparation(ABC):
    """Fills a graph plan's numbers for images, node by node.

    Args:
        graph: The network.
        x: (n, H, W, C) float64.
        dtype: Of the entries.

    Attributes:
        plan: The program.
        rows: (n, numbers) of the state's dtype; ``fill`` fills them.
        norm: (n,) float64, what each image was divided by.
        spread: (n,) float64, the mean of the pixels' variances at the end; set by ``fill``.
        variance: (n,) float64, the variance of the vector behind the mean at the end, where a
            nonlinearity reads it, else ``spread``; set by ``fill``.
    """

    spread: np.ndarray
    variance: np.ndarray

    def __init__(self, graph: Graph, x: np.ndarray, dtype: str) -> None:
        n, H, W, C = x.shape
        self.norm = np.ones(n)
        if graph.homogeneous:
            self.norm = divisors(x)
            x = x / self.norm[:, None, None, None]
        dtype = graph_state_dtype(graph, (H, W, C), dtype)
        self.plan = graph_plan(graph, (H, W, C), dtype)
        self.rows = np.zeros((n, self.plan.numbers), dtype)
        self.rows[:, : H * W * C] = (x / np.sqrt(2 * C)).reshape(n, -1)
        self._variances = [np.mean(x * x, axis=3)]  # K(x, x) of each node's pixels

    @abstractmethod
    def halves_behind(self, kind: int, constants: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return half the variances behind a cell layer, computed as the loops do covariances.

        Args:
            kind: The layer's operation.
            constants: (``CONSTANTS``,) of the operation, of the state's dtype.
            numbers: (3, count) half the variances in front, and both arrays of ``roots_of``; of
                the state's dtype.

        Returns:
            (count,) of the state's dtype.
        """

    @abstractmethod
    def own_windows(self, array: Array) -> np.ndarray:
        """Return sums of Δ(x, x) over all pairs of pixels in each of a pool's windows.

        They have the bits that the loops compute for two equal images.

        Args:
            array: The pool's array.

        Returns:
            (n, windows) of the state's dtype.
        """

    @abstractmethod
    def self_entries(self) -> np.ndarray:
        """Return the mean of Δ(x, x) at the end, (n,) float64, with the bits of entries."""

    def fill(self) -> None:
        """Fill the numbers."""
        graph, plan = self.plan.graph, self.plan
        for at, node in enumerate(graph.nodes):
            inputs = [self._variances[i] for i in node.inputs]
            if inputs:
                self._variances.append(self._node(at, node.layer, *inputs))
            if at in plan.halves:
                self._put(plan.halves[at], self._variances[at] / 2 / plan.units[at])
        self.spread = np.einsum("nij,ij->n", self._variances[-1], plan.pixel_weights)
        self.variance = self.spread
        if graph.mixes_positions and graph.has_nonlinear_head:
            self.variance = np.maximum(self.spread - self.self_entries(), 0.0)

    def _put(self, start: int, values: np.ndarray) -> None:
        flat = values.reshape(len(values), -1)
        self.rows[:, start : start + flat.shape[1]] = flat

    def _node(self, at: int, layer: object, A: np.ndarray, *other: np.ndarray) -> np.ndarray:
        """Return K(x, x) of a node from K(x, x) of its inputs; fill what its operation reads."""
        inner = self.plan.graph.nodes[at].inputs[0]
        unit = self.plan.units[inner]
        match layer:
            case None:
                return A + other[0]
            case Conv() | Dense():
                conv = layer if isinstance(layer, Conv) else Conv(1)
                self._put(self.plan.sides[at], window_sums(A / 2 / unit, 2, conv))
                total = window_sums(window_sums(A, 1, conv), 2, conv)
                return layer.W_std**2 / conv.size**2 * total + layer.b_std**2
            case AvgPool():
                return self._pool(at, layer, A)
            case Relu() | LeakyRelu() | ABRelu() | ExpNormalized():
                root = self._rounded(np.sqrt(A / 2 / unit))
                self._put_cells(at, root, _inverse(root), 2 * root)
                return dual(layer, A, A, A)[0]
            case LayerNorm():
                root = self._rounded(np.sqrt(A / 2 / unit))
                scale = np.sqrt((A + layer.eps) * self.plan.units[at])
                inverse = np.where(root > 0, 1 / scale, 0.0)
                self._put_cells(at, root, inverse * np.sqrt(unit), np.sqrt(A / 2) * inverse)
                return A / (A + layer.eps)
            case _:
                assert isinstance(layer, CellLayer)
                half, roots = A / 2, roots_of(layer, A)
                behind = self._half_behind(layer, unit, half, *roots)
                self._put_cells(at, half, behind, *roots)
                return dual(layer, A, A, A)[0]

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        return values.astype(self.rows.dtype).astype(np.float64)

    def _put_cells(self, at: int, *values: np.ndarray) -> None:
        self._put(self.plan.cells[at], np.stack(values, axis=-1))

    def _half_behind(self, layer: CellLayer, unit: float, *numbers: np.ndarray) -> np.ndarray:
        dtype = self.rows.dtype
        kind, constants = cell_op(layer, unit)
        padded = np.array([*constants, *[0.0] * (CONSTANTS - len(constants))], dtype)
        together = np.stack([x.astype(dtype).ravel() for x in numbers])
        return self.halves_behind(kind, padded, together).reshape(numbers[0].shape)

    def _pool(self, at: int, layer: AvgPool, A: np.ndarray) -> np.ndarray:
        """Average over windows: mean K(x, x) = mean a² − mean Δ(x, x) over pairs of pixels."""
        conv = Conv(layer.size, stride=layer.step, padding="VALID")
        means = window_sums(window_sums(A, 1, conv), 2, conv) / layer.size**2
        if layer.size == 1:
            return means
        n, h, w = means.shape
        sums = self.own_windows(next(x for x in self.plan.arrays if x.node == at))
        self._put(self.plan.centers[at], sums / 2)
        inside = self.plan.units[at] * sums.astype(np.float64).reshape(n, h, w)
        return np.maximum(means - inside, 0.0)


def roots_of(layer: CellLayer, A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what a dual reads of each variance A, as two arrays.

    Erf: √(1 + 2A) and its inverse; Gelu and Gaussian: √A and 1/√(1 + A); others: zeros.
    """
    match layer:
        case Erf():
            root = np.sqrt(1 + 2 * A)
            return root, 1 / root
        case Gelu() | Gaussian():
            return np.sqrt(A), 1 / np.sqrt(1 + A)
    return np.zeros_like(A), np.zeros_like(A)


def _inverse(root: np.ndarray) -> np.ndarray:
    """Return 1/a from the root a/√2, both in the state's unit; 0 for a = 0."""
    return np.divide(np.sqrt(0.5), root, out=np.zeros_like(root), where=root > 0)
