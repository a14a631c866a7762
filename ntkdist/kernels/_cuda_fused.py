"""The GPU kernel for ReLU behind 3 × 3 filters, which is nearly all of the work.

A team of lanes (a warp) takes a chunk of displacement classes of one pair of images, and one
class, or as many as fit side by side, at a time. A lane has ``columns`` columns of the
class with all their rows, Δ and Θ, in registers, through all layers of a block: what a layer
needs of the columns beside its own comes by shuffles, what it needs of the two images through
the read-only cache, and nothing else touches memory. Cuts and units are those of
``_cpu_loops``; where a link is cut, Δ is half of the variance of the pixel that one
image still has, and Θ is zero.

The sums over a class are in the dtype along a column and in float64 beyond, in an order that
depends on the network and the images' size alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import cuda

from ntkdist.kernels._cuda_cells import cell_functions, distance, keep
from ntkdist.kernels._cuda_intrinsics import (
    LANES,
    advance,
    beside,
    device,
    fetch,
    kernel,
    over_lanes,
    pointer,
    put,
)
from ntkdist.kernels._unroll import registers, unroll, written_out

# Two numbers a cell and some forty more: what fits 255 registers with room for the loads
MOST_CELLS = 64


@dataclass(frozen=True)
class Fused:
    """What is known when a fused kernel is compiled.

    Attributes:
        H: Rows of the block's images.
        W: Columns.
        pitch: Numbers from one row of a plane to the next.
        plane: Numbers of a plane.
        columns: Columns of a lane.
        channels: Channels of a pixel; 0 where the block begins with pooled windows.
        layers: Nonlinearities of the block; 3 stands for more.
        signed: Whether the first of them meets negative correlations.
        sums: Whether the block ends in sums over positions, else its cells are stored.
        dtype: ``float32`` or ``float64``.
    """

    H: int
    W: int
    pitch: int
    plane: int
    columns: int
    channels: int
    layers: int
    signed: bool
    sums: bool
    dtype: str


def columns_of(W: int) -> int:
    """Return how many columns a lane has."""
    return -(-W // LANES)


@lru_cache(maxsize=64)
def fused_kernel(spec: Fused) -> Any:
    """Return the kernel for blocks of one kind; its arguments are those of ``_fused``."""
    known = asdict(spec)
    del known["dtype"]
    cells = spec.H * spec.columns
    known["lanes_of_class"] = -(-spec.W // spec.columns)
    known["together"] = LANES // known["lanes_of_class"]
    zero, one = np.dtype(spec.dtype).type(0), np.dtype(spec.dtype).type(1)
    names = {
        **cell_functions(spec.dtype),
        "across": _across(zero, one),
        "zero": zero,
        "one": one,
        "real": type(one),
    }
    limit = {"max_registers": 128} if spec.dtype == "float32" and cells <= 32 else {}
    return kernel(written_out(_fused, known, names), **limit)


def _fused(
    pairs, tasks, chunks, starts, classes, A, B, size, pooled, planes, units, last, found, cells
):  # fmt: skip
    """Run one block.

    Args:
        pairs: (n, 2) int64, row image and column image of each pair.
        tasks: n · chunks.
        chunks: Parts that the classes are cut into.
        starts: (chunks + 1,) int64, where each part's classes start.
        classes: (count,) int64, p·W + q of the displacement classes.
        A: (images, size) numbers of the row images.
        B: (images, size) numbers of the column images.
        size: Numbers of an image.
        pooled: (n, 2, H·W, H, W) Δ and Θ of pooled windows; unused in a first block.
        planes: (last + 1, 3) int64, where an image's numbers for a sweep start: roots (in the
            first sweep pixels, or means of windows), half variances, sums of them along rows.
        units: (last + 1, 3) of the dtype: 1 if the layer in front is trained, else 0; what
            sums of neighbours are multiplied by; and 0.
        last: Index of the last sweep.
        found: (n, chunks, 2) float64, sums of Δ and Θ.
        cells: (n, 2, count, H, W) of the dtype, Δ and Θ at the end of a block in front of a pool.
    """
    task = (cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x) // LANES
    if task >= tasks:
        return
    lane = cuda.threadIdx.x % LANES
    pair = task // chunks
    chunk = task - pair * chunks
    begin, stop, count = starts[chunk], starts[chunk + 1], starts[chunks]
    group = lane // lanes_of_class
    first = (lane - group * lanes_of_class) * columns
    a = pointer(A, pairs[pair, 0] * size)
    b = pointer(B, pairs[pair, 1] * size)
    D, T = registers(columns * H)
    mine, ja, jb, pa, pb, left, right = registers(columns)
    link_left, link_right, some_left, some_right = registers(columns)
    x, y, sum_d, sum_t, old_d, old_t, new_d, new_t, up, down = registers(columns)
    total_d, total_t = np.float64(0), np.float64(0)
    for c in unroll(columns):
        mine[c] = group < together and first + c < W
        ja[c] = min(first + c, W - 1)
    for step in range(begin, stop, together):
        at = min(step + group, stop - 1)
        cls = classes[at]
        p = cls // W
        q = cls - p * W
        cut = H - p
        for c in unroll(columns):
            jb[c] = ja[c] + q - (W if ja[c] + q >= W else 0)
            pa[c] = advance(a, ja[c])
            pb[c] = advance(b, p * pitch + jb[c])
            # behind a link that is cut one of the images may still have a pixel
            link_left[c] = zero if ja[c] == 0 or jb[c] == 0 else one
            link_right[c] = zero if ja[c] == W - 1 or jb[c] == W - 1 else one
            some_left[c] = zero if ja[c] + jb[c] == 0 else one - link_left[c]
            some_right[c] = zero if ja[c] + jb[c] == 2 * W - 2 else one - link_right[c]
            left[c] = advance(pa[c], -1) if ja[c] > 0 else advance(pb[c], -1 if jb[c] > 0 else 0)
            right[c] = (
                advance(pa[c], 1) if ja[c] < W - 1 else advance(pb[c], 1 if jb[c] < W - 1 else 0)
            )
        for phase in unroll(3):  # pixels or windows; the first ReLU; those behind it
            if phase == 0 or (phase == 1 and layers > 1) or (phase == 2 and layers > 2):
                for sweep in range(phase, last if phase == 2 else phase + 1):
                    root_at, half_at, side_at = planes[sweep, 0], planes[sweep, 1], planes[sweep, 2]
                    trained, factor = units[sweep, 0], units[sweep, 1]
                    # with a zero read anew, or the masks of all rows would be kept in registers
                    cut_row = real(cut) + units[sweep, 2]
                    for c in unroll(columns):
                        # the rows above and below are those of the column image alone
                        old_d[c] = fetch(pb[c], side_at - pitch) if p > 0 else zero
                        old_t[c] = zero
                        # at the cut they are those of the row image alone
                        up[c] = fetch(pa[c], side_at + (cut - 1) * pitch)
                        down[c] = fetch(pa[c], side_at + (cut if p > 0 else 0) * pitch)
                    for r in unroll(H):
                        for c in unroll(columns):
                            if phase == 0 and channels > 0:
                                x[c] = distance(pa[c], pb[c], r * pitch, plane, channels)
                                y[c] = zero
                            if phase == 0 and channels == 0:
                                cell = ((pair * 2 * H * W + cls) * H + r) * W + ja[c]
                                x[c] = fetch(pointer(pooled, 0), cell)
                                x[c] -= fetch(pa[c], root_at + r * pitch)
                                x[c] -= fetch(pb[c], root_at + r * pitch)
                                y[c] = fetch(pointer(pooled, 0), cell + H * W * H * W)
                            if phase > 0:
                                ra = fetch(pa[c], root_at + r * pitch)
                                rb = fetch(pb[c], root_at + r * pitch)
                                if phase == 1 and signed:
                                    x[c], y[c] = relu_signed(
                                        D[c * H + r], T[c * H + r], ra, rb, trained
                                    )
                                else:
                                    x[c], y[c] = relu(D[c * H + r], T[c * H + r], ra, rb, trained)
                        from_d, from_t, next_d, next_t = beside(
                            x[0], y[0], x[columns - 1], y[columns - 1]
                        )
                        for c in unroll(columns):
                            ld, lt = (
                                (x[c - 1] if c > 0 else from_d),
                                (y[c - 1] if c > 0 else from_t),
                            )
                            rd = x[c + 1] if c < columns - 1 else next_d
                            rt = y[c + 1] if c < columns - 1 else next_t
                            new_d[c] = along(
                                x[c], ld, rd, link_left[c], link_right[c],
                                fetch(left[c], half_at + r * pitch), some_left[c],
                                fetch(right[c], half_at + r * pitch), some_right[c],
                            )  # fmt: skip
                            new_t[c] = y[c] + lt * link_left[c] + rt * link_right[c]
                            if r == 0:
                                sum_d[c], sum_t[c] = old_d[c] + new_d[c], new_t[c]
                            else:
                                D[c * H + r - 1], T[c * H + r - 1], sum_d[c], sum_t[c] = across(
                                    real(r), cut_row, down[c], up[c], sum_d[c], sum_t[c],
                                    old_d[c], old_t[c], new_d[c], new_t[c],
                                )  # fmt: skip
                            old_d[c], old_t[c] = new_d[c], new_t[c]
                    for c in unroll(columns):
                        below = fetch(pb[c], side_at) if p > 0 else zero
                        D[c * H + H - 1], T[c * H + H - 1] = sum_d[c] + below, sum_t[c]
                    if factor != one:  # keeps the units of deep networks within range
                        for r in unroll(columns * H):
                            D[r], T[r] = D[r] * factor, T[r] * factor
        root_at, trained = planes[last, 0], units[last, 0]
        for c in unroll(columns):
            sum_d[c], sum_t[c] = zero, zero
            for r in unroll(H):
                ra, rb = fetch(pa[c], root_at + r * pitch), fetch(pb[c], root_at + r * pitch)
                if layers == 1 and signed:
                    x[c], y[c] = relu_signed(D[c * H + r], T[c * H + r], ra, rb, trained)
                else:
                    x[c], y[c] = relu(D[c * H + r], T[c * H + r], ra, rb, trained)
                if sums:
                    sum_d[c], sum_t[c] = sum_d[c] + x[c], sum_t[c] + y[c]
                else:
                    cell = ((pair * 2 * count + at) * H + r) * W + ja[c]
                    keep(cells, cell, count * H * W, x[c], y[c], mine[c] and step + group < stop)
            if mine[c] and step + group < stop:
                total_d += np.float64(sum_d[c])
                total_t += np.float64(sum_t[c])
    if sums:
        total_d, total_t = over_lanes(total_d), over_lanes(total_t)
        if lane == 0:
            put(pointer(found, 0), 2 * task, total_d)
            put(pointer(found, 0), 2 * task + 1, total_t)


def _across(zero, one):
    @device
    def across(row, cut, down, up, sum_d, sum_t, old_d, old_t, new_d, new_t):
        """Return Δ and Θ of the row above, and the sums for this one without the row below.

        Args:
            row: This row, as a number of the dtype.
            cut: The row in front of which the link is cut.
            down: What Δ of the row above has below it, if this is the row behind the cut.
            up: What Δ of this row has above it, likewise.
            sum_d: Of the row above and the one over it.
            sum_t: Likewise.
            old_d: Sum along the row above.
            old_t: Likewise.
            new_d: Sum along this row.
            new_t: Likewise.
        """
        link, miss = (zero, one) if row == cut else (one, zero)
        D, T = (sum_d + down * miss) + new_d * link, sum_t + new_t * link
        return D, T, (new_d + up * miss) + old_d * link, new_t + old_t * link

    return across


@device
def along(x, ld, rd, link_left, link_right, left, some_left, right, some_right):
    """Return the sum of three neighbouring Δ of a row; behind a cut, half variances."""
    total = x + ld * link_left + rd * link_right
    return total + left * some_left + right * some_right
