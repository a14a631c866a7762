"""Training of networks of finite width by stochastic gradient descent, in jax."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_choice, check_labels, check_number, check_whole, is_auto
from ntkdist.errors import InputError, shown
from ntkdist.learning.checks import check_images, range_of, require_jax
from ntkdist.learning.evaluation import log_loss, softmax
from ntkdist.learning.finite.network import (
    FiniteNetwork,
    Params,
    check_trainable,
    executed_layers,
    forward,
)
from ntkdist.learning.regression import targets_of
from ntkdist.networks.architecture import Architecture, ArchitectureSpec
from ntkdist.pixels import PixelRange

if TYPE_CHECKING:
    from optax import GradientTransformation

MOMENTUM = 0.9

# Distinguishes the random numbers of the order of images from those of the weights.
_ORDER = 12
# Training has diverged when the loss is this many times 1 plus the loss before the first step.
_DIVERGED = 1e3

# loss -> the learning rate "auto" in units of 1/λ: half of the largest stable rate of gradient
# descent. The Hessian in the outputs is the identity for squares; diag(p) − ppᵀ ≤ 1/2 for
# cross-entropy.
RATES = {"cross-entropy": 2.0, "mse": 1.0}

# Where batch · (1 − momentum) is below this, ``_stable_rate`` is lowered in proportion: a velocity
# adds up 1/(1−momentum) steps, and the noise of small batches, so enlarged, drove every ReLU of
# some networks to 0 (batches of 4 at momentum 0.9).
_QUIET_BATCH = 3.0

# Images and steps of the power iteration.
_CURVATURE_IMAGES, _CURVATURE_STEPS = 128, 12


@dataclass(frozen=True)
class Epoch:
    """An epoch of training, as ``train`` reports it.

    Attributes:
        number: From 1.
        loss: As in ``TrainedNetwork.losses``.
        seconds: Duration.
    """

    number: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class TrainedNetwork:
    """A network after training.

    Attributes:
        network: Architecture, width and K.
        params: Its parameters, as ``FiniteNetwork.init`` orders them.
        losses: (E,) mean loss of each epoch over its images, that of an image taken before the
            step that uses it.
        seconds: (E,) durations of the epochs, without compilation.
        learning_rate: The rate that was used; None with an optimizer that has its own.
        loss: Mean loss on all training images at the end.
        accuracy: Share of the training images that are predicted right at the end.
        test_accuracy: The same of the test images; None without them.
        image_shape: (H, W, C).
        batch: Images of one step, and of one call in ``predict``.
        pixel_range: Range of the training images, on whose scale those of ``predict`` must be; None
            for features.
    """

    network: FiniteNetwork
    params: Params
    losses: NDArray[np.float64]
    seconds: NDArray[np.float64]
    learning_rate: float | None
    loss: float
    accuracy: float
    test_accuracy: float | None
    image_shape: tuple[int, int, int]
    batch: int
    pixel_range: PixelRange | None = None

    def predict(self, images: Any) -> NDArray[np.float32]:
        """Return the outputs for images.

        Args:
            images: (n, H, W, C) as in training.

        Returns:
            (n, K) float32 logits (of ``mse``: targets less 1/K).

        Raises:
            InputError: If the images have another shape or scale, or hold NaN or infinity.
        """
        x = check_images(images, self.image_shape, trained_on=self.pixel_range)
        logits = compiled(self.network.arch).logits
        return outputs(logits, *split(self.network, self.params), x, self.batch)

    def probabilities(self, images: Any) -> NDArray[np.float64]:
        """Return softmax(predict(images)), (n, K) float64."""
        return softmax(self.predict(images).astype(np.float64))

    def mean_probabilities(self, images: Any, labels: Any) -> NDArray[np.float64]:
        """Return the mean probability of class d (columns) over the images of class k (rows).

        Unlike a confusion matrix, it tells classes apart where a network makes few errors.

        Args:
            images: (n, H, W, C).
            labels: (n,) true classes 0..K−1.

        Returns:
            (K, K) float64; the row of a class without images is 0.

        Raises:
            InputError: For images or labels that do not fit.
        """
        K = self.network.num_classes
        p = self.probabilities(images)
        Y = np.eye(K)[check_labels(labels, K, len(p))]
        return Y.T @ p / np.maximum(Y.sum(axis=0), 1.0)[:, None]


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
    """Train a network of finite width by stochastic gradient descent, or an optimizer of optax.

    A step is v ← momentum · v + ∇(mean loss of the batch), θ ← θ − learning_rate · v
    (``optax.sgd``), or that of ``optimizer``, on batches of near-equal size in an order drawn anew
    every epoch. The same seed gives the same bits on the same machine and number of threads.

    Args:
        architecture: A preset name, a list of layers, canonical text, or an ``Architecture``.
        images: (N, H, W, C), or features (N, D), preprocessed.
        labels: (N,) whole numbers 0..K−1.
        num_classes: K.
        width: Channels or units of every weight layer but the last.
        epochs: Passes over the images.
        batch: Most images of one step; on CPUs 16 to 32 are fastest.
        learning_rate: A number, or ``auto``: 1/λ for ``mse`` and 2/λ for ``cross-entropy``, half
            of the largest stable rate of plain gradient descent at initialisation, where λ is the
            largest eigenvalue of JJᵀ/n of this network on up to 128 images; less where
            batch · (1 − momentum) is below 3.
        loss: ``cross-entropy``, or ``mse``: half the squared distance to the one-hot label less
            1/K.
        seed: Seed of the weights and of the order of the images.
        momentum: 0 to below 1.
        optimizer: An optax ``GradientTransformation`` with a learning rate of its own, such as
            ``optax.adam(1e-3)``, in place of ``learning_rate`` and ``momentum``.
        stop_loss: Stop after the first epoch whose mean loss is below; None trains all epochs.
        on_epoch: Called after every epoch.
        test: (images, labels) on which ``test_accuracy`` is measured at the end.

    Returns:
        The trained network.

    Raises:
        InputError: For images, labels or settings that do not fit, a network without trainable
            layers, a loss that diverges, or a network without active units after training.

    Source:
        LeCun et al. 1998 (1/λ as a learning rate, λ by power iteration); Lee et al. 2019 (2/λ
        as the limit in the NTK parameterisation).
    """
    require_jax()
    import optax

    x = check_images(images, arch=Architecture.parse(architecture))
    pixel_range = range_of(images)
    y = check_labels(labels, num_classes, len(x))
    held = None
    if test is not None:
        if not isinstance(test, tuple | list) or len(test) != 2:
            raise InputError(f"test={shown(test)} must be (images, labels)")
        held = check_images(test[0], x.shape[1:], trained_on=pixel_range)
        held_labels = check_labels(test[1], num_classes, len(held))
    check_whole("epochs", epochs, 1, "give the passes over the images", most=10**6)
    batch = check_whole("batch", batch, 1, "give the images of one step, such as 32")
    check_number("momentum", momentum, 0.0, 1.0, "0.9 is customary, 0 switches it off")
    auto = is_auto(learning_rate)
    if not auto:
        check_number("learning_rate", learning_rate, 0.0, 1e9, "or give 'auto'")
    if stop_loss is not None:
        check_number("stop_loss", stop_loss, 0.0, math.inf, "or give None")
    network = FiniteNetwork(Architecture.parse(architecture), width, num_classes)
    check_choice("loss", loss, RATES)
    run = compiled(network.arch, loss)
    shape = (x.shape[1], x.shape[2], x.shape[3])
    trained, fixed = split(network, network.init(seed, shape))
    check_trainable(network.arch)
    rate: float | None = None
    if optimizer is not None:
        if not auto or momentum != MOMENTUM:
            raise InputError(
                f"learning_rate={learning_rate!r} and momentum={momentum!r} are given beside an "
                "optimizer, which has its own; leave them out"
            )
    elif auto:
        size = _largest_curvature(run.curvature, trained, fixed, x, num_classes)
        if not 0 < size < math.inf:
            raise InputError(
                f"the outputs' derivatives have the norm {size:.3g} at initialisation, from which "
                "no learning rate follows; are the images all 0, or too large for float32?"
            )
        rate = _stable_rate(size, loss, min(batch, len(x)), momentum)
    else:
        rate = float(learning_rate)
    steps = "the optimizer's steps" if rate is None else f"learning_rate={rate:.3g}"
    smaller = "a smaller learning rate" if rate is None else f"{rate / 4:.2g}"
    limit = _DIVERGED * (
        1.0 + _mean_loss(outputs(run.logits, trained, fixed, x[:batch], batch), y[:batch], loss)
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
        predicted = outputs(run.logits, trained, fixed, held, batch).argmax(axis=1)
    return TrainedNetwork(
        network=network,
        params=tuple(b if t is None else t for t, b in zip(trained, fixed, strict=True)),
        losses=np.array(losses),
        seconds=np.array(seconds),
        learning_rate=rate,
        loss=_mean_loss(f, y, loss),
        accuracy=float(np.mean(f.argmax(axis=1) == y)),
        test_accuracy=None if held is None else float(np.mean(predicted == held_labels)),
        image_shape=shape,
        batch=batch,
        pixel_range=pixel_range,
    )


def _epochs(
    step: Callable[..., Any],
    trained: Any,
    state: Any,
    fixed: Any,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    batch: int,
    settings: tuple[np.float32, ...],
    seed: int,
) -> Iterator[tuple[Any, float, float]]:
    """Yield (parameters, mean loss, seconds) after each epoch, without end.

    Steps are dispatched one by one, as XLA's convolutions are some 25 times slower on CPUs inside
    a compiled loop (``lax.scan``).
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
    # Compiled before the first epoch is timed; the result is dropped.
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


