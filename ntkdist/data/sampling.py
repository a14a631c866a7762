"""Seeded choices on labelled images: subsets, and label noise of a known rate.

Label noise measures how many wrong labels are found and restored.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntkdist.checks import (
    check_choice,
    check_classes,
    check_labels,
    check_seed,
    check_whole,
    is_number,
    is_whole,
    label_values,
)
from ntkdist.errors import InputError, shown

# With one seed, the images that are chosen and the labels that are corrupted are independent.
_SUBSET, _NOISE = 1, 2
HOW = ("first", "balanced")


def select(
    labels: ArrayLike, n: int | None = None, how: str = "first", seed: int = 0
) -> NDArray[np.int64]:
    """Choose n images by their labels.

    ``balanced`` gives class sizes that differ by at most one; where a class has too few images,
    the others get more. The seed decides which images of a class are taken, and which classes get
    one more. For one seed a larger n contains every smaller one.

    Args:
        labels: Classes, shape (N,).
        n: How many, 2..N; None is all.
        how: ``first`` or ``balanced``.
        seed: Seed of ``balanced``, at least 0.

    Returns:
        Indices, shape (n,), int64, strictly increasing: the images keep their original
        order, so n = N is the identity either way.

    Raises:
        InputError: n is outside 2..N, or ``how`` is unknown.
    """
    order = subset_order(labels, how, seed)
    total = len(order)
    if n is None:
        return np.arange(total, dtype=np.int64)
    n = check_whole("n", n, 2, "give the number of images")
    if n > total:
        raise InputError(f"n = {shown(n)} images, but there are only {total}; use at most {total}")
    return np.sort(order[:n])


def subset_order(labels: ArrayLike, how: str = "first", seed: int = 0) -> NDArray[np.int64]:
    """Return the order in which images are chosen: :func:`select` takes the first n of it.

    Args:
        labels: Classes, shape (N,).
        how: ``first`` or ``balanced``.
        seed: Seed of ``balanced``, at least 0.

    Returns:
        A permutation of 0..N−1, int64.

    Raises:
        InputError: ``how`` or the seed is unknown.
    """
    given = label_values(labels)
    check_choice("subset", how, HOW)
    random = _generator(seed, _SUBSET)
    total = len(given)
    if how == "first":
        return np.arange(total, dtype=np.int64)
    classes, position = np.unique(given, return_inverse=True)
    turn = random.permutation(len(classes))
    rank = np.empty(total, dtype=np.int64)
    for k in range(len(classes)):
        members = np.flatnonzero(position == k)
        rank[members] = random.permutation(len(members))
    # round r takes the r-th image of every class, the classes in the drawn order
    return np.lexsort((turn[position], rank)).astype(np.int64)


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
    num_classes = check_classes(num_classes)
    noisy = _checked(labels, num_classes, rate)
    if rate > 0 and num_classes == 1:
        raise InputError(
            f"noise rate {rate} with one class: there is no other class to draw; use rate 0"
        )
    random = _generator(seed, _NOISE)
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
    num_classes = check_classes(num_classes)
    true = _checked(labels, num_classes, rate)
    pairs = _checked_pairs(mapping, num_classes)
    if rate > 0 and not pairs:
        raise InputError(
            f"noise rate {rate} with an empty mapping: no class is confused with another; "
            "name some, for example {7: 1}, or use rate 0"
        )
    random = _generator(seed, _NOISE)
    noisy = true.copy()
    for source, target in pairs:
        members = np.flatnonzero(true == source)
        chosen = random.choice(members, size=round(rate * len(members)), replace=False)
        noisy[chosen] = target
    return noisy, noisy != true


def _checked(labels: ArrayLike, num_classes: int, rate: float) -> NDArray[np.int64]:
    """Return a copy of the labels; ``InputError`` for bad ones, or a rate outside 0..1."""
    # not: also for NaN
    if not is_number(rate) or not 0.0 <= rate <= 1.0:
        raise InputError(
            f"noise rate {shown(rate)} is outside 0..1; 0.3 corrupts 30 % of the labels"
        )
    return check_labels(labels, num_classes)


def _checked_pairs(mapping: Mapping[int, int], num_classes: int) -> list[tuple[int, int]]:
    """Return the pairs in the order of their sources, so that the seed alone decides."""
    if not isinstance(mapping, Mapping):
        raise InputError(
            f"mapping = {shown(mapping)}; class → other class is needed, such as {{7: 1}}"
        )
    for source, target in mapping.items():
        for each in (source, target):
            if not is_whole(each) or not 0 <= each < num_classes:
                raise InputError(
                    f"mapping {shown(source)} → {shown(target)}: {shown(each)} is not one "
                    f"of the classes 0..{num_classes - 1}"
                )
        if source == target:
            raise InputError(f"mapping {source} → {target}: a class cannot be confused with itself")
    return sorted((int(source), int(target)) for source, target in mapping.items())


def _generator(seed: int, purpose: int) -> np.random.Generator:
    """Return a fresh PCG64 generator for a seed of at least 0 and a purpose."""
    return np.random.default_rng([check_seed(seed), purpose])
