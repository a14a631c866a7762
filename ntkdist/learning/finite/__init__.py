"""Networks of finite width and their training, in jax: what the kernel's predictions are compared
with.
"""

from ntkdist.learning.finite.network import FiniteNetwork, Params
from ntkdist.learning.finite.trained import TrainedNetwork
from ntkdist.learning.finite.training import Epoch, train

__all__ = ["Epoch", "FiniteNetwork", "Params", "TrainedNetwork", "train"]
