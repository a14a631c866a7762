"""Factor, solve and invert symmetric positive definite matrices larger than memory, on Dask.

Knows arrays and stores, nothing of kernels or runs. Heavy libraries are imported when used.
"""

from __future__ import annotations

from ntkdist.linalg._submatrix import submatrix
from ntkdist.linalg.cg import CgResult, cg_solve
from ntkdist.linalg.cholesky import factorize
from ntkdist.linalg.eigen import Eigenpairs, top_eigenpairs
from ntkdist.linalg.events import (
    BandDone,
    InverseBlockDone,
    IterationDone,
    LinalgProgress,
    PanelDone,
    PanelStarted,
    RidgeTried,
    SketchDone,
)
from ntkdist.linalg.factor import CholeskyFactor, holds
from ntkdist.linalg.inverse import InverseStore
from ntkdist.linalg.status import (
    RIDGE_LADDER,
    NotConvergedError,
    NotPositiveDefiniteError,
    Outcome,
)
from ntkdist.linalg.panels import PanelPlan, parse_memory, plan_panels

__all__ = [
    "RIDGE_LADDER",
    "BandDone",
    "CgResult",
    "CholeskyFactor",
    "Eigenpairs",
    "InverseBlockDone",
    "InverseStore",
    "IterationDone",
    "LinalgProgress",
    "NotConvergedError",
    "NotPositiveDefiniteError",
    "Outcome",
    "PanelDone",
    "PanelPlan",
    "PanelStarted",
    "RidgeTried",
    "SketchDone",
    "cg_solve",
    "factorize",
    "holds",
    "parse_memory",
    "plan_panels",
    "submatrix",
    "top_eigenpairs",
]
