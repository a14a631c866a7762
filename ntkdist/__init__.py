"""Infinite-width neural tangent kernels of CNNs at data-set scale, and what they say about labels.

The public names are loaded when first used, so importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntkdist.api import compute as compute, labels_table as labels_table, open_gram as open_gram
    from ntkdist.config import RunConfig as RunConfig
    from ntkdist.kernels import kernel_matrix as kernel_matrix
    from ntkdist.labels import find_label_issues as find_label_issues
    from ntkdist.labels.block_error import block_error as block_error
    from ntkdist.labels.refurbish import refurbish as refurbish
    from ntkdist.linalg import CholeskyFactor as CholeskyFactor
    from ntkdist.networks.architecture import Architecture as Architecture
    from ntkdist.networks.layers import (
        ABRelu as ABRelu,
        AvgPool as AvgPool,
        Conv as Conv,
        Cos as Cos,
        Dense as Dense,
        Erf as Erf,
        Exp as Exp,
        ExpNormalized as ExpNormalized,
        Flatten as Flatten,
        Gaussian as Gaussian,
        Gelu as Gelu,
        GlobalAvgPool as GlobalAvgPool,
        Identity as Identity,
        LayerNorm as LayerNorm,
        LeakyRelu as LeakyRelu,
        Relu as Relu,
        Residual as Residual,
        Sin as Sin,
    )
    from ntkdist.runs import Run as Run

__version__ = "0.1.0"

_MODULES = {
    "Architecture": "networks.architecture",
    "ABRelu": "networks.layers",
    "AvgPool": "networks.layers",
    "Conv": "networks.layers",
    "Cos": "networks.layers",
    "Dense": "networks.layers",
    "Erf": "networks.layers",
    "Exp": "networks.layers",
    "ExpNormalized": "networks.layers",
    "Flatten": "networks.layers",
    "Gaussian": "networks.layers",
    "Gelu": "networks.layers",
    "GlobalAvgPool": "networks.layers",
    "Identity": "networks.layers",
    "LayerNorm": "networks.layers",
    "LeakyRelu": "networks.layers",
    "Relu": "networks.layers",
    "Residual": "networks.layers",
    "Sin": "networks.layers",
    "RunConfig": "config",
    "kernel_matrix": "kernels",
    "block_error": "labels",
    "find_label_issues": "labels",
    "refurbish": "labels",
    "CholeskyFactor": "linalg",
    "compute": "api",
    "labels_table": "api",
    "open_gram": "api",
    "Run": "runs",
}

__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ntkdist' has no attribute {name!r}")
    value = getattr(import_module(f"ntkdist.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
