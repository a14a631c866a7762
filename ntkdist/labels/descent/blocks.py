"""G and the labels in row blocks, and the compiled loops of a step over the rows of a block.

Every number of a row comes from elementwise arithmetic in a fixed order, so that it does not
depend, to the bit, on the block that holds the row.

A step costs O(m) for m rows, not O(mK): each row keeps the smallest entry of its G, which gives a
lower bound of its best value (``_bounds``), and only rows whose bound can beat the best value so
far are evaluated class by class. The result is that of evaluating all of them (``every``).

Three tuples are passed from loop to loop:

    state   G (K, m) with row k for class k; diagonal (m,) of H⁻¹; labels (m,); h (m,) Σ_d G_id/n_d;
            locked (m,); least (m,), each row's smallest entry of G, and where (m,), its class
    tables  what the step needs of the classes (``ntkdist.labels.compiled``)
    change  what a move does: the class left and the class entered, 1/n of the two before the move,
            and after it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import StageError
from ntkdist.labels.compiled import compiled, exact_tables, inlined, paper_tables

Vector: TypeAlias = NDArray[np.float64]
Tables: TypeAlias = tuple[Vector, ...]
# What a step needs of the classes: Z (K, K), class sizes (K,) as floats, and β.
Classes: TypeAlias = tuple[Vector, Vector, float]

TABLES = {"exact": exact_tables, "paper": paper_tables}

# Share of a bound's terms that rounding may take: far above it, far below any decision.
SLACK = 1e-12


@dataclass(frozen=True)
class Candidate:
    """A row with its best move and all that the move's effect on Z needs.

    Attributes:
        value: Value of the move (lower is better); infinite if there is none.
        index: The row; −1 if there is none.
        new: Class after the move.
        old: Class now.
        g: (K,) the row of G.
        a: Diagonal entry of H⁻¹.
        h: Σ_d G_id/n_d.
    """

    value: float
    index: int
    new: int
    old: int
    g: Vector
    a: float
    h: float

    def evaluated(self, tables: Tables) -> Candidate:
        """Return the row with its best move and value under these tables."""
        state = (
            *(self.g[:, None].copy(), np.array([self.a]), np.array([self.old])),
            *(np.array([self.h]), np.array([False]), np.empty(1), np.empty(1, np.int64)),
        )
        values, classes = every(state, tables)
        return replace(self, value=float(values[0]), new=int(classes[0]))


NO_CANDIDATE = Candidate(np.inf, -1, 0, 0, np.empty(0), 0.0, 0.0)


@dataclass(frozen=True)
class Move:
    """One row's change of class, as every block applies it.

    Attributes:
        index: The row.
        column: (m,) the rows' part of its column of H⁻¹.
        change: The class left, the class entered, 1/n of the two before the move, and after it.
    """

    index: int
    column: Vector
    change: tuple[int, int, float, float, float, float]

    def part(self, rows: slice) -> Move:
        """Return the move with the column's part for ``rows``."""
        return Move(self.index, self.column[rows], self.change)


