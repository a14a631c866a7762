"""GPU kernels for what depends on one image alone, in float64; see ``cpu`` for the same on a CPU.

One thread a pixel, except where a number belongs to a whole image. Planes of an image are stored
with their rows twice, one copy below the other, so that rows i + p need no wrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba import cuda

from ntkdist.kernels.cuda.cells import ERF, LINEAR, cell_functions
from ntkdist.kernels.cuda.intrinsics import device, fetch, kernel, peek, pointer, put
from ntkdist.kernels.cuda.unroll import written_out


@lru_cache(maxsize=8)
def image_kernels(dtype: str) -> dict[str, Any]:
    """Return the kernels for a dtype: clear, contrast, pixels, link, windows and mean."""
    real = np.dtype(dtype).type
    names = {
        "real": real,
        "half_erf": cell_functions(dtype)["half_erf"],
        "one": real(1),
        "zero": real(0),
    }
    functions: dict[str, Callable[..., Any]] = {
        "clear": _clear,
        "contrast": _contrast,
        "pixels": _pixels,
        "link": _link,
        "windows": _windows,
        "mean": _mean,
    }
    return {name: kernel(written_out(f, {}, names)) for name, f in functions.items()}


@device
def twice(numbers, at, copy, value):
    """Store a number, and its copy if the plane has one."""
    put(numbers, at, value)
    if copy > 0:
        put(numbers, at + copy, value)


def _clear(numbers, count, threads):
    """Set all numbers to zero."""
    for k in range(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, count, threads):
        put(pointer(numbers, 0), k, zero)


def _contrast(x, n, count, homogeneous, bad, norm):
    """Find what each of (n, count) images is divided by (see ``cpu.contrast``), and bad pixels."""
    image = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if image >= n:
        return
    source = pointer(x, image * count)
    largest = np.float64(0)
    finite = True
    for k in range(count):
        value = abs(np.float64(fetch(source, k)))
        finite = finite and value < np.float64(math.inf)
        largest = max(largest, value)
    put(pointer(bad, 0), image, 0 if finite else 1)
    found = np.float64(1)
    if homogeneous and finite:
        if largest == 0:
            largest = np.float64(1)
        square = np.float64(0)
        for k in range(count):
            value = np.float64(fetch(source, k)) / largest
            square += value * value
        square /= count
        if square == 0:
            square = np.float64(1)
        found = math.ldexp(largest, math.floor(math.log2(square) / 2 + 0.5))
    put(pointer(norm, 0), image, found)


def _pixels(x, total, area, W, channels, norm, factor, numbers, size, pitch, plane, copy, A):
    """Lay out pixels by channel, times ``factor``, and start with the variance of each."""
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if index >= total:
        return
    image = index // area
    pixel = index - image * area
    i = pixel // W
    j = pixel - i * W
    square = np.float64(0)
    for c in range(channels):
        value = np.float64(fetch(pointer(x, 0), index * channels + c))
        value /= fetch(pointer(norm, 0), image)
        square += value * value
        to = pointer(numbers, image * size + c * plane + i * pitch + j)
        twice(to, 0, copy, real(value * factor))
    put(pointer(A, 0), index, square / channels)


def _link(
    A, total, H, W, box, scale, bias, before, behind, kind, numbers, size, pitch, plane, copy,
    half_at, side_at, cells_at, new,
):  # fmt: skip
    """Go through a linear layer and what stands behind it.

    Args:
        A: (n, H, W) float64 variances in front.
        total: n·H·W.
        H: Rows.
        W: Columns.
        box: Filter edge.
        scale: Weight variance over box².
        bias: Bias variance.
        before: Unit of Δ in front.
        behind: Unit of Δ behind the linear layer.
        kind: What stands behind it.
        numbers: (n, size) to fill.
        size: Numbers of an image.
        pitch: From one row of a plane to the next.
        plane: Numbers of a plane.
        copy: From a number to its copy; 0 where there is none.
        half_at: Where to store half variances in front.
        side_at: Where to store their sums along the row.
        cells_at: Where to store what the cells behind the layer read.
        new: (n, H, W) float64 variances behind.
    """
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if index >= total:
        return
    image = index // (H * W)
    pixel = index - image * H * W
    i = pixel // W
    j = pixel - i * W
    reach = box // 2
    area, row = np.float64(0), np.float64(0)
    for s in range(-reach, reach + 1):
        if 0 <= i + s < H:
            for r in range(-reach, reach + 1):
                if 0 <= j + r < W:
                    value = fetch(pointer(A, 0), index + s * W + r)
                    area += value
                    if s == 0:
                        row += value
    to = pointer(numbers, image * size + i * pitch + j)
    twice(to, half_at, copy, real(fetch(pointer(A, 0), index) / 2 / before))
    twice(to, side_at, copy, real(row / 2 / before))
    variance = scale * area + bias
    if kind == ERF:
        inverse = 1 / math.sqrt(1 + 2 * variance)
        m = real(inverse) * real(inverse)
        twice(to, cells_at, copy, real(math.sqrt(0.5 + variance)))
        twice(to, cells_at + plane, copy, real(inverse))
        twice(to, cells_at + 2 * plane, copy, real(variance))
        # as covariances are computed: equal images then meet exactly
        z = (real(variance) + real(variance)) * m
        twice(to, cells_at + 3 * plane, copy, half_erf(one * m, z))
        variance = 2 / math.pi * math.asin(2 * variance / (1 + 2 * variance))
    else:
        # from the rounded root, for the same reason
        twice(to, cells_at, copy, real(math.sqrt(variance / 2 / behind)))
        if kind != LINEAR:
            variance /= 2
    put(pointer(new, 0), index, variance)


def _windows(
    A, total, W, edge, h, w, pooled, slots, more, unit, numbers, size, pitch, copy, centers_at, new
):  # fmt: skip
    """Average variances over windows: mean a² less the mean of Δ(x, x) over a window's pairs.

    Args:
        A: (n, H, W) float64 variances in front.
        total: n·h·w.
        W: Columns in front.
        edge: Of a window.
        h: Rows of windows.
        w: Columns of windows.
        pooled: (n, 2, h·slots, h, w), sums of each image's Δ with itself in its first slot.
        slots: For each displacement of rows.
        more: The slot that has more of them; 0 where none has.
        unit: What makes means of these sums.
        numbers: (n, size) to fill.
        size: Numbers of an image.
        pitch: From one row of a plane to the next.
        copy: From a number to its copy; 0 where there is none.
        centers_at: Where to store half of the sums.
        new: (n, h, w) float64 variances behind.
    """
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if index >= total:
        return
    area = h * w
    image = index // area
    window = index - image * area
    I = window // w
    J = window - I * w
    H = A.shape[1]
    mean = np.float64(0)
    for i in range(I * edge, I * edge + edge):
        for j in range(J * edge, J * edge + edge):
            mean += fetch(pointer(A, 0), (image * H + i) * W + j)
    own = image * 2 * h * slots * area + window
    inside = fetch(pointer(pooled, 0), own)
    if more > 0:
        inside += fetch(pointer(pooled, 0), own + more * area)
    twice(pointer(numbers, image * size + I * pitch + J), centers_at, copy, inside / (one + one))
    value = mean / (edge * edge) - unit * np.float64(inside)
    put(pointer(new, 0), index, max(value, np.float64(0)))


def _mean(A, n, area, spread):
    """Average the variances of each image over its pixels."""
    image = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if image >= n:
        return
    total = np.float64(0)
    for k in range(area):
        total += peek(pointer(A, 0), image * area + k)
    put(pointer(spread, 0), image, total / area)
