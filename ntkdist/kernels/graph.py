"""A network of any layers as a graph of arrays of cells, and the program that computes it.

``chain`` has the networks for which loops are fused: odd filters with stride 1 and SAME padding,
ReLU or erf, pools that lie side by side, no branches. All others are graphs. A *value* of a graph
is the output of a layer at one displacement of the pixels of two images, as arrays of cells Δ and
Θ. Filters of any size, stride and padding, sums of branches and all nonlinearities compute a value
from values and do not mix displacements: with stride s a filter's output at displacement d reads
its input at displacement s·d. Only pools mix them. The program therefore has *levels*. Within a
level each displacement goes through all operations, in cache; between levels the sums of pools, and
values that a later level reads, are kept in memory.

With CIRCULAR padding the displacements d and d − P are computed together, as one array of P × Q
cells; without it each displacement is computed by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from ntkdist.kernels.chain import FEW_NUMBERS, chain_of
from ntkdist.kernels.duals import dual
from ntkdist.kernels.windows import mean_weights, padding_before
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import (
    ABRelu,
    AvgPool,
    CellLayer,
    Conv,
    Cos,
    Dense,
    Erf,
    Exp,
    ExpNormalized,
    Flatten,
    Gaussian,
    Gelu,
    GlobalAvgPool,
    Identity,
    Layer,
    LayerNorm,
    LeakyRelu,
    Relu,
    Residual,
    Sin,
    output_size,
)

# columns of the table of operations: the kind of operation, and the buffers it reads and writes
OP, SOURCE, SECOND, TARGET = range(4)
# pixels of the value, pixels of a filter's input, and the filter
HEIGHT, WIDTH, HEIGHT_IN, WIDTH_IN, SIZE, STRIDE, ABOVE, LEFT, CIRCULAR, TRAINED = range(4, 14)
# whether K may be negative in front; the product of the strides since the level's inputs; where an
# image's numbers start: half variances in front of a filter, their sums along rows, half variances
# behind it, numbers of a cell layer or a pool
SIGNED, STEP, HALF, SIDE, HALF_OUT, NUMBERS = range(14, 20)
# numbers of a cell layer for each pixel; edge of a pool's windows; where an array starts in the
# memory between levels, in cells
EACH, POOL, ARRAY = 20, 21, 22
OP_FIELDS = 23
# columns of the table of constants
FACTOR, FACTOR_2 = range(2)
CONSTANTS = 4
# values of OP
PIXELS, LOAD, STORE, END, LINEAR, ADD, RELU, NORM, EXPONENTIAL = range(9)
# cell layers that read K and both variances in true units
ERF, GELU, WAVE, EXP, GAUSSIAN = range(9, 14)
# columns of the table of levels
OPS, OPS_END, ROWS, ROWS_END, COLUMNS, COLUMNS_END, MASKS = range(7)
LEVEL_FIELDS = 7

# With a float32 state K may be below 0 by at most this share of the variance, as behind a LeakyRelu
# of small slope. Entries then lose no more digits than behind a ReLU, where K may be as near to 0.
_SLIGHTLY = 0.025
# Largest exponent of a unit: exp(±300) and what is divided by it are within float64.
_FAR = 300.0
_RELUS = Relu | LeakyRelu | ABRelu


@dataclass(frozen=True)
class Node:
    """The pixels, the output of a layer, or the sum of two nodes.

    Attributes:
        layer: The layer; None for pixels and sums.
        inputs: Indices of the nodes that it reads; none for pixels.
    """

    layer: Layer | None
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Graph:
    """A network as values on pixels, a mean over positions, and layers on vectors.

    Attributes:
        nodes: In an order in which inputs come first; the last one is in front of ``windows``.
        windows: Pools at the end of the pixels.
        pooled: Mean over all pairs of positions (GlobalAvgPool), else over aligned ones.
        tail: Layers behind the mean.
        spatial: False for a fully connected network, which reads images as vectors.
    """

    nodes: tuple[Node, ...]
    windows: tuple[AvgPool, ...]
    pooled: bool
    tail: tuple[Layer, ...]
    spatial: bool

    @property
    def mixes_positions(self) -> bool:
        """Whether the mean at the end takes in pairs of different positions."""
        return self.pooled or bool(self.windows)

    @property
    def has_nonlinear_head(self) -> bool:
        """Whether a layer other than Dense stands behind the mean."""
        return any(not isinstance(layer, Dense) for layer in self.tail)

    @property
    def homogeneous(self) -> bool:
        """Whether scaling an image scales its kernels in front of the mean."""
        return all(
            isinstance(node.layer, _RELUS | ExpNormalized | AvgPool | None)
            or (isinstance(node.layer, Conv | Dense) and not node.layer.b_std)
            for node in self.nodes
        )


class NotCoveredError(Exception):
    """The reason why a graph cannot compute a network."""


def graph_of(arch: Architecture) -> Graph | str:
    """Return ``arch`` as a graph, or the reason why it is none."""
    layers = list(arch.layers)
    if not arch.is_spatial:
        layers = [Flatten(), *(layer for layer in layers if not isinstance(layer, Flatten))]
    end = next(i for i, x in enumerate(layers) if isinstance(x, (Flatten, GlobalAvgPool)))
    pooled, tail = isinstance(layers[end], GlobalAvgPool), tuple(layers[end + 1 :])
    on_pixels = layers[:end]
    if not arch.is_spatial:  # on a vector all layers act cell by cell
        last = max((i for i, x in enumerate(tail) if not isinstance(x, Dense)), default=-1)
        on_pixels, tail = list(tail[: last + 1]), tail[last + 1 :]
    first = len(on_pixels)
    while first and isinstance(on_pixels[first - 1], AvgPool | Identity):
        first -= 1
    windows = tuple(x for x in on_pixels[first:] if isinstance(x, AvgPool))
    nodes = [Node(None)]
    try:
        _append(nodes, on_pixels[:first], 0)
    except NotCoveredError as reason:
        return str(reason)
    tail = tuple(layer for layer in tail if not isinstance(layer, Identity))
    return Graph(tuple(nodes), windows, pooled, tail, arch.is_spatial)


def _append(nodes: list[Node], layers: Iterable[Layer], at: int) -> int:
    """Append the nodes of layers that read node ``at``; return the index of their output."""
    for layer in layers:
        match layer:
            case Identity():
                continue
            case Residual():
                ends = [_append(nodes, inner, at) for inner in (layer.branch, layer.shortcut)]
                nodes.append(Node(None, (ends[0], ends[1])))
            case AvgPool() if layer.padding != "VALID":
                raise NotCoveredError(
                    f"{layer!r} in front of other layers on pixels or in a Residual: only Flatten, "
                    "GlobalAvgPool and pools can follow padded windows"
                )
            case _:
                nodes.append(Node(layer, (at,)))
        at = len(nodes) - 1
    return at


@dataclass(frozen=True)
class Array:
    """A node that is kept in memory between levels, at all displacements.

    Attributes:
        node: The node: a pool, or one that a later level reads.
        source: The node whose cells are added up: the pool's input, or ``node`` itself.
        pool: Edge of the windows; 1 for none.
        stride: Step between windows.
        level: The level of ``source``.
        start: Where it starts in the memory, in cells.
    """

    node: int
    source: int
    pool: int
    stride: int
    level: int
    start: int


@dataclass(frozen=True)
class Levels:
    """The tables of the levels for some of the displacements.

    Attributes:
        table: (levels, ``LEVEL_FIELDS``) int64.
        displacements: Those of rows, then those of columns, of a level's inputs; one level after
            the other.
        masks: For each level one array (operations, rows), then one (operations, columns), all
            flat: whether an operation runs at a displacement of rows, and of columns. It runs
            where both are true.
    """

    table: np.ndarray
    displacements: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class GraphPlan:
    """The program of a graph on images of one shape.

    Attributes:
        graph: The network.
        shape: (H, W, C) of the images.
        dtype: Of the arithmetic.
        sizes: For each node (H, W).
        units: For each node, the unit of its Δ and Θ.
        ops: (operations, ``OP_FIELDS``) int64, level by level.
        constants: (operations, ``CONSTANTS``) of the dtype.
        op_levels: (levels, 2) first operation of each level, and one behind its last.
        arrays: Values kept between levels.
        halves: Where the half variances of a node start among an image's numbers, by node.
        sides: Where a filter's sums of half variances along rows start, by node.
        cells: Where the numbers of a cell layer start, by node.
        centers: Where half the sums of Δ(x, x) over a pool's own windows start, by node.
        numbers: Numbers of an image.
        planes: For each group of them where it starts, its rows and columns of pixels, and how
            many numbers a pixel has.
        buffers: Values in cache at a time.
        buffer_cells: Cells of the largest value.
        ring_cells: Cells of a filter's rows of sums, at most.
        memory_cells: Cells of all arrays.
        cyclic: Whether displacements d and d − P are one.
        row_weights, column_weights: Weights of pairs of rows, and of columns, in the mean at the
            end (``windows.mean_weights``), divided by the largest.
        pixel_weights: (H, W) float64, weights of the variances in that mean.
        count: What the sums at the end are divided by.
    """

    graph: Graph
    shape: tuple[int, int, int]
    dtype: str
    sizes: tuple[tuple[int, int], ...]
    units: tuple[float, ...]
    ops: np.ndarray
    constants: np.ndarray
    op_levels: np.ndarray
    arrays: tuple[Array, ...]
    halves: dict[int, int]
    sides: dict[int, int]
    cells: dict[int, int]
    centers: dict[int, int]
    numbers: int
    planes: tuple[tuple[int, int, int, int], ...]
    buffers: int
    buffer_cells: int
    ring_cells: int
    memory_cells: int
    cyclic: bool
    row_weights: np.ndarray
    column_weights: np.ndarray
    pixel_weights: np.ndarray
    count: float

    @property
    def chain(self) -> Graph:
        """The network, under the name that ``chain.Plan`` has for it."""
        return self.graph

    @property
    def unit(self) -> float:
        """The unit at the end."""
        return self.units[-1]

    @property
    def columns(self) -> slice:
        """Which of a row's numbers a column image has: all."""
        return slice(None)

    @cached_property
    def levels(self) -> Levels:
        """The levels for all displacements that the mean at the end needs."""
        return _levels(self, {}, end=True)

    @cached_property
    def mirror(self) -> np.ndarray:
        """(numbers,) as ``chain.Plan.mirror``."""
        order = np.arange(self.numbers)
        for start, H, W, each in self.planes:
            part = slice(start, start + H * W * each)
            order[part] = order[part].reshape(H, W, each)[:, ::-1].ravel()
        return order

    def levels_to_windows(self, array: Array) -> Levels:
        """Return the levels for pairs of equal windows, displacement 0, of one pool."""
        return _levels(self, {array.node: [{0}, {0}]}, end=False)


