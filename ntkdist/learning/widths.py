"""How far networks of finite width are from the infinite one, and how that falls with width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.kernels import kernel_matrix
from ntkdist.learning.checks import check_images, check_labels, check_whole, require_jax
from ntkdist.learning.empirical.costs import PseudoCosts, measure_pseudo_kernel
from ntkdist.learning.empirical.kernel import empirical_kernel
from ntkdist.learning.empirical.linearized import linearization_gap
from ntkdist.learning.empirical.pntk import PseudoKernel, compare_pseudo_kernel
from ntkdist.learning.empirical.power_law import PowerLaw, fit_power
from ntkdist.learning.finite.network import FiniteNetwork
from ntkdist.networks.architecture import Architecture, ArchitectureSpec

__all__ = [
    "WIDTHS",
    "PowerLaw",
    "PseudoCosts",
    "PseudoKernel",
    "WidthRow",
    "WidthSweep",
    "compare_pseudo_kernel",
    "fit_power",
    "measure_pseudo_kernel",
    "sweep_widths",
]

WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)

# Of 1/λ. Descent bears 2/λ of the network's own kernel, whose λ lies above the infinite one's at
# small widths, by more than a half in some draws.
_RATE = 0.5


@dataclass(frozen=True)
class WidthRow:
    """One network, just drawn, beside the infinite one.

    Attributes:
        width: Channels or units of its hidden layers.
        seed: That drew it.
        kernel_gap: ‖Θ̂ − Θ‖/‖Θ‖ (Frobenius) of the pNTK, whose mean is the infinite kernel.
        trace_gap: The same of the mean over outputs; None where the full kernel was not computed.
        linear_gap: Root mean square, over test images and outputs, of the difference between the
            trained network and its trained linearisation, the largest over the steps looked at;
            None where neither was trained.
        linear_maximum: The largest difference, over the same.
        pseudo: The full kernel and the pNTK compared; None likewise.
    """

    width: int
    seed: int
    kernel_gap: float
    trace_gap: float | None = None
    linear_gap: float | None = None
    linear_maximum: float | None = None
    pseudo: PseudoKernel | None = None


@dataclass(frozen=True, eq=False)
class WidthSweep:
    """What networks of several widths and seeds showed.

    Attributes:
        architecture: Canonical text.
        rows: One a network.
        learning_rate: η of the descent that the linearisation is judged by.
        steps: Numbers of steps at which it was.
        train_images: N.
        test_images: m.
    """

    architecture: str
    rows: tuple[WidthRow, ...]
    learning_rate: float
    steps: tuple[int, ...]
    train_images: int
    test_images: int

    @property
    def widths(self) -> NDArray[np.int64]:
        """(D,) widths, ascending."""
        return np.unique([row.width for row in self.rows])

    def by_width(self, measure: str) -> NDArray[np.float64]:
        """Return a gap at each width: the root of the mean square over seeds, (D,).

        A gap is the norm of an error, whose mean square is what a width determines; that of a
        single draw is off by a third and more.

        Args:
            measure: ``kernel_gap``, ``trace_gap``, ``linear_gap``, ``linear_maximum``, or
                ``difference`` of ``pseudo``.

        Returns:
            (D,) in the order of ``widths``.
        """
        squares: dict[int, list[float]] = {int(width): [] for width in self.widths}
        for row in self.rows:
            owner = row.pseudo if measure == "difference" else row
            value = getattr(owner, measure, None)
            if value is not None:
                squares[row.width].append(value**2)
        return np.sqrt([np.mean(found) for found in squares.values()])

    def law(self, measure: str) -> PowerLaw:
        """Return the power law of a measure in the width, as ``by_width`` gives it."""
        return fit_power(self.widths, self.by_width(measure))


def sweep_widths(
    architecture: ArchitectureSpec,
    images: Any,
    labels: Any,
    num_classes: int,
    test: tuple[Any, Any],
    *,
    widths: Sequence[int] = WIDTHS,
    seeds: int = 8,
    trained: int = 2,
    steps: Sequence[int] = (1, 2, 4, 8, 16),
    on_row: Callable[[WidthRow], None] | None = None,
) -> WidthSweep:
    """Draw networks of several widths and hold kernel, pNTK and linearisation against theory.

    Every network is judged by its pNTK, which costs one pass back. Of the first ``trained`` of
    each width the full kernel is computed, of the training images and of the test images with
    them, and the network is trained.

    Args:
        architecture: A preset name, a list of layers, canonical text, or an ``Architecture``.
        images: (N, H, W, C) training images, or (N, D) features, preprocessed.
        labels: (N,) classes 0..K−1.
        num_classes: K.
        test: (m, H, W, C) images and (m,) labels to judge outputs and predictions by.
        widths: Each different.
        seeds: Networks of each width, from seed 0.
        trained: How many of them are looked at in full.
        steps: Numbers of steps of full-batch descent on squares at which network and
            linearisation are compared, ascending; the learning rate is half of 1/λ of the
            infinite kernel, the same for every width.
        on_row: Called after every network, the narrow ones first.

    Returns:
        The rows.

    Raises:
        InputError: For images, labels or settings that do not fit.

    Source:
        Jacot et al. 2018 and Lee et al. 2019 (width^−1/2); Mohamadi, Bae and Sutherland 2023
        (pNTK).
    """
    require_jax()
    arch = Architecture.parse(architecture)
    x = check_images(images, arch=arch)
    y = check_labels(labels, len(x), check_whole("num_classes", num_classes, 1, "give K"))
    held = check_images(test[0], x.shape[1:])
    held_labels = check_labels(test[1], len(held), num_classes)
    check_whole("seeds", seeds, 1, "give the networks of each width")
    check_whole("trained", trained, 1, "give how many of them are looked at in full")
    if len(set(widths)) != len(widths) or not widths:
        raise InputError(f"widths={list(widths)} must be different, and at least one")
    for width in widths:
        check_whole("widths", width, 1, "give channels of the hidden layers")
    infinite = kernel_matrix(arch, x, dtype="float64")
    rate = _RATE * len(x) / float(np.linalg.eigvalsh(infinite)[-1])

    def gap(kernel: NDArray[np.float64]) -> float:
        return float(np.linalg.norm(kernel - infinite) / np.linalg.norm(infinite))

    def judge(width: int, seed: int) -> WidthRow:
        network = FiniteNetwork(arch, width, num_classes)
        params = network.init(seed, (x.shape[1], x.shape[2], x.shape[3]))
        if seed >= trained:
            return WidthRow(width, seed, gap(empirical_kernel(network, params, x, kind="pntk")))
        full = empirical_kernel(network, params, x)
        crossed = empirical_kernel(network, params, held, x)
        both = linearization_gap(
            network, params, x, y, held,
            learning_rate=rate, steps=steps, kernels=(full, crossed),
        )  # fmt: skip
        return WidthRow(
            width=width,
            seed=seed,
            kernel_gap=gap(full.mean(axis=(1, 3)) * num_classes),
            trace_gap=gap(np.einsum("iojo->ij", full) / num_classes),
            linear_gap=float(both.rms.max()),
            linear_maximum=float(both.maximum.max()),
            pseudo=compare_pseudo_kernel(full, crossed, y, held_labels),
        )

    rows = []
    for width in sorted(widths):
        for seed in range(seeds):
            rows.append(judge(width, seed))
            if on_row is not None:
                on_row(rows[-1])
    return WidthSweep(str(arch), tuple(rows), rate, tuple(steps), len(x), len(held))
