"""The whole inverse on disk, stored so that one row is one contiguous read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.errors import InputError, StoreError
from ntkdist.linalg import groups
from ntkdist.linalg.status import Outcome
from ntkdist.linalg.panels import PanelPlan

KIND = "inverse"
HOW = "the inverse"
ROW_RECORDS = "row_blocks"


class InverseStore:
    """(A + ridge)⁻¹ on disk; anything that takes ``.shape, .diagonal(), .columns()`` takes it.

    Use :meth:`open` or :meth:`ntkdist.linalg.CholeskyFactor.inverse`.

    Args:
        url: Folder or URL of its group.
        plan: The factor's cut; rows are stored ``plan.block`` to a file.
    """

    def __init__(self, url: str, plan: PanelPlan) -> None:
        self.url = url
        self.plan = plan
        self.dtype = np.dtype(np.float64)
        self.row_array = groups.CheckedArray(url, "rows", KIND, HOW)
        self.diagonal_array = groups.CheckedArray(url, "diagonal", KIND, HOW)

    @classmethod
    def open(cls, url: Any) -> InverseStore:
        """Open a finished inverse.

        Raises:
            InputError: Something else is at ``url``.
            StoreError: Nothing is there, or it is not finished.
        """
        address = storage.normal(url)
        group = groups.open_group(address, KIND)
        if group is None:
            remedy = "compute it with CholeskyFactor.inverse"
            raise StoreError(Outcome.ABSENT.message(url=address, kind=KIND, remedy=remedy))
        plan = _plan_of(group)
        count = len(plan.blocks(0, plan.n))
        done = len(groups.read_records(group, ROW_RECORDS))
        if done < count:
            raise StoreError(
                Outcome.INCOMPLETE.message(
                    kind=KIND, url=address, done=done, count=count, parts="row blocks", how=HOW
                )
            )
        return cls(address, plan)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""
        return self.plan.n, self.plan.n

    def diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal, (N,) float64."""
        return self._read(self.diagonal_array, slice(0, self.plan.n))

    def rows(self, start: int, stop: int) -> NDArray[np.float64]:
        """Return rows ``start`` to ``stop``, (stop - start, N) float64: one contiguous read each.

        Raises:
            InputError: The range leaves the matrix.
            StoreError: A stored row is damaged.
        """
        if not 0 <= start <= stop <= self.plan.n:
            raise InputError(f"rows {start}:{stop} are outside 0:{self.plan.n}")
        return self._read(self.row_array, slice(start, stop), slice(0, self.plan.n))

    def columns(self, indices: Any) -> NDArray[np.float64]:
        """Return columns, read as rows (the inverse is symmetric to the bit).

        Args:
            indices: (m,) integers from 0 to N - 1; repeats allowed.

        Returns:
            (N, m) float64, each column contiguous, in the order asked for.

        Raises:
            InputError: An index is out of range.
            StoreError: A stored row is damaged.
        """
        wanted = check_indices(indices, self.plan.n)
        out = np.empty((len(wanted), self.plan.n))
        seen: dict[int, int] = {}
        for position, index in enumerate(wanted.tolist()):
            if index in seen:
                out[position] = out[seen[index]]
            else:
                seen[index] = position
                out[position] = self.rows(index, index + 1)[0]
        return out.T

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the stored inverse cannot be seen as an array without a copy")
        out = np.empty(self.shape)
        for r0, r1 in self.plan.blocks(0, self.plan.n):
            out[r0:r1] = self.rows(r0, r1)
        return out if dtype is None else out.astype(dtype)

    def _read(self, array: groups.CheckedArray, *where: slice) -> NDArray[np.float64]:
        index = where[0].start // self.plan.block
        part, record = f"row block {index}", groups.record_name(ROW_RECORDS, index)
        values = array.read(part, record, where)
        edge = values[:, 0] if values.ndim == 2 else values
        if np.isnan(edge).any():
            row = where[0].start + int(np.isnan(edge).argmax())
            index = row // self.plan.block
            record = groups.record_name(ROW_RECORDS, index)
            key = array.key(index, *([0] * (values.ndim - 1)))
            raise array.damaged(f"row block {index}", record, key, f"has no row {row}")
        return values


def is_whole_inverse(url: str, digest: str) -> bool:
    """Return whether the whole inverse of a factor is stored.

    Args:
        url: The inverse's group.
        digest: What identifies the factor.
    """
    group = groups.open_result_of(url, KIND, digest)
    if group is None:
        return False
    plan = _plan_of(group)
    return len(groups.read_records(group, ROW_RECORDS)) == len(plan.blocks(0, plan.n))


def _plan_of(group: Any) -> PanelPlan:
    return PanelPlan(group.attrs["n"], group.attrs["panel_width"], group.attrs["block"])


def check_indices(indices: Any, n: int) -> NDArray[np.intp]:
    """Return indices as an array.

    Raises:
        InputError: They are no integers from 0 to n - 1.
    """
    wanted = np.asarray(indices)
    if wanted.size == 0:
        return np.zeros(0, dtype=np.intp)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
        raise InputError(
            f"indices must be one-dimensional integers, not {wanted.dtype} {wanted.shape}"
        )
    if wanted.min() < 0 or wanted.max() >= n:
        worst = int(wanted.min()) if wanted.min() < 0 else int(wanted.max())
        raise InputError(f"index {worst} is outside 0 to {n - 1}")
    return wanted.astype(np.intp)
