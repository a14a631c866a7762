"""What one step needs of the classes: with it, the value of moving an image is one short formula.

For image i of class o, g = G_i, a = A_ii, h = Σ_d G_id/n_d, and each target j,

    value_ij = own_i + offset_oj + G_ij slope_oj + a curve_j + push_i pull_j,
    own_i = own_o · (1, a, G_io, h),  push_i = push_o · (h, a, G_io).

Everything that depends on classes alone is in the tables, made anew for each step in O(K²).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels import _loops

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Tables:
    """Coefficients of one step.

    Attributes:
        offset: (K, K) by class and target; infinite where a move is not allowed.
        slope: (K, K), all ≥ 0.
        curve: (K,) by target.
        pull: (K,) by target.
        own: (K, 4) by class.
        push: (K, 3) by class.
        low: (K, 6) by class: the least offset, slope, curve and pull of its targets, and the
            largest slope and pull; what bounds every value of a row from below in O(1).
    """

    offset: Vector
    slope: Vector
    curve: Vector
    pull: Vector
    own: Vector
    push: Vector
    low: Vector

    @classmethod
    def of(
        cls, offset: Vector, slope: Vector, curve: Vector, pull: Vector, own: Vector, push: Vector
    ) -> Tables:
        """Return the tables with their bounds."""
        low = np.empty((len(curve), 6))
        _loops.ends(offset, slope, curve, pull, low)
        return cls(offset, slope, curve, pull, own, push, low)

    @property
    def arrays(self) -> tuple[Vector, ...]:
        """The arrays in the order that the compiled loops take them."""
        return self.offset, self.slope, self.curve, self.pull, self.own, self.push, self.low
