"""Graphs on the CPU: the numbers of an image and the sums of entries, computed by ``program``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ntkdist.kernels.cpu import program
from ntkdist.kernels.cpu.lanes import to_lanes
from ntkdist.kernels.cpu.vector import LANES
from ntkdist.kernels.graph import Array, Graph, GraphPlan
from ntkdist.kernels.preparation import GraphPreparation


def graph_sums(
    plan: GraphPlan, rows: np.ndarray, lanes: np.ndarray, first: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of Δ and Θ at the end, (n, vectors, lanes) float64.

    Args:
        plan: The program.
        rows: (n, numbers) of the row images.
        lanes: (vectors, numbers, lanes) of the column images, as ``to_lanes`` returns them.
        first: (n,) the first vector to compute for each row; sums before it are 0.
        table: ``vector.coefficients`` of the dtype.
    """
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


class CpuGraphPreparation(GraphPreparation):
    """Fills a graph plan's numbers with the loops of ``program``.

    Args:
        graph: The network.
        x: (n, H, W, C) float64.
        dtype: Of the entries.
        coefficients: Returns ``vector.coefficients`` of a dtype.
        in_threads: Calls a function for groups of rows, on all threads.
    """

    def __init__(
        self,
        graph: Graph,
        x: np.ndarray,
        dtype: str,
        coefficients: Callable[[str], np.ndarray],
        in_threads: Callable[[Callable[[slice], None], int], None],
    ) -> None:
        super().__init__(graph, x, dtype)
        self._in_threads = in_threads
        self._table = coefficients(self.plan.dtype)

    def halves_behind(self, kind: int, constants: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Fill whole vectors and run ``program.half_variances``; see ``GraphPreparation``."""
        lanes, count = LANES[numbers.dtype.name], numbers.shape[1]
        padded = np.stack([np.resize(x, (-(-count // lanes), lanes)) for x in numbers])
        behind = np.empty_like(padded[0])
        program.half_variances(kind, constants, padded, self._table, behind)
        return behind.ravel()[:count]

    def own_windows(self, array: Array) -> np.ndarray:
        """Run the levels up to that of the pool's input; see ``preparation.GraphPreparation``."""
        plan = self.plan
        levels = plan.levels_to_windows(array)
        lanes = to_lanes(self.rows)
        h, w = plan.sizes[array.node]
        sums = np.zeros((len(self.rows), h * w), self.rows.dtype)

        def run(group: slice) -> None:
            program.graph_windows(
                self.rows[group], lanes, plan.shape[2], plan.ops, plan.constants, levels.table,
                array.level + 1, levels.displacements, levels.masks, plan.cyclic, self._table,
                _work(plan), array.start, group.start, sums[group],
            )  # fmt: skip

        self._in_threads(run, len(self.rows))
        return sums

    def self_entries(self) -> np.ndarray:
        """Run the program on each image and itself; see ``preparation.GraphPreparation``."""
        lanes = to_lanes(self.rows)
        width = lanes.shape[2]
        means = np.empty(len(self.rows))
        for group in range(len(lanes)):
            part = slice(group * width, min(len(means), (group + 1) * width))
            rows = self.rows[part]
            of_group, first = lanes[group : group + 1], np.zeros(len(rows), np.int64)
            delta, _ = graph_sums(self.plan, rows, of_group, first, self._table)
            # in the order of ``loops.finish``, so that Δ of equal images is zero behind the mean
            means[part] = self.plan.unit / self.plan.count * np.diag(delta[:, 0])
        return means
