"""Losses, one step of gradient descent, and the largest curvature; compiled once a network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, did_you_mean
from ntkdist.learning.finite.layers import executed, forward
from ntkdist.networks.architecture import Architecture

# loss -> the learning rate "auto" in units of 1/λ: half of what gradient descent bears. The
# Hessian in the outputs is the identity for squares; diag(p) − ppᵀ ≤ 1/2 for cross-entropy.
RATES = {"cross-entropy": 2.0, "mse": 1.0}

# Where batch · (1 − momentum) is below this, ``stable_rate`` is lowered in proportion: a velocity
# adds up 1/(1−momentum) steps, and the noise of small batches, so enlarged, killed every ReLU of
# some networks (batches of 4 at momentum 0.9).
_QUIET_BATCH = 3.0

# What the power iteration looks at, and for how long.
_CURVATURE_IMAGES, _CURVATURE_STEPS = 128, 12


@dataclass(frozen=True)
class Programs:
    """The compiled functions of one architecture and loss.

    Parameters are given in two parts with the same length: of the layers that train, and of
    those that do not; each holds None where the other holds (W, b).

    Attributes:
        logits: (trained, fixed, images (n, H, W, C)) → (n, K).
        step: (optimizer, trained, state, fixed, images, labels, rows (B,), weights (B,), settings)
            → (trained, state, loss summed with the weights); one step on the given rows by an
            optax ``GradientTransformation``, or by ``optax.sgd(*settings)`` where it is None: its
            rate and momentum are no part of what is compiled.
        turn: (trained, fixed, images, v (n, K)) → JJᵀv/n (n, K).
    """

    logits: Callable[..., Any]
    step: Callable[..., Any]
    turn: Callable[..., Any]


def check_loss(loss: str) -> str:
    """Refuse a loss that is not known.

    Args:
        loss: ``cross-entropy`` or ``mse``.

    Returns:
        The loss.

    Raises:
        InputError: If it is another.
    """
    if loss not in RATES:
        raise InputError(
            f"loss={loss!r} is unknown; use {' or '.join(RATES)}" + did_you_mean(str(loss), RATES)
        )
    return loss


@functools.lru_cache(maxsize=8)
def programs(arch: Architecture, loss: str = "cross-entropy") -> Programs:
    """Return the compiled functions of a network; shapes are compiled where they first occur.

    Args:
        arch: The network.
        loss: ``cross-entropy``, or ``mse``: half the squared distance to the one-hot label
            less 1/K.

    Returns:
        The functions.
    """
    import jax
    import jax.numpy as jnp
    import optax

    layers = executed(arch)

    def logits(trained: Any, fixed: Any, x: Any) -> Any:
        params = iter([f if t is None else t for t, f in zip(trained, fixed, strict=True)])
        return forward(layers, params, x)

    def losses(f: Any, labels: Any) -> Any:
        targets = jax.nn.one_hot(labels, f.shape[1], dtype=f.dtype)
        if loss == "mse":
            return 0.5 * jnp.square(f - targets + 1.0 / f.shape[1]).sum(axis=1)
        return -(jax.nn.log_softmax(f) * targets).sum(axis=1)

    def step(
        optimizer: Any,
        trained: Any,
        state: Any,
        fixed: Any,
        images: Any,
        labels: Any,
        rows: Any,
        weights: Any,
        settings: Any,
    ) -> Any:
        def total(part: Any) -> Any:
            each = losses(logits(part, fixed, images[rows]), labels[rows])
            return (weights * each).sum()

        value, slope = jax.value_and_grad(total)(trained)
        size = weights.sum()
        slope = jax.tree.map(lambda g: g / size, slope)
        change, state = (optimizer or optax.sgd(*settings)).update(slope, state, trained)
        return optax.apply_updates(trained, change), state, value

    def turn(trained: Any, fixed: Any, images: Any, v: Any) -> Any:
        def outputs(part: Any) -> Any:
            return logits(part, fixed, images)

        (direction,) = jax.vjp(outputs, trained)[1](v)
        return jax.jvp(outputs, (trained,), (direction,))[1] / len(images)

    return Programs(jax.jit(logits), jax.jit(step, static_argnums=0), jax.jit(turn))


def largest_curvature(
    turn: Callable[..., Any], trained: Any, fixed: Any, images: Any, num_classes: int
) -> float:
    """Return λ, the largest eigenvalue of JJᵀ/n on the first images, by power iteration.

    J (nK, P) are the outputs' derivatives by the trained parameters. At infinite width λ is the
    largest eigenvalue of the tangent kernel's Gram matrix of these images, divided by n.

    Args:
        turn: ``Programs.turn``.
        trained: Parameters that train.
        fixed: Those that do not.
        images: (N, H, W, C) float32; at most 128 are looked at.
        num_classes: K.

    Returns:
        λ, from below, usually within a few percent.
    """
    import jax.numpy as jnp

    images = images[:_CURVATURE_IMAGES]
    start = np.random.default_rng(0).standard_normal((len(images), num_classes)) + 1.0
    v = start.astype(np.float32)
    size = 0.0
    # A Python loop: XLA's convolutions are many times slower inside a compiled one on CPUs.
    for _ in range(_CURVATURE_STEPS):
        v = turn(trained, fixed, images, v / jnp.linalg.norm(v))
        size = float(jnp.linalg.norm(v))
    return size


def stable_rate(curvature: float, loss: str, batch: int, momentum: float) -> float:
    """Return the learning rate ``auto``: 2/λ for cross-entropy, 1/λ for squares, or less.

    Args:
        curvature: λ, as ``largest_curvature`` gives it.
        loss: ``cross-entropy`` or ``mse``.
        batch: Images of one step.
        momentum: 0 to below 1.

    Returns:
        The rate, lowered in proportion where batch · (1 − momentum) < 3.

    Source:
        LeCun et al. 1998 (1/λ, by power iteration); the factors are this package's, tried on its
        presets at widths of 8 to 64 and batches of 4 to 64.
    """
    return RATES[loss] / curvature * min(1.0, batch * (1.0 - momentum) / _QUIET_BATCH)


def mean_loss(f: NDArray[np.float32], labels: NDArray[np.int32], loss: str) -> float:
    """Return the mean loss of outputs (n, K) and labels (n,), in float64."""
    f64 = f.astype(np.float64)
    rows = np.arange(len(f64))
    if loss == "mse":
        targets = np.eye(f.shape[1])[labels] - 1.0 / f.shape[1]
        return float(0.5 * np.square(f64 - targets).sum(axis=1).mean())
    top = f64.max(axis=1)
    return float((np.log(np.exp(f64 - top[:, None]).sum(axis=1)) + top - f64[rows, labels]).mean())
