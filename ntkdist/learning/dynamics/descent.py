"""Gradient descent on the squared loss: the closed form of its discrete steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.dynamics.checks import check_time
from ntkdist.learning.dynamics.flow import GradientFlow


class GradientDescent(GradientFlow):
    """The same in discrete steps: (1 − η(λ + ρ)/N)^k in the place of e^{−η(λ+ρ)t/N}.

    Time is the number of full-batch steps, whole or infinite. A learning rate of
    ``largest_stable_rate`` or more diverges and is refused.
    """

    def _moved(self, time: float) -> NDArray[np.float64]:
        """Return 1 − (1 − η(λ+ρ)/N)^k, (N,): above 1 where a step leaps over the end."""
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
        # near 0 a power of 1 − speed would cancel
        return np.where(speeds < 1, -np.expm1(exponents), 1.0 - _power(1.0 - speeds, steps))


def _power(base: NDArray[np.float64], steps: float) -> NDArray[np.float64]:
    """Return base^steps for |base| ≤ 1; to infinity, 0 where |base| < 1."""
    return np.where(base == 1, 1.0, 0.0) if np.isinf(steps) else base**steps
