"""The tangent kernel of a network of finite width, and what follows from it."""

from ntkdist.learning.empirical.kernel import KINDS, PARAMETERIZATIONS, empirical_kernel
from ntkdist.learning.empirical.linearized import (
    LinearizationGap,
    descend,
    linearization_gap,
    linearized,
    linearized_descent,
)

__all__ = [
    "KINDS",
    "PARAMETERIZATIONS",
    "LinearizationGap",
    "descend",
    "empirical_kernel",
    "linearization_gap",
    "linearized",
    "linearized_descent",
]
