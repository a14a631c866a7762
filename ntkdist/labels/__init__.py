"""Labels from the inverse Gram matrix: how well they fit, which are wrong, what they should be.

N images, K classes, Y (N, K) one-hot labels, H (N, N) the Gram matrix, G = H⁻¹Y, Z = YᵀG.
"""

from ntkdist.labels.bias import class_bias, rank_biased_overlap
from ntkdist.labels.block_error import block_error, block_error_gradient, block_error_terms
from ntkdist.labels.class_matrix import class_matrix, one_hot
from ntkdist.labels.descent import drop_checkpoint
from ntkdist.labels.inverse import FactorInverse, MemoryFactor, invert
from ntkdist.labels.issues import find_label_issues, label_report, refurbish_gram
from ntkdist.labels.kpca import class_separation
from ntkdist.labels.leave_one_out import centered_leave_one_out, leave_one_out
from ntkdist.labels.noise import NoiseEstimate
from ntkdist.labels.refurbish import refurbish
from ntkdist.labels.reliability import Reliability
from ntkdist.labels.result import RefurbishResult
from ntkdist.labels.ridge import POSTERIOR_RIDGE, choose_ridge

__all__ = [
    "POSTERIOR_RIDGE",
    "FactorInverse",
    "MemoryFactor",
    "NoiseEstimate",
    "RefurbishResult",
    "Reliability",
    "block_error",
    "block_error_gradient",
    "block_error_terms",
    "centered_leave_one_out",
    "choose_ridge",
    "class_bias",
    "class_matrix",
    "class_separation",
    "drop_checkpoint",
    "find_label_issues",
    "invert",
    "label_report",
    "leave_one_out",
    "one_hot",
    "rank_biased_overlap",
    "refurbish",
    "refurbish_gram",
]
