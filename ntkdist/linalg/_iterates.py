"""Where conjugate gradients keep what they have reached: whole iterates, the last one valid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.linalg import groups
from ntkdist.linalg.nystrom import Nystrom
from ntkdist.linalg.panels import ITEM
from ntkdist.linalg.matrix import Matrix, Vector

KIND = "solution"
HOW = "the solver"
STATES = "states"
SKETCH = "sketch"
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class State:
    """Everything the next iteration needs.

    Attributes:
        x: (N, K) the solution so far.
        r: (N, K) its residual, by recurrence.
        p: (N, <= K) the next search directions.
        history: The largest relative residual after each iteration.
        residuals: (K,) true relative residuals; None before they were computed.
    """

    x: Matrix
    r: Matrix
    p: Matrix
    history: tuple[float, ...]
    residuals: Vector | None

    def finished(self, tolerance: float) -> bool:
        """Whether the true residuals are known and small enough."""
        return self.residuals is not None and float(self.residuals.max(initial=0.0)) <= tolerance


class IterateStore:
    """The Zarr group of one system: its identity, its preconditioner, its last iterate.

    Args:
        url: The group's folder or URL.
        group: The group, open for writing.
    """

    def __init__(self, url: str, group: Any) -> None:
        self.url = url
        self.identity: dict[str, Any] = dict(group.attrs)
        self._group = group

    @classmethod
    def open(cls, url: str, identity: dict[str, Any], *, overwrite: bool = False) -> IterateStore:
        """Open what is there, or create it with these attributes.

        Raises:
            InputError: Something else is there, or it cannot be written.
        """
        group = None if overwrite else groups.open_group(url, KIND, mode="r+")
        if group is None:
            group = groups.create_group(url, KIND, identity)
        return cls(url, group)

    def latest(self) -> State | None:
        """Read the last whole iterate; None where there is none.

        Raises:
            StoreError: It is damaged.
        """
        index = self._last()
        if index is None:
            return None
        record = self._group[groups.record_name(STATES, index)].attrs
        x, r, p = (
            self._read(f"iterates/{index:05d}/{name}", STATES, index, width)
            for name, width in (("x", None), ("r", None), ("p", record["directions"]))
        )
        residuals = record["residuals"]
        return State(
            x, r, p, tuple(record["history"]), None if residuals is None else np.array(residuals)
        )

    def save(self, state: State) -> None:
        """Store an iterate, then drop the one before.

        Raises:
            StoreError: The store refused, for instance because the disk is full.
        """
        before = self._last()
        index = 0 if before is None else before + 1
        folder = f"iterates/{index:05d}"
        if folder in self._group:
            del self._group[folder]  # of a start that was killed before its record
        for name, values in (("x", state.x), ("r", state.r), ("p", state.p)):
            if values.shape[1]:
                self._write(f"{folder}/{name}", values)
        residuals = None if state.residuals is None else state.residuals.tolist()
        record = {
            "history": list(state.history),
            "residuals": residuals,
            "directions": state.p.shape[1],
        }
        groups.write_record(self._group, STATES, index, record)
        if before is not None:
            del self._group[groups.record_name(STATES, before)]
            del self._group[f"iterates/{before:05d}"]

    def preconditioner(self, shift: float) -> Nystrom | None:
        """Read the preconditioner; None where it was not stored whole.

        Raises:
            StoreError: It is damaged.
        """
        found = groups.read_records(self._group, SKETCH)
        if not found:
            return None
        rank, tail = found[0]["rank"], found[0]["tail"]
        basis, values = (self._read(name, SKETCH, 0, rank) for name in ("basis", "values"))
        return Nystrom(basis, values, shift, tail)

    def keep_preconditioner(self, found: Nystrom) -> None:
        """Store the preconditioner.

        Raises:
            StoreError: The store refused.
        """
        for name, values in (("basis", found.basis), ("values", found.values)):
            if name in self._group:
                del self._group[name]
            if found.rank:
                self._write(name, values)
        groups.write_record(self._group, SKETCH, 0, {"rank": found.rank, "tail": found.tail})

    def _last(self) -> int | None:
        return max(groups.record_indices(self._group, STATES), default=None)

    def _write(self, name: str, values: NDArray[np.float64]) -> None:
        edge = max(1, _CHUNK_BYTES // (ITEM * int(np.prod(values.shape[1:]))))
        chunks = (min(edge, len(values)), *values.shape[1:])
        groups.create_array(self._group, name, shape=values.shape, chunks=chunks)
        where = tuple(slice(0, size) for size in values.shape)
        groups.CheckedArray(self.url, name, KIND, HOW).write(name, where, values)

    def _read(self, name: str, series: str, index: int, width: int | None) -> NDArray[np.float64]:
        array = groups.CheckedArray(self.url, name, KIND, HOW)
        if width == 0:
            return np.zeros((self.identity["n"], 0) if name != "values" else 0)
        shape = array.array.shape
        record = groups.record_name(series, index)
        values = array.read(name, record, tuple(slice(0, size) for size in shape))
        if np.isnan(values).any():
            raise array.damaged(name, record, name, "misses a chunk")
        return values
