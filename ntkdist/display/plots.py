"""L(Z) as bars, a curve and by change, for ``inline_svg``; axes as all curves have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.svg import ACCENT, FAINT, FONT_SIZE, INK, OTHER, new_figure
from ntkdist.display.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 800  # more cannot be told apart at this width
_WIDTH = 390.0  # near that of a telephone, so that text is never scaled to be small


def loss_bars(values: Sequence[tuple[str, float]]) -> Figure:
    """Draw L(Z) of each set of labels as one bar.

    Args:
        values: (name, L(Z)) of each, from top to bottom.

    Returns:
        The figure.
    """
    figure = new_figure(_WIDTH, 34 * len(values) + 20)
    axes = figure.add_subplot()
    losses = [value for _, value in values]
    low, high = min(0.0, *losses), max(0.0, *losses)
    span = (high - low) or 1.0
    for row, (name, value) in enumerate(values):
        color = {"refurbished": ACCENT, "true": OTHER}.get(name, INK)
        axes.barh(row, value, height=0.6, color=color)
        axes.annotate(
            number(value),
            (max(value, 0.0), row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlim(low - (0.02 * span if low < 0 else 0), high + 0.22 * span)
    axes.set_yticks(range(len(values)), [name for name, _ in values])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_visible(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def loss_curve(losses: NDArray[np.float64], true: float | None = None) -> Figure:
    """Draw L(Z) over the changed labels.

    Args:
        losses: (S+1,) L(Z) before the first and after each change.
        true: L(Z) of the true labels where they are known.

    Returns:
        The figure.
    """
    figure = new_figure(_WIDTH, 240)
    axes = figure.add_subplot()
    last = len(losses) - 1
    shown = np.unique(np.linspace(0, last, min(len(losses), _MOST_POINTS)).astype(int))
    axes.plot(shown, losses[shown], color=ACCENT, linewidth=1.8)
    axes.plot([last], [losses[-1]], "o", color=ACCENT, markersize=4)
    if true is not None:
        named_line(axes, "true labels", 0, true)
    axes.set_xlim(0, max(last, 1) * 1.02)
    quiet(axes, "labels changed", "L(Z)")
    return figure


def change_marks(deltas: NDArray[np.float64]) -> Figure:
    """Draw what each change alone does to L(Z), the surest first.

    Args:
        deltas: (S,) L(Z) after less before, at least one.

    Returns:
        The figure.
    """
    figure = new_figure(_WIDTH, 240)
    axes = figure.add_subplot()
    shown = np.unique(np.linspace(0, len(deltas) - 1, min(len(deltas), _MOST_POINTS)).astype(int))
    values = deltas[shown]
    for better, color in ((values <= 0, ACCENT), (values > 0, OTHER)):
        axes.plot(shown[better] + 1, values[better], "o", color=color, markersize=2.5)
    axes.axhline(0.0, color=INK, linewidth=0.8)
    axes.set_xlim(0, (len(deltas) + 1) * 1.02)
    quiet(axes, "labels changed, the surest first", "change of L(Z)")
    return figure


def named_line(axes: Axes, name: str, x: float, y: float) -> None:
    """Draw a dashed line across at a height, its name above it from x on."""
    axes.axhline(y, color=OTHER, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.annotate(
        name,
        (x, y),
        xytext=(4, 4),
        textcoords="offset points",
        color=OTHER,
        fontsize=FONT_SIZE - 1,
    )


def quiet(axes: Axes, x: str, y: str) -> None:
    """Name the axes, and set plain ticks and faint lines behind the curves."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=x.startswith("labels")))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_tick))


def _tick(value: float, _position: int | None = None) -> str:
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}".replace("-", "−")
    return number(value, 4)