class RowBlock:
    """Consecutive rows of G with what a step needs to evaluate their moves.

    Args:
        start: Index of the first row.
        G: (m, K) float64, rows of H⁻¹Y.
        diagonal: (m,) float64, diagonal of H⁻¹.
        labels: (m,) int64, current classes.
        locked: (m,) bool, rows that keep their class.
        h: (m,) Σ_d G_id/n_d.

    Attributes:
        state: What the compiled loops take. Copies, since arrays of another process are read-only;
            G transposed, because a move changes two of its columns, which so are contiguous.
    """

    def __init__(
        self,
        start: int,
        G: Vector,
        diagonal: Vector,
        labels: NDArray[np.int64],
        locked: NDArray[np.bool_],
        h: Vector,
    ) -> None:
        m = len(labels)
        self.start = start
        self.G, self.labels, self.h = np.array(G.T, order="C"), labels.copy(), h.copy()
        least, where = np.empty(m), np.empty(m, np.int64)
        _least_entries(self.G, least, where)
        rows = self.G, diagonal.copy(), self.labels, self.h
        self.state: tuple[Any, ...] = (*rows, locked.copy(), least, where)
        self._bounds = np.full(m, np.inf)

    def apply(self, moves: Sequence[Move], weights: Vector | None) -> None:
        """Apply moves in their order; then, with 1/n (K,) given, compute h again from G."""
        for move in moves:
            _apply(self.state, move.column, move.change)
            if 0 <= move.index - self.start < len(self.labels):
                self.labels[move.index - self.start] = move.change[1]
        if weights is not None:
            _sum_rows(self.G, weights, self.h)

    def best(self, moves: Sequence[Move], method: str, classes: Classes) -> Candidate:
        """Apply moves, then return the row with the lowest value, ties to the first row and class.

        ``classes`` are those after the moves.
        """
        tables = TABLES[method](*classes)
        self.apply(moves, None)
        first = _lower_bounds(self.state, tables, self._bounds)
        if first < 0:
            return NO_CANDIDATE
        value, place, new = _best(self.state, tables, self._bounds, first)
        return self._candidate(place, value, new) if value < np.inf else NO_CANDIDATE

    def likely(self, count: int) -> tuple[Vector, NDArray[np.int64]]:
        """Return the lowest bounds of the last scan and their rows, up to ``count`` of them."""
        count = min(count, len(self._bounds))
        places = np.argpartition(self._bounds, count - 1)[:count]
        places = places[np.isfinite(self._bounds[places])]
        return self._bounds[places], places + self.start

    def pick(self, indices: NDArray[np.int64]) -> list[Candidate]:
        """Return those of the rows that are in this block."""
        places = indices - self.start
        inside = places[(places >= 0) & (places < len(self.labels))]
        return [self._candidate(place, np.inf, 0) for place in inside]

    def whole(self) -> tuple[Vector, Vector]:
        """Return the current G (m, K) and h (m,)."""
        return self.G.T, self.h

    def _candidate(self, place: int, value: float, new: int) -> Candidate:
        return Candidate(
            float(value),
            self.start + int(place),
            int(new),
            int(self.labels[place]),
            self.G[:, place].copy(),
            float(self.state[1][place]),
            float(self.h[place]),
        )


