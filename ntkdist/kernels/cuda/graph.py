"""The GPU kernels for graphs, and the device memory between the levels of their programs.

``level_kernel`` runs a level. A block of threads computes some of the displacements of a pair of
images, one after the other, and each thread some of their cells. The values of a displacement are
in device memory, small enough to stay in the caches. In a fully connected network a value is a
single cell, and each thread computes a pair by itself.

``windows_kernel`` computes a pool. All cells in front of the pool are stored first; then each
thread adds up the cells of a pair of windows, always in the same order.

Beyond the border of one image the other may still have a pixel. K and Θ are 0 there, but Δ is half
the variance of that pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import Any

import numpy as np

from ntkdist.kernels.cuda.cells import distance, dual_function, graph_cell_function
from ntkdist.kernels.cuda.intrinsics import (
    LANES,
    SIMPLE,
    TEAMS,
    advance,
    block_barrier,
    cuda,
    device,
    each,
    fetch,
    kernel,
    multiprocessors,
    over_lanes,
    peek,
    pointer,
    put,
)
from ntkdist.kernels.cuda.runner import Workspace, pairs_that_fit, to_device
from ntkdist.kernels.cuda.unroll import written_out
from ntkdist.kernels.graph import (
    ABOVE,
    ADD,
    ARRAY,
    CIRCULAR,
    COLUMNS,
    COLUMNS_END,
    CONSTANTS,
    END,
    FACTOR,
    FACTOR_2,
    HALF,
    HALF_OUT,
    HEIGHT,
    HEIGHT_IN,
    LEFT,
    LINEAR,
    LOAD,
    MASKS,
    NUMBERS,
    OP,
    OP_FIELDS,
    OPS,
    OPS_END,
    PIXELS,
    POOL,
    RELU,
    ROWS,
    ROWS_END,
    SECOND,
    SIDE,
    SIGNED,
    SIZE,
    SOURCE,
    STEP,
    STORE,
    STRIDE,
    TARGET,
    TRAINED,
    WIDTH,
    WIDTH_IN,
    Array,
    Graph,
    GraphPlan,
    Levels,
    graph_plan,
)
from ntkdist.kernels.preparation import GraphPreparation

# one more column of the table of operations: equal for operations whose cells are dealt to the
# threads in the same way
GEOMETRY = OP_FIELDS
FIELDS = OP_FIELDS + 1
# columns of the table of pools: where a pool's cells start (−1: no pool), where the slots of its
# row and column displacements start, and how many slots the columns have
CELLS, ROW_SLOTS, COLUMN_SLOTS, SLOTS = range(4)

# A pair's displacements are dealt to at most _CHUNKS blocks of threads, which fill a GPU, and to so
# few that each has _STEPS of them or more, because a block has costs of its own.
_STEPS, _CHUNKS = 8, 32
_CELLS_OF_THREAD = 2  # at least, of the largest value


@dataclass(frozen=True)
class Stage:
    """A level as the kernels run it.

    Attributes:
        first: First operation.
        past: One behind the last.
        displacements: Those of rows, then those of columns, int64.
        rows: How many of them are of rows.
        masks: Whether each operation runs at each of them, as in ``graph.Levels``.
        pools: (operations, 4) int64, with the columns ``CELLS`` to ``SLOTS``.
        slots: For each pool and displacement of rows, then of columns, the slot of its cells; −1
            where they are not needed.
        cells: Cells that are stored for all pools.
        chunks: To how many blocks of threads the displacements of a pair are dealt.
    """

    first: int
    past: int
    displacements: np.ndarray
    rows: int
    masks: np.ndarray
    pools: np.ndarray
    slots: np.ndarray
    cells: int
    chunks: int

    @property
    def columns(self) -> int:
        """How many displacements are of columns."""
        return len(self.displacements) - self.rows


def stages_of(plan: GraphPlan, levels: Levels) -> tuple[Stage, ...]:
    """Return ``levels`` of a plan as the kernels run them."""
    stages = []
    for level in levels.table:
        first, past = int(level[OPS]), int(level[OPS_END])
        rows, columns = level[ROWS_END] - level[ROWS], level[COLUMNS_END] - level[COLUMNS]
        masks = levels.masks[level[MASKS] :][: (past - first) * (rows + columns)]
        displacements = levels.displacements[level[ROWS] : level[COLUMNS_END]]
        axes = displacements[:rows], displacements[rows:]
        of_axes = np.split(masks, [(past - first) * rows])
        pools = np.full((past - first, 4), -1, np.int64)
        slots: list[np.ndarray] = []
        cells = taken = 0
        for k, op in enumerate(plan.ops[first:past]):
            if op[OP] != STORE or (op[POOL] == 1 and op[STRIDE] == 1):
                continue
            counts = []
            pools[k, CELLS] = cells
            for axis, edge, mask, column in zip(
                axes, op[[HEIGHT, WIDTH]], of_axes, (ROW_SLOTS, COLUMN_SLOTS), strict=True
            ):
                here = axis[mask.reshape(past - first, len(axis))[k] != 0] // op[STEP]
                near = np.unique(here % edge)
                slot = np.full(edge, -1, np.int64)
                slot[near] = np.arange(len(near))
                slots.append(slot)
                pools[k, column] = taken
                taken += edge
                counts.append(len(near))
            pools[k, SLOTS] = counts[1]
            cells += int(counts[0] * counts[1] * op[HEIGHT] * op[WIDTH])
        chunks = max(1, min(_CHUNKS, int(rows * columns) // _STEPS))
        slots.append(np.zeros(1, np.int64))  # an array on the device must not be empty
        stages.append(
            Stage(
                first,
                past,
                displacements,
                int(rows),
                masks,
                pools,
                np.concatenate(slots),
                cells,
                chunks,
            )
        )
    return tuple(stages)


@dataclass(frozen=True)
class GraphLayout:
    """A graph's program as the kernels read it.

    Attributes:
        plan: Units, operations and numbers, shared with the cpu backend.
        stages: The levels that compute entries.
    """

    plan: GraphPlan
    stages: tuple[Stage, ...]

    @property
    def size(self) -> int:
        """Numbers of an image."""
        return self.plan.numbers

    def scales(self) -> tuple[float, ...]:
        """Return the factor that turns the sums at the end into means."""
        return (self.plan.unit / self.plan.count,)

    @property
    def alone(self) -> bool:
        """Whether each thread computes a pair by itself."""
        return not self.plan.graph.spatial

    @property
    def warps(self) -> int:
        """Warps of a block of threads; 1 where each thread is alone."""
        if self.alone:
            return 1
        return max(1, min(TEAMS, self.plan.buffer_cells // (_CELLS_OF_THREAD * LANES)))

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return SIMPLE if self.alone else self.warps * LANES

    @cached_property
    def order(self) -> np.ndarray:
        """(numbers,) which number of the plan is where on the device, in planes of pixels."""
        order = np.arange(self.size)
        for start, H, W, many in self.plan.planes:
            part = slice(start, start + H * W * many)
            order[part] = order[part].reshape(H * W, many).T.ravel()
        return order

    @cached_property
    def mirror(self) -> np.ndarray:
        """(numbers,) as ``GraphPlan.mirror``, for the order on the device."""
        there = np.empty(self.size, np.int64)
        there[self.order] = np.arange(self.size)
        return there[self.plan.mirror[self.order]]

    @cached_property
    def table(self) -> np.ndarray:
        """(operations, ``FIELDS``) int64."""
        shapes = self.plan.ops[:, [HEIGHT, WIDTH, STEP]]
        _, geometry = np.unique(shapes, axis=0, return_inverse=True)
        return np.column_stack([self.plan.ops, geometry.ravel()])

    @cached_property
    def function(self) -> Any:
        """The kernel of all levels."""
        kinds = frozenset(int(kind) for kind in self.plan.ops[:, OP] if kind >= RELU)
        return level_kernel(self.plan.dtype, kinds, self.alone)


@lru_cache(maxsize=32)
def graph_layout(graph: Graph, shape: tuple[int, int, int], dtype: str) -> GraphLayout:
    """Lay out the program of a graph on (H, W, C) images."""
    plan = graph_plan(graph, shape, dtype)
    return GraphLayout(plan, stages_of(plan, plan.levels))


class GraphRunner:
    """Runs programs on pairs of images, in batches that fit the free memory.

    Attributes:
        dtype: Of the numbers of an image.
        workspace: The memory between levels.
    """

    def __init__(self, dtype: str, workspace: Workspace) -> None:
        self.dtype = dtype
        self.workspace = workspace

    def batch_size(self, layout: GraphLayout, stages: tuple[Stage, ...]) -> int:
        """Return how many pairs fit the memory that is free now.

        Raises:
            InputError: If not even one pair fits.
        """
        kept = layout.plan.memory_cells + max(stage.cells for stage in stages)
        sums = 16 * max(stage.chunks for stage in stages) * layout.warps
        return pairs_that_fit(2 * np.dtype(self.dtype).itemsize * kept + sums, self.workspace)

    def run(
        self,
        layout: GraphLayout,
        A: Any,
        B: Any,
        pairs: Any,
        stages: tuple[Stage, ...],
        distances: Any = None,
    ) -> tuple[Any, Any]:
        """Run some first levels on pairs (n, 2) of images.

        Args:
            layout: The program.
            A: (n_a, numbers) of the row images.
            B: (n_b, numbers) of the column images.
            pairs: (n, 2) int64.
            stages: These levels.
            distances: (n_a, n_b, 2) float64, first Δ of the pixels; for fully connected networks.

        Returns:
            The sums at the end, (n, parts, 1, 2) float64, which are set if all levels are run, and
            the memory between levels, (n, 2, cells). The next run overwrites both.
        """
        plan, work, n = layout.plan, self.workspace, pairs.shape[0]
        memory = work.array("memory", (n, 2, max(1, plan.memory_cells)), self.dtype)
        ops, constants = work.table(layout.table), work.table(plan.constants)
        if distances is None:
            distances = work.array("distances", (1, 1, 2), np.float64)
        for stage in stages:
            tasks = n * stage.chunks
            blocks = min(-(-tasks // SIMPLE) if layout.alone else tasks, 8 * multiprocessors())
            teams = blocks * (SIMPLE if layout.alone else 1)
            shape = (teams, plan.buffers + 1, 2, plan.buffer_cells)
            scratch = work.array("scratch", shape, self.dtype)
            cells = work.array("cells", (n, 2, max(1, stage.cells)), self.dtype)
            totals = work.array("sums", (n, stage.chunks * layout.warps, 1, 2), np.float64)
            slots = work.table(stage.slots)
            layout.function[blocks, layout.threads](
                pairs, tasks, stage.chunks, A, B, layout.size, distances, ops, constants,
                stage.first, stage.past, work.table(stage.displacements), stage.rows,
                stage.columns, work.table(stage.masks), plan.cyclic, plan.shape[2],
                work.table(plan.row_weights), work.table(plan.column_weights), memory,
                plan.memory_cells, cells, stage.cells, work.table(stage.pools), slots, scratch,
                plan.buffers, plan.buffer_cells, totals,
            )  # fmt: skip
            for op, pool in zip(plan.ops[stage.first : stage.past], stage.pools, strict=True):
                if pool[CELLS] < 0:
                    continue
                H, W, size, stride = (int(op[k]) for k in (HEIGHT, WIDTH, POOL, STRIDE))
                h, w = (H - size) // stride + 1, (W - size) // stride + 1
                each(windows_kernel(self.dtype), n * (h * w) ** 2)(
                    cells, stage.cells, *(int(x) for x in pool), slots, n * (h * w) ** 2,
                    size, stride, H, W, h, w, memory, plan.memory_cells, int(op[ARRAY]),
                )  # fmt: skip
        return totals, memory


class CudaGraphPreparation(GraphPreparation):
    """Fills a graph plan's numbers with the kernels of this module.

    Args:
        graph: The network.
        x: (n, H, W, C) float64.
        dtype: Of the entries.
        runners: By dtype.
    """

    def __init__(
        self, graph: Graph, x: np.ndarray, dtype: str, runners: dict[str, GraphRunner]
    ) -> None:
        super().__init__(graph, x, dtype)
        self.layout = graph_layout(graph, self.plan.shape, self.plan.dtype)
        self._runner = runners[self.plan.dtype]

    def numbers(self) -> Any:
        """Copy the numbers that are filled so far to the device, (n, numbers)."""
        return to_device(self.rows[:, self.layout.order])

    def halves_behind(self, kind: int, constants: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Compute one number a thread; see ``preparation.GraphPreparation``."""
        count = numbers.shape[1]
        behind = cuda.device_array((count,), numbers.dtype)
        each(halves_kernel(numbers.dtype.name), count)(
            kind, to_device(constants), to_device(numbers), count, behind
        )
        return np.asarray(behind.copy_to_host())

    def own_windows(self, array: Array) -> np.ndarray:
        """Run the levels up to the pool's; see ``preparation.GraphPreparation``."""
        stages = stages_of(self.plan, self.plan.levels_to_windows(array))[: array.level + 1]
        h, w = self.plan.sizes[array.node]
        sums = np.empty((len(self.rows), h * w), self.rows.dtype)
        for part, _, memory in self._with_itself(stages):
            found = cuda.device_array(sums[part].shape, sums.dtype)
            each(copy_kernel(), found.size)(
                memory, found.size, h * w, 2 * self.plan.memory_cells, array.start, found
            )
            sums[part] = found.copy_to_host()
        return sums

    def self_entries(self) -> np.ndarray:
        """Run the program on each image and itself; see ``preparation.GraphPreparation``."""
        means = np.empty(len(self.rows))
        for part, totals, _ in self._with_itself(self.layout.stages):
            # added up in the order of an entry's parts
            means[part] = reduce(np.add, totals.copy_to_host()[:, :, 0, 0].T)
        return means * (self.plan.unit / self.plan.count)

    def _with_itself(self, stages: tuple[Stage, ...]) -> Iterator[tuple[slice, Any, Any]]:
        """Run levels on each image and itself; yield each batch's slice and ``run``'s results."""
        numbers = self.numbers()
        batch = self._runner.batch_size(self.layout, stages)
        for start in range(0, len(self.rows), batch):
            part = slice(start, min(len(self.rows), start + batch))
            pairs = to_device(np.repeat(np.arange(part.start, part.stop)[:, None], 2, axis=1))
            yield part, *self._runner.run(self.layout, numbers, numbers, pairs, stages)


