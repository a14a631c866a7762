"""The Gaussian distribution over initialisations of the outputs during training.

A network starts as a draw f_0 ~ GP(0, K) of the NNGP and changes linearly, so that its outputs are
Gaussian at any time t. Their mean is gradient flow from 0, their covariance follows from K. The
outputs of an image are independent and have equal covariances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.checks import check_columns, check_outputs, check_ridge, check_targets
from ntkdist.learning.dynamics.flow import GradientFlow
from ntkdist.learning.spectrum import Spectrum, dense_square, read_rows

QUARTERS = 4


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Covariance of the outputs over initialisations, at any time of gradient flow.

    Means are ``flow.train`` and ``flow.test``. With K in the place of the NTK everywhere, only the
    last layer trains.

    Attributes:
        flow: The dynamics from initial outputs of 0.
        nngp: (N, N) VᵀK(X, X)V, V the eigenvectors of the NTK Gram.
    """

    flow: GradientFlow
    nngp: NDArray[np.float64]

    @classmethod
    def of(cls, flow: GradientFlow, nngp: Any) -> Ensemble:
        """Prepare the covariances of all times.

        Args:
            flow: Dynamics with ``initial=None``.
            nngp: (N, N) K of the same images, sliced by rows.

        Returns:
            The ensemble.

        Raises:
            InputError: If K does not fit, or the flow has initial outputs other than 0.

        Source:
            Lee et al. 2019, equations 13 to 16.
        """
        if flow.initial.any():
            raise InputError(
                "the dynamics have initial outputs, but an ensemble averages over them; prepare "
                "them with initial=None"
            )
        K = dense_square(nngp)
        check_columns(K, flow.images, "the NNGP Gram")
        V = flow.spectrum.vectors
        return cls(flow, V.T @ K @ V)

    def train_covariance(self, time: float) -> NDArray[np.float64]:
        """Return the covariance of f_t(X), (N, N).

        Args:
            time: t, 0 to infinity.

        Returns:
            (I − A)K(I − A) with A = H(H + ρI)⁻¹(I − e^{−η(H+ρI)t/N}).

        Raises:
            InputError: For a time below 0.
        """
        V, kept = self.flow.spectrum.vectors, 1.0 - self.flow.learned(time)
        return V @ (kept[:, None] * self.nngp * kept) @ V.T

    def train_variance(self, time: float) -> NDArray[np.float64]:
        """Return the diagonal of ``train_covariance``, (N,)."""
        kept = self.flow.spectrum.vectors * (1.0 - self.flow.learned(time))
        return np.maximum(np.einsum("ij,ij->i", kept @ self.nngp, kept), 0.0)

    def test_covariance(
        self,
        ntk: NDArray[np.float64],
        nngp: NDArray[np.float64],
        prior: NDArray[np.float64],
        time: float,
    ) -> NDArray[np.float64]:
        """Return the covariance of f_t at images that are not trained on, (M, M).

        Args:
            ntk: (M, N) ``flow.project`` of Θ(x, X).
            nngp: (M, N) ``flow.project`` of K(x, X).
            prior: (M, M) K(x, x').
            time: t, 0 to infinity.

        Returns:
            K(x, x') + B K(X, X) Bᵀ − B K(X, x') − K(x, X) Bᵀ with
            B = Θ(x, X)(H + ρI)⁻¹(I − e^{−η(H+ρI)t/N}).

        Raises:
            InputError: For shapes that do not fit or a time below 0.
        """
        B = self._pull(ntk, nngp, time)
        if prior.shape != (len(B), len(B)):
            raise InputError(
                f"K of the test images has shape {prior.shape}; ({len(B)}, {len(B)}) is needed"
            )
        mixed = B @ nngp.T
        return prior + B @ self.nngp @ B.T - mixed - mixed.T

    def test_variance(
        self,
        ntk: NDArray[np.float64],
        nngp: NDArray[np.float64],
        prior: NDArray[np.float64],
        time: float,
    ) -> NDArray[np.float64]:
        """Return the diagonal of ``test_covariance`` alone, (M,).

        Args:
            ntk: (M, N) ``flow.project`` of Θ(x, X).
            nngp: (M, N) ``flow.project`` of K(x, X).
            prior: (M,) K(x, x).
            time: t, 0 to infinity.

        Returns:
            (M,) float64, none below 0.

        Raises:
            InputError: For shapes that do not fit or a time below 0.
        """
        B = self._pull(ntk, nngp, time)
        if prior.shape != (len(B),):
            raise InputError(f"K(x, x) has shape {prior.shape}; ({len(B)},) is needed")
        variance = prior + np.einsum("ij,ij->i", B @ self.nngp - 2 * nngp, B)
        return np.maximum(variance, 0.0)

    def _pull(
        self, ntk: NDArray[np.float64], nngp: NDArray[np.float64], time: float
    ) -> NDArray[np.float64]:
        """Return B = Θ(x, X)(H + ρI)⁻¹(I − e^{−η(H+ρI)t/N})V, (M, N)."""
        check_columns(ntk, self.flow.images, "the projected NTK")
        if nngp.shape != ntk.shape:
            raise InputError(
                f"the projected NNGP has shape {nngp.shape}, the projected NTK {ntk.shape}; both "
                "are needed for the same images"
            )
        return ntk * self.flow.gain(time)


