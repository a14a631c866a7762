"""``digits``: scikit-learn's 1,797 handwritten digits, 8×8×1, without a test split."""

from __future__ import annotations

from ntkdist.data.dataset import ImageSet
from ntkdist.errors import InputError


def read(split: str) -> ImageSet:
    """Return the digits as float32 in 0..1."""
    if split == "test":
        raise InputError("digits have no test split; use split train, or another source")
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 0..16 as stored; sixteenths are exact in float32
    images = (digits.images / 16.0).astype("float32")[..., None]
    return ImageSet(images, digits.target, len(digits.target_names))
