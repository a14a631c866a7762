"""The probability of each class for each image, given all labels, some of them wrong.

Leave-one-out predictions give class probabilities of an image from the labels of the others; the
noise model gives the likelihood of its own label; their product is the posterior. The posterior
replaces the given labels as regression targets and predictions are computed again, for a few
rounds of one solution H⁻¹q each. Wrong labels bias the first round; in later rounds an image's own
label leaks back through its neighbours. A mean of the first and the last round ranks labels better
than either.

A symmetric noise rate is estimated in the first round only: because of that leak, later fits would
find less noise. The matrix of class-conditional noise is estimated again in every round: more
certain predictions separate confused classes from mislabelled ones better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels.class_matrix import one_hot, product
from ntkdist.labels.leave_one_out import (
    centered_leave_one_out,
    class_shares,
    predictor,
    probabilities,
)
from ntkdist.labels.noise import (
    CLASS_CONDITIONAL,
    NoiseEstimate,
    NoiseModel,
    best_scale,
    class_conditional_model,
    estimate_noise,
    likelihoods,
    maximise_transition,
    posterior_of,
    share_wrong,
    skill_of,
)

# Most rounds after the first. With few wrong labels two are enough; with many, more rounds help.
ROUNDS = 8
# The rounds end when a row's probabilities, summed over classes, change by less on average.
SETTLED = 1e-3
# Share of the first round in the mean that ranks labels.
FIRST_SHARE = 1 / 3
# Alternations of scale and T when a sample's T is fitted to all images.
REFITS = 5


@dataclass(frozen=True, eq=False)
class Posterior:
    """Class probabilities of each image given all labels.

    Attributes:
        noise: The noise model, and the scale of the first round.
        estimate: How the noise model was chosen.
        probabilities: (N, K) probability of each class, the likelihood of the image's own given
            label included; rows sum to 1. Of the last round.
        pred_probs: (N, K) the same without the likelihood of its own label: a weighted mean of the
            leave-one-out probabilities of the first and the last round; rows sum to 1.
        quality: (N,) probability that the given label is right, from ``pred_probs``.
        accuracy: Share of the given labels that leave-one-out predictions equal in the first round.
        rounds: Number of rounds after the first.
    """

    noise: NoiseModel
    estimate: NoiseEstimate
    probabilities: NDArray[np.float64]
    pred_probs: NDArray[np.float64]
    quality: NDArray[np.float64]
    accuracy: float
    rounds: int


def class_posterior(
    inverse: Any,
    diagonal: NDArray[np.float64],
    G: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    noise: str = "auto",
    noise_rate: float | None = None,
    estimate: NoiseEstimate | None = None,
    first_probs: NDArray[np.float64] | None = None,
    rounds: int = ROUNDS,
    locked: NDArray[np.bool_] | None = None,
    on_round: Callable[[int], None] | None = None,
) -> Posterior:
    """Return the probability of each class for each image, given labels some of which are wrong.

    A round: centered leave-one-out predictions c from the current probabilities q as targets,
    p_ik ∝ π_k exp(τ c_ik), with the τ that makes the given labels most likely, and
    q_ik ∝ p_ik P(a_i | k) by the noise model.

    Args:
        inverse: H⁻¹ (N, N), anything ``as_inverse`` takes.
        diagonal: (N,) its diagonal.
        G: (N, K) H⁻¹Y of the given labels.
        labels: (N,) given labels in 0..K−1.
        noise: ``auto``, ``symmetric`` or ``class-conditional``; unused with an estimate.
        noise_rate: ε of symmetric noise; None estimates it.
        estimate: Noise as ``choose_ridge`` estimates it; None estimates it from this inverse.
        first_probs: (N, K) probabilities of the first round, such as another model's out-of-sample
            predictions; None takes those of the estimate, or computes them from this inverse.
        rounds: Most rounds after the first.
        locked: (N,) bool, labels known to be right.
        on_round: Called with the number of each finished round.

    Returns:
        The posterior.

    Source:
        This package's own: expectation maximisation with the prediction of Rasmussen and Williams
        2006, equation 5.12, and the likelihood of a noise model.
    """
    n, K = G.shape
    if locked is not None and not locked.any():
        locked = None
    shares = class_shares(labels, K)
    predictions = centered_leave_one_out(G, diagonal, one_hot(labels, K))
    predict = predictor(partial(product, inverse), diagonal)
    if estimate is None:
        estimate = estimate_noise(
            predict,
            labels,
            K,
            noise=noise,
            noise_rate=noise_rate,
            locked=locked,
            predictions=predictions,
        )
    model, symmetric = estimate.model, estimate.symmetric
    conditional = model.kind == CLASS_CONDITIONAL
    T = model.transition
    if first_probs is not None:
        first = first_probs
    elif estimate.first_probs is not None:
        first = estimate.first_probs
    else:  # the estimate is that of a sample
        for _ in range(REFITS if conditional else 1):
            first = probabilities(predictions, best_scale(predictions, labels, T, locked), shares)
            if conditional:
                T = maximise_transition(first, T, labels, symmetric.rate, locked)
    label_likelihoods = likelihoods(T, labels, locked)
    q, p, done = posterior_of(first, label_likelihoods, labels), first, 0
    for done in range(1, rounds + 1):
        centered = predict([q])[0]
        p = probabilities(centered, best_scale(centered, labels, T, locked), shares)
        if conditional:
            T = maximise_transition(p, T, labels, symmetric.rate, locked)
            label_likelihoods = likelihoods(T, labels, locked)
        before, q = q, posterior_of(p, label_likelihoods, labels)
        if on_round is not None:
            on_round(done)
        if float(np.abs(q - before).sum(axis=1).mean()) < SETTLED:
            break
    mixed = FIRST_SHARE * first + (1 - FIRST_SHARE) * p
    quality = posterior_of(mixed, label_likelihoods, labels)[np.arange(n), labels]
    if conditional:
        count = n if locked is None else int((~locked).sum())
        rate = share_wrong(p, T, locked)
        model = class_conditional_model(
            T, model.scale, rate, model.log_likelihood, symmetric, count
        )
    return Posterior(
        noise=model,
        estimate=replace(
            estimate,
            model=model,
            first_probs=first,
            # under class-conditional noise, errors of the kernel count as wrong labels
            skill=estimate.skill if conditional else skill_of(first, labels),
        ),
        probabilities=q,
        pred_probs=mixed,
        quality=quality,
        accuracy=float(np.mean(first.argmax(axis=1) == labels)),
        rounds=done,
    )
