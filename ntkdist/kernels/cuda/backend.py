"""The CUDA backend: the arithmetic of the CPU backend on an NVIDIA GPU (numba-cuda).

Covers the same networks. ``prepare`` computes on the device, in float64, what depends on one image
alone; ``block`` runs the blocks between pools one after the other on as many pairs of
images as fit the free memory: ``cuda.fused`` where a block is ReLUs behind 3 × 3 filters,
else ``cuda.general``, and ``cuda.dense`` for fully connected networks. Nothing is added up
atomically, and the order of every sum depends on the network and the images' size alone, so an
entry has the same bits in every block and every run on a kind of GPU.

Images may be on the device already, as anything with ``__cuda_array_interface__`` (a jax, CuPy or
PyTorch array); they are read where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numba import cuda

from ntkdist.errors import InputError
from ntkdist.kernels.backend import check_kinds, check_pair
from ntkdist.kernels.chain import Chain, chain_of, linear_tail, not_a_chain
from ntkdist.kernels.cuda import ARITHMETIC, dense
from ntkdist.kernels.cuda.batches import Workspace, batch_size, pairs_of, pieces_of
from ntkdist.kernels.cuda.cells import ERF, LINEAR, RELU
from ntkdist.kernels.cuda.finish import finish_kernels
from ntkdist.kernels.cuda.fused import fused_kernel
from ntkdist.kernels.cuda.general import general_kernel, pool_kernel
from ntkdist.kernels.cuda.intrinsics import SIMULATED
from ntkdist.kernels.cuda.launch import SIMPLE, each, on_device, put
from ntkdist.kernels.cuda.layout import Block, Classes, Layout, Pooling, layout_of
from ntkdist.kernels.cuda.prepare import Preparation
from ntkdist.kernels.cuda.spec import TEAMS, THREADS
from ntkdist.kernels.cuda.state import CudaState
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import Dense, Erf


class CudaBackend:
    """Kernel entries on one GPU; see ``backend.Backend`` for the protocol.

    Args:
        dtype: ``float32`` or ``float64``.
        threads: Not used; the GPU has its own.
    """

    name = "cuda"
    arithmetic = ARITHMETIC

    def __init__(self, *, dtype: str = "float32", threads: int = 1) -> None:
        self.dtype = dtype
        self.threads = threads
        self._workspace = Workspace()

    def supports(
        self, arch: Architecture, image_shape: tuple[int, int, int], dtype: str | None = None
    ) -> str | None:
        """Return None if the cuda backend covers ``arch``, else the reason."""
        return not_a_chain(arch)

    def prepare(self, arch: Architecture, images: Any, reads: tuple[int, ...] = ()) -> CudaState:
        """Compute on the device what depends on one image alone.

        Args:
            arch: The network.
            images: (n, H, W, C) of a floating dtype, on the host or the device.
            reads: After how many layers shallower networks end as this one does, for
                ``blocks``; ascending (see ``family``).

        Returns:
            The state, on the device.

        Raises:
            InputError: If the network is not covered, or the images are not finite or not
                of this shape.
        """
        chain = chain_of(arch)
        if isinstance(chain, str):
            raise InputError(f"backend 'cuda': {chain}")
        x = on_device(images)
        if chain.spatial:
            arch.check_image(*x.shape[1:3])
        return Preparation(self, chain, x, reads).state()

    def can_read(self, arch: Architecture, image_shape: tuple[int, int, int]) -> bool:
        """Return whether ``prepare`` takes ``reads`` for a network on such images."""
        chain = chain_of(arch)
        if isinstance(chain, str) or not chain.spatial or len(chain.blocks) > 1:
            return False
        fused = layout_of(chain, image_shape, self.dtype).blocks[0].fused
        return fused is not None and chain.pooled and not chain.bends_behind

    def block(
        self, a: CudaState, b: CudaState, kinds: Sequence[str] = ("ntk",)
    ) -> dict[str, np.ndarray]:
        """Compute (n_a, n_b) entries of each kind; ``a is b`` computes half of them."""
        return self.blocks(a, b, kinds)[-1]

    def blocks(
        self, a: CudaState, b: CudaState, kinds: Sequence[str] = ("ntk",)
    ) -> list[dict[str, np.ndarray]]:
        """Compute like ``block`` for each network of the states, the deepest last."""
        found = self._blocks(a, b, kinds)
        return [{kind: entries.copy_to_host() for kind, entries in one.items()} for one in found]

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
        return self._blocks(a, b, kinds)[-1]

    def _blocks(self, a: CudaState, b: CudaState, kinds: Sequence[str]) -> list[dict[str, Any]]:
        kinds = check_kinds(kinds)
        check_pair(a.layout.plan.shape, b.layout.plan.shape)
        n, m = len(a), len(b)
        chain = a.layout.plan.chain
        sums = [cuda.device_array((n, m, 2), np.float64) for _ in a.spreads]
        if chain.spatial:
            held = self._workspace.nbytes
            batch = batch_size(a.layout, len(a.layout.blocks), held=held)
            for pairs in pairs_of(n, m, a is b, batch):
                self._sums(a, b, pairs, sums)
        else:
            self._dense(a, b, sums[0])
        bends = len(chain.tail) if chain.bends_behind else 0
        linear, table = put(linear_tail(() if bends else chain.tail)), put(_tail_table(chain))
        networks = []
        for of_network, scale, spread_a, spread_b in zip(
            sums, a.layout.scales(), a.spreads, b.spreads, strict=True
        ):
            K, theta = (cuda.device_array((n, m), self.dtype) for _ in range(2))
            each(finish_kernels(self.dtype)["finish"], n * m)(
                of_network, n, m, a is b, scale, spread_a, spread_b, a.variance, b.variance,
                a.norm, b.norm, linear, table, bends, K, theta,
            )  # fmt: skip
            found = {"ntk": theta, "nngp": K}
            networks.append({kind: found[kind] for kind in kinds})
        return networks

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
                yield f"pool {size}", "a pair of windows a thread", SIMPLE, pool_kernel(self.dtype)

    def _sums(self, a: CudaState, b: CudaState, pairs: np.ndarray, sums: Sequence[Any]) -> None:
        """Fill the pairs' entries of each network's sums, (n, m, 2)."""
        there = put(pairs)
        classes = tuple(block.classes for block in a.layout.blocks)
        found = self._run(a.layout, a.numbers, b.numbers, there, classes)
        for network, filled in enumerate(sums):
            each(finish_kernels(self.dtype)["gather"], len(pairs))(
                found, there, len(pairs), found.shape[1], network, filled.shape[1], filled
            )

    def _dense(self, a: CudaState, b: CudaState, sums: Any) -> None:
        (block,) = a.layout.blocks
        grid = tuple(-(-len(x) // dense.EDGE) for x in (b, a))
        dense.dense_kernel(self.dtype)[grid, (dense.SIDE, dense.SIDE)](
            a.numbers, b.numbers, a.layout.size, a.layout.plan.shape[2], a is b,
            put(block.table), put(block.units), block.last, sums,
        )  # fmt: skip

    def _run(
        self, layout: Layout, A: Any, B: Any, pairs: Any, classes: Sequence[Classes | Pooling]
    ) -> Any:
        """Run the first blocks, as many as classes are given, on pairs (n, 2) of images.

        Returns:
            Sums (n, chunks, networks, 2) float64 at the networks' end, or the pooled windows
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
                table, no_sums = put(rows.ravel()), work.array("sums", (1,) * 4, np.float64)
                which = len(rows), table, table
                self._stage(layout, block, which, pairs, A, B, pooled, no_sums, windows)
                pooled = windows
                continue
            chunks, count = len(of_block.starts) - 1, len(of_block.ids)
            networks = 1 + len(layout.reads)
            sums = work.array("sums", (n, chunks * block.teams, networks, 2), np.float64)
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
            each(pool_kernel(self.dtype), n * (h * w) ** 2)(
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
