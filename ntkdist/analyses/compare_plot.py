"""One picture of a comparison: how each architecture's kernel lays out the classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.svg import FONT_SIZE

_MOST_POINTS = 800  # of a panel: more lie on one another
_MOST_COLORS = 10  # more cannot be told apart
_MOST_COLUMNS = 4
_EDGE = 2.6  # inches of a panel
_LONGEST_TITLE = 32  # characters that fit over it


@dataclass(frozen=True, eq=False)
class Panel:
    """What one architecture's panel shows.

    Attributes:
        title: Its name.
        accuracy: Leave-one-out accuracy, 0 to 1.
        separation: Ratio of mean distances between and within classes.
        points: (N, 2) the images in the two leading kernel principal components.
    """

    title: str
    accuracy: float
    separation: float
    points: NDArray[np.float64]


def shorten(title: str) -> str:
    """Return a name that fits over a panel; of a long canonical text, its beginning."""
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 2]} …"


def draw_comparison(
    panels: Sequence[Panel], labels: NDArray[np.int64], names: Sequence[str], path: str
) -> None:
    """Write an SVG file with a scatter plot for each architecture, in the given order.

    Of many images as many as can be told apart are shown, of many classes the first ten; the
    sample is the same in every panel. Each panel has a scale of its own: only ratios of distances
    are comparable between kernels.

    Args:
        panels: One for each architecture.
        labels: (N,) class numbers, which give the colours.
        names: (K,) names of the classes.
        path: File to write; it is there whole or not at all.
    """
    import matplotlib
    from matplotlib.figure import Figure

    across = min(len(panels), _MOST_COLUMNS)
    down = -(-len(panels) // across)
    shown = np.random.default_rng(0).permutation(np.flatnonzero(labels < _MOST_COLORS))
    shown = shown[:_MOST_POINTS]
    classes = min(len(names), _MOST_COLORS)
    with matplotlib.rc_context({"svg.hashsalt": "ntkdist", "text.parse_math": False}):
        figure = Figure(figsize=(_EDGE * across, (_EDGE + 0.35) * down + 0.5), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        colors = matplotlib.colormaps["tab10"]
        for axes, panel in zip(grid.flat, panels, strict=False):
            for kind in range(classes):
                x, y = panel.points[shown[labels[shown] == kind]].T
                axes.scatter(x, y, s=6, color=colors(kind), linewidths=0, label=names[kind])
            measures = f"{100 * panel.accuracy:.1f} % right, {panel.separation:.2f} apart"
            axes.set_title(f"{shorten(panel.title)}\n{measures}", fontsize=FONT_SIZE - 3)
            axes.set(xticks=[], yticks=[])
        figure.supxlabel("first kernel principal component", fontsize=FONT_SIZE - 3)
        figure.supylabel("second", fontsize=FONT_SIZE - 3)
        figure.legend(
            *grid[0, 0].get_legend_handles_labels(),
            loc="outside upper center", ncols=min(5, classes), fontsize=FONT_SIZE - 4,
            markerscale=2, frameon=False,
        )  # fmt: skip
        part = f"{path}.part"
        figure.savefig(part, format="svg", metadata={"Date": None})
    os.replace(part, path)
