"""A network as the fast backends read it, and the tables of it that the kernels read.

A ``Chain`` is a network as blocks of linear layers between average pools; a ``Plan`` is a chain on
images of one shape as the tables of the CPU backend's loops, which ``cuda.layout`` starts from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ntkdist.kernels.windows import mean_weights
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import AvgPool, Conv, Dense, Erf, Flatten, GlobalAvgPool, Layer, Relu

# columns of the sweep table: what a sweep does (FOLD: whether K may be negative), and where the
# numbers of row images and (_B) of column images start
KIND, THETA, TRAINED, FOLD, SIZE, POOL, CELLS, CELLS_B, HALF, HALF_B, SIDE, SIDE_B = range(12)
SWEEP_FIELDS = 12
# KIND: what is applied to the state in front of the linear layer
PIXELS, POOLED, LINEAR, RELU, ERF = range(5)
# THETA: Θ is zero, is set to K in this sweep, or was set before
ABSENT, FIRST, PRESENT = range(3)
# columns of the block table; POOLS: where the block's input starts in the pools' buffer
HEIGHT, WIDTH, SWEEP, SWEEP_END, CLASS, CLASS_END, POOLS = range(7)

NUMBERS, NUMBERS_B = 3, 2  # of a pixel behind a layer, in row and in column images
NUMBERS_ERF = 4  # in both

# Units are powers of what the layers scale by. Where they have drifted from the variances by more
# than 2^±_RANGE, the state is brought back to about 1, so that its squares stay within float32.
_RANGE = 40
KIND_OF = {"": LINEAR, "relu": RELU, "erf": ERF}


@dataclass(frozen=True)
class Link:
    """One linear layer and the nonlinearity behind it.

    Attributes:
        size: Filter edge, odd; 1 for a dense layer.
        W_std: Weight standard deviation.
        b_std: Bias standard deviation.
        trainable: Whether it adds its K to Θ.
        activation: ``relu``, ``erf`` or an empty string.
    """

    size: int
    W_std: float
    b_std: float
    trainable: bool
    activation: str = ""


@dataclass(frozen=True)
class Block:
    """Linear layers on pixels, then an average over windows.

    Attributes:
        links: The layers; none where one pool follows another.
        pool: Edge of the windows behind them; 0 at the end of the chain.
    """

    links: tuple[Link, ...]
    pool: int = 0


@dataclass(frozen=True)
class Chain:
    """A network as blocks on pixels, a mean over positions, and layers on vectors.

    Attributes:
        blocks: At least one; all but the last end in a pool.
        pooled: Mean over all pairs of positions (GlobalAvgPool), else over aligned ones.
        tail: Dense, Relu and Erf layers behind the mean.
        spatial: False for a fully connected network, which reads images as vectors.
        windows: Pools in front of that mean, the first of which overlaps or is padded.
    """

    blocks: tuple[Block, ...]
    pooled: bool
    tail: tuple[Layer, ...]
    spatial: bool = True
    windows: tuple[AvgPool, ...] = ()

    @property
    def mixes_positions(self) -> bool:
        """Whether the mean at the end takes in pairs of different positions."""
        return self.pooled or bool(self.windows)

    @property
    def links(self) -> tuple[Link, ...]:
        """The links of all blocks in order."""
        return tuple(link for block in self.blocks for link in block.links)

    @property
    def homogeneous(self) -> bool:
        """Whether scaling an image scales its kernels: no bias and no erf before the mean."""
        return not any(link.b_std or link.activation == "erf" for link in self.links)

    @property
    def has_nonlinear_head(self) -> bool:
        """Whether a nonlinearity stands behind the mean."""
        return any(isinstance(layer, (Relu, Erf)) for layer in self.tail)

    def on(self, H: int, W: int) -> Chain:
        """Return the same network on H × W pixels with pools at the end taken together.

        Averages of equal windows over an average are one average over all pixels.
        """
        edges = [(H, W)]
        for block in self.blocks[:-1]:
            H, W = H // block.pool, W // block.pool
            edges.append((H, W))
        last = len(self.blocks) - 1
        if self.windows or (not self.pooled and edges[last] != (1, 1)):
            return self
        kept = last
        while kept > 0 and not self.blocks[kept].links:
            pool = self.blocks[kept - 1].pool
            if edges[kept - 1] != (edges[kept][0] * pool, edges[kept][1] * pool):
                break
            kept -= 1
        if kept == last:
            return self
        blocks = (*self.blocks[:kept], Block(self.blocks[kept].links))
        return Chain(blocks, True, self.tail, self.spatial)


_IDENTITY = Link(1, 1.0, 0.0, False)


def chain_of(arch: Architecture) -> Chain | None:
    """Return ``arch`` as a chain; None if it is none."""
    blocks: list[Block] = []
    links: list[Link] = []
    tail: list[Layer] = []
    overlapping: list[AvgPool] = []
    spatial = arch.is_spatial
    ended = pooled = False
    for layer in arch.layers:
        if overlapping and not ended and not isinstance(layer, (AvgPool, Flatten, GlobalAvgPool)):
            return None  # windows that overlap or are padded mix displacements
        match layer:
            case Flatten() if not spatial:
                continue
            case Dense() | Relu() | Erf() if ended:
                tail.append(layer)
            case Flatten() | GlobalAvgPool():
                ended, pooled = True, isinstance(layer, GlobalAvgPool)
            case Relu() | Erf():
                # with no linear layer before it, it stands behind the identity
                last = links.pop() if links and not links[-1].activation else _IDENTITY
                name = "relu" if isinstance(layer, Relu) else "erf"
                links.append(Link(last.size, last.W_std, last.b_std, last.trainable, name))
            case Dense():
                links.append(Link(1, layer.W_std, layer.b_std, layer.trainable))
            case Conv() if layer.size % 2 and layer.padding == "SAME" and layer.stride == 1:
                links.append(Link(layer.size, layer.W_std, layer.b_std, layer.trainable))
            case AvgPool() if overlapping or not layer.side_by_side:
                overlapping.append(layer)
            case AvgPool():
                blocks.append(Block(tuple(links), layer.size))
                links = []
            case _:
                return None
    blocks.append(Block(tuple(links)))
    return Chain(tuple(blocks), pooled, tuple(tail), spatial, tuple(overlapping))


#: Patches of so few numbers are often multiples of each other: those of one grey pixel always are.
FEW_NUMBERS = 3


def state_dtype(chain: Chain, shape: tuple[int, int, int], dtype: str) -> str:
    """Return the dtype of a chain's state on (H, W, C) images, for entries of ``dtype``.

    float64 where Δ has too few digits in float32:

    * where K may be negative at the end of the blocks or is a mean of both signs, as behind an
      erf or without a nonlinearity. There K is small against the variances a² and b², and
      K = (a² + b²)/2 − Δ keeps the rounding errors of these.
    * where the first ReLU reads patches of up to 3 numbers, as a filter of one pixel does.
      Where such a patch is a multiple of another one, 1 − |c| = 0 is computed as a rounding
      error, and the angle, its root, is wrong by 1e-4.
    * where a nonlinearity stands behind a mean over pairs of positions and the last layer
      in front of it is not trained: the cpu backend adds up Δ in another order with Θ than
      without, and K(x, x) would differ by a rounding error from the variance of ``prepare``.
    """
    H, W, C = shape if chain.spatial else (1, 1, math.prod(shape))
    reach = 1
    activations = [link.activation for link in chain.links if link.activation]
    if not activations or "erf" in activations:
        return "float64"
    if chain.mixes_positions and chain.has_nonlinear_head and not chain.links[-1].trainable:
        return "float64"
    for block in chain.blocks:
        for link in block.links:
            reach += link.size - 1
            if link.activation:
                return "float64" if C * min(reach, H) * min(reach, W) <= FEW_NUMBERS else dtype
        H, W = H // max(1, block.pool), W // max(1, block.pool)
    return dtype


def linear_tail(tail: Sequence[Layer]) -> np.ndarray:
    """Return (5,) α, β, γ, δ, ε of dense layers: K becomes αK + β, and Θ γΘ + δK + ε."""
    alpha, beta, gamma, mixed, rest = 1.0, 0.0, 1.0, 0.0, 0.0
    for layer in tail:
        assert isinstance(layer, Dense)
        scale = layer.W_std**2
        alpha, beta = scale * alpha, scale * beta + layer.b_std**2
        trained = float(layer.trainable)
        gamma, mixed, rest = (
            scale * gamma,
            scale * mixed + trained * alpha,
            scale * rest + trained * beta,
        )
    return np.array([alpha, beta, gamma, mixed, rest])


@dataclass(frozen=True)
class Plan:
    """The tables of a chain on images of one shape, and the units of its states.

    Attributes:
        chain: The network, pools at the end taken together.
        shape: (H, W, C) of the images.
        dtype: Of the arithmetic.
        blocks, sweeps, factors, classes, parts, work_cells: Arguments of ``loops.entries``.
        scales: Likewise; the unit in front of each sweep.
        offsets: For each link, where ``half``, ``side`` and ``cells`` start in a row's numbers.
        centers: For each block behind a pool, where the means over its windows start.
        units: For each link, the unit in front of its linear layer and the one behind it.
        unit: The unit at the end.
        pool_units: For each block, the unit of its input.
        columns: Which of a row's numbers make the vectors of a column image.
        numbers: Numbers an image has as row.
        count: What the sums at the end are divided by: their cells, or the sum of their weights
            in units of ``row_weights`` and ``column_weights``.
        row_weights, column_weights: Arguments of ``loops.entries``; of
            ``windows.mean_weights``, the largest 1. Empty without ``Chain.windows``.
        pixel_weights: (H, W) float64, weights of the variances in the mean at the end; None for
            equal ones.
    """

    chain: Chain
    shape: tuple[int, int, int]
    dtype: str
    blocks: np.ndarray
    sweeps: np.ndarray
    scales: np.ndarray
    factors: np.ndarray
    classes: np.ndarray
    work_cells: np.ndarray
    offsets: tuple[dict[str, int], ...]
    centers: tuple[int, ...]
    units: tuple[tuple[float, float], ...]
    unit: float
    pool_units: tuple[float, ...]
    columns: np.ndarray
    numbers: int
    count: float
    parts: np.ndarray
    row_weights: np.ndarray
    column_weights: np.ndarray
    pixel_weights: np.ndarray | None

    def without_theta(self) -> np.ndarray:
        """Return ``sweeps`` for Δ alone."""
        sweeps = self.sweeps.copy()
        sweeps[:, THETA] = ABSENT
        return sweeps

    def windows_in_front_of(self, upto: int) -> tuple[np.ndarray, np.ndarray]:
        """Return blocks and classes for Δ between equal windows of two images before a block."""
        radius = 1
        blocks, classes = self.blocks.copy(), []
        for n in range(upto - 1, -1, -1):
            radius *= self.chain.blocks[n].pool
            H, W = blocks[n, HEIGHT], blocks[n, WIDTH]
            near = [_near(edge, radius - 1) for edge in (H, W)]
            classes.append(np.add.outer(near[0] * W, near[1]).ravel())
        _number_classes(blocks, classes[::-1])
        return blocks, np.concatenate(classes[::-1])

    @cached_property
    def mirror(self) -> np.ndarray:
        """(numbers,) which of an image's numbers is where in those of its mirror image.

        For networks that treat left and right alike (``invariance.uneven_layer``).
        """
        starts = {0: self.shape[:2]}
        at = 0
        for n, block in enumerate(self.chain.blocks):
            size = int(self.blocks[n, HEIGHT]), int(self.blocks[n, WIDTH])
            if n:
                starts[self.centers[n - 1]] = size
            for _ in block.links:
                starts |= dict.fromkeys(self.offsets[at].values(), size)
                at += 1
        order = np.arange(self.numbers)
        for (start, size), end in zip(
            starts.items(), [*list(starts)[1:], self.numbers], strict=True
        ):
            order[start:end] = order[start:end].reshape(*size, -1)[:, ::-1].ravel()
        return order


def _near(edge: int, radius: int) -> np.ndarray:
    """Return the displacements modulo ``edge`` whose absolute value is at most ``radius``."""
    far = np.arange(edge)
    return far[np.minimum(far, edge - far) <= radius]


def _parts(p: np.ndarray, edge: int, radius: int) -> np.ndarray:
    """Return which parts of classes lie within ``radius``: 1 for displacement p, 2 for p − edge."""
    return (p <= radius) + 2 * ((p > 0) & (edge - p <= radius))


def _box(x: np.ndarray, size: int) -> np.ndarray:
    """Sum (H, W) over a window of ``size`` × ``size`` around each pixel, zeros outside."""
    rows, columns = (np.abs(np.subtract.outer(*(np.arange(n),) * 2)) <= size // 2 for n in x.shape)
    return np.asarray(rows @ x @ columns)


def _number_classes(blocks: np.ndarray, classes: list[np.ndarray]) -> None:
    ends = np.cumsum([len(x) for x in classes])
    blocks[: len(classes), CLASS_END] = ends
    blocks[: len(classes), CLASS] = ends - [len(x) for x in classes]


@lru_cache(maxsize=32)
def plan_of(chain: Chain, shape: tuple[int, int, int], dtype: str) -> Plan:
    """Lay out a chain on (H, W, C) images."""
    H, W, C = shape
    chain = chain.on(H, W)
    layout = _Layout(H * W * C)
    layout.variance = np.ones((H, W))  # of an image whose pixels have variance 1
    blocks: list[list[int]] = []
    pool_units: list[float] = []
    classes: list[np.ndarray] = []
    parts: list[np.ndarray] = []
    state = 0
    for n, block in enumerate(chain.blocks):
        first = len(layout.sweeps)
        pool_units.append(layout.unit)
        layout.start(H * W, pooled=n > 0)
        for link in block.links:
            layout.link(link, H * W)
        layout.end(block.pool)
        blocks.append([H, W, first, len(layout.sweeps), 0, 0, 0])
        most = max([3, block.pool, *(link.size for link in block.links)])
        # H rows, a ring of ``most`` rows and a padded row, each with a spare cell in front
        state = max(state, (H + most + 1) * (W + 1) + 1 + most)
        if block.pool:
            H, W = H // block.pool, W // block.pool
            layout.unit /= block.pool**4
            layout.variance = np.full((H, W), layout.variance.mean())
    table = np.array(blocks, np.int64)
    # where pooled arrays start: block n reads what block n − 1 adds up
    sizes = [(int(h) * int(w)) ** 2 for h, w in table[1:, :2]]
    table[1:, POOLS] = np.cumsum([0, *sizes])[:-1]
    radius = None if chain.pooled else 0
    weights = [np.zeros((0, 0))] * 2
    if chain.windows:
        weights = [mean_weights(n, chain.windows, pooled=chain.pooled) for n in (H, W)]
        far = [np.abs(np.subtract.outer(*(np.arange(len(x)),) * 2))[x > 0].max() for x in weights]
        radius = int(max(far))
    for n in range(len(table) - 1, -1, -1):
        h, w = (int(x) for x in table[n, :2])
        pool = chain.blocks[n].pool
        if pool and radius is not None:
            radius = radius * pool + pool - 1
        reach = [edge if radius is None else radius for edge in (h, w)]
        near = [_near(edge, limit) for edge, limit in zip((h, w), reach, strict=True)]
        classes.append(np.add.outer(near[0] * w, near[1]).ravel())
        if pool or not chain.windows:
            parts.append(np.full(len(classes[-1]), 15))
        else:
            of_axes = [_parts(x, e, r) for x, e, r in zip(near, (h, w), reach, strict=True)]
            parts.append(np.add.outer(of_axes[0], 4 * of_axes[1]).ravel())
    classes.reverse()
    parts.reverse()
    _number_classes(table, classes)
    count, pixel_weights = float(H * W * len(classes[-1])), None
    if chain.windows:
        pixel_weights = np.outer(*(x.sum(axis=1) for x in weights))
        count = 1 / (weights[0].max() * weights[1].max())
        weights = [x / x.max() for x in weights]
    return Plan(
        chain, shape, dtype, table, np.array(layout.sweeps, np.int64),
        np.array(layout.scales, dtype), np.array(layout.factors, dtype), np.concatenate(classes),
        np.array([state, sum(sizes)], np.int64), tuple(layout.offsets), tuple(layout.centers),
        tuple(layout.units), layout.unit, tuple(pool_units),
        np.concatenate(layout.columns), layout.numbers, count, np.concatenate(parts),
        weights[0].astype(dtype), weights[1].astype(dtype), pixel_weights,
    )  # fmt: skip


class _Layout:
    """The sweeps of a plan in the making, and where each finds an image's numbers."""

    def __init__(self, pixels: int) -> None:
        self.unit = 1.0
        self.variance = np.ones((1, 1))
        self.theta = False
        self.fold = True
        self.sweeps: list[np.ndarray] = []
        self.scales: list[float] = []
        self.factors: list[float] = []
        self.offsets: list[dict[str, int]] = []
        self.units: list[tuple[float, float]] = []
        self.centers: list[int] = []
        self.columns = [np.arange(pixels)]
        self.numbers = self.vectors = pixels
        self._begin(PIXELS)

    def start(self, area: int, *, pooled: bool) -> None:
        """Begin with pixels, or with means over windows."""
        self._begin(PIXELS)
        if pooled:
            self._begin(POOLED)
            self.centers.append(self.numbers)
            self.sweep[[CELLS, CELLS_B]] = self._take(area)
        self.sweep[THETA] = PRESENT if self.theta else ABSENT

    def link(self, link: Link, area: int) -> None:
        """End the sweep with a linear layer, and begin one with what stands behind it."""
        half, side = self._take(area), self._take(area)
        kind = KIND_OF[link.activation]
        numbers = (NUMBERS_ERF,) * 2 if kind == ERF else (NUMBERS, NUMBERS_B)
        behind = self._take(area, *numbers)
        self.offsets.append({"half": half[0], "side": side[0], "cells": behind[0]})
        self.sweep[[HALF, HALF_B]] = half
        self.sweep[[SIDE, SIDE_B]] = side
        self.sweep[SIZE] = link.size
        before = self.unit
        scale = link.W_std**2 / link.size**2
        self.unit *= scale
        self.variance = scale * _box(self.variance, link.size) + link.b_std**2
        power = math.floor(math.log2(self.unit / self.variance.mean()))
        factor = 1.0 if abs(power) < _RANGE else 2.0**power
        self.unit /= factor
        self.units.append((before, self.unit))
        self._close(factor)
        self._begin(kind)
        self.sweep[[CELLS, CELLS_B]] = behind
        self.sweep[[TRAINED, FOLD]] = link.trainable, self.fold
        if self.theta:
            self.sweep[THETA] = PRESENT
        elif link.trainable:
            self.sweep[THETA] = FIRST
            self.theta = True
        if link.activation:
            # a covariance is not negative behind a ReLU, and stays so through linear layers
            self.fold = link.activation == "erf"
            self.unit = self.unit / 2 if link.activation == "relu" else 1.0
            if link.activation == "relu":
                self.variance = self.variance / 2
            else:
                self.variance = np.ones_like(self.variance)

    def end(self, pool: int) -> None:
        """End the sweep with a pool, or with the sums at the end."""
        self.sweep[POOL] = pool
        self._close(1.0)

    def _take(self, area: int, numbers: int = 1, vectors: int = 1) -> tuple[int, int]:
        """Reserve numbers per pixel, the first ``vectors`` also in columns; return both starts."""
        at = self.numbers, self.vectors
        kept = np.arange(area)[:, None] * numbers + np.arange(vectors)
        self.columns.append(self.numbers + kept.ravel())
        self.numbers += area * numbers
        self.vectors += area * vectors
        return at

    def _begin(self, kind: int) -> None:
        self.sweep = np.zeros(SWEEP_FIELDS, np.int64)
        self.sweep[KIND] = kind
        self.scale = self.unit

    def _close(self, factor: float) -> None:
        self.sweeps.append(self.sweep)
        self.scales.append(self.scale)
        self.factors.append(factor)