def not_a_graph(arch: Architecture, shape: tuple[int, int, int]) -> str | None:
    """Return why a graph cannot compute ``arch`` on (H, W, C) images; None where it can."""
    graph = graph_of(arch)
    if isinstance(graph, str):
        return graph
    try:
        graph_plan(graph, shape if graph.spatial else (1, 1, math.prod(shape)), "float64")
    except NotCoveredError as reason:
        return str(reason)
    return None


def not_covered(arch: Architecture, shape: tuple[int, int, int]) -> str | None:
    """Return why neither a chain nor a graph computes ``arch``; None where one does.

    This is what the backends cpu and cuda cover on (H, W, C) images.
    """
    return not_a_graph(arch, shape) if chain_of(arch) is None else None


def graph_state_dtype(graph: Graph, shape: tuple[int, int, int], dtype: str) -> str:
    """Return the dtype of a graph's state on (H, W, C) images, for entries of ``dtype``.

    float64 if K at the end may be more than slightly negative; if a layer other than Relu,
    LeakyRelu, ABRelu and LayerNorm acts on cells; or if the first of these reads patches of up to
    ``FEW_NUMBERS`` numbers. ``chain.state_dtype`` has the reasons.
    """
    H, W, C = shape
    if _signed(graph, _SLIGHTLY)[-1]:
        return "float64"
    reach: list[int] = []  # pixels that a cell reads along an axis; 0 behind a nonlinearity
    strides: list[int] = []
    for node in graph.nodes:
        inner = [reach[i] for i in node.inputs]
        step = max((strides[i] for i in node.inputs), default=1)
        seen = max(inner, default=1) if all(inner) else 0
        match node.layer:
            case Conv() | AvgPool():
                # the pixels that the patch spans, or those that it reads if there are gaps
                seen = min(seen + (node.layer.size - 1) * step, seen * node.layer.size)
                step *= node.layer.stride if isinstance(node.layer, Conv) else node.layer.step
            case None | Dense():
                pass
            case Relu() | LeakyRelu() | ABRelu() | LayerNorm():
                if seen and C * min(seen, H) * min(seen, W) <= FEW_NUMBERS:
                    return "float64"
                seen = 0
            case _:
                return "float64"
        reach.append(seen)
        strides.append(step)
    return dtype


