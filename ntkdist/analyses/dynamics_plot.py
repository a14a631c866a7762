"""One picture of training dynamics: curves over time, and which eigenvectors hold the targets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.svg import FONT_SIZE

_STOP = "C3"
_MOST_DOTS = 1000  # more make the file large and lie on one another


def draw_dynamics(
    path: str,
    *,
    squared: Mapping[str, NDArray[np.float64]],
    cross_entropy: Mapping[str, NDArray[np.float64]] | None,
    held_out: NDArray[np.float64],
    stop: float,
    eigenvalues: NDArray[np.float64],
    energy: NDArray[np.float64],
    learned: int,
) -> None:
    """Write an SVG file with three panels: loss, accuracy, and the spectrum with the targets.

    Args:
        path: File to write; it is there whole or not at all.
        squared: ``times`` (T,) from 0 to infinity, ``train_loss``, ``test_loss``,
            ``train_accuracy``, ``test_accuracy`` and maybe ``true_accuracy``, (T,) each.
        cross_entropy: The same at finite times, or None.
        held_out: (T,) loss on held-out training images at the times of ``squared``.
        stop: The stopping time.
        eigenvalues: (N,) descending.
        energy: (N,) share of each eigenvector in the targets.
        learned: How many eigenvectors are learned at the stopping time.
    """
    import matplotlib
    from matplotlib.figure import Figure

    small = FONT_SIZE - 4
    with matplotlib.rc_context({"svg.hashsalt": "ntkdist"}):
        figure = Figure(figsize=(12.0, 3.9), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        plot_losses(left, squared, held_out, stop, small)
        plot_accuracies(middle, squared, cross_entropy, stop, small)
        plot_targets(right, eigenvalues, energy, learned, small)
        part = f"{path}.part"
        figure.savefig(part, format="svg", metadata={"Date": None})
    os.replace(part, path)


def plot_losses(
    ax: Any,
    squared: Mapping[str, NDArray[np.float64]],
    held_out: NDArray[np.float64],
    stop: float,
    small: float,
) -> None:
    """Draw losses over time into axes.

    Args:
        ax: Axes of Matplotlib.
        squared: As in ``draw_dynamics``.
        held_out: (T,) loss on held-out training images.
        stop: The stopping time.
        small: Size of letters, in points.
    """
    at = _places(squared["times"])
    for name, values, color, style in (
        ("training", squared["train_loss"], "C0", "-"),
        ("held-out training images", held_out, "C2", "--"),
        ("test", squared["test_loss"], "C1", "-"),
    ):
        _line(ax, at, values, color, style, name)
    ax.set_ylim(0)
    ax.set_ylabel("squared loss, (1/2N) Σ‖f − y‖²", fontsize=small)
    _time_axis(ax, squared["times"], stop, small)


def plot_accuracies(
    ax: Any,
    squared: Mapping[str, NDArray[np.float64]],
    cross_entropy: Mapping[str, NDArray[np.float64]] | None,
    stop: float,
    small: float,
) -> None:
    """Draw accuracies over time into axes.

    Args:
        ax: Axes of Matplotlib.
        squared: As in ``draw_dynamics``.
        cross_entropy: The same at finite times, or None.
        stop: The stopping time.
        small: Size of letters, in points.
    """
    at = _places(squared["times"])
    _line(ax, at, 100 * squared["train_accuracy"], "C0", "-", "training")
    if "true_accuracy" in squared:
        _line(ax, at, 100 * squared["true_accuracy"], "C4", "-", "training, true labels")
    _line(ax, at, 100 * squared["test_accuracy"], "C1", "-", "test")
    if cross_entropy is not None:
        then = at[1 : len(cross_entropy["times"])]
        for name, color in (("train_accuracy", "C0"), ("test_accuracy", "C1")):
            ax.plot(then, 100 * cross_entropy[name][1:], color=color, lw=1, ls=":")
        ax.plot([], [], color="0.4", lw=1, ls=":", label="the same, cross-entropy")
    ax.set_ylabel("accuracy in %", fontsize=small)
    _time_axis(ax, squared["times"], stop, small)


def _line(
    ax: Any,
    at: NDArray[np.float64],
    values: NDArray[np.float64],
    color: str,
    style: str,
    name: str,
) -> None:
    """Draw the finite times as a line, the beginning and the end as dots beside it."""
    ax.plot(at[1:-1], values[1:-1], color=color, lw=1.3, ls=style, label=name)
    ax.plot(at[[0, -1]], values[[0, -1]], "o", color=color, ms=3)


def _places(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where times are drawn on a log axis: 0 and infinity one step beside the others."""
    finite = times[1:-1]
    return np.array([finite[0] / 4, *finite, finite[-1] * 4])


def _time_axis(ax: Any, times: NDArray[np.float64], stop: float, small: float) -> None:
    at = _places(times)
    place = float(at[int(np.argmax(times >= stop))])
    ax.axvline(place, color=_STOP, lw=1, ls="--", label="stopping time")
    ax.set_xscale("log")
    ax.set_xlabel("time t, steps of η (the dots: 0 and ∞)", fontsize=small)
    ax.tick_params(labelsize=small)
    ax.legend(fontsize=small - 1, frameon=False)


def plot_targets(
    ax: Any,
    eigenvalues: NDArray[np.float64],
    energy: NDArray[np.float64],
    learned: int,
    small: float,
) -> None:
    """Draw eigenvalues into axes, and how much of the targets lies in the first of them.

    Args:
        ax: Axes of Matplotlib.
        eigenvalues: (N,) descending.
        energy: (N,) share of each eigenvector in the targets.
        learned: How many eigenvectors are learned at the stopping time.
        small: Size of letters, in points.
    """
    number = np.arange(1, len(eigenvalues) + 1)
    shown = np.unique(np.geomspace(1, len(number), _MOST_DOTS).astype(int)) - 1
    floor = 1e-16 * eigenvalues[0]
    ax.plot(number[shown], np.maximum(eigenvalues, floor)[shown], color="C0", lw=1.3)
    ax.set(xscale="log", yscale="log")
    ax.set_xlabel("eigenvector", fontsize=small)
    ax.set_ylabel("eigenvalue", fontsize=small, color="C0")
    ax.tick_params(labelsize=small)
    if 0 < learned < len(number):
        ax.axvline(learned + 0.5, color=_STOP, lw=1, ls="--")
    other = ax.twinx()
    other.plot(number[shown], 100 * np.cumsum(energy)[shown], color="C1", lw=1.3)
    other.set_ylim(0, 103)
    other.set_ylabel("targets in this one and those before, in %", fontsize=small, color="C1")
    other.tick_params(labelsize=small)
