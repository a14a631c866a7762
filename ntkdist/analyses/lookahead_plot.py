"""One picture of active learning: accuracy over labels, for each way of asking for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.svg import FONT_SIZE

_BASELINE = "random"  # drawn in black, behind the others' colours


def draw_active_learning(
    curves: Mapping[str, NDArray[np.float64]], counts: NDArray[np.int64], title: str, path: str
) -> None:
    """Write an SVG file with the mean over seeds of each criterion, and the range of its seeds.

    Args:
        curves: Criterion → (seeds, R+1) accuracies, 0 to 1.
        counts: (R+1,) labelled images.
        title: What was trained.
        path: File to write; it is there whole or not at all.
    """
    import matplotlib
    from matplotlib.figure import Figure

    small = FONT_SIZE - 3
    with matplotlib.rc_context({"svg.hashsalt": "ntkdist", "text.parse_math": False}):
        figure = Figure(figsize=(6.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        plot_active_learning(axes, curves, counts, small)
        axes.set_title(title, fontsize=small)
        part = f"{path}.part"
        figure.savefig(part, format="svg", metadata={"Date": None})
    os.replace(part, path)


def plot_active_learning(
    axes: Any,
    curves: Mapping[str, NDArray[np.float64]],
    counts: NDArray[np.int64],
    small: float,
) -> None:
    """Draw the mean and the range of each criterion over labels into axes.

    Args:
        axes: Of Matplotlib.
        curves: Criterion → (seeds, R+1) accuracies, 0 to 1.
        counts: (R+1,) labelled images.
        small: Size of letters, in points.
    """
    from matplotlib.ticker import MaxNLocator

    others = [name for name in curves if name != _BASELINE]
    for name, accuracy in curves.items():
        color = "black" if name == _BASELINE else f"C{others.index(name)}"
        shown = 100 * accuracy
        axes.plot(counts, shown.mean(axis=0), "o-", color=color, ms=3, lw=1.4, label=name)
        axes.fill_between(
            counts, shown.min(axis=0), shown.max(axis=0), color=color, alpha=0.12, lw=0
        )
    axes.set_xlabel("labelled images", fontsize=small)
    axes.set_ylabel("held-out images that are right, %", fontsize=small)
    axes.tick_params(labelsize=small)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.legend(fontsize=small, frameon=False, loc="lower right")