def _signed(graph: Graph, least: float = 0.0) -> list[bool]:
    """Return for each node whether K may be below ``-least`` times the variance."""
    signed: list[bool] = []
    for node in graph.nodes:
        match node.layer:
            case Relu():
                signed.append(False)
            case LeakyRelu() | ABRelu():
                # at correlation −1, where that of the ReLU is 0, K is −linear · A
                linear, _ = relu_mix(node.layer)
                signed.append(linear > least * relu_gain(node.layer))
            case None | Conv() | Dense() | AvgPool() | LayerNorm():
                signed.append(any(signed[i] for i in node.inputs) or not node.inputs)
            case _:
                signed.append(True)
    return signed


@lru_cache(maxsize=32)
def graph_plan(graph: Graph, shape: tuple[int, int, int], dtype: str) -> GraphPlan:
    """Lay out a graph on (H, W, C) images.

    Raises:
        NotCoveredError: With the reason, if no program computes it on such images.
    """
    return _Builder(graph, shape, dtype).plan()


@dataclass
class _Builder:
    graph: Graph
    shape: tuple[int, int, int]
    dtype: str
    ops: list[list[int]] = field(default_factory=list)
    constants: list[list[float]] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    halves: dict[int, int] = field(default_factory=dict)
    sides: dict[int, int] = field(default_factory=dict)
    cells: dict[int, int] = field(default_factory=dict)
    centers: dict[int, int] = field(default_factory=dict)
    planes: list[tuple[int, int, int, int]] = field(default_factory=list)
    numbers: int = 0
    memory: int = 0
    buffers: int = 0
    ring: int = 0

    def plan(self) -> GraphPlan:
        nodes = self.graph.nodes
        H, W, C = self.shape
        self.sizes = [(H, W)]
        for node in nodes[1:]:
            size = self.sizes[node.inputs[0]]
            if node.layer is not None:
                size = output_size([node.layer], *size, f"{H}×{W}")
            self.sizes.append(size)
        self.cyclic = any(isinstance(x.layer, Conv) and _circular(x.layer) for x in nodes)
        if self.cyclic:
            self._check_cyclic()
        self.signed = _signed(self.graph)
        self._set_units()
        self._set_levels()
        self._reserve(H, W, C)
        self._keep_arrays()
        op_levels = []
        for level in range(max(self.levels) + 1):
            first = len(self.ops)
            self._compile(level)
            op_levels.append([first, len(self.ops)])
        weights = [
            mean_weights(edge, self.graph.windows, pooled=self.graph.pooled)
            for edge in self.sizes[-1]
        ]
        return GraphPlan(
            self.graph, self.shape, self.dtype, tuple(self.sizes), tuple(self.units),
            np.array(self.ops, np.int64), np.array(self.constants, self.dtype),
            np.array(op_levels, np.int64), tuple(self.arrays), self.halves, self.sides, self.cells,
            self.centers, self.numbers, tuple(self.planes), self.buffers,
            max(h * w for h, w in self.sizes), self.ring, self.memory, self.cyclic,
            (weights[0] / weights[0].max()).astype(self.dtype),
            (weights[1] / weights[1].max()).astype(self.dtype),
            np.outer(*(x.sum(axis=1) for x in weights)),
            1 / (weights[0].max() * weights[1].max()),
        )  # fmt: skip

    def _check_cyclic(self) -> None:
        for node, (H, W) in zip(self.graph.nodes, self.sizes, strict=True):
            if not isinstance(node.layer, Conv):
                continue
            conv, (H_in, W_in) = node.layer, self.sizes[node.inputs[0]]
            if (H * conv.stride, W * conv.stride) != (H_in, W_in):
                raise NotCoveredError(
                    f"{conv!r} leaves {H}×{W} of {H_in}×{W_in} pixels in a network with CIRCULAR "
                    "padding, where sizes must be multiples of the strides and nothing VALID may "
                    "cut the image"
                )

    def _set_units(self) -> None:
        """Choose the unit of each value near its variance for images of variance 1.

        A variance may overflow here although none does on the images at hand, which ``ranges``
        checks: warnings are silenced.
        """
        variances, self.units = [1.0], [1.0]
        for node in self.graph.nodes[1:]:
            of_inputs = [variances[i] for i in node.inputs]
            unit = self.units[node.inputs[0]]
            match node.layer:
                case None:
                    variance = sum(of_inputs)
                    unit = _power(variance)
                case Conv() | Dense():
                    variance = node.layer.W_std**2 * of_inputs[0] + node.layer.b_std**2
                    unit = _power(variance)
                case AvgPool():
                    variance, unit = of_inputs[0], unit / node.layer.size**4
                case _:
                    assert isinstance(node.layer, CellLayer)
                    full = np.full(1, of_inputs[0])
                    with np.errstate(all="ignore"):
                        variance = float(dual(node.layer, full, full, full)[0][0])
                    match node.layer:
                        case Relu() | LeakyRelu() | ABRelu():
                            unit *= _power(relu_gain(node.layer))
                        case ExpNormalized():
                            most = node.layer.gamma * (1 + node.layer.shift)
                            unit *= float(np.exp(np.clip(most, -_FAR, _FAR)))
                        case LayerNorm():
                            unit = _power(variance)
                        case _:
                            unit = 1.0
            variances.append(variance)
            self.units.append(unit)

    def _set_levels(self) -> None:
        """Find each node's level, and the product of the strides since the level's inputs."""
        self.levels, self.strides = [0], [1]
        for node in self.graph.nodes[1:]:
            level = max(self.levels[i] for i in node.inputs)
            if isinstance(node.layer, AvgPool):
                level, step = level + 1, 1
            else:
                # a value of an earlier level is read from memory, as an input of this level
                steps = {self.strides[i] if self.levels[i] == level else 1 for i in node.inputs}
                if len(steps) > 1:
                    least, most = sorted(steps)
                    raise NotCoveredError(
                        f"a Residual adds branches whose strides since the last pool are {least} "
                        f"and {most}"
                    )
                step = steps.pop() * (node.layer.stride if isinstance(node.layer, Conv) else 1)
            self.levels.append(level)
            self.strides.append(step)

    def _keep_arrays(self) -> None:
        kept: set[int] = set()
        for at, node in enumerate(self.graph.nodes):
            pool = node.layer if isinstance(node.layer, AvgPool) else None
            for source in node.inputs:
                if pool is not None:
                    self._array(at, source, pool)
                    kept.add(at)
                elif self.levels[source] < self.levels[at] and source not in kept:
                    self._array(source, source, AvgPool(1))
                    kept.add(source)

    def _array(self, node: int, source: int, pool: AvgPool) -> None:
        array = Array(node, source, pool.size, pool.step, self.levels[source], self.memory)
        H, W = self.sizes[node]
        self.memory += (H * W) ** 2
        self.arrays.append(array)
        if pool.size > 1:
            self.centers[node] = self._reserve(H, W)

    def _reserve(self, H: int, W: int, each: int = 1) -> int:
        """Reserve ``each`` numbers for each of H × W pixels; return where they start."""
        start = self.numbers
        self.planes.append((start, H, W, each))
        self.numbers += H * W * each
        return start

    def _half(self, node: int) -> int:
        if node not in self.halves:
            self.halves[node] = self._reserve(*self.sizes[node])
        return self.halves[node]

    def _compile(self, level: int) -> None:
        """Append the operations of a level."""
        nodes = self.graph.nodes
        here = [at for at in range(len(nodes)) if self.levels[at] == level]
        # how often each value is still read in this level
        reads: dict[int, int] = {}
        for at in here:
            if not isinstance(nodes[at].layer, AvgPool):
                for source in nodes[at].inputs:
                    reads[source] = reads.get(source, 0) + 1
        stores = [array for array in self.arrays if array.level == level]
        for array in stores:
            reads[array.source] = reads.get(array.source, 0) + 1
        last = len(nodes) - 1
        if self.levels[last] == level:
            reads[last] = reads.get(last, 0) + 1
        buffer_of: dict[int, int] = {}
        free: list[int] = []

        def take() -> int:
            if not free:
                free.append(self.buffers)
                self.buffers += 1
            return free.pop()

        def read(at: int) -> int:
            """Return the buffer of a value, and count this reading of it."""
            if at not in buffer_of:
                array = next(x for x in self.arrays if x.node == at)
                buffer_of[at] = take()
                self._op(LOAD, at, TARGET, buffer_of[at], array=array)
            reads[at] -= 1
            return buffer_of[at]

        def done(at: int) -> None:
            if reads[at] == 0 and at in buffer_of:
                free.append(buffer_of.pop(at))

        free += range(self.buffers)
        for at in here:
            node = nodes[at]
            if not node.inputs:  # pixels
                buffer_of[at] = take()
                self._op(PIXELS, at, TARGET, buffer_of[at])
            elif isinstance(node.layer, AvgPool):
                continue  # is read from memory where it is needed
            elif node.layer is None:
                first, second = node.inputs
                sources = [read(first), read(second)]
                done(first)
                done(second)
                buffer_of[at] = take()
                self._op(
                    ADD, at, SOURCE, sources[0], SECOND, sources[1], TARGET, buffer_of[at],
                    constants=[self.units[i] / self.units[at] for i in node.inputs],
                )  # fmt: skip
            elif isinstance(node.layer, Conv | Dense):
                source = read(node.inputs[0])
                buffer_of[at] = take()  # before ``done``: a filter cannot write over its input
                self._linear(at, node.layer, source, buffer_of[at])
                done(node.inputs[0])
            else:
                assert isinstance(node.layer, CellLayer)
                source = read(node.inputs[0])
                done(node.inputs[0])
                buffer_of[at] = take()
                self._cell(at, node.layer, source, buffer_of[at])
            for array in stores:
                if array.source == at:
                    self._op(STORE, at, SOURCE, read(at), array=array)
            if at == last:
                self._op(END, at, SOURCE, read(at))
            done(at)
        for array in stores:  # of a pool that reads a pool
            if isinstance(nodes[array.source].layer, AvgPool):
                self._op(STORE, array.source, SOURCE, read(array.source), array=array)
                done(array.source)

    def _op(
        self, op: int, at: int, *fields: int, constants: Sequence[float] = (),
        array: Array | None = None,
    ) -> None:  # fmt: skip
        row = [0] * OP_FIELDS
        row[OP], row[STEP] = op, self.strides[at]
        if array is not None:
            row[ARRAY], row[POOL], row[STRIDE] = array.start, array.pool, array.stride
            if op == LOAD:
                row[STEP] = 1
                row[NUMBERS] = self.centers.get(at, -1)
        row[HEIGHT], row[WIDTH] = self.sizes[at]
        for column, value in zip(fields[::2], fields[1::2], strict=True):
            row[column] = value
        self.ops.append(row)
        self.constants.append([*constants, *[0.0] * (CONSTANTS - len(constants))])

    def _linear(self, at: int, layer: Conv | Dense, source: int, target: int) -> None:
        (inner,) = self.graph.nodes[at].inputs
        conv = layer if isinstance(layer, Conv) else Conv(1)
        (H_in, W_in), (_, W) = self.sizes[inner], self.sizes[at]
        starts = [
            0 if conv.padding == "VALID" else padding_before(edge, conv.size, conv.stride)
            for edge in (H_in, W_in)
        ]
        self.sides[at] = self._reserve(H_in, W)
        self.ring = max(self.ring, conv.size * W)
        scale = layer.W_std**2 / conv.size**2
        self._op(
            LINEAR, at, SOURCE, source, TARGET, target, HEIGHT_IN, H_in, WIDTH_IN, W_in,
            SIZE, conv.size, STRIDE, conv.stride, ABOVE, starts[0], LEFT, starts[1],
            CIRCULAR, int(_circular(conv)), TRAINED, int(layer.trainable),
            HALF, self._half(inner), SIDE, self.sides[at],
            HALF_OUT, self._half(at) if layer.trainable else 0,
            constants=[scale * self.units[inner] / self.units[at]],
        )  # fmt: skip

    def _cell(self, at: int, layer: CellLayer, source: int, target: int) -> None:
        (inner,) = self.graph.nodes[at].inputs
        op, constants = cell_op(layer, self.units[inner])
        each = 4 if op >= ERF else 3
        self.cells[at] = self._reserve(*self.sizes[at], each)
        self._op(
            op, at, SOURCE, source, TARGET, target, NUMBERS, self.cells[at], EACH, each,
            SIGNED, int(self.signed[inner]), constants=constants,
        )  # fmt: skip


