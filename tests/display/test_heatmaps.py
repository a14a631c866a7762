from __future__ import annotations

import numpy as np
import pytest

from ntkdist.display import heatmaps
from ntkdist.display.svg import CELL, OTHER, figure_settings, inline_svg


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


def test_the_noise_matrix_is_coloured_by_its_wrong_labels_and_lettered_in_percent() -> None:
    T = np.array([[0.9, 0.0, 0.1], [0.25, 0.75, 0.0], [0.0004, 0.1, 0.8996]])
    with figure_settings():
        figure = heatmaps.transition(T, names(3), [(1, 0)])
        axes = figure.axes[0]
        shown = np.asarray(axes.images[0].get_array())
        letters = {
            tuple(round(x - 0.5) for x in text.get_position()[::-1]): text for text in axes.texts
        }
        said = {cell: text.get_text() for cell, text in letters.items()}
        muted = {letters[k, k].get_color() for k in range(3)}
    np.testing.assert_allclose(shown, 100 * (T - np.diag(np.diagonal(T))))
    assert axes.images[0].get_clim() == (0, 25)
    diagonal = {(0, 0): "90", (1, 1): "75", (2, 2): "90"}
    assert said == diagonal | {(0, 2): "10.0", (1, 0): "25.0", (2, 1): "10.0"}
    assert muted == {OTHER}
    assert letters[1, 0].get_color() == "#ffffff"
    assert letters[0, 2].get_color() == CELL
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "given label")
    assert len(figure.axes) == 1
    np.testing.assert_array_equal(np.diagonal(T), [0.9, 0.75, 0.8996])


def test_faint_noise_is_not_drawn_as_strong() -> None:
    T = np.array([[0.9995, 0.0005], [0.0, 1.0]])
    with figure_settings():
        image = heatmaps.transition(T, names(2), []).axes[0].images[0]
    assert image.get_clim() == (0, 1)


@pytest.mark.parametrize(("K", "lettered"), [(2, True), (16, True), (17, False), (100, False)])
def test_cells_too_small_for_letters_are_circled(K: int, lettered: bool) -> None:
    T = np.full((K, K), 0.1 / (K - 1))
    np.fill_diagonal(T, 0.9)
    with figure_settings():
        figure = heatmaps.transition(T, names(K), [(1, 0), (0, 1)])
        axes = figure.axes[0]
        circles = [line for line in axes.lines if line.get_marker() == "o"]
    assert bool(axes.texts) == lettered
    assert len(circles) == (0 if lettered else 2)
    assert len(figure.axes) == (1 if lettered else 2)  # with a scale of the colours
    assert len(axes.get_xticks()) <= 16
    svg = inline_svg("x", "alt", heatmaps.transition, T, names(K), [(1, 0)])
    assert len(svg) < 200_000


@pytest.mark.slow(but="2-nan")
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
