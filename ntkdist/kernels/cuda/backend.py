"""The CUDA backend: the arithmetic of the CPU backend on an NVIDIA GPU (numba-cuda).

Covers the same networks. Of chains ``prepare`` computes on the device, in float64, what depends on
one image alone; ``block`` runs the blocks between pools one after the other on as many pairs of
images as fit the free memory: ``cuda.fused`` where a block is ReLUs behind 3 × 3 filters, or
``cuda.streamed`` if its cells do not fit registers, else ``cuda.general``, and ``cuda.dense`` for
fully connected networks. Of all other networks, which are graphs, nearly all that depends on one
image is computed on the host, and ``block`` runs the levels of their programs by ``cuda.graph``.
Nothing is added up atomically, and the order of every sum depends on the network and the images'
size alone, so an entry has the same bits in every block and every run on a kind of GPU.

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
from ntkdist.kernels.backend import as_images, check_kinds, check_pair
from ntkdist.kernels.chain import (
    ERF,
    LINEAR,
    RELU,
    Chain,
    chain_of,
    linear_tail,
    state_dtype,
)
from ntkdist.kernels.cuda import ARITHMETIC, dense
from ntkdist.kernels.cuda.cells import cell_functions, dual_function
from ntkdist.kernels.cuda.failure import watched
from ntkdist.kernels.cuda.fused import fused_kernel
from ntkdist.kernels.cuda.general import general_kernel, pool_kernel
from ntkdist.kernels.cuda.graph import GraphRunner, level_kernel, windows_kernel
from ntkdist.kernels.cuda.intrinsics import (
    SIMPLE,
    TEAMS,
    THREADS,
    cuda,
    device,
    each,
    fetch,
    kernel,
    pointer,
    put,
)
from ntkdist.kernels.cuda.layout import Layout, layout_of
from ntkdist.kernels.cuda.prepare import (
    CudaState,
    Preparation,
    graph_state,
    is_on_device,
    mirrored,
    on_device,
    on_host,
)
from ntkdist.kernels.cuda.runner import BlockRunner, pairs_of, to_device
from ntkdist.kernels.cuda.stages import CELLS, GraphLayout
from ntkdist.kernels.cuda.streamed import streamed_kernel
from ntkdist.kernels.cuda.unroll import written_out
from ntkdist.kernels.graph import (
    ERF as OF_ERF,
    EXPONENTIAL,
    NORM,
    Graph,
    cell_op,
    graph_of,
    not_covered,
    relu_mix,
)
from ntkdist.kernels.ranges import check_range
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import (
    ABRelu,
    CellLayer,
    Dense,
    Erf,
    ExpNormalized,
    LayerNorm,
    LeakyRelu,
    Relu,
)


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
        self._of_graphs = {
            state: GraphRunner(state, runner.workspace) for state, runner in self._runners.items()
        }

    def supports(
        self, arch: Architecture, image_shape: tuple[int, int, int], dtype: str | None = None
    ) -> str | None:
        """Return None if the cuda backend covers ``arch``, else the reason."""
        return not_covered(arch, image_shape)

    @watched
    def prepare(self, arch: Architecture, images: Any, reads: tuple[int, ...] = ()) -> CudaState:
        """Compute on the device what depends on one image alone.

        Args:
            arch: The network.
            images: (n, H, W, C) of a floating dtype, on the host or the device. Work on the device
                that fills them is waited for; once this returns they may be changed.
            reads: After how many layers shallower networks end as this one does, for
                ``blocks``; ascending (see ``Family``). None where ``can_read`` is False.

        Returns:
            The state, on the device.

        Raises:
            InputError: If the network is not covered, or the images are not finite or not
                of this shape.
            DeviceLostError: If this process cannot use the GPU any more.
        """
        chain = chain_of(arch)
        if chain is None:
            return self._prepare_graph(arch, images)
        x = on_device(images)
        if chain.spatial:
            arch.check_image(*x.shape[1:3])
        check_range(arch, on_host(images), self.dtype)
        _, H, W, C = x.shape
        shape = (H, W, C) if chain.spatial else (1, 1, H * W * C)
        runner = self._runners[state_dtype(chain, shape, self.dtype)]
        state = Preparation(runner, chain, shape, x, reads).state()
        if is_on_device(images):
            cuda.synchronize()  # the kernels have read them
        return state

    def _prepare_graph(self, arch: Architecture, images: Any) -> CudaState:
        x = as_images(on_host(on_device(images) if is_on_device(images) else images))
        if arch.is_spatial:
            arch.check_image(*x.shape[1:3])
        else:
            x = x.reshape(len(x), 1, 1, -1)
        if why_not := self.supports(arch, (x.shape[1], x.shape[2], x.shape[3])):
            raise InputError(f"backend 'cuda': {why_not}")
        check_range(arch, x, self.dtype)
        graph = graph_of(arch)
        assert isinstance(graph, Graph)
        return graph_state(graph, x, self.dtype, self._of_graphs)

    def can_read(self, arch: Architecture, image_shape: tuple[int, int, int]) -> bool:
        """Return whether ``prepare`` takes ``reads`` for a network on such images."""
        chain = chain_of(arch)
        if chain is None or not chain.spatial or chain.windows or len(chain.blocks) > 1:
            return False
        state = state_dtype(chain, image_shape, self.dtype)
        fused = layout_of(chain, image_shape, state).blocks[0].fused
        return fused is not None and chain.pooled and not chain.has_nonlinear_head

    @watched
    def flipped(self, state: CudaState, even: np.ndarray) -> CudaState:
        """Return the state of the mirror images, without computing it again; see ``Backend``."""
        return mirrored(self._runners[state.layout.plan.dtype].workspace, state, even)

    @watched
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

    @watched
    def blocks(
        self, a: CudaState, b: CudaState, kinds: Sequence[str] = ("ntk",)
    ) -> list[dict[str, np.ndarray]]:
        """Compute like ``block`` for each network of the states, the deepest last."""
        networks = self._blocks(a, b, kinds)
        return [{kind: entries.copy_to_host() for kind, entries in one.items()} for one in networks]

    @watched
    def block_on_device(
        self, a: CudaState, b: CudaState, kinds: Sequence[str] = ("ntk",)
    ) -> dict[str, Any]:
        """Compute like ``block``, and leave the entries on the device, finished for every stream.

        Args:
            a: State of the rows' images.
            b: State of the columns' images.
            kinds: Which of ``ntk`` and ``nngp``.

        Returns:
            kind → (n_a, n_b) of the dtype, with ``__cuda_array_interface__``.
        """
        entries = self._blocks(a, b, kinds)[-1]
        cuda.synchronize()  # readers on other streams do not wait for the kernels
        return entries

    def _blocks(
        self, a: CudaState, b: CudaState, kinds: Sequence[str], *, symmetric: bool = False
    ) -> list[dict[str, Any]]:
        kinds = check_kinds(kinds)
        symmetric = symmetric or a is b
        check_pair(a.layout.plan.shape, b.layout.plan.shape)
        n, m = len(a), len(b)
        chain = a.layout.plan.chain
        sums = [cuda.device_array((n, m, 2), np.float64) for _ in a.spreads]
        if not chain.spatial:
            self._dense(a, b, sums[0], symmetric=symmetric)
        if chain.spatial or isinstance(a.layout, GraphLayout):
            for pairs in pairs_of(n, m, symmetric, self._batch_size(a.layout)):
                self._sums(a, b, pairs, sums)
        nonlinear = len(chain.tail) if chain.has_nonlinear_head else 0
        linear, table = (
            to_device(linear_tail(() if nonlinear else chain.tail)),
            to_device(_tail_table(chain)),
        )
        others = nonlinear > 0 and not isinstance(chain, Chain)
        networks = []
        for of_network, scale, spread_a, spread_b in zip(
            sums, a.layout.scales(), a.spreads, b.spreads, strict=True
        ):
            K, theta = (cuda.device_array((n, m), self.dtype) for _ in range(2))
            each(finish_kernels(self.dtype, others)["finish"], n * m)(
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
        if isinstance(layout, GraphLayout):
            yield from _graph_kernels(layout)
            return
        if not layout.plan.chain.spatial:
            shape = f"{dense.EDGE} × {dense.EDGE} pairs, {dense.EACH}² a thread"
            yield "dense", shape, dense.SIDE**2, dense.dense_kernel(dtype)
            return
        for block in layout.blocks:
            size = f"{block.H} × {block.W}"
            if block.fused is None:
                shape = f"{TEAMS} classes of {size} cells, state in memory"
                yield f"general {size}", shape, THREADS, general_kernel(dtype)
            elif block.streamed:
                classes = block.fused.together * TEAMS
                pass_of = f"state in memory, {block.fused.layers_of_pass} layers a pass"
                shape = f"{classes} classes of {size} cells, {pass_of}"
                yield f"streamed {size}", shape, THREADS, streamed_kernel(block.fused)
            else:
                classes = block.fused.together * TEAMS
                shape = f"{classes} classes of {size} cells, state in registers"
                name = f"fused {size} with its pool" if block.pools else f"fused {size}"
                yield name, shape, THREADS, fused_kernel(block.fused)
            if block.pool and not block.pools:
                yield f"pool {size}", "a pair of windows a thread", SIMPLE, pool_kernel(dtype)

    def free_workspace(self) -> None:
        """Free the memory between blocks, which the next call takes again."""
        for runner in self._runners.values():
            runner.workspace.clear()

    def _batch_size(self, layout: Layout | GraphLayout) -> int:
        if isinstance(layout, GraphLayout):
            return self._of_graphs[layout.plan.dtype].batch_size(layout, layout.levels)
        return self._runners[layout.plan.dtype].batch_size(layout, len(layout.blocks))

    def _sums(self, a: CudaState, b: CudaState, pairs: np.ndarray, sums: Sequence[Any]) -> None:
        """Fill the pairs' entries of each network's sums, (n, m, 2)."""
        there, dtype = to_device(pairs), a.layout.plan.dtype
        if isinstance(a.layout, GraphLayout):
            distances = None if a.layout.plan.graph.spatial else sums[0]
            totals, _ = self._of_graphs[dtype].run(
                a.layout, a.numbers, b.numbers, there, a.layout.levels, distances
            )
        else:
            classes = tuple(block.classes for block in a.layout.blocks)
            totals = self._runners[dtype].run(a.layout, a.numbers, b.numbers, there, classes)
        for network, filled in enumerate(sums):
            each(finish_kernels(self.dtype, False)["gather"], len(pairs))(
                totals, there, len(pairs), totals.shape[1], network, filled.shape[1], filled
            )

    def _dense(self, a: CudaState, b: CudaState, sums: Any, *, symmetric: bool) -> None:
        """Fill the sums of a fully connected network; of a graph with Δ of the pixels."""
        dtype = a.layout.plan.dtype
        if isinstance(a.layout, GraphLayout):
            table, units, last = np.zeros((1, 6), np.int64), np.ones((1, 3), dtype), 0
        else:
            (block,) = a.layout.blocks
            table, units, last = block.table, block.units, block.last
        grid = tuple(-(-len(x) // dense.EDGE) for x in (b, a))
        dense.dense_kernel(dtype)[grid, (dense.SIDE, dense.SIDE)](
            a.numbers, b.numbers, a.layout.size, a.layout.plan.shape[2], symmetric,
            to_device(table), to_device(units), last, sums,
        )  # fmt: skip


def _graph_kernels(layout: GraphLayout) -> Iterator[tuple[str, str, int, Any]]:
    """Yield what ``CudaBackend.kernels`` does."""
    plan = layout.plan
    if layout.alone:
        shape = f"{dense.EDGE} × {dense.EDGE} pairs, {dense.EACH}² a thread"
        yield "dense", shape, dense.SIDE**2, dense.dense_kernel(plan.dtype)
        yield "graph", "a pair a thread", layout.threads, level_kernel(layout)
        return
    H, W = plan.sizes[0]
    shape = f"a displacement of up to {H * W} cells, values in memory"
    yield f"graph {H} × {W}", shape, layout.threads, level_kernel(layout)
    if any((level.pools[:, CELLS] >= 0).any() for level in layout.levels):
        name = f"windows {H} × {W}"
        yield name, "a pair of windows a thread", SIMPLE, windows_kernel(plan.dtype)


def _tail_table(chain: Chain | Graph) -> np.ndarray:
    """Return the layers behind the mean over positions for the last kernel."""
    rows: list[list[float]] = []
    for layer in chain.tail:
        match layer:
            case Dense():
                rows.append([LINEAR, layer.W_std**2, layer.b_std**2, float(layer.trainable)])
            case Relu() | LeakyRelu() | ABRelu():
                linear, bend = relu_mix(layer)
                rows.append([RELU, linear, bend / 2])  # the kernel has twice Δ behind a ReLU
            case Erf():
                rows.append([ERF])
            case LayerNorm():
                rows.append([NORM, layer.eps])
            case ExpNormalized():
                rows.append([EXPONENTIAL, layer.gamma, layer.shift])
            case _:
                assert isinstance(layer, CellLayer)
                kind, (_, *constants) = cell_op(layer, 1.0)
                rows.append([kind, *constants])
    padded = [[*row, *[0.0] * (4 - len(row))] for row in rows or [[0.0]]]
    return np.array(padded, np.float64)


@lru_cache(maxsize=4)
def finish_kernels(dtype: str, others: bool) -> dict[str, Any]:
    """Return ``gather`` and ``finish`` for entries of a dtype.

    ``others`` says whether ``finish`` knows other layers than Dense, ReLUs and Erf.
    """
    cells = cell_functions("float64")
    names = {
        "real": np.dtype(dtype).type,
        "relu_signed": cells["relu_signed"],
        "half_erf": cells["half_erf"],
        "other_layer": device(written_out(_other_layer, {}, {"dual": dual_function("float64")})),
    }
    functions: dict[str, Callable[..., Any]] = {"gather": _gather, "finish": _finish}
    return {
        name: kernel(written_out(f, {"OTHERS": others}, names)) for name, f in functions.items()
    }


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
        layers: (k, 4) kind and numbers of the layers behind where one of them is a nonlinearity
            (``_tail_table``); the first row is not read where none is.
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
            elif layers[k, 0] == RELU:
                linear, bend = layers[k, 1], layers[k, 2]
                bent, slope = relu_signed(
                    delta, np.float64(1), math.sqrt(A / 2), math.sqrt(B / 2), np.float64(0)
                )
                delta, T = linear * delta + bend * bent, T * (linear + bend * slope)
                A, B = (linear + bend) * A, (linear + bend) * B
            elif OTHERS:
                # variances as covariances, so that Δ of equal images is zero
                K, slope = other_layer(layers, k, (A + B) / 2 - delta, A, B)
                A, _ = other_layer(layers, k, A, A, A)
                B, _ = other_layer(layers, k, B, B, B)
                delta, T = (A + B) / 2 - K, T * slope
        K = (A + B) / 2 - delta
    put(pointer(K_out, 0), index, real(K))
    put(pointer(T_out, 0), index, real(T))


def _other_layer(layers, k, K, A, B):
    """Return what ``duals.dual`` does for row ``k`` of the layers behind."""
    kind = int(layers[k, 0])
    if kind == NORM:
        size = math.sqrt(A + layers[k, 1]) * math.sqrt(B + layers[k, 1])
        return K / size, 1 / size
    if kind == EXPONENTIAL:
        # exactly A of equal variances, so that their correlation is 1
        ab = A if A == B else math.sqrt(A) * math.sqrt(B)
        c = min(max(K / ab, np.float64(-1)), np.float64(1)) if ab > 0 else np.float64(0)
        share = math.exp(layers[k, 1] * (c + layers[k, 2]))
        return ab * share, layers[k, 1] * share
    root_a, root_b = math.sqrt(1 + 2 * A), math.sqrt(1 + 2 * B)
    inverse_a, inverse_b = 1 / root_a, 1 / root_b
    if kind != OF_ERF:
        root_a, root_b = math.sqrt(A), math.sqrt(B)
        inverse_a, inverse_b = 1 / math.sqrt(1 + A), 1 / math.sqrt(1 + B)
    return dual(
        kind, pointer(layers, 4 * k), (A + B) / 2 - K, A / 2, B / 2, root_a, root_b, inverse_a,
        inverse_b,
    )  # fmt: skip
