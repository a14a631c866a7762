"""What the Gram matrix predicts about training, and finite networks to hold it against.

Nothing heavy is imported until a network is drawn.
"""

from ntkdist.learning.finite import Epoch, FiniteNetwork, TrainedNetwork, train

__all__ = ["Epoch", "FiniteNetwork", "TrainedNetwork", "train"]
