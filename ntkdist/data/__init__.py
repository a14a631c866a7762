"""Labelled images or features: where they come from, which of them, how prepared, label noise.

Images are (N, H, W, C), features (N, D). Nothing heavy is imported until a reader needs it.
"""

from __future__ import annotations

from ntkdist.data.dataset import ImageSet
from ntkdist.data.noise import asymmetric, symmetric
from ntkdist.data.preprocess import RECIPES, Preprocessor
from ntkdist.data.readers import SOURCES, load
from ntkdist.data.subset import select

__all__ = [
    "RECIPES",
    "SOURCES",
    "ImageSet",
    "Preprocessor",
    "asymmetric",
    "load",
    "select",
    "symmetric",
]
