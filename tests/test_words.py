"""Words that several packages write: times, sizes, columns."""

from __future__ import annotations

import pytest

from ntkdist import words


@pytest.mark.parametrize(
    ("size", "text"),
    [(5, "5 B"), (1023, "1023 B"), (2048, "2 KiB"), (3 * 2**29, "1.5 GiB"), (2**50, "1,024.0 TiB")],
)
def test_sizes_are_in_the_unit_that_suits_them(size: int, text: str) -> None:
    assert words.format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.041, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (245.2, "4 min 05 s")],
)
def test_a_time_that_still_changes_has_whole_seconds(seconds: float, text: str) -> None:
    assert words.duration(seconds, whole=True) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.34, "12.3 s"), (246, "4.1 min"), (7200, "2 h"), (4.428e6, "1,230 h")],
)
def test_an_estimated_time_has_three_digits(seconds: float, text: str) -> None:
    assert words.rough_duration(seconds) == text


def test_the_cells_of_a_column_line_up() -> None:
    rows = [("name", "n"), ("a", "10"), ("longer", "7")]
    assert words.columns(rows, right=(1,)) == ["name     n", "a       10", "longer   7"]
    assert words.counted(1, "class", "classes") == "1 class"
    assert words.counted(2, "tile") == "2 tiles"