@dataclass(frozen=True)
class Compiled:
    """The compiled functions of one architecture and loss.

    Parameters are given as ``split`` returns them.

    Attributes:
        logits: (trained, fixed, images (n, H, W, C)) → (n, K).
        step: (optimizer, trained, state, fixed, images, labels, rows (B,), weights (B,), settings)
            → (trained, state, loss summed with the weights): one step on the given rows by an
            optax ``GradientTransformation``, or by ``optax.sgd(*settings)`` where it is None, so
            that another rate or momentum needs no new compilation.
        curvature: (trained, fixed, images, v (n, K)) → JJᵀv/n (n, K).
    """

    logits: Callable[..., Any]
    step: Callable[..., Any]
    curvature: Callable[..., Any]


@functools.lru_cache(maxsize=8)
def compiled(arch: Architecture, loss: str = "cross-entropy") -> Compiled:
    """Return the compiled functions of a network; each shape is compiled at its first use."""
    import jax
    import jax.numpy as jnp
    import optax

    layers = executed_layers(arch)

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

    def curvature(trained: Any, fixed: Any, images: Any, v: Any) -> Any:
        def outputs(part: Any) -> Any:
            return logits(part, fixed, images)

        (direction,) = jax.vjp(outputs, trained)[1](v)
        return jax.jvp(outputs, (trained,), (direction,))[1] / len(images)

    return Compiled(jax.jit(logits), jax.jit(step, static_argnums=0), jax.jit(curvature))


