"""Networks of finite width and their training: what the kernel's predictions are held against."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.checks import (
    check_images,
    check_labels,
    check_number,
    check_whole,
    require_jax,
)
from ntkdist.learning.finite.descent import (
    check_loss,
    largest_curvature,
    mean_loss,
    programs,
    stable_rate,
)
from ntkdist.learning.finite.network import FiniteNetwork
from ntkdist.learning.finite.trained import TrainedNetwork, outputs, split
from ntkdist.networks.architecture import Architecture, ArchitectureSpec

if TYPE_CHECKING:
    from optax import GradientTransformation


MOMENTUM = 0.9

# this purpose of a seed, beside the weights
_ORDER = 12
# A loss above this many times the one before the first step has left what can be trained.
_DIVERGED = 1e3


@dataclass(frozen=True)
class Epoch:
    """What ``train`` tells after every epoch.

    Attributes:
        number: From 1.
        loss: As in ``TrainedNetwork.losses``.
        seconds: Of this epoch.
    """

    number: int
    loss: float
    seconds: float


def train(
    architecture: ArchitectureSpec,
    images: Any,
    labels: Any,
    num_classes: int,
    *,
    width: int = 128,
    epochs: int = 100,
    batch: int = 32,
    learning_rate: float | str = "auto",
    loss: str = "cross-entropy",
    seed: int = 0,
    momentum: float = MOMENTUM,
    optimizer: GradientTransformation | None = None,
    stop_loss: float | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    test: tuple[Any, Any] | None = None,
) -> TrainedNetwork:
    """Train a network of finite width by stochastic gradient descent, or as optax can.

    A step is v ← momentum · v + ∇(mean loss of the batch), θ ← θ − learning_rate · v
    (``optax.sgd``), or that of ``optimizer``, on batches of near-equal size in an order drawn anew
    every epoch. Same seed, same machine and number of threads: same bits.

    Args:
        architecture: A preset name, a list of layers, canonical text, or an ``Architecture``.
        images: (N, H, W, C), or features (N, D), preprocessed.
        labels: (N,) whole numbers 0..K−1.
        num_classes: K.
        width: Channels or units of every weight layer but the last.
        epochs: Passes over the images.
        batch: Images of one step, at most; on CPUs 16 to 32 are fastest.
        learning_rate: A number, or ``auto``: 1/λ for ``mse`` and 2/λ for ``cross-entropy``, half
            of what plain gradient descent bears at initialisation, where λ is the largest
            eigenvalue of JJᵀ/n, measured on the network itself on up to 128 images; less
            where batch · (1 − momentum) is below 3.
        loss: ``cross-entropy``, or ``mse``: half the squared distance to the one-hot label less
            1/K.
        seed: Decides the weights and the order of the images.
        momentum: 0 to below 1.
        optimizer: An optax ``GradientTransformation`` with a learning rate of its own, such as
            ``optax.adam(1e-3)``, in place of ``learning_rate`` and ``momentum``.
        stop_loss: Stop behind the first epoch whose mean loss is below; None goes on to the end.
        on_epoch: Called after every epoch.
        test: (images, labels) to measure ``test_accuracy`` on at the end.

    Returns:
        The trained network.

    Raises:
        InputError: For images, labels or settings that do not fit, a network without trainable
            layers, a loss that diverges, or a network whose units all fell silent.

    Source:
        LeCun et al. 1998 (1/λ as a learning rate, λ by power iteration); Lee et al. 2019 (2/λ
        as the limit in the NTK parameterisation).
    """
    require_jax()
    import optax

    x = check_images(images, arch=Architecture.parse(architecture))
    y = check_labels(labels, len(x), check_whole("num_classes", num_classes, 1, "give K"))
    held = None
    if test is not None:
        held = check_images(test[0], x.shape[1:])
        held_labels = check_labels(test[1], len(held), num_classes)
    check_whole("epochs", epochs, 1, "give the number of passes over the images")
    check_whole("batch", batch, 1, "give the images of one step, such as 32")
    check_number("momentum", momentum, 0.0, 1.0, "0.9 is customary, 0 switches it off")
    if learning_rate != "auto":
        check_number("learning_rate", learning_rate, 0.0, math.inf, "or give 'auto'")
    if stop_loss is not None:
        check_number("stop_loss", stop_loss, 0.0, math.inf, "or give None")
    network = FiniteNetwork(Architecture.parse(architecture), width, num_classes)
    run = programs(network.arch, check_loss(loss))
    shape = (x.shape[1], x.shape[2], x.shape[3])
    trained, fixed = split(network, network.init(seed, shape))
    if not any(network.trainable()):
        raise InputError(
            f"architecture {network.arch}: no layer is trainable; give one trainable=True"
        )
    auto = learning_rate == "auto"
    rate: float | None = None
    if optimizer is not None:
        if not auto or momentum != MOMENTUM:
            raise InputError(
                f"learning_rate={learning_rate!r} and momentum={momentum!r} are given beside an "
                "optimizer, which has its own; leave them out"
            )
    elif auto:
        size = largest_curvature(run.turn, trained, fixed, x, num_classes)
        if not 0 < size < math.inf:
            raise InputError(
                f"the outputs' derivatives have the norm {size:.3g} at initialisation, so that no "
                "learning rate follows; are the images all 0, or too large for float32?"
            )
        rate = stable_rate(size, loss, min(batch, len(x)), momentum)
    else:
        rate = float(learning_rate)
    steps = "the optimizer's steps" if rate is None else f"learning_rate={rate:.3g}"
    smaller = "a smaller learning rate" if rate is None else f"{rate / 4:.2g}"
    limit = _DIVERGED * (
        1.0 + mean_loss(outputs(run.logits, trained, fixed, x[:batch], batch), y[:batch], loss)
    )
    losses: list[float] = []
    seconds: list[float] = []
    settings = () if rate is None else (np.float32(rate), np.float32(momentum))
    step = functools.partial(run.step, optimizer)
    state = (optimizer or optax.sgd(*settings)).init(trained)
    for now, value, took in _epochs(step, trained, state, fixed, x, y, batch, settings, seed):
        losses.append(value)
        seconds.append(took)
        if not value <= limit:
            raise InputError(
                f"the loss is {value:.3g} in epoch {len(losses)} at {steps}: "
                f"training diverged; give {smaller}"
                + ("" if auto else " or 'auto'")
                + ", less momentum or a larger width"
            )
        if on_epoch is not None:
            on_epoch(Epoch(len(losses), value, took))
        if len(losses) == epochs or (stop_loss is not None and value < stop_loss):
            trained = now
            break
    f = outputs(run.logits, trained, fixed, x, batch)
    if len(x) > 1 and not np.ptp(f, axis=0).any() and np.ptp(x, axis=0).any():
        raise InputError(
            f"every image has the same output after {len(losses)} epochs at {steps}: "
            f"no unit is active any more; give {smaller}, less momentum or a larger width"
        )
    if held is not None:
        found = outputs(run.logits, trained, fixed, held, batch).argmax(axis=1)
    return TrainedNetwork(
        network=network,
        params=tuple(b if t is None else t for t, b in zip(trained, fixed, strict=True)),
        losses=np.array(losses),
        seconds=np.array(seconds),
        learning_rate=rate,
        loss=mean_loss(f, y, loss),
        accuracy=float(np.mean(f.argmax(axis=1) == y)),
        test_accuracy=None if held is None else float(np.mean(found == held_labels)),
        image_shape=shape,
        batch=batch,
    )


def _epochs(
    step: Callable[..., Any],
    trained: Any,
    state: Any,
    fixed: Any,
    images: NDArray[np.float32],
    labels: NDArray[np.int32],
    batch: int,
    settings: tuple[np.float32, ...],
    seed: int,
) -> Iterator[tuple[Any, float, float]]:
    """Yield (parameters, mean loss, seconds) of one epoch after another, without end.

    Steps are dispatched one by one: inside a loop that XLA compiles (``lax.scan``), its
    convolutions are some 25 times slower on CPUs.
    """
    import jax
    import jax.numpy as jnp

    x, y = jnp.asarray(images), jnp.asarray(labels)
    random = np.random.default_rng([seed, _ORDER])
    count = -(-len(images) // batch)
    size = -(-len(images) // count)
    weights = np.ones(count * size, dtype=np.float32)
    weights[len(images) :] = 0.0
    rows = np.zeros(count * size, dtype=np.int32)
    # compiled before the clock starts; what it returns is dropped
    jax.block_until_ready(step(trained, state, fixed, x, y, rows[:size], weights[:size], settings))
    while True:
        start = time.perf_counter()
        rows[: len(images)] = random.permutation(len(images))
        sums = []
        for at in range(0, count * size, size):
            part = slice(at, at + size)
            trained, state, value = step(
                trained, state, fixed, x, y, rows[part].copy(), weights[part], settings
            )
            sums.append(value)
        total = sum(float(value) for value in sums)
        yield trained, total / len(images), time.perf_counter() - start
