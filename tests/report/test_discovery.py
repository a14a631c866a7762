from __future__ import annotations

import numpy as np
import pytest

from ntkdist.report.discovery import Discovery, discovery_curve, quality_histogram
from ntkdist.report.story import discovery_sentences
from ntkdist.report.svg import figure_settings, inline_svg


def test_labels_are_checked_from_the_lowest_quality_on() -> None:
    quality = np.array([0.9, 0.1, 0.5, 0.2])
    discovery = Discovery.of(quality, np.array([False, True, True, False]))
    assert discovery is not None
    assert discovery.found.tolist() == [0, 1, 1, 2, 2]
    assert (discovery.total, discovery.images) == (2, 4)
    assert [discovery.share(k) for k in range(5)] == [0, 0.5, 0.5, 1, 1]


def test_checks_for_a_share_are_the_fewest_that_reach_it() -> None:
    rng = np.random.default_rng(0)
    quality, wrong = rng.uniform(size=200), rng.uniform(size=200) < 0.3
    discovery = Discovery.of(quality, wrong)
    assert discovery is not None
    for share in (0.1, 0.5, 0.9, 1.0):
        needed = discovery.checks_for(share)
        assert discovery.share(needed) >= share
        assert discovery.share(needed - 1) < share


def test_without_wrong_labels_there_is_nothing_to_discover() -> None:
    assert Discovery.of(np.ones(5), np.zeros(5, bool)) is None


def test_the_sentences_hold_the_order_against_chance() -> None:
    quality = np.arange(100) / 100
    discovery = Discovery.of(quality, quality < 0.2)
    assert discovery is not None
    flagged, needed = discovery_sentences(discovery, 10)
    assert flagged.replace("\u00a0", " ") == (
        "Checking the 10 flagged labels finds 50.0 % of the 20 wrong ones; as many drawn at "
        "random find 10.0 %."
    )
    assert "one checks 18 labels in this order, 90 at random" in needed.replace("\u00a0", " ")
    assert len(discovery_sentences(discovery, 0)) == 1


def test_the_curve_is_drawn_beside_chance_and_the_best_order() -> None:
    quality = np.arange(1000) / 1000
    discovery = Discovery.of(quality, quality < 0.2)
    assert discovery is not None
    with figure_settings():
        axes = discovery_curve(discovery, 100).axes[0]
    chance, best, ours, mark = (np.asarray(line.get_xydata()) for line in axes.lines)
    assert chance.tolist() == [[0, 0], [1000, 100]]
    assert best.tolist() == [[0, 0], [200, 100], [1000, 100]]
    assert ours[-1].tolist() == [1000, 100]
    assert mark.tolist() == [[100, 50]]


def test_a_single_label_is_a_bar_on_the_log_scale() -> None:
    quality = np.array([0.01] + [0.99] * 50)
    with figure_settings():
        axes = quality_histogram(quality, quality < 0.5).axes[0]
    tops = sorted(bar.get_y() + bar.get_height() for bar in axes.patches)
    assert tops == pytest.approx([1, 50])
    assert all(bar.get_height() > 0.2 for bar in axes.patches)
    assert ">flagged</text>" in inline_svg("q", "alt", quality_histogram, quality, quality < 0.5)
