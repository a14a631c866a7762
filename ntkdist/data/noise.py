"""Label noise of a known rate, for measuring what is found and restored."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntkdist.data._random import NOISE, generator
from ntkdist.data.dataset import check_labels
from ntkdist.errors import InputError


def symmetric(
    labels: ArrayLike, num_classes: int, rate: float, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Corrupt a share of the labels, each to another class drawn uniformly.

    Exactly round(rate·N) labels (half to even) are chosen without replacement, and none
    of them keeps its true class.

    Args:
        labels: Classes 0..K−1, shape (N,).
        num_classes: K, at least 2 when the rate is above 0.
        rate: Share of the labels to corrupt, 0 to 1.
        seed: Seed, at least 0.

    Returns:
        The noisy labels, shape (N,), int64, and the mask of the corrupted ones, shape
        (N,), bool. The given array is left as it is.

    Raises:
        InputError: The rate is outside 0..1, a label outside 0..K−1, or there is no
            other class to draw.
    """
    given = np.asarray(labels)
    if given.ndim != 1:
        raise InputError(f"labels have shape {given.shape}; (N,) is needed")
    # the comparison is False for NaN
    if not 0.0 <= rate <= 1.0:
        raise InputError(f"noise rate {rate} is outside 0..1; 0.3 corrupts 30 % of the labels")
    if rate > 0 and num_classes == 1:
        raise InputError(
            f"noise rate {rate} with one class: there is no other class to draw; use rate 0"
        )
    noisy = check_labels(given, num_classes)
    random = generator(seed, NOISE)
    count = round(rate * len(noisy))
    corrupted = np.zeros(len(noisy), dtype=np.bool_)
    if count:
        chosen = random.choice(len(noisy), size=count, replace=False)
        shift = random.integers(1, num_classes, size=count)
        noisy[chosen] = (noisy[chosen] + shift) % num_classes
        corrupted[chosen] = True
    return noisy, corrupted
