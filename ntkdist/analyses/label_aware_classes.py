"""Which two classes of a run label-aware kernels are tried on, and who of them is held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, did_you_mean

# Rows of the Gram that are read together.
_BAND_BYTES = 64 * 2**20


def closest_classes(gram: Any, labels: NDArray[np.int64], num_classes: int) -> tuple[int, int]:
    """Return the two classes whose means are closest in the space of the normalised kernel.

    Args:
        gram: (N, N) that can be sliced by rows and has ``diagonal()``.
        labels: (N,) in 0..K−1.
        num_classes: K; classes of fewer than 10 images are passed over.

    Returns:
        Their numbers, ascending.

    Raises:
        InputError: If there are no two such classes.
    """
    counts = np.bincount(labels, minlength=num_classes)
    usable = np.flatnonzero(counts >= 10)
    if len(usable) < 2:
        raise InputError(
            f"{len(usable)} classes have ten images or more; label-aware kernels need two of them"
        )
    Y = np.eye(num_classes)[labels] / np.sqrt(np.asarray(gram.diagonal(), np.float64))[:, None]
    sums = np.zeros((num_classes, num_classes))
    rows = max(1, _BAND_BYTES // (8 * len(labels)))
    for start in range(0, len(labels), rows):
        band = np.asarray(gram[start : start + rows, :], dtype=np.float64)
        sums += Y[start : start + rows].T @ (band @ Y)
    means = sums[np.ix_(usable, usable)] / np.outer(counts[usable], counts[usable])
    own = np.diagonal(means)
    apart = own[:, None] + own - 2.0 * means
    apart[np.tril_indices(len(usable))] = np.inf
    a, b = np.unravel_index(int(apart.argmin()), apart.shape)
    return int(usable[a]), int(usable[b])


def two_classes(classes: Sequence[int | str], names: Sequence[str]) -> tuple[int, int]:
    """Return the numbers of two classes given by number or name, or raise ``InputError``."""
    if isinstance(classes, str) or len(classes) != 2:
        raise InputError(f"classes={classes!r}: label-aware kernels are for two; give two of them")
    found = []
    for one in classes:
        number = names.index(one) if one in names else one
        if isinstance(number, str) and number.isdecimal():
            number = int(number)
        if isinstance(number, str) or not 0 <= number < len(names):
            raise InputError(
                f"class {one!r} is neither a name nor a number from 0 to {len(names) - 1}; the "
                f"names begin {', '.join(names[:5])}{did_you_mean(str(one), names)}"
            )
        found.append(int(number))
    if found[0] == found[1]:
        raise InputError(f"classes {classes[0]!r} and {classes[1]!r} are one; give two of them")
    return found[0], found[1]


def split_classes(
    labels: NDArray[np.int64], classes: tuple[int, int], share: float, most: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the training and the held-out images, each class parted by the same share.

    Args:
        labels: (N,) of the run.
        classes: The two.
        share: Of each class, held out.
        most: Images taken of both together, at most; more are drawn from.
        seed: Decides who comes where.

    Returns:
        Ascending places of both.

    Raises:
        InputError: For a share outside 0 to 1, or a class with too few images.
    """
    if not 0 < share < 1:
        raise InputError(f"test_share={share!r} must lie between 0 and 1, such as 0.2")
    random = np.random.default_rng(seed)
    members = [random.permutation(np.flatnonzero(labels == k)) for k in classes]
    total = sum(len(m) for m in members)
    if total > most:
        members = [m[: len(m) * most // total] for m in members]
    train, test = [], []
    for k, m in zip(classes, members, strict=True):
        held = max(1, round(share * len(m)))
        if len(m) - held < 4:
            raise InputError(
                f"class {k} leaves {max(len(m) - held, 0)} images to train on; at least 4 are "
                "needed: take other classes, a smaller test_share or a larger most"
            )
        test.append(m[:held])
        train.append(m[held:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))
