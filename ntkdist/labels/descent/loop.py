"""The loop of refurbishment: choose a flip, follow it in G, Z, class sizes and L, and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels.block_error import reciprocal
from ntkdist.labels.compiled import moved, sums
from ntkdist.labels.descent.blocks import Blocks
from ntkdist.labels.descent.checkpoint import Checkpoint, State
from ntkdist.labels.descent.columns import Columns
from ntkdist.labels.descent.rows import TABLES, Candidate, Classes, Move, judged
from ntkdist.labels.result import Flip

# A fall of L(Z) smaller than this part of its terms is rounding, not a gain.
ROUNDING = 1e-12
# Flips after which h is added up anew, so that rounding does not gather in it.
WEIGH_EVERY = 1000
# Of the likely next rows, so many are looked at for each further flip of a step.
LOOKED_AT = 4


@dataclass
class Descent:
    """The state of a refurbishment that chooses its flips one after the other.

    Attributes:
        blocks: The rows of G.
        columns: The columns of H⁻¹.
        given: (N,) labels before the first flip.
        labels: (N,) labels now.
        Z: (K, K) now.
        beta: β.
        history: Every flip so far.
        checkpoint: Where to keep the state; None for nowhere.
        every: Flips between two kept states.
    """

    blocks: Blocks
    columns: Columns
    given: NDArray[np.int64]
    labels: NDArray[np.int64]
    Z: NDArray[np.float64]
    beta: float
    history: list[Flip]
    checkpoint: Checkpoint | None = None
    every: int = 500
    counts: NDArray[np.int64] = field(init=False)
    changed: int = field(init=False)
    loss: float = field(init=False)
    size: float = field(init=False)
    _pending: list[Move] = field(init=False, default_factory=list)
    _weighed: int = field(init=False)
    _kept: int = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.bincount(self.labels, minlength=len(self.Z))
        self._weighed = self._kept = len(self.history)
        self.changed = int((self.labels != self.given).sum())
        self._sum()

    def _sum(self) -> None:
        intra, inter = sums(*self._classes())
        self.loss, self.size = intra - inter, abs(intra) + abs(inter)

    def _classes(self) -> Classes:
        return self.Z, self.counts.astype(np.float64), self.beta

    def choose(self, method: str, most: int) -> Iterator[Flip]:
        """Make flips that ``exact`` or ``paper`` choose, up to ``most`` of them from one scan.

        Args:
            method: ``exact`` or ``paper``.
            most: Flips a scan; each after the first is judged anew with those before it.

        Yields:
            Each flip, once made; ends where no flip helps.
        """
        while True:
            if self._due():
                self._settle()
            chosen = self.blocks.best(self._pending, method, self._classes())
            self._pending = []
            if not self._helps(method, chosen):
                return
            if most == 1:
                yield self._make(chosen, self.blocks.likely)
                continue
            likely = self.blocks.likely(LOOKED_AT * most)
            others = self.blocks.pick(likely[likely != chosen.index])
            yield self._make(chosen, self.blocks.likely)
            yield from self._further(method, others, most - 1)

    def _further(self, method: str, others: list[Candidate], most: int) -> Iterator[Flip]:
        """Make up to ``most`` flips of rows that were looked at before the last ones were made."""
        tables = TABLES[method](*self._classes())
        order = [judged(self._updated(c), tables).value for c in others]
        for place in np.argsort(order, kind="stable"):
            if most == 0:
                return
            tables = TABLES[method](*self._classes())
            now = judged(self._updated(others[place]), tables)
            if self._helps(method, now):
                most -= 1
                yield self._make(now, self.blocks.likely)

    def _helps(self, method: str, candidate: Candidate) -> bool:
        # Algorithm 1 acts on any gradient; a descent must not take rounding for a gain.
        least = ROUNDING * self.size if method == "exact" else 0.0
        return candidate.index >= 0 and candidate.value < -least

    def _updated(self, row: Candidate) -> Candidate:
        """Return a row as the moves that its block does not know yet leave it."""
        g, h = row.g.copy(), row.h
        for move in self._pending:
            c = move.column[row.index]
            old, new, w_old, w_new, w_old_after, w_new_after = move.change
            a, b = g[old], g[new]
            g[old], g[new] = x, y = a - c, b + c
            h += (x * w_old_after + y * w_new_after) - (a * w_old + b * w_new)
        return Candidate(row.value, row.index, row.new, int(self.labels[row.index]), g, row.a, h)

    def _make(self, candidate: Candidate, likely: Callable[[int], NDArray[np.int64]]) -> Flip:
        """Make a flip here; the blocks follow before they are asked again."""
        index, old, new = candidate.index, candidate.old, candidate.new
        column = self.columns.get(index, likely)
        before = self._weights(old, new)
        self.Z = moved(self.Z, candidate.g, candidate.a, old, new)
        self.counts[old] -= 1
        self.counts[new] += 1
        change = (old, new, *before, *self._weights(old, new))
        self._pending.append(Move(index, column, change))
        self.changed += int(new != self.given[index]) - int(old != self.given[index])
        self.labels[index] = new
        loss = self.loss
        self._sum()
        flip = Flip(len(self.history) + 1, index, old, new, self.loss - loss, self.loss)
        self.history.append(flip)
        return flip

    def _weights(self, old: int, new: int) -> tuple[float, float]:
        """Return 1/n of two classes; 0 for one without members."""
        a, b = int(self.counts[old]), int(self.counts[new])
        return (1.0 / a if a else 0.0), (1.0 / b if b else 0.0)

    def _due(self) -> bool:
        """Say whether it is time to add h up anew, or to keep the state."""
        done = len(self.history)
        weigh = done // WEIGH_EVERY > self._weighed // WEIGH_EVERY
        return weigh or (self.checkpoint is not None and done - self._kept >= self.every)

    def _settle(self) -> None:
        """Let the blocks follow; from time to time add h up anew and keep the state.

        Called between steps only, at points that depend on the flips alone: a descent that
        goes on from a kept state makes the same additions.
        """
        done = len(self.history)
        weights = None
        if done // WEIGH_EVERY > self._weighed // WEIGH_EVERY:
            weights, self._weighed = reciprocal(self.counts), done
        if self._pending or weights is not None:
            self.blocks.follow(self._pending, weights)
            self._pending = []
        if self.checkpoint is not None and done - self._kept >= self.every:
            G, h = self.blocks.whole()
            self.checkpoint.save(State(G, h, self.Z, self.labels, tuple(self.history)))
            self._kept = done

    def finish(self) -> NDArray[np.float64]:
        """Return G (N, K) after the last flip."""
        self._settle()
        return self.blocks.whole()[0]
