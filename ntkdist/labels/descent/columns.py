"""Columns of H⁻¹, fetched in batches ahead of need and cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.labels.inverse import Inverse

# Columns fetched together if the inverse has no ``columns_at_once``.
BATCH = 32
# Bytes of cached columns.
KEPT_BYTES = 256 * 2**20


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
