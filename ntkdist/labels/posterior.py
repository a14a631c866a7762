"""Which class each image most likely is of, given all labels, wrong ones among them.

Leave-one-out predictions say what the other images' labels make of an image; the noise rate says
how far its own label is to be believed; together they give a probability of each class. Those
probabilities are better labels than the given ones, so they take their place, and the
predictions are made again: a few rounds, each one product with H⁻¹. The first round hears every
wrong label, the last one also echoes: an image's own label has gone into its neighbours'
probabilities. Their mean ranks labels better than either, and is what is returned.

The noise rate stays what the first round says: later fits would hear the echo and find no noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels.class_matrix import one_hot, product
from ntkdist.labels.leave_one_out import NoiseModel, fit_noise, leave_one_out, probabilities

# Rounds after the first; with most labels wrong they go on to help, with few they settle in two.
ROUNDS = 8
# Mean change of a row's probabilities, summed over classes, that ends the rounds.
SETTLED = 1e-3


@dataclass(frozen=True, eq=False)
class Posterior:
    """What all labels together say about each image.

    Attributes:
        noise: Noise rate, and the scale of the first round.
        probabilities: (N, K) probability that an image is of a class, its own given label
            counted; rows sum to 1. Of the last round.
        pred_probs: (N, K) the same without its own label: leave-one-out predictions, the mean
            of the first and the last round; rows sum to 1.
        quality: (N,) probability that the given label is right, from ``pred_probs``.
        rounds: How many rounds were made after the first.
    """

    noise: NoiseModel
    probabilities: NDArray[np.float64]
    pred_probs: NDArray[np.float64]
    quality: NDArray[np.float64]
    rounds: int


def class_posterior(
    inverse: Any,
    diagonal: NDArray[np.float64],
    G: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    noise_rate: float | None = None,
    first_probs: NDArray[np.float64] | None = None,
    rounds: int = ROUNDS,
    locked: NDArray[np.bool_] | None = None,
    on_round: Callable[[int], None] | None = None,
) -> Posterior:
    """Return the probability of each class for each image, labels being wrong at some rate.

    A round: f_{−i} from the current probabilities q as targets, p_i = softmax(T f_{−i}), T such
    that the given labels are most likely, q_ik ∝ p_ik ((1 − ε) [k = a_i] + ε/(K−1) [k ≠ a_i]).

    Args:
        inverse: H⁻¹ (N, N), anything ``as_inverse`` takes.
        diagonal: (N,) its diagonal.
        G: (N, K) H⁻¹Y of the given labels.
        labels: (N,) given labels in 0..K−1.
        noise_rate: ε; None estimates it from the first round (``fit_noise``).
        first_probs: (N, K) predictions to begin with, such as ``RidgeChoice.pred_probs``; None
            makes them from this inverse.
        rounds: The most rounds after the first.
        locked: (N,) bool, labels known to be right.
        on_round: Called with the number of each finished round.

    Returns:
        The posterior.

    Source:
        This package's own: expectation maximisation with Rasmussen and Williams 2006,
        equation 5.12, as its prediction and symmetric label noise as its likelihood.
    """
    K = G.shape[1]
    free = np.ones(len(labels), bool) if locked is None else ~locked
    Y = one_hot(labels, K)
    predictions = leave_one_out(G, diagonal, Y)
    noise = fit_noise(predictions, labels, noise_rate, locked)
    believed = np.where(Y > 0, 1 - noise.rate, noise.rate / max(K - 1, 1))

    def update(p: NDArray[np.float64]) -> NDArray[np.float64]:
        q = p * believed
        total = q.sum(axis=1, keepdims=True)
        # a label that the predictions exclude under no noise stays as it is
        np.divide(q, total, out=q, where=total > 0)
        keep = ~free | (total[:, 0] <= 0)
        q[keep] = Y[keep]
        return q

    first = probabilities(predictions, noise.scale) if first_probs is None else first_probs
    q, p, done = update(first), first, 0
    for done in range(1, rounds + 1):
        predictions = leave_one_out(product(inverse, q), diagonal, q)
        scale = fit_noise(predictions, labels, noise.rate, locked).scale
        p = probabilities(predictions, scale)
        before, q = q, update(p)
        if on_round is not None:
            on_round(done)
        if float(np.abs(q - before).sum(axis=1).mean()) < SETTLED:
            break
    both = (first + p) / 2
    quality = update(both)[np.arange(len(labels)), labels]
    return Posterior(noise, q, both, quality, done)