@lru_cache(maxsize=16)
def level_kernel(dtype: str, kinds: frozenset[int], alone: bool) -> Any:
    """Return the kernel that runs levels with cell layers of these kinds.

    Its arguments are those of ``_level``.
    """
    real = np.dtype(dtype).type
    names = {"real": real, "zero": real(0), "cell_layer": graph_cell_function(dtype, kinds)}
    for name, function in (("along_row", _along_row), ("along_column", _along_column)):
        names[name] = device(written_out(function, {}, {"zero": real(0)}))
    return kernel(written_out(_level, {"ALONE": alone}, names))


@lru_cache(maxsize=4)
def windows_kernel(dtype: str) -> Any:
    """Return the kernel that computes a pool; its arguments are those of ``_windows``."""
    return kernel(written_out(_windows, {}, {"zero": np.dtype(dtype).type(0)}))


@lru_cache(maxsize=4)
def halves_kernel(dtype: str) -> Any:
    """Return the kernel of ``GraphPreparation.halves_behind``."""
    real = np.dtype(dtype).type
    names = {"dual": dual_function(dtype), "zero": real(0), "half": real(0.5)}
    return kernel(written_out(_halves, {}, names))


@lru_cache(maxsize=1)
def copy_kernel() -> Any:
    """Return the kernel that copies a pool's windows of displacement 0."""
    return kernel(written_out(_copy, {}, {}))


