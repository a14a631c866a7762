"""Curves, bars and scatter plots of the report, for ``inline_svg``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import words
from ntkdist.display.svg import ACCENT, CATEGORIES, FAINT, FONT_SIZE, INK, OTHER, new_figure
from ntkdist.display.words import number, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 390.0  # near that of a telephone, so that text is never scaled to be small
_MOST_POINTS = 800  # of a curve; more cannot be told apart at this width
_MOST_RANKS = 600  # of a curve over ranks
_BINS = 20
_DASHED = (0, (4, 3))
_DOT = 4.2  # pixels across
_LONGEST_NAME = 14
_APART = 0.08  # least distance between two names, as a share of the picture
#: What is marked: name, marker, index of its colour among the categories.
_MARKS = {"lost": ("worker lost", "X", 3), "failed": ("failed attempt", "v", 1)}
#: More classes cannot be told apart by colour.
MOST_COLORS = len(CATEGORIES)


def loss_bars(values: Sequence[tuple[str, float]]) -> Figure:
    """Draw L(Z) of each set of labels as one bar.

    Args:
        values: (name, L(Z)) of each, from top to bottom.
    """
    figure = new_figure(_WIDTH, 34 * len(values) + 20)
    axes = figure.add_subplot()
    losses = [value for _, value in values]
    low, high = min(0.0, *losses), max(0.0, *losses)
    span = (high - low) or 1.0
    for row, (name, value) in enumerate(values):
        color = {"refurbished": ACCENT, "true": OTHER}.get(name, INK)
        axes.barh(row, value, height=0.6, color=color)
        at = (max(value, 0.0), row)
        axes.annotate(number(value), at, (6, 0), textcoords="offset points", va="center")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlim(low - (0.02 * span if low < 0 else 0), high + 0.22 * span)
    axes.set_yticks(range(len(values)), [name for name, _ in values])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_visible(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def loss_curve(losses: NDArray[np.float64], true: float | None = None) -> Figure:
    """Draw L(Z) over the changed labels."""
    figure = new_figure(_WIDTH, 240)
    axes = figure.add_subplot()
    last = len(losses) - 1
    shown = np.unique(np.linspace(0, last, min(len(losses), _MOST_POINTS)).astype(int))
    axes.plot(shown, losses[shown], color=ACCENT, linewidth=1.8)
    axes.plot([last], [losses[-1]], "o", color=ACCENT, markersize=4)
    if true is not None:
        _named_line(axes, "true labels", 0, true)
    axes.set_xlim(0, max(last, 1) * 1.02)
    _label_axes(axes, "labels changed", "L(Z)")
    return figure


def change_marks(deltas: NDArray[np.float64]) -> Figure:
    """Draw what each change alone does to L(Z), the surest first."""
    figure = new_figure(_WIDTH, 240)
    axes = figure.add_subplot()
    shown = np.unique(np.linspace(0, len(deltas) - 1, min(len(deltas), _MOST_POINTS)).astype(int))
    values = deltas[shown]
    for better, color in ((values <= 0, ACCENT), (values > 0, OTHER)):
        axes.plot(shown[better] + 1, values[better], "o", color=color, markersize=2.5)
    axes.axhline(0.0, color=INK, linewidth=0.8)
    axes.set_xlim(0, (len(deltas) + 1) * 1.02)
    _label_axes(axes, "labels changed, the surest first", "change of L(Z)")
    return figure


def discovery_curve(found: NDArray[np.int64], flagged: int, flagged_share: float) -> Figure:
    """Draw the share of wrong labels found over the labels checked, beside the two extremes."""
    figure = new_figure(_WIDTH, 270)
    axes = figure.add_subplot()
    n, total = len(found) - 1, int(found[-1])
    axes.plot([0, n], [0, 100], color=OTHER, linewidth=1.2, linestyle=_DASHED)
    best = [0, total, n]
    axes.plot(best, [0, 100, 100], color=INK, linewidth=1.2, linestyle=(0, (1, 2)))
    shown = np.unique(np.linspace(0, n, min(n + 1, _MOST_RANKS)).astype(int))
    axes.plot(shown, 100 * found[shown] / total, color=ACCENT, linewidth=1.8)
    if flagged:
        at = (flagged, 100 * flagged_share)
        axes.plot(*at, "o", color=ACCENT, markersize=5)
        _note(axes, f"the {flagged:,} flagged", at, (8, -8), color=ACCENT, va="top")
    _note(axes, "at random", (0.62 * n, 62), (6, -6), va="top")
    axes.set_xlim(0, n)
    axes.set_ylim(0, 104)
    _label_axes(axes, "labels checked", "% of wrong labels found")
    return figure


def quality_histogram(quality: NDArray[np.float64], flagged: NDArray[np.bool_]) -> Figure:
    """Draw how many labels have which quality, on a log scale, those flagged on top.

    Args:
        quality: (N,) 0 to 1.
        flagged: (N,) labels that look wrong.
    """
    figure = new_figure(_WIDTH, 270)
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
        at, heights = middles[some] + side * width, counts[some] - 0.5
        # from 0.5 on, so that a single label is a bar on the log scale
        axes.bar(at, heights, width / 2, bottom=0.5, color=color, label=name)
    _label_axes(axes, "label quality", "labels")
    axes.set_yscale("log")
    axes.set_ylim(0.5, None)
    axes.set_xlim(0, 1)
    axes.minorticks_off()
    axes.legend(loc="upper center")
    return figure


def spectrum(eigenvalues: NDArray[np.float64], ridge: float | None) -> Figure:
    """Draw eigenvalues over their number, both on log scales, and the ridge across them.

    Args:
        eigenvalues: (m,) descending, over the mean of the diagonal; those of 0 are left out.
        ridge: On the same scale; None draws no line.
    """
    figure = new_figure(_WIDTH, 270)
    axes = figure.add_subplot()
    shown = np.unique(np.geomspace(1, len(eigenvalues), _MOST_RANKS).astype(int))
    values = eigenvalues[shown - 1]
    positive = values > np.finfo(np.float64).eps * max(float(values[0]), 0.0)
    axes.plot(shown[positive], values[positive], color=ACCENT, linewidth=1.8)
    axes.set(xscale="log", yscale="log")
    if ridge:
        _named_line(axes, "ridge", 1, ridge)
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
        colored: At most ten classes that have their own colour; the others are grey.
        explained: (c,) shares of the variance.
        first: The component along the horizontal axis, from 0; the next one is vertical.
    """
    figure = new_figure(_WIDTH, 430)
    axes = figure.add_subplot()
    x = points[:, first]
    y = points[:, first + 1] if points.shape[1] > first + 1 else np.zeros(len(points))
    rest = ~np.isin(labels, colored)
    if rest.any():
        _dots(axes, x[rest], y[rest], OTHER, 0.45)
    for color, k in zip(CATEGORIES, colored, strict=False):
        mine = labels == k
        _dots(axes, x[mine], y[mine], color, 0.85)
    axes.plot(x[suspicious], y[suspicious], "o", ms=7, mfc="none", mec=INK, mew=0.8, alpha=0.75)
    _name_clusters(axes, x, y, labels, names, suspicious, colored)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(FAINT)
    axes.set_xlabel(_axis(first, explained))
    axes.set_ylabel(_axis(first + 1, explained))
    _legend(figure, names, colored, bool(rest.any()))
    return figure


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
    style = {"facecolor": "none", "edgecolor": color, "capstyle": "round", "alpha": alpha}
    axes.add_patch(PathPatch(path, linewidth=_DOT, **style))
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
    """Write class names at the medians of their images, unless two names would overlap."""
    apart = _APART * max(float(np.ptp(x)), float(np.ptp(y)))
    taken: list[tuple[float, float]] = []
    for k in colored:
        sure = (labels == k) & ~suspicious
        if not sure.any():
            continue
        # the median, because single images far away do not move it
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
        text += f" ({words.percent(explained[component])} of the variance)"
    return text


