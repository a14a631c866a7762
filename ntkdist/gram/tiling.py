"""How an N×N (or test×train) matrix is cut into tiles, and what a tile is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ntkdist.errors import InputError

_KEY = re.compile(r"r(\d{4,})c(\d{4,})")


@dataclass(frozen=True, order=True)
class TileKey:
    """The block row and block column of one tile; prints as ``r0003c0012``.

    Attributes:
        row: Block row, from 0.
        col: Block column, from 0.
    """

    row: int
    col: int

    def __str__(self) -> str:
        return f"r{self.row:04d}c{self.col:04d}"

    @classmethod
    def parse(cls, text: str) -> TileKey:
        """Read back what ``str(key)`` wrote.

        Raises:
            InputError: If the text is not a tile key.
        """
        match = _KEY.fullmatch(text)
        if match is None:
            raise InputError(f"{text!r} is not a tile key; write it like r0003c0012")
        return cls(int(match[1]), int(match[2]))


def few_keys(keys: Sequence[TileKey]) -> str:
    """Return the first five keys in words, and how many more there are."""
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(map(str, keys[:5])) + more


def _blocks(n: int, edge: int) -> int:
    return -(-n // edge)


@dataclass(frozen=True)
class Tiling:
    """A grid of square tiles over a matrix; the last row and column may be ragged.

    Attributes:
        n_rows: Rows of the matrix.
        edge: Rows and columns of a tile.
        n_cols: Columns of the matrix; None means a symmetric ``n_rows`` × ``n_rows``
            matrix of which only the block upper triangle is computed and stored.
    """

    n_rows: int
    edge: int
    n_cols: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("n_rows", self.n_rows), ("edge", self.edge), ("n_cols", self.n_cols)):
            if value is not None and value < 1:
                raise InputError(f"tiling: {name}={value} must be at least 1")

    @classmethod
    def from_target(cls, n: int, target: int, n_cols: int | None = None) -> Tiling:
        """Cut into tiles of nearly equal edges, none longer than ``target``.

        ``edge = ceil(n / ceil(n / target))``, so that the last tile is not a sliver.
        For a rectangle ``n`` is the longer side here.

        Args:
            n: Rows of the matrix.
            target: Longest edge allowed.
            n_cols: Columns; None for a symmetric matrix.

        Raises:
            InputError: If a number is below 1.
        """
        longest = max(n, n_cols or 0)
        if longest < 1 or target < 1:
            raise InputError(f"tiling: n={n} and target={target} must be at least 1")
        return cls(n, _blocks(longest, _blocks(longest, target)), n_cols)

    @property
    def symmetric(self) -> bool:
        """Whether only the block upper triangle is stored."""
        return self.n_cols is None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the whole matrix."""
        return self.n_rows, self.n_rows if self.n_cols is None else self.n_cols

    @property
    def grid(self) -> tuple[int, int]:
        """Block rows and block columns."""
        rows, cols = self.shape
        return _blocks(rows, self.edge), _blocks(cols, self.edge)

    @property
    def count(self) -> int:
        """Number of tiles to compute."""
        rows, cols = self.grid
        return rows * (rows + 1) // 2 if self.symmetric else rows * cols

    def keys(self) -> list[TileKey]:
        """Return every tile to compute, row by row, so that a worker can keep its row."""
        rows, cols = self.grid
        return [
            TileKey(row, col)
            for row in range(rows)
            for col in range(row if self.symmetric else 0, cols)
        ]

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, TileKey):
            return False
        rows, cols = self.grid
        return (
            0 <= key.row < rows
            and 0 <= key.col < cols
            and (key.col >= key.row or not self.symmetric)
        )

    def slices(self, key: TileKey) -> tuple[slice, slice]:
        """Return the rows and columns of the matrix that a tile covers.

        Args:
            key: A tile of this grid (below the diagonal too, where it is the mirror).

        Raises:
            InputError: If the key lies outside the grid.
        """
        rows, cols = self.grid
        if not (0 <= key.row < rows and 0 <= key.col < cols):
            raise InputError(
                f"tile {key} lies outside the grid of {rows}×{cols} tiles;"
                f" the last one is {TileKey(rows - 1, cols - 1)}"
            )
        n_rows, n_cols = self.shape
        return (
            slice(key.row * self.edge, min((key.row + 1) * self.edge, n_rows)),
            slice(key.col * self.edge, min((key.col + 1) * self.edge, n_cols)),
        )

    def tile_shape(self, key: TileKey) -> tuple[int, int]:
        """Return the rows and columns of one tile."""
        rows, cols = self.slices(key)
        return rows.stop - rows.start, cols.stop - cols.start
