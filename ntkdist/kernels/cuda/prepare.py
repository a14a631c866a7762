"""What depends on one image alone, computed on the GPU in float64 link by link.

One thread a pixel, except where a number belongs to a whole image. Planes of an image are stored
with their rows twice, one copy below the other, so that rows i + p need no wrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from ntkdist.errors import InputError
from ntkdist.kernels.backend import as_images
from ntkdist.kernels.chain import ERF, KIND_OF, LINEAR, Chain, Link
from ntkdist.kernels.cuda.cells import cell_functions
from ntkdist.kernels.cuda.graph import CudaGraphPreparation, GraphRunner
from ntkdist.kernels.cuda.intrinsics import (
    SIMPLE,
    cuda,
    device,
    each,
    fetch,
    kernel,
    peek,
    pointer,
    put,
)
from ntkdist.kernels.cuda.layout import Block, Layout, layout_of
from ntkdist.kernels.cuda.runner import BlockRunner, Workspace, to_device
from ntkdist.kernels.cuda.stages import GraphLayout
from ntkdist.kernels.cuda.unroll import written_out
from ntkdist.kernels.graph import Graph

CLEARING = 1024 * SIMPLE  # threads


@dataclass(frozen=True)
class CudaState:
    """n prepared images; the arrays are on the device.

    Attributes:
        layout: The network on images of this shape.
        numbers: (n, size) of the dtype.
        spreads: For each network of the layout (n,) float64, the mean over pixels of K(x, x) at the
            end of its blocks.
        variance: (n,) float64, K(x, x) behind the mean over positions where it matters.
        norm: (n,) float64, what each image was divided by.
    """

    layout: Layout | GraphLayout
    numbers: Any
    spreads: tuple[Any, ...]
    variance: Any
    norm: Any

    @property
    def nbytes(self) -> int:
        """Bytes held on the device."""
        return int(self.numbers.nbytes)

    def __len__(self) -> int:
        return int(self.numbers.shape[0])


def graph_state(
    graph: Graph, x: np.ndarray, dtype: str, runners: dict[str, GraphRunner]
) -> CudaState:
    """Return (n, H, W, C) float64 images prepared for a graph and entries of ``dtype``."""
    made = CudaGraphPreparation(graph, x, dtype, runners)
    made.fill()
    spread, variance, norm = (to_device(z) for z in (made.spread, made.variance, made.norm))
    return CudaState(made.layout, made.numbers(), (spread,), variance, norm)


def is_on_device(images: Any) -> bool:
    """Return whether images are on the device already."""
    return hasattr(images, "__cuda_array_interface__") or hasattr(images, "copy_to_host")


def on_device(images: Any) -> Any:
    """Return (n, H, W, C) images on the device; those already there are not copied."""
    if is_on_device(images):
        x = shared(images) if hasattr(images, "__cuda_array_interface__") else images
        if x.ndim != 4 or 0 in x.shape:
            raise InputError(f"images have shape {tuple(x.shape)}; (n, H, W, C) is needed")
        if np.dtype(x.dtype) not in (np.float32, np.float64):
            raise InputError(
                f"images on the device are {x.dtype}; float32 or float64 is needed there"
            )
        if not x.is_c_contiguous():
            raise InputError("images on the device are not contiguous; make a copy in C order")
        return x
    return to_device(as_images(np.asarray(images)))


def on_host(images: Any) -> np.ndarray:
    """Return images as a NumPy array; those on the device are copied."""
    if hasattr(images, "copy_to_host"):
        return np.asarray(images.copy_to_host())
    if hasattr(images, "__cuda_array_interface__"):
        return np.asarray(shared(images).copy_to_host())
    return np.asarray(images)


def gpu_of(address: int) -> int:
    """Return the number of the GPU that an address belongs to."""
    from numba.cuda.cudadrv.driver import binding, driver

    kind = binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(driver.cuPointerGetAttribute(kind, address))


def shared(images: Any) -> Any:
    """Return any library's array as Numba's, when all that fills it is done.

    Kernels run on a stream that does not wait for the streams of other libraries. CuPy names its
    stream, and Numba waits for that; jax and PyTorch name none, so the whole GPU is waited for.
    Work of jax may not even be on a stream yet.
    """
    if hasattr(images, "block_until_ready"):
        images.block_until_ready()
    interface = images.__cuda_array_interface__
    if interface.get("stream") is None:
        cuda.synchronize()
    address, here = interface["data"][0], cuda.get_current_device().id
    if address and (where := gpu_of(address)) != here:
        raise InputError(
            f"the images are on GPU {where}, and this process computes on GPU {here}; copy them"
        )
    return cuda.as_cuda_array(images).bind()  # to the stream of the kernels


class Preparation:
    """Fills a layout's numbers for images, link by link, on the device."""

    def __init__(
        self,
        runner: BlockRunner,
        chain: Chain,
        shape: tuple[int, int, int],
        x: Any,
        reads: tuple[int, ...],
    ) -> None:
        n = x.shape[0]
        self.runner = runner
        self.layout = layout_of(chain, shape, runner.dtype, reads)
        self.kernels = image_kernels(runner.dtype)
        self.n, (H, W, C) = n, shape
        # cleared there: copied zeros would be half a megabyte an image
        self.numbers = cuda.device_array((n, self.layout.size), runner.dtype)
        threads = min(self.numbers.size, CLEARING)
        each(self.kernels["clear"], threads)(self.numbers, self.numbers.size, threads)
        self.norm = cuda.device_array(n, np.float64)
        bad = cuda.device_array(n, np.int64)
        each(self.kernels["contrast"], n)(x, n, H * W * C, chain.homogeneous, bad, self.norm)
        if (wrong := np.flatnonzero(bad.copy_to_host())).size:
            raise InputError(
                f"image {wrong[0]} holds NaN or infinite pixels; repair it or leave it out"
            )
        self.turn = 0
        self.A = self._variances(H, W)
        first = self.layout.blocks[0]
        each(self.kernels["pixels"], n * H * W)(
            x, n * H * W, H * W, W, C, self.norm, 1 / np.sqrt(2 * C), self.numbers,
            self.layout.size, first.pitch, first.plane, first.copy, self.A,
        )  # fmt: skip

    def state(self) -> CudaState:
        """Fill the numbers block by block and return the state."""
        layout = self.layout
        chain = layout.plan.chain
        spreads = []
        for n, block in enumerate(layout.blocks):
            if n:
                self._pool(n)
            for at, link in zip(block.links, chain.blocks[n].links, strict=True):
                self._link(block, link, layout.offsets[at], *layout.plan.units[at])
                if at + 1 in layout.reads:
                    spreads.append(self._spread(block))
        spread = self._spread(layout.blocks[-1], layout.plan.pixel_weights)
        variance = spread
        if chain.mixes_positions and chain.has_nonlinear_head:
            inside = np.empty(self.n)
            for part, totals in self._with_itself(len(layout.blocks)):
                # in the order of chunks, as for an entry
                inside[part] = reduce(np.add, totals.copy_to_host()[:, :, 0, 0].T)
            inside *= layout.plan.unit / layout.plan.count
            variance = to_device(np.maximum(spread.copy_to_host() - inside, 0.0))
        return CudaState(layout, self.numbers, (*spreads, spread), variance, self.norm)

    def _variances(self, H: int, W: int) -> Any:
        """Return one of two arrays in turn for the variances of all pixels."""
        self.turn = 1 - self.turn
        shape = (self.n, H, W)
        return self.runner.workspace.array(f"variances {self.turn}", shape, np.float64)

    def _spread(self, block: Block, weights: np.ndarray | None = None) -> Any:
        """Return the mean, or the weighted sum, over a block's pixels of the variances as now."""
        spread = cuda.device_array(self.n, np.float64)
        divisor = block.pixels if weights is None else 1
        of_pixels = to_device(np.ones(block.pixels) if weights is None else weights.ravel())
        each(self.kernels["mean"], self.n)(self.A, self.n, block.pixels, of_pixels, divisor, spread)
        return spread

    def _link(
        self, block: Block, link: Link, where: dict[str, int], before: float, behind: float
    ) -> None:
        total = self.n * block.pixels
        new = self._variances(block.H, block.W)
        each(self.kernels["link"], total)(
            self.A, total, block.H, block.W, link.size, link.W_std**2 / link.size**2,
            link.b_std**2, before, behind, KIND_OF[link.activation], self.numbers,
            self.layout.size, block.pitch, block.plane, block.copy, where["half"],
            where["side"], where["cells"], new,
        )  # fmt: skip
        self.A = new

    def _pool(self, n: int) -> None:
        """Average over windows, less the mean of Δ of each window with itself."""
        front, block = self.layout.blocks[n - 1], self.layout.blocks[n]
        new = self._variances(block.H, block.W)
        for part, pooled in self._with_itself(n):
            count = part.stop - part.start
            each(self.kernels["windows"], count * block.pixels)(
                self.A[part], count * block.pixels, front.W, front.pool, block.H, block.W,
                pooled, front.slots, front.second_aligned_slot, self.layout.plan.pool_units[n],
                self.numbers[part], self.layout.size, block.pitch, block.copy, block.centers,
                new[part],
            )  # fmt: skip
        self.A = new

    def _with_itself(self, upto: int) -> Iterator[tuple[slice, Any]]:
        """Run the first blocks on each image and itself; yield each batch's slice and result."""
        layout = self.layout
        classes = tuple(block.classes for block in layout.blocks)
        if upto < len(layout.blocks):
            classes = layout.blocks[upto].windows
        batch = self.runner.batch_size(layout, upto, classes)
        for start in range(0, self.n, batch):
            part = slice(start, min(self.n, start + batch))
            pairs = to_device(np.repeat(np.arange(part.start, part.stop)[:, None], 2, axis=1))
            yield part, self.runner.run(layout, self.numbers, self.numbers, pairs, classes)


