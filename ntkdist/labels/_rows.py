"""G and the labels in row blocks: the state that one refurbishment step reads and changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels import _exact, _loops, _paper
from ntkdist.labels._tables import Tables
from ntkdist.labels.block_error import reciprocal

Vector: TypeAlias = NDArray[np.float64]

TABLES = {"exact": _exact.tables, "paper": _paper.tables}


@dataclass(frozen=True)
class Candidate:
    """A row with its best move and all that the move's effect on Z needs.

    Attributes:
        value: Value of the move (lower is better); infinite where there is none.
        index: The row; −1 where there is none.
        new: The class it would go to.
        old: Its class now.
        g: (K,) its row of G.
        a: Its diagonal entry of H⁻¹.
        h: Σ_d G_id/n_d.
    """

    value: float
    index: int
    new: int
    old: int
    g: Vector
    a: float
    h: float


NOTHING = Candidate(np.inf, -1, 0, 0, np.empty(0), 0.0, 0.0)


@dataclass(frozen=True)
class Move:
    """One row's change of class, as every block has to follow it.

    Attributes:
        index: The row.
        old: Its class before.
        new: Its class after.
        column: (m,) the rows' part of its column of H⁻¹.
        before: 1/n of the classes ``old`` and ``new`` before the move.
        after: The same after it.
    """

    index: int
    old: int
    new: int
    column: Vector
    before: tuple[float, float]
    after: tuple[float, float]

    def part(self, rows: slice) -> Move:
        """Return the move with the column's part for ``rows`` alone."""
        return Move(self.index, self.old, self.new, self.column[rows], self.before, self.after)


@dataclass
class RowBlock:
    """Some consecutive rows of G, with what a step needs to judge them.

    G is kept transposed: a move changes two of its columns, which so are contiguous.

    Attributes:
        start: Index of the first row.
        G: (K, m) float64, the rows of H⁻¹Y as columns.
        diagonal: (m,) float64, diagonal of H⁻¹.
        labels: (m,) int64, current classes.
        locked: (m,) bool, rows that keep their class.
        h: (m,) Σ_d G_id/n_d.
    """

    start: int
    G: Vector
    diagonal: Vector
    labels: NDArray[np.int64]
    locked: NDArray[np.bool_]
    h: Vector
    _least: Vector = field(init=False)
    _where: NDArray[np.int64] = field(init=False)
    _bound: Vector = field(init=False)

    def __post_init__(self) -> None:
        m = len(self.labels)
        self._least, self._where, self._bound = np.empty(m), np.empty(m, np.int64), np.empty(m)
        self._bound.fill(np.inf)
        _loops.least_entries(self.G, self._least, self._where)

    @property
    def rows(self) -> slice:
        """The rows of the whole matrix that this block holds."""
        return slice(self.start, self.start + len(self.labels))

    def weigh(self, w: Vector) -> None:
        """Add h up anew from 1/n (K,), so that rounding does not gather in it."""
        _loops.weigh(self.G, w, self.h)

    def every(self, tables: Tables) -> tuple[Vector, NDArray[np.int64]]:
        """Return value and class of every row's best move, without a bound."""
        state = (self.G, self.diagonal, self.labels, self.h)
        return _loops.every(*state, self.locked, *tables.arrays)

    def best(self, tables: Tables) -> Candidate:
        """Return the row with the lowest value, ties to the smallest row, then class."""
        state = (self.G, self.diagonal, self.labels, self.h)
        arrays = tables.arrays
        first = _loops.bounds(*state, self.locked, self._least, *arrays, self._bound)
        if first < 0:
            return NOTHING
        value, place, new = _loops.best(*state, *arrays, self._bound, first)
        return self.candidate(place, value, new) if value < np.inf else NOTHING

    def candidate(self, place: int, value: float, new: int) -> Candidate:
        """Return a row of this block, by its place in it, as a candidate."""
        return Candidate(
            float(value),
            self.start + int(place),
            int(new),
            int(self.labels[place]),
            self.G[:, place].copy(),
            float(self.diagonal[place]),
            float(self.h[place]),
        )

    def likely(self, count: int) -> tuple[Vector, NDArray[np.int64]]:
        """Return the lowest bounds of the last scan and their rows, up to ``count`` of them."""
        count = min(count, len(self._bound))
        places = np.argpartition(self._bound, count - 1)[:count]
        places = places[np.isfinite(self._bound[places])]
        return self._bound[places], places + self.start

    def move(self, move: Move) -> None:
        """Follow a move."""
        state = (self.G, self.h, self._least, self._where)
        _loops.move(*state, move.column, move.old, move.new, *move.before, *move.after)
        if self.rows.start <= move.index < self.rows.stop:
            self.labels[move.index - self.start] = move.new


