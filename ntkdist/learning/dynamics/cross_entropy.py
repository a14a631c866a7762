"""Gradient flow on the cross-entropy, integrated numerically as it has no closed form.

Loss (1/N) Σ −y_i · log softmax(f(x_i)), θ̇ = −η ∇loss. At infinite width
ḟ = (η/N) Θ(·, X)(Y − softmax f(X)): all outputs, of training images and of others, follow from
α_t = ∫(Y − softmax f) dt as f_t = f_0 + (η/N) Θ(·, X) α_t, so that N·K unknowns are integrated
and other images cost one product at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.checks import (
    check_columns,
    check_number,
    check_outputs,
    check_rate,
    check_targets,
    check_times,
)
from ntkdist.learning.dynamics import chebyshev
from ntkdist.learning.evaluation import softmax
from ntkdist.learning.spectrum import dense_square, read_rows

# Steps after which the Jacobian's largest eigenvalue is estimated again. It falls as images are
# learned; a rejected step estimates it at once.
_ESTIMATE_EVERY = 10
# Power iteration underestimates.
_SAFETY = 1.2


@dataclass(frozen=True, eq=False)
class CrossEntropyFlow:
    """Gradient flow on the cross-entropy at some times.

    Attributes:
        times: (T,) t, ascending.
        train: (T, N, K) f_t(X), logits.
        alpha: (T, N, K) ∫_0^t (Y − softmax f) ds.
        learning_rate: η.
        products: How often H was multiplied with N × K numbers.
    """

    times: NDArray[np.float64]
    train: NDArray[np.float64]
    alpha: NDArray[np.float64]
    learning_rate: float
    products: int

    def test(self, cross: Any, initial: Any = None) -> NDArray[np.float64]:
        """Return f_t(x) of images that are not trained on, at all times.

        Args:
            cross: (M, N) Θ(x, X), sliced by rows; read once.
            initial: (M, K) f_0(x); None is 0.

        Returns:
            (T, M, K) float64, f_0(x) + (η/N) Θ(x, X) α_t.

        Raises:
            InputError: For shapes that do not fit, or NaN or infinity.
        """
        T, N, K = self.alpha.shape
        check_columns(cross, N, "the test × train kernel")
        scaled = self.alpha.transpose(1, 0, 2).reshape(N, T * K) * (self.learning_rate / N)
        moved = read_rows(cross, lambda band: band @ scaled)
        f_0 = check_outputs("initial outputs", initial, (len(moved), K))
        return f_0 + moved.reshape(len(moved), T, K).transpose(1, 0, 2)


def cross_entropy_flow(
    gram: Any,
    targets: Any,
    times: Sequence[float] | NDArray[np.float64],
    *,
    learning_rate: float = 1.0,
    initial: Any = None,
    tolerance: float = 1e-5,
    on_step: Callable[[float, int], None] | None = None,
) -> CrossEntropyFlow:
    """Integrate gradient flow on the cross-entropy up to the last of some times.

    The Jacobian −(η/N) H·(diag(p) − ppᵀ) has real eigenvalues of at most 0, from (η/N) λ_max down
    to nearly none: stiff. Runge-Kutta-Chebyshev takes long steps without solving anything; its
    stages follow the largest eigenvalue, which falls as images are learned.

    Args:
        gram: (N, N) NTK Gram H, sliced by rows; held in memory.
        targets: (N, K) Y, one-hot or probabilities.
        times: Ascending, from 0 and finite: logits of separable classes grow without limit.
        learning_rate: η.
        initial: (N, K) f_0(X); None is 0.
        tolerance: Largest error of the logits in one step, root mean square relative to 1 plus
            the logit; at least 1e-10, where rounding begins, and below 1.
        on_step: Called after each step with t and the products so far; may raise to stop.

    Returns:
        Outputs at the times.

    Raises:
        InputError: For a matrix, targets, times or settings that do not fit.

    Source:
        Lee et al. 2019, section 2.2 (the equation); Sommeijer, Shampine and Verwer 1998 (the
        method).
    """
    rate = check_rate(learning_rate)
    H = dense_square(gram)
    Y = check_targets(targets, len(H))
    f_0 = check_outputs("initial outputs", initial, Y.shape)
    if (Y < 0).any() or np.abs(Y.sum(axis=1) - 1.0).max() > 1e-6:
        raise InputError(
            "targets of the cross-entropy are probabilities, rows of at least 0 that add up to 1; "
            "give one-hot labels, not centred ones"
        )
    check_number("tolerance", tolerance, 1e-10, 1.0, "1e-5 is usual")
    ends = check_times(times)
    if np.isinf(ends[-1]):
        raise InputError(f"times={list(times)!r} must be finite; logits grow without limit")
    largest = _largest_eigenvalue(H)
    H /= largest
    speed = rate * largest / len(H)  # units of the integrator's time in a unit of t
    solution = _Integrator(H, Y, f_0, tolerance)
    train, alpha = np.empty((2, len(ends), *Y.shape))
    for place, time in enumerate(ends):
        while solution.time < time * speed:
            solution.advance(time * speed)
            if on_step is not None:
                on_step(solution.time / speed, solution.products)
        train[place], alpha[place] = solution.outputs, solution.beta / speed
    return CrossEntropyFlow(ends, train, alpha, rate, solution.products)


def cross_entropy_loss(logits: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Return (1/N) Σ −y_i · log softmax(f(x_i)) of (N, K) logits and targets."""
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1, keepdims=True)) + top
    return float(((log_sum - logits) * targets).sum() / len(logits))


