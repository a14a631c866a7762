"""The GPU kernel for fully connected networks: distances like a matrix product, then the layers.

A block of threads computes a square of entries. It reads numbers of the images into shared
memory, ``DEPTH`` at a time, and each thread adds up (x − y)² for ``EACH`` × ``EACH``
pairs in registers: no more work than products where nothing else is slower, and it keeps
the digits that |x|² + |y|² − 2xy loses between near duplicates.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import types as numba_types

from ntkdist.kernels.cuda.cells import cell_functions
from ntkdist.kernels.cuda.general import CELLS, FACTOR, KIND, SCALE, SIGNED, TRAINED
from ntkdist.kernels.cuda.intrinsics import SIDE, advance, cuda, device, kernel, pointer, put
from ntkdist.kernels.cuda.unroll import registers, unroll, written_out

EACH = 4  # entries of a thread along each side
EDGE = SIDE * EACH  # entries of a block along each side
DEPTH = 16  # numbers of an image read at a time
LEVEL = 4  # times DEPTH numbers are added up before they join the sum of those before


@lru_cache(maxsize=4)
def dense_kernel(dtype: str) -> Any:
    """Return the kernel for a dtype; its arguments are those of ``_dense``."""
    names = {
        **cell_functions(dtype),
        "zero": np.dtype(dtype).type(0),
        "kept": getattr(numba_types, dtype),
        "PART": (DEPTH, EDGE + 1),
    }
    names["finish"] = _layers(names["activate"], names["zero"])
    known = {"EACH": EACH, "SIDE": SIDE, "EDGE": EDGE, "DEPTH": DEPTH, "LEVEL": LEVEL}
    return kernel(written_out(_dense, known, names))


def _layers(activate: Any, zero: Any) -> Any:
    @device
    def layers(delta, a, b, table, units, last, totals):
        theta = zero
        for sweep in range(1, last + 1):
            delta, theta = activate(
                table[sweep, KIND], table[sweep, SIGNED], delta, theta,
                advance(a, table[sweep, CELLS]), advance(b, table[sweep, CELLS]), 1,
                units[sweep, TRAINED], units[sweep, SCALE],
            )  # fmt: skip
            if sweep < last:
                delta, theta = delta * units[sweep, FACTOR], theta * units[sweep, FACTOR]
        put(totals, 0, np.float64(delta))
        put(totals, 1, np.float64(theta))

    return layers


def _dense(A, B, size, channels, symmetric, table, units, last, totals):
    """Fill (n, m, 2) float64 Δ and Θ; ``symmetric`` leaves out what stands below the diagonal.

    ``A`` and ``B`` are (n, size) and (m, size) numbers of the images, the first ``channels`` of
    them pixels; ``table``, ``units`` and ``last`` are those of ``cuda.general``.
    """
    row = cuda.blockIdx.y * EDGE
    col = cuda.blockIdx.x * EDGE
    n, m = totals.shape[0], totals.shape[1]
    if symmetric and row >= col + EDGE:
        return
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    own = ty * SIDE + tx
    xs = cuda.shared.array(PART, kept)
    ys = cuda.shared.array(PART, kept)
    part, whole = registers(EACH * EACH)
    x, y = registers(EACH)
    for k in unroll(EACH * EACH):
        part[k], whole[k] = zero, zero
    level = 0
    for start in range(0, channels, DEPTH):
        for k in range(own, EDGE * DEPTH, SIDE * SIDE):
            image = k // DEPTH
            at = k - image * DEPTH
            inside = start + at < channels
            xs[at, image] = A[min(row + image, n - 1), start + at] if inside else zero
            ys[at, image] = B[min(col + image, m - 1), start + at] if inside else zero
        cuda.syncthreads()
        for at in range(DEPTH):
            for k in unroll(EACH):
                x[k] = xs[at, ty + k * SIDE]
                y[k] = ys[at, tx + k * SIDE]
            for k in unroll(EACH):
                for l in unroll(EACH):
                    d = x[k] - y[l]
                    part[k * EACH + l] += d * d
        level += 1
        if level == LEVEL:
            level = 0
            for k in unroll(EACH * EACH):
                whole[k] += part[k]
                part[k] = zero
        cuda.syncthreads()
    for k in unroll(EACH):
        for l in unroll(EACH):
            i, j = row + ty + k * SIDE, col + tx + l * SIDE
            if i < n and j < m:
                finish(
                    (whole[k * EACH + l] + part[k * EACH + l]) * units[0, FACTOR],
                    pointer(A, i * size), pointer(B, j * size), table, units, last,
                    pointer(totals, 2 * (i * m + j)),
                )  # fmt: skip
