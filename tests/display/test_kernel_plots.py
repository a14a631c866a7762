from __future__ import annotations

import re

import numpy as np
import pytest

from ntkdist.display import kernel_plots
from ntkdist.display.svg import figure_settings, inline_svg


def test_the_ridge_is_drawn_on_the_scale_of_the_eigenvalues() -> None:
    values = np.geomspace(100.0, 1.0, 50)
    with figure_settings():
        axes = kernel_plots.spectrum(values, 1e-3).axes[0]
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
        axes = kernel_plots.spectrum(np.array([5.0, 1.0, 0.0]), None).axes[0]
        assert np.asarray(axes.lines[0].get_ydata()).tolist() == [5.0, 1.0]


def test_every_image_has_a_dot_and_every_suspicious_one_a_ring() -> None:
    rng = np.random.default_rng(0)
    n, K = 900, 3
    points, labels = rng.normal(size=(n, 4)), rng.integers(0, K, n)
    suspicious = rng.uniform(size=n) < 0.1
    names = ["a", "<i>b</i>", "c" * 40]
    args = (points, labels, names, suspicious, [0, 1], (0.5, 0.25, 0.1, 0.1))
    svg = inline_svg("k", "alt", kernel_plots.components, *args)
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
    assert f"component {first + 2}" in inline_svg("k", "alt", kernel_plots.components, *args)
