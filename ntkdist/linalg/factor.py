"""The finished factor: factor once, open anywhere, solve many."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntkdist.errors import InputError, StoreError
from ntkdist.linalg import groups
from ntkdist.linalg.events import Listener
from ntkdist.linalg.inverse import InverseStore, check_indices
from ntkdist.linalg.invert import compute_inverse
from ntkdist.linalg.outcomes import Outcome
from ntkdist.linalg.panels import ITEM, parse_memory
from ntkdist.linalg.schedule import Scheduler
from ntkdist.linalg.solve import backward, forward, inverse_norm1
from ntkdist.linalg.store import HOW, KIND, FactorStore

_REMEDY = "compute it with ntkdist.linalg.factorize"


class CholeskyFactor:
    """L of A + ridge = L Lᵀ, stored panel by panel; equivalent to ``scipy.linalg.cho_factor``.

    Use :meth:`open` or :func:`ntkdist.linalg.factorize`. Panels stay in memory after their first
    use where all of them fit ``memory_limit``, and are streamed otherwise.

    Args:
        store: The panels.
        attributes: The group's attributes.
        records: One record per panel.
        memory_limit: Bytes for kept panels and for batches of columns.
        scheduler: Where :meth:`inverse` runs its tasks.
    """

    def __init__(
        self,
        store: FactorStore,
        attributes: dict[str, Any],
        records: list[dict[str, Any]],
        memory_limit: int,
        scheduler: Scheduler,
    ) -> None:
        self._store = store
        self._attributes = attributes
        self._records = records
        self._limit = memory_limit
        self._scheduler = scheduler
        store.keep = store.kept_bytes() <= memory_limit

    @classmethod
    def open(
        cls, url: Any, *, memory_limit: int | str = "2GiB", scheduler: Scheduler = None
    ) -> CholeskyFactor:
        """Open a finished factor.

        Args:
            url: Folder or fsspec URL it was computed into.
            memory_limit: Bytes (or ``"2GiB"``) for panels kept in memory and for column batches.
            scheduler: As for :func:`ntkdist.linalg.factorize`; used by :meth:`inverse`.

        Returns:
            The factor.

        Raises:
            InputError: Something else is at ``url``.
            StoreError: Nothing is there, or the factor is not finished.
        """
        address = groups.address_of(url)
        opened = FactorStore.open(address)
        if opened is None:
            raise StoreError(Outcome.ABSENT.message(url=address, kind=KIND, remedy=_REMEDY))
        store, attributes = opened
        records = store.records()
        if len(records) < store.plan.count:
            raise StoreError(
                Outcome.INCOMPLETE.message(
                    kind=KIND,
                    url=address,
                    done=len(records),
                    count=store.plan.count,
                    parts="panels",
                    how=HOW,
                )
            )
        return cls(store, attributes, records, parse_memory(memory_limit), scheduler)

    @property
    def url(self) -> str:
        """Where the factor is stored."""
        return self._store.url

    @property
    def n(self) -> int:
        """Rows of the matrix."""
        return self._store.plan.n

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""
        return self.n, self.n

    @property
    def panel_width(self) -> int:
        """Columns of every panel but the last."""
        return self._store.plan.width

    @property
    def panel_count(self) -> int:
        """How many panels the factor has."""
        return self._store.plan.count

    @property
    def ridge(self) -> float:
        """The ridge, relative to mean(diag A)."""
        return float(self._attributes["ridge"])

    @property
    def ridge_absolute(self) -> float:
        """What was added to every diagonal entry."""
        return float(self._attributes["ridge_absolute"])

    @property
    def fingerprint(self) -> str:
        """What identifies the matrix that was factored."""
        return str(self._attributes["fingerprint"])

    @property
    def min_pivot(self) -> float:
        """Smallest pivot (L_ii squared): how near the matrix is to not being definite."""
        return min(float(record["min_pivot"]) for record in self._records)

    def solve(self, b: ArrayLike) -> NDArray[np.float64]:
        """Solve (A + ridge) X = B; equivalent to ``scipy.linalg.cho_solve``.

        Args:
            b: (N,) or (N, K) real, finite.

        Returns:
            X, of b's shape, float64.

        Raises:
            InputError: ``b`` has another length or is not finite.
            StoreError: A stored panel is damaged.
        """
        given = np.asarray(b)
        if given.ndim not in (1, 2) or given.shape[0] != self.n:
            raise InputError(
                f"the right-hand side has shape {given.shape}; it must be ({self.n},) "
                f"or ({self.n}, K)"
            )
        x = np.array(given, dtype=np.float64, order="C").reshape(self.n, -1)
        if not np.isfinite(x).all():
            row, col = (int(v) for v in np.argwhere(~np.isfinite(x))[0])
            raise InputError(f"entry ({row}, {col}) of the right-hand side is {x[row, col]}")
        forward(self._store, x)
        backward(self._store, x)
        return x.reshape(given.shape)

    def inverse_columns(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float64]:
        """Compute columns of (A + ridge)⁻¹ without the rest of it.

        Args:
            indices: (m,) integers from 0 to N - 1; repeats allowed.

        Returns:
            (N, m) float64, in the order asked for.

        Raises:
            InputError: An index is out of range.
            StoreError: A stored panel is damaged.
        """
        wanted = check_indices(indices, self.n)
        out = np.empty((self.n, len(wanted)))
        batch = max(1, self._limit // (4 * ITEM * self.n))
        for start in range(0, len(wanted), batch):
            some = wanted[start : start + batch]
            x = np.zeros((self.n, len(some)))
            x[some, np.arange(len(some))] = 1.0
            first = int(some.min())
            forward(self._store, x[first:], first)
            backward(self._store, x)
            out[:, start : start + len(some)] = x
        return out

    def inverse(
        self, url: Any = None, *, on_event: Listener | None = None, overwrite: bool = False
    ) -> InverseStore:
        """Compute (A + ridge)⁻¹ into a store whose rows are one read each; resumable.

        Symmetric to the bit. Takes twice the operations of the factorisation.

        Args:
            url: Folder or fsspec URL of its own group; None puts it beside the panels.
            on_event: Called with an ``InverseBlockDone`` for each block, from this thread.
            overwrite: Drop an inverse that is there and compute it anew.

        Returns:
            The inverse, opened; at once where it was finished before.

        Raises:
            InputError: ``url`` holds another factor's inverse, or cannot be written.
            StoreError: A stored part is damaged, or the store refuses to be written.
        """
        address = f"{self.url}/inverse" if url is None else groups.address_of(url)
        return compute_inverse(
            self._store,
            self.digest(),
            address,
            memory_limit=self._limit,
            scheduler=self._scheduler,
            on_event=on_event,
            overwrite=overwrite,
        )

    def logdet(self) -> float:
        """Return log det (A + ridge)."""
        return 2.0 * sum(float(record["log_diagonal"]) for record in self._records)

    def condition_estimate(self) -> float:
        """Estimate the 1-norm condition number of A + ridge.

        Equivalent to LAPACK's dpocon; a lower bound that is rarely off by more than 3. The norm
        of the matrix was taken when it was factored; its inverse's takes up to 12 solves.

        Returns:
            ‖A + ridge‖₁ · ‖(A + ridge)⁻¹‖₁, estimated.
        """
        return float(self._attributes["norm1"]) * inverse_norm1(self.solve, self.n)

    def digest(self) -> str:
        """Return a sha256 (hex) that changes with any bit of the factor."""
        return hashlib.sha256("".join(r["sha256"] for r in self._records).encode()).hexdigest()

    def verify(self) -> None:
        """Read every panel and compare it with the sha256 of its record.

        Raises:
            StoreError: A panel is damaged; names it.
        """
        self._store.release()
        for k, record in enumerate(self._records):
            if self._store.digest(k) != record["sha256"]:
                raise self._store.damaged(k, "lower", "differs from the sha256 recorded for it")
