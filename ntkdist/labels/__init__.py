"""What the inverse Gram matrix says about labels: how well they fit, which are wrong.

N images, K classes, Y (N, K) one-hot labels, H (N, N) the Gram matrix, G = H⁻¹Y, Z = YᵀG.
"""

from ntkdist.labels.block_error import (
    BlockError,
    block_error,
    block_error_gradient,
    block_error_terms,
)
from ntkdist.labels.class_matrix import class_matrix, one_hot
from ntkdist.labels.inverse import ArrayInverse, Inverse, StoredInverse, as_inverse
from ntkdist.labels.issues import find_label_issues, invert, label_report, pred_probs
from ntkdist.labels.leave_one_out import NoiseModel, fit_noise, leave_one_out
from ntkdist.labels.refurbish import METHODS, refurbish
from ntkdist.labels.result import Flip, RefurbishResult

__all__ = [
    "METHODS",
    "ArrayInverse",
    "BlockError",
    "Flip",
    "Inverse",
    "NoiseModel",
    "RefurbishResult",
    "StoredInverse",
    "as_inverse",
    "block_error",
    "block_error_gradient",
    "block_error_terms",
    "class_matrix",
    "find_label_issues",
    "fit_noise",
    "invert",
    "label_report",
    "leave_one_out",
    "one_hot",
    "pred_probs",
    "refurbish",
]
