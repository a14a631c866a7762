"""Refurbishment by one flip after another: the methods ``exact`` and ``paper``.

``Descent`` chooses a flip, updates G, Z, class sizes and L, and repeats. ``Blocks`` holds G and the
labels in row blocks, and the compiled loops at the end evaluate the moves of a block's rows.
``Checkpoint`` stores the state.

Every number of a row comes from elementwise arithmetic in a fixed order, so that it is the
same, bit for bit, in whatever block the row is.

A step costs O(m) for m rows, not O(mK): each row keeps the smallest entry of its G, which gives a
lower bound of its best value (``_bounds``), and only rows whose bound can beat the best value so
far are evaluated class by class. The result is that of evaluating all of them (``every``).

Three tuples are passed from loop to loop:

    state   G (K, m) with row k for class k; diagonal (m,) of H⁻¹; labels (m,); h (m,) Σ_d G_id/n_d;
            locked (m,); least (m,), each row's smallest entry of G, and where (m,), its class
    tables  what the step needs of the classes (``ntkdist.labels.compiled``)
    change  what a move does: the class left and the class entered, 1/n of the two before the move,
            and after it

A checkpoint has two slots, written in turn. An attribute that names the complete one is set last,
in one write. A state holds everything that the next step reads, to the bit, so that a descent that
was killed makes the same flips as one that was not.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.errors import InputError, StageError, StoreError
from ntkdist.labels.block_error import reciprocal
from ntkdist.labels.compiled import compiled, exact_tables, inlined, moved, paper_tables, sums
from ntkdist.labels.inverse import Inverse
from ntkdist.labels.options import Options
from ntkdist.labels.result import Flip
from ntkdist.storage.arrays import read_array, write_array

Vector: TypeAlias = NDArray[np.float64]
Tables: TypeAlias = tuple[Vector, ...]
# What a step needs of the classes: Z (K, K), class sizes (K,) as floats, and β.
Classes: TypeAlias = tuple[Vector, Vector, float]

TABLES = {"exact": exact_tables, "paper": paper_tables}

# A lower bound is reduced by this share of its terms, so that rounding cannot lift it above the
# value. The share is far above rounding errors and far below differences that matter.
SLACK = 1e-12
# A decrease of L(Z) smaller than this share of its terms is rounding, not a gain.
ROUNDING = 1e-12
# Flips after which h is computed again from G, so that rounding does not accumulate in it.
RECOMPUTE_EVERY = 1000
# Rows evaluated for each further flip of a step.
ROWS_PER_FLIP = 4
# Columns fetched together if the inverse has no ``columns_at_once``.
BATCH = 32
# Bytes of cached columns.
KEPT_BYTES = 256 * 2**20

_CHECKPOINT = "ntkdist refurbishment"
_SLOTS = ("a", "b")
_FLIP_FIELDS = tuple(Flip.__dataclass_fields__)


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
        """Make flips up to a limit; return True if it was reached, False if no flip was left.

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
        """Make up to ``most`` more flips from the last scan's rows, each evaluated again first."""
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
        # "paper" (Algorithm 1) accepts every negative value; "exact" must decrease the loss by
        # more than rounding.
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


class Columns:
    """A least-recently-used cache of columns of H⁻¹; ``fetches`` counts reads of the inverse."""

    def __init__(self, inverse: Inverse) -> None:
        self._inverse = inverse
        self._n = inverse.shape[0]
        self._batch = max(1, int(getattr(inverse, "columns_at_once", BATCH)))
        # One column at a time means that reading costs no more than a cache.
        kept = 1 if self._batch == 1 else KEPT_BYTES // (8 * self._n)
        self._capacity = max(self._batch, kept)
        self._kept: OrderedDict[int, NDArray[np.float64]] = OrderedDict()
        self.fetches = 0

    def get(self, index: int, likely: Callable[[int], NDArray[np.int64]]) -> NDArray[np.float64]:
        """Return column ``index`` (N,); if it is not cached, fetch the likely next ones with it.

        ``likely`` returns up to a number of rows that are probably needed soon, best first.
        """
        if index not in self._kept:
            wanted = [index]
            if self._batch > 1:
                ahead = dict.fromkeys(likely(2 * self._batch).tolist())  # each once
                wanted += [i for i in ahead if i != index and i not in self._kept]
            self._fetch(wanted[: self._batch])
        self._kept.move_to_end(index)
        return self._kept[index]

    def _fetch(self, indices: list[int]) -> None:
        self.fetches += 1
        columns = np.asarray(self._inverse.columns(np.array(indices)), dtype=np.float64)
        if columns.shape != (self._n, len(indices)):
            raise InputError(
                f"columns({len(indices)} indices) has shape {columns.shape}; "
                f"it must be ({self._n}, {len(indices)})"
            )
        for place, index in enumerate(indices):
            column = columns[:, place]
            if not np.isfinite(column).all():
                raise InputError(
                    f"column {index} of the inverse holds NaN or infinity; "
                    "check the Gram matrix, or raise the ridge"
                )
            # A copy: a view would keep its whole batch in memory.
            self._kept[index] = np.ascontiguousarray(column) if len(indices) == 1 else column.copy()
        # The requested column is the first of ``indices``; it is dropped last.
        self._kept.move_to_end(indices[0])
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)


