"""Gradient flow and gradient descent on the squared loss, eigenvector by eigenvector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.checks import (
    check_columns,
    check_outputs,
    check_rate,
    check_ridge,
    check_targets,
    check_time,
    check_whole,
)
from ntkdist.learning.spectrum import Spectrum, read_rows

# Longer time constants, in units of the shortest, belong to eigenvalues within the rounding of
# float32 entries.
_LONGEST = 1e8


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """Gradient flow of the linearised network on the squared loss.

    A ridge ρ adds (ρ/2N)‖θ − θ_0‖² to the loss, which pulls the parameters back to their initial
    values: f_∞(x) is then kernel ridge regression on f_0's residuals, for training images as for
    others.

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

        Args:
            time: t, 0 to infinity.

        Returns:
            λ(1 − e^{−η(λ+ρ)t/N})/(λ + ρ), (N,).

        Raises:
            InputError: For a time below 0.
        """
        moved = self._moved(time)
        values = self.spectrum.values
        return moved * (values / (values + self.ridge)) if self.ridge else moved

    def gain(self, time: float) -> NDArray[np.float64]:
        """Return the factors by which ``distances`` become coefficients of Θ(x, X)V, (N,).

        Args:
            time: t, 0 to infinity.

        Returns:
            (1 − e^{−η(λ+ρ)t/N})/(λ + ρ), with its limit ηt/N where λ + ρ is 0. At infinity,
            eigenvalues within rounding of 0 give 0: the pseudo-inverse.

        Raises:
            InputError: For a time below 0.
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

        Args:
            time: t, 0 to infinity.

        Returns:
            f_0(X) + H(H + ρI)⁻¹(I − e^{−η(H+ρI)t/N})(Y − f_0(X)).

        Raises:
            InputError: For a time below 0.
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
