"""Where the row blocks live: in this process, or on the workers of a Dask cluster as actors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import StageError
from ntkdist.labels.descent.rows import NOTHING, Candidate, Classes, Move, Rows, Vector


class Blocks(Protocol):
    """All rows together, wherever they are."""

    def follow(self, moves: Sequence[Move], weights: Vector | None) -> None:
        """Follow moves, with whole columns."""

    def best(self, moves: Sequence[Move], method: str, classes: Classes) -> Candidate:
        """Follow moves, with whole columns, then return the best candidate."""

    def likely(self, count: int) -> NDArray[np.int64]:
        """Return rows that may be asked for soon, best first."""

    def pick(self, indices: NDArray[np.int64]) -> list[Candidate]:
        """Return rows by their indices, in that order."""

    def whole(self) -> tuple[Vector, Vector]:
        """Return the current G (N, K) and h (N,)."""


class Gathered:
    """Row blocks held by one or more holders of consecutive rows.

    Args:
        holders: Each has the methods of ``Rows`` for its own rows.
        edges: (holders + 1,) where the rows of each begin.
    """

    def __init__(self, holders: Sequence[Any], edges: NDArray[np.int64]) -> None:
        self._holders = holders
        self._edges = edges
        self._count = len(holders)

    def _all(self, name: str, *arguments: Any) -> list[Any]:
        """Call a method of every holder, with the arguments that are each one's own."""
        return [getattr(h, name)(*a) for h, a in zip(self._holders, arguments, strict=True)]

    def follow(self, moves: Sequence[Move], weights: Vector | None) -> None:
        """Follow moves, with whole columns."""
        self._all("follow", *[(part, weights) for part in self._parts(moves)])

    def best(self, moves: Sequence[Move], method: str, classes: Classes) -> Candidate:
        """Follow moves, with whole columns, then return the best candidate."""
        chosen = NOTHING
        each = [(part, method, classes) for part in self._parts(moves)]
        for found in self._all("best", *each):
            if found.value < chosen.value:
                chosen = found
        return chosen

    def _parts(self, moves: Sequence[Move]) -> list[list[Move]]:
        """Return what each holder needs of the moves."""
        if self._count == 1:
            return [list(moves)]
        spans = [slice(a, b) for a, b in pairwise(self._edges.tolist())]
        return [[move.part(span) for move in moves] for span in spans]

    def likely(self, count: int) -> NDArray[np.int64]:
        """Return rows that may be asked for soon, best first."""
        bounds, rows = zip(*self._all("likely", *[(count,)] * self._count), strict=True)
        order = np.argsort(np.concatenate(bounds), kind="stable")
        return np.concatenate(rows)[order][:count]

    def pick(self, indices: NDArray[np.int64]) -> list[Candidate]:
        """Return rows by their indices, in that order."""
        each = self._all("pick", *[(indices,)] * self._count)
        by_index = {c.index: c for found in each for c in found}
        return [by_index[int(i)] for i in indices]

    def whole(self) -> tuple[Vector, Vector]:
        """Return the current G (N, K) and h (N,)."""
        each = self._all("whole", *[()] * self._count)
        return np.concatenate([g for g, _ in each]), np.concatenate([h for _, h in each])


class OnWorkers(Gathered):
    """Row blocks as actors on the workers of a Dask cluster: each keeps its rows of G.

    A step is one message to and from each worker. An actor's state goes with its worker:
    what was done since the last checkpoint then is done again.
    """

    def _all(self, name: str, *arguments: Any) -> list[Any]:
        try:
            futures = [getattr(h, name)(*a) for h, a in zip(self._holders, arguments, strict=True)]
            return [f.result() for f in futures]
        except (OSError, ValueError, RuntimeError) as error:
            raise StageError(
                f"a worker that held rows of the labels' gradient was lost ({error}); "
                "start again: it goes on from the last checkpoint"
            ) from error


def place_rows(
    G: Vector,
    diagonal: Vector,
    labels: NDArray[np.int64],
    locked: NDArray[np.bool_],
    h: Vector,
    blocks: int,
    client: Any = None,
) -> Blocks:
    """Cut rows into blocks and put them where they are worked on.

    Args:
        G: (N, K) H⁻¹Y.
        diagonal: (N,) diagonal of H⁻¹.
        labels: (N,) current classes.
        locked: (N,) bool.
        h: (N,) Σ_d G_id/n_d.
        blocks: How many blocks in all.
        client: A Dask ``distributed.Client``; None keeps them in this process.

    Returns:
        The blocks.
    """
    n = len(labels)
    if client is None:
        rows = Rows(0, G, diagonal, labels, locked, h, blocks)
        return Gathered([rows], np.array([0, n]))
    workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
    count = min(len(workers), blocks, n)
    edges = np.linspace(0, n, count + 1).astype(np.int64)
    each = np.diff(np.linspace(0, blocks, count + 1).astype(int))
    futures = []
    for k in range(count):
        a, b = int(edges[k]), int(edges[k + 1])
        own = [x[a:b] for x in (G, diagonal, labels, locked, h)]
        there = client.scatter(own, workers=[workers[k]], hash=False)
        where = {"workers": [workers[k]], "actor": True, "pure": False}
        futures.append(client.submit(Rows, a, *there, int(each[k]), **where))
    return OnWorkers([f.result() for f in futures], edges)
