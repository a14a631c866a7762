"""Compiled arithmetic on K×K: L(Z), its gradient, Z after a move, and the tables of a step.

A step of ``exact`` or ``paper`` calls each of these once; in NumPy they would cost as much as the
step's scan of ten thousand rows. They are in one file, because Numba's cache on disk does not
notice changes in other files.

The tables hold what one step needs of the classes: with them, the value of moving an image is one
short formula. For image i of class o, g = G_i, a = A_ii, h = Σ_d G_id/n_d, and each target j,

    value_ij = own_i + offset_oj + G_ij slope_oj + a curve_j + push_i pull_j,
    own_i = own_o · (1, a, G_io, h),  push_i = push_o · (h, a, G_io).

Tables are a tuple, in the order that the loops over rows take them:

    offset (K, K) by class and target, infinite where a move is not allowed
    slope  (K, K) by class and target, all ≥ 0
    curve  (K,) by target
    pull   (K,) by target
    own    (K, 4) by class
    push   (K, 3) by class
    low    (K, 6) by class: the least offset, slope, curve and pull of its targets, and the largest
           slope and pull; they give a lower bound of every value of a row in O(1)
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

# A class keeps at least this many members: with fewer, terms of L(Z) are 0/0 and left out, and
# leaving out a positive term would lower L(Z).
SMALLEST_CLASS = 2

compiled: Any = numba.njit(nogil=True, cache=True)
# For functions that a loop calls for each row: LLVM does not inline larger ones, which is several
# times slower.
inlined: Any = numba.njit(nogil=True, inline="always")


@compiled
def _reciprocal(n):  # type: ignore[no-untyped-def]
    """Return 1/n, and 0 for empty classes."""
    return 1.0 / n if n > 0 else 0.0


@compiled
def _pair_reciprocal(n):  # type: ignore[no-untyped-def]
    """Return 1/(n(n−1)), and 0 for classes with fewer than two members."""
    return 1.0 / (n * (n - 1.0)) if n > 1 else 0.0


@compiled
def _pair_weight(K, beta):  # type: ignore[no-untyped-def]
    """Return B = β/(K²−K), and 0 if there is one class."""
    return beta / (K * K - K) if K > 1 else 0.0


@compiled
def _weighted_sums(Z, n):  # type: ignore[no-untyped-def]
    """Return Z w (K,) with w = 1/n."""
    K = len(n)
    out = np.zeros(K)
    for k in range(K):
        for d in range(K):
            out[k] += Z[k, d] * _reciprocal(n[d])
    return out


@compiled
def sums(Z, n, beta):  # type: ignore[no-untyped-def]
    """Return the two sums (intra, inter) of L(Z) = intra − inter, from Z (K, K) and sizes (K,)."""
    K = len(n)
    intra = inter = 0.0
    for k in range(K):
        intra += Z[k, k] * _pair_reciprocal(n[k])
        others = 0.0
        for d in range(K):
            if d != k:
                others += Z[k, d] * _reciprocal(n[d])
        inter += _reciprocal(n[k]) * others
    return intra / K, _pair_weight(K, beta) * inter


@compiled
def gradient_coefficients(Z, n, beta):  # type: ignore[no-untyped-def]
    """Return (slope, weight, offset), each (K,): ∂L/∂Y_ik = slope_k G_ik − weight_k g_i + offset_k.

    Here g_i = Σ_d G_id/n_d, so that one row costs O(K).
    """
    K = len(n)
    B = _pair_weight(K, beta)
    Zw = _weighted_sums(Z, n)
    slope, weight, offset = np.empty(K), np.empty(K), np.empty(K)
    for k in range(K):
        w, r, z = _reciprocal(n[k]), _pair_reciprocal(n[k]), Z[k, k]
        slope[k] = 2 * r / K + 2 * B * w * w
        weight[k] = 2 * B * w
        offset[k] = -z * (2 * n[k] - 1) * r * r / K + 2 * B * w * w * (Zw[k] - z * w)
    return slope, weight, offset


@compiled
def moved(Z, g, a, old, new):  # type: ignore[no-untyped-def]
    """Return Z (K, K) after one image moves from class ``old`` to ``new``.

    With u = e_new − e_old: Z + u gᵀ + g uᵀ + a u uᵀ, where g (K,) is the image's row of G before
    the move and a its diagonal entry of H⁻¹.
    """
    out = Z.copy()
    for k in range(len(g)):
        out[new, k] += g[k]
        out[old, k] -= g[k]
    for k in range(len(g)):
        out[k, new] += g[k]
        out[k, old] -= g[k]
    out[new, new] += a
    out[old, old] += a
    out[new, old] -= a
    out[old, new] -= a
    return out


@compiled
def _ends(offset, slope, curve, pull):  # type: ignore[no-untyped-def]
    """Return each class's least and largest coefficients over its targets, the table ``low``."""
    K = len(curve)
    low = np.empty((K, 6))
    for o in range(K):
        low[o, :4] = np.inf
        low[o, 4:] = -np.inf
        for j in range(K):
            if offset[o, j] == np.inf:
                continue
            low[o, 0] = min(low[o, 0], offset[o, j])
            low[o, 1] = min(low[o, 1], slope[o, j])
            low[o, 2] = min(low[o, 2], curve[j])
            low[o, 3] = min(low[o, 3], pull[j])
            low[o, 4] = max(low[o, 4], slope[o, j])
            low[o, 5] = max(low[o, 5], pull[j])
    return low