def _level(
    pairs, tasks, chunks, A, B, size, distances, ops, constants, first, past, displacements, rows,
    columns, masks, cyclic, channels, row_weights, column_weights, memory, memory_cells, cells,
    cell_count, pools, slots, scratch, buffers, area, totals,
):  # fmt: skip
    """Run a level.

    Args:
        pairs: (n, 2) int64, which images make a pair.
        tasks: n · chunks.
        chunks: To how many blocks the displacements of a pair are dealt.
        A: (n_a, size) numbers of the row images.
        B: (n_b, size) numbers of the column images.
        size: Numbers of an image.
        distances: (n_a, n_b, 2) float64, first Δ of the pixels; read only where a thread is alone.
        ops: (operations, FIELDS) int64.
        constants: (operations, CONSTANTS) of the dtype.
        first: First operation of the level.
        past: One behind the last.
        displacements: (rows + columns,) int64.
        rows: How many of them are of rows.
        columns: How many are of columns.
        masks: Whether each operation runs at each of them.
        cyclic: Whether displacements d and d − P are one.
        channels: Channels of a pixel.
        row_weights: Of the plan.
        column_weights: Of the plan.
        memory: (n, 2, memory_cells) of the dtype, Δ and Θ kept between levels.
        memory_cells: Cells of it for a pair.
        cells: (n, 2, cell_count) of the dtype, Δ and Θ to fill for pools.
        cell_count: Cells of it for a pair.
        pools: (past − first, 4) int64, see ``Stage``.
        slots: See ``Stage``.
        scratch: (teams, buffers + 1, 2, area) of the dtype: Δ and Θ of each value, and sums along
            rows.
        buffers: How many values a team has.
        area: Cells of a value, at most.
        totals: (n, chunks · warps, 1, 2) float64 to fill at the end.
    """
    lane, threads, team = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    teams = cuda.gridDim.x
    if ALONE:
        team, teams = team * threads + lane, teams * threads
        lane, threads = 0, 1
    plane = 2 * area
    work = pointer(scratch, team * (buffers + 1) * plane)
    sides = advance(work, buffers * plane)
    for task in range(team, tasks, teams):
        pair = task // chunks
        row_image, column_image = pairs[pair, 0], pairs[pair, 1]
        a, b = pointer(A, row_image * size), pointer(B, column_image * size)
        kept = pointer(memory, pair * 2 * memory_cells)
        found = pointer(cells, pair * 2 * cell_count)
        total_d, total_t = np.float64(0), np.float64(0)
        for at in range(task - pair * chunks, rows * columns, chunks):
            r = at // columns
            c = at - r * columns
            geometry = -1
            for k in range(past - first):
                runs = fetch(pointer(masks, k * rows), r)
                runs *= fetch(pointer(masks, (past - first) * rows + k * columns), c)
                if runs == 0:
                    continue
                op = pointer(ops, (first + k) * FIELDS)
                values = pointer(constants, (first + k) * CONSTANTS)
                kind, H, W = fetch(op, OP), fetch(op, HEIGHT), fetch(op, WIDTH)
                dr = displacements[r] // fetch(op, STEP)
                dc = displacements[rows + c] // fetch(op, STEP)
                # other threads' cells are read, or what they may still read is overwritten
                if not ALONE and (kind == LINEAR or fetch(op, GEOMETRY) != geometry):
                    block_barrier()
                geometry = fetch(op, GEOMETRY)
                i0, i1, j0, j1 = 0, H, 0, W
                if not cyclic:
                    i0, i1, j0, j1 = max(0, -dr), min(H, H - dr), max(0, -dc), min(W, W - dc)
                wide = j1 - j0
                down = threads // wide
                right = threads - down * wide
                source = advance(work, fetch(op, SOURCE) * plane)
                second = advance(work, fetch(op, SECOND) * plane)
                target = advance(work, fetch(op, TARGET) * plane)
                box, numbers = fetch(op, SIZE), fetch(op, NUMBERS)
                array = fetch(op, ARRAY) + (dr % H * W + dc % W) * H * W
                slot = -1
                if kind == STORE and pools[k, CELLS] >= 0:
                    slot = slots[pools[k, ROW_SLOTS] + dr % H] * pools[k, SLOTS]
                    slot = pools[k, CELLS] + H * W * (slot + slots[pools[k, COLUMN_SLOTS] + dc % W])
                if kind == LINEAR and box > 1:
                    height, step = fetch(op, HEIGHT_IN), fetch(op, STRIDE)
                    near = dr * step
                    i0_in, i1_in = 0, height
                    if not cyclic:
                        i0_in, i1_in = max(0, -near), min(height, height - near)
                    i = i0_in + lane // wide
                    j = j0 + lane % wide
                    while i < i1_in:
                        i2 = i + near - (height if i + near >= height else 0)
                        j2 = j + dc - (W if j + dc >= W else 0)
                        d, t = along_row(op, a, b, i, i2, j, j2, source, area)
                        put(sides, i * W + j, d)
                        put(sides, area + i * W + j, t)
                        i, j = i + down, j + right
                        if j >= j1:
                            i, j = i + 1, j - wide
                    block_barrier()
                part_d, part_t = zero, zero
                i = i0 + lane // wide
                j = j0 + lane % wide
                while i < i1:
                    i2 = i + dr - (H if i + dr >= H else 0)
                    j2 = j + dc - (W if j + dc >= W else 0)
                    here, there = i * W + j, i2 * W + j2
                    d, t = zero, zero
                    if kind == PIXELS:
                        if ALONE:
                            n = row_image * distances.shape[1] + column_image
                            d = real(fetch(pointer(distances, 0), 2 * n))
                        else:
                            d = distance(advance(a, here), advance(b, there), 0, H * W, channels)
                    elif kind == LOAD:
                        d = fetch(kept, array + here)
                        t = fetch(kept, memory_cells + array + here)
                        if numbers >= 0:
                            d = (d - fetch(a, numbers + here)) - fetch(b, numbers + there)
                    elif kind == LINEAR:
                        if box > 1:
                            d, t = along_column(op, a, b, i, i2, j, j2, sides, area)
                        else:
                            step = fetch(op, STRIDE)
                            from_ = i * step * fetch(op, WIDTH_IN) + j * step
                            d, t = peek(source, from_), peek(source, area + from_)
                        d, t = d * fetch(values, FACTOR), t * fetch(values, FACTOR)
                        if fetch(op, TRAINED) != 0:
                            x = fetch(a, fetch(op, HALF_OUT) + here)
                            y = fetch(b, fetch(op, HALF_OUT) + there)
                            # exactly 0 where a variance is 0: a LayerNorm would enlarge rounding
                            # errors
                            if x > zero and y > zero:
                                t += (x + y) - d
                    else:
                        d, t = peek(source, here), peek(source, area + here)
                        if kind == ADD:
                            x, y = fetch(values, FACTOR), fetch(values, FACTOR_2)
                            d = x * d + y * peek(second, here)
                            t = x * t + y * peek(second, area + here)
                        elif kind >= RELU:
                            d, t = cell_layer(
                                kind, fetch(op, SIGNED), values, d, t, advance(a, numbers + here),
                                advance(b, numbers + there), H * W,
                            )  # fmt: skip
                    if kind == END:
                        weight = fetch(pointer(row_weights, 0), i * H + i2)
                        weight *= fetch(pointer(column_weights, 0), j * W + j2)
                        part_d += weight * d
                        part_t += weight * t
                    elif kind == STORE:
                        if slot >= 0:
                            put(found, slot + here, d)
                            put(found, cell_count + slot + here, t)
                        else:
                            put(kept, array + here, d)
                            put(kept, memory_cells + array + here, t)
                    else:
                        put(target, here, d)
                        put(target, area + here, t)
                    i, j = i + down, j + right
                    if j >= j1:
                        i, j = i + 1, j - wide
                total_d += np.float64(part_d)
                total_t += np.float64(part_t)
                if not ALONE and kind == LINEAR and box == 1:
                    # with a stride a thread has read another one's cells
                    block_barrier()
        if ALONE:
            put(pointer(totals, 0), 2 * task, total_d)
            put(pointer(totals, 0), 2 * task + 1, total_t)
        else:
            total_d, total_t = over_lanes(total_d), over_lanes(total_t)
            if lane % LANES == 0:
                to = (task * threads + lane) // LANES
                put(pointer(totals, 0), 2 * to, total_d)
                put(pointer(totals, 0), 2 * to + 1, total_t)


