"""The compiled inner loops of the CPU backend (Numba, float32).

One call computes kernel entries of a few row images against every column image. The
unit of work is a displacement class (p, q) of a pair: cell (i, j) of the first image
meets cell ((i + p) mod H, (j + q) mod W) of the second. A SAME convolution only mixes
cells of one displacement, so a class is an H × W image that runs through all layers in
cache. Taking the second index modulo H and W packs two displacements, p and p − H,
into one full image; the link between neighbours is cut where the index wraps. Beyond a
cut or a border one of the images may still have a pixel: K and Θ are zero there, but Δ is
half of that pixel's variance.

``LANES`` column images are computed side by side, one per vector lane: cuts and borders
are then the same for all lanes, nothing is masked or padded, and the rate does not depend
on the image's size. Every lane does the same operations in the same order, so an entry's
bits do not depend on its neighbours.

A state cell holds Δ = (a² + b²)/2 − K (see ``duals``) and Θ. A layer is one sweep over
the rows: nonlinearity, horizontal sum, and a vertical sum over a ring of the last rows.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from ntkdist.kernels.duals import ARCCOS, SINE_GAP

LANES = 16

_F = np.float32
_ZERO, _HALF, _ONE, _TWO = _F(0.0), _F(0.5), _F(1.0), _F(2.0)
# θ and sin θ − cθ are only ever needed over 2π
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7 = (_F(c / (2 * math.pi)) for c in ARCCOS)
_R0, _R1, _R2, _R3, _R4, _R5, _R6 = (_F(c / (2 * math.pi)) for c in SINE_GAP)

# Contracting to fused multiply-adds is wanted; reordering sums is not (it would make bits
# depend on the compiler's mood). Inputs are checked, so NaN and inf need no care here.
_FASTMATH = {"contract", "nnan", "ninf", "nsz", "arcp"}


@numba.njit(inline="always", fastmath=_FASTMATH)
def _relu(delta, theta, trained, a, b, inv_ab):
    """One cell through K ← E[σσ], Θ ← Θ·E[σ̇σ̇]; returns (Δ, Θ)."""
    d = a - b
    half_d2 = _HALF * d * d
    e = delta - half_d2
    ab = a * b
    theta = theta + trained * (ab - e)
    w = e * inv_ab
    s = max(min(w, _TWO - w), _ZERO)
    t = math.sqrt(s)
    p = _P7 * s + _P6
    p = p * s + _P5
    p = p * s + _P4
    p = p * s + _P3
    p = p * s + _P2
    p = p * s + _P1
    p = (p * s + _P0) * t
    r = _R6 * s + _R5
    r = r * s + _R4
    r = r * s + _R3
    r = r * s + _R2
    r = r * s + _R1
    r = (r * s + _R0) * (t * s)
    positive = w <= _ONE
    kept = e if positive else ab
    slope = _HALF - p if positive else p
    return _HALF * (kept + half_d2) - ab * r, theta * slope


@numba.njit(nogil=True, fastmath=_FASTMATH, cache=True)
def entries(
    images_a,
    root_a,
    inv_a,
    half_a,
    side_a,
    images_b,
    root_b,
    inv_b,
    half_b,
    side_b,
    sizes,
    scales,
    trained,
    relu,
    pooled,
    first_chunk,
    out_delta,
    out_theta,
):
    """Fill rows of Δ and Θ behind the last spatial layer.

    Args:
        images_a: (n, H, W, C) float32, row images over √C.
        root_a: (n, L, H, W) √Σ⁽ˡ⁾(x, x) behind linear layer l.
        inv_a: (n, L, H, W) its reciprocal, 0 where it is 0.
        half_a: (n, L, H, W) K(x, x)/2 in front of linear layer l.
        side_a: (n, L, H, W) its sums over q columns, times the layer's scale.
        images_b: (m, H, W, C, LANES) column images in chunks of LANES.
        root_b: (m, L, H, W, LANES) as ``root_a``.
        inv_b: (m, L, H, W, LANES) as ``inv_a``.
        half_b: (m, L, H, W, LANES) as ``half_a``.
        side_b: (m, L, H, W, LANES) as ``side_a``.
        sizes: (L,) filter edge q of each linear layer, odd.
        scales: (L,) W_std²/q² of each linear layer.
        trained: (L,) 1 if the layer adds its K to Θ, else 0.
        relu: (L,) whether a ReLU stands behind linear layer l.
        pooled: Mean over all pairs of positions (else over the aligned ones).
        first_chunk: (n,) first chunk of columns to compute for each row.
        out_delta: (n, m, LANES) float64, filled with the mean of Δ.
        out_theta: (n, m, LANES) float64, filled with the mean of Θ.
    """
    n, H, W, C = images_a.shape
    m = images_b.shape[0]
    # not the constant: LLVM would unroll loops of a known short length into scalar code
    lanes = images_b.shape[4]
    L = sizes.shape[0]
    q_most = 1
    for layer in range(L):
        q_most = max(q_most, sizes[layer])
    D = np.empty((H, W, LANES), np.float32)
    T = np.empty((H, W, LANES), np.float32)
    # Behind the W cells of a row: one zero cell, then W cells where only the first image has
    # a pixel and W where only the second has one. There K = Θ = 0 and Δ is half a variance.
    # Row q_most of the ring stays zero: a neighbour row that one image does not have.
    row_D = np.zeros((3 * W + 1, LANES), np.float32)
    row_T = np.zeros((3 * W + 1, LANES), np.float32)
    ring_D = np.zeros((q_most + 1, W, LANES), np.float32)
    ring_T = np.zeros((q_most + 1, W, LANES), np.float32)
    beside = np.empty((q_most, W), np.int64)
    part_D = np.empty(LANES, np.float32)
    part_T = np.empty(LANES, np.float32)
    sum_D = np.empty(LANES, np.float64)
    sum_T = np.empty(LANES, np.float64)
    positions = H * W
    classes = positions if pooled else 1
    for ia in range(n):
        for ib in range(first_chunk[ia], m):
            for l in range(lanes):
                sum_D[l] = 0.0
                sum_T[l] = 0.0
            for cls in range(classes):
                p = cls // W
                q = cls % W
                for layer in range(L + 1):
                    final = layer == L
                    size = 1 if final else sizes[layer]
                    reach = size // 2
                    scale = _ONE if final else scales[layer]
                    for k in range(size):
                        for j in range(W):
                            to = j + k - reach
                            to2 = (j + q) % W + k - reach
                            if 0 <= to < W:
                                beside[k, j] = to if 0 <= to2 < W else W + 1 + to
                            else:
                                beside[k, j] = 2 * W + 1 + to2 if 0 <= to2 < W else W
                    for i in range(H + reach):
                        if i < H:
                            i2 = (i + p) % H
                            if layer == 0:
                                for j in range(W):
                                    j2 = (j + q) % W
                                    for l in range(lanes):
                                        row_D[j, l] = _ZERO
                                    # two levels of summation keep wide inputs accurate
                                    for c0 in range(0, C, 64):
                                        for l in range(lanes):
                                            part_D[l] = _ZERO
                                        for c in range(c0, min(C, c0 + 64)):
                                            x = images_a[ia, i, j, c]
                                            for l in range(lanes):
                                                d = x - images_b[ib, i2, j2, c, l]
                                                part_D[l] += d * d
                                        for l in range(lanes):
                                            row_D[j, l] += _HALF * part_D[l]
                                    for l in range(lanes):
                                        row_T[j, l] = _ZERO
                            else:
                                before = layer - 1
                                add = trained[before]
                                if relu[before]:
                                    for j in range(W):
                                        j2 = (j + q) % W
                                        a = root_a[ia, before, i, j]
                                        inv = inv_a[ia, before, i, j]
                                        for l in range(lanes):
                                            dd, tt = _relu(
                                                D[i, j, l],
                                                T[i, j, l],
                                                add,
                                                a,
                                                root_b[ib, before, i2, j2, l],
                                                inv * inv_b[ib, before, i2, j2, l],
                                            )
                                            row_D[j, l] = dd
                                            row_T[j, l] = tt
                                else:
                                    for j in range(W):
                                        j2 = (j + q) % W
                                        a = root_a[ia, before, i, j]
                                        for l in range(lanes):
                                            b = root_b[ib, before, i2, j2, l]
                                            d = a - b
                                            delta = D[i, j, l]
                                            row_D[j, l] = delta
                                            row_T[j, l] = T[i, j, l] + add * (
                                                a * b - (delta - _HALF * d * d)
                                            )
                        if final:
                            # row sums in float32, their total in float64
                            for l in range(lanes):
                                part_D[l] = _ZERO
                                part_T[l] = _ZERO
                            for j in range(W):
                                for l in range(lanes):
                                    part_D[l] += row_D[j, l]
                                    part_T[l] += row_T[j, l]
                            for l in range(lanes):
                                sum_D[l] += part_D[l]
                                sum_T[l] += part_T[l]
                            continue
                        if size == 1:
                            for j in range(W):
                                for l in range(lanes):
                                    D[i, j, l] = scale * row_D[j, l]
                                    T[i, j, l] = scale * row_T[j, l]
                            continue
                        slot = i % size
                        if i < H:
                            if q > 0:
                                for j in range(max(0, W - q - reach), min(W, W - q + reach)):
                                    for l in range(lanes):
                                        row_D[W + 1 + j, l] = half_a[ia, layer, i, j]
                                for j in range(max(0, q - reach), min(W, q + reach)):
                                    for l in range(lanes):
                                        row_D[2 * W + 1 + j, l] = half_b[ib, layer, i2, j, l]
                            if size == 3:
                                for j in range(W):
                                    left = beside[0, j]
                                    right = beside[2, j]
                                    for l in range(lanes):
                                        ring_D[slot, j, l] = scale * (
                                            row_D[left, l] + row_D[j, l] + row_D[right, l]
                                        )
                                        ring_T[slot, j, l] = scale * (
                                            row_T[left, l] + row_T[j, l] + row_T[right, l]
                                        )
                            else:
                                for j in range(W):
                                    for l in range(lanes):
                                        ring_D[slot, j, l] = _ZERO
                                        ring_T[slot, j, l] = _ZERO
                                    for k in range(size):
                                        at = beside[k, j]
                                        for l in range(lanes):
                                            ring_D[slot, j, l] += scale * row_D[at, l]
                                            ring_T[slot, j, l] += scale * row_T[at, l]
                        o = i - reach
                        if o < 0:
                            continue
                        if size == 3:
                            o2 = (o + p) % H
                            above = (o - 1) % 3 if o > 0 and o2 > 0 else q_most
                            below = (o + 1) % 3 if o < H - 1 and o2 < H - 1 else q_most
                            here = o % 3
                            for j in range(W):
                                for l in range(lanes):
                                    D[o, j, l] = (
                                        ring_D[above, j, l]
                                        + ring_D[here, j, l]
                                        + ring_D[below, j, l]
                                    )
                                    T[o, j, l] = (
                                        ring_T[above, j, l]
                                        + ring_T[here, j, l]
                                        + ring_T[below, j, l]
                                    )
                        else:
                            for j in range(W):
                                for l in range(lanes):
                                    D[o, j, l] = _ZERO
                                    T[o, j, l] = _ZERO
                            for k in range(-reach, reach + 1):
                                if 0 <= o + k < H and 0 <= (o + p) % H + k < H:
                                    at = (o + k) % size
                                    for j in range(W):
                                        for l in range(lanes):
                                            D[o, j, l] += ring_D[at, j, l]
                                            T[o, j, l] += ring_T[at, j, l]
                        if p > 0:  # rows that only one of the images has
                            for k in range(-reach, reach + 1):
                                to = o + k
                                to2 = (o + p) % H + k
                                first = 0 <= to < H
                                second = 0 <= to2 < H
                                if first and not second:
                                    for j in range(W):
                                        for l in range(lanes):
                                            D[o, j, l] += side_a[ia, layer, to, j]
                                elif second and not first:
                                    for j in range(W):
                                        j2 = (j + q) % W
                                        for l in range(lanes):
                                            D[o, j, l] += side_b[ib, layer, to2, j2, l]
            for l in range(lanes):
                out_delta[ia, ib, l] = sum_D[l] / (positions * classes)
                out_theta[ia, ib, l] = sum_T[l] / (positions * classes)
