from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from ntkdist.display.plots import discovery_curve, quality_histogram
from ntkdist.display.svg import figure_settings, inline_svg
from ntkdist.report.findings import Discovery
from ntkdist.report.story import discovery_sentences


def draw(discovery: Discovery) -> Figure:
    return discovery_curve(discovery.found, discovery.flagged, discovery.flagged_share)


def test_labels_are_checked_from_the_lowest_quality_on() -> None:
    quality = np.array([0.9, 0.1, 0.5, 0.2])
    wrong = np.array([False, True, True, False])
    discovery = Discovery.of(quality, wrong, wrong)
    assert discovery is not None
    assert discovery.found.tolist() == [0, 1, 1, 2, 2]
    assert (discovery.total, discovery.images) == (2, 4)
    assert [discovery.share(k) for k in range(5)] == [0, 0.5, 0.5, 1, 1]


def test_checks_for_a_share_are_the_fewest_that_reach_it() -> None:
    rng = np.random.default_rng(0)
    quality, wrong = rng.uniform(size=200), rng.uniform(size=200) < 0.3
    discovery = Discovery.of(quality, wrong, wrong)
    assert discovery is not None
    for share in (0.1, 0.5, 0.9, 1.0):
        needed = discovery.checks_for(share)
        assert discovery.share(needed) >= share
        assert discovery.share(needed - 1) < share


def test_without_wrong_labels_there_is_nothing_to_discover() -> None:
    assert Discovery.of(np.ones(5), np.zeros(5, bool), np.ones(5, bool)) is None


def test_the_sentences_hold_the_order_against_chance() -> None:
    quality = np.arange(100) / 100
    discovery = Discovery.of(quality, quality < 0.2, quality < 0.1)
    assert discovery is not None
    flagged, needed = discovery_sentences(discovery)
    assert flagged.replace("\u00a0", " ") == (
        "Checking the 10 flagged labels finds 10 of the 20 wrong ones (50.0 %); as many drawn at "
        "random find 10.0 %."
    )
    assert needed.replace("\u00a0", " ") == (
        "To find nine tenths of the 20 wrong labels one checks 18 in the order of their quality, "
        "90 at random."
    )
    nothing_flagged = Discovery.of(quality, quality < 0.2, np.zeros(100, bool))
    assert nothing_flagged is not None
    assert len(discovery_sentences(nothing_flagged)) == 1


def test_what_the_flagged_labels_hold_is_counted_among_them_not_among_the_first() -> None:
    quality = np.arange(10) / 10
    wrong = np.isin(np.arange(10), (0, 2, 4))
    discovery = Discovery.of(quality, wrong, np.isin(np.arange(10), (0, 2)))
    assert discovery is not None
    assert discovery.share(2) == pytest.approx(1 / 3)
    assert (discovery.flagged, discovery.flagged_wrong) == (2, 2)
    assert "finds 2 of the 3 wrong ones" in discovery_sentences(discovery)[0].replace("\u00a0", " ")
    with figure_settings():
        axes = draw(discovery).axes[0]
    mark = np.asarray(axes.lines[-1].get_xydata())
    np.testing.assert_allclose(mark, [[2, 200 / 3]])


def test_the_curve_is_drawn_beside_chance_and_the_best_order() -> None:
    quality = np.arange(1000) / 1000
    discovery = Discovery.of(quality, quality < 0.2, quality < 0.1)
    assert discovery is not None
    with figure_settings():
        axes = draw(discovery).axes[0]
    chance, best, ours, mark = (np.asarray(line.get_xydata()) for line in axes.lines)
    assert chance.tolist() == [[0, 0], [1000, 100]]
    assert best.tolist() == [[0, 0], [200, 100], [1000, 100]]
    assert ours[-1].tolist() == [1000, 100]
    assert mark.tolist() == [[100, 50]]


def test_where_none_is_flagged_there_is_no_dot() -> None:
    quality = np.arange(10) / 10
    discovery = Discovery.of(quality, quality < 0.2, np.zeros(10, bool))
    assert discovery is not None
    with figure_settings():
        axes = draw(discovery).axes[0]
    assert len(axes.lines) == 3
    assert [text.get_text() for text in axes.texts] == ["at random"]


def test_a_single_label_is_a_bar_on_the_log_scale() -> None:
    quality = np.array([0.01] + [0.99] * 50)
    with figure_settings():
        axes = quality_histogram(quality, quality < 0.5).axes[0]
    tops = sorted(bar.get_y() + bar.get_height() for bar in axes.patches)
    assert tops == pytest.approx([1, 50])
    assert all(bar.get_height() > 0.2 for bar in axes.patches)
    assert ">flagged</text>" in inline_svg("q", "alt", quality_histogram, quality, quality < 0.5)
