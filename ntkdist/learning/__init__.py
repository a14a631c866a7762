"""What the Gram matrix predicts about training, and finite networks to hold it against.

Nothing heavy is imported until it is used.
"""

from ntkdist.learning.evaluation import Evaluation, accuracy, evaluate, softmax_scale
from ntkdist.learning.finite import Epoch, FiniteNetwork, TrainedNetwork, train
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
    "evaluate",
    "softmax_scale",
    "sweep_ridge",
    "targets_of",
    "train",
]
