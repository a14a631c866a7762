"""The map of tiles: what each cell says, how large it gets, what is read aloud."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from ntkdist.report.live import (
    ABSENT,
    DONE,
    FAILED,
    FLIGHT,
    _cells,
    count_tiles,
    describe_tiles,
    legend,
    tile_map,
)

PART = 4


def states(blocks: int, **chosen: list[tuple[int, int]]) -> np.ndarray:
    found = np.zeros((blocks, blocks), np.uint8)
    for name, tiles in chosen.items():
        for i, j in tiles:
            found[i, j] = {"done": DONE, "flight": FLIGHT, "failed": FAILED}[name]
    return found


def area(svg: str, name: str) -> float:
    """Return the share of the square that one pattern covers."""
    found = re.search(rf'<path fill="url\(#map-{name}\)" d="([^"]*)"', svg)
    runs = re.findall(r"h([\d.e-]+)v([\d.e-]+)h-", found[1]) if found else []
    return sum(float(w) * float(h) for w, h in runs) / 400**2


def test_every_tile_on_and_above_the_diagonal_is_drawn_once_in_its_state() -> None:
    svg = tile_map(states(4, done=[(0, 0), (0, 1), (3, 3)], flight=[(1, 2)], failed=[(0, 3)]))
    covered = {name: area(svg, name) * 16 for name in ("done", "flight", "failed", "absent")}
    assert covered == pytest.approx({"done": 3, "flight": 1, "failed": 1, "absent": 5})
    assert "M0 0h200v100h-200z" in svg  # a run of two tiles is one rectangle


def test_what_is_below_the_diagonal_is_passed_over() -> None:
    lower = states(3, failed=[(2, 0), (1, 0)])
    assert area(tile_map(lower), "failed") == 0
    assert count_tiles(lower)[FAILED] == 0


def test_it_is_well_formed_says_its_numbers_and_is_the_same_each_time() -> None:
    found = states(5, done=[(0, 0)], flight=[(0, 1)], failed=[(2, 4)])
    svg = tile_map(found)
    assert svg == tile_map(found.copy())
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == describe_tiles(found)
    assert describe_tiles(found) == "Map of 15 tiles: 1 stored, 1 in progress, 1 failed, 12 not yet"


@pytest.mark.parametrize(("blocks", "most"), [(7, 3), (10, 4), (980, 200), (201, 200)])
def test_many_tiles_share_a_cell(blocks: int, most: int) -> None:
    random = np.random.default_rng(0)
    found = random.choice([ABSENT, DONE], (blocks, blocks)).astype(np.uint8)
    cells = _cells(found, most)
    place = np.arange(blocks) * most // blocks
    for i, j in random.integers(0, most, (50, 2)).tolist():
        tiles = [
            found[a, b]
            for a in np.flatnonzero(place == i)
            for b in np.flatnonzero(place == j)
            if a <= b
        ]
        if not tiles:
            assert cells[i, j] == 255
        else:
            expected = {0: ABSENT, len(tiles): DONE}.get(sum(t == DONE for t in tiles), PART)
            assert cells[i, j] == expected


def test_one_failed_or_worked_on_tile_marks_its_cell() -> None:
    found = np.full((980, 980), DONE, np.uint8)
    found[3, 500] = FAILED
    found[700, 900] = FLIGHT
    svg = tile_map(found)
    assert area(svg, "failed") * 200**2 == pytest.approx(1)
    assert area(svg, "flight") * 200**2 == pytest.approx(1)
    assert len(svg) < 20_000


def test_the_worst_map_stays_small() -> None:
    random = np.random.default_rng(0)
    assert len(tile_map(random.integers(0, 2, (200, 200)).astype(np.uint8) * DONE)) < 700_000


def test_the_legend_names_what_the_map_can_show() -> None:
    assert legend(parts=True).count("<li>") == 5
    assert legend(parts=False).count("<li>") == 4
    assert "some stored" not in legend(parts=False)
    used = re.findall(r"url\(#(map-\w+)\)", legend(parts=True))
    assert all(f'id="{name}"' in tile_map(states(2)) for name in used)