def _along_row(op, a, b, i, i2, j, j2, source, area):
    """Return a filter's sums of Δ and Θ along row ``i`` of its input, for output column ``j``.

    ``i2`` and ``j2`` are the row and column of the column image.
    """
    W, stride, size = fetch(op, WIDTH_IN), fetch(op, STRIDE), fetch(op, SIZE)
    start, far = j * stride - fetch(op, LEFT), (j2 - j) * stride
    d, t = zero, zero
    for x in range(start, start + size):
        if fetch(op, CIRCULAR) != 0:
            d += peek(source, i * W + x % W)
            t += peek(source, area + i * W + x % W)
        else:
            mine, other = 0 <= x < W, 0 <= x + far < W
            if mine and other:
                d += peek(source, i * W + x)
                t += peek(source, area + i * W + x)
            elif mine:
                d += fetch(a, fetch(op, HALF) + i * W + x)
            elif other:
                d += fetch(b, fetch(op, HALF) + i2 * W + x + far)
    return d, t


def _along_column(op, a, b, i, i2, j, j2, sides, area):
    """Return a filter's sums of ``_along_row`` over rows, for output row ``i``, column ``j``."""
    H, W, stride = fetch(op, HEIGHT_IN), fetch(op, WIDTH), fetch(op, STRIDE)
    start, far = i * stride - fetch(op, ABOVE), (i2 - i) * stride
    d, t = zero, zero
    for x in range(start, start + fetch(op, SIZE)):
        if fetch(op, CIRCULAR) != 0:
            d += peek(sides, x % H * W + j)
            t += peek(sides, area + x % H * W + j)
        else:
            mine, other = 0 <= x < H, 0 <= x + far < H
            if mine and other:
                d += peek(sides, x * W + j)
                t += peek(sides, area + x * W + j)
            elif mine:
                d += fetch(a, fetch(op, SIDE) + x * W + j)
            elif other:
                d += fetch(b, fetch(op, SIDE) + (x + far) * W + j2)
    return d, t