class Blocks:
    """Row blocks that together hold all rows. Moves are given with whole columns of H⁻¹.

    On a cluster a step is one message to and from each worker. An actor's state is lost with its
    worker: what was done since the last checkpoint is then done again.

    Args:
        G: (N, K) H⁻¹Y.
        diagonal: (N,) diagonal of H⁻¹.
        labels: (N,) current classes.
        locked: (N,) bool, rows that keep their class.
        h: (N,) Σ_d G_id/n_d.
        count: Number of blocks; on a cluster at most one for each worker.
        client: A Dask ``distributed.Client``; None keeps the blocks in this process.
    """

    def __init__(
        self,
        G: Vector,
        diagonal: Vector,
        labels: NDArray[np.int64],
        locked: NDArray[np.bool_],
        h: Vector,
        count: int,
        client: Any = None,
    ) -> None:
        n = len(labels)
        self._remote = client is not None
        workers = sorted(client.scheduler_info(n_workers=-1)["workers"]) if self._remote else []
        count = min(count, n, len(workers) if self._remote else n)
        edges = np.linspace(0, n, count + 1).astype(int).tolist()
        self._spans = [slice(a, b) for a, b in pairwise(edges)]
        self._blocks: list[Any] = []
        for place, span in enumerate(self._spans):
            rows: Any = [x[span] for x in (G, diagonal, labels, locked, h)]
            if not self._remote:
                self._blocks.append(RowBlock(span.start, *rows))
                continue
            where = {"workers": [workers[place]]}
            rows = client.scatter(rows, hash=False, **where)
            actor = client.submit(RowBlock, span.start, *rows, actor=True, pure=False, **where)
            self._blocks.append(actor)
        if self._remote:
            self._blocks = [actor.result() for actor in self._blocks]

    def apply(self, moves: Sequence[Move], weights: Vector | None) -> None:
        """Apply moves in their order; then, with 1/n (K,) given, compute h again from G."""
        self._call("apply", [(part, weights) for part in self._parts(moves)])

    def best(self, moves: Sequence[Move], method: str, classes: Classes) -> Candidate:
        """Apply moves, then return the row with the lowest value, ties to the first row and class.

        ``classes`` are those after the moves.
        """
        best = NO_CANDIDATE
        arguments = [(part, method, classes) for part in self._parts(moves)]
        for candidate in self._call("best", arguments):
            if candidate.value < best.value:
                best = candidate
        return best

    def likely(self, count: int) -> NDArray[np.int64]:
        """Return ``count`` rows that are probably needed soon, the most probable first."""
        bounds, rows = zip(*self._call("likely", [(count,)] * len(self._spans)), strict=True)
        order = np.argsort(np.concatenate(bounds), kind="stable")
        return np.concatenate(rows)[order][:count]

    def pick(self, indices: NDArray[np.int64]) -> list[Candidate]:
        """Return rows by their indices, in that order."""
        picked = self._call("pick", [(indices,)] * len(self._spans))
        by_index = {row.index: row for rows in picked for row in rows}
        return [by_index[int(i)] for i in indices]

    def whole(self) -> tuple[Vector, Vector]:
        """Return the current G (N, K) and h (N,)."""
        G, h = zip(*self._call("whole", [()] * len(self._spans)), strict=True)
        return np.concatenate(G), np.concatenate(h)

    def _parts(self, moves: Sequence[Move]) -> list[list[Move]]:
        """Return the moves with each block's part of their columns."""
        return [[move.part(span) for move in moves] for span in self._spans]

    def _call(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of every block with its own arguments."""
        pairs = zip(self._blocks, arguments, strict=True)
        try:
            answers = [getattr(block, name)(*own) for block, own in pairs]
            return [future.result() for future in answers] if self._remote else answers
        except (OSError, ValueError, RuntimeError) as error:
            if not self._remote:
                raise
            raise StageError(
                f"a worker that held rows of the labels' gradient was lost ({error}); "
                "start again: the stage continues from the last checkpoint"
            ) from error


@inlined
def _value(i, G, diagonal, labels, h, offset, slope, curve, pull, own, push):  # type: ignore[no-untyped-def]
    """Return (value, class) of row i's best move; (inf, 0) where it has none."""
    o = labels[i]
    g, a, h_i = G[o, i], diagonal[i], h[i]
    force = push[o, 0] * h_i + push[o, 1] * a + push[o, 2] * g
    lowest, place = np.inf, 0
    for j in range(len(curve)):
        value = offset[o, j] + G[j, i] * slope[o, j] + a * curve[j] + force * pull[j]
        if value < lowest:
            lowest, place = value, j
    return lowest + (own[o, 0] + own[o, 1] * a + own[o, 2] * g + own[o, 3] * h_i), place


@inlined
def _lower_bound(i, G, diagonal, labels, h, locked, least, own, push, low):  # type: ignore[no-untyped-def]
    """Return a lower bound of row i's best value; inf where it has no move."""
    o = labels[i]
    if locked[i] or low[o, 0] == np.inf:
        return np.inf
    g, a, h_i, l = G[o, i], diagonal[i], h[i], least[i]
    by_a, by_g, by_h = own[o, 1] * a, own[o, 2] * g, own[o, 3] * h_i
    alone = own[o, 0] + by_a + by_g + by_h
    force = push[o, 0] * h_i + push[o, 1] * a + push[o, 2] * g
    steep = l * (low[o, 4] if l < 0 else low[o, 1])
    bent = a * low[o, 2]
    pulled = force * (low[o, 3] if force >= 0 else low[o, 5])
    size = abs(alone) + abs(low[o, 0]) + abs(steep) + abs(bent) + abs(pulled)
    size += abs(own[o, 0]) + abs(by_a) + abs(by_g) + abs(by_h)
    return alone + low[o, 0] + steep + bent + pulled - SLACK * size


@inlined
def _apply_to_row(i, G, h, least, where, c, change):  # type: ignore[no-untyped-def]
    """Follow a move in row i, whose entry of the moved row's column of H⁻¹ is c."""
    old, new, w_old, w_new, w_old_after, w_new_after = change
    a, b = G[old, i], G[new, i]
    x, y = a - c, b + c
    G[old, i], G[new, i] = x, y
    h[i] += (x * w_old_after + y * w_new_after) - (a * w_old + b * w_new)
    at = where[i]
    if (at == old and x > a) or (at == new and y > b):
        # the smallest entry has grown: search for it again
        l, p = G[0, i], 0
        for k in range(1, G.shape[0]):
            if G[k, i] < l:
                l, p = G[k, i], k
    else:
        l, p = least[i], at
        if at == old:
            l = x
        elif at == new:
            l = y
        if x < l:
            l, p = x, old
        if y < l:
            l, p = y, new
    least[i], where[i] = l, p


@compiled
def every(state, tables):  # type: ignore[no-untyped-def]
    """Return value and class of every row's best move, (m,) and (m,); locked rows have none."""
    G, diagonal, labels, h, locked, _, _ = state
    offset, slope, curve, pull, own, push, _ = tables
    m = len(locked)
    values, classes = np.empty(m), np.zeros(m, dtype=np.int64)
    for i in range(m):
        if locked[i]:
            values[i] = np.inf
        else:
            values[i], classes[i] = _value(
                i, G, diagonal, labels, h, offset, slope, curve, pull, own, push
            )
    return values, classes


@compiled
def _lower_bounds(state, tables, out):  # type: ignore[no-untyped-def]
    """Write a lower bound of every row's best value into ``out`` (m,); return the lowest's row."""
    G, diagonal, labels, h, locked, least, _ = state
    _, _, _, _, own, push, low = tables
    lowest, place = np.inf, -1
    for i in range(len(out)):
        bound = _lower_bound(i, G, diagonal, labels, h, locked, least, own, push, low)
        out[i] = bound
        if bound < lowest:
            lowest, place = bound, i
    return place


@compiled
def _apply(state, column, change):  # type: ignore[no-untyped-def]
    """Add a column of H⁻¹ (m,) to the class entered, take it from the one left, h following."""
    G, _, _, h, _, least, where = state
    for i in range(len(column)):
        _apply_to_row(i, G, h, least, where, column[i], change)


@compiled
def _best(state, tables, bound, first):  # type: ignore[no-untyped-def]
    """Return (value, row, class) of the best move, ties to the smallest row and class.

    ``bound`` is what ``_lower_bounds`` wrote and ``first`` the row it returned.
    """
    G, diagonal, labels, h, _, _, _ = state
    offset, slope, curve, pull, own, push, _ = tables
    value, kind = _value(first, G, diagonal, labels, h, offset, slope, curve, pull, own, push)
    row = first
    for i in range(len(bound)):
        if bound[i] <= value and i != first:
            now, j = _value(i, G, diagonal, labels, h, offset, slope, curve, pull, own, push)
            if now < value or (now == value and i < row):
                value, row, kind = now, i, j
    return value, row, kind


@compiled
def _sum_rows(G, w, h):  # type: ignore[no-untyped-def]
    """Write h = Σ_d G_d w_d (m,), added class by class."""
    for i in range(G.shape[1]):
        h[i] = 0.0
    for k in range(len(w)):
        for i in range(G.shape[1]):
            h[i] += G[k, i] * w[k]


@compiled
def _least_entries(G, least, where):  # type: ignore[no-untyped-def]
    """Write each row's least entry of G and its class, (m,) and (m,)."""
    for i in range(G.shape[1]):
        least[i], where[i] = G[0, i], 0
    for k in range(1, G.shape[0]):
        for i in range(G.shape[1]):
            if G[k, i] < least[i]:
                least[i], where[i] = G[k, i], k
