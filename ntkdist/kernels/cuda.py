"""The CUDA backend: the arithmetic of the CPU backend on an NVIDIA GPU (numba-cuda).

Covers the same networks. ``prepare`` computes on the device, in float64, what depends on one image
alone; ``block`` runs the blocks between pools one after the other on as many pairs of
images as fit the free memory: ``_cuda_fused`` where a block is ReLUs behind 3 × 3 filters,
else ``_cuda_general``, and ``_cuda_dense`` for fully connected networks. Nothing is added up
atomically, and the order of every sum depends on the network and the images' size alone, so an
entry has the same bits in every block and every run on a kind of GPU.

Images may be on the device already, as anything with ``__cuda_array_interface__`` (a jax, CuPy or
PyTorch array); they are read where they are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda

from ntkdist.architecture import Architecture, Dense, Erf
from ntkdist.errors import InputError
from ntkdist.kernels import _cuda_dense as dense
from ntkdist.kernels._chain import Chain, Link, chain_of
from ntkdist.kernels._cuda_batches import Workspace, batch_size, pairs_of, pieces_of
from ntkdist.kernels._cuda_cells import ERF, LINEAR, RELU
from ntkdist.kernels._cuda_finish import finish_kernels
from ntkdist.kernels._cuda_fused import fused_kernel
from ntkdist.kernels._cuda_general import general_kernel, pool_kernel
from ntkdist.kernels._cuda_images import image_kernels
from ntkdist.kernels._cuda_intrinsics import SIMULATED
from ntkdist.kernels._cuda_plan import Block, Classes, Layout, Pooling, layout_of
from ntkdist.kernels._cuda_spec import TEAMS, THREADS
from ntkdist.kernels._tail import linear_tail
from ntkdist.kernels.backend import CUDA_ARITHMETIC, as_images, check_kinds, check_pair

_SIMPLE = 1 if SIMULATED else 256  # of a block of threads that know nothing of each other
_KIND = {"": LINEAR, "relu": RELU, "erf": ERF}


@dataclass(frozen=True)
class CudaState:
    """What ``prepare`` made of n images; the arrays are on the device.

    Attributes:
        layout: The network on images of this shape.
        numbers: (n, size) of the dtype.
        spread: (n,) float64, the mean over pixels of K(x, x) at the end of the blocks.
        variance: (n,) float64, K(x, x) behind the mean over positions where it matters.
        norm: (n,) float64, what each image was divided by.
    """

    layout: Layout
    numbers: Any
    spread: Any
    variance: Any
    norm: Any

    @property
    def nbytes(self) -> int:
        """Bytes held on the device."""
        return int(self.numbers.nbytes)

    def __len__(self) -> int:
        return int(self.numbers.shape[0])


class CudaBackend:
    """Kernel entries on one GPU; see ``backend.Backend`` for the protocol.

    Args:
        dtype: ``float32`` or ``float64``.
        threads: Not used; the GPU has its own.
    """

    name = "cuda"
    arithmetic = CUDA_ARITHMETIC

    def __init__(self, *, dtype: str = "float32", threads: int = 1) -> None:
        self.dtype = dtype
        self.threads = threads
        self._workspace = Workspace()

    def supports(
        self, arch: Architecture, image_shape: tuple[int, int, int], dtype: str | None = None
    ) -> str | None:
        """Return None if the cuda backend covers ``arch``, else the reason."""
        chain = chain_of(arch)
        return chain if isinstance(chain, str) else None

    def prepare(self, arch: Architecture, images: Any) -> CudaState:
        """Compute on the device what depends on one image alone.

        Args:
            arch: The network.
            images: (n, H, W, C) of a floating dtype, on the host or the device.

        Returns:
            The state, on the device.

        Raises:
            InputError: If the network is not covered, or the images are not finite or not
                of this shape.
        """
        chain = chain_of(arch)
        if isinstance(chain, str):
            raise InputError(f"backend 'cuda': {chain}")
        x = _on_device(images)
        if chain.spatial:
            arch.check_image(*x.shape[1:3])
        return _Preparation(self, chain, x).state()

    def block(
        self, a: CudaState, b: CudaState, kinds: Sequence[str] = ("ntk",)
    ) -> dict[str, np.ndarray]:
        """Compute (n_a, n_b) entries of each kind; ``a is b`` computes half of them."""
        found = self.block_on_device(a, b, kinds)
        return {kind: entries.copy_to_host() for kind, entries in found.items()}

    def block_on_device(
        self, a: CudaState, b: CudaState, kinds: Sequence[str] = ("ntk",)
    ) -> dict[str, Any]:
        """Compute like ``block``, and leave the entries on the device.

        Args:
            a: State of the rows' images.
            b: State of the columns' images.
            kinds: Which of ``ntk`` and ``nngp``.

        Returns:
            kind → (n_a, n_b) of the dtype, with ``__cuda_array_interface__``.
        """
        kinds = check_kinds(kinds)
        check_pair(a.layout.plan.shape, b.layout.plan.shape)
        n, m = len(a), len(b)
        plan, chain = a.layout.plan, a.layout.plan.chain
        sums = cuda.device_array((n, m, 2), np.float64)
        if chain.spatial:
            held = self._workspace.nbytes
            batch = batch_size(a.layout, len(a.layout.blocks), held=held)
            for pairs in pairs_of(n, m, a is b, batch):
                self._sums(a, b, pairs, sums)
        else:
            self._dense(a, b, sums)
        K, theta = cuda.device_array((n, m), self.dtype), cuda.device_array((n, m), self.dtype)
        bends = len(chain.tail) if chain.bends_behind else 0
        _each(finish_kernels(self.dtype)["finish"], n * m)(
            sums, n, m, a is b, plan.unit / plan.count, a.spread, b.spread, a.variance,
            b.variance, a.norm, b.norm, _put(linear_tail(() if bends else chain.tail)),
            _put(_tail_table(chain)), bends, K, theta,
        )  # fmt: skip
        found = {"ntk": theta, "nngp": K}
        return {kind: found[kind] for kind in kinds}

    def kernels(self, state: CudaState) -> Iterator[tuple[str, str, int, Any]]:
        """Yield what computes pairs: name, what a block computes, its threads, the function."""
        layout = state.layout
        if not layout.plan.chain.spatial:
            shape = f"{dense.EDGE} × {dense.EDGE} pairs, {dense.EACH}² a thread"
            yield "dense", shape, dense.SIDE**2, dense.dense_kernel(self.dtype)
            return
        for block in layout.blocks:
            size = f"{block.H} × {block.W}"
            if block.fused is None:
                shape = f"{TEAMS} classes of {size} cells, state in memory"
                yield f"general {size}", shape, THREADS, general_kernel(self.dtype)
            else:
                classes = block.fused.together * TEAMS
                shape = f"{classes} classes of {size} cells, state in registers"
                name = f"fused {size} with its pool" if block.pools else f"fused {size}"
                yield name, shape, THREADS, fused_kernel(block.fused)
            if block.pool and not block.pools:
                yield f"pool {size}", "a pair of windows a thread", _SIMPLE, pool_kernel(self.dtype)

    def _sums(self, a: CudaState, b: CudaState, pairs: np.ndarray, sums: Any) -> None:
        """Fill the pairs' entries of ``sums``, (n, m, 2)."""
        there = _put(pairs)
        classes = tuple(block.classes for block in a.layout.blocks)
        found = self._run(a.layout, a.numbers, b.numbers, there, classes)
        _each(finish_kernels(self.dtype)["gather"], len(pairs))(
            found, there, len(pairs), found.shape[1], sums.shape[1], sums
        )

    def _dense(self, a: CudaState, b: CudaState, sums: Any) -> None:
        (block,) = a.layout.blocks
        grid = tuple(-(-len(x) // dense.EDGE) for x in (b, a))
        dense.dense_kernel(self.dtype)[grid, (dense.SIDE, dense.SIDE)](
            a.numbers, b.numbers, a.layout.size, a.layout.plan.shape[2], a is b,
            _put(block.table), _put(block.units), block.last, sums,
        )  # fmt: skip

    def _run(
        self, layout: Layout, A: Any, B: Any, pairs: Any, classes: Sequence[Classes | Pooling]
    ) -> Any:
        """Run the first blocks, as many as classes are given, on pairs (n, 2) of images.

        Returns:
            Sums (n, chunks, 2) float64 at the network's end, or the pooled windows
            (n, 2, h·slots, h, w) behind the last of these blocks; both until the next run.
        """
        work = self._workspace
        empty = work.array("nothing", (1,) * 5, self.dtype)
        pooled, n = empty, pairs.shape[0]
        for at, (block, of_block) in enumerate(zip(layout.blocks, classes, strict=False)):
            h, w = (edge // max(1, block.pool) for edge in (block.H, block.W))
            windows = empty
            if block.pool:  # two take turns, since a block reads the last one's
                shape = (n, 2, h * block.slots, h, w)
                windows = work.array(f"windows {at % 2}", shape, self.dtype)
            if isinstance(of_block, Pooling):
                rows = of_block.chunks(pieces_of(of_block, n))
                table, no_sums = _put(rows.ravel()), work.array("sums", (1, 1, 2), np.float64)
                which = len(rows), table, table
                self._stage(layout, block, which, pairs, A, B, pooled, no_sums, windows)
                pooled = windows
                continue
            chunks, count = len(of_block.starts) - 1, len(of_block.ids)
            sums = work.array("sums", (n, chunks * block.teams, 2), np.float64)
            cells = empty
            if block.pool:
                cells = work.array("cells", (n, 2, count, block.H, block.W), self.dtype)
            # each kernel's flat pointers do the indexing
            self._stage(
                layout, block, (chunks, work.table(of_block.starts), work.table(of_block.ids)),
                pairs, A, B, pooled, sums, cells,
            )  # fmt: skip
            if not block.pool:
                return sums
            _each(pool_kernel(self.dtype), n * (h * w) ** 2)(
                cells, work.table(of_block.slots), count, n * (h * w) ** 2, block.pool, block.H,
                block.W, windows,
            )  # fmt: skip
            pooled = windows
        return pooled

    def _stage(
        self, layout: Layout, block: Block, classes: tuple[int, Any, Any], pairs: Any, A: Any,
        B: Any, pooled: Any, sums: Any, cells: Any,
    ) -> None:  # fmt: skip
        work = self._workspace
        if block.fused is not None:
            tasks = pairs.shape[0] * classes[0] * block.teams
            fused_kernel(block.fused)[-(-tasks // TEAMS), THREADS](
                pairs, tasks, block.teams, *classes, A, B, layout.size, pooled,
                work.table(block.planes), work.table(block.fused_units), block.last, sums, cells,
            )  # fmt: skip
            return
        tasks = pairs.shape[0] * classes[0]
        blocks = min(-(-tasks // TEAMS), _resident_blocks())
        scratch = work.array("scratch", (blocks * TEAMS, 6, block.pixels), self.dtype)
        channels = layout.plan.shape[2]
        general_kernel(self.dtype)[blocks, THREADS](
            pairs, tasks, *classes, A, B, layout.size, pooled, work.table(block.table),
            work.table(block.units), block.last, sums, cells, block.H, block.W, block.pitch,
            block.plane, channels, block.pool == 0, scratch,
        )  # fmt: skip


class _Preparation:
    """Fills a layout's numbers for images, link by link, on the device."""

    def __init__(self, backend: CudaBackend, chain: Chain, x: Any) -> None:
        n, H, W, C = x.shape
        shape = (H, W, C) if chain.spatial else (1, 1, H * W * C)
        self.backend = backend
        self.layout = layout_of(chain, shape, backend.dtype)
        self.kernels = image_kernels(backend.dtype)
        self.n, (H, W, C) = n, shape
        self.numbers = _put(np.zeros((n, self.layout.size), backend.dtype))
        self.norm = cuda.device_array(n, np.float64)
        bad = cuda.device_array(n, np.int64)
        _each(self.kernels["contrast"], n)(x, n, H * W * C, chain.homogeneous, bad, self.norm)
        if (wrong := np.flatnonzero(bad.copy_to_host())).size:
            raise InputError(f"image {wrong[0]} holds NaN or infinite pixels; clean or drop it")
        self.A = cuda.device_array((n, H, W), np.float64)
        first = self.layout.blocks[0]
        _each(self.kernels["pixels"], n * H * W)(
            x, n * H * W, H * W, W, C, self.norm, 1 / np.sqrt(2 * C), self.numbers,
            self.layout.size, first.pitch, first.plane, first.copy, self.A,
        )  # fmt: skip

    def state(self) -> CudaState:
        """Go through the blocks."""
        layout = self.layout
        chain = layout.plan.chain
        for n, block in enumerate(layout.blocks):
            if n:
                self._pool(n)
            for at, link in zip(block.links, chain.blocks[n].links, strict=True):
                self._link(block, link, layout.offsets[at], *layout.plan.units[at])
        spread = cuda.device_array(self.n, np.float64)
        _each(self.kernels["mean"], self.n)(self.A, self.n, layout.blocks[-1].pixels, spread)
        variance = spread
        if chain.pooled and chain.bends_behind:
            inside = np.empty(self.n)
            for part, found in self._with_itself(len(layout.blocks)):
                # chunk by chunk, as for an entry
                inside[part] = functools.reduce(np.add, found.copy_to_host()[:, :, 0].T)
            inside *= layout.plan.unit / layout.plan.count
            variance = _put(np.maximum(spread.copy_to_host() - inside, 0.0))
        return CudaState(layout, self.numbers, spread, variance, self.norm)

    def _link(
        self, block: Block, link: Link, where: dict[str, int], before: float, behind: float
    ) -> None:
        total = self.n * block.pixels
        new = cuda.device_array((self.n, block.H, block.W), np.float64)
        _each(self.kernels["link"], total)(
            self.A, total, block.H, block.W, link.size, link.W_std**2 / link.size**2,
            link.b_std**2, before, behind, _KIND[link.activation], self.numbers,
            self.layout.size, block.pitch, block.plane, block.copy, where["half"],
            where["side"], where["cells"], new,
        )  # fmt: skip
        self.A = new

    def _pool(self, n: int) -> None:
        """Average over windows, with what each image's windows have of themselves."""
        front, block = self.layout.blocks[n - 1], self.layout.blocks[n]
        new = cuda.device_array((self.n, block.H, block.W), np.float64)
        for part, pooled in self._with_itself(n):
            count = part.stop - part.start
            _each(self.kernels["windows"], count * block.pixels)(
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
            pairs = _put(np.repeat(np.arange(part.start, part.stop)[:, None], 2, axis=1))
            yield part, self.backend._run(layout, self.numbers, self.numbers, pairs, classes)


def _on_device(images: Any) -> Any:
    """Return (n, H, W, C) images on the device; those that are there are not copied."""
    if hasattr(images, "__cuda_array_interface__") or hasattr(images, "copy_to_host"):
        x = images if hasattr(images, "copy_to_host") else cuda.as_cuda_array(images)
        if x.ndim != 4 or 0 in x.shape:
            raise InputError(f"images have shape {tuple(x.shape)}; (n, H, W, C) is needed")
        if np.dtype(x.dtype) not in (np.float32, np.float64):
            raise InputError(
                f"images on the device are {x.dtype}; float32 or float64 is needed there"
            )
        if not x.is_c_contiguous():
            raise InputError("images on the device are not contiguous; make a copy in C order")
        return x
    return _put(as_images(np.asarray(images)))


def _put(values: np.ndarray) -> Any:
    return cuda.to_device(np.ascontiguousarray(values))


def _each(function: Any, count: int) -> Any:
    """Return a kernel set up to run one thread for each of ``count`` things."""
    return function[max(1, -(-count // _SIMPLE)), _SIMPLE]


def _resident_blocks() -> int:
    """Return how many blocks of teams keep the device busy."""
    return 4 if SIMULATED else 8 * int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


def _tail_table(chain: Chain) -> np.ndarray:
    """Return the layers behind the mean over positions for the last kernel."""
    rows = []
    for layer in chain.tail:
        if isinstance(layer, Dense):
            rows.append([LINEAR, layer.W_std**2, layer.b_std**2, float(layer.trainable)])
        else:
            rows.append([ERF if isinstance(layer, Erf) else RELU, 0.0, 0.0, 0.0])
    return np.array(rows or [[0.0] * 4], np.float64)