class Rows:
    """Several row blocks of one process: one scan, one choice, one update.

    Args:
        start: Index of the first row.
        G: (m, K) rows of H⁻¹Y.
        diagonal: (m,) diagonal of H⁻¹.
        labels: (m,) current classes.
        locked: (m,) bool.
        h: (m,) Σ_d G_id/n_d.
        blocks: How many blocks; fewer where there are fewer rows.
    """

    def __init__(
        self,
        start: int,
        G: Vector,
        diagonal: Vector,
        labels: NDArray[np.int64],
        locked: NDArray[np.bool_],
        h: Vector,
        blocks: int = 1,
    ) -> None:
        self.start = start
        edges = np.linspace(0, len(labels), max(1, min(blocks, len(labels))) + 1).astype(int)
        self.blocks = [
            RowBlock(
                start + int(a),
                np.ascontiguousarray(G[a:b].T),
                diagonal[a:b].copy(),
                labels[a:b].copy(),
                locked[a:b].copy(),
                h[a:b].copy(),
            )
            for a, b in pairwise(edges)
        ]

    def follow(self, moves: Sequence[Move], weights: Vector | None) -> None:
        """Follow moves, each with the part of its column that these rows need.

        Args:
            moves: In their order.
            weights: (K,) 1/n to add h up anew with afterwards; None leaves it.
        """
        for block in self.blocks:
            rows = slice(block.start - self.start, block.rows.stop - self.start)
            for move in moves:
                block.move(move.part(rows))
            if weights is not None:
                block.weigh(weights)

    def best(self, method: str, state: tuple[Vector, NDArray[np.int64], float]) -> Candidate:
        """Return the best move of all rows.

        Args:
            method: ``exact`` or ``paper``.
            state: Z (K, K), class sizes (K,) and β.

        Returns:
            The candidate, ties to the smallest row, then class.
        """
        tables = TABLES[method](*state)
        chosen = NOTHING
        for block in self.blocks:
            found = block.best(tables)
            if found.value < chosen.value:
                chosen = found
        return chosen

    def likely(self, count: int) -> tuple[Vector, NDArray[np.int64]]:
        """Return the lowest bounds of the last scan and their rows, ``count`` of each block."""
        parts = [block.likely(count) for block in self.blocks]
        return np.concatenate([b for b, _ in parts]), np.concatenate([r for _, r in parts])

    def pick(self, indices: NDArray[np.int64]) -> list[Candidate]:
        """Return rows by their indices; those that are elsewhere are left out."""
        found = []
        for block in self.blocks:
            inside = indices[(indices >= block.rows.start) & (indices < block.rows.stop)]
            found += [block.candidate(int(i) - block.start, np.inf, 0) for i in inside]
        return found

    def whole(self) -> tuple[Vector, Vector]:
        """Return the current G (m, K) and h (m,)."""
        G = np.concatenate([block.G.T for block in self.blocks])
        return G, np.concatenate([block.h for block in self.blocks])


def judged(candidate: Candidate, tables: Tables) -> Candidate:
    """Return a candidate with its best move under the tables.

    Args:
        candidate: A row with g and h as they are now.
        tables: Of the step.

    Returns:
        The same row with another value and class.
    """
    one = (candidate.g[:, None].copy(), np.array([candidate.a]), np.array([candidate.old]))
    rest = (np.array([candidate.h]), np.array([False]))
    values, classes = _loops.every(*one, *rest, *tables.arrays)
    fields = (candidate.old, candidate.g, candidate.a, candidate.h)
    return Candidate(float(values[0]), candidate.index, int(classes[0]), *fields)


def weights_of(counts: NDArray[np.int64]) -> Vector:
    """Return 1/n (K,), 0 for empty classes."""
    return reciprocal(counts.astype(np.float64))


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
