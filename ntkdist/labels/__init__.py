"""Labels from the inverse Gram matrix: how well they fit, which are wrong, what they should be.

N images, K classes, Y (N, K) one-hot labels, H (N, N) the Gram matrix, G = H⁻¹Y, Z = YᵀG.
"""

from ntkdist.labels.bias import ClassBias, class_bias, rank_biased_overlap
from ntkdist.labels.block_error import (
    BlockError,
    block_error,
    block_error_gradient,
    block_error_terms,
)
from ntkdist.labels.class_matrix import class_matrix, one_hot
from ntkdist.labels.descent import drop_checkpoint
from ntkdist.labels.inverse import (
    ArrayInverse,
    FactorInverse,
    Inverse,
    MemoryFactor,
    StoredInverse,
    as_inverse,
    invert,
)
from ntkdist.labels.issues import find_label_issues, label_report, refurbish_gram
from ntkdist.labels.kpca import ClassSeparation, class_separation
from ntkdist.labels.leave_one_out import centered_leave_one_out, leave_one_out
from ntkdist.labels.noise import (
    NOISE_MODELS,
    NoiseEstimate,
    NoiseModel,
    estimate_noise,
    fit_noise,
)
from ntkdist.labels.options import METHODS
from ntkdist.labels.posterior import Posterior, class_posterior
from ntkdist.labels.refurbish import refurbish
from ntkdist.labels.reliability import Reliability
from ntkdist.labels.result import Flip, RefurbishResult
from ntkdist.labels.ridge import POSTERIOR_RIDGE, RidgeChoice, choose_ridge

__all__ = [
    "METHODS",
    "NOISE_MODELS",
    "POSTERIOR_RIDGE",
    "ArrayInverse",
    "BlockError",
    "ClassBias",
    "ClassSeparation",
    "FactorInverse",
    "Flip",
    "Inverse",
    "MemoryFactor",
    "NoiseEstimate",
    "NoiseModel",
    "Posterior",
    "RefurbishResult",
    "Reliability",
    "RidgeChoice",
    "StoredInverse",
    "as_inverse",
    "block_error",
    "block_error_gradient",
    "block_error_terms",
    "centered_leave_one_out",
    "choose_ridge",
    "class_bias",
    "class_matrix",
    "class_posterior",
    "class_separation",
    "drop_checkpoint",
    "estimate_noise",
    "find_label_issues",
    "fit_noise",
    "invert",
    "label_report",
    "leave_one_out",
    "one_hot",
    "rank_biased_overlap",
    "refurbish",
    "refurbish_gram",
]
