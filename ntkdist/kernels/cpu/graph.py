"""Graphs on the CPU: an image's numbers, and the sums of entries by ``program``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ntkdist.kernels import graph as tables
from ntkdist.kernels.cpu import program
from ntkdist.kernels.cpu.lanes import contrast, to_lanes
from ntkdist.kernels.cpu.vector import LANES
from ntkdist.kernels.duals import dual
from ntkdist.kernels.graph import Array, Graph, GraphPlan, cell_op, graph_plan, graph_state_dtype
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


def graph_sums(
    plan: GraphPlan, rows: np.ndarray, lanes: np.ndarray, first: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of Δ and Θ at the end, (n, vectors, lanes) float64."""
    shape = len(rows), lanes.shape[0], lanes.shape[2]
    delta, tangent = np.zeros(shape), np.zeros(shape)
    levels = plan.levels
    program.graph_entries(
        rows, lanes, plan.shape[2], plan.ops, plan.constants, levels.table, levels.displacements,
        levels.masks, plan.row_weights, plan.column_weights, plan.cyclic, table, _work(plan), first,
        delta, tangent,
    )  # fmt: skip
    return delta, tangent


def _work(plan: GraphPlan) -> np.ndarray:
    return np.array([plan.buffers, plan.buffer_cells, plan.ring_cells, plan.memory_cells], np.int64)


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


class GraphPreparation:
    """Fills a graph plan's numbers for images, node by node.

    Args:
        graph: The network.
        x: (n, H, W, C) float64.
        dtype: Of the entries.
        coefficients: Returns ``vector.coefficients`` of a dtype.
        in_threads: Calls a function for groups of rows, on all threads.

    Attributes:
        plan: The program.
        rows: (n, numbers) of the state's dtype.
        norm: (n,) float64, what each image was divided by.
        spread: (n,) float64, the mean at the end of the variances.
    """

    def __init__(
        self,
        graph: Graph,
        x: np.ndarray,
        dtype: str,
        coefficients: Callable[[str], np.ndarray],
        in_threads: Callable[[Callable[[slice], None], int], None],
    ) -> None:
        n, H, W, C = x.shape
        self._in_threads = in_threads
        self.norm = np.ones(n)
        if graph.homogeneous:
            self.norm = contrast(x)
            x = x / self.norm[:, None, None, None]
        dtype = graph_state_dtype(graph, (H, W, C), dtype)
        self.plan = graph_plan(graph, (H, W, C), dtype)
        self.rows = np.zeros((n, self.plan.numbers), dtype)
        self.rows[:, : H * W * C] = (x / np.sqrt(2 * C)).reshape(n, -1)
        self.table = coefficients(dtype)
        variances: list[np.ndarray] = []  # K(x, x) of each node's pixels
        for at, node in enumerate(graph.nodes):
            inputs = [variances[i] for i in node.inputs] or [np.mean(x * x, axis=3)]
            A = self._variances(at, node.layer, *inputs) if node.inputs else inputs[0]
            if at in self.plan.halves:
                self._put(self.plan.halves[at], A / 2 / self.plan.units[at])
            variances.append(A)
        self.spread = np.einsum("nij,ij->n", variances[-1], self.plan.pixel_weights)

    def self_entries(self) -> np.ndarray:
        """Return the mean at the end of Δ(x, x), (n,) float64."""
        lanes = to_lanes(self.rows)
        width = lanes.shape[2]
        means = np.empty(len(self.rows))
        for group in range(len(lanes)):
            part = slice(group * width, min(len(means), (group + 1) * width))
            rows = self.rows[part]
            of_group, first = lanes[group : group + 1], np.zeros(len(rows), np.int64)
            delta, _ = graph_sums(self.plan, rows, of_group, first, self.table)
            # in the order of ``loops.finish``, so that Δ of equal images is zero behind the mean
            means[part] = self.plan.unit / self.plan.count * np.diag(delta[:, 0])
        return means

    def _put(self, start: int, values: np.ndarray) -> None:
        flat = values.reshape(len(values), -1)
        self.rows[:, start : start + flat.shape[1]] = flat

    def _variances(self, at: int, layer: object, A: np.ndarray, *other: np.ndarray) -> np.ndarray:
        """Return K(x, x) of a node from those of its inputs, and fill what its operation reads."""
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
                # from the rounded root, so that Δ of equal images is zero
                root = self._rounded(np.sqrt(A / 2 / unit))
                inverse = np.where(root > 0, 1 / np.sqrt(A + layer.eps), 0.0)
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
        """Return half the variances behind a layer as the loops compute covariances."""
        dtype, halves = self.rows.dtype, numbers[0]
        lanes = LANES[dtype.name]
        vectors = -(-halves.size // lanes), lanes
        padded = np.stack([np.resize(x.astype(dtype), vectors) for x in numbers])
        found = np.empty_like(padded[0])
        kind, constants = cell_op(layer, unit)
        values = np.array([*constants, *[0.0] * tables.CONSTANTS][: tables.CONSTANTS], dtype)
        program.half_variances(kind, values, padded, self.table, found)
        return found.ravel()[: halves.size].reshape(halves.shape)

    def _pool(self, at: int, layer: AvgPool, A: np.ndarray) -> np.ndarray:
        """Average over windows: mean K(x, x) = mean a² − mean Δ(x, x) over pairs of pixels."""
        conv = Conv(layer.size, stride=layer.step, padding="VALID")
        means = window_sums(window_sums(A, 1, conv), 2, conv) / layer.size**2
        if layer.size == 1:
            return means
        n, h, w = means.shape
        array = next(x for x in self.plan.arrays if x.node == at)
        sums = self._own_windows(array, h * w)
        self._put(self.plan.centers[at], sums / 2)
        inside = self.plan.units[at] * sums.astype(np.float64).reshape(n, h, w)
        return np.maximum(means - inside, 0.0)

    def _own_windows(self, array: Array, count: int) -> np.ndarray:
        """Return the sums over pairs of pixels in each window of Δ(x, x), (n, count)."""
        plan = self.plan
        levels = plan.levels_to_windows(array)
        lanes = to_lanes(self.rows)
        sums = np.zeros((len(self.rows), count), self.rows.dtype)

        def run(group: slice) -> None:
            program.graph_windows(
                self.rows[group], lanes, plan.shape[2], plan.ops, plan.constants, levels.table,
                array.level + 1, levels.displacements, levels.masks, plan.cyclic, self.table,
                _work(plan), array.start, group.start, sums[group],
            )  # fmt: skip

        self._in_threads(run, len(self.rows))
        return sums


def roots_of(layer: CellLayer, A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the root and the inverse root that a dual reads of variances, or zeros."""
    match layer:
        case Erf():
            root = np.sqrt(1 + 2 * A)
            return root, 1 / root
        case Gelu() | Gaussian():
            return np.sqrt(A), 1 / np.sqrt(1 + A)
    return np.zeros_like(A), np.zeros_like(A)


def _inverse(root: np.ndarray) -> np.ndarray:
    """Return 1/a in the state's unit from the root a/√2, 0 where that is 0."""
    return np.divide(np.sqrt(0.5), root, out=np.zeros_like(root), where=root > 0)