def cell_op(layer: CellLayer, unit: float) -> tuple[int, list[float]]:
    """Return the operation of a cell layer that reads values of ``unit``, and its constants.

    For ERF, GELU, WAVE, EXP and GAUSSIAN, which compute in true units, the first one is ``unit``.
    """
    match layer:
        case Relu() | LeakyRelu() | ABRelu():
            linear, bend = relu_mix(layer)
            scale = _power(relu_gain(layer))
            # the loops compute twice Δ and Θ behind a ReLU
            return RELU, [linear / scale, bend / 2 / scale]
        case LayerNorm():
            return NORM, []
        case ExpNormalized():
            return EXPONENTIAL, [layer.gamma]
        case Erf():
            return ERF, [unit]
        case Gelu():
            return GELU, [unit]
        case Sin() | Cos():
            # a cosine is a sine of phase c + π/2
            sign = -1.0 if isinstance(layer, Cos) else 1.0
            return WAVE, [unit, layer.a**2 / 2, layer.b**2, sign * math.cos(2 * layer.c)]
        case Exp():
            return EXP, [unit, layer.a**2, layer.b**2]
        case Gaussian():
            return GAUSSIAN, [unit, layer.a**2, layer.b]
    raise AssertionError(f"{type(layer).__name__} has no operation")


