"""All rows of G in blocks: of this process, or on the workers of a Dask cluster as actors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import StageError
from ntkdist.labels.descent.rows import NO_CANDIDATE, Candidate, Classes, Move, RowBlock, Vector


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
        """Apply moves in their order; then, with 1/n (K,) given, compute h anew from G."""
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
        """Return ``count`` rows that will probably be asked for soon, the most probable first."""
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
