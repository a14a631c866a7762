"""Factor, solve and invert symmetric positive definite matrices larger than memory, on Dask.

It knows arrays and stores, and nothing of kernels or runs. Heavy libraries are imported when used.
"""

from __future__ import annotations

from ntkdist.linalg.cg import cg_solve
from ntkdist.linalg.cholesky import factorize, first_passing
from ntkdist.linalg.device import check_device
from ntkdist.linalg.eigen import top_eigenpairs
from ntkdist.linalg.factor import CholeskyFactor, holds
from ntkdist.linalg.inverse import InverseStore
from ntkdist.linalg.matrix import bands, submatrix
from ntkdist.linalg.panels import plan_panels
from ntkdist.linalg.status import (
    RIDGE_LADDER,
    NotConvergedError,
    NotPositiveDefiniteError,
    check_ridge,
    parse_memory,
)

__all__ = [
    "RIDGE_LADDER",
    "CholeskyFactor",
    "InverseStore",
    "NotConvergedError",
    "NotPositiveDefiniteError",
    "bands",
    "cg_solve",
    "check_device",
    "check_ridge",
    "factorize",
    "first_passing",
    "holds",
    "parse_memory",
    "plan_panels",
    "submatrix",
    "top_eigenpairs",
]
