"""The choice of a ridge, and of the noise rate with it, from the given labels alone.

Under each ridge the leave-one-out predictions give the labels a likelihood (``NoiseModel``). The
ridge with the largest is chosen: no true label is needed, and no image is predicted with its own
label.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import (
    check_classes,
    check_labels,
    check_ridges,
    check_seed,
    check_square,
    check_whole,
)
from ntkdist.errors import InputError, shown
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
from ntkdist.labels.options import Options, check_locked, check_noise_rate
from ntkdist.linalg import submatrix

# Half decades: small ridges suit clean labels, large ones labels that are mostly wrong.
LADDER = tuple(float(f"{10.0 ** (k / 2):.2g}") for k in range(-8, 3))
# An eigendecomposition costs N³; this many images give the noise rate within 0.02.
MOST_IMAGES = 3000
# The best ridge of ``posterior`` at any noise rate, because its targets become clean.
POSTERIOR_RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class RidgeChoice:
    """A ridge and the noise of the given labels under it.

    Attributes:
        ridge: The chosen ridge, relative to the mean of the Gram's diagonal.
        estimate: The noise under it; its ``first_probs`` are (N, K) leave-one-out
            probabilities, or None if a sample was used.
        tried: Every ridge with its model, in ascending order.
        images: Number of images used.
        eigenvalues: (images,) float64 of their Gram divided by the mean of its diagonal,
            descending; on the scale of the ridges.
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
    """Return the ridge under which the given labels are most likely, and the noise under it.

    Args:
        gram: (N, N) symmetric, anything that can be sliced by rows: NumPy, a ``GramStore``,
            a Zarr array.
        labels: (N,) given labels in 0..K−1.
        num_classes: K.
        noise: Kind of noise: ``auto``, ``symmetric`` or ``class-conditional``.
        noise_rate: ε of symmetric noise where it is known; None estimates it.
        locked: (N,) bool, labels known to be right.
        ridges: Ridges to try, relative to the mean of the diagonal, > 0.
        max_images: From a larger set, a sample of this many images is used.
        seed: Seed of the sample and of ``estimate_noise``.

    Returns:
        The choice.

    Raises:
        InputError: For labels, ridges or a matrix that do not fit.
    """
    from scipy.linalg import eigh

    gram = check_square("gram", gram)
    n = int(gram.shape[0])
    given = check_labels(labels, num_classes, n)
    num_classes = check_classes(num_classes)
    ladder = check_ridges(ridges)
    if not ladder or not ladder[0] > 0:
        raise InputError(f"ridges={shown(ridges)} must be finite numbers above 0")
    check_seed(seed)
    Options(noise=noise, noise_rate=noise_rate)
    check_noise_rate(noise_rate, num_classes)
    locked = None if locked is None else check_locked(locked, n)
    check_whole("max_images", max_images, 2, "give the size of the sample")
    chosen = np.arange(n)
    if n > max_images:
        chosen = np.sort(np.random.default_rng(seed).permutation(n)[:max_images])
    sample = submatrix(gram, chosen, chosen)
    if not np.isfinite(sample).all():
        raise InputError("the Gram matrix holds NaN or infinity; ntkdist status names the tile")
    mean = float(np.mean(np.diagonal(sample)))
    if not mean > 0:
        raise InputError(
            "the Gram matrix has a diagonal of zeros, as that of black images; give other images"
        )
    values, vectors = eigh(sample / mean, overwrite_a=True, driver="evd")
    # rounding leaves eigenvalues a little below zero
    values = np.maximum(values, 0.0)
    squares = vectors**2
    y, lock = given[chosen], None if locked is None else locked[chosen]

    def predict_with(ridge: float) -> Predict:
        scaled = 1.0 / (values + ridge)

        def solve(b: NDArray[np.float64]) -> NDArray[np.float64]:
            return vectors @ (scaled[:, None] * (vectors.T @ b))

        return predictor(solve, squares @ scaled)

    Y = one_hot(y, num_classes)
    predictions = [predict_with(ridge)([Y])[0] for ridge in ladder]
    tried = [
        (ridge, fit_noise(c, y, noise_rate, lock))
        for ridge, c in zip(ladder, predictions, strict=True)
    ]
    best = max(tried, key=lambda pair: pair[1].log_likelihood)[0]
    # each kind of noise has its own most likely ridge
    conditional_best = best
    if noise_rate is None and may_be_class_conditional(noise, len(y), num_classes):
        rates = [model.rate for _, model in tried]
        totals = class_conditional_log_likelihoods(predictions, y, rates, lock)
        conditional_best = ladder[int(np.argmax(totals))]

    def estimated(ridge: float, kind: str) -> NoiseEstimate:
        return estimate_noise(
            predict_with(ridge),
            y,
            num_classes,
            noise=kind,
            noise_rate=noise_rate,
            locked=lock,
            predictions=predictions[ladder.index(ridge)],
            seed=seed,
        )

    estimate = estimated(conditional_best, noise)
    if estimate.model.kind == CLASS_CONDITIONAL:
        best = conditional_best
    elif conditional_best != best:
        known = {name: getattr(estimate, name) for name in ("reason", *EVIDENCE)}
        estimate = replace(estimated(best, SYMMETRIC), **known)
    if len(chosen) < n:
        estimate = replace(estimate, first_probs=None)
    return RidgeChoice(best, estimate, tuple(tried), len(chosen), values[::-1].copy())
