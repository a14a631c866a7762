"""A ridge, and with it the noise rate, from the given labels alone.

Under each ridge the leave-one-out predictions make the given labels more or less likely
(``NoiseModel``). The ridge under which they are most likely predicts best; no true label is
looked at, and no image is predicted with its own label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.labels.class_matrix import check_labels, one_hot
from ntkdist.labels.leave_one_out import NoiseModel, fit_noise, leave_one_out, probabilities
from ntkdist.linalg import submatrix

# Half decades; the small end is for clean labels, the large one for mostly wrong ones.
LADDER = tuple(float(f"{10.0 ** (k / 2):.2g}") for k in range(-8, 3))
# Eigendecompositions cost N³: a sample of this size says it within a percent or two.
MOST_IMAGES = 3000
# What ``posterior`` works best with, whatever the noise: its targets become clean.
POSTERIOR_RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class RidgeChoice:
    """A ridge and what the given labels look like under it.

    Attributes:
        ridge: The likeliest, relative to the mean of the Gram's diagonal.
        noise: Noise rate, scale and mean log-likelihood under it.
        tried: Every ridge with its model, in ascending order.
        images: How many images were looked at.
        pred_probs: (N, K) leave-one-out probabilities under that ridge; None where a sample
            was looked at.
        eigenvalues: (images,) float64 of their Gram over the mean of its diagonal, descending:
            on the scale of the ridges.
    """

    ridge: float
    noise: NoiseModel
    tried: tuple[tuple[float, NoiseModel], ...]
    images: int
    pred_probs: NDArray[np.float64] | None
    eigenvalues: NDArray[np.float64]


def choose_ridge(
    gram: Any,
    labels: Any,
    num_classes: int,
    *,
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
    values, vectors = eigh(sample / mean, overwrite_a=True)
    # rounding leaves eigenvalues a little below zero
    values = np.maximum(values, 0.0)
    Y = one_hot(given[chosen], num_classes)
    inside, squares = vectors.T @ Y, vectors**2
    tried: list[tuple[float, NoiseModel]] = []
    for ridge in sorted(ridges):
        scaled = 1.0 / (values + ridge)
        G = vectors @ (scaled[:, None] * inside)
        predictions = leave_one_out(G, squares @ scaled, Y)
        noise = fit_noise(predictions, given[chosen])
        if not tried or noise.log_likelihood > max(m.log_likelihood for _, m in tried):
            best, best_noise, best_predictions = float(ridge), noise, predictions
        tried.append((float(ridge), noise))
    probs = probabilities(best_predictions, best_noise.scale) if len(chosen) == n else None
    return RidgeChoice(best, best_noise, tuple(tried), len(chosen), probs, values[::-1].copy())
