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

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ntkdist.errors import InputError
from ntkdist.kernels.backend import check_kinds, check_pair
from ntkdist.kernels.chain import (
    ERF,
    LINEAR,
    RELU,
    Chain,
    chain_of,
    linear_tail,
    not_a_chain,
    state_dtype,
)
from ntkdist.kernels.cuda import ARITHMETIC, dense
from ntkdist.kernels.cuda.cells import cell_functions
from ntkdist.kernels.cuda.fused import fused_kernel
from ntkdist.kernels.cuda.general import general_kernel, pool_kernel
from ntkdist.kernels.cuda.intrinsics import (
    SIMPLE,
    TEAMS,
    THREADS,
    cuda,
    each,
    fetch,
    kernel,
    pointer,
    put,
)
from ntkdist.kernels.cuda.layout import layout_of
from ntkdist.kernels.cuda.prepare import CudaState, Preparation, mirrored, on_device, on_host
from ntkdist.kernels.cuda.runner import BlockRunner, pairs_of, to_device
from ntkdist.kernels.cuda.unroll import written_out
from ntkdist.kernels.ranges import check_range
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
        self._runners = {state: BlockRunner(state) for state in ("float32", "float64")}

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
                ``blocks``; ascending (see ``Family``).

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
        check_range(arch, on_host(images), self.dtype)
        _, H, W, C = x.shape
        shape = (H, W, C) if chain.spatial else (1, 1, H * W * C)
        runner = self._runners[state_dtype(chain, shape, self.dtype)]
        return Preparation(runner, chain, shape, x, reads).state()

    def can_read(self, arch: Architecture, image_shape: tuple[int, int, int]) -> bool:
        """Return whether ``prepare`` takes ``reads`` for a network on such images."""
        chain = chain_of(arch)
        if isinstance(chain, str) or not chain.spatial or chain.windows or len(chain.blocks) > 1:
            return False
        state = state_dtype(chain, image_shape, self.dtype)
        fused = layout_of(chain, image_shape, state).blocks[0].fused
        return fused is not None and chain.pooled and not chain.has_nonlinear_head

    def flipped(self, state: CudaState, even: np.ndarray) -> CudaState:
        """Return the state of the mirror images, without computing it again; see ``Backend``."""
        return mirrored(self._runners[state.layout.plan.dtype], state, even)

    def block(
        self,
        a: CudaState,
        b: CudaState,
        kinds: Sequence[str] = ("ntk",),
        *,
        symmetric: bool = False,
    ) -> dict[str, np.ndarray]:
        """Compute (n_a, n_b) entries of each kind; ``a is b`` computes half of them."""
        (*_, entries) = self._blocks(a, b, kinds, symmetric=symmetric)
        return {kind: of_kind.copy_to_host() for kind, of_kind in entries.items()}

    def blocks(
        self, a: CudaState, b: CudaState, kinds: Sequence[str] = ("ntk",)
    ) -> list[dict[str, np.ndarray]]:
        """Compute like ``block`` for each network of the states, the deepest last."""
        networks = self._blocks(a, b, kinds)
        return [{kind: entries.copy_to_host() for kind, entries in one.items()} for one in networks]

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

    def _blocks(
        self, a: CudaState, b: CudaState, kinds: Sequence[str], *, symmetric: bool = False
    ) -> list[dict[str, Any]]:
        kinds = check_kinds(kinds)
        symmetric = symmetric or a is b
        check_pair(a.layout.plan.shape, b.layout.plan.shape)
        n, m = len(a), len(b)
        chain = a.layout.plan.chain
        sums = [cuda.device_array((n, m, 2), np.float64) for _ in a.spreads]
        if chain.spatial:
            batch = self._runners[a.layout.plan.dtype].batch_size(a.layout, len(a.layout.blocks))
            for pairs in pairs_of(n, m, symmetric, batch):
                self._sums(a, b, pairs, sums)
        else:
            self._dense(a, b, sums[0], symmetric=symmetric)
        nonlinear = len(chain.tail) if chain.has_nonlinear_head else 0
        linear, table = (
            to_device(linear_tail(() if nonlinear else chain.tail)),
            to_device(_tail_table(chain)),
        )
        networks = []
        for of_network, scale, spread_a, spread_b in zip(
            sums, a.layout.scales(), a.spreads, b.spreads, strict=True
        ):
            K, theta = (cuda.device_array((n, m), self.dtype) for _ in range(2))
            each(finish_kernels(self.dtype)["finish"], n * m)(
                of_network, n, m, symmetric, scale, spread_a, spread_b, a.variance, b.variance,
                a.norm, b.norm, linear, table, nonlinear, K, theta,
            )  # fmt: skip
            computed = {"ntk": theta, "nngp": K}
            networks.append({kind: computed[kind] for kind in kinds})
        return networks

    def kernels(self, state: CudaState) -> Iterator[tuple[str, str, int, Any]]:
        """Yield what computes pairs: name, what a block computes, its threads, the function."""
        layout = state.layout
        dtype = layout.plan.dtype
        if not layout.plan.chain.spatial:
            shape = f"{dense.EDGE} × {dense.EDGE} pairs, {dense.EACH}² a thread"
            yield "dense", shape, dense.SIDE**2, dense.dense_kernel(dtype)
            return
        for block in layout.blocks:
            size = f"{block.H} × {block.W}"
            if block.fused is None:
                shape = f"{TEAMS} classes of {size} cells, state in memory"
                yield f"general {size}", shape, THREADS, general_kernel(dtype)
            else:
                classes = block.fused.together * TEAMS
                shape = f"{classes} classes of {size} cells, state in registers"
                name = f"fused {size} with its pool" if block.pools else f"fused {size}"
                yield name, shape, THREADS, fused_kernel(block.fused)
            if block.pool and not block.pools:
                yield f"pool {size}", "a pair of windows a thread", SIMPLE, pool_kernel(dtype)

    def _sums(self, a: CudaState, b: CudaState, pairs: np.ndarray, sums: Sequence[Any]) -> None:
        """Fill the pairs' entries of each network's sums, (n, m, 2)."""
        there = to_device(pairs)
        classes = tuple(block.classes for block in a.layout.blocks)
        totals = self._runners[a.layout.plan.dtype].run(
            a.layout, a.numbers, b.numbers, there, classes
        )
        for network, filled in enumerate(sums):
            each(finish_kernels(self.dtype)["gather"], len(pairs))(
                totals, there, len(pairs), totals.shape[1], network, filled.shape[1], filled
            )

    def _dense(self, a: CudaState, b: CudaState, sums: Any, *, symmetric: bool) -> None:
        (block,) = a.layout.blocks
        grid = tuple(-(-len(x) // dense.EDGE) for x in (b, a))
        dense.dense_kernel(a.layout.plan.dtype)[grid, (dense.SIDE, dense.SIDE)](
            a.numbers, b.numbers, a.layout.size, a.layout.plan.shape[2], symmetric,
            to_device(block.table), to_device(block.units), block.last, sums,
        )  # fmt: skip


def _tail_table(chain: Chain) -> np.ndarray:
    """Return the layers behind the mean over positions for the last kernel."""
    rows = []
    for layer in chain.tail:
        if isinstance(layer, Dense):
            rows.append([LINEAR, layer.W_std**2, layer.b_std**2, float(layer.trainable)])
        else:
            rows.append([ERF if isinstance(layer, Erf) else RELU, 0.0, 0.0, 0.0])
    return np.array(rows or [[0.0] * 4], np.float64)


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


def _gather(totals, pairs, n, chunks, network, m, sums):
    """Add up the chunks' sums for one network, (n, chunks, networks, 2), at (rows, m, 2) ``sums``.

    ``pairs`` is (n, 2) int64, rows and columns of the entries.
    """
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if index >= n:
        return
    d, t = np.float64(0), np.float64(0)
    for chunk in range(chunks):
        d += totals[index, chunk, network, 0]
        t += totals[index, chunk, network, 1]
    to = 2 * (pairs[index, 0] * m + pairs[index, 1])
    put(pointer(sums, 0), to, d)
    put(pointer(sums, 0), to + 1, t)


def _finish(
    sums, n, m, symmetric, scale, spread_a, spread_b, variance_a, variance_b, norm_a, norm_b,
    linear, layers, nonlinear, K_out, T_out,
):  # fmt: skip
    """Fill a block of K and Θ.

    Args:
        sums: (n, m, 2) sums of Δ and Θ over positions; of a symmetric block the upper triangle.
        n: Rows.
        m: Columns.
        symmetric: Whether the lower triangle is a copy of the upper one.
        scale: What makes means of the sums.
        spread_a, spread_b: (n,) and (m,) mean over pixels of the images' variances.
        variance_a, variance_b: Variance of the images behind the mean over positions.
        norm_a, norm_b: What the images were divided by.
        linear: (5,) as of ``linear_tail``.
        layers: (k, 4) kind, weight variance, bias variance and 1 if trained, of the layers behind
            where one of them is a nonlinearity; the first row is not read where none is.
        nonlinear: How many of them; 0 takes ``linear``.
        K_out, T_out: (n, m) of the dtype, to fill.
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
    if nonlinear == 0:
        T = linear[2] * T + linear[3] * K + linear[4]
        K = linear[0] * K + linear[1]
    else:
        # in K's order of operations, so that Δ of equal images is zero
        A = (norm_a[i] * norm_a[i]) * variance_a[i]
        B = (norm_b[j] * norm_b[j]) * variance_b[j]
        delta = (A + B) / 2 - K
        for k in range(nonlinear):
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
