"""What depends on one image alone, computed on the GPU link by link."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import cuda

from ntkdist.errors import InputError
from ntkdist.kernels.chain import Chain, Link
from ntkdist.kernels.cuda.batches import batch_size
from ntkdist.kernels.cuda.cells import ERF, LINEAR, RELU
from ntkdist.kernels.cuda.images import image_kernels
from ntkdist.kernels.cuda.intrinsics import SIMULATED
from ntkdist.kernels.cuda.launch import each, put
from ntkdist.kernels.cuda.layout import Block, layout_of
from ntkdist.kernels.cuda.state import CudaState

_KIND = {"": LINEAR, "relu": RELU, "erf": ERF}
CLEARING = 1 if SIMULATED else 2**18  # threads


class Preparation:
    """Fills a layout's numbers for images, link by link, on the device."""

    def __init__(self, backend: Any, chain: Chain, x: Any, reads: tuple[int, ...]) -> None:
        n, H, W, C = x.shape
        shape = (H, W, C) if chain.spatial else (1, 1, H * W * C)
        self.backend = backend
        self.layout = layout_of(chain, shape, backend.dtype, reads)
        self.kernels = image_kernels(backend.dtype)
        self.n, (H, W, C) = n, shape
        self.numbers = cuda.device_array((n, self.layout.size), backend.dtype)
        threads = min(
            self.numbers.size, CLEARING
        )  # not from the host: they are half a megabyte each
        each(self.kernels["clear"], threads)(self.numbers, self.numbers.size, threads)
        self.norm = cuda.device_array(n, np.float64)
        bad = cuda.device_array(n, np.int64)
        each(self.kernels["contrast"], n)(x, n, H * W * C, chain.homogeneous, bad, self.norm)
        if (wrong := np.flatnonzero(bad.copy_to_host())).size:
            raise InputError(f"image {wrong[0]} holds NaN or infinite pixels; clean or drop it")
        self.turn = 0
        self.A = self._variances(H, W)
        first = self.layout.blocks[0]
        each(self.kernels["pixels"], n * H * W)(
            x, n * H * W, H * W, W, C, self.norm, 1 / np.sqrt(2 * C), self.numbers,
            self.layout.size, first.pitch, first.plane, first.copy, self.A,
        )  # fmt: skip

    def state(self) -> CudaState:
        """Go through the blocks."""
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
        spread = self._spread(layout.blocks[-1])
        variance = spread
        if chain.pooled and chain.bends_behind:
            inside = np.empty(self.n)
            for part, found in self._with_itself(len(layout.blocks)):
                # chunk by chunk, as for an entry
                inside[part] = functools.reduce(np.add, found.copy_to_host()[:, :, 0, 0].T)
            inside *= layout.plan.unit / layout.plan.count
            variance = put(np.maximum(spread.copy_to_host() - inside, 0.0))
        return CudaState(layout, self.numbers, (*spreads, spread), variance, self.norm)

    def _variances(self, H: int, W: int) -> Any:
        """Return an array for the variances of all pixels, another one than the last time."""
        self.turn = 1 - self.turn
        shape = (self.n, H, W)
        return self.backend._workspace.array(f"variances {self.turn}", shape, np.float64)

    def _spread(self, block: Block) -> Any:
        """Return the mean over a block's pixels of the variances as they are now."""
        spread = cuda.device_array(self.n, np.float64)
        each(self.kernels["mean"], self.n)(self.A, self.n, block.pixels, spread)
        return spread

    def _link(
        self, block: Block, link: Link, where: dict[str, int], before: float, behind: float
    ) -> None:
        total = self.n * block.pixels
        new = self._variances(block.H, block.W)
        each(self.kernels["link"], total)(
            self.A, total, block.H, block.W, link.size, link.W_std**2 / link.size**2,
            link.b_std**2, before, behind, _KIND[link.activation], self.numbers,
            self.layout.size, block.pitch, block.plane, block.copy, where["half"],
            where["side"], where["cells"], new,
        )  # fmt: skip
        self.A = new

    def _pool(self, n: int) -> None:
        """Average over windows, with what each image's windows have of themselves."""
        front, block = self.layout.blocks[n - 1], self.layout.blocks[n]
        new = self._variances(block.H, block.W)
        for part, pooled in self._with_itself(n):
            count = part.stop - part.start
            each(self.kernels["windows"], count * block.pixels)(
                self.A[part], count * block.pixels, front.W, front.pool, block.H, block.W,
                pooled, front.slots, front.aligned_too, self.layout.plan.pool_units[n],
                self.numbers[part], self.layout.size, block.pitch, block.copy, block.centers,
                new[part],
            )  # fmt: skip
        self.A = new

    def _with_itself(self, upto: int) -> Iterator[tuple[slice, Any]]:
        """Run the first blocks on each image and itself, in batches; yield which and what."""
        layout = self.layout
        classes = tuple(block.classes for block in layout.blocks)
        if upto < len(layout.blocks):
            classes = layout.blocks[upto].windows
        batch = batch_size(layout, upto, classes, self.backend._workspace.nbytes)
        for start in range(0, self.n, batch):
            part = slice(start, min(self.n, start + batch))
            pairs = put(np.repeat(np.arange(part.start, part.stop)[:, None], 2, axis=1))
            yield part, self.backend._run(layout, self.numbers, self.numbers, pairs, classes)
