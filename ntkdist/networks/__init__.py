"""Architectures: layers, presets and one canonical text form."""

from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import (
    AvgPool,
    Conv,
    Dense,
    Erf,
    Flatten,
    GlobalAvgPool,
    Relu,
    Residual,
)

__all__ = [
    "Architecture",
    "AvgPool",
    "Conv",
    "Dense",
    "Erf",
    "Flatten",
    "GlobalAvgPool",
    "Relu",
    "Residual",
]