def relu_mix(layer: Relu | LeakyRelu | ABRelu) -> tuple[float, float]:
    """Return the factors of the identity and of the ReLU in the kernels of a ReLU-like layer.

    K and Δ behind the layer, and its factor of Θ, are this mix of those of the two; see
    ``duals.abrelu_dual``.
    """
    match layer:
        case Relu():
            return 0.0, 1.0
        case LeakyRelu():
            return layer.alpha, (1 - layer.alpha) ** 2
        case ABRelu():
            return layer.a * layer.b, (layer.b - layer.a) ** 2


def relu_gain(layer: Relu | LeakyRelu | ABRelu) -> float:
    """Return the factor that a ReLU-like layer multiplies variances by."""
    linear, bend = relu_mix(layer)
    return linear + bend / 2


def _circular(conv: Conv) -> bool:
    return conv.padding == "CIRCULAR" and conv.size > 1


def _power(value: float) -> float:
    """Return the largest power of two up to a value; 1 for 0 and for values beyond float64."""
    return 2.0 ** math.floor(math.log2(value)) if 0 < value < math.inf else 1.0


def _levels(plan: GraphPlan, wanted: dict[int, list[set[int]]], *, end: bool) -> Levels:
    """Find the displacements at which each operation of each level must run.

    ``wanted`` has the displacements of rows and of columns at which arrays are wanted, by the
    arrays' nodes; ``end`` says whether the mean at the end is wanted.
    """
    wanted = {node: [set(axis) for axis in axes] for node, axes in wanted.items()}
    table, lists, masks = [], [], []
    for level in range(len(plan.op_levels) - 1, -1, -1):
        first, past = plan.op_levels[level]
        needed: list[list[set[int]]] = [[set(), set()] for _ in range(first, past)]
        of_buffer: dict[int, list[set[int]]] = {}
        for at in range(past - 1, first - 1, -1):
            op = plan.ops[at]
            need: list[set[int]] = [set(), set()]
            if op[OP] not in (STORE, END):
                need = of_buffer.pop(int(op[TARGET]), need)
            edges = int(op[HEIGHT]), int(op[WIDTH])
            sources = [int(op[SOURCE])]
            if op[OP] == END:
                if end:
                    weights = plan.row_weights, plan.column_weights
                    need = [_weighted(plan, x) for x in weights]
            elif op[OP] == STORE:
                array = next(x for x in plan.arrays if x.start == op[ARRAY])
                windows = wanted.get(array.node, [set(), set()])
                need = [
                    _cells_of(plan, axis, edge, array)
                    for axis, edge in zip(windows, edges, strict=True)
                ]
            elif op[OP] == ADD:
                sources.append(int(op[SECOND]))
            elif op[OP] in (PIXELS, LOAD):
                sources = []
            if op[OP] == LOAD:
                array = next(x for x in plan.arrays if x.start == op[ARRAY])
                kept = wanted.setdefault(array.node, [set(), set()])
                for axis in range(2):
                    kept[axis] |= need[axis]
            needed[at - first] = need
            inner = need
            if op[OP] == LINEAR:
                sizes = int(op[HEIGHT_IN]), int(op[WIDTH_IN])
                inner = [
                    {d * int(op[STRIDE]) % n if plan.cyclic else d * int(op[STRIDE]) for d in axis}
                    for axis, n in zip(need, sizes, strict=True)
                ]
            for source in sources:
                kept = of_buffer.setdefault(source, [set(), set()])
                of_buffer[source] = [a | b for a, b in zip(kept, inner, strict=True)]
        steps = [int(op[STEP]) for op in plan.ops[first:past]]
        axes = []
        for axis in range(2):
            whole = {d * step for n, step in zip(needed, steps, strict=True) for d in n[axis]}
            axes.append(np.array(sorted(whole), np.int64))
        table.append([first, past, len(axes[0]), len(axes[1])])
        lists.append(axes)
        masks.append(
            [
                np.array([[d % s == 0 and d // s in n[axis] for d in axes[axis].tolist()]
                          for n, s in zip(needed, steps, strict=True)], np.int64)
                for axis in range(2)
            ]
        )  # fmt: skip
    rows = np.zeros((len(table), LEVEL_FIELDS), np.int64)
    start = start_mask = 0
    for level, (first, past, n_rows, n_columns) in enumerate(reversed(table)):
        end_rows, end_columns = start + n_rows, start + n_rows + n_columns
        rows[level] = [first, past, start, end_rows, end_rows, end_columns, start_mask]
        start = end_columns
        start_mask += (past - first) * (n_rows + n_columns)
    displacements = [axis for axes in reversed(lists) for axis in axes]
    flat = [mask.ravel() for of_level in reversed(masks) for mask in of_level]
    return Levels(rows, np.concatenate(displacements), np.concatenate(flat))


def _weighted(plan: GraphPlan, weights: np.ndarray) -> set[int]:
    """Return the displacements along an axis whose weight in the mean at the end is not 0."""
    n = len(weights)
    i, other = np.nonzero(weights)
    far = np.unique(other - i).tolist()
    return {d % n if plan.cyclic else d for d in far}


def _cells_of(plan: GraphPlan, windows: set[int], edge: int, array: Array) -> set[int]:
    """Return the displacements of the cells that are added up for displacements of windows."""
    count = (edge - array.pool) // array.stride + 1
    cells: set[int] = set()
    for d in windows:
        for far in {d, d - count} if plan.cyclic else {d}:
            first = far * array.stride
            cells |= set(range(first - array.pool + 1, first + array.pool))
    near = {d for d in cells if abs(d) < edge}
    return {d % edge for d in near} if plan.cyclic else near