def _largest_curvature(
    curvature: Callable[..., Any], trained: Any, fixed: Any, images: Any, num_classes: int
) -> float:
    """Return λ, the largest eigenvalue of JJᵀ/n on the first images, by power iteration.

    J (nK, P) are the outputs' derivatives by the trained parameters. At infinite width λ is the
    largest eigenvalue of the tangent kernel's Gram matrix of these images, divided by n. The
    estimate is too small, usually by a few percent at most.
    """
    import jax.numpy as jnp

    images = images[:_CURVATURE_IMAGES]
    start = np.random.default_rng(0).standard_normal((len(images), num_classes)) + 1.0
    v = start.astype(np.float32)
    size = 0.0
    # A Python loop, for the reason given in ``_epochs``.
    for _ in range(_CURVATURE_STEPS):
        v = curvature(trained, fixed, images, v / jnp.linalg.norm(v))
        size = float(jnp.linalg.norm(v))
    return size


def _stable_rate(curvature: float, loss: str, batch: int, momentum: float) -> float:
    """Return the learning rate ``auto`` for a largest curvature λ.

    LeCun et al. 1998 (1/λ); the factors are this package's, tried on its presets at widths of 8 to
    64 and batches of 4 to 64.
    """
    return RATES[loss] / curvature * min(1.0, batch * (1.0 - momentum) / _QUIET_BATCH)


def _mean_loss(f: NDArray[np.float32], labels: NDArray[np.int64], loss: str) -> float:
    """Return the mean loss of outputs (n, K) and labels (n,), in float64."""
    f64 = f.astype(np.float64)
    if loss == "mse":
        return float(0.5 * np.square(f64 - targets_of(labels, f.shape[1])).sum(axis=1).mean())
    return log_loss(f64, labels, 1.0)


def split(network: FiniteNetwork, params: Params) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return (trained, fixed) parameters, each None where the other holds (W, b)."""
    pairs = list(zip(network.trainable(), params, strict=True))
    return tuple(p if t else None for t, p in pairs), tuple(None if t else p for t, p in pairs)


def outputs(
    logits: Callable[..., Any], trained: Any, fixed: Any, images: NDArray[Any], batch: int
) -> NDArray[np.float32]:
    """Return the outputs (n, K) float32 of checked images, ``batch`` images a call."""
    return np.concatenate(
        [np.asarray(logits(trained, fixed, part))[:n] for part, n in padded_batches(images, batch)]
    )


def padded_batches(images: NDArray[Any], batch: int) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield (images, n): n images and, in the last batch, repeated ones up to the same shape.

    With one shape a function is compiled once.
    """
    size = min(batch, len(images))
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        yield part[np.minimum(np.arange(size), len(part) - 1)], len(part)
