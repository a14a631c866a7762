"""``digits``: scikit-learn's 1,797 handwritten digits, 8×8×1, without a test split."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ntkdist.data.dataset import ImageSet
from ntkdist.errors import MissingSplitError


def read(split: str) -> ImageSet:
    """Return the digits as float32 in 0..1."""
    if split == "test":
        raise MissingSplitError("digits have no test split; use split train, or another source")
    # the file that sklearn.datasets.load_digits reads; importing scikit-learn takes a second
    spec = find_spec("sklearn")
    folder = Path((spec and spec.origin) or "scikit-learn").parent
    table = np.loadtxt(folder / "datasets/data/digits.csv.gz", np.float64, delimiter=",")
    # 0..16 as stored; sixteenths are exact in float32
    images = (table[:, :-1] / 16.0).astype("float32").reshape(-1, 8, 8, 1)
    return ImageSet(images, table[:, -1].astype(int), 10)
