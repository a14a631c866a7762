"""Labelled images (N, H, W, C) or features (N, D): reading, subsets, preprocessing, label noise."""

from __future__ import annotations

from ntkdist.data.dataset import ImageSet
from ntkdist.data.preprocess import RECIPES, Preprocessor
from ntkdist.data.readers import SOURCES, load
from ntkdist.data.sampling import asymmetric, select, symmetric

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