@dataclass(frozen=True, eq=False)
class NngpPosterior:
    """The Bayesian posterior of an infinitely wide network in which all layers are inferred.

    Attributes:
        spectrum: Of K(X, X), without noise.
        coefficients: (N, K) VᵀY.
        noise: σ², the variance of the observation noise (absolute).
    """

    spectrum: Spectrum
    coefficients: NDArray[np.float64]
    noise: float

    @classmethod
    def of(cls, nngp: Any, targets: Any, *, noise: float = 0.0) -> NngpPosterior:
        """Prepare the posterior.

        Args:
            nngp: (N, N) K(X, X), sliced by rows, or its ``Spectrum``.
            targets: (N, K) Y.
            noise: σ², relative to the mean of K's diagonal, ≥ 0; with 0, eigenvalues within
                rounding of 0 are left out.

        Returns:
            The posterior.

        Raises:
            InputError: For a matrix, targets or noise that do not fit.

        Source:
            Lee et al. 2018, equations 8 and 9; Rasmussen and Williams 2006, equation 2.23.
        """
        relative = check_ridge(noise, "noise")
        spectrum = nngp if isinstance(nngp, Spectrum) else Spectrum.of(nngp)
        Y = check_targets(targets, len(spectrum))
        absolute = relative * float(spectrum.values.mean())
        return cls(spectrum, spectrum.coefficients(Y), absolute)

    def project(self, cross: Any) -> NDArray[np.float64]:
        """Return K(x, X)V, (M, N), of a test × train K sliced by rows."""
        check_columns(cross, len(self.spectrum), "the test × train kernel")
        return read_rows(cross, lambda band: band @ self.spectrum.vectors)

    def mean(self, projected: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return K(x, X)(K + σ²I)⁻¹Y, (M, K), of projected (M, N)."""
        return projected @ (self._inverse[:, None] * self.coefficients)

    def covariance(
        self, projected: NDArray[np.float64], prior: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return K(x, x') − K(x, X)(K + σ²I)⁻¹K(X, x'), (M, M), of projected (M, N)."""
        return prior - (projected * self._inverse) @ projected.T

    def variance(
        self, projected: NDArray[np.float64], prior: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the diagonal of the covariance, (M,), from the prior's diagonal (M,)."""
        return np.maximum(prior - np.square(projected) @ self._inverse, 0.0)

    @property
    def _inverse(self) -> NDArray[np.float64]:
        shifted = self.spectrum.values + self.noise
        zero = shifted <= len(shifted) * np.finfo(np.float64).eps * shifted[0]
        return np.where(zero, 0.0, 1.0 / np.where(zero, 1.0, shifted))


@dataclass(frozen=True, eq=False)
class Spread:
    """Spread of an ensemble's predictions, and how well it indicates errors.

    Attributes:
        std: (M,) standard deviation of each output of an image over initialisations.
        disagreement: (M,) share of networks that put the ensemble's second class above its first.
        std_auc: Probability that a wrongly predicted image has a larger ``std`` than a rightly
            predicted one: 0.5 without any relation, None where all or none are right.
        disagreement_auc: The same of ``disagreement``.
        errors: (4,) share of wrong predictions in each quarter of the images, that of the least
            disagreement first; (M,) for fewer than 4 images.
    """

    std: NDArray[np.float64]
    disagreement: NDArray[np.float64]
    std_auc: float | None
    disagreement_auc: float | None
    errors: NDArray[np.float64]


def spread_of(mean: Any, variance: Any, labels: NDArray[np.int64]) -> Spread:
    """Compare the spread of an ensemble with its errors.

    Args:
        mean: (M, K) outputs, K ≥ 2.
        variance: (M,) variance of each output; outputs of an image are independent.
        labels: (M,) 0..K−1.

    Returns:
        The spread.

    Raises:
        InputError: For shapes that do not fit.
    """
    from scipy.special import ndtr

    f = np.asarray(mean, dtype=np.float64)
    std = np.sqrt(check_outputs("variances", variance, (len(f),)))
    top = np.sort(f, axis=1)
    margin = top[:, -1] - top[:, -2]
    # The difference of two outputs has twice the variance of one.
    scale = np.maximum(math.sqrt(2) * std, np.finfo(np.float64).tiny)
    disagreement = ndtr(-margin / scale)
    wrong = f.argmax(axis=1) != labels
    order = np.argsort(-margin / scale, kind="stable")
    errors = np.array(
        [wrong[part].mean() for part in np.array_split(order, min(QUARTERS, len(order)))]
    )
    return Spread(std, disagreement, _auc(std, wrong), _auc(-margin / scale, wrong), errors)


def _auc(scores: NDArray[np.float64], chosen: NDArray[np.bool_]) -> float | None:
    """Return the probability that a chosen item scores above another, ties counted half.

    None where all or none are chosen (Mann and Whitney 1947).
    """
    from scipy.stats import rankdata

    count = int(chosen.sum())
    if count in (0, len(chosen)):
        return None
    ranks = rankdata(scores)[chosen].sum() - count * (count + 1) / 2
    return float(ranks / (count * (len(chosen) - count)))
