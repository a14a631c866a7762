from __future__ import annotations

import re

import numpy as np
import pytest

from ntkdist.display import plots
from ntkdist.display.svg import figure_settings, inline_svg


def test_bars_are_as_long_as_the_losses_and_start_at_zero() -> None:
    values = [("given", 1.57), ("refurbished", 0.39), ("true", -0.2)]
    with figure_settings():
        axes = plots.loss_bars(values).axes[0]
        lengths = [bar.get_width() for bar in axes.patches]
        texts = [text.get_text() for text in axes.texts]
        low, high = axes.get_xlim()
    assert lengths == pytest.approx([1.57, 0.39, -0.2])
    assert texts == ["1.57", "0.39", "−0.2"]
    assert low < -0.2
    assert high > 1.57


def test_long_curves_are_thinned_but_keep_both_ends() -> None:
    losses = np.linspace(5.0, 1.0, 100_001)
    with figure_settings():
        line = plots.loss_curve(losses, true=0.5).axes[0].lines[0]
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert len(x) <= 800
    assert (x[0], x[-1], y[0], y[-1]) == (0, 100_000, 5.0, 1.0)
    np.testing.assert_allclose(y, losses[x])


@pytest.mark.parametrize(("seconds", "unit"), [(50, "seconds"), (600, "minutes"), (9e4, "hours")])
def test_time_is_told_in_a_fitting_unit(seconds: float, unit: str) -> None:
    edges = np.linspace(0, seconds, 11)
    svg = inline_svg(
        "t", "alt", plots.throughput, edges, np.full(10, 3.0), "entries/s", (seconds / 2,)
    )
    assert f">{unit}</text>" in svg
    assert ">started again</text>" in svg


def test_workers_and_what_went_wrong_are_drawn_below() -> None:
    workers = np.array([0.0, 4.0, 8.0]), np.array([2, 1, 0])
    with figure_settings():
        above, below = plots.throughput(
            np.linspace(0, 10, 11), np.full(10, 3.0), "entries/s", (), workers, [(4.0, "lost")]
        ).axes
        (mark,) = below.lines
        names = [text.get_text() for text in below.get_legend().get_texts()]
        steps = below.patches[0].get_data()
    assert above.get_xlim() == below.get_xlim()
    assert np.asarray(mark.get_xdata()).tolist() == [4.0]
    assert names == ["worker lost"]
    assert steps.values.tolist() == [2, 1, 0]
    assert steps.edges.tolist() == [0, 4, 8, 10]


def test_marks_of_changes_are_coloured_by_whether_they_help() -> None:
    deltas = np.array([-0.5, -0.25, 0.125, -0.0625])
    with figure_settings():
        axes = plots.change_marks(deltas).axes[0]
        better, worse, _ = axes.lines
        np.testing.assert_array_equal(better.get_xdata(), [1, 2, 4])
        np.testing.assert_array_equal(better.get_ydata(), deltas[[0, 1, 3]])
        np.testing.assert_array_equal(worse.get_xdata(), [3])


def test_many_marks_are_thinned_but_keep_both_ends() -> None:
    deltas = np.linspace(-1.0, -0.5, 100_000)
    with figure_settings():
        line = plots.change_marks(deltas).axes[0].lines[0]
        assert len(line.get_xdata()) <= 800
        assert line.get_xdata()[0] == 1
        assert line.get_xdata()[-1] == 100_000


def test_the_ridge_is_drawn_on_the_scale_of_the_eigenvalues() -> None:
    values = np.geomspace(100.0, 1.0, 50)
    with figure_settings():
        axes = plots.spectrum(values, 1e-3).axes[0]
        low, high = axes.get_ylim()
        drawn = np.asarray(axes.lines[0].get_ydata())
        ridge = np.asarray(axes.lines[1].get_ydata())
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    np.testing.assert_allclose(drawn, values)
    assert ridge.tolist() == [1e-3, 1e-3]
    assert low < 1e-3
    assert high >= 100


def test_eigenvalues_lost_in_rounding_are_left_out() -> None:
    with figure_settings():
        axes = plots.spectrum(np.array([5.0, 1.0, 0.0]), None).axes[0]
        assert np.asarray(axes.lines[0].get_ydata()).tolist() == [5.0, 1.0]


def test_every_image_has_a_dot_and_every_suspicious_one_a_ring() -> None:
    rng = np.random.default_rng(0)
    n, K = 900, 3
    points, labels = rng.normal(size=(n, 4)), rng.integers(0, K, n)
    suspicious = rng.uniform(size=n) < 0.1
    names = ["a", "<i>b</i>", "c" * 40]
    args = (points, labels, names, suspicious, [0, 1], (0.5, 0.25, 0.1, 0.1))
    svg = inline_svg("k", "alt", plots.components, *args)
    dots = [d for d in re.findall(r' d="([^"]*)"', svg) if d.count("M") > 50]
    assert sum(d.count("M") for d in dots) == n
    assert sum(d.count("L") for d in dots) == n
    assert svg.count("<use") == suspicious.sum() + 3  # and the legend: two classes and the others
    assert "var(--c0)" in svg
    assert "var(--c1)" in svg
    assert "var(--c2)" not in svg  # the third class shares the grey
    assert "&lt;i&gt;b" in svg
    assert "component 1 (50.0 % of the variance)" in svg


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_few_components_are_drawn_too(columns: int) -> None:
    points = np.random.default_rng(0).normal(size=(5, columns))
    labels, no = np.zeros(5, int), np.zeros(5, bool)
    first = 2 if columns == 3 else 0
    args = (points, labels, ["a"], no, [0], (0.5,) * columns, first)
    assert f"component {first + 2}" in inline_svg("k", "alt", plots.components, *args)
