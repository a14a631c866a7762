"""One picture of gaps over width, with fitted lines and the slope −1/2."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.svg import FONT_SIZE

_COLORS = ("C0", "C2", "C3", "C4")


@dataclass(frozen=True, eq=False)
class Gap:
    """One measure over widths.

    Attributes:
        title: What it is.
        values: (D,) above 0.
        fitted: (D,) of the line through them.
        exponent: Its slope in logarithms.
    """

    title: str
    values: NDArray[np.float64]
    fitted: NDArray[np.float64]
    exponent: float


def plot_gaps(axes: Any, widths: NDArray[np.int64], gaps: Sequence[Gap], size: float) -> None:
    """Draw measures over width in logarithms, each with its line; dashes have the slope −1/2.

    Args:
        axes: Of Matplotlib.
        widths: (D,).
        gaps: At least one.
        size: Of letters, in points.
    """
    for gap, color in zip(gaps, _COLORS, strict=False):
        label = f"{gap.title}: {gap.exponent:.2f}"
        axes.plot(widths, gap.values, "o", color=color, ms=4, label=label)
        axes.plot(widths, gap.fitted, "-", color=color, lw=1)
    middle = np.exp(np.log(widths).mean())
    for number, gap in enumerate(gaps):
        level = np.exp(np.log(gap.values).mean())
        axes.plot(
            widths, level * (widths / middle) ** -0.5, "--", color="0.55", lw=0.9, zorder=1,
            label=None if number else "slope −1/2",
        )  # fmt: skip
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(widths, [str(width) for width in widths], fontsize=size)
    axes.minorticks_off()
    axes.tick_params(labelsize=size)
    axes.set_xlabel("width", fontsize=size)
    axes.legend(fontsize=size - 1, frameon=False)


def draw_widths(widths: NDArray[np.int64], gaps: Sequence[Gap], path: str) -> None:
    """Write an SVG file of gaps over width.

    Args:
        widths: (D,).
        gaps: At least one.
        path: File to write; it is there whole or not at all.
    """
    import matplotlib
    from matplotlib.figure import Figure

    small = FONT_SIZE - 3
    with matplotlib.rc_context({"svg.hashsalt": "ntkdist", "text.parse_math": False}):
        figure = Figure(figsize=(5.8, 4.4), layout="constrained")
        axes = figure.add_subplot()
        plot_gaps(axes, widths, gaps, small)
        axes.set_ylabel("distance", fontsize=small)
        axes.set_title("networks of finite width: distances and their exponents", fontsize=small)
        part = f"{path}.part"
        figure.savefig(part, format="svg", metadata={"Date": None})
    os.replace(part, path)
