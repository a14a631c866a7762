"""Subsets of images: the first n, or n of a seeded class-balanced draw."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntkdist.data.seeds import SUBSET, generator
from ntkdist.errors import InputError, did_you_mean

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
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 2:
        raise InputError(f"n = {n!r} images; an integer of at least 2 is needed")
    if n > total:
        raise InputError(f"n = {n} images, but there are only {total}; use at most {total}")
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
    given = np.asarray(labels)
    if given.ndim != 1:
        raise InputError(f"labels have shape {given.shape}; (N,) is needed")
    if how not in HOW:
        raise InputError(
            f"subset {how!r} is unknown; use {' or '.join(HOW)}" + did_you_mean(str(how), HOW)
        )
    random = generator(seed, SUBSET)
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
