"""The exact step: ΔL of every possible flip, class sizes and left-out terms included.

Moving image i from o to j turns Z into Z + u G_iᵀ + G_i uᵀ + A_ii u uᵀ (u = e_j − e_o) and
w = 1/n into w + δ_o e_o + δ_j e_j. Written out, with h'_i = Σ_d G_id w_d + δ_o G_io and primes
for the values after the flip,

    ΔL_ij = own_i + c_j + A_ii r'_j/K + G_ij (2r'_j/K + 2B w'_j w_j + 2B δ_j w'_o)
            − 2B w'_j (h'_i − A_ii w'_o) − 2B δ_o δ_j Z_oj,
    own_i = c_o + r'_o (A_ii − 2G_io)/K + 2B w'_o (h'_i − w'_o G_io),

where r = 1/(n(n−1)), B = β/(K²−K) and c_k collects what depends on one class alone:
c_k = (r'_k − r_k) Z_kk/K − B (2δ_k (Zw)_k + δ_k² Z_kk − (w'_k² − w_k²) Z_kk).
Everything is a difference already, so no large sum is subtracted from another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels._tables import Tables, Vector
from ntkdist.labels.block_error import pair_reciprocal, pair_weight, reciprocal

# A class keeps at least this many members: with fewer, terms of L(Z) are 0/0 and left out,
# and dropping a positive term would pass for a gain.
SMALLEST_CLASS = 2


def tables(Z: NDArray[np.float64], counts: NDArray[np.int64], beta: float) -> Tables:
    """Return the tables of one exact step, in which a value is ΔL.

    No flip takes an image out of a class with two members or fewer, and none leads into a
    class without members: either would change which terms of L(Z) are left out to its gain.

    Args:
        Z: (K, K) now.
        counts: (K,) class sizes now.
        beta: β.

    Returns:
        The tables.

    Source:
        Derived from L(Z) of DeOliveira et al. 2025.
    """
    n = counts.astype(np.float64)
    K = len(n)
    B = pair_weight(K, beta)
    w, w_less, w_more = reciprocal(n), reciprocal(n - 1), reciprocal(n + 1)
    r, r_less, r_more = pair_reciprocal(n), pair_reciprocal(n - 1), pair_reciprocal(n + 1)
    d_less, d_more = w_less - w, w_more - w
    z, Zw = np.diagonal(Z), Z @ w

    def alone(r_new: Vector, w_new: Vector, d: Vector) -> Vector:
        return (r_new - r) * z / K - B * (2 * d * Zw + d * d * z - (w_new * w_new - w * w) * z)

    offset = -2 * B * d_less[:, None] * d_more * Z
    offset += alone(r_more, w_more, d_more)
    np.fill_diagonal(offset, np.inf)
    offset[counts <= SMALLEST_CLASS] = np.inf
    offset[:, counts == 0] = np.inf
    slope = 2 * r_more / K + 2 * B * w_more * w + (2 * B) * w_less[:, None] * d_more
    own = np.stack(
        [
            alone(r_less, w_less, d_less),
            r_less / K,
            -2 * r_less / K + 2 * B * w_less * (d_less - w_less),
            2 * B * w_less,
        ],
        axis=1,
    )
    push = np.stack([np.full(K, -2 * B), 2 * B * w_less, -2 * B * d_less], axis=1)
    return Tables.of(offset, slope, r_more / K, w_more, own, push)
