"""Which images to label next: active learning that looks ahead with the tangent kernel.

Look-ahead criteria ask what a label more would make of the model, and needed a training for
every candidate and label; the kernel answers for all of them by matrix products.
"""

from ntkdist.learning.active.criteria import (
    CRITERIA,
    LOOK_AHEAD,
    active_learning,
    check_criterion,
    query,
)
from ntkdist.learning.active.learners import Fitted, KernelLearner, Learner, NetworkLearner
from ntkdist.learning.active.look_ahead import LookAhead, look_ahead
from ntkdist.learning.active.rounds import Curve, Round
from ntkdist.learning.active.scores import eer, emoc, entropy, margin, mlmoc, probabilities

__all__ = [
    "CRITERIA",
    "LOOK_AHEAD",
    "Curve",
    "Fitted",
    "KernelLearner",
    "Learner",
    "LookAhead",
    "NetworkLearner",
    "Round",
    "active_learning",
    "check_criterion",
    "eer",
    "emoc",
    "entropy",
    "look_ahead",
    "margin",
    "mlmoc",
    "probabilities",
    "query",
]
