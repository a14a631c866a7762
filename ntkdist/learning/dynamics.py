"""Training of infinitely wide networks over time, on the squared loss.

For the loss (1/2N) Σ‖f(x_i) − y_i‖² and θ̇ = −η ∇loss, the outputs at infinite width obey
ḟ = −(η/N) Θ(·, X)(f(X) − Y). Along an eigenvector of H = Θ(X, X) with eigenvalue λ, the distance to
the targets falls as e^{−ηλt/N}. For small η, t is the number of steps of gradient descent.
(neural-tangents averages the loss over the K outputs too: its time is K times this one.)

A network starts as a draw f_0 ~ GP(0, K) of the NNGP and changes linearly, so that its outputs are
Gaussian at any time t. Their mean is gradient flow from 0, their covariance follows from K. The
outputs of an image are independent and have equal covariances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_whole
from ntkdist.errors import InputError
from ntkdist.learning.checks import (
    check_columns,
    check_outputs,
    check_rate,
    check_targets,
    check_time,
    check_times,
)
from ntkdist.learning.cross_entropy import CrossEntropyFlow, cross_entropy_loss
from ntkdist.learning.evaluation import accuracy
from ntkdist.learning.spectrum import Spectrum, dense_square, read_rows
from ntkdist.linalg import check_ridge

# Longer time constants, in units of the shortest, belong to eigenvalues within the rounding of
# float32 entries.
_LONGEST = 1e8

QUARTERS = 4


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """Gradient flow of the linearised network on the squared loss.

    A ridge ρ adds (ρ/2N)‖θ − θ_0‖² to the loss, which pulls the parameters back to their initial
    values: f_∞(x) is then kernel ridge regression on f_0's residuals, for training images as for
    others.

    Times t run from 0 to infinity; methods that take one raise ``InputError`` for one below 0.

    Attributes:
        spectrum: Of H, without the ridge.
        initial: (N, K) f_0(X).
        distances: (N, K) Vᵀ(Y − f_0(X)), the initial residual along each eigenvector.
        learning_rate: η.
        ridge: ρ, added to the eigenvalues (absolute).
    """

    spectrum: Spectrum
    initial: NDArray[np.float64]
    distances: NDArray[np.float64]
    learning_rate: float
    ridge: float

    @classmethod
    def of(
        cls,
        gram: Any,
        targets: Any,
        *,
        learning_rate: float | str = 1.0,
        ridge: float = 0.0,
        initial: Any = None,
    ) -> GradientFlow:
        """Prepare the dynamics of a training set, the only step that costs O(N³).

        Args:
            gram: (N, N) NTK Gram H, anything that can be sliced by rows, or its ``Spectrum``.
            targets: (N, K) Y.
            learning_rate: η, above 0; ``auto`` takes N/λ_max, half of the largest stable rate,
                with which the first eigenvector has the time constant 1.
            ridge: ≥ 0, relative to the mean of the Gram's diagonal.
            initial: (N, K) f_0(X); None is 0, the mean over initialisations.

        Returns:
            The dynamics.

        Raises:
            InputError: For a matrix, targets or settings that do not fit.

        Source:
            Lee et al. 2019, equations 8 to 11.
        """
        relative = check_ridge(ridge)
        spectrum = gram if isinstance(gram, Spectrum) else Spectrum.of(gram)
        n, largest = len(spectrum), float(spectrum.values[0])
        if not largest > 0:
            raise InputError("the Gram is 0, so that no output changes; are the images all 0?")
        Y = check_targets(targets, n)
        f_0 = check_outputs("initial outputs", initial, (n, Y.shape[1]))
        rate = n / largest if learning_rate == "auto" else check_rate(learning_rate)
        added = relative * float(spectrum.values.mean())
        return cls(spectrum, f_0, spectrum.coefficients(Y - f_0), rate, added)

    @property
    def images(self) -> int:
        """Number N of training images."""
        return len(self.spectrum)

    @property
    def time_constants(self) -> NDArray[np.float64]:
        """N/(η(λ + ρ)), (N,): the time after which each residual is 1/e of the initial one."""
        with np.errstate(divide="ignore"):
            return 1.0 / self._speeds

    @property
    def energy(self) -> NDArray[np.float64]:
        """Share of each eigenvector in ‖Y − f_0(X)‖², (N,); 0 if f_0(X) is Y."""
        squares = np.square(self.distances).sum(axis=1)
        total = float(squares.sum())
        return squares / total if total > 0 else squares

    @property
    def largest_stable_rate(self) -> float:
        """2N/(λ_max + ρ): from this learning rate on, gradient descent diverges."""
        return 2.0 * self.images / (float(self.spectrum.values[0]) + self.ridge)

    @property
    def _speeds(self) -> NDArray[np.float64]:
        """η(λ + ρ)/N, (N,)."""
        return (self.spectrum.values + self.ridge) * (self.learning_rate / self.images)

    def learned(self, time: float) -> NDArray[np.float64]:
        """Return the share of the initial residual that is learned along each eigenvector.

        Returns:
            λ(1 − e^{−η(λ+ρ)t/N})/(λ + ρ), (N,).
        """
        moved = self._moved(time)
        values = self.spectrum.values
        return moved * (values / (values + self.ridge)) if self.ridge else moved

    def gain(self, time: float) -> NDArray[np.float64]:
        """Return the factors by which ``distances`` become coefficients of Θ(x, X)V, (N,).

        Returns:
            (1 − e^{−η(λ+ρ)t/N})/(λ + ρ), with its limit ηt/N where λ + ρ is 0. At infinity,
            eigenvalues within rounding of 0 give 0: the pseudo-inverse.
        """
        t = check_time(time)
        shifted = self.spectrum.values + self.ridge
        zero = shifted <= 0
        if np.isinf(t):
            zero = shifted <= self.images * np.finfo(np.float64).eps * shifted[0]
        limit = 0.0 if np.isinf(t) else t * self.learning_rate / self.images
        return np.where(zero, limit, self._moved(t) / np.where(zero, 1.0, shifted))

    def train(self, time: float) -> NDArray[np.float64]:
        """Return f_t(X), (N, K).

        Returns:
            f_0(X) + H(H + ρI)⁻¹(I − e^{−η(H+ρI)t/N})(Y − f_0(X)).
        """
        shares = self.learned(time)[:, None]
        return self.initial + self.spectrum.vectors @ (shares * self.distances)

    def project(self, cross: Any) -> NDArray[np.float64]:
        """Return a test × train kernel in the eigenbasis, once for all times.

        Args:
            cross: (M, N) Θ(x, X), or K(x, X), sliced by rows.

        Returns:
            (M, N) float64, cross · V.

        Raises:
            InputError: If it has another number of columns, or holds NaN or infinity.
        """
        check_columns(cross, self.images, "the test × train kernel")
        return read_rows(cross, lambda band: band @ self.spectrum.vectors)

    def test(
        self, projected: NDArray[np.float64], time: float, initial: Any = None
    ) -> NDArray[np.float64]:
        """Return f_t(x) of images that are not trained on, (M, K).

        Args:
            projected: (M, N) ``project`` of their kernel with the training images.
            time: t, 0 to infinity.
            initial: (M, K) f_0(x); None is 0.

        Returns:
            f_0(x) + Θ(x, X)(H + ρI)⁻¹(I − e^{−η(H+ρI)t/N})(Y − f_0(X)).

        Raises:
            InputError: For shapes that do not fit or a time below 0.
        """
        check_columns(projected, self.images, "the projected kernel")
        shape = len(projected), self.distances.shape[1]
        f_0 = check_outputs("initial outputs", initial, shape)
        return f_0 + projected @ (self.gain(time)[:, None] * self.distances)

    def _moved(self, time: float) -> NDArray[np.float64]:
        """Return 1 − e^{−η(λ+ρ)t/N}, (N,)."""
        t, speeds = check_time(time), self._speeds
        # An eigenvalue of 0 gives 0 at any time, infinity included.
        return -np.expm1(-np.multiply(speeds, t, where=speeds > 0, out=np.zeros_like(speeds)))


class GradientDescent(GradientFlow):
    """Gradient descent: ``GradientFlow`` with (1 − η(λ + ρ)/N)^k instead of e^{−η(λ+ρ)t/N}.

    Time is the number k of full-batch steps, whole or infinite. Learning rates of at least
    ``largest_stable_rate`` diverge and raise ``InputError``.
    """

    def _moved(self, time: float) -> NDArray[np.float64]:
        """Return 1 − (1 − η(λ+ρ)/N)^k, (N,); above 1 where a step overshoots."""
        steps, speeds = check_time(time), self._speeds
        if not (np.isinf(steps) or steps.is_integer()):
            raise InputError(f"time={time!r} must be a whole number of steps, or inf")
        if not speeds[0] < 2:
            raise InputError(
                f"learning_rate={self.learning_rate:.3g}: steps diverge from "
                f"{self.largest_stable_rate:.3g} on; give less, or 'auto'"
            )
        moving = (speeds > 0) & (speeds < 1)
        exponents = np.zeros_like(speeds)
        np.log1p(-speeds, where=moving, out=exponents)
        np.multiply(exponents, steps, where=moving, out=exponents)
        # expm1 avoids the cancellation in 1 − (1 − speed)^k at small speeds.
        return np.where(speeds < 1, -np.expm1(exponents), 1.0 - _power(1.0 - speeds, steps))


def _power(base: NDArray[np.float64], steps: float) -> NDArray[np.float64]:
    """Return base^steps for |base| ≤ 1; to infinity, 0 where |base| < 1."""
    return np.where(base == 1, 1.0, 0.0) if np.isinf(steps) else base**steps


def squared_loss(outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Return (1/2N) Σ‖f(x_i) − y_i‖² of (N, K) outputs and targets."""
    return float(np.square(outputs - targets).sum() / (2 * len(outputs)))


