"""How many wrong labels one finds by checking those flagged, or all in order of quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.svg import ACCENT, FONT_SIZE, INK, OTHER, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_POINTS = 600
_BINS = 20


@dataclass(frozen=True, eq=False)
class Discovery:
    """Wrong labels found by checking, in the order of quality and among those flagged.

    The flagged labels need not be the first in that order: a label is flagged by the class that
    is suggested for it, ordered by the probability of the one it has.

    Attributes:
        found: (N+1,) wrong labels found among the first 0 to N, the most suspicious first.
        flagged: How many labels are flagged.
        flagged_wrong: How many of these are wrong.
    """

    found: NDArray[np.int64]
    flagged: int
    flagged_wrong: int

    @classmethod
    def of(
        cls,
        quality: NDArray[np.float64],
        wrong: NDArray[np.bool_],
        flagged: NDArray[np.bool_],
    ) -> Discovery | None:
        """Order labels by quality, and count those flagged.

        Args:
            quality: (N,) low = suspicious.
            wrong: (N,) which labels are wrong.
            flagged: (N,) which look wrong.

        Returns:
            The discovery; None if no label is wrong.
        """
        if not wrong.any():
            return None
        order = np.argsort(quality, kind="stable")
        found = np.concatenate([[0], np.cumsum(wrong[order])]).astype(np.int64)
        return cls(found, int(flagged.sum()), int((flagged & wrong).sum()))

    @property
    def total(self) -> int:
        """How many labels are wrong."""
        return int(self.found[-1])

    @property
    def images(self) -> int:
        """N."""
        return len(self.found) - 1

    def share(self, checked: int) -> float:
        """Return which share of the wrong labels is among the first so many in order."""
        return float(self.found[checked] / self.total)

    @property
    def flagged_share(self) -> float:
        """Which share of the wrong labels is among those flagged."""
        return self.flagged_wrong / self.total

    def checks_for(self, share: float) -> int:
        """Return how many labels to check for a share of the wrong ones, above 0 and at most 1."""
        return int(np.searchsorted(self.found, np.ceil(share * self.total)))


def discovery_curve(discovery: Discovery) -> Figure:
    """Draw the share of wrong labels found over the labels checked, beside the two extremes.

    Args:
        discovery: The order by quality, drawn as a curve, and those flagged, if any, drawn as a
            dot.

    Returns:
        The figure.
    """
    from ntkdist.display.plots import quiet

    figure = new_figure(390, 270)
    axes = figure.add_subplot()
    n = discovery.images
    axes.plot([0, n], [0, 100], color=OTHER, linewidth=1.2, linestyle=(0, (4, 3)))
    best = [0, discovery.total, n]
    axes.plot(best, [0, 100, 100], color=INK, linewidth=1.2, linestyle=(0, (1, 2)))
    shown = np.unique(np.linspace(0, n, min(n + 1, _MOST_POINTS)).astype(int))
    axes.plot(shown, 100 * discovery.found[shown] / discovery.total, color=ACCENT, linewidth=1.8)
    if discovery.flagged:
        at = (discovery.flagged, 100 * discovery.flagged_share)
        axes.plot(*at, "o", color=ACCENT, markersize=5)
        axes.annotate(
            f"the {discovery.flagged:,} flagged",
            at,
            xytext=(8, -8),
            textcoords="offset points",
            va="top",
            color=ACCENT,
            fontsize=FONT_SIZE - 1,
        )
    axes.annotate(
        "at random",
        (0.62 * n, 62),
        xytext=(6, -6),
        textcoords="offset points",
        va="top",
        color=OTHER,
        fontsize=FONT_SIZE - 1,
    )
    axes.set_xlim(0, n)
    axes.set_ylim(0, 104)
    quiet(axes, "labels checked", "% of wrong labels found")
    return figure


def quality_histogram(quality: NDArray[np.float64], flagged: NDArray[np.bool_]) -> Figure:
    """Draw how many labels have which quality, on a log scale, those flagged on top.

    Args:
        quality: (N,) 0 to 1.
        flagged: (N,) labels that look wrong.

    Returns:
        The figure.
    """
    from ntkdist.display.plots import quiet

    figure = new_figure(390, 270)
    axes = figure.add_subplot()
    edges = np.linspace(0, 1, _BINS + 1)
    width = 0.9 / _BINS
    middles = (edges[1:] + edges[:-1]) / 2
    counted = [np.histogram(quality[which], edges)[0] for which in (~flagged, flagged)]
    for side, counts, color, name in (
        (-0.25, counted[0], OTHER, "kept"),
        (0.25, counted[1], ACCENT, "flagged"),
    ):
        some = counts > 0
        axes.bar(
            middles[some] + side * width,
            counts[some] - 0.5,
            width / 2,
            bottom=0.5,  # so that a single label is a bar on the log scale
            color=color,
            label=name,
        )
    quiet(axes, "label quality", "labels")
    axes.set_yscale("log")
    axes.set_ylim(0.5, None)
    axes.set_xlim(0, 1)
    axes.minorticks_off()
    axes.legend(loc="upper center")
    return figure
