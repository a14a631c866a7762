from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ntkdist.errors import InputError
from ntkdist.gram.tiling import TileKey, Tiling

sizes = st.integers(1, 60)


@given(n=sizes, target=sizes, n_cols=st.none() | sizes)
def test_every_pair_is_covered_exactly_once(n: int, target: int, n_cols: int | None) -> None:
    tiling = Tiling.from_target(n, target, n_cols)
    covered = np.zeros(tiling.shape, dtype=int)
    for key in tiling.keys():  # noqa: SIM118
        rows, cols = tiling.slices(key)
        assert key in tiling
        covered[rows, cols] += 1
        if tiling.symmetric and key.row != key.col:
            covered[cols, rows] += 1
    assert (covered == 1).all()
    assert tiling.count == len(tiling.keys())


@given(n=sizes, target=sizes)
def test_edges_are_near_equal_and_within_the_target(n: int, target: int) -> None:
    tiling = Tiling.from_target(n, target)
    assert tiling.edge <= target
    assert tiling.grid[0] == -(-n // target)
    assert tiling.edge * tiling.grid[0] - n < tiling.grid[0]


def test_keys_come_row_by_row() -> None:
    keys = Tiling(10, 3).keys()
    assert keys == sorted(keys)


@given(row=st.integers(0, 10**6), col=st.integers(0, 10**6))
def test_key_text_round_trips(row: int, col: int) -> None:
    key = TileKey(row, col)
    assert TileKey.parse(str(key)) == key


def test_key_prints_as_in_messages() -> None:
    assert str(TileKey(3, 12)) == "r0003c0012"


@pytest.mark.parametrize("text", ["", "r3c12", "r0003c0012 ", "0003-0012", "r0003c-012"])
def test_malformed_key_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a tile key; write it like r0003c0012"):
        TileKey.parse(text)


def test_key_outside_the_grid_is_refused_with_the_last_one() -> None:
    with pytest.raises(InputError, match=r"r0009c0000 lies outside.*r0003c0003"):
        Tiling(10, 3).slices(TileKey(9, 0))


@pytest.mark.parametrize("numbers", [(0, 3, None), (3, 0, None), (3, 3, 0)])
def test_numbers_below_one_are_refused(numbers: tuple[int, int, int | None]) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        Tiling(*numbers)