def log_times(flow: GradientFlow, count: int = 60) -> NDArray[np.float64]:
    """Return 0, times that cover the time constants evenly on a log scale, and infinity.

    Args:
        flow: The dynamics.
        count: How many, 3 or more.

    Returns:
        (count,) ascending, the finite ones from a tenth of the shortest to ten times the longest
        time constant, at most 10⁸ times the shortest.

    Raises:
        InputError: For a count below 3.
    """
    points = check_whole("times", count, 3, "0 and infinity are two of them")
    first = float(flow.time_constants[0])
    last = min(float(flow.time_constants[-1]), _LONGEST * first)
    return np.array([0.0, *np.geomspace(first / 10, 10 * last, points - 2), np.inf])


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

        Returns:
            (I − A)K(I − A) with A = H(H + ρI)⁻¹(I − e^{−η(H+ρI)t/N}).
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
        """Return the diagonal of ``test_covariance`` alone, (M,) float64, none below 0.

        ``prior`` is (M,) K(x, x); the other arguments and the errors are those of
        ``test_covariance``.
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


@dataclass(frozen=True, eq=False)
class CurveLabels:
    """Labels that curves compare outputs with.

    Attributes:
        train: (N,) labels trained on.
        true: (N,) labels before noise was added; None if they are the labels trained on.
        test: (M,) labels of the images that are not trained on.
    """

    train: NDArray[np.int64]
    true: NDArray[np.int64] | None
    test: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Curves:
    """Loss and accuracy over time.

    Attributes:
        times: (T,) t.
        train_loss: (T,) on the training images.
        train_accuracy: (T,) on the training images with the labels trained on.
        true_accuracy: (T,) on the training images with their true labels; None if they are the
            labels trained on.
        test_loss: (T,) on images that are not trained on.
        test_accuracy: (T,) on the same.
    """

    times: NDArray[np.float64]
    train_loss: NDArray[np.float64]
    train_accuracy: NDArray[np.float64]
    true_accuracy: NDArray[np.float64] | None
    test_loss: NDArray[np.float64]
    test_accuracy: NDArray[np.float64]

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the arrays that are not None, by name."""
        return {name: values for name, values in vars(self).items() if values is not None}


