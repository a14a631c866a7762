"""One picture of a sweep: measures of the kernel over the values of one setting."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.svg import FONT_SIZE

_LOG_FROM = 50.0  # measures whose largest is so many times the smallest are drawn over a log axis


def draw_sweep(
    path: str, *, over: str, values: Sequence[str], measures: Mapping[str, NDArray[np.float64]]
) -> None:
    """Write an SVG file with a panel for each measure.

    Args:
        path: File to write; it is there whole or not at all.
        over: What is swept.
        values: V of them, as they were asked for; numbers are drawn where they lie.
        measures: Name and (V,) values of each; what is not finite is left out.
    """
    import matplotlib
    from matplotlib.figure import Figure

    small = FONT_SIZE - 4
    with matplotlib.rc_context({"svg.hashsalt": "ntkdist", "text.parse_math": False}):
        figure = Figure(figsize=(2.9 * len(measures), 2.7), layout="constrained")
        for ax, (name, y) in zip(figure.subplots(1, len(measures)), measures.items(), strict=True):
            plot_measure(ax, values, y, small - 1)
            ax.set_xlabel(over, fontsize=small)
            ax.set_title(name, fontsize=small)
        part = f"{path}.part"
        figure.savefig(part, format="svg", metadata={"Date": None})
    os.replace(part, path)


def plot_measure(ax: Any, values: Sequence[str], y: NDArray[np.float64], small: float) -> None:
    """Draw one measure over the values into axes.

    Args:
        ax: Axes of Matplotlib.
        values: V of them; numbers are drawn where they lie.
        y: (V,) the measure; what is not finite is left out.
        small: Size of letters, in points.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    at, ticks = _places(values)
    shown = np.isfinite(y)
    ax.plot(at[shown], y[shown], "o-", ms=4, color="C0")
    if shown.any() and y[shown].min() > 0 and y[shown].max() > _LOG_FROM * y[shown].min():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    if len(values) > 1:
        pad = 0.05 * (at.max() - at.min())
        ax.set_xlim(at.min() - pad, at.max() + pad)
    ax.set_xticks(at, ticks)
    ax.tick_params(labelsize=small)


def _places(values: Sequence[str]) -> tuple[NDArray[np.float64], list[str]]:
    """Return where values lie: at their size (or its logarithm), else side by side."""
    try:
        at = np.array([float(value) for value in values])
    except ValueError:
        return np.arange(len(values), dtype=float), list(values)
    if len(at) > 1 and at.min() > 0 and at.max() >= 4 * at.min():
        at = np.log2(at)
    if len(np.unique(at)) < len(at):
        at = np.arange(len(values), dtype=float)
    return at, list(values)
