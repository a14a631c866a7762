"""What the Gram matrix predicts about training, and finite networks to hold it against.

Nothing heavy is imported until it is used. Beside what stands here: ``dynamics`` and
``cross_entropy`` (training in closed form), ``lookahead`` (active learning), ``label_aware``,
``linearized`` and ``widths`` (finite networks against the infinite one), ``sweep``, ``spectrum``.
"""

from ntkdist.learning.empirical import empirical_kernel
from ntkdist.learning.evaluation import Evaluation, accuracy, evaluate, softmax_scale
from ntkdist.learning.finite import Epoch, FiniteNetwork, TrainedNetwork, train
from ntkdist.learning.parameterization import standard_kernel_matrix
from ntkdist.learning.regression import KernelRegression, RidgeRow, RidgeSweep, sweep_ridge
from ntkdist.learning.targets import targets_of

__all__ = [
    "Epoch",
    "Evaluation",
    "FiniteNetwork",
    "KernelRegression",
    "RidgeRow",
    "RidgeSweep",
    "TrainedNetwork",
    "accuracy",
    "empirical_kernel",
    "evaluate",
    "softmax_scale",
    "standard_kernel_matrix",
    "sweep_ridge",
    "targets_of",
    "train",
]
