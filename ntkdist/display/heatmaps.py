"""The kernel matrix and the class matrices Z as pictures with axes, for ``inline_svg``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.svg import CELL, FAINT, FONT_SIZE, INK, OTHER, new_figure
from ntkdist.display.words import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NEGATIVE, _POSITIVE = "#3f7fca", "#d0661f"  # legible on white and on near black
_SURE = "#1f5aa3"
_DARK = 0.78  # share from which on white letters stand out more than the page's ink
_MOST_NAMES = 16
_MOST_DECIMALS = 10  # classes whose cells are wide enough for a decimal
_FAINTEST = 0.01  # least share of a class that the strongest colour stands for
_LONGEST_NAME = 12
_MOST_LINES = 30
_SHOWN = (2.0, 98.0)  # percentiles; the diagonal would take most of the colour scale


def gram(matrix: NDArray[Any], boundaries: Sequence[float], names: Sequence[str]) -> Figure:
    """Draw the kernel matrix with its images ordered by class.

    Args:
        matrix: (m, m) averaged entries.
        boundaries: K+1 positions in bins between which each class lies.
        names: K class names.
    """
    low, high = shown_range(matrix)
    return _by_image(matrix, boundaries, names, "white", cmap="viridis", vmin=low, vmax=high)


def centred_gram(matrix: NDArray[Any], boundaries: Sequence[float], names: Sequence[str]) -> Figure:
    """Draw the kernel matrix with the mean of every row and column taken out.

    Args:
        matrix: (m, m) averaged entries.
        boundaries: K+1 positions in bins between which each class lies.
        names: K class names.

    Source:
        Schölkopf, Smola and Müller 1998, the centred kernel; here of the averaged matrix.
    """
    rows = matrix.mean(axis=1, keepdims=True, dtype=np.float64)
    columns = matrix.mean(axis=0, keepdims=True, dtype=np.float64)
    centred = matrix - rows - columns + rows.mean()
    limit = max(abs(x) for x in shown_range(centred))
    return _by_image(centred, boundaries, names, INK, cmap=_around_zero(), vmin=-limit, vmax=limit)


def shown_range(matrix: NDArray[Any]) -> tuple[float, float]:
    """Return the values at the ends of the colour scale of a kernel matrix."""
    finite = matrix[np.isfinite(matrix)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(x) for x in np.percentile(finite, _SHOWN))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def class_matrix(Z: NDArray[Any], names: Sequence[str], limit: float) -> Figure:
    """Draw one class matrix: zero is transparent, and the diagonal is not coloured.

    Args:
        Z: (K, K) class matrix.
        names: K class names.
        limit: The value of the strongest colour, the same for all matrices of a page.
    """
    figure = new_figure(340, 300)
    axes = figure.add_subplot()
    K = len(Z)
    off = np.array(Z, dtype=np.float64)
    np.fill_diagonal(off, 0.0)
    image = axes.imshow(
        off, cmap=_around_zero(), vmin=-limit, vmax=limit, interpolation="none", extent=(0, K, K, 0)
    )
    _draw_grid(axes, K)
    axes.plot([0, K], [0, K], color=INK, linewidth=0.8, alpha=0.6)
    if len(names) == K:
        _name_classes(axes, np.arange(K) + 0.5, names)
    _finish(figure, axes, image)
    return figure


def transition(
    T: NDArray[np.float64], names: Sequence[str], circled: Sequence[tuple[int, int]]
) -> Figure:
    """Draw how often a class (rows) has which label (columns); only wrong labels are coloured.

    Args:
        T: (K, K) P(given label | true class).
        names: K class names.
        circled: Cells to mark where they are too small for letters.
    """
    from matplotlib.ticker import FuncFormatter

    K = len(T)
    lettered = is_lettered(K)
    figure = new_figure(390, 390 if lettered else 345)
    axes = figure.add_subplot()
    off = np.array(T, dtype=np.float64)
    np.fill_diagonal(off, 0.0)
    limit = max(float(off.max()), _FAINTEST)
    image = axes.imshow(
        100 * off, cmap=_from_nothing(), vmin=0, vmax=100 * limit, interpolation="none",
        extent=(0, K, K, 0),
    )  # fmt: skip
    _draw_grid(axes, K)
    if lettered:
        _letter_shares(axes, T, limit)
    else:
        axes.plot([0, K], [0, K], color=INK, linewidth=0.8, alpha=0.6)
        around = max(8.0, 400.0 / K)  # the diagonal of a cell, or what is seen among small ones
        for k, d in circled:
            axes.plot(
                [d + 0.5],
                [k + 0.5],
                "o",
                markersize=around,
                mfc="none",
                mec=INK,
                mew=0.9,
                clip_on=False,
            )
    if len(names) == K:
        _name_classes(axes, np.arange(K) + 0.5, names)
    axes.set_xlabel("given label")
    axes.set_ylabel("true class")
    if lettered:
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    else:
        bar = _finish(figure, axes, image)
        bar.formatter = FuncFormatter(lambda value, _: f"{value:g} %")
        bar.update_ticks()
    return figure


def _draw_grid(axes: Axes, K: int) -> None:
    """Draw lines between the cells, unless there are so many that they hide them."""
    if K <= _MOST_LINES:
        axes.hlines(range(K + 1), 0, K, color=FAINT, linewidth=0.6)
        axes.vlines(range(K + 1), 0, K, color=FAINT, linewidth=0.6)


def is_lettered(K: int) -> bool:
    """Return whether cells of K classes are large enough for their values."""
    return K <= _MOST_NAMES


def _letter_shares(axes: Axes, T: NDArray[np.float64], limit: float) -> None:
    """Write shares into their cells in percent, where they do not round to zero."""
    digits = 1 if len(T) <= _MOST_DECIMALS else 0
    for k, d in np.ndindex(*T.shape):
        right = k == d
        text = f"{100 * T[k, d]:.{0 if right else digits}f}"
        if float(text) == 0:
            continue
        color = "#ffffff" if T[k, d] > _DARK * limit else CELL
        axes.text(
            d + 0.5, k + 0.5, text, ha="center", va="center", color=OTHER if right else color,
            fontsize=FONT_SIZE - 2,
        )  # fmt: skip


def confusion(counts: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Draw how often images of a class (rows) are taken for another, as shares of the row.

    Args:
        counts: (K, K) images of class k taken for class d.
        names: K class names.
    """
    figure = new_figure(390, 390)
    axes = figure.add_subplot()
    K = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap=_from_nothing(), vmin=0, vmax=1, extent=(0, K, K, 0))
    if K <= _MOST_NAMES:
        for k, d in np.argwhere(counts > 0):
            color = "#ffffff" if shares[k, d] > _DARK else CELL
            axes.text(
                d + 0.5, k + 0.5, f"{counts[k, d]:,}", ha="center", va="center", color=color,
                fontsize=FONT_SIZE - 2,
            )  # fmt: skip
    _name_classes(axes, np.arange(K) + 0.5, names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(FAINT)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    return figure


def _by_image(
    matrix: NDArray[Any],
    boundaries: Sequence[float],
    names: Sequence[str],
    line: str,
    **colors: Any,
) -> Figure:
    figure = new_figure(390, 345)
    axes = figure.add_subplot()
    m = len(matrix)
    image = axes.imshow(matrix, interpolation="none", extent=(0, m, m, 0), **colors)
    edges = np.asarray(boundaries, dtype=np.float64)
    width = 0.8 if len(names) <= _MOST_LINES else 0.3
    for edge in edges[(edges > 0) & (edges < m)]:
        axes.axhline(edge, color=line, alpha=0.6, linewidth=width)
        axes.axvline(edge, color=line, alpha=0.6, linewidth=width)
    if len(edges) == len(names) + 1:
        _name_classes(axes, (edges[1:] + edges[:-1]) / 2, names)
    _finish(figure, axes, image)
    return figure


def _from_nothing() -> Any:
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    ends = [(0.0, to_rgba(_SURE, 0.0)), (1.0, to_rgba(_SURE))]
    return LinearSegmentedColormap.from_list("from nothing", ends)


def _around_zero() -> Any:
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    # zero is transparent, so that it fades into a light and into a dark page alike
    return LinearSegmentedColormap.from_list(
        "around zero",
        [
            (0.0, to_rgba(_NEGATIVE)),
            (0.5, to_rgba(_NEGATIVE, 0.0)),
            (0.5, to_rgba(_POSITIVE, 0.0)),
            (1.0, to_rgba(_POSITIVE)),
        ],
    )


def between_limit(matrices: Sequence[NDArray[Any]]) -> float:
    """Return the largest |Z_kd|, k ≠ d, of several class matrices; 1 if there is none."""
    largest = 0.0
    for Z in matrices:
        off = np.abs(Z[~np.eye(len(Z), dtype=bool)])
        largest = max(largest, float(np.max(off[np.isfinite(off)], initial=0.0)))
    return largest or 1.0


def _name_classes(axes: Axes, middles: NDArray[Any], names: Sequence[str]) -> None:
    step = -(-len(names) // _MOST_NAMES)
    short = [shorten(name, _LONGEST_NAME) for name in names]
    upright = max((len(x) for x in short), default=0) > 2
    axes.set_xticks(middles[::step], short[::step], rotation=90 if upright else 0)
    axes.set_yticks(middles[::step], short[::step])


def _finish(figure: Figure, axes: Axes, image: Any) -> Any:
    """Remove the frame of the axes, add the colour bar and return it."""
    axes.set_anchor("NW")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=28, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    bar.locator = _few_ticks()
    bar.update_ticks()
    return bar


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)
