"""One picture of predictions: confusion, calibration and the ridge they were made with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.svg import FONT_SIZE

_MOST_NAMES = 20  # more cannot be read beside the rows
_LONGEST_NAME = 12


def draw_predictions(
    path: str,
    *,
    confusion: NDArray[np.int64],
    names: Sequence[str],
    bins: NDArray[np.float64],
    ridges: NDArray[np.float64],
    chosen: float,
    title: str,
) -> None:
    """Write an SVG file with three panels.

    Args:
        path: File to write; it is there whole or not at all.
        confusion: (K, K) images of class k (rows) taken for class d (columns).
        names: (K,) of the classes.
        bins: (B, 3) images, mean confidence and accuracy of each bin.
        ridges: (R, 3) ridge, leave-one-out accuracy and squared error of each ridge tried.
        chosen: The ridge that was used.
        title: Over all.
    """
    import matplotlib
    from matplotlib.figure import Figure

    small = FONT_SIZE - 4
    with matplotlib.rc_context({"svg.hashsalt": "ntkdist", "text.parse_math": False}):
        figure = Figure(figsize=(11.4, 3.9), layout="constrained")
        figure.suptitle(title, fontsize=FONT_SIZE - 2)
        left, middle, right = figure.subplots(1, 3)
        _confusion(left, confusion, names, small)
        plot_calibration(middle, bins, small)
        plot_ridges(right, ridges, chosen, small)
        part = f"{path}.part"
        figure.savefig(part, format="svg", metadata={"Date": None})
    os.replace(part, path)


def _confusion(ax: Any, confusion: NDArray[np.int64], names: Sequence[str], small: float) -> None:
    rows = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    ax.imshow(confusion / rows, cmap="Blues", vmin=0, vmax=1)
    K = len(confusion)
    if K <= _MOST_NAMES:
        short = [n if len(n) <= _LONGEST_NAME else f"{n[: _LONGEST_NAME - 1]}…" for n in names]
        ax.set_yticks(range(K), short, fontsize=small)
        ax.set_xticks(range(K), short, fontsize=small, rotation=90)
        for k, d in np.argwhere(confusion > 0):
            dark = confusion[k, d] / rows[k, 0] > 0.5
            ax.text(
                d, k, str(confusion[k, d]), ha="center", va="center", fontsize=small - 1.5,
                color="white" if dark else "black",
            )  # fmt: skip
    ax.set_xlabel("predicted", fontsize=small)
    ax.set_ylabel("label", fontsize=small)


def plot_calibration(ax: Any, bins: NDArray[np.float64], small: float) -> None:
    """Draw accuracy over confidence into axes.

    Args:
        ax: Axes of Matplotlib.
        bins: (B, 3) images, mean confidence and accuracy of each bin.
        small: Size of letters, in points.
    """
    ax.plot([0, 1], [0, 1], color="0.6", lw=1)
    count, sure, right = bins.T
    ax.scatter(sure, right, s=8 + 150 * count / count.sum(), color="C0")
    ax.plot(sure, right, color="C0", lw=1)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.set_xlabel("probability of the predicted class", fontsize=small)
    ax.set_ylabel("share that is right (area: images)", fontsize=small)
    ax.tick_params(labelsize=small)


def plot_ridges(ax: Any, ridges: NDArray[np.float64], chosen: float, small: float) -> None:
    """Draw leave-one-out accuracy and squared error over the ridges into axes.

    Args:
        ax: Axes of Matplotlib.
        ridges: (R, 3) ridge, accuracy and squared error.
        chosen: The ridge that was used.
        small: Size of letters, in points.
    """
    positive = ridges[:, 0][ridges[:, 0] > 0]
    least = positive.min() / 10**0.5 if len(positive) else 1e-6  # where a ridge of 0 is drawn
    at = np.maximum(ridges[:, 0], least)
    from matplotlib.ticker import FuncFormatter, LogLocator

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(numticks=5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlim(at.min() / 2, at.max() * 2)  # of one ridge, there is no other range
    ax.plot(at, 100 * ridges[:, 1], "o-", color="C0", ms=3)
    ax.axvline(max(chosen, least), color="C1", lw=1, ls="--")
    ax.set_xlabel(f"ridge (the leftmost is {ridges[0, 0]:g})", fontsize=small)
    ax.set_ylabel("leave-one-out accuracy in %", fontsize=small, color="C0")
    ax.tick_params(labelsize=small)
    other = ax.twinx()
    other.plot(at, ridges[:, 2], "s-", color="C2", ms=3)
    other.set_ylabel("leave-one-out squared error", fontsize=small, color="C2")
    other.tick_params(labelsize=small)
