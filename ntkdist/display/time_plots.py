"""The computation over time: how fast, by how many workers, and what went wrong when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.plots import quiet
from ntkdist.display.svg import ACCENT, CATEGORIES, FONT_SIZE, OTHER, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What is marked: name, marker, place of its colour among the categories.
_MARKS = {"lost": ("worker lost", "X", 3), "failed": ("failed attempt", "v", 1)}


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

    Returns:
        The figure.
    """
    scale, name = next(
        (factor, unit)
        for factor, unit in ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
        if edges[-1] >= 2 * factor or factor == 1.0
    )
    figure = new_figure(390, 240 if workers is None else 320)
    if workers is None:
        axes, below = figure.add_subplot(), None
    else:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 2))
    axes.stairs(rates, edges / scale, color=ACCENT, linewidth=1.6)
    axes.stairs(rates, edges / scale, color=ACCENT, alpha=0.15, fill=True)
    for at in restarts:
        for one in (axes, below) if below is not None else (axes,):
            one.axvline(at / scale, color=OTHER, linewidth=1.2, linestyle=(0, (4, 3)))
    if restarts:
        axes.annotate(
            "started again",
            (restarts[-1] / scale, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -4),
            textcoords="offset points",
            color=OTHER,
            va="top",
            fontsize=FONT_SIZE - 1,
        )
    axes.set_xlim(0, edges[-1] / scale)
    axes.set_ylim(0, None)
    last = axes if below is None else below
    quiet(axes, name if last is axes else "", unit)
    if below is not None and workers is not None:
        times, counts = workers
        ends = np.append(times, max(edges[-1], times[-1])) / scale
        below.stairs(counts, ends, color=OTHER, fill=True, alpha=0.5)
        _mark(below, marks, scale, float(max(counts.max(), 1)))
        quiet(below, name, "workers")
        _whole_numbers(below)
    return figure


def _mark(axes: Any, marks: Sequence[tuple[float, str]], scale: float, top: float) -> None:
    axes.set_ylim(0, 1.35 * top)
    for kind, (name, marker, place) in _MARKS.items():
        times = [at / scale for at, what in marks if what == kind]
        if times:
            height = (1.2 if kind == "lost" else 1.1) * top
            axes.plot(
                times,
                [height] * len(times),
                marker,
                color=CATEGORIES[place],
                markersize=6,
                label=name,
                clip_on=False,
            )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", fontsize=FONT_SIZE - 1)


def _whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
