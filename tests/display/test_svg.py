from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from ntkdist.display.svg import ACCENT, inline_svg, new_figure, power, svg_file


def draw(title: str = "t") -> Figure:
    figure = new_figure(200, 100)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], "o-", color=ACCENT)
    axes.imshow(np.eye(3), interpolation="none")
    axes.set_title(title)
    return figure


def test_colours_are_left_to_the_page() -> None:
    svg = inline_svg("a", "alt", draw)
    assert "var(--accent)" in svg
    assert "var(--figure-ink)" in svg
    assert "#00000" not in svg
    assert "font-family" not in svg


def test_nothing_points_outside() -> None:
    svg = inline_svg("a", "alt", draw)
    assert "://" not in svg
    assert "<style" not in svg
    assert "<metadata" not in svg
    for target in re.findall(r'href="([^"]*)"', svg):
        assert target.startswith(("#", "data:image/png;base64,"))


def test_ids_begin_with_the_figure_and_are_all_used() -> None:
    svg = inline_svg("first", "alt", draw)
    ids = re.findall(r'\bid="([^"]*)"', svg)
    used = set(re.findall(r"#(first-[\w.-]+)", svg))
    assert ids
    assert len(ids) == len(set(ids))
    assert set(ids) == used


def test_text_is_escaped_and_not_read_as_a_formula() -> None:
    svg = inline_svg("a", 'x" onload="y', draw, "<b>$x_1$ 鳥")
    assert "&lt;b&gt;$x_1$ 鳥" in svg
    assert "<b>" not in svg
    assert 'onload="y' not in svg


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert inline_svg("a", "alt", draw) == inline_svg("a", "alt", draw)


def test_the_users_settings_neither_matter_nor_change(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = inline_svg("a", "alt", draw)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 33.0)
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "path")
    assert inline_svg("a", "alt", draw) == plain
    assert matplotlib.rcParams["font.size"] == 33.0
    assert matplotlib.rcParams["svg.fonttype"] == "path"


def test_colours_of_other_pictures_become_those_of_the_page() -> None:
    def lines() -> Figure:
        axes = new_figure(200, 100).add_subplot()
        for color in ("C0", "C3", "black", "0.6", "0.8", "white"):
            axes.plot([0, 1], color=color)
        return axes.figure

    svg = inline_svg("a", "alt", lines)
    for variable in ("--c0", "--c3", "--figure-ink", "--other", "--line"):
        assert f"stroke:var({variable})" in svg
    assert "stroke:#ffffff" in svg  # stays, for letters on dark cells


def test_paths_are_told_to_a_hundredth() -> None:
    svg = inline_svg("a", "alt", draw)
    assert not re.search(r' d="[^"]*\.\d{3}', svg)
    assert not re.search(r' d="[^"]*\d\.(?:[ "])', svg)


def test_log_axes_have_no_formulas() -> None:
    def curve() -> Figure:
        figure = new_figure(300, 200)
        figure.add_subplot().loglog([1e-8, 1.0, 1e7], [1, 2, 3])
        return figure

    svg = inline_svg("a", "alt", curve)
    assert "mathdefault" not in svg
    assert "10⁻⁸" in svg


def test_short_log_axes_have_ticks_between_and_chosen_ticks_stay() -> None:
    def curve() -> Figure:
        figure = new_figure(300, 200)
        axes = figure.add_subplot()
        axes.loglog([32, 64, 128], [0.09, 0.2, 0.4])
        axes.set_xticks([32, 64, 128], ["32", "64", "128"])
        return figure

    svg = inline_svg("a", "alt", curve)
    for text in ("32", "64", "128", "0.1", "0.2"):
        assert f">{text}</text>" in svg


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-3, "0.001"), (1.0, "1"), (1e4, "10,000"), (1e5, "10⁵"), (1e-7, "10⁻⁷"), (30.0, "30")],
)
def test_powers_of_ten_are_plain_or_raised(value: float, text: str) -> None:
    assert power(value) == text


def test_dollar_signs_are_a_formula_only_where_it_is_asked_for(tmp_path: Path) -> None:
    drawn = {}
    for math in (True, False):
        with svg_file(str(tmp_path / "f.svg"), 3.0, 2.0, math=math) as figure:
            figure.add_subplot().set_title("$10^{3}$")
        drawn[math] = set(re.findall(r"DejaVuSans-[0-9a-f]+", (tmp_path / "f.svg").read_text()))
    assert len(drawn[False] - drawn[True]) == 4  # $, ^, { and }
