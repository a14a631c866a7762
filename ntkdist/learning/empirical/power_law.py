"""Power laws in the width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError


@dataclass(frozen=True)
class PowerLaw:
    """constant · width^exponent, by least squares in logarithms.

    Attributes:
        exponent: Slope.
        constant: Value at width 1.
        error: Standard error of the exponent from the residuals; 0 for two widths.
    """

    exponent: float
    constant: float
    error: float

    def at(self, widths: Any) -> NDArray[np.float64]:
        """Return the line's values."""
        return self.constant * np.asarray(widths, dtype=np.float64) ** self.exponent


def fit_power(widths: Any, values: Any) -> PowerLaw:
    """Fit a power law by least squares in logarithms.

    Args:
        widths: (D,) above 0, at least two different ones.
        values: (D,) above 0.

    Returns:
        The law.

    Raises:
        InputError: For fewer than two widths, or values that are not positive.
    """
    x, y = (np.asarray(v, dtype=np.float64) for v in (widths, values))
    if len(np.unique(x)) < 2:
        raise InputError(f"an exponent needs at least two widths, not {len(np.unique(x))}")
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise InputError(f"a power law needs positive values, not {y.min():g}")
    x, y = np.log(x), np.log(y)
    around = x - x.mean()
    exponent = float(around @ y / (around @ around))
    left = y - y.mean() - exponent * around
    freedom = len(x) - 2
    error = float(np.sqrt(left @ left / freedom / (around @ around))) if freedom else 0.0
    return PowerLaw(exponent, float(np.exp(y.mean() - exponent * x.mean())), error)