def throughput(
    edges: NDArray[Any],
    rates: NDArray[Any],
    unit: str,
    restarts: Sequence[float] = (),
    workers: tuple[NDArray[Any], NDArray[Any]] | None = None,
    marks: Sequence[tuple[float, str]] = (),
) -> Figure:
    """Draw the rate at which the kernel matrix was computed, and the workers below it.

    Args:
        edges: (B+1,) edges of the bins in seconds.
        rates: (B,) rates.
        unit: What they count.
        restarts: Times at which a driver was started again.
        workers: (T,) times at which their number changed and (T,) the numbers from then on;
            None draws no workers.
        marks: (time, ``lost`` or ``failed``) of what went wrong.
    """
    from matplotlib.ticker import MaxNLocator

    scale, name = next(
        (factor, unit)
        for factor, unit in ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
        if edges[-1] >= 2 * factor or factor == 1.0
    )
    figure = new_figure(_WIDTH, 240 if workers is None else 320)
    if workers is None:
        axes, below = figure.add_subplot(), None
    else:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 2))
    axes.stairs(rates, edges / scale, color=ACCENT, linewidth=1.6)
    axes.stairs(rates, edges / scale, color=ACCENT, alpha=0.15, fill=True)
    for at in restarts:
        for one in (axes, below) if below is not None else (axes,):
            one.axvline(at / scale, color=OTHER, linewidth=1.2, linestyle=_DASHED)
    if restarts:
        top = (restarts[-1] / scale, 1.0)
        where = ("data", "axes fraction")
        _note(axes, "started again", top, (4, -4), xycoords=where, va="top")
    axes.set_xlim(0, edges[-1] / scale)
    axes.set_ylim(0, None)
    last = axes if below is None else below
    _label_axes(axes, name if last is axes else "", unit)
    if below is not None and workers is not None:
        times, counts = workers
        ends = np.append(times, max(edges[-1], times[-1])) / scale
        below.stairs(counts, ends, color=OTHER, fill=True, alpha=0.5)
        _mark(below, marks, scale, float(max(counts.max(), 1)))
        _label_axes(below, name, "workers")
        below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return figure


def _mark(axes: Any, marks: Sequence[tuple[float, str]], scale: float, top: float) -> None:
    axes.set_ylim(0, 1.35 * top)
    for kind, (name, marker, place) in _MARKS.items():
        times = [at / scale for at, what in marks if what == kind]
        if times:
            heights = [(1.2 if kind == "lost" else 1.1) * top] * len(times)
            color = CATEGORIES[place]
            axes.plot(times, heights, marker, color=color, ms=6, label=name, clip_on=False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", fontsize=FONT_SIZE - 1)


def _named_line(axes: Axes, name: str, x: float, y: float) -> None:
    """Draw a dashed line across at a height, its name above it from x on."""
    axes.axhline(y, color=OTHER, linewidth=1.2, linestyle=_DASHED)
    _note(axes, name, (x, y), (4, 4))


def _note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[int, int], **style: Any
) -> None:
    """Write a short text at an offset, in points, from a position."""
    style = {"color": OTHER, "fontsize": FONT_SIZE - 1, **style}
    axes.annotate(text, at, offset, textcoords="offset points", **style)


def _label_axes(axes: Axes, x: str, y: str) -> None:
    """Label the axes, and set plain ticks and faint lines behind the curves."""
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
