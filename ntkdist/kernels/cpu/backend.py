"""The CPU backend: fused layers in cache, one vector lane per column image (Numba).

Covers all networks but those of which ``graph.not_covered`` gives the reason, in float32 and
float64. ``prepare`` computes in float64 what depends on one image alone. Chains, networks of Conv
(odd size, SAME, stride 1), Dense, Relu, Erf, AvgPool (with windows that overlap or are padded, at
the end alone), Flatten and GlobalAvgPool, are laid out by a ``Plan`` and computed by ``cpu.loops``;
all others by a ``GraphPlan`` and ``cpu.program``.

Errors in float32 are about 1e-6 of an entry, also between near duplicates, to any depth and at
any contrast. Two limits: with biases or erf a network is not homogeneous, and where two images
differ in contrast by more than about 100 times K is a small difference of Δ and the
variances; and an average over windows of nearly equal images leaves 1 − c a few roundings of
the dtype, so a ReLU behind it can be off by 1e-4. ``dtype="float64"`` is right in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ntkdist.errors import InputError
from ntkdist.kernels.backend import as_images, check_kinds, check_pair
from ntkdist.kernels.chain import (
    Chain,
    Link,
    Plan,
    chain_of,
    linear_tail,
    plan_of,
    state_dtype,
)
from ntkdist.kernels.cpu import dense, loops
from ntkdist.kernels.cpu.graph import CpuGraphPreparation, graph_sums
from ntkdist.kernels.cpu.lanes import to_lanes
from ntkdist.kernels.cpu.vector import LANES, coefficients
from ntkdist.kernels.duals import dual, relu_distance
from ntkdist.kernels.graph import Graph, GraphPlan, graph_of, not_covered, relu_mix
from ntkdist.kernels.preparation import divisors
from ntkdist.kernels.ranges import check_range
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import ABRelu, CellLayer, Dense, Layer, LeakyRelu, Relu

# Rows that a thread takes at once: few, so that the triangle of a diagonal tile spreads evenly;
# more where an entry is cheap, so that what is read of a column image serves many of them.
_ROWS_POOLED, _ROWS_ALIGNED, _ROWS_DENSE = 4, 16, 64


def box_sum(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Sum (n, H, W) over a window of ``rows`` × ``columns`` around each pixel, zeros outside."""
    H, W = x.shape[1:]
    up, left = rows // 2, columns // 2
    padded = np.pad(x, ((0, 0), (up, up), (left, left)))
    tall = np.sum([padded[:, k : k + H, :] for k in range(rows)], axis=0)
    return np.sum([tall[:, :, k : k + W] for k in range(columns)], axis=0)


def window_mean(x: np.ndarray, size: int) -> np.ndarray:
    """Average (n, H, W) over windows of ``size`` × ``size``; a ragged rest is cut."""
    n, H, W = x.shape
    h, w = H // size, W // size
    cut = x[:, : h * size, : w * size]
    return cut.reshape(n, h, size, w, size).mean(axis=(2, 4))


