"""G and the labels in row blocks: the state that one refurbishment step reads and changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels.compiled import exact_tables, paper_tables
from ntkdist.labels.descent import _loops

Vector: TypeAlias = NDArray[np.float64]

Tables: TypeAlias = tuple[Vector, ...]
# What a step has to know of the classes: Z (K, K), class sizes (K,) as floats, and β.
Classes: TypeAlias = tuple[Vector, Vector, float]

TABLES = {"exact": exact_tables, "paper": paper_tables}


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
        column: (m,) the rows' part of its column of H⁻¹.
        change: The class left, the class entered, 1/n of the two before the move, and after it.
    """

    index: int
    column: Vector
    change: tuple[int, int, float, float, float, float]

    def part(self, rows: slice) -> Move:
        """Return the move with the column's part for ``rows`` alone."""
        return Move(self.index, self.column[rows], self.change)


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
        least: (m,) the least entry of each row of G.
    """

    start: int
    G: Vector
    diagonal: Vector
    labels: NDArray[np.int64]
    locked: NDArray[np.bool_]
    h: Vector
    least: Vector = field(init=False)
    _bound: Vector = field(init=False)
    _state: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        m = len(self.labels)
        self.least, where = np.empty(m), np.empty(m, np.int64)
        _loops.least_entries(self.G, self.least, where)
        self._bound = np.full(m, np.inf)
        self._state = (
            *(self.G, self.diagonal, self.labels, self.h),
            *(self.locked, self.least, where),
        )

    @property
    def rows(self) -> slice:
        """The rows of the whole matrix that this block holds."""
        return slice(self.start, self.start + len(self.labels))

    def weigh(self, w: Vector) -> None:
        """Add h up anew from 1/n (K,), so that rounding does not gather in it."""
        _loops.weigh(self.G, w, self.h)

    def every(self, tables: Tables) -> tuple[Vector, NDArray[np.int64]]:
        """Return value and class of every row's best move, without a bound."""
        return _loops.every(self._state, tables)

    def best(self, tables: Tables) -> Candidate:
        """Return the row with the lowest value, ties to the smallest row, then class."""
        first = _loops.bounds(self._state, tables, self._bound)
        if first < 0:
            return NOTHING
        value, place, new = _loops.best(self._state, tables, self._bound, first)
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
        _loops.move(self._state, move.column, move.change)
        if self.rows.start <= move.index < self.rows.stop:
            self.labels[move.index - self.start] = move.change[1]


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
                block.move(move if len(self.blocks) == 1 else move.part(rows))
            if weights is not None:
                block.weigh(weights)

    def best(self, moves: Sequence[Move], method: str, classes: Classes) -> Candidate:
        """Return the best move of all rows, after the moves before it.

        Args:
            moves: To follow first, in their order.
            method: ``exact`` or ``paper``.
            classes: Z (K, K), class sizes (K,) and β after those moves.

        Returns:
            The candidate, ties to the smallest row, then class.
        """
        tables = TABLES[method](*classes)
        self.follow(moves, None)
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
    rest = (np.array([candidate.h]), np.array([False]), np.empty(1), np.empty(1, np.int64))
    values, classes = _loops.every((*one, *rest), tables)
    fields = (candidate.old, candidate.g, candidate.a, candidate.h)
    return Candidate(float(values[0]), candidate.index, int(classes[0]), *fields)
