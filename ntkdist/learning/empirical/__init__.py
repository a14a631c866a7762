"""The tangent kernel of a network of finite width, and what follows from it."""

from ntkdist.learning.empirical.kernel import KINDS, PARAMETERIZATIONS, empirical_kernel
from ntkdist.learning.empirical.linearized import (
    LinearizationGap,
    descend,
    linearization_gap,
    linearized,
    linearized_descent,
)
from ntkdist.learning.empirical.pntk import (
    PseudoCosts,
    PseudoKernel,
    compare_pseudo_kernel,
    measure_pseudo_kernel,
)

__all__ = [
    "KINDS",
    "PARAMETERIZATIONS",
    "LinearizationGap",
    "PseudoCosts",
    "PseudoKernel",
    "compare_pseudo_kernel",
    "descend",
    "empirical_kernel",
    "linearization_gap",
    "linearized",
    "linearized_descent",
    "measure_pseudo_kernel",
]
