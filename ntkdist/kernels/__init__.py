"""Blocks of kernel entries on one device; knows no cluster, store or scheduler.

Needs numpy, scipy and numba alone; ``stax`` loads jax and neural-tangents when used.
"""

from ntkdist.kernels.backend import KINDS, Backend
from ntkdist.kernels.matrix import Family, kernel_matrix
from ntkdist.kernels.registry import Selection, get_backend, select_backend

__all__ = [
    "KINDS",
    "Backend",
    "Family",
    "Selection",
    "get_backend",
    "kernel_matrix",
    "select_backend",
]
