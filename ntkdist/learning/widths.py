"""Networks of finite width compared with the infinite one: kernels, training, and a power law.

A network is trained beside its linearisation, the first-order expansion in its parameters,

    f_lin(x; θ) = f(x; θ₀) + ∇f(x; θ₀)(θ − θ₀).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_labels, check_number, check_whole
from ntkdist.errors import InputError
from ntkdist.kernels import kernel_matrix
from ntkdist.learning.checks import check_images, check_sets, require_jax
from ntkdist.learning.empirical import PseudoKernel, compare_pseudo_kernel, empirical_kernel
from ntkdist.learning.finite.network import FiniteNetwork, Params, check_finite
from ntkdist.learning.finite.training import compiled, outputs, split
from ntkdist.learning.regression import targets_of
from ntkdist.networks.architecture import Architecture, ArchitectureSpec

# Images of one pass through the network.
_BATCH = 64

WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)
# Learning rate in units of 1/λ of the infinite kernel. Descent diverges above 2/λ of the network's
# own kernel, whose λ is larger at small widths, by more than a half in some draws.
_RATE = 0.5


def linearized(
    network: FiniteNetwork, start: Params, params: Params, images: Any
) -> NDArray[np.float32]:
    """Return f_lin at ``params``, expanded about ``start``: one forward pass with a tangent.

    Args:
        network: The network.
        start: θ₀, as ``FiniteNetwork.init`` returns it.
        params: θ; layers with ``trainable=False`` may differ too.
        images: (n, H, W, C).

    Returns:
        (n, K) float32.

    Raises:
        InputError: For images or parameters that do not fit.

    Source:
        Lee et al. 2019, equation 5.
    """
    require_jax()
    import jax

    x = check_images(images, arch=network.arch)
    network.check(start, x.shape[1:])
    network.check(params, x.shape[1:])
    direction = jax.tree.map(lambda a, b: a - b, params, start)
    logits = compiled(network.arch).logits
    none = (None,) * len(start)

    def moved(point: Any, along: Any, part: Any) -> Any:
        f, slope = jax.jvp(lambda p: logits(p, none, part), (point,), (along,))
        return f + slope

    return outputs(moved, start, direction, x, _BATCH)


def descend(
    network: FiniteNetwork,
    params: Params,
    images: Any,
    labels: Any,
    *,
    learning_rate: float,
    steps: Sequence[int],
) -> Iterator[Params]:
    """Train by full-batch gradient descent on squares; yield the parameters at some steps.

    ``images`` (N, H, W, C) have ``labels`` (N,) 0..K−1, whose targets are one-hot less 1/K; the
    numbers of ``steps`` ascend.
    """
    require_jax()
    import jax.numpy as jnp
    import optax

    x = check_images(images, arch=network.arch)
    y = check_labels(labels, network.num_classes, len(x))
    check_number("learning_rate", learning_rate, 0.0, float("inf"), "give η")
    network.check(params, x.shape[1:])
    step = compiled(network.arch, "mse").step
    trained, fixed = split(network, params)
    settings = np.float32(learning_rate), np.float32(0.0)
    state = optax.sgd(*settings).init(trained)
    rows, weights = np.arange(len(x), dtype=np.int32), np.ones(len(x), dtype=np.float32)
    x_there, y_there, taken = jnp.asarray(x), jnp.asarray(y), 0
    for goal in steps:
        check_whole("steps", goal, taken, "give numbers of steps in ascending order")
        while taken < goal:
            trained, state, _ = step(
                None, trained, state, fixed, x_there, y_there, rows, weights, settings
            )
            taken += 1
        yield tuple(f if t is None else t for t, f in zip(trained, fixed, strict=True))


@dataclass(frozen=True, eq=False)
class LinearizationGap:
    """Outputs of a network and of its linearisation after the same training, on test images.

    Attributes:
        steps: (S,) numbers of steps.
        network: (S, m, K) float64 outputs of the network.
        linearized: (S, m, K) float64 outputs of its linearisation.
    """

    steps: NDArray[np.int64]
    network: NDArray[np.float64]
    linearized: NDArray[np.float64]

    @property
    def rms(self) -> NDArray[np.float64]:
        """(S,) root mean square of the difference."""
        return np.sqrt(np.square(self.network - self.linearized).mean(axis=(1, 2)))

    @property
    def maximum(self) -> NDArray[np.float64]:
        """(S,) largest difference."""
        return np.abs(self.network - self.linearized).max(axis=(1, 2))


def linearization_gap(
    network: FiniteNetwork,
    params: Params,
    images: Any,
    labels: Any,
    test: Any,
    *,
    learning_rate: float,
    steps: Sequence[int],
    kernels: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> LinearizationGap:
    """Train a network and its linearisation by the same gradient descent and compare them.

    Full batches, squares, no momentum: the network by steps, its linearisation in closed form.

    Training is that of ``descend``, and the outputs are compared on ``test`` (m, H, W, C).
    ``kernels`` are the (N, K, N, K) and (m, K, N, K) tangent kernels at ``params``; None computes
    them. ``InputError`` for a learning rate at which either diverges. Lee et al. 2019, theorem 2.1:
    the distance is O(width^−1/2) at any time; Dyer and Gur-Ari 2020 argue for O(width^−1).
    """
    x, held = check_sets(images, test, network.arch)
    y = check_labels(labels, network.num_classes, len(x))
    logits = compiled(network.arch).logits

    def f(at: Params, part: NDArray[np.float32]) -> NDArray[np.float64]:
        return outputs(logits, *split(network, at), part, _BATCH).astype(np.float64)

    if kernels is None:
        kernels = (
            empirical_kernel(network, params, x),
            empirical_kernel(network, params, held, x),
        )
    Y = targets_of(y, network.num_classes)
    straight = linearized_descent(*kernels, f(params, x), f(params, held), Y, learning_rate, steps)
    path = descend(network, params, x, y, learning_rate=learning_rate, steps=steps)
    curved = np.stack([f(at, held) for at in path])
    if not np.isfinite(curved).all():
        raise InputError(
            f"learning_rate={learning_rate:.3g}: the network of width {network.width} diverged; "
            "give a smaller one or a larger width"
        )
    return LinearizationGap(np.array(steps), curved, straight)


def linearized_descent(
    kernel: Any,
    crossed: Any,
    start: Any,
    start_crossed: Any,
    targets: Any,
    learning_rate: float,
    steps: Sequence[int],
) -> NDArray[np.float64]:
    """Return outputs of the linearised network after steps of gradient descent, in closed form.

    Descent on the mean over N images of half the squared distance to the targets multiplies the
    residual of the training images by I − ηΘ/N at each step, so that after t of them

        f_t(x) = f_0(x) − Θ(x, X) Θ⁻¹ [I − (I − ηΘ/N)ᵗ] (f_0(X) − Y).

    Θ is not inverted: (1 − (1 − ηλ/N)ᵗ)/λ of each eigenvalue λ has a limit at 0.

    ``kernel`` (N, K, N, K) is Θ of the training images at θ₀ and ``crossed`` (m, K, N, K) that of
    other images with them; f_0 is ``start`` (N, K) and ``start_crossed`` (m, K). The result is
    (len(steps), m, K) float64. ``InputError`` if ηλ/N exceeds 2, where descent diverges (Lee et al.
    2019, equations 8 to 11, gradient flow; this is its discrete form).
    """
    from scipy.linalg import eigh

    f = np.asarray(start, dtype=np.float64)
    n, K = f.shape
    values, vectors = eigh(np.asarray(kernel, dtype=np.float64).reshape(n * K, n * K))
    z = np.maximum(values, 0.0) * learning_rate / n
    if z[-1] > 2:
        raise InputError(
            f"learning_rate={learning_rate:.3g} diverges: with the largest eigenvalue of this "
            f"tangent kernel it may be {2 * n / values[-1]:.3g} at most"
        )
    inside = vectors.T @ (f - np.asarray(targets, dtype=np.float64)).ravel()
    projected = np.asarray(crossed, dtype=np.float64).reshape(-1, n * K) @ vectors
    outputs_at = []
    for t in steps:
        small = np.minimum(z, 0.5)  # expm1 keeps the digits that 1 − (1 − z)ᵗ loses at small z
        share = np.where(z < 0.5, -np.expm1(t * np.log1p(-small)), 1 - (1 - z) ** t)
        over = np.divide(share, z, out=np.full_like(z, float(t)), where=z > 0)
        change = projected @ (over * inside) * (learning_rate / n)
        outputs_at.append(np.asarray(start_crossed, dtype=np.float64) - change.reshape(-1, K))
    return np.stack(outputs_at)


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
    check_finite(arch)
    x, held = check_sets(images, test[0], arch)
    y = check_labels(labels, num_classes, len(x))
    held_labels = check_labels(test[1], num_classes, len(held))
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