def squared_curves(
    flow: GradientFlow,
    projected: NDArray[np.float64],
    labels: CurveLabels,
    targets: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    times: NDArray[np.float64],
) -> Curves:
    """Return the curves of gradient flow on the squared loss.

    Args:
        flow: The dynamics.
        projected: (M, N) ``flow.project`` of the images that are not trained on.
        labels: Labels of all images.
        targets: Function from labels to targets.
        times: (T,) 0 to infinity.

    Returns:
        The curves; losses are (1/2n) Σ‖f − y‖².
    """
    pairs = ((flow.train(t), flow.test(projected, t)) for t in times)
    return _curves(times, pairs, labels, lambda f, y: squared_loss(f, targets(y)))


def cross_entropy_curves(flow: CrossEntropyFlow, cross: Any, labels: CurveLabels) -> Curves:
    """Return the curves of gradient flow on the cross-entropy.

    Args:
        flow: The dynamics.
        cross: (M, N) kernel of the images that are not trained on with the others.
        labels: Labels of all images.

    Returns:
        The curves; losses are (1/n) Σ −log softmax(f)_y.
    """
    K = flow.train.shape[2]
    pairs = zip(flow.train, flow.test(cross), strict=True)
    return _curves(flow.times, pairs, labels, lambda f, y: cross_entropy_loss(f, np.eye(K)[y]))


