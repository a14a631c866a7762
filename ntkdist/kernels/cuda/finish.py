"""GPU kernels from sums over positions to kernel entries, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba import cuda

from ntkdist.kernels.cuda.cells import ERF, LINEAR, cell_functions
from ntkdist.kernels.cuda.intrinsics import fetch, kernel, pointer, put
from ntkdist.kernels.cuda.unroll import written_out


@lru_cache(maxsize=4)
def finish_kernels(dtype: str) -> dict[str, Any]:
    """Return ``gather`` and ``finish`` for entries of a dtype."""
    cells = cell_functions("float64")
    names = {
        "real": np.dtype(dtype).type,
        "relu_signed": cells["relu_signed"],
        "half_erf": cells["half_erf"],
    }
    functions: dict[str, Callable[..., Any]] = {"gather": _gather, "finish": _finish}
    return {name: kernel(written_out(f, {}, names)) for name, f in functions.items()}


def _gather(found, pairs, n, chunks, network, m, sums):
    """Add up what the teams found for one network.

    Args:
        found: (n, chunks, networks, 2) sums of Δ and Θ.
        pairs: (n, 2) int64 rows and columns of the entries.
        n: Pairs.
        chunks: Parts of the sums.
        network: Which.
        m: Columns.
        sums: (rows, m, 2) to fill.
    """
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if index >= n:
        return
    d, t = np.float64(0), np.float64(0)
    for chunk in range(chunks):
        d += found[index, chunk, network, 0]
        t += found[index, chunk, network, 1]
    to = 2 * (pairs[index, 0] * m + pairs[index, 1])
    put(pointer(sums, 0), to, d)
    put(pointer(sums, 0), to + 1, t)


def _finish(
    sums, n, m, symmetric, scale, spread_a, spread_b, variance_a, variance_b, norm_a, norm_b,
    linear, layers, bends, K_out, T_out,
):  # fmt: skip
    """Fill a block of K and Θ.

    Args:
        sums: (n, m, 2) sums of Δ and Θ over positions; of a symmetric block the upper triangle.
        n: Rows.
        m: Columns.
        symmetric: Whether the lower triangle is a copy of the upper one.
        scale: What makes means of the sums.
        spread_a: (n,) mean over pixels of the row images' variances.
        spread_b: (m,) of the column images'.
        variance_a: (n,) variance of the row images behind the mean over positions.
        variance_b: (m,) of the column images.
        norm_a: (n,) what row images were divided by.
        norm_b: (m,) what column images were divided by.
        linear: (5,) α, β, γ, δ, ε of the dense layers behind: αK + β and γΘ + δK + ε.
        layers: (k, 4) kind, weight variance, bias variance and 1 if trained, of the layers behind
            where one of them is a nonlinearity; the first row is not read where none is.
        bends: How many of them; 0 takes ``linear``.
        K_out: (n, m) of the dtype.
        T_out: (n, m) of the dtype.
    """
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if index >= n * m:
        return
    i = index // m
    j = index - i * m
    if symmetric and i > j:
        i, j = j, i
    delta = fetch(pointer(sums, 0), 2 * (i * m + j))
    tangent = fetch(pointer(sums, 0), 2 * (i * m + j) + 1)
    # without biases an empty image has no variance, and no kernel with anything
    both = norm_a[i] * norm_b[j] if spread_a[i] > 0 and spread_b[j] > 0 else np.float64(0)
    K = both * ((spread_a[i] + spread_b[j]) / 2 - scale * delta)
    T = both * scale * tangent
    if bends == 0:
        T = linear[2] * T + linear[3] * K + linear[4]
        K = linear[0] * K + linear[1]
    else:
        # in K's order of operations, so that Δ of equal images is zero
        A = (norm_a[i] * norm_a[i]) * variance_a[i]
        B = (norm_b[j] * norm_b[j]) * variance_b[j]
        delta = (A + B) / 2 - K
        for k in range(bends):
            if layers[k, 0] == LINEAR:
                delta *= layers[k, 1]
                A = layers[k, 1] * A + layers[k, 2]
                B = layers[k, 1] * B + layers[k, 2]
                T = layers[k, 1] * T + layers[k, 3] * ((A + B) / 2 - delta)
            elif layers[k, 0] == ERF:
                d = math.sqrt(0.5 + A) - math.sqrt(0.5 + B)
                root_a, root_b = math.sqrt(1 + 2 * A), math.sqrt(1 + 2 * B)
                # variances in K's order of operations, so that Δ of equal images is zero
                m_ab, m_a, m_b = 1 / (root_a * root_b), 1 / (root_a * root_a), 1 / (root_b * root_b)
                w = (2 * delta + 1 - d * d) * m_ab
                K = 2 * half_erf(w, (A + B - 2 * delta) * m_ab)
                T *= 4 / math.pi * m_ab / math.sqrt(abs(w * (2 - w)))
                A, B = 2 * half_erf(m_a, (A + A) * m_a), 2 * half_erf(m_b, (B + B) * m_b)
                delta = (A + B) / 2 - K
            else:
                delta, T = relu_signed(delta, T, math.sqrt(A / 2), math.sqrt(B / 2), np.float64(0))
                delta, T, A, B = delta / 2, T / 2, A / 2, B / 2
        K = (A + B) / 2 - delta
    put(pointer(K_out, 0), index, real(K))
    put(pointer(T_out, 0), index, real(T))