@compiled
def paper_tables(Z, n, beta):  # type: ignore[no-untyped-def]
    """Return the tables of one step of Algorithm 1, from Z (K, K), sizes (K,) and β.

    With m = −∂L/∂Y, b_i = m_i,a_i and c_i = max_j m_ij, a row's value is b_i − c_i ≤ 0 and its
    class is argmax_j m_ij (the smallest on ties); the step takes the lowest value. Classes
    without members are no targets: their gradient is 0/0.

    Source:
        DeOliveira et al. 2025, Algorithm 1.
    """
    K = len(n)
    steep, weight, start = gradient_coefficients(Z, n, beta)
    offset, slope = np.empty((K, K)), np.empty((K, K))
    own, push = np.zeros((K, 4)), np.zeros((K, 3))
    for o in range(K):
        own[o, 0], own[o, 2], own[o, 3] = -start[o], -steep[o], weight[o]
        push[o, 0] = 1.0
        for j in range(K):
            offset[o, j] = start[j] if n[j] > 0 else np.inf
            slope[o, j] = steep[j]
    curve, pull = np.zeros(K), -weight
    return offset, slope, curve, pull, own, push, _ends(offset, slope, curve, pull)


@compiled
def _alone(r_new, r, w_new, w, z, Zw, K, B):  # type: ignore[no-untyped-def]
    """Return c_k of ``exact_tables``: what the change of one class's size adds to ΔL."""
    d = w_new - w
    return (r_new - r) * z / K - B * (2 * d * Zw + d * d * z - (w_new * w_new - w * w) * z)


@compiled
def exact_tables(Z, n, beta):  # type: ignore[no-untyped-def]
    """Return the tables of one exact step, in which a value is ΔL, class sizes included.

    Moving image i from o to j turns Z into Z + u G_iᵀ + G_i uᵀ + A_ii u uᵀ (u = e_j − e_o) and
    w = 1/n into w + δ_o e_o + δ_j e_j. Written out, with h'_i = Σ_d G_id w_d + δ_o G_io and primes
    for the values after the flip,

        ΔL_ij = own_i + c_j + A_ii r'_j/K + G_ij (2r'_j/K + 2B w'_j w_j + 2B δ_j w'_o)
                − 2B w'_j (h'_i − A_ii w'_o) − 2B δ_o δ_j Z_oj,
        own_i = c_o + r'_o (A_ii − 2G_io)/K + 2B w'_o (h'_i − w'_o G_io),

    where r = 1/(n(n−1)), B = β/(K²−K) and c_k collects what depends on one class alone:
    c_k = (r'_k − r_k) Z_kk/K − B (2δ_k (Zw)_k + δ_k² Z_kk − (w'_k² − w_k²) Z_kk).
    All terms are differences, so that no large sum is subtracted from another.

    No flip takes an image out of a class with two members or fewer, and none puts one into a
    class without members: either could lower L(Z) only because it changes which terms are left out.

    Source:
        Derived from L(Z) of DeOliveira et al. 2025.
    """
    K = len(n)
    B = _pair_weight(K, beta)
    Zw = _weighted_sums(Z, n)
    offset, slope = np.empty((K, K)), np.empty((K, K))
    curve, pull = np.empty(K), np.empty(K)
    own, push = np.empty((K, 4)), np.empty((K, 3))
    into, d_more = np.empty(K), np.empty(K)
    for j in range(K):
        w, w_more = _reciprocal(n[j]), _reciprocal(n[j] + 1)
        r, r_more = _pair_reciprocal(n[j]), _pair_reciprocal(n[j] + 1)
        into[j] = _alone(r_more, r, w_more, w, Z[j, j], Zw[j], K, B) if n[j] > 0 else np.inf
        curve[j], pull[j], d_more[j] = r_more / K, w_more, w_more - w
    for o in range(K):
        w, w_less = _reciprocal(n[o]), _reciprocal(n[o] - 1)
        r, r_less = _pair_reciprocal(n[o]), _pair_reciprocal(n[o] - 1)
        d_less = w_less - w
        own[o, 0] = _alone(r_less, r, w_less, w, Z[o, o], Zw[o], K, B)
        own[o, 1] = r_less / K
        own[o, 2] = -2 * r_less / K + 2 * B * w_less * (d_less - w_less)
        own[o, 3] = 2 * B * w_less
        push[o, 0], push[o, 1], push[o, 2] = -2 * B, 2 * B * w_less, -2 * B * d_less
        for j in range(K):
            w_j = _reciprocal(n[j])
            slope[o, j] = 2 * curve[j] + 2 * B * pull[j] * w_j + 2 * B * w_less * d_more[j]
            offset[o, j] = into[j] - 2 * B * d_less * d_more[j] * Z[o, j]
        offset[o, o] = np.inf
        if n[o] <= SMALLEST_CLASS:
            offset[o, :] = np.inf
    return offset, slope, curve, pull, own, push, _ends(offset, slope, curve, pull)
