"""A trained network: what it says about images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.learning.checks import check_images, check_labels
from ntkdist.learning.finite.descent import programs
from ntkdist.learning.finite.network import FiniteNetwork, Params


@dataclass(frozen=True)
class TrainedNetwork:
    """A network after training.

    Attributes:
        network: Architecture, width and K.
        params: Its parameters, as ``FiniteNetwork.init`` orders them.
        losses: (E,) mean loss of each epoch over its images, each taken before the step that
            uses it.
        seconds: (E,) of each epoch; compilation comes before the first and is not in it.
        learning_rate: The rate that was used; None with an optimizer that has its own.
        loss: Mean loss on all training images at the end.
        accuracy: Share of the training labels that are met at the end.
        test_accuracy: The same on the test images; None without them.
        image_shape: (H, W, C).
        batch: Images of one step, and of one call in ``predict``.
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

    def predict(self, images: Any) -> NDArray[np.float32]:
        """Return the outputs for images.

        Args:
            images: (n, H, W, C) as in training.

        Returns:
            (n, K) float32 logits (of ``mse``: targets less 1/K).

        Raises:
            InputError: If the images have another shape or hold NaN or infinity.
        """
        x = check_images(images, self.image_shape)
        logits = programs(self.network.arch).logits
        return outputs(logits, *split(self.network, self.params), x, self.batch)

    def probabilities(self, images: Any) -> NDArray[np.float64]:
        """Return softmax(predict(images)), (n, K) float64."""
        f = self.predict(images).astype(np.float64)
        p = np.exp(f - f.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    def confusion(self, images: Any, labels: Any) -> NDArray[np.int64]:
        """Return how many images of class k (rows) are taken for class d (columns).

        Args:
            images: (n, H, W, C).
            labels: (n,) true classes 0..K−1.

        Returns:
            (K, K) counts.

        Raises:
            InputError: For images or labels that do not fit.
        """
        K = self.network.num_classes
        found = self.predict(images).argmax(axis=1)
        counts = np.zeros((K, K), dtype=np.int64)
        np.add.at(counts, (check_labels(labels, len(found), K), found), 1)
        return counts

    def mean_probabilities(self, images: Any, labels: Any) -> NDArray[np.float64]:
        """Return the mean probability of class d (columns) over the images of class k (rows).

        A confusion matrix without ties, for networks that make few errors.

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
        Y = np.eye(K)[check_labels(labels, len(p), K)]
        return Y.T @ p / np.maximum(Y.sum(axis=0), 1.0)[:, None]


def split(network: FiniteNetwork, params: Params) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the parameters that train and those that do not, None in each other's places."""
    pairs = list(zip(network.trainable(), params, strict=True))
    return tuple(p if t else None for t, p in pairs), tuple(None if t else p for t, p in pairs)


def outputs(
    logits: Callable[..., Any], trained: Any, fixed: Any, images: NDArray[Any], batch: int
) -> NDArray[np.float32]:
    """Return the outputs (n, K) float32 of checked images, ``batch`` images a call."""
    found = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        # one shape, compiled once: the last call repeats images that are dropped again
        rows = np.minimum(np.arange(min(batch, len(images))), len(part) - 1)
        found.append(np.asarray(logits(trained, fixed, part[rows]))[: len(part)])
    return np.concatenate(found)