def _curves(times: Any, pairs: Any, labels: CurveLabels, loss: Callable[..., float]) -> Curves:
    """Return the curves of (train, test) outputs at each time."""
    rows = []
    for f, g in pairs:
        true = np.nan if labels.true is None else accuracy(f, labels.true)
        rows.append(
            (
                loss(f, labels.train), accuracy(f, labels.train), true,
                loss(g, labels.test), accuracy(g, labels.test),
            )
        )  # fmt: skip
    train_loss, train_accuracy, true_accuracy, test_loss, test_accuracy = np.array(rows).T
    return Curves(
        np.asarray(times, dtype=np.float64),
        train_loss,
        train_accuracy,
        None if labels.true is None else true_accuracy,
        test_loss,
        test_accuracy,
    )


@dataclass(frozen=True, eq=False)
class Stopping:
    """A stopping time, and the curves of held-out training images that decide it.

    Attributes:
        time: The time of least held-out loss; the earliest of equals.
        times: (T,) the times that were compared.
        losses: (T,) (1/2n) Σ‖f_t(x) − y‖² over held-out images.
        accuracies: (T,) share of held-out images whose largest output is that of the largest
            target.
        images: Number of held-out images of all folds.
    """

    time: float
    times: NDArray[np.float64]
    losses: NDArray[np.float64]
    accuracies: NDArray[np.float64]
    images: int

    @property
    def index(self) -> int:
        """Index of ``time`` in ``times``."""
        return int(np.argmin(self.losses))


def choose_stopping_time(
    gram: Any,
    targets: Any,
    times: Sequence[float] | NDArray[np.float64],
    *,
    learning_rate: float = 1.0,
    ridge: float = 0.0,
    folds: int = 5,
    rounds: int | None = None,
    seed: int = 0,
    on_fold: Callable[[int, int], None] | None = None,
) -> Stopping:
    """Return the time of least loss on held-out training images.

    Each fold is predicted at all times by gradient flow on the other folds, whose part of the Gram
    is decomposed again. The loss is a mean over training images, so that a time means the same
    for part of them as for all.

    Args:
        gram: (N, N) NTK Gram of the training images, sliced by rows.
        targets: (N, K) Y.
        times: Times to compare, ascending; with infinity as the last one, the held-out curves
            show what stopping gains.
        learning_rate: η.
        ridge: ≥ 0, relative to the mean of the diagonal.
        folds: Number of folds, 2 to N; each costs a decomposition of the other images.
        rounds: How many of the folds are held out; None is all, 1 a single validation split.
        seed: Seed of the folds.
        on_fold: Called after each fold with the number done and the number of all; may raise to
            stop.

    Returns:
        The time and the held-out curves.

    Raises:
        InputError: For a matrix, targets, times or settings that do not fit.
    """
    rate, relative = check_rate(learning_rate), check_ridge(ridge)
    compared = check_times(times)
    H = dense_square(gram)
    Y = check_targets(targets, len(H))
    folds = check_whole("folds", folds, 2, "each holds at least one image", most=len(H))
    if rounds is None:
        rounds = folds
    check_whole("rounds", rounds, 1, "a fold is held out once at most", most=folds)
    parts = np.array_split(np.random.default_rng(seed).permutation(len(H)), folds)
    losses, right, count = np.zeros(len(compared)), np.zeros(len(compared)), 0
    for done, held in enumerate(parts[:rounds], 1):
        rest = np.setdiff1d(np.arange(len(H)), held)
        flow = GradientFlow.of(H[np.ix_(rest, rest)], Y[rest], learning_rate=rate, ridge=relative)
        cross = flow.project(H[np.ix_(held, rest)])
        classes = Y[held].argmax(axis=1)
        for place, time in enumerate(compared):
            f = flow.test(cross, time)
            losses[place] += len(held) * squared_loss(f, Y[held])
            right[place] += np.count_nonzero(f.argmax(axis=1) == classes)
        count += len(held)
        if on_fold is not None:
            on_fold(done, rounds)
    losses /= count
    return Stopping(float(compared[np.argmin(losses)]), compared, losses, right / count, count)
