"""Predictions of the Gram matrix about training, and finite networks to compare them with.

Further modules: ``dynamics`` and ``cross_entropy`` (training over time), ``empirical`` (kernels of
finite networks), ``widths`` and ``sweep``, ``label_aware``, ``active`` (active learning),
``spectrum``. Heavy libraries are imported when they are used.
"""

from ntkdist.learning.empirical import empirical_kernel
from ntkdist.learning.evaluation import Evaluation, accuracy, evaluate
from ntkdist.learning.finite.network import FiniteNetwork
from ntkdist.learning.finite.training import train
from ntkdist.learning.parameterization import standard_kernel_matrix
from ntkdist.learning.regression import KernelRegression, RidgeSweep, sweep_ridge, targets_of

__all__ = [
    "Evaluation",
    "FiniteNetwork",
    "KernelRegression",
    "RidgeSweep",
    "accuracy",
    "empirical_kernel",
    "evaluate",
    "standard_kernel_matrix",
    "sweep_ridge",
    "targets_of",
    "train",
]