@dataclass(frozen=True)
class CpuState:
    """n prepared images.

    Attributes:
        plan: The network on images of this shape.
        rows: (n, numbers) of the dtype, laid out by the plan.
        spread: (n,) float64, the mean over pixels of K(x, x) at the end of the blocks, with the
            weights of the mean there.
        variance: (n,) float64, K(x, x) of the vector behind the mean over positions; known only
            where a nonlinearity stands behind it, else ``spread``.
        norm: (n,) float64, what each image was divided by. A homogeneous network keeps the
            digits that Δ would lose between images of very different contrast; else it is 1.
    """

    plan: Plan | GraphPlan
    rows: np.ndarray
    spread: np.ndarray
    variance: np.ndarray
    norm: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes held, the lane layout included."""
        return 2 * self.rows.nbytes

    def __len__(self) -> int:
        return self.rows.shape[0]

    @cached_property
    def lanes(self) -> np.ndarray:
        """(vectors, numbers, lanes) with one image per vector lane, for column images."""
        return to_lanes(self.rows[:, self.plan.columns])


class CpuBackend:
    """Kernel entries on CPU cores; see ``backend.Backend`` for the protocol."""

    name = "cpu"
    arithmetic = "cpu-4"

    def __init__(self, *, dtype: str = "float32", threads: int = 1, rounding: bool = True) -> None:
        self.dtype = dtype
        self.threads = threads
        self._rounding = rounding

    def of_version(
        self, arithmetic: str, arch: Architecture, image_shape: tuple[int, int, int]
    ) -> CpuBackend | None:
        """Return the backend that computes the bits of a version; None if there is none any more.

        The version before, ``cpu-3``, did not know ``duals.ROUNDING``, and had no network whose
        state is wider than its entries.
        """
        if arithmetic == self.arithmetic:
            return self
        chain = chain_of(arch)
        if arithmetic != "cpu-3" or chain is None:
            return None
        if state_dtype(chain, image_shape, self.dtype) != self.dtype:
            return None
        old = CpuBackend(dtype=self.dtype, threads=self.threads, rounding=False)
        old.arithmetic = arithmetic
        return old

    def coefficients(self, dtype: str) -> np.ndarray:
        """Return the ``vector.coefficients`` of a state's dtype in this version."""
        return coefficients(dtype, rounding=self._rounding)

    def supports(
        self, arch: Architecture, image_shape: tuple[int, int, int], dtype: str | None = None
    ) -> str | None:
        """Return None if the cpu backend covers ``arch``, else the reason."""
        return not_covered(arch, image_shape)

    def prepare(self, arch: Architecture, images: np.ndarray) -> CpuState:
        """Compute in float64 what depends on one image alone, from (n, H, W, C) images.

        An average pool needs K between neighbouring pixels of the same image. Its cost for each
        image is one vector of entries, restricted to the classes of small displacements.
        """
        x = as_images(images)
        if arch.is_spatial:
            arch.check_image(*x.shape[1:3])
        else:
            x = x.reshape(x.shape[0], 1, 1, -1)
        if why_not := self.supports(arch, (x.shape[1], x.shape[2], x.shape[3])):
            raise InputError(f"backend 'cpu': {why_not}")
        check_range(arch, x, self.dtype)
        chain = chain_of(arch)
        if isinstance(chain, Chain):
            return _Preparation(self, chain, x).state()
        graph = graph_of(arch)
        assert isinstance(graph, Graph)
        made = CpuGraphPreparation(graph, x, self.dtype, self.coefficients, self._in_threads)
        made.fill()
        return CpuState(made.plan, made.rows, made.spread, made.variance, made.norm)

    def flipped(self, state: CpuState, even: np.ndarray) -> CpuState:
        """Return the state of the mirror images, without computing it again; see ``Backend``."""
        rows = np.where(even[:, None], state.rows, state.rows[:, state.plan.mirror])
        return replace(state, rows=rows)

    def block(
        self, a: CpuState, b: CpuState, kinds: Sequence[str] = ("ntk",), *, symmetric: bool = False
    ) -> dict[str, np.ndarray]:
        """Compute (n_a, n_b) entries of each kind; ``a is b`` computes half of them."""
        kinds = check_kinds(kinds)
        symmetric = symmetric or a is b
        check_pair(a.plan.shape, b.plan.shape)
        n, m = len(a), len(b)
        chain = a.plan.chain
        lanes, first = b.lanes, np.zeros(n, np.int64)
        if symmetric:
            first = np.arange(n) // LANES[a.plan.dtype]
        tail: Sequence[Layer] = () if chain.has_nonlinear_head else chain.tail
        last = linear_tail(tail)
        wide = "float64" if chain.has_nonlinear_head else a.plan.dtype
        K, theta = np.empty((n, m), wide), np.empty((n, m), wide)

        def run(part: slice) -> None:
            delta, tangent = self._sums(a.plan, a.rows[part], lanes, first[part], "ntk" in kinds)
            loops.finish(
                delta, tangent, a.plan.unit / a.plan.count, a.spread[part], b.spread,
                a.norm[part], b.norm, last, K[part], theta[part],
            )  # fmt: skip

        self._in_threads(run, n, _rows_at_once(chain))
        if chain.has_nonlinear_head:
            # below the diagonal of a symmetric block nothing is computed
            with np.errstate(invalid="ignore"):
                K, theta = _vector_layers(a, b, K, theta)
        K, theta = K.astype(self.dtype, copy=False), theta.astype(self.dtype, copy=False)
        computed = {"ntk": theta, "nngp": K}
        if symmetric:
            loops.mirror(K)
            loops.mirror(theta)
        return {kind: computed[kind] for kind in kinds}

    def _sums(
        self,
        plan: Plan | GraphPlan,
        rows: np.ndarray,
        lanes: np.ndarray,
        first: np.ndarray,
        theta: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of Δ and Θ behind the blocks, (n, vectors · lanes) float64."""
        table = self.coefficients(plan.dtype)
        if isinstance(plan, GraphPlan):
            delta, tangent = graph_sums(plan, rows, lanes, first, table)
            return delta.reshape(len(rows), -1), tangent.reshape(len(rows), -1)
        shape = len(rows), lanes.shape[0], lanes.shape[2]
        delta, tangent = np.zeros(shape), np.zeros(shape)
        sweeps = plan.sweeps if theta else plan.without_theta()
        given, units = (rows, lanes, plan.shape[2]), (plan.scales, plan.factors)
        if plan.chain.spatial:
            loops.entries(
                *given, plan.blocks, sweeps, *units, plan.classes, plan.parts, plan.row_weights,
                plan.column_weights, table, plan.work_cells, first, delta, tangent,
            )  # fmt: skip
        else:
            dense.dense_entries(*given, sweeps, *units, table, first, delta, tangent)
        return delta.reshape(len(rows), -1), tangent.reshape(len(rows), -1)

    def _in_threads(self, run: Callable[[slice], None], n: int, group: int = _ROWS_POOLED) -> None:
        """Call ``run`` for groups of rows, on all threads."""
        if min(self.threads, n) == 1:
            run(slice(0, n))
            return
        groups = [slice(i, min(n, i + group)) for i in range(0, n, group)]
        with ThreadPoolExecutor(min(self.threads, n)) as pool:
            list(pool.map(run, groups))


def _rows_at_once(chain: Chain | Graph) -> int:
    if not chain.spatial:
        return _ROWS_DENSE
    return _ROWS_POOLED if chain.mixes_positions else _ROWS_ALIGNED


class _Preparation:
    """Fills a plan's numbers for images, link by link."""

    def __init__(self, backend: CpuBackend, chain: Chain, x: np.ndarray) -> None:
        n, H, W, C = x.shape
        self.backend = backend
        self.norm = np.ones(n)
        if chain.homogeneous:
            self.norm = divisors(x)
            x = x / self.norm[:, None, None, None]
        self.plan = plan_of(chain, (H, W, C), state_dtype(chain, (H, W, C), backend.dtype))
        self.rows = np.zeros((n, self.plan.numbers), self.plan.dtype)
        self.rows[:, : H * W * C] = (x / np.sqrt(2 * C)).reshape(n, -1)
        self.A = np.mean(x * x, axis=3)

    def state(self) -> CpuState:
        """Fill the numbers block by block and return the state."""
        plan, at = self.plan, 0
        for n, block in enumerate(plan.chain.blocks):
            if n:
                self._pool(n)
            for link in block.links:
                self._link(link, plan.offsets[at], *plan.units[at])
                at += 1
        spread = self.A.mean(axis=(1, 2))
        if plan.pixel_weights is not None:
            spread = np.einsum("nij,ij->n", self.A, plan.pixel_weights)
        variance = spread
        if plan.chain.mixes_positions and plan.chain.has_nonlinear_head:
            variance = np.maximum(spread - self._self_entries(), 0.0)
        return CpuState(plan, self.rows, spread, variance, self.norm)

    def _put(self, at: int, values: np.ndarray) -> None:
        flat = values.reshape(len(values), -1)
        self.rows[:, at : at + flat.shape[1]] = flat

    def _link(self, link: Link, where: dict[str, int], before: float, behind: float) -> None:
        scale = link.W_std**2 / link.size**2
        self._put(where["half"], self.A / 2 / before)
        self._put(where["side"], box_sum(self.A / 2 / before, 1, link.size))
        A = scale * box_sum(self.A, link.size, link.size) + link.b_std**2
        if link.activation == "erf":
            inverse = 1 / np.sqrt(1 + 2 * A)
            cells: tuple[np.ndarray, ...] = np.sqrt(0.5 + A), inverse, A, self._half_erf(A, inverse)
            self.A = 2 / np.pi * np.arcsin(2 * A / (1 + 2 * A))
        else:
            # from the rounded root, so that Δ of equal images is zero
            root = np.sqrt(A / 2 / behind).astype(self.rows.dtype).astype(np.float64)
            inverse = np.divide(np.sqrt(0.5), root, out=np.zeros_like(root), where=root > 0)
            cells = (root, inverse, 2 * root)
            self.A = A / 2 if link.activation == "relu" else A
        self._put(where["cells"], np.stack(cells, axis=-1))

    def _half_erf(self, *arrays: np.ndarray) -> np.ndarray:
        dtype, shape = self.rows.dtype, arrays[0].shape
        lanes = LANES[dtype.name]
        vectors = -(-arrays[0].size // lanes)
        padded = [np.resize(x.astype(dtype), (vectors, lanes)) for x in arrays]
        halves = np.empty_like(padded[0])
        loops.half_erf_variances(*padded, coefficients(dtype.name), halves)
        return halves.ravel()[: arrays[0].size].reshape(shape)

    def _pool(self, n: int) -> None:
        """Average over windows: mean K(x, x) = mean a² − mean Δ(x, x) over pairs of pixels."""
        plan = self.plan
        blocks, classes = plan.windows_in_front_of(n)
        H, W = (int(x) for x in plan.blocks[n, :2])
        lanes, sweeps = to_lanes(self.rows[:, plan.columns]), plan.without_theta()
        sums = np.zeros((len(self.rows), H * W), self.rows.dtype)
        table = self.backend.coefficients(plan.dtype)

        def run(group: slice) -> None:
            loops.self_windows(
                self.rows[group], lanes, plan.shape[2], blocks, n, sweeps, plan.scales,
                plan.factors, classes, table, plan.work_cells, group.start, sums[group],
            )  # fmt: skip

        self.backend._in_threads(run, len(self.rows))
        self._put(plan.centers[n - 1], sums / 2)
        means = window_mean(self.A, plan.chain.blocks[n - 1].pool)
        inside = plan.pool_units[n] * sums.astype(np.float64).reshape(-1, H, W)
        self.A = np.maximum(means - inside, 0.0)

    def _self_entries(self) -> np.ndarray:
        """Return the mean at the end of the blocks of Δ(x, x), (n,) float64."""
        lanes = to_lanes(self.rows[:, self.plan.columns])
        width = lanes.shape[2]
        means = np.empty(len(self.rows))
        for group in range(len(lanes)):
            part = slice(group * width, min(len(means), (group + 1) * width))
            rows = self.rows[part]
            delta, _ = self.backend._sums(
                self.plan, rows, lanes[group : group + 1], np.zeros(len(rows), np.int64), False
            )
            means[part] = np.diag(delta) * self.plan.unit / self.plan.count
        return means


def _vector_layers(
    a: CpuState, b: CpuState, K: np.ndarray, theta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Apply the layers behind the mean over positions to (n_a, n_b) float64; return K and Θ."""
    A, B = (a.variance * a.norm**2)[:, None], (b.variance * b.norm**2)[None, :]
    delta = (A + B) / 2 - K
    for layer in a.plan.chain.tail:
        if isinstance(layer, Relu):
            delta, slope = relu_distance(delta, A, B)
            theta, A, B = theta * slope, A / 2, B / 2
        elif isinstance(layer, LeakyRelu | ABRelu):
            linear, bend = relu_mix(layer)
            bent, slope = relu_distance(delta, A, B)
            delta, theta = linear * delta + bend * bent, theta * (linear + bend * slope)
            A, B = ((linear + bend / 2) * V for V in (A, B))
        elif isinstance(layer, Dense):
            scale, bias = layer.W_std**2, layer.b_std**2
            delta, A, B = scale * delta, scale * A + bias, scale * B + bias
            theta = scale * theta
            if layer.trainable:
                theta = theta + ((A + B) / 2 - delta)
        else:
            assert isinstance(layer, CellLayer)
            K, slope = dual(layer, (A + B) / 2 - delta, A, B)
            theta, A, B = theta * slope, dual(layer, A, A, A)[0], dual(layer, B, B, B)[0]
            delta = (A + B) / 2 - K
    return (A + B) / 2 - delta, theta