def _windows(
    cells, cell_count, start, row_slots, column_slots, columns, slots, total, size, stride, H, W,
    h, w, memory, memory_cells, array,
):  # fmt: skip
    """Add up the cells of every pair of windows of a pool, one in each of n·(h·w)² threads.

    Args:
        cells: (n, 2, cell_count) of the dtype, filled by ``_level``.
        cell_count: Cells of it for a pair.
        start: Where the pool's cells start.
        row_slots: Where its slots of rows start.
        column_slots: Where its slots of columns start.
        columns: How many slots the columns have.
        slots: See ``Stage``.
        total: Pairs of windows, n·(h·w)².
        size: Edge of a window.
        stride: Step between windows.
        H: Rows of the pool's input.
        W: Columns of the pool's input.
        h: Rows of windows.
        w: Columns of windows.
        memory: (n, 2, memory_cells) to fill.
        memory_cells: Cells of it for a pair.
        array: Where the pool's array starts.
    """
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if index >= total:
        return
    area = h * w
    pair = index // (area * area)
    cls = index // area - pair * area
    cell = index - (pair * area + cls) * area
    I = cell // w
    J = cell - I * w
    I2, J2 = (I + cls // w) % h, (J + cls % w) % w
    source = pointer(cells, pair * 2 * cell_count)
    d, t = zero, zero
    for i in range(I * stride, I * stride + size):
        for i2 in range(I2 * stride, I2 * stride + size):
            row = slots[row_slots + i2 - i + (H if i2 < i else 0)]
            row_d, row_t = zero, zero
            for j in range(J * stride, J * stride + size):
                for j2 in range(J2 * stride, J2 * stride + size):
                    column = slots[column_slots + j2 - j + (W if j2 < j else 0)]
                    if row >= 0 and column >= 0:
                        at = start + ((row * columns + column) * H + i) * W + j
                        row_d += fetch(source, at)
                        row_t += fetch(source, cell_count + at)
            d += row_d
            t += row_t
    put(pointer(memory, 0), pair * 2 * memory_cells + array + cls * area + cell, d)
    put(pointer(memory, 0), (pair * 2 + 1) * memory_cells + array + cls * area + cell, t)


def _halves(kind, constants, numbers, count, behind):
    """Fill ``behind`` with half the variances behind a cell layer; ``numbers`` is (3, count)."""
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if index >= count:
        return
    x, y, z = numbers[0, index], numbers[1, index], numbers[2, index]
    E, _ = dual(kind, pointer(constants, 0), zero, x, x, y, y, z, z)
    put(pointer(behind, 0), index, half * E)


def _copy(memory, total, area, pitch, array, found):
    """Copy Δ of a pool's pairs of equal windows, ``total`` = n · area, to ``found``."""
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if index >= total:
        return
    pair = index // area
    cell = index - pair * area
    put(pointer(found, 0), index, fetch(pointer(memory, 0), pair * pitch + array + cell))
