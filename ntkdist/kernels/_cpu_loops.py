"""The compiled inner loops of the CPU backend (Numba, float32).

One call computes kernel entries of a few row images against every column image. The
unit of work is a displacement class (p, q) of a pair: cell (i, j) of the first image
meets cell ((i + p) mod H, (j + q) mod W) of the second. A SAME convolution only mixes
cells of one displacement, so a class is an H × W image that runs through all layers in
cache. Taking the second index modulo H and W packs two displacements, p and p − H,
into one full image; the link between neighbours is cut where the index wraps. Beyond a
cut or a border one of the images may still have a pixel: K and Θ are zero there, but Δ is
half of that pixel's variance.

``LANES`` column images are computed side by side, one per vector lane (``_vector``): cuts and
borders are then the same for all lanes, nothing is masked or padded, and the rate does not depend
on the image's size. Every lane does the same operations in the same order, so an entry's
bits do not depend on its neighbours.

A state cell holds Δ = (a² + b²)/2 − K (see ``duals``) and Θ. A layer is one sweep over
the rows: nonlinearity, horizontal sum, and a vertical sum over a ring of the last rows.
"""

from __future__ import annotations

import numba
import numpy as np

from ntkdist.kernels import _vector as vector
from ntkdist.kernels._vector import LANES

_BYTES = 4 * LANES
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_CHANNELS = 64  # summed in one go; wide inputs are summed in two levels to stay accurate


@numba.njit(nogil=True, cache=True)
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
    L = sizes.shape[0]
    positions = H * W
    classes = positions if pooled else 1
    most = 1
    for layer in range(L):
        most = max(most, sizes[layer])
    state = np.empty((2, positions, LANES), np.float32)
    # Behind the W cells of a row: one zero cell, then W cells where only the first image has
    # a pixel and W where only the second has one. There K = Θ = 0 and Δ is half a variance.
    # Row ``most`` of the ring stays zero: a neighbour row that one of the images lacks.
    row = np.zeros((2, 3 * W + 1, LANES), np.float32)
    ring = np.zeros((2, (most + 1) * W, LANES), np.float32)
    beside = np.empty((most, W), np.int64)
    part = np.empty((2, LANES), np.float32)
    sums = np.empty((2, LANES), np.float64)
    D, T = state[0].ctypes.data, state[1].ctypes.data
    row_D, row_T = row[0].ctypes.data, row[1].ctypes.data
    ring_D, ring_T = ring[0].ctypes.data, ring[1].ctypes.data
    part_D, part_T = part[0].ctypes.data, part[1].ctypes.data
    zero = row_T + W * _BYTES
    for ia in range(n):
        for ib in range(first_chunk[ia], m):
            sums[:] = 0.0
            for cls in range(classes):
                p = cls // W
                q = cls % W
                for layer in range(L + 1):
                    final = layer == L
                    size = 1 if final else sizes[layer]
                    reach = size // 2
                    scale = _ONE if final else scales[layer]
                    if size > 1:
                        _neighbours(beside, size, W, q)
                    for i in range(H + reach):
                        i2 = _wrap(i + p, H)
                        if i < H:
                            if layer == 0:
                                x = images_a[ia, i].ctypes.data
                                y = images_b[ib, i2].ctypes.data
                                for j in range(W):
                                    j2 = _wrap(j + q, W)
                                    to = row_D + j * _BYTES
                                    _half_distance(
                                        x + 4 * j * C, y + j2 * C * _BYTES, C, to, part_D
                                    )
                                    vector.fill(_ZERO, row_T + j * _BYTES)
                            else:
                                before = layer - 1
                                add = trained[before]
                                a = root_a[ia, before, i]
                                inv = inv_a[ia, before, i]
                                b = root_b[ib, before, i2].ctypes.data
                                inv_row = inv_b[ib, before, i2].ctypes.data
                                here = i * W * _BYTES
                                if relu[before]:
                                    for j in range(W):
                                        at = j * _BYTES
                                        at2 = _wrap(j + q, W) * _BYTES
                                        vector.relu(
                                            D + here + at,
                                            T + here + at,
                                            add,
                                            a[j],
                                            inv[j],
                                            b + at2,
                                            inv_row + at2,
                                            row_D + at,
                                            row_T + at,
                                        )
                                else:
                                    for j in range(W):
                                        at = j * _BYTES
                                        at2 = _wrap(j + q, W) * _BYTES
                                        vector.linear(
                                            D + here + at,
                                            T + here + at,
                                            add,
                                            a[j],
                                            b + at2,
                                            row_D + at,
                                            row_T + at,
                                        )
                        if final:
                            # row sums in float32, their total in float64
                            vector.total(row_D, W, part_D)
                            vector.total(row_T, W, part_T)
                            for l in range(LANES):
                                sums[0, l] += part[0, l]
                                sums[1, l] += part[1, l]
                            continue
                        if size == 1:
                            for j in range(W):
                                at = (i * W + j) * _BYTES
                                vector.add3(row_D + j * _BYTES, zero, zero, scale, D + at)
                                vector.add3(row_T + j * _BYTES, zero, zero, scale, T + at)
                            continue
                        if i < H:
                            if q > 0:  # pixels that only one of the images has
                                for j in range(max(0, W - q - reach), min(W, W - q + reach)):
                                    to = row_D + (W + 1 + j) * _BYTES
                                    vector.fill(half_a[ia, layer, i, j], to)
                                beyond = half_b[ib, layer, i2].ctypes.data
                                for j in range(max(0, q - reach), min(W, q + reach)):
                                    to = row_D + (2 * W + 1 + j) * _BYTES
                                    vector.copy(beyond + j * _BYTES, to)
                            slot = (i % size) * W * _BYTES
                            _sum_columns(row_D, ring_D + slot, beside, size, W, scale, True, zero)
                            _sum_columns(row_T, ring_T + slot, beside, size, W, scale, False, zero)
                        o = i - reach
                        if o < 0:
                            continue
                        o2 = _wrap(o + p, H)
                        _sum_rows(ring_D, D + o * W * _BYTES, o, o2, H, W, size, most)
                        _sum_rows(ring_T, T + o * W * _BYTES, o, o2, H, W, size, most)
                        if p == 0:
                            continue
                        for k in range(-reach, reach + 1):  # rows that only one of them has
                            first = 0 <= o + k < H
                            second = 0 <= o2 + k < H
                            to = D + o * W * _BYTES
                            if first and not second:
                                side = side_a[ia, layer, o + k]
                                for j in range(W):
                                    vector.add_number(side[j], to + j * _BYTES)
                            elif second and not first:
                                other = side_b[ib, layer, o2 + k].ctypes.data
                                for j in range(W):
                                    vector.add(other + _wrap(j + q, W) * _BYTES, to + j * _BYTES)
            for l in range(LANES):
                out_delta[ia, ib, l] = sums[0, l] / (positions * classes)
                out_theta[ia, ib, l] = sums[1, l] / (positions * classes)
    # an address does not keep its array alive; a last use behind the loops does
    state[0, 0, 0] = row[0, 0, 0] + ring[0, 0, 0] + part[0, 0]


