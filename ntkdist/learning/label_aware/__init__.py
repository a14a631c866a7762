"""Label-aware kernels: the NTK plus a small part that knows the training labels.

K = H + λZ̃ with λ = r · mean|H|/mean|Z̃| over the training pairs, for two classes. What Z̃(x, x')
says is whether the labels of x and x' are likely to agree, as a function of their pair alone: of
its kernel entry by a weighted vote of all training pairs (KR), or of ten or twenty features by
least squares over them, sketched (FJLT). Labels of test images are never read.

Two classes only, labels −1 and 1: more are refused.
"""

from ntkdist.learning.label_aware.choice import (
    MULTIPLIERS,
    MultiplierChoice,
    choose_multiplier,
    fold_numbers,
    held_out_values,
)
from ntkdist.learning.label_aware.classify import local_elasticity
from ntkdist.learning.label_aware.kernel import (
    EPSILON,
    VARIANTS,
    LabelAwareKernel,
    label_aware_kernel,
    label_part,
)
from ntkdist.learning.label_aware.pairs import Pairs, PixelPairs, pixel_pairs
from ntkdist.learning.label_aware.prediction import LabelAware, label_aware

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