def mirrored(workspace: Workspace, state: CudaState, even: np.ndarray) -> CudaState:
    """Return the state of the mirror images: the same numbers in another order.

    Where ``even``, (n,), an image is its own mirror image and keeps their order.
    """
    n, size, dtype = len(state), state.layout.size, state.layout.plan.dtype
    numbers = cuda.device_array((n, size), dtype)
    each(image_kernels(dtype)["mirror"], n * size)(
        state.numbers, n * size, size, workspace.table(state.layout.mirror),
        to_device(even.astype(np.int64)), numbers,
    )  # fmt: skip
    return replace(state, numbers=numbers)


@lru_cache(maxsize=8)
def image_kernels(dtype: str) -> dict[str, Any]:
    """Return the kernels for a dtype: clear, contrast, pixels, link, windows, mean and mirror."""
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
        "mirror": _mirror,
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
    """Store each image's divisor (see ``preparation.contrast``), and 1 in ``bad`` if it is bad."""
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
    divisor = np.float64(1)
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
        divisor = math.ldexp(largest, math.floor(math.log2(square) / 2 + 0.5))
    put(pointer(norm, 0), image, divisor)


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
    """Go through a linear layer and what stands behind it, of ``kind``.

    ``A`` and ``new`` are (n, H, W) float64 variances in front and behind, ``total`` n·H·W,
    ``box`` the filter's edge, ``scale`` its weight variance over box²; ``before`` and ``behind``
    are units of Δ in front of and behind the linear layer. ``numbers`` is (n, size) to fill: half
    variances in front at ``half_at``, their sums along rows at ``side_at``, what the cells behind
    the layer read at ``cells_at``; ``copy`` is from a number to its copy, 0 where there is none.
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
        # as covariances are computed: so that Δ of equal images is zero
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

    ``A`` and ``new`` are (n, H, W) and (n, h, w) float64 variances in front and behind, ``total``
    n·h·w, ``edge`` that of a window. ``pooled`` is (n, 2, h·slots, h, w), sums of each image's Δ
    with itself in its first slot and in slot ``more``, if that is not 0; ``unit`` makes means of
    them, and half of them go to ``centers_at`` of ``numbers``, as in ``_link``.
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


def _mean(A, n, area, weights, divisor, spread):
    """Add up the variances of each image times the weights of its pixels, over ``divisor``."""
    image = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if image >= n:
        return
    total = np.float64(0)
    for k in range(area):
        total += fetch(pointer(weights, 0), k) * peek(pointer(A, 0), image * area + k)
    put(pointer(spread, 0), image, total / divisor)


def _mirror(numbers, total, size, order, even, to):
    """Copy each image's ``size`` numbers in an order, those of images that are even as they are."""
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if index >= total:
        return
    image = index // size
    place = index - image * size
    if fetch(pointer(even, 0), image) == 0:
        place = fetch(pointer(order, 0), place)
    put(pointer(to, 0), index, fetch(pointer(numbers, 0), image * size + place))