@numba.njit(nogil=True, cache=True)
def _wrap(index, edge):
    """Return index modulo edge for 0 ≤ index < 2·edge, without a division."""
    return index - edge if index >= edge else index


@numba.njit(nogil=True, cache=True)
def _neighbours(beside, size, W, q):
    """Fill beside[k, j]: which cell of a row lies k − size//2 columns beside column j."""
    for k in range(size):
        for j in range(W):
            to = j + k - size // 2
            to2 = _wrap(j + q, W) + k - size // 2
            if 0 <= to < W:
                beside[k, j] = to if 0 <= to2 < W else W + 1 + to
            else:
                beside[k, j] = 2 * W + 1 + to2 if 0 <= to2 < W else W


@numba.njit(nogil=True, cache=True)
def _half_distance(x, y, channels, to, part):
    """Store Σ (x − y)²/2 over the channels at address ``to``."""
    vector.half_distance(x, y, min(channels, _CHANNELS), to)
    for c in range(_CHANNELS, channels, _CHANNELS):
        count = min(_CHANNELS, channels - c)
        vector.half_distance(x + 4 * c, y + c * _BYTES, count, part)
        vector.add(part, to)


@numba.njit(nogil=True, cache=True)
def _sum_columns(row, to, beside, size, W, scale, beyond, zero):
    """Store scale · (sum over ``size`` columns) of a row; ``beyond``: cells behind W count."""
    if size == 3:
        for j in range(W):
            left, right = beside[0, j], beside[2, j]
            if not beyond:
                left, right = min(left, W), min(right, W)
            vector.add3(
                row + left * _BYTES, row + j * _BYTES, row + right * _BYTES, scale, to + j * _BYTES
            )
        return
    for j in range(W):
        here = to + j * _BYTES
        vector.fill(_ZERO, here)
        for k in range(size):
            vector.add(row + (beside[k, j] if beyond else min(beside[k, j], W)) * _BYTES, here)
        vector.add3(here, zero, zero, scale, here)


@numba.njit(nogil=True, cache=True)
def _sum_rows(ring, to, o, o2, H, W, size, most):
    """Store the sum of the rows around o that both images have, from the ring."""
    reach = size // 2
    stride = W * _BYTES
    if size == 3:
        above = ring + ((o + 2) % 3 if o > 0 and o2 > 0 else most) * stride
        below = ring + ((o + 1) % 3 if o < H - 1 and o2 < H - 1 else most) * stride
        here = ring + (o % 3) * stride
        for j in range(W):
            at = j * _BYTES
            vector.add3(above + at, here + at, below + at, _ONE, to + at)
        return
    for j in range(W):
        vector.fill(_ZERO, to + j * _BYTES)
    for k in range(-reach, reach + 1):
        if 0 <= o + k < H and 0 <= o2 + k < H:
            at = ring + ((o + k) % size) * stride
            for j in range(W):
                vector.add(at + j * _BYTES, to + j * _BYTES)
