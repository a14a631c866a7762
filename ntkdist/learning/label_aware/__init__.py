"""Label-aware kernels: the NTK plus a small part that depends on the training labels.

K = H + λZ̃ with λ = r · mean|H|/mean|Z̃| over the training pairs, for two classes with labels −1 and
1. Z̃(x, x') estimates from the pair alone whether the labels of x and x' agree: from its kernel
entry, by a weighted vote of all training pairs (KR), or from ten or twenty features, by least
squares over the training pairs with a sketch (FJLT). Labels of test images are never read.
"""

from ntkdist.learning.label_aware.kernel import (
    EPSILON,
    VARIANTS,
    LabelAwareKernel,
    label_aware_kernel,
    label_part,
)
from ntkdist.learning.label_aware.pairs import Pairs, PixelPairs, pixel_pairs
from ntkdist.learning.label_aware.prediction import (
    MULTIPLIERS,
    LabelAware,
    MultiplierChoice,
    choose_multiplier,
    fold_numbers,
    held_out_values,
    label_aware,
    local_elasticity,
)

__all__ = [
    "EPSILON",
    "MULTIPLIERS",
    "VARIANTS",
    "LabelAware",
    "LabelAwareKernel",
    "MultiplierChoice",
    "Pairs",
    "PixelPairs",
    "choose_multiplier",
    "fold_numbers",
    "held_out_values",
    "label_aware",
    "label_aware_kernel",
    "label_part",
    "local_elasticity",
    "pixel_pairs",
]
