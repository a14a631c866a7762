"""The distance of networks of finite width from the infinite one, and its power law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.kernels import kernel_matrix
from ntkdist.learning.checks import check_images, check_labels, check_whole, require_jax
from ntkdist.learning.empirical.kernel import empirical_kernel
from ntkdist.learning.empirical.linearized import linearization_gap
from ntkdist.learning.empirical.pntk import PseudoKernel, compare_pseudo_kernel
from ntkdist.learning.finite.network import FiniteNetwork
from ntkdist.networks.architecture import Architecture, ArchitectureSpec

WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)

# Learning rate in units of 1/λ of the infinite kernel. Descent diverges above 2/λ of the network's
# own kernel, whose λ is larger at small widths, by more than a half in some draws.
_RATE = 0.5


@dataclass(frozen=True)
class PowerLaw:
    """constant · width^exponent, by least squares in logarithms.

    Attributes:
        exponent: Slope.
        constant: Value at width 1.
        error: Standard error of the exponent from the residuals; 0 for two widths.
    """

    exponent: float
    constant: float
    error: float

    def at(self, widths: Any) -> NDArray[np.float64]:
        """Return the law's values at some widths."""
        return self.constant * np.asarray(widths, dtype=np.float64) ** self.exponent


def fit_power(widths: Any, values: Any) -> PowerLaw:
    """Fit a power law by least squares in logarithms.

    Args:
        widths: (D,) above 0, at least two different ones.
        values: (D,) above 0.

    Returns:
        The law.

    Raises:
        InputError: For fewer than two widths, or values that are not positive.
    """
    x, y = (np.asarray(v, dtype=np.float64) for v in (widths, values))
    if len(np.unique(x)) < 2:
        raise InputError(f"an exponent needs at least two widths, not {len(np.unique(x))}")
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise InputError(f"a power law needs positive values, not {y.min():g}")
    x, y = np.log(x), np.log(y)
    around = x - x.mean()
    exponent = float(around @ y / (around @ around))
    residuals = y - y.mean() - exponent * around
    freedom = len(x) - 2
    error = float(np.sqrt(residuals @ residuals / freedom / (around @ around))) if freedom else 0.0
    return PowerLaw(exponent, float(np.exp(y.mean() - exponent * x.mean())), error)


@dataclass(frozen=True)
class WidthRow:
    """One network at initialisation compared with the infinite one.

    Attributes:
        width: Channels or units of its hidden layers.
        seed: Seed of its weights.
        kernel_gap: ‖Θ̂ − Θ‖/‖Θ‖ (Frobenius) of the pNTK, whose mean is the infinite kernel.
        trace_gap: The same of the mean over outputs; None if the full kernel was not computed.
        linear_gap: Root mean square, over test images and outputs, of the difference between the
            trained network and its trained linearisation, the largest over ``steps``; None if
            neither was trained.
        linear_maximum: The largest difference, over the same.
        pseudo: The full kernel and the pNTK compared; None if the full kernel was not computed.
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
    """Networks of several widths and seeds compared with the infinite one.

    Attributes:
        architecture: Canonical text.
        rows: One for each network.
        learning_rate: η of the descent on network and linearisation.
        steps: Numbers of steps at which the two were compared.
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
        """Return a gap at each width, the root mean square over seeds, (D,).

        A width determines the mean square of the error; a single draw deviates by a third and
        more.

        Args:
            measure: ``kernel_gap``, ``trace_gap``, ``linear_gap``, ``linear_maximum``, or
                ``difference`` of ``pseudo``.

        Returns:
            (D,) in the order of ``widths``.
        """
        squares: dict[int, list[float]] = {int(width): [] for width in self.widths}
        for row in self.rows:
            value = getattr(row.pseudo if measure == "difference" else row, measure, None)
            if value is not None:
                squares[row.width].append(value**2)
        return np.sqrt([np.mean(at_width) for at_width in squares.values()])

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
    """Draw networks of several widths and compare them with the infinite network.

    The pNTK, which costs one backward pass, is compared for every network. For the first
    ``trained`` of each width the full kernels, of the training images and between test and training
    images, are computed, and the network is trained beside its linearisation.

    Args:
        architecture: A preset name, a list of layers, canonical text, or an ``Architecture``.
        images: (N, H, W, C) training images, or (N, D) features, preprocessed.
        labels: (N,) classes 0..K−1.
        num_classes: K.
        test: (m, H, W, C) images and (m,) labels for outputs and predictions.
        widths: Different widths.
        seeds: Networks of each width, from seed 0.
        trained: How many of them are trained.
        steps: Numbers of steps of full-batch descent on squares at which network and
            linearisation are compared, ascending; the learning rate is half of 1/λ of the
            infinite kernel, the same for every width.
        on_row: Called after every network, in the order of the widths.

    Returns:
        One row for each network.

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
    check_whole("trained", trained, 1, "give how many of them are trained")
    if len(set(widths)) != len(widths) or not widths:
        raise InputError(f"widths={list(widths)} must be different, and at least one")
    for width in widths:
        check_whole("widths", width, 1, "give channels of the hidden layers")
    infinite = kernel_matrix(arch, x, dtype="float64")
    rate = _RATE * len(x) / float(np.linalg.eigvalsh(infinite)[-1])

    def gap(kernel: NDArray[np.float64]) -> float:
        return float(np.linalg.norm(kernel - infinite) / np.linalg.norm(infinite))

    def compare(width: int, seed: int) -> WidthRow:
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
            rows.append(compare(width, seed))
            if on_row is not None:
                on_row(rows[-1])
    return WidthSweep(str(arch), tuple(rows), rate, tuple(steps), len(x), len(held))
