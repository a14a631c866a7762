"""Gradient flow on the cross-entropy, integrated numerically because it has no closed form.

Loss (1/N) Σ −y_i · log softmax(f(x_i)), θ̇ = −η ∇loss. At infinite width
ḟ = (η/N) Θ(·, X)(Y − softmax f(X)): all outputs, of training images and of others, follow from
α_t = ∫(Y − softmax f) dt as f_t = f_0 + (η/N) Θ(·, X) α_t, so that N·K unknowns are integrated
and other images cost one product at the end.

The method is Runge-Kutta-Chebyshev (Sommeijer, Shampine and Verwer 1998), an explicit one whose
stable step grows with the square of its stages. With s stages its stability region is a strip of
length (2/3)s² along the negative real axis, where the Jacobian of a gradient flow has its
eigenvalues. An implicit method would solve systems of N·K unknowns. RK45 covers a length of 3.3
with 6 stages, so that on a stiff problem it needs O(hρ) products instead of O(√(hρ)). On 600 digits
with 30 % of the labels redrawn, up to 10⁵ time constants, this method needs 1,184 products for
errors of 7e-4 in the logits, RK45 2,312 for 2e-3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_number
from ntkdist.errors import InputError
from ntkdist.learning.checks import (
    check_columns,
    check_outputs,
    check_rate,
    check_targets,
    check_times,
)
from ntkdist.learning.evaluation import softmax
from ntkdist.learning.spectrum import dense_square, read_rows

Array = NDArray[np.float64]

# Damping, which gives the strip a positive width.
_EPSILON = 2.0 / 13.0
# Most stages of one step: rounding errors grow with s², and so does the time of a step.
_MOST_STAGES = 400
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

    times: Array
    train: Array
    alpha: Array
    learning_rate: float
    products: int

    def test(self, cross: Any, initial: Any = None) -> Array:
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
    times: Sequence[float] | Array,
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


def cross_entropy_loss(logits: Array, targets: Array) -> float:
    """Return (1/N) Σ −y_i · log softmax(f(x_i)) of (N, K) logits and targets."""
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1, keepdims=True)) + top
    return float(((log_sum - logits) * targets).sum() / len(logits))


class _Integrator:
    """Solves β' = Y − softmax(f_0 + Sβ) with S = H/λ_max step by step."""

    def __init__(
        self,
        S: Array,
        Y: Array,
        f_0: Array,
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
            proposed = min(self._step, largest_size(_MOST_STAGES) / self._radius)
            h = min(proposed, end - self.time)
            stages = stages_for(h * self._radius)
            beta = chebyshev_step(self._derivative, self.beta, self._slope, h, stages)
            outputs = self._f_0 + self._times(beta)
            slope = self._Y - softmax(outputs)
            errors = self._times(_error_estimate(self.beta, self._slope, beta, slope, h))
            error = float(np.sqrt(np.mean(np.square(errors / (1.0 + np.abs(outputs))))))
            suggested = _next_step(h, error / self._tolerance)
            if error <= self._tolerance:
                break
            self._step = suggested
            self._radius, self._age = self._spectral_radius(), 0
        # A step shortened by ``end`` is no reason to propose less than before.
        self._step = max(suggested, proposed) if h < proposed else suggested
        self.time = end if h == end - self.time else self.time + h
        self.beta, self.outputs, self._slope = beta, outputs, slope
        self._age += 1

    def _derivative(self, beta: Array) -> Array:
        return self._Y - softmax(self._f_0 + self._times(beta))

    def _times(self, x: Array) -> Array:
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


def _largest_eigenvalue(H: Array) -> float:
    """Return λ_max of a Gram matrix, above 0."""
    from scipy.linalg import eigvalsh

    n = len(H)
    largest = float(eigvalsh(H, subset_by_index=[n - 1, n - 1])[0])
    if not largest > 0:
        raise InputError("the Gram is 0, so that no output changes; are the images all 0?")
    return largest


@dataclass(frozen=True, eq=False)
class _Coefficients:
    """Coefficients of s stages; entry j, of s + 1, belongs to stage j."""

    mu: Array  # of stage j − 1
    nu: Array  # of stage j − 2
    mu_f: Array  # of h times the derivative at stage j − 1
    gamma_f: Array  # of h times the derivative at the beginning of the step


def stages_for(size: float) -> int:
    """Return the fewest stages that are stable where step × spectral radius is ``size``."""
    return max(2, 1 + int(np.sqrt(1.54 * size + 1.0)))


def largest_size(stages: int) -> float:
    """Return the largest step × spectral radius at which this many stages are stable."""
    return ((stages - 1) ** 2 - 1) / 1.54


@functools.cache
def _coefficients(stages: int) -> _Coefficients:
    """Return those of the second-order method (Sommeijer et al. 1998, equations 2.3 to 2.8)."""
    s = stages
    w0 = 1.0 + _EPSILON / s**2
    # Chebyshev polynomials and their first two derivatives at w0, by recurrence.
    T, D, E = np.ones(s + 1), np.zeros(s + 1), np.zeros(s + 1)
    T[1], D[1] = w0, 1.0
    for j in range(2, s + 1):
        T[j] = 2 * w0 * T[j - 1] - T[j - 2]
        D[j] = 2 * w0 * D[j - 1] - D[j - 2] + 2 * T[j - 1]
        E[j] = 2 * w0 * E[j - 1] - E[j - 2] + 4 * D[j - 1]
    w1 = D[s] / E[s]
    b = np.empty(s + 1)
    b[2:] = E[2:] / D[2:] ** 2
    b[:2] = b[2]
    a = 1.0 - b * T
    mu, nu, mu_f, gamma_f = np.zeros((4, s + 1))
    mu_f[1] = b[1] * w1
    mu[2:] = 2 * b[2:] * w0 / b[1:-1]
    nu[2:] = -b[2:] / b[:-2]
    mu_f[2:] = 2 * b[2:] * w1 / b[1:-1]
    gamma_f[2:] = -a[1:-1] * mu_f[2:]
    return _Coefficients(mu, nu, mu_f, gamma_f)


def chebyshev_step(
    derivative: Callable[[Array], Array], y: Array, f: Array, h: float, stages: int
) -> Array:
    """Return y(t + h) of an autonomous y' = derivative(y), from y(t) and f = derivative(y).

    ``derivative`` keeps the shape of y and is called ``stages`` − 1 times.
    """
    c = _coefficients(stages)
    before, here = y, y + c.mu_f[1] * h * f
    for j in range(2, stages + 1):
        after = (1.0 - c.mu[j] - c.nu[j]) * y + c.mu[j] * here + c.nu[j] * before
        after += (c.mu_f[j] * h) * derivative(here) + (c.gamma_f[j] * h) * f
        before, here = here, after
    return here


def _error_estimate(y: Array, f: Array, after: Array, f_after: Array, h: float) -> Array:
    """Return an estimate of the error of one step, of third order in h."""
    return 0.8 * (y - after) + 0.4 * h * (f + f_after)


def _next_step(h: float, error: float) -> float:
    """Return the step that an error, relative to what is tolerated, suggests."""
    return h * float(np.clip(0.8 / max(error, 1e-10) ** (1 / 3), 0.1, 4.0))
