"""A small convolutional network in plain JAX, cross-validated: what cleanlab is usually given.

Two blocks of 3×3 convolution, ReLU and 2×2 max pooling (32 and 64 channels), a dense ReLU layer
of 128 with dropout ½, and logits; He initialisation; cross-entropy; Adam with the customary
constants (1e-3, 0.9, 0.999) in batches of 32. Of each training fold 10 % are held back, and the
parameters of the epoch with the lowest cross-entropy on them are kept (early stopping, on
labels as noisy as all others), so that the network is not asked after it has learned the wrong
labels by heart.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from sklearn.model_selection import StratifiedKFold, train_test_split

CHANNELS, HIDDEN, KEEP = (32, 64), 128, 0.5
BATCH, EPOCHS, HELD_BACK = 32, 20, 0.1
RATE, BETA1, BETA2, TINY = 1e-3, 0.9, 0.999, 1e-8

Params = dict[str, jax.Array]


def cross_validated(
    images: np.ndarray, labels: np.ndarray, num_classes: int, *, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Return out-of-sample class probabilities of every image.

    Args:
        images: (N, H, W, C) float, standardised.
        labels: (N,) given labels in 0..K−1.
        num_classes: K.
        folds: Number of folds, stratified by the given labels.
        seed: Decides folds, initialisation, order and dropout.

    Returns:
        (N, K) float64: each row from the network that did not see that image.
    """
    images = np.asarray(images, dtype=np.float32)
    out = np.empty((len(labels), num_classes))
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(images, labels)
    for fold, (inside, outside) in enumerate(parts):
        params = train(images[inside], labels[inside], num_classes, seed=folds * seed + fold)
        out[outside] = predict(params, images[outside])
    return out


def train(images: np.ndarray, labels: np.ndarray, num_classes: int, *, seed: int) -> Params:
    """Return the parameters of the best epoch."""
    fit, held = train_test_split(
        np.arange(len(labels)), test_size=HELD_BACK, stratify=labels, random_state=seed
    )
    random = np.random.default_rng(seed)
    key = jax.random.key(seed)
    params = initial(random, images.shape[1:], num_classes)
    moments = jax.tree.map(lambda p: (jnp.zeros_like(p), jnp.zeros_like(p)), params)
    best, lowest, step = params, np.inf, 0
    for _ in range(EPOCHS):
        order = random.permutation(fit)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            step += 1
            params, moments = update(
                params, moments, step, images[rows], labels[rows], jax.random.fold_in(key, step)
            )
        loss = float(cross_entropy(logits(params, images[held]), labels[held]))
        if loss < lowest:
            best, lowest = params, loss
    return best


def predict(params: Params, images: np.ndarray) -> np.ndarray:
    """Return class probabilities (n, K) float64."""
    z = np.asarray(logits(params, images), dtype=np.float64)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def initial(random: np.random.Generator, shape: tuple[int, ...], num_classes: int) -> Params:
    """Return He's normal weights and zero biases for (H, W, C) images."""
    height, width, channels = shape
    flat = (height // 4) * (width // 4) * CHANNELS[1]
    sizes = {
        "conv1": (3, 3, channels, CHANNELS[0]),
        "conv2": (3, 3, CHANNELS[0], CHANNELS[1]),
        "dense": (flat, HIDDEN),
        "last": (HIDDEN, num_classes),
    }
    params = {}
    for name, size in sizes.items():
        spread = np.sqrt(2.0 / np.prod(size[:-1]))
        params[name] = jnp.asarray(random.normal(0.0, spread, size), jnp.float32)
        params[f"{name}_bias"] = jnp.zeros(size[-1], jnp.float32)
    return params


def network(params: Params, images: Any, key: jax.Array | None) -> jax.Array:
    """Return logits (n, K); a key draws the dropout of training."""
    x = jnp.asarray(images)
    for name in ("conv1", "conv2"):
        x = lax.conv_general_dilated(
            x, params[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params[f"{name}_bias"])
        n, height, width, channels = x.shape
        x = x[:, : height // 2 * 2, : width // 2 * 2]
        x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
    x = x.reshape(len(x), -1)
    x = jax.nn.relu(x @ params["dense"] + params["dense_bias"])
    if key is not None:
        x = jnp.where(jax.random.bernoulli(key, KEEP, x.shape), x / KEEP, 0.0)
    return x @ params["last"] + params["last_bias"]


@jax.jit
def logits(params: Params, images: Any) -> jax.Array:
    """Return logits (n, K) without dropout."""
    return network(params, images, None)


def cross_entropy(z: jax.Array, labels: Any) -> jax.Array:
    """Return the mean cross-entropy of logits (n, K) and labels (n,)."""
    rows = jnp.arange(len(z))
    return -jnp.mean(jax.nn.log_softmax(z)[rows, jnp.asarray(labels)])


@jax.jit
def update(
    params: Params, moments: Any, step: Any, images: Any, labels: Any, key: jax.Array
) -> tuple[Params, Any]:
    """Take one step of Adam (Kingma and Ba 2015) on one batch."""
    slope = jax.grad(lambda p: cross_entropy(network(p, images, key), labels))(params)
    moved, kept = {}, {}
    for name, g in slope.items():
        first = BETA1 * moments[name][0] + (1 - BETA1) * g
        second = BETA2 * moments[name][1] + (1 - BETA2) * g * g
        scaled = first / (1 - BETA1**step)
        moved[name] = params[name] - RATE * scaled / (jnp.sqrt(second / (1 - BETA2**step)) + TINY)
        kept[name] = (first, second)
    return moved, kept