class _Integrator:
    """Solves β' = Y − softmax(f_0 + Sβ) with S = H/λ_max step by step."""

    def __init__(
        self,
        S: NDArray[np.float64],
        Y: NDArray[np.float64],
        f_0: NDArray[np.float64],
        tolerance: float,
    ) -> None:
        self.time, self.products = 0.0, 0
        self.beta, self.outputs = np.zeros_like(Y), f_0
        self._S, self._Y, self._f_0, self._tolerance = S, Y, f_0, tolerance
        self._slope = Y - softmax(f_0)
        self._direction = np.random.default_rng(0).standard_normal(Y.shape)
        self._radius, self._age = self._spectral_radius(), 0
        self._step = 0.1 / self._radius

    def advance(self, end: float) -> None:
        """Take one step, not beyond ``end``."""
        if self._age >= _ESTIMATE_EVERY:
            self._radius, self._age = self._spectral_radius(), 0
        while True:
            proposed = min(self._step, chebyshev.largest_size(chebyshev.MOST_STAGES) / self._radius)
            h = min(proposed, end - self.time)
            stages = chebyshev.stages_for(h * self._radius)
            beta = chebyshev.step(self._derivative, self.beta, self._slope, h, stages)
            outputs = self._f_0 + self._times(beta)
            slope = self._Y - softmax(outputs)
            errors = self._times(chebyshev.error_estimate(self.beta, self._slope, beta, slope, h))
            error = float(np.sqrt(np.mean(np.square(errors / (1.0 + np.abs(outputs))))))
            suggested = chebyshev.next_step(h, error / self._tolerance)
            if error <= self._tolerance:
                break
            self._step = suggested
            self._radius, self._age = self._spectral_radius(), 0
        # A step shortened by ``end`` is no reason to propose less than before.
        self._step = max(suggested, proposed) if h < proposed else suggested
        self.time = end if h == end - self.time else self.time + h
        self.beta, self.outputs, self._slope = beta, outputs, slope
        self._age += 1

    def _derivative(self, beta: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._Y - softmax(self._f_0 + self._times(beta))

    def _times(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        self.products += 1
        return self._S @ x

    def _spectral_radius(self) -> float:
        """Return an upper estimate of the largest eigenvalue of (diag(p) − ppᵀ)S.

        Power iteration starts at the last one's vector; Rayleigh quotients are taken in the inner
        product of S, in which the matrix is symmetric.
        """
        p = self._Y - self._slope
        v, largest = self._direction, 0.0
        for _ in range(50):
            u = self._times(v)
            w = p * u
            w -= p * w.sum(axis=1, keepdims=True)
            size = float(np.vdot(u, w) / max(float(np.vdot(u, v)), np.finfo(np.float64).tiny))
            v = w / max(float(np.linalg.norm(w)), np.finfo(np.float64).tiny)
            if size <= 1.02 * largest:
                break
            largest = size
        self._direction = v
        # Without residuals the eigenvalue is 0; the lower limit keeps steps finite.
        return max(_SAFETY * max(size, largest), 1e-12)


def _largest_eigenvalue(H: NDArray[np.float64]) -> float:
    """Return λ_max of a Gram matrix, above 0."""
    from scipy.linalg import eigvalsh

    n = len(H)
    largest = float(eigvalsh(H, subset_by_index=[n - 1, n - 1])[0])
    if not largest > 0:
        raise InputError("the Gram is 0, so that no output changes; are the images all 0?")
    return largest
