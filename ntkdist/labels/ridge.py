"""A ridge, and with it the noise rate, from the given labels alone.

Under each ridge the leave-one-out predictions make the given labels more or less likely
(``NoiseModel``). The ridge under which they are most likely predicts best; no true label is
looked at, and no image is predicted with its own label.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.labels.checks import check_labels
from ntkdist.labels.class_matrix import one_hot
from ntkdist.labels.leave_one_out import Predict, predictor
from ntkdist.labels.noise import (
    CLASS_CONDITIONAL,
    EVIDENCE,
    SYMMETRIC,
    NoiseEstimate,
    NoiseModel,
    class_conditional_log_likelihoods,
    estimate_noise,
    fit_noise,
    may_be_class_conditional,
)
from ntkdist.linalg import submatrix

# Half decades; the small end is for clean labels, the large one for mostly wrong ones.
LADDER = tuple(float(f"{10.0 ** (k / 2):.2g}") for k in range(-8, 3))
# Eigendecompositions cost N³: a sample of this size gives the noise rate within a point or two.
MOST_IMAGES = 3000
# What ``posterior`` works best with, whatever the noise: its targets become clean.
POSTERIOR_RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class RidgeChoice:
    """A ridge and what the given labels look like under it.

    Attributes:
        ridge: The likeliest, relative to the mean of the Gram's diagonal.
        estimate: The noise under it; its ``pred_probs`` are (N, K) leave-one-out probabilities,
            or None where a sample was looked at.
        tried: Every ridge with its model, in ascending order.
        images: How many images were looked at.
        eigenvalues: (images,) float64 of their Gram over the mean of its diagonal, descending:
            on the scale of the ridges.
    """

    ridge: float
    estimate: NoiseEstimate
    tried: tuple[tuple[float, NoiseModel], ...]
    images: int
    eigenvalues: NDArray[np.float64]

    @property
    def noise(self) -> NoiseModel:
        """Noise rate, scale and mean log-likelihood under the ridge."""
        return self.estimate.model


def choose_ridge(
    gram: Any,
    labels: Any,
    num_classes: int,
    *,
    noise: str = "auto",
    noise_rate: float | None = None,
    locked: NDArray[np.bool_] | None = None,
    ridges: tuple[float, ...] = LADDER,
    max_images: int = MOST_IMAGES,
    seed: int = 0,
) -> RidgeChoice:
    """Return the ridge under which the given labels are most likely, and their noise rate.

    Args:
        gram: (N, N) symmetric, anything that can be sliced by rows: NumPy, a ``GramStore``,
            a Zarr array.
        labels: (N,) given labels in 0..K−1.
        num_classes: K.
        noise: Kind of noise: ``auto``, ``symmetric`` or ``class-conditional``.
        noise_rate: ε of symmetric noise where it is known; None estimates it.
        locked: (N,) bool, labels known to be right.
        ridges: Those to try, relative to the mean of the diagonal, > 0.
        max_images: Larger sets are judged by a sample of this many images.
        seed: Seed of the sample.

    Returns:
        The choice.

    Raises:
        InputError: For labels, ridges or a matrix that do not fit.
    """
    from scipy.linalg import eigh

    n = int(gram.shape[0])
    given = check_labels(labels, num_classes, n)
    if not ridges or not all(np.isfinite(r) and r > 0 for r in ridges):
        raise InputError(f"ridges={ridges!r} must be finite numbers above 0")
    if max_images < 2:
        raise InputError(f"max_images={max_images} must be at least 2")
    chosen = np.arange(n)
    if n > max_images:
        chosen = np.sort(np.random.default_rng(seed).permutation(n)[:max_images])
    sample = submatrix(gram, chosen, chosen)
    if not np.isfinite(sample).all():
        raise InputError("the Gram matrix holds NaN or infinity; ntkdist status names the tile")
    mean = float(np.mean(np.diagonal(sample)))
    if not mean > 0:
        raise InputError(
            "the Gram matrix has a diagonal of zeros: the images hold nothing, as black ones do; "
            "give other images"
        )
    values, vectors = eigh(sample / mean, overwrite_a=True, driver="evd")
    # rounding leaves eigenvalues a little below zero
    values = np.maximum(values, 0.0)
    squares = vectors**2
    some, sure = given[chosen], None if locked is None else locked[chosen]

    def predicts(ridge: float) -> Predict:
        scaled = 1.0 / (values + ridge)

        def solve(b: NDArray[np.float64]) -> NDArray[np.float64]:
            return vectors @ (scaled[:, None] * (vectors.T @ b))

        return predictor(solve, squares @ scaled)

    Y = one_hot(some, num_classes)
    rungs = sorted(map(float, ridges))
    predictions = [predicts(ridge)([Y])[0] for ridge in rungs]
    tried = [
        (ridge, fit_noise(c, some, noise_rate, sure))
        for ridge, c in zip(rungs, predictions, strict=True)
    ]
    best = max(tried, key=lambda pair: pair[1].log_likelihood)[0]
    # each kind of noise has its own likeliest ridge
    other = best
    if noise_rate is None and may_be_class_conditional(noise, len(some), num_classes):
        rates = [model.rate for _, model in tried]
        totals = class_conditional_log_likelihoods(predictions, some, rates, sure)
        other = rungs[int(np.argmax(totals))]

    def estimated(ridge: float, kind: str) -> NoiseEstimate:
        return estimate_noise(
            predicts(ridge),
            some,
            num_classes,
            noise=kind,
            noise_rate=noise_rate,
            locked=sure,
            predictions=predictions[rungs.index(ridge)],
            seed=seed,
        )

    estimate = estimated(other, noise)
    if estimate.model.kind == CLASS_CONDITIONAL:
        best = other
    elif other != best:
        known = {name: getattr(estimate, name) for name in ("reason", *EVIDENCE)}
        estimate = replace(estimated(best, SYMMETRIC), **known)
    if len(chosen) < n:
        estimate = replace(estimate, pred_probs=None)
    return RidgeChoice(best, estimate, tuple(tried), len(chosen), values[::-1].copy())
