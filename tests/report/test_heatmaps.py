from __future__ import annotations

import numpy as np
import pytest

from ntkdist.report import heatmaps
from ntkdist.report.svg import figure_settings, inline_svg


def names(K: int) -> list[str]:
    return [f"class {k}" for k in range(K)]


def test_the_limit_is_the_largest_entry_between_classes() -> None:
    a = np.array([[100.0, -3.0], [2.0, 50.0]])
    b = np.array([[1.0, np.nan], [2.5, 1.0]])
    assert heatmaps.between_limit([a, b]) == 3.0
    assert heatmaps.between_limit([np.array([[7.0]])]) == 1.0
    assert heatmaps.between_limit([]) == 1.0


def test_class_matrices_are_centred_at_zero_with_an_open_diagonal() -> None:
    Z = np.array([[100.0, -3.0], [2.0, 50.0]])
    with figure_settings():
        image = heatmaps.class_matrix(Z, names(2), 3.0).axes[0].images[0]
        shown = np.asarray(image.get_array())
    np.testing.assert_array_equal(shown, [[0, -3], [2, 0]])
    assert image.get_clim() == (-3.0, 3.0)
    assert image.cmap(0.5)[3] == pytest.approx(0.0, abs=0.02)
    assert Z[0, 0] == 100.0


def test_the_centred_matrix_has_no_row_or_column_means() -> None:
    matrix = np.random.default_rng(0).uniform(1, 2, (12, 12)).astype(np.float32)
    with figure_settings():
        image = heatmaps.centred_gram(matrix, [0, 5, 12], names(2)).axes[0].images[0]
        shown = np.asarray(image.get_array())
        low, high = image.get_clim()
    np.testing.assert_allclose(shown.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(shown.mean(1), 0, atol=1e-6)
    assert low == -high


def test_class_boundaries_are_drawn_between_the_classes_only() -> None:
    with figure_settings():
        axes = heatmaps.gram(np.eye(10), [0.0, 2.5, 7.0, 10.0], names(3)).axes[0]
        drawn = sorted({float(np.ravel(line.get_xdata())[0]) for line in axes.lines} - {0.0})
        ticks = list(axes.get_yticks())
    assert drawn == [2.5, 7.0]
    assert ticks == pytest.approx([1.25, 4.75, 8.5])


@pytest.mark.parametrize(("K", "fill"), [(1, 0.0), (2, np.nan), (17, np.nan), (100, 0.0)])
def test_any_number_of_classes_and_empty_values_can_be_drawn(K: int, fill: float) -> None:
    matrix = np.full((K, K), fill)
    bounds = np.arange(K + 1).astype(float)
    for draw, given in (
        (heatmaps.gram, (matrix, bounds, names(K))),
        (heatmaps.centred_gram, (matrix, bounds, names(K))),
        (heatmaps.class_matrix, (matrix, names(K), 1.0)),
    ):
        assert inline_svg("x", "alt", draw, *given).startswith("<svg")
