"""Rankings of hard classes and of confused pairs of classes, and the agreement of rankings."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_fraction
from ntkdist.errors import InputError, shown
from ntkdist.labels.block_error import check_class_matrix, reciprocal


@dataclass(frozen=True, eq=False)
class ClassBias:
    """Rankings of classes and of pairs of classes.

    Attributes:
        intra: (M,) int64, classes with two members or more, the hardest first.
        intra_scores: (K,) Z_kk/(n_k(n_k−1)); NaN where a class has fewer than two members.
        inter: (P, 2) int64, pairs k < d of classes with members, the most entangled first.
        inter_scores: (K, K) |Z_kd|/(n_k n_d), symmetric; NaN on the diagonal and where a class
            has no members.
    """

    intra: NDArray[np.int64]
    intra_scores: NDArray[np.float64]
    inter: NDArray[np.int64]
    inter_scores: NDArray[np.float64]


def class_bias(Z: Any, counts: Any) -> ClassBias:
    """Rank classes by Z_kk and pairs of classes by |Z_kd|, with Z = YᵀH⁻¹Y.

    Z_kk = y_kᵀH⁻¹y_k is the squared norm of the kernel's function that fits class k against the
    others: it is larger for a harder class, whose images lie among those of other classes. Z_kd is
    negative if a function that fits class k is large, with the opposite sign, where class d is
    fitted: the larger |Z_kd|, the more entangled the two classes. Z_kd above 0 is usually small.
    Leave-one-out predictions confuse the pairs in this order; their errors on single classes follow
    the order less closely, if errors or images of a class are few. Both scores are divided as in
    L(Z), so that they do not depend on class sizes. Ties go to the smaller class.

    Args:
        Z: (K, K) YᵀH⁻¹Y.
        counts: (K,) class sizes.

    Returns:
        The rankings and their scores.

    Raises:
        InputError: For wrong shapes, values that are not finite, or negative counts.

    Source:
        DeOliveira et al. 2025 (rankings by Z_kk and |Z_kd|; their normalisation is not given).
    """
    Z, n = check_class_matrix(Z, counts)
    several = n > 1
    intra = np.full(len(n), np.nan)
    np.divide(np.diagonal(Z), n * (n - 1), out=intra, where=several)
    w = reciprocal(n)
    inter = np.abs((Z + Z.T) / 2) * w[:, None] * w
    inter[(n[:, None] == 0) | (n == 0)] = np.nan
    np.fill_diagonal(inter, np.nan)
    pairs = np.array(np.triu_indices(len(n), 1)).T
    values = inter[pairs[:, 0], pairs[:, 1]]
    pairs, values = pairs[np.isfinite(values)], values[np.isfinite(values)]
    classes = np.flatnonzero(several)
    return ClassBias(
        intra=classes[np.argsort(-intra[classes], kind="stable")].astype(np.int64),
        intra_scores=intra,
        inter=pairs[np.argsort(-values, kind="stable")].astype(np.int64),
        inter_scores=inter,
    )


def rank_biased_overlap(a: Sequence[Any], b: Sequence[Any], p: float = 0.9) -> float:
    """Return the agreement of two rankings, 0 to 1, with most weight on the first places.

    The extrapolated form for finite lists, RBO_EXT: the agreement of the first d places has weight
    p^(d−1); beyond the end of the shorter list, then of the longer one, the last agreement is
    assumed to continue. p = 0.9 is this package's choice: the first ten places then have 86 % of
    the weight.

    Args:
        a: Items, best first, each once.
        b: Items, best first, each once; may be of another length.
        p: Persistence, above 0 and below 1.

    Returns:
        1 for equal lists, 0 for lists without a common item.

    Raises:
        InputError: For p that is not a number above 0 and below 1, an empty list, or an item
            that occurs twice.

    Source:
        Webber, Moffat and Zobel 2010, equation 32.
    """
    check_fraction("p", p, "0.9 is usual")
    first, second = _items("a", a), _items("b", b)
    short, long = sorted((first, second), key=len)
    s, l = len(short), len(long)
    seen_short: set[Hashable] = set()
    seen_long: set[Hashable] = set()
    overlap = 0
    weight, total, at_s = 1.0, 0.0, 0
    for d in range(1, l + 1):
        new = long[d - 1]
        seen_long.add(new)
        overlap += new in seen_short
        if d <= s:
            item = short[d - 1]
            overlap += item in seen_long
            seen_short.add(item)
            at_s = overlap
            agreement = overlap / d
        else:
            # beyond its end, the shorter list is assumed to agree as at its last depth
            agreement = overlap / d + at_s * (d - s) / (s * d)
        total += weight * agreement
        weight *= p
    beyond = (overlap - at_s) / l + at_s / s
    return (1 - p) * total + beyond * weight


def _items(name: str, given: Sequence[Any]) -> list[Hashable]:
    try:
        items: list[Hashable] = [
            tuple(np.ravel(x).tolist()) if isinstance(x, (np.ndarray, list, tuple)) else x
            for x in given
        ]
        set(items)
    except (TypeError, ValueError):  # no list, or an item that cannot be compared
        raise InputError(f"ranking {name} is {shown(given)}; give a list of items") from None
    if not items:
        raise InputError(f"ranking {name} is empty; give at least one item")
    if len(set(items)) < len(items):
        twice = next(x for x in items if items.count(x) > 1)
        raise InputError(f"ranking {name} holds {shown(twice)} twice; each item has one place")
    return items
