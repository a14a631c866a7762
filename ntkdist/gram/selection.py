"""Indices along one axis of a tiled matrix, grouped by the tile they fall into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ntkdist.errors import InputError

Places: TypeAlias = "slice | np.ndarray"


@dataclass(frozen=True)
class Part:
    """The positions of one axis that fall into one tile.

    Attributes:
        block: The tile's number along the axis.
        inside: Positions inside the tile.
        places: Where they go in the result.
    """

    block: int
    inside: Places
    places: Places


@dataclass(frozen=True)
class Selection:
    """What one axis of ``store[rows, cols]`` selects.

    Attributes:
        positions: (m,) row or column numbers of the matrix, in the order asked for.
        scalar: Whether one integer was given, so that the axis falls away.
    """

    positions: np.ndarray
    scalar: bool

    @property
    def count(self) -> int:
        """How many positions there are."""
        return len(self.positions)

    def by_tile(self, edge: int) -> Iterator[Part]:
        """Yield the selection tile by tile."""
        blocks = self.positions // edge
        for block in np.unique(blocks):
            places = np.flatnonzero(blocks == block)
            inside = self.positions[places] - block * edge
            yield Part(int(block), _compact(inside), _compact(places))


def _compact(positions: np.ndarray) -> Places:
    """Return a run of successive positions as a slice, which copies a block at a time."""
    if np.all(np.diff(positions) == 1):
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def outer(rows: Places, cols: Places) -> tuple[Places, Places]:
    """Return an index that selects rows and columns independently."""
    if isinstance(rows, slice) or isinstance(cols, slice):
        return rows, cols
    row_grid, col_grid = np.ix_(rows, cols)
    return row_grid, col_grid


def parse_index(index: Any, shape: tuple[int, int]) -> tuple[Selection, Selection]:
    """Read the index of ``matrix[index]``.

    Args:
        index: One or two of integer, slice, boolean mask, index array, ``...``.
        shape: Of the matrix.

    Returns:
        The rows' and the columns' selection.

    Raises:
        InputError: If an index is of another kind or lies outside the matrix.
    """
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(slice(None) if part is Ellipsis else part for part in parts)
    if len(parts) > 2:
        raise InputError(f"{len(parts)} indices for a matrix; give rows and columns")
    parts += (slice(None),) * (2 - len(parts))
    return _parse(parts[0], shape[0], "row"), _parse(parts[1], shape[1], "column")


def _parse(part: Any, n: int, name: str) -> Selection:
    if isinstance(part, slice):
        return Selection(np.arange(n)[part], scalar=False)
    array = np.asarray(part)
    if array.dtype == bool:
        if array.shape != (n,):
            raise InputError(f"{name} mask has shape {array.shape}; it must be ({n},)")
        return Selection(np.flatnonzero(array), scalar=False)
    if array.size == 0:
        return Selection(np.zeros(0, dtype=np.intp), scalar=False)
    if array.ndim > 1 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} index {part!r} is no integer, slice, mask or 1-d index array")
    flat = np.atleast_1d(array).astype(np.intp)
    outside = (flat < -n) | (flat >= n)
    if outside.any():
        raise InputError(f"{name} {flat[outside][0]} is outside 0..{n - 1}")
    return Selection(np.where(flat < 0, flat + n, flat), scalar=array.ndim == 0)
