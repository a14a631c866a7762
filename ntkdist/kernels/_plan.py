"""A chain on images of one shape as the tables that the compiled loops of the CPU backend read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ntkdist.kernels import _cpu_cells as cells
from ntkdist.kernels import _cpu_loops as loops
from ntkdist.kernels._chain import Chain, Link

# Units are powers of what the layers scale by; one that leaves 2^±_RANGE is brought back to
# about 1, so that squares of the state stay within float32.
_RANGE = 40
_KIND = {"": cells.LINEAR, "relu": cells.RELU, "erf": cells.ERF}
_NUMBERS = ("half", "side", "root", "inverse", "angle")


@dataclass(frozen=True)
class Plan:
    """Where everything stands, and in which unit.

    Attributes:
        chain: The network, pools at the end taken together.
        shape: (H, W, C) of the images.
        dtype: Of the arithmetic.
        blocks: For ``entries``.
        sweeps: For ``entries``.
        scales: For ``entries``; the unit in front of each sweep.
        factors: For ``entries``.
        classes: For ``entries``.
        room: For ``entries``.
        offsets: For each link, where ``half``, ``side``, ``root``, ``inverse``, ``angle`` and
            ``twice`` start in an image's numbers.
        centers: For each block behind a pool, where the means over its windows start.
        units: For each link, the unit in front of its linear layer and the one behind it.
        unit: The unit at the end.
        pool_units: For each block, the unit of its input.
        shared: Numbers an image has as column; ``twice`` comes behind, for rows alone.
        numbers: Numbers an image has as row.
        count: Cells that the sums at the end run over.
    """

    chain: Chain
    shape: tuple[int, int, int]
    dtype: str
    blocks: np.ndarray
    sweeps: np.ndarray
    scales: np.ndarray
    factors: np.ndarray
    classes: np.ndarray
    room: np.ndarray
    offsets: tuple[dict[str, int], ...]
    centers: tuple[int, ...]
    units: tuple[tuple[float, float], ...]
    unit: float
    pool_units: tuple[float, ...]
    shared: int
    numbers: int
    count: int

    def without_theta(self) -> np.ndarray:
        """Return ``sweeps`` for Δ alone."""
        sweeps = self.sweeps.copy()
        sweeps[:, [cells.THETA, cells.FRESH]] = 0
        return sweeps

    def windows_in_front_of(self, upto: int) -> tuple[np.ndarray, np.ndarray]:
        """Return blocks and classes that reach the aligned windows in front of a block."""
        radius = 1
        blocks, classes = self.blocks.copy(), []
        for n in range(upto - 1, -1, -1):
            radius *= self.chain.blocks[n].pool
            H, W = blocks[n, loops.HEIGHT], blocks[n, loops.WIDTH]
            near = [_near(edge, radius - 1) for edge in (H, W)]
            classes.append(np.add.outer(near[0] * W, near[1]).ravel())
        _number_classes(blocks, classes[::-1])
        return blocks, np.concatenate(classes[::-1])


def _near(edge: int, radius: int) -> np.ndarray:
    """Return the displacements modulo ``edge`` whose absolute value is at most ``radius``."""
    far = np.arange(edge)
    return far[np.minimum(far, edge - far) <= radius]


def _number_classes(blocks: np.ndarray, classes: list[np.ndarray]) -> None:
    ends = np.cumsum([len(x) for x in classes])
    blocks[: len(classes), loops.CLASS_END] = ends
    blocks[: len(classes), loops.CLASS] = ends - [len(x) for x in classes]


@lru_cache(maxsize=32)
def plan_of(chain: Chain, shape: tuple[int, int, int], dtype: str) -> Plan:
    """Lay out a chain on (H, W, C) images."""
    H, W, C = shape
    chain = chain.on(H, W)
    layout = _Layout(H * W * C)
    blocks, pool_units, classes = [], [], []
    state = 0
    for n, block in enumerate(chain.blocks):
        first = len(layout.sweeps)
        pool_units.append(layout.unit)
        layout.start(H * W, pooled=n > 0)
        for link in block.links:
            layout.link(link, H * W)
        layout.end(block.pool)
        blocks.append([H, W, first, len(layout.sweeps), 0, 0, 0])
        most = max([3, *(link.size for link in block.links)])
        state = max(state, 1 + 2 * H * W + 2 * most * W + 2 * (2 * W + most))
        count = H * W
        if block.pool:
            H, W = H // block.pool, W // block.pool
            layout.unit /= block.pool**4
    table = np.array(blocks, np.int64)
    # where pooled arrays start: block n reads what block n − 1 adds up
    sizes = [2 * (int(h) * int(w)) ** 2 for h, w in table[1:, :2]]
    table[1:, loops.POOLS] = np.cumsum([0, *sizes])[:-1]
    radius = None if chain.pooled else 0
    for n in range(len(table) - 1, -1, -1):
        h, w = (int(x) for x in table[n, :2])
        pool = chain.blocks[n].pool
        if pool and radius is not None:
            radius = radius * pool + pool - 1
        near = [_near(edge, edge if radius is None else radius) for edge in (h, w)]
        classes.append(np.add.outer(near[0] * w, near[1]).ravel())
    classes.reverse()
    _number_classes(table, classes)
    sweeps = np.array(layout.sweeps, np.int64)
    shared = layout.taken
    offsets = []
    for where, area in zip(layout.offsets, layout.areas, strict=True):
        offsets.append({**where, "twice": layout.taken})
        layout.taken += area
    for sweep, k in layout.behind:
        sweeps[sweep, cells.TWICE] = offsets[k]["twice"]
    return Plan(
        chain, shape, dtype, table, sweeps, np.array(layout.scales, dtype),
        np.array(layout.factors, dtype), np.concatenate(classes),
        np.array([state, sum(sizes)], np.int64), tuple(offsets), tuple(layout.centers),
        tuple(layout.units), layout.unit, tuple(pool_units), shared, layout.taken,
        count * len(classes[-1]),
    )  # fmt: skip


class _Layout:
    """Sweeps in order, and where each finds an image's numbers, while a plan is made."""

    def __init__(self, taken: int) -> None:
        self.taken = taken
        self.unit = 1.0
        self.theta = False
        self.fold = True
        self.sweeps: list[np.ndarray] = []
        self.scales: list[float] = []
        self.factors: list[float] = []
        self.offsets: list[dict[str, int]] = []
        self.areas: list[int] = []
        self.units: list[tuple[float, float]] = []
        self.centers: list[int] = []
        self.behind: list[tuple[int, int]] = []
        self.sweep = np.zeros(cells.SWEEP_FIELDS, np.int64)
        self.scale = 1.0

    def start(self, area: int, *, pooled: bool) -> None:
        """Begin with pixels, or with means over windows."""
        self.sweep = np.zeros(cells.SWEEP_FIELDS, np.int64)
        self.sweep[cells.KIND] = cells.PIXELS
        if pooled:
            self.sweep[[cells.KIND, cells.ROOT]] = cells.POOLED, self.taken
            self.centers.append(self.taken)
            self.taken += area
        self.sweep[cells.THETA] = self.theta
        self.scale = self.unit

    def link(self, link: Link, area: int) -> None:
        """End the sweep with a linear layer, and begin one with what stands behind it."""
        where = {}
        for name in _NUMBERS:
            where[name] = self.taken
            self.taken += area if name != "angle" or link.activation == "erf" else 0
        self.offsets.append(where)
        self.areas.append(area)
        self.sweep[[cells.SIZE, cells.HALF, cells.SIDE]] = link.size, where["half"], where["side"]
        before = self.unit
        self.unit *= link.W_std**2 / link.size**2
        power = math.floor(math.log2(self.unit))
        factor = 1.0 if abs(power) < _RANGE else 2.0**power
        self.unit /= factor
        self.units.append((before, self.unit))
        self._close(factor)
        fresh = link.trainable and not self.theta
        self.theta = self.theta or link.trainable
        self.sweep = np.zeros(cells.SWEEP_FIELDS, np.int64)
        self.sweep[cells.KIND] = _KIND[link.activation]
        self.sweep[[cells.THETA, cells.TRAINED, cells.FRESH]] = self.theta, link.trainable, fresh
        self.sweep[cells.FOLD] = self.fold
        for field, name in ((cells.ROOT, "root"), (cells.INVERSE, "inverse"), (cells.ANGLE, "angle")):
            self.sweep[field] = where[name]
        self.behind.append((len(self.sweeps), len(self.offsets) - 1))
        self.scale = self.unit
        if link.activation:
            # a covariance is not negative behind a ReLU, and stays so through linear layers
            self.fold = link.activation == "erf"
            self.unit = self.unit / 2 if link.activation == "relu" else 1.0

    def end(self, pool: int) -> None:
        """End the sweep with a pool, or with the sums at the end."""
        self.sweep[cells.POOL] = pool
        self._close(1.0)

    def _close(self, factor: float) -> None:
        self.sweeps.append(self.sweep)
        self.scales.append(self.scale)
        self.factors.append(factor)
