"""The kernel as pictures: its eigenvalues, and its images in principal components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.plots import named_line
from ntkdist.display.svg import ACCENT, CATEGORIES, FAINT, FONT_SIZE, INK, OTHER, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 600
_DOT = 4.2  # pixels across
_LONGEST_NAME = 14
_APART = 0.08  # of the picture, between two names
#: More classes cannot be told apart by colour.
MOST_COLORS = len(CATEGORIES)


def spectrum(eigenvalues: NDArray[np.float64], ridge: float | None) -> Figure:
    """Draw eigenvalues over their number, both on log scales, and the ridge across them.

    Args:
        eigenvalues: (m,) descending, over the mean of the diagonal; those of 0 are left out.
        ridge: On the same scale; None draws no line.

    Returns:
        The figure.
    """
    figure = new_figure(390, 270)
    axes = figure.add_subplot()
    shown = np.unique(np.geomspace(1, len(eigenvalues), _MOST_POINTS).astype(int))
    values = eigenvalues[shown - 1]
    positive = values > np.finfo(np.float64).eps * max(float(values[0]), 0.0)
    axes.plot(shown[positive], values[positive], color=ACCENT, linewidth=1.8)
    axes.set(xscale="log", yscale="log")
    if ridge:
        named_line(axes, "ridge", 1, ridge)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, ridge / 3), max(high, ridge * 3))
    axes.set_xlim(1, max(2, len(eigenvalues)))
    axes.set_xlabel("number of the eigenvalue")
    axes.set_ylabel("eigenvalue")
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.minorticks_off()
    axes.tick_params(length=3)
    return figure


def components(
    points: NDArray[np.float64],
    labels: NDArray[np.int64],
    names: Sequence[str],
    suspicious: NDArray[np.bool_],
    colored: Sequence[int],
    explained: Sequence[float],
    first: int = 0,
) -> Figure:
    """Draw images in two kernel principal components, coloured by class.

    Args:
        points: (m, c) with c > ``first``; of one component the other axis is 0.
        labels: (m,) classes.
        names: K class names.
        suspicious: (m,) images with a ring.
        colored: At most ten classes that have a colour; the others share a grey.
        explained: (c,) shares of the variance.
        first: The component along the horizontal axis, from 0; the next one is vertical.

    Returns:
        The figure, one unit of both axes as long.
    """
    figure = new_figure(390, 430)
    axes = figure.add_subplot()
    x = points[:, first]
    y = points[:, first + 1] if points.shape[1] > first + 1 else np.zeros(len(points))
    rest = ~np.isin(labels, colored)
    if rest.any():
        _dots(axes, x[rest], y[rest], OTHER, 0.45)
    for color, k in zip(CATEGORIES, colored, strict=False):
        mine = labels == k
        _dots(axes, x[mine], y[mine], color, 0.85)
    axes.plot(
        x[suspicious],
        y[suspicious],
        "o",
        markersize=7,
        markerfacecolor="none",
        markeredgecolor=INK,
        markeredgewidth=0.8,
        alpha=0.75,
    )
    _name_clusters(axes, x, y, labels, names, suspicious, colored)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(FAINT)
    axes.set_xlabel(_axis(first, explained))
    axes.set_ylabel(_axis(first + 1, explained))
    _legend(figure, names, colored, bool(rest.any()))
    return figure


def shorten(name: str, longest: int) -> str:
    """Return a name of at most so many characters."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _dots(axes: Axes, x: NDArray[Any], y: NDArray[Any], color: str, alpha: float) -> None:
    """Draw points as lines of no length with round ends: a tenth of the bytes of markers."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if not len(x):
        return
    vertices = np.repeat(np.column_stack([x, y]), 2, axis=0)
    codes = np.tile([Path.MOVETO, Path.LINETO], len(x))
    path = Path(vertices, codes)
    path.should_simplify = False  # that would drop dots beside others
    patch = PathPatch(
        path,
        facecolor="none",
        edgecolor=color,
        linewidth=_DOT,
        capstyle="round",
        alpha=alpha,
    )
    axes.add_patch(patch)
    axes.update_datalim(vertices)
    axes.autoscale_view()


def _name_clusters(
    axes: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    labels: NDArray[np.int64],
    names: Sequence[str],
    suspicious: NDArray[np.bool_],
    colored: Sequence[int],
) -> None:
    """Write names among the images of their classes, as far as they do not cover one another."""
    apart = _APART * max(float(np.ptp(x)), float(np.ptp(y)))
    taken: list[tuple[float, float]] = []
    for k in colored:
        sure = (labels == k) & ~suspicious
        if not sure.any():
            continue
        # the median lies among the images even where some lie far away
        at = (float(np.median(x[sure])), float(np.median(y[sure])))
        if all(abs(at[0] - a) > apart or abs(at[1] - b) > apart for a, b in taken):
            taken.append(at)
            axes.annotate(
                shorten(names[k], _LONGEST_NAME), at, ha="center", va="center", weight="bold"
            )


def _legend(figure: Figure, names: Sequence[str], colored: Sequence[int], others: bool) -> None:
    from matplotlib.lines import Line2D

    def dot(color: str, label: str) -> Line2D:
        return Line2D([], [], marker="o", linestyle="", color=color, markersize=5, label=label)

    handles = [
        dot(color, shorten(names[k], _LONGEST_NAME))
        for color, k in zip(CATEGORIES, colored, strict=False)
    ]
    if others:
        handles.append(dot(OTHER, "other classes"))
    longest = max(len(str(handle.get_label())) for handle in handles)
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=max(1, 390 // (7 * longest + 28)),
        fontsize=FONT_SIZE - 1,
        handletextpad=0.1,
        columnspacing=0.8,
    )


def _axis(component: int, explained: Sequence[float]) -> str:
    text = f"component {component + 1}"
    if component < len(explained):
        text += f" ({100 * explained[component]:.1f} % of the variance)"
    return text
