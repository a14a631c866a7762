"""G and the labels in row blocks: the state that one refurbishment step reads and changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]


@dataclass
class RowBlock:
    """Some consecutive rows of G, with what a step needs to judge them.

    G is kept transposed: a flip changes two of its columns, and a scan walks over classes,
    so both touch contiguous memory; and every operation on it is elementwise over rows, so
    that a row's numbers do not depend, to the bit, on which block it is in.

    Attributes:
        start: Index of the first row.
        G: (K, m) float64, the rows of H⁻¹Y as columns.
        diagonal: (m,) float64, diagonal of H⁻¹.
        labels: (m,) intp, current classes.
        scores: (m,) value of each row's best flip in the last scan (lower is better).
        classes: (m,) the class that flip leads to.
    """

    start: int
    G: NDArray[np.float64]
    diagonal: Vector
    labels: NDArray[np.intp]
    scores: Vector = field(default_factory=lambda: np.empty(0))
    classes: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))

    @property
    def rows(self) -> slice:
        """The rows of the whole matrix that this block holds."""
        return slice(self.start, self.start + len(self.labels))

    def weighted(self, w: Vector) -> Vector:
        """Return Σ_d G_id w_d (m,), added class by class.

        Not ``w @ G``: BLAS may add in another order for another block size.
        """
        total = self.G[0] * w[0]
        for k in range(1, len(w)):
            total += self.G[k] * w[k]
        return total

    def own(self) -> Vector:
        """Return G_i,a_i (m,): each row's entry at its current class."""
        return self.G[self.labels, np.arange(len(self.labels))]


Scan: TypeAlias = Callable[[RowBlock], tuple[Vector, NDArray[np.intp]]]


class Rows:
    """All row blocks together; one scan, one global choice, one update."""

    def __init__(self, G: Vector, diagonal: Vector, labels: NDArray[np.int64], blocks: int) -> None:
        edges = np.linspace(0, len(labels), min(blocks, len(labels)) + 1).astype(int)
        self.blocks = [
            RowBlock(
                int(a),
                np.ascontiguousarray(G[a:b].T),
                diagonal[a:b].copy(),
                labels[a:b].astype(np.intp),
            )
            for a, b in pairwise(edges)
        ]

    def best(self, scan: Scan) -> tuple[float, int, int]:
        """Return (value, row, class) of the lowest value, ties to the smallest row."""
        chosen = (np.inf, -1, -1)
        for block in self.blocks:
            block.scores, block.classes = scan(block)
            place = int(np.argmin(block.scores))
            value = float(block.scores[place])
            if value < chosen[0]:
                chosen = (value, block.start + place, int(block.classes[place]))
        return chosen

    def likely(self, count: int) -> NDArray[np.int64]:
        """Return up to ``count`` rows with the lowest values of the last scan, best first."""
        scores = np.concatenate([block.scores for block in self.blocks])
        count = min(count, len(scores))
        rows = np.argpartition(scores, count - 1)[:count]
        rows = rows[np.argsort(scores[rows], kind="stable")]
        return rows[np.isfinite(scores[rows])].astype(np.int64)

    def row(self, index: int) -> tuple[Vector, float, int]:
        """Return (G_i (K,), A_ii, current class) of one row."""
        block = next(b for b in self.blocks if b.rows.start <= index < b.rows.stop)
        place = index - block.start
        return block.G[:, place].copy(), float(block.diagonal[place]), int(block.labels[place])

    def flip(self, index: int, old: int, new: int, column: Vector) -> None:
        """Move row ``index`` from class ``old`` to ``new``: G changes by ± one column of H⁻¹."""
        for block in self.blocks:
            part = column[block.rows]
            block.G[new] += part
            block.G[old] -= part
            if block.rows.start <= index < block.rows.stop:
                block.labels[index - block.start] = new

    def whole(self) -> Vector:
        """Return the current G (N, K)."""
        return np.concatenate([block.G.T for block in self.blocks])


def moved(Z: NDArray[np.float64], g: Vector, a: float, old: int, new: int) -> NDArray[np.float64]:
    """Return Z after one image moves from class ``old`` to ``new``.

    With u = e_new − e_old: Z + u gᵀ + g uᵀ + a u uᵀ.

    Args:
        Z: (K, K) before.
        g: (K,) the image's row of G before.
        a: The image's diagonal entry of H⁻¹.
        old: Its class before.
        new: Its class after.

    Returns:
        (K, K), a new array.
    """
    out = Z.copy()
    out[new] += g
    out[:, new] += g
    out[old] -= g
    out[:, old] -= g
    out[new, new] += a
    out[old, old] += a
    out[new, old] -= a
    out[old, new] -= a
    return out
