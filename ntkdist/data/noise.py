"""Label noise of a known rate, to measure how many wrong labels are found and restored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntkdist.data.dataset import check_labels
from ntkdist.data.seeds import NOISE, generator
from ntkdist.errors import InputError


def symmetric(
    labels: ArrayLike, num_classes: int, rate: float, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Corrupt a share of the labels, each to another class drawn uniformly.

    Exactly round(rate·N) labels (half to even) are chosen without replacement, and each gets a
    class that is not its true one.

    Args:
        labels: Classes 0..K−1, shape (N,).
        num_classes: K, at least 2 when the rate is above 0.
        rate: Share of the labels to corrupt, 0 to 1.
        seed: Seed, at least 0.

    Returns:
        The noisy labels, shape (N,), int64, and the mask of the corrupted ones, shape
        (N,), bool. The given array is not changed.

    Raises:
        InputError: The rate is outside 0..1, a label outside 0..K−1, or there is no
            other class to draw.
    """
    given = _checked(labels, rate)
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


def asymmetric(
    labels: ArrayLike, num_classes: int, rate: float, mapping: Mapping[int, int], seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Corrupt a share of some classes' labels, each class always to the same other class.

    Of each class k that the mapping names, exactly round(rate·n_k) of its n_k labels (half to
    even) are chosen without replacement and become ``mapping[k]``; all other labels stay.
    ``{5: 6, 6: 5}`` confuses two classes with each other: every label moves by its true
    class, and no label moves twice.

    Args:
        labels: Classes 0..K−1, shape (N,).
        num_classes: K.
        rate: Share to corrupt of each class the mapping names, 0 to 1.
        mapping: Class → the other class that its labels are changed to.
        seed: Seed, at least 0.

    Returns:
        The noisy labels, shape (N,), int64, and the mask of the corrupted ones, shape
        (N,), bool. The given array is not changed.

    Raises:
        InputError: The rate is outside 0..1, a label or a class of the mapping outside
            0..K−1, a class is mapped to itself, or none is mapped and the rate is above 0.

    Source:
        Patrini et al. 2017 (the pairs of MNIST and CIFAR-10 are theirs).
    """
    given = _checked(labels, rate)
    true = check_labels(given, num_classes)
    pairs = _checked_pairs(mapping, num_classes)
    if rate > 0 and not pairs:
        raise InputError(
            f"noise rate {rate} with an empty mapping: no class is confused with another; "
            "name some, for example {7: 1}, or use rate 0"
        )
    random = generator(seed, NOISE)
    noisy = true.copy()
    for source, target in pairs:
        members = np.flatnonzero(true == source)
        chosen = random.choice(members, size=round(rate * len(members)), replace=False)
        noisy[chosen] = target
    return noisy, noisy != true


def _checked(labels: ArrayLike, rate: float) -> NDArray[Any]:
    given = np.asarray(labels)
    if given.ndim != 1:
        raise InputError(f"labels have shape {given.shape}; (N,) is needed")
    # not: also for NaN
    if not 0.0 <= rate <= 1.0:
        raise InputError(f"noise rate {rate} is outside 0..1; 0.3 corrupts 30 % of the labels")
    return given


def _checked_pairs(mapping: Mapping[int, int], num_classes: int) -> list[tuple[int, int]]:
    """Return the pairs in the order of their sources, so that the seed alone decides."""
    if not isinstance(mapping, Mapping):
        raise InputError(f"mapping = {mapping!r}; class → other class is needed, such as {{7: 1}}")
    for source, target in mapping.items():
        for each in (source, target):
            whole = isinstance(each, int | np.integer) and not isinstance(each, bool)
            if not whole or not 0 <= each < num_classes:
                raise InputError(
                    f"mapping {source!r} → {target!r}: {each!r} is not one of the classes "
                    f"0..{num_classes - 1}"
                )
        if source == target:
            raise InputError(f"mapping {source} → {target}: a class cannot be confused with itself")
    return sorted((int(source), int(target)) for source, target in mapping.items())
