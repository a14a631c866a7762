"""Labelled images (N, H, W, C) or features (N, D): reading, subsets, preprocessing, label noise."""

from __future__ import annotations

from ntkdist.data.dataset import ImageSet
from ntkdist.data.preprocess import Preprocessor
from ntkdist.data.readers import load
from ntkdist.data.sampling import asymmetric, select, symmetric

__all__ = [
    "ImageSet",
    "Preprocessor",
    "asymmetric",
    "load",
    "select",
    "symmetric",
]
