"""Active learning: which images to label next, by looking ahead with the tangent kernel.

Look-ahead criteria score an image by the model that one more label would give. Training a model for
every candidate and label is too slow; the kernel gives all of them by matrix products.
"""

from ntkdist.learning.active.criteria import (
    CRITERIA,
    LOOK_AHEAD,
    eer,
    emoc,
    entropy,
    margin,
    mlmoc,
    probabilities,
    query,
)
from ntkdist.learning.active.simulation import (
    Curve,
    Fitted,
    KernelLearner,
    Learner,
    NetworkLearner,
    Round,
    active_learning,
)
from ntkdist.learning.active.state import LookAhead, look_ahead

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
    "eer",
    "emoc",
    "entropy",
    "look_ahead",
    "margin",
    "mlmoc",
    "probabilities",
    "query",
]
