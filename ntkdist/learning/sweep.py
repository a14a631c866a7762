"""How a kernel changes with depth, initialisation variance, nonlinearity or parameterisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_choice
from ntkdist.errors import InputError
from ntkdist.kernels import kernel_matrix
from ntkdist.learning.finite.network import weight_layers
from ntkdist.learning.parameterization import change_layers, standard_kernel_matrix
from ntkdist.learning.regression import sweep_ridge
from ntkdist.networks.architecture import Architecture, ArchitectureSpec, preset
from ntkdist.networks.layers import AvgPool, Conv, Dense, Layer, Nonlinearity, Residual

# setting -> the values that are swept where none are given
DEFAULT_VALUES: dict[str, tuple[str, ...]] = {
    "depth": ("3", "4", "6", "8", "11", "16", "21"),
    "W_std": ("0.7", "1", "1.2", "1.4142", "1.6", "2", "3"),
    "b_std": ("0", "0.1", "0.3", "1"),
    "nonlinearity": ("Relu", "Erf"),
    "width": ("16", "64", "256", "1024"),
}
_FAMILIES = ("fc-{}", "cntk-v-{}", "cntk-gap-{}")
_DEEPEST = 256


@dataclass(frozen=True)
class Variant:
    """One network of a sweep.

    Attributes:
        value: Value of the setting, as it was given.
        architecture: The network.
        width: Of the standard parameterisation; None for the NTK parameterisation.
    """

    value: str
    architecture: Architecture
    width: int | None = None


@dataclass(frozen=True)
class SweepRow:
    """Properties of one variant's kernel, and how well it predicts.

    Attributes:
        value: Value of the setting.
        accuracy: Leave-one-out accuracy of kernel regression with the best ridge.
        log_loss: Mean −log probability of the labels under those predictions (nats).
        ridge: That ridge, relative to the mean diagonal.
        cosine: Mean of H_ij/√(H_ii H_jj) over pairs of different images; at 1 the kernel does not
            distinguish images.
        condition: λ_max/λ_min; infinite where λ_min is below rounding.
        effective_rank: (Σλ)²/Σλ².
        scale: Mean of the diagonal.
    """

    value: str
    accuracy: float
    log_loss: float
    ridge: float
    cosine: float
    condition: float
    effective_rank: float
    scale: float


def variants(arch: ArchitectureSpec, over: str, values: Sequence[str] = ()) -> list[Variant]:
    """Return the networks of a sweep.

    Args:
        arch: The network to change.
        over: ``depth`` (of the presets fc-L, cntk-v-D, cntk-lap-D-C and cntk-gap-D), ``W_std`` or
            ``b_std`` (of every weight layer but the last; the critical W_std of ReLUs is √2),
            ``nonlinearity`` (Relu, Erf, ``LeakyRelu(0.2)`` or another one), or ``width`` (the NTK
            parameterisation, and the standard one with this many channels).
        values: Values of the setting; none takes those of ``DEFAULT_VALUES``.

    Returns:
        One variant for each value, in order.

    Raises:
        InputError: For an unknown ``over``, values that do not fit it, or a depth sweep of a
            network that is none of those presets.

    Source:
        Schoenholz et al. 2017 (variances and depth); Sohl-Dickstein et al. 2020 (widths).
    """
    parsed = Architecture.parse(arch)
    check_choice("over", over, DEFAULT_VALUES)
    given = [str(value).strip() for value in values] or list(DEFAULT_VALUES[over])
    if over == "depth":
        family = _family(parsed)
        return [Variant(v, preset(family.format(int(_number(over, v, 1, whole=True)))))
                for v in given]  # fmt: skip
    if over == "nonlinearity":
        return [Variant(v, _with_nonlinearity(parsed, v)) for v in given]
    if over == "width":
        widths = [Variant(v, parsed, int(_number(over, v, 1, whole=True))) for v in given]
        return [Variant("NTK", parsed), *widths]
    return [Variant(v, _with_deviation(parsed, over, _number(over, v, 0))) for v in given]


def measure(
    variant: Variant, images: NDArray[Any], labels: Any, num_classes: int, **how: Any
) -> SweepRow:
    """Compute and measure the kernel of one variant.

    Args:
        variant: The network.
        images: (N, H, W, C), preprocessed; memory holds several (N, N) float64.
        labels: (N,) whole numbers 0..K−1.
        num_classes: K.
        **how: ``backend``, ``dtype``, ``threads`` and ``invariance`` of ``ntkdist.kernel_matrix``.

    Returns:
        The row.

    Raises:
        InputError: If images or labels do not fit.
    """
    if variant.width is None:
        gram = kernel_matrix(variant.architecture, images, **how)
    else:
        gram = standard_kernel_matrix(variant.architecture, images, width=variant.width, **how)
    H = gram.astype(np.float64)
    root = np.sqrt(np.diagonal(H))
    if not root.all():
        raise InputError(
            f"{variant.value}: an image has the kernel 0 with itself; leave out images of zeros, "
            "and networks in which no layer trains (cntk-gap-2)"
        )
    n = len(H)
    cosine = float(((H / root[:, None] / root).sum() - n) / (n * (n - 1))) if n > 1 else 1.0
    eigenvalues = np.linalg.eigvalsh(H)
    rounding = np.finfo(gram.dtype).eps * eigenvalues[-1]
    best = sweep_ridge(H, labels, num_classes).best
    return SweepRow(
        value=variant.value,
        accuracy=best.accuracy,
        log_loss=best.log_loss,
        ridge=best.ridge,
        cosine=cosine,
        condition=float(eigenvalues[-1] / eigenvalues[0])
        if eigenvalues[0] > rounding
        else float("inf"),
        effective_rank=float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()),
        scale=float(np.mean(np.diagonal(H))),
    )


def _family(arch: Architecture) -> str:
    """Return the name of the presets that a network belongs to, with {} for the depth."""
    half_widths = [layer.size // 2 for layer in arch.layers if isinstance(layer, AvgPool)]
    for family in (*_FAMILIES, *(f"cntk-lap-{{}}-{c}" for c in half_widths[:1] if c < 1000)):
        for depth in (arch.depth, arch.depth - 1):
            if 2 <= depth <= _DEEPEST and preset(family.format(depth)) == arch:
                return family
    raise InputError(
        f"over=depth: {arch} is none of the presets fc-L, cntk-v-D, cntk-lap-D-C and cntk-gap-D; "
        "give one with --architecture, or compare networks of your own with ntkdist compare"
    )


def _with_deviation(arch: Architecture, field: str, size: float) -> Architecture:
    """Return the network with W_std or b_std changed in all weight layers but the last."""
    last = len(list(weight_layers(arch.layers))) - 1

    def change(place: int, layer: Conv | Dense) -> Conv | Dense:
        changes: dict[str, Any] = {field: size}
        return layer if place == last else dataclasses.replace(layer, **changes)

    return change_layers(arch, change)


def _with_nonlinearity(arch: Architecture, text: str) -> Architecture:
    """Return the network with all its nonlinearities replaced by one, such as LeakyRelu(0.2)."""
    new = Architecture.parse([text, "Flatten", "Dense"]).layers[0]
    if not isinstance(new, Nonlinearity):
        names = ", ".join(cls.__name__ for cls in get_args(Nonlinearity))
        raise InputError(f"nonlinearity={text!r} is none; the nonlinearities are {names}")

    def changed(layers: Sequence[Layer]) -> tuple[Layer, ...]:
        return tuple(
            new
            if isinstance(layer, Nonlinearity)
            else Residual(changed(layer.branch), changed(layer.shortcut))
            if isinstance(layer, Residual)
            else layer
            for layer in layers
        )

    return Architecture(changed(arch.layers))


def _number(over: str, text: str, least: float, *, whole: bool = False) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        kind = "whole number" if whole else "number"
        raise InputError(f"{over}={text} must be a {kind} of at least {least:g}")
    return value
