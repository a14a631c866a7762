"""How good predictions are: accuracy, confusion, and the calibration of probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_labels, check_number, real_array
from ntkdist.errors import InputError

# The logarithm of the scale is searched between a flat softmax and one that puts all probability
# on the largest output.
_LOG_SCALES = (-3.0, 9.0)
BINS = 15


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions compared with labels.

    Attributes:
        accuracy: Share of images whose largest output is that of their class.
        confusion: (K, K) int64, how many images of class k (rows) are predicted as class d.
        log_loss: Mean −log of the probability of the label (nats).
        brier: Mean squared distance of the probabilities to the one-hot label, 0 to 2.
        calibration_error: Mean gap of confidence and accuracy over the bins, weighted by count.
        bins: One row for each bin of confidence that holds images: (images, mean confidence,
            accuracy).
    """

    accuracy: float
    confusion: NDArray[np.int64]
    log_loss: float
    brier: float
    calibration_error: float
    bins: NDArray[np.float64]


def evaluate(predictions: Any, labels: Any, scale: float) -> Evaluation:
    """Compare predictions with labels.

    Args:
        predictions: (M, K) outputs of a regression.
        labels: (M,) whole numbers 0..K−1.
        scale: Factor of the outputs in the softmax that gives probabilities, from
            ``softmax_scale``.

    Returns:
        The evaluation.

    Raises:
        InputError: If shapes do not fit, there are no images, or an output is not finite.

    Source:
        Guo et al. 2017, equation 3 (expected calibration error, equal bins); Brier 1950.
    """
    f, y = _check(predictions, labels)
    check_number("scale", scale, 0.0, 1e12, "softmax_scale gives it")
    K = f.shape[1]
    p = softmax(scale * f)
    predicted, confidence = f.argmax(axis=1), p.max(axis=1)
    bin_of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(bin_of, minlength=BINS)
    filled = count > 0
    mean = [
        np.bincount(bin_of, w, BINS)[filled] / count[filled] for w in (confidence, predicted == y)
    ]
    bins = np.column_stack([count[filled], *mean])
    confusion = np.zeros((K, K), dtype=np.int64)
    np.add.at(confusion, (y, predicted), 1)
    return Evaluation(
        accuracy=float(np.mean(predicted == y)),
        confusion=confusion,
        log_loss=log_loss(f, y, scale),
        brier=float(np.square(p - np.eye(K)[y]).sum(axis=1).mean()),
        calibration_error=float((bins[:, 0] * np.abs(bins[:, 1] - bins[:, 2])).sum() / len(y)),
        bins=bins,
    )


def accuracy(predictions: Any, labels: Any) -> float:
    """Return the share of rows of predictions (M, K) whose largest entry is at the label (M,)."""
    f, y = _check(predictions, labels)
    return float(np.mean(f.argmax(axis=1) == y))


def softmax(f: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return exp(f)/Σ exp(f) row by row, (M, K) float64."""
    p = np.exp(f - f.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p


def log_loss(f: NDArray[np.float64], labels: NDArray[Any], scale: float) -> float:
    """Return the mean of −log softmax(scale · f) at the labels, in nats."""
    z = scale * f
    top = z.max(axis=1)
    total = np.log(np.exp(z - top[:, None]).sum(axis=1)) + top
    return float(np.mean(total - z[np.arange(len(z)), labels]))


def softmax_scale(predictions: Any, labels: Any) -> float:
    """Return the scale under which softmax(scale · f) makes the labels most likely.

    The log-loss is convex in the scale. Where all predictions are right (or all wrong), it has no
    minimum, and a scale between e^−3 and e^9 is returned at which it is flat.

    Args:
        predictions: (N, K) outputs for images that were not trained on, such as leave-one-out
            predictions.
        labels: (N,) whole numbers 0..K−1.

    Returns:
        The scale, an inverse temperature.

    Raises:
        InputError: If shapes do not fit or an output is not finite.

    Source:
        Guo et al. 2017, equation 9 (temperature scaling).
    """
    from scipy.optimize import minimize_scalar

    f, y = _check(predictions, labels)
    best: Any = minimize_scalar(
        lambda s: log_loss(f, y, float(np.exp(s))),
        bounds=_LOG_SCALES,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(best.x))


def _check(predictions: Any, labels: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    f = real_array("predictions", predictions)
    if f.ndim != 2 or 0 in f.shape:
        raise InputError(f"predictions have shape {f.shape}; (M, K) with M ≥ 1 is needed")
    if not np.isfinite(f).all():
        raise InputError("predictions hold NaN or infinity; check the kernel matrix")
    return f, check_labels(labels, f.shape[1], len(f))