@dataclass(frozen=True, eq=False)
class State:
    """Everything that the next step reads.

    Attributes:
        G: (N, K) H⁻¹Y of the current labels.
        h: (N,) Σ_d G_id/n_d, updated flip by flip.
        Z: (K, K), updated flip by flip.
        labels: (N,) current labels.
        history: Every flip so far.
    """

    G: NDArray[np.float64]
    h: NDArray[np.float64]
    Z: NDArray[np.float64]
    labels: NDArray[np.int64]
    history: tuple[Flip, ...]


def fingerprint(**inputs: Any) -> str:
    """Return the sha256 of everything that determines the flips: arrays and settings, by name."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        value = inputs[name]
        if isinstance(value, np.ndarray):
            digest.update(f"{name} {value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        else:
            digest.update(json.dumps([name, value]).encode())
    return digest.hexdigest()


class Checkpoint:
    """The two slots at a folder or URL, for inputs with this fingerprint.

    Raises ``InputError`` if something else is at the address.
    """

    def __init__(self, url: str, fingerprint: str) -> None:
        import zarr
        from zarr.errors import ContainsArrayError, GroupNotFoundError

        self.url = storage.normal(url)
        self.fingerprint = fingerprint
        try:
            attributes = dict(zarr.open_group(storage.zarr_store(self.url), mode="r").attrs)
        except (FileNotFoundError, GroupNotFoundError):
            # a first save that was killed leaves a slot alone
            empty = set(storage.children(self.url)) <= set(_SLOTS)
            attributes = {"kind": _CHECKPOINT} if empty else {}
        except ContainsArrayError as error:
            raise InputError(f"{self.url}: holds an array; give a new folder") from error
        if attributes.get("kind") != _CHECKPOINT:
            raise InputError(f"{self.url}: holds something else; give a new or empty folder")
        same = attributes.get("fingerprint") == fingerprint
        self._current = str(attributes["current"]) if same and attributes.get("current") else None

    def load(self) -> State | None:
        """Return the last complete state of the same inputs, or None; ``StoreError`` if damaged."""
        if self._current is None:
            return None
        slot = storage.join(self.url, self._current)
        remedy = f"delete {self.url} to start the labels again from the beginning"
        names = ("G", "h", "Z", "labels", *(f"history_{name}" for name in _FLIP_FIELDS))
        try:
            read = {name: read_array(storage.join(slot, name), remedy) for name in names}
        except FileNotFoundError as error:
            raise StoreError(f"{error}; {remedy}") from error
        flips = zip(*(read[f"history_{name}"].tolist() for name in _FLIP_FIELDS), strict=True)
        history = tuple(Flip(*row) for row in flips)
        return State(read["G"], read["h"], read["Z"], read["labels"], history)

    def save(self, state: State) -> None:
        """Write a state into the other slot, then make it the current one."""
        import zarr

        slot = _SLOTS[self._current == _SLOTS[0]]
        zarr.open_group(self._slot(slot), mode="w")
        arrays = {"G": state.G, "h": state.h, "Z": state.Z, "labels": state.labels}
        for name in _FLIP_FIELDS:
            kind = np.float64 if "loss" in name else np.int64
            arrays[f"history_{name}"] = np.array([getattr(f, name) for f in state.history], kind)
        for name, values in arrays.items():
            write_array(storage.join(self.url, slot, name), values)
        whole = {"kind": _CHECKPOINT, "fingerprint": self.fingerprint, "current": slot}
        zarr.open_group(storage.zarr_store(self.url), mode="a").attrs.update(whole)
        self._current = slot

    def _slot(self, name: str) -> Any:
        return storage.zarr_store(storage.join(self.url, name))


def drop_checkpoint(url: str) -> None:
    """Delete the state of a refurbishment, once its result is stored elsewhere.

    Raises:
        InputError: Something else is at the address, of which nothing is deleted.
    """
    import zarr

    checkpoint = Checkpoint(url, "")
    group = zarr.open_group(storage.zarr_store(checkpoint.url), mode="a")
    for slot in set(_SLOTS) & set(storage.children(checkpoint.url)):
        del group[slot]
    group.attrs.put({"kind": _CHECKPOINT})


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
