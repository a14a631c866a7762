"""The loop of ``exact`` and ``paper``: choose a flip, update G, Z, class sizes and L, repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels.block_error import reciprocal
from ntkdist.labels.compiled import moved, sums
from ntkdist.labels.descent.blocks import TABLES, Blocks, Candidate, Classes, Move
from ntkdist.labels.descent.checkpoint import Checkpoint, State, fingerprint
from ntkdist.labels.inverse import Columns, Inverse
from ntkdist.labels.options import Options
from ntkdist.labels.result import Flip

# A decrease of L(Z) smaller than this share of its terms is rounding, not a gain.
ROUNDING = 1e-12
# Flips after which h is computed again from G, so that rounding does not accumulate in it.
RECOMPUTE_EVERY = 1000
# Rows evaluated for each further flip of a step.
ROWS_PER_FLIP = 4


def start_descent(
    source: Inverse,
    diagonal: NDArray[np.float64],
    G: NDArray[np.float64],
    Z: NDArray[np.float64],
    given: NDArray[np.int64],
    keep: NDArray[np.bool_],
    options: Options,
    client: Any,
    checkpoint: str | None,
) -> Descent:
    """Return the descent from the given labels, or from the checkpoint of the same inputs.

    Images where ``keep`` (N,) is set keep their labels; ``client`` and ``checkpoint`` are those of
    ``refurbish``.
    """
    beta = float(options.beta)
    stored, state = None, None
    if checkpoint is not None:
        decides = {"G": G, "diagonal": diagonal, "given": given, "keep": keep}
        settings = [options.method, beta, options.flips_per_step]
        stored = Checkpoint(checkpoint, fingerprint(**decides, settings=settings))
        state = stored.load()
    if state is None:
        h = G @ reciprocal(np.bincount(given, minlength=len(Z)))
        state = State(G, h, Z, given.copy(), ())
    return Descent(
        Blocks(state.G, diagonal, state.labels, keep, state.h, options.blocks, client),
        Columns(source),
        given,
        state.labels.copy(),
        state.Z,
        beta,
        list(state.history),
        stored,
        int(options.checkpoint_every),
    )


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
        checkpoint: Where to store the state; None for nowhere.
        checkpoint_every: Flips between two stored states.
        counts: (K,) class sizes now.
        changed: Number of labels that differ from the given ones.
        loss: L(Z) now.
    """

    blocks: Blocks
    columns: Columns
    given: NDArray[np.int64]
    labels: NDArray[np.int64]
    Z: NDArray[np.float64]
    beta: float
    history: list[Flip]
    checkpoint: Checkpoint | None
    checkpoint_every: int
    counts: NDArray[np.int64] = field(init=False)
    changed: int = field(init=False)
    loss: float = field(init=False)
    _size: float = field(init=False)
    _pending: list[Move] = field(init=False, default_factory=list)
    _recomputed: int = field(init=False)
    _stored: int = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.bincount(self.labels, minlength=len(self.Z))
        self.changed = int((self.labels != self.given).sum())
        self._recomputed = self._stored = len(self.history)
        self._sum()

    def run(
        self, options: Options, limit: int | None, on_step: Callable[[Flip], None] | None
    ) -> bool:
        """Make flips up to a limit; return whether it was reached, rather than no flip left.

        The limit counts flips; with ``steps="auto"`` of ``exact`` it counts changed labels.
        """
        by_changes = options.steps == "auto" and options.method == "exact"
        flips = self._choose(options.method, options.flips_per_step)
        while limit is None or (self.changed if by_changes else len(self.history)) < limit:
            flip = next(flips, None)
            if flip is None:
                return False
            if on_step is not None:
                on_step(flip)
        return True

    def finish(self) -> NDArray[np.float64]:
        """Return G (N, K) after the last flip."""
        self._synchronise(True)
        return self.blocks.whole()[0]

    def _choose(self, method: str, most: int) -> Iterator[Flip]:
        """Make flips, up to ``most`` of them from one scan, until none helps; yield each."""
        while True:
            self._synchronise(False)
            best = self.blocks.best(self._pending, method, self._classes())
            self._pending = []
            if not self._helps(method, best):
                return
            others: list[Candidate] = []
            if most > 1:
                likely = self.blocks.likely(ROWS_PER_FLIP * most)
                others = self.blocks.pick(likely[likely != best.index])
            yield self._make(best)
            if others:
                yield from self._further(method, others, most - 1)

    def _further(self, method: str, others: list[Candidate], most: int) -> Iterator[Flip]:
        """Make up to ``most`` flips of rows read before the last moves; each is evaluated again."""
        tables = TABLES[method](*self._classes())
        order = [self._updated(row).evaluated(tables).value for row in others]
        for place in np.argsort(order, kind="stable"):
            if most == 0:
                return
            tables = TABLES[method](*self._classes())
            now = self._updated(others[place]).evaluated(tables)
            if self._helps(method, now):
                most -= 1
                yield self._make(now)

    def _helps(self, method: str, candidate: Candidate) -> bool:
        # Algorithm 1 acts on any gradient; a descent must not take rounding for a gain.
        least = ROUNDING * self._size if method == "exact" else 0.0
        return candidate.index >= 0 and candidate.value < -least

    def _updated(self, row: Candidate) -> Candidate:
        """Return a row after the moves that are not yet applied to its block."""
        g, h = row.g.copy(), row.h
        for move in self._pending:
            c = move.column[row.index]
            old, new, w_old, w_new, w_old_after, w_new_after = move.change
            a, b = g[old], g[new]
            g[old], g[new] = x, y = a - c, b + c
            h += (x * w_old_after + y * w_new_after) - (a * w_old + b * w_new)
        return replace(row, old=int(self.labels[row.index]), g=g, h=h)

    def _make(self, candidate: Candidate) -> Flip:
        """Make a flip; the blocks apply it before the next scan."""
        index, old, new = candidate.index, candidate.old, candidate.new
        column = self.columns.get(index, self.blocks.likely)
        before = self._weights(old, new)
        self.Z = moved(self.Z, candidate.g, candidate.a, old, new)
        self.counts[old] -= 1
        self.counts[new] += 1
        self._pending.append(Move(index, column, (old, new, *before, *self._weights(old, new))))
        self.changed += int(new != self.given[index]) - int(old != self.given[index])
        self.labels[index] = new
        loss = self.loss
        self._sum()
        flip = Flip(len(self.history) + 1, index, old, new, self.loss - loss, self.loss)
        self.history.append(flip)
        return flip

    def _classes(self) -> Classes:
        return self.Z, self.counts.astype(np.float64), self.beta

    def _sum(self) -> None:
        intra, inter = sums(*self._classes())
        self.loss, self._size = intra - inter, abs(intra) + abs(inter)

    def _weights(self, old: int, new: int) -> tuple[float, float]:
        """Return 1/n of two classes; 0 for one without members."""
        a, b = int(self.counts[old]), int(self.counts[new])
        return (1.0 / a if a else 0.0), (1.0 / b if b else 0.0)

    def _synchronise(self, end: bool) -> None:
        """At the end, or where h is to be computed again or the state stored, apply pending moves.

        Called between steps only, at points that depend on the flips alone, so that a descent
        that continues from a stored state makes the same additions.
        """
        done = len(self.history)
        recompute = done // RECOMPUTE_EVERY > self._recomputed // RECOMPUTE_EVERY
        store = self.checkpoint is not None and done - self._stored >= self.checkpoint_every
        if not (recompute or store or end):
            return
        if self._pending or recompute:
            self.blocks.apply(self._pending, reciprocal(self.counts) if recompute else None)
            self._pending = []
            self._recomputed = done if recompute else self._recomputed
        if self.checkpoint is not None and store:
            G, h = self.blocks.whole()
            self.checkpoint.save(State(G, h, self.Z, self.labels, tuple(self.history)))
            self._stored = done
