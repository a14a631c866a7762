"""What the kernel predicts for each image from all the others, and how noisy that says labels are.

Kernel regression gives every leave-one-out prediction at once: f_{−i}(x_i) = Y_i − G_i/A_ii,
whatever label image i has itself. A softmax of them, p_i = softmax(f_{−i}(x_i)·T), is read as
class probabilities, and the given labels as draws from a mixture: with probability 1 − ε the
true class, with ε another one drawn uniformly. The scale T and the noise rate ε are those under
which the given labels are most likely; nothing else is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# log T is searched here: from a nearly flat softmax to nearly a hard choice of the largest.
LOG_SCALES = (-2.0, 6.0)


@dataclass(frozen=True)
class NoiseModel:
    """The likeliest reading of the given labels.

    Attributes:
        rate: ε, the estimated share of wrong labels, 0 to 1.
        scale: T, what leave-one-out predictions are multiplied by before the softmax.
        log_likelihood: Mean log-probability of a given label under the two (nats); higher is
            better, so that it also compares ridges and architectures.
    """

    rate: float
    scale: float
    log_likelihood: float


def leave_one_out(
    G: NDArray[np.float64], diagonal: NDArray[np.float64], Y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the prediction for each image of the kernel regression on all the others.

    Args:
        G: (N, K) H⁻¹Y.
        diagonal: (N,) diagonal of H⁻¹.
        Y: (N, K) the targets that made G, one-hot labels or probabilities.

    Returns:
        (N, K) float64, f_{−i}(x_i) = Y_i − G_i/A_ii.

    Source:
        Rasmussen and Williams 2006, equation 5.12.
    """
    out = G / -diagonal[:, None]
    out += Y
    return out


def probabilities(predictions: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Return softmax(scale · predictions) row by row.

    Args:
        predictions: (N, K) leave-one-out predictions.
        scale: T of a ``NoiseModel``.

    Returns:
        (N, K) float64, rows sum to 1.
    """
    logits = predictions * scale
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def fit_noise(
    predictions: NDArray[np.float64],
    labels: NDArray[np.int64],
    rate: float | None = None,
    locked: NDArray[np.bool_] | None = None,
) -> NoiseModel:
    """Return the noise rate and softmax scale under which the labels are most likely.

    The likelihood of label a_i is (1 − ε) p_i,a + ε (1 − p_i,a)/(K − 1). With a few hundred
    images and more than half of the labels wrong, "unsure predictions, no noise" can be as
    likely as the truth, and the rate comes out far too low, even 0.

    Args:
        predictions: (N, K) leave-one-out predictions made with these labels.
        labels: (N,) given labels in 0..K−1.
        rate: ε where it is known; None finds the likeliest.
        locked: (N,) bool, labels known to be right; ε is the share among the others.

    Returns:
        The model; rate 0 where there is one class only.
    """
    from scipy.optimize import minimize_scalar

    K = predictions.shape[1]
    if K == 1 or not len(labels):
        return NoiseModel(rate or 0.0, 1.0, 0.0)
    rows = np.arange(len(labels))

    def at(log_scale: float) -> tuple[float, float]:
        p = probabilities(predictions, float(np.exp(log_scale)))[rows, labels]
        wrong = (1 - p) / (K - 1)
        return _likeliest_rate(p, wrong if locked is None else np.where(locked, p, wrong), rate)

    # A coarse look first: the likelihood may have a second, lower hill.
    grid = np.linspace(*LOG_SCALES, 17)
    best = int(np.argmax([at(s)[1] for s in grid]))
    found: Any = minimize_scalar(
        lambda s: -at(float(s))[1],
        bounds=(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]),
        method="bounded",
        options={"xatol": 1e-3},
    )
    found_rate, likelihood = at(float(found.x))
    return NoiseModel(found_rate, float(np.exp(found.x)), likelihood)


def _likeliest_rate(
    right: NDArray[np.float64], wrong: NDArray[np.float64], rate: float | None
) -> tuple[float, float]:
    """Return (ε, mean log-likelihood) for the mixture (1 − ε)·right + ε·wrong, ε given or found.

    The log-likelihood is concave in ε: bisection on the sign of its slope.
    """
    tiny = np.finfo(np.float64).tiny
    gap = wrong - right
    if rate is None:
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            if float(np.sum(gap / np.maximum(right + middle * gap, tiny))) > 0:
                low = middle
            else:
                high = middle
        rate = (low + high) / 2
    return rate, float(np.mean(np.log(np.maximum(right + rate * gap, tiny))))
