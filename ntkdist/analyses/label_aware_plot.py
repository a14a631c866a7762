"""One picture of label-aware kernels beside the plain one: accuracies, and how r was chosen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.svg import FONT_SIZE


@dataclass(frozen=True)
class KernelPoint:
    """What is drawn of one kernel.

    Attributes:
        name: ``plain`` or a variant.
        accuracy: On the held-out images, 0 to 1.
        validated: In cross-validation on the training images.
        elasticity: Local elasticity; None where there is none.
    """

    name: str
    accuracy: float
    validated: float
    elasticity: float | None


def draw_label_aware(
    path: str,
    *,
    points: Sequence[KernelPoint],
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    title: str,
) -> None:
    """Write an SVG file: the kernels' accuracies, and cross-validation over the multipliers.

    Args:
        path: File to write; it is there whole or not at all.
        points: One a kernel, the plain one first.
        curves: Variant → (M,) multipliers r and (M,) accuracy in cross-validation.
        title: Over both panels.
    """
    import matplotlib
    from matplotlib.figure import Figure

    small = FONT_SIZE - 4
    with matplotlib.rc_context({"svg.hashsalt": "ntkdist", "text.parse_math": False}):
        figure = Figure(figsize=(8.6, 3.4), layout="constrained")
        figure.suptitle(title, fontsize=FONT_SIZE - 2)
        left, right = figure.subplots(1, 2)
        plot_kernels(left, points, small)
        plot_choices(right, curves, small)
        part = f"{path}.part"
        figure.savefig(part, format="svg", metadata={"Date": None})
    os.replace(part, path)


def plot_kernels(ax: Any, points: Sequence[KernelPoint], small: float) -> None:
    """Draw the accuracy of each kernel into axes.

    Args:
        ax: Axes of Matplotlib.
        points: One a kernel, the plain one first.
        small: Size of letters, in points.
    """
    at = -np.arange(len(points))
    ax.axvline(100 * points[0].accuracy, color="0.8", lw=1)
    ax.scatter([100 * p.accuracy for p in points], at, s=40, color="C0", label="held out")
    ax.scatter(
        [100 * p.validated for p in points], at, s=40, label="cross-validated",
        facecolors="none", edgecolors="C1",
    )  # fmt: skip
    below = ["" if p.elasticity is None else f"\nelasticity {p.elasticity:.3f}" for p in points]
    names = [p.name + line for p, line in zip(points, below, strict=True)]
    ax.set_yticks(at, names, fontsize=small)
    ax.set_ylim(at[-1] - 0.6, 0.6)
    ax.margins(x=0.15)
    ax.set_xlabel("accuracy in %", fontsize=small)
    ax.tick_params(axis="x", labelsize=small)
    ax.legend(fontsize=small - 1, frameon=False)


def plot_choices(
    ax: Any, curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], small: float
) -> None:
    """Draw cross-validated accuracy over multipliers into axes.

    Args:
        ax: Axes of Matplotlib.
        curves: Variant → (M,) multipliers and (M,) accuracies.
        small: Size of letters, in points.
    """
    tried = sorted({r for multipliers, _ in curves.values() for r in multipliers})
    for name, (multipliers, accuracy) in curves.items():
        order = np.argsort(multipliers)
        at = np.searchsorted(tried, multipliers[order])  # side by side: 0 has no logarithm
        ax.plot(at, 100 * accuracy[order], "o-", ms=3, lw=1, label=name)
    ax.set_xticks(range(len(tried)), [f"{r:g}" for r in tried], fontsize=small, rotation=45)
    ax.tick_params(axis="y", labelsize=small)
    ax.set_xlabel("multiplier r of the label-aware part (0: plain)", fontsize=small)
    ax.set_ylabel("cross-validated accuracy in %", fontsize=small)
    ax.legend(fontsize=small - 1, frameon=False)
