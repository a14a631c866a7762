"""The program of a graph as the GPU kernel runs it: stages, and the tables of the levels.

A *stage* is a run of operations that compute cell by cell what an operation in front of them has
computed, so that a cell goes through all of them in registers. Results that other stages read are
stored. Stages that differ only in buffers, offsets and constants are of one *variant*; the kernel
has code for each variant.

The rows of a value in memory have room for the cells beyond the border that filters read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ntkdist.kernels.cuda.intrinsics import LANES, SIMPLE, TEAMS
from ntkdist.kernels.graph import (
    ABOVE,
    ADD,
    CIRCULAR,
    COLUMNS,
    COLUMNS_END,
    END,
    HEIGHT,
    HEIGHT_IN,
    LEFT,
    LINEAR,
    LOAD,
    MASKS,
    NUMBERS,
    OP,
    OPS,
    OPS_END,
    PIXELS,
    POOL,
    RELU,
    ROWS,
    ROWS_END,
    SECOND,
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
    Graph,
    GraphPlan,
    Levels,
    graph_plan,
)

# columns of the table of stages: first operation, variant, and whether the threads must wait for
# each other in front of it
FIRST, VARIANT, FENCE = range(3)
# columns of the table of pools: where a pool's cells start (−1: no pool), where the slots of its
# row and column displacements 0 are, and how many slots the columns have
CELLS, ROW_SLOTS, COLUMN_SLOTS, SLOTS = range(4)

MOST_STEPS = 8  # of a stage
# A pair's displacements are dealt to at most _CHUNKS blocks of threads, which fill a GPU, and to so
# few that each has _STEPS of them or more, because a block has costs of its own.
_STEPS, _CHUNKS = 8, 32
_CELLS_OF_THREAD = 8  # on average, before a block has more than one warp
_STARTUP = 0.7  # cost of a strip in front of its first cell, in cells


@dataclass(frozen=True)
class Grid:
    """How values of one size are stored.

    Attributes:
        H: Rows of pixels.
        W: Columns of pixels.
        step: Product of the strides since the level's inputs.
        top: Rows of cells above the first row of pixels.
        left: Columns of cells in front of the first column of pixels.
        pitch: Cells from one row to the next.
        area: Cells of a value.
        lengths: Where the strips of these values start in ``GraphLayout.lengths``.
    """

    H: int
    W: int
    step: int
    top: int
    left: int
    pitch: int
    area: int
    lengths: int


@dataclass(frozen=True)
class Step:
    """One operation of a stage.

    Attributes:
        kind: The operation's ``graph.OP``.
        register: Which operand, 1 or 2, is the last value that the stage computed; 0 for none.
        kept: Whether the result is stored.
        signed: Whether K may be negative in front of a cell layer.
        trained: Whether a linear layer adds its K to Θ.
        centered: Whether a loaded pool subtracts the means over each image's own windows.
        pooled: Whether the cells are stored for a pool.
    """

    kind: int
    register: int
    kept: bool
    signed: bool
    trained: bool
    centered: bool
    pooled: bool


@dataclass(frozen=True)
class Filter:
    """The filter that is the first operation of a stage.

    Attributes:
        grid: How its input is stored.
        size: Edge of the windows.
        stride: Step between windows.
        above: Rows by which the first window begins above the image.
        left: Columns by which the first window begins in front of the image.
        circular: Whether windows continue at the other end of the image.
        seam: Whether neighbours in the input may belong to displacements d and d − P, so that a
            window must not cross from one to the other.
    """

    grid: Grid
    size: int
    stride: int
    above: int
    left: int
    circular: bool
    seam: bool


@dataclass(frozen=True)
class Variant:
    """A kind of stage.

    Attributes:
        grid: How its results are stored.
        steps: The operations in order.
        filter: The first operation if it reads more cells than the one it computes, else None.
    """

    grid: Grid
    steps: tuple[Step, ...]
    filter: Filter | None


@dataclass(frozen=True)
class Level:
    """A level for some of the displacements as the kernel runs it.

    Attributes:
        stage: First stage.
        past: One behind the last.
        first: First operation.
        displacements: Those of rows, then those of columns, int64.
        rows: How many of them are of rows.
        masks: Whether each operation runs at each of them, as in ``graph.Levels``.
        pools: (operations, 4) int64, with the columns ``CELLS`` to ``SLOTS``.
        slots: For each pool and displacement of rows, then of columns, from −edge on, the slot of
            its cells; −1 where they are not needed. Displacements d and d − edge share a slot.
        cells: Cells that are stored for all pools.
        chunks: To how many blocks of threads the displacements of a pair are dealt.
    """

    stage: int
    past: int
    first: int
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


@dataclass(frozen=True)
class GraphLayout:
    """A graph's program as the kernel reads it.

    Attributes:
        plan: Units, operations and numbers, shared with the cpu backend.
        table: (operations, ``graph.OP_FIELDS``) int64, those of the plan with other buffers.
        variants: The kinds of stages.
        stages: (stages, 3) int64, with the columns ``FIRST`` to ``FENCE``.
        op_levels: First stage of each level, and one behind the last.
        buffers: Values that are stored at a time.
        area: Cells of the largest value, those beyond the border included.
        lengths: int64; for each size of values and each h × w, at 2 (h (W + 1) + w), the rows of a
            strip in which a thread computes h × w cells, and the number of strips.
        warps: Warps of a block of threads; 1 where each thread is alone.
        levels: The levels that compute entries.
    """

    plan: GraphPlan
    table: np.ndarray
    variants: tuple[Variant, ...]
    stages: np.ndarray
    op_levels: tuple[tuple[int, int], ...]
    buffers: int
    area: int
    lengths: np.ndarray
    warps: int
    levels: tuple[Level, ...]

    @property
    def size(self) -> int:
        """Numbers of an image."""
        return self.plan.numbers

    def scales(self) -> tuple[float, ...]:
        """Return the factor that turns the sums at the end into means."""
        return (self.plan.unit / self.plan.count,)

    @property
    def alone(self) -> bool:
        """Whether each thread computes a pair by itself: in a fully connected network."""
        return not self.plan.graph.spatial

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


@lru_cache(maxsize=32)
def graph_layout(graph: Graph, shape: tuple[int, int, int], dtype: str) -> GraphLayout:
    """Lay out the program of a graph on (H, W, C) images."""
    plan = graph_plan(graph, shape, dtype)
    grids = _grids(plan)
    table = plan.ops.copy()
    variants: list[Variant] = []
    stages: list[list[int]] = []
    op_levels, buffers = [], 0
    for first, past in plan.op_levels.tolist():
        start = len(stages)
        reading = _reading(plan, first, past)
        buffers = max(buffers, _take_buffers(reading, table))
        for op, variant, fence in _variants(plan, grids, reading, table):
            if variant not in variants:
                variants.append(variant)
            stages.append([op, variants.index(variant), fence])
        op_levels.append((start, len(stages)))
    warps = 1 if not graph.spatial else _warps(plan)
    return GraphLayout(
        plan, table, tuple(variants), np.array(stages, np.int64), tuple(op_levels), buffers,
        max(grid.area for grid in grids.values()),
        np.concatenate([_lengths(grid, warps * LANES) for grid in grids.values()]), warps,
        levels_of(plan, op_levels, plan.levels),
    )  # fmt: skip


def levels_of(
    plan: GraphPlan, op_levels: Sequence[tuple[int, int]], levels: Levels
) -> tuple[Level, ...]:
    """Return ``levels`` of a plan as the kernel runs them; ``op_levels`` is the layout's."""
    made = []
    for level, (stage, past_stage) in zip(levels.table, op_levels, strict=True):
        first, past = int(level[OPS]), int(level[OPS_END])
        rows, columns = level[ROWS_END] - level[ROWS], level[COLUMNS_END] - level[COLUMNS]
        masks = levels.masks[level[MASKS] :][: (past - first) * (rows + columns)]
        displacements = levels.displacements[level[ROWS] : level[COLUMNS_END]]
        by_row, by_column = np.split(masks, [(past - first) * rows])
        axes = (
            (displacements[:rows], by_row.reshape(past - first, rows)),
            (displacements[rows:], by_column.reshape(past - first, columns)),
        )
        pools = np.full((past - first, 4), -1, np.int64)
        slots: list[np.ndarray] = []
        cells = taken = 0
        for k, op in enumerate(plan.ops[first:past]):
            if not _is_pool(op):
                continue
            counts = []
            pools[k, CELLS] = cells
            for (axis, mask), edge, column in zip(
                axes, op[[HEIGHT, WIDTH]], (ROW_SLOTS, COLUMN_SLOTS), strict=True
            ):
                far = axis[mask[k] != 0] // op[STEP]
                near, place = np.unique(far % edge, return_inverse=True)
                slot = np.full(2 * edge, -1, np.int64)
                slot[far + edge] = place
                if plan.cyclic:  # which computes the cells of d − edge with those of d
                    slot[far] = place
                slots.append(slot)
                pools[k, column] = taken + edge
                taken += 2 * edge
                counts.append(len(near))
            pools[k, SLOTS] = counts[1]
            cells += int(counts[0] * counts[1] * op[HEIGHT] * op[WIDTH])
        chunks = max(1, min(_CHUNKS, int(rows * columns) // _STEPS))
        slots.append(np.zeros(1, np.int64))  # an array on the device must not be empty
        made.append(
            Level(
                stage, past_stage, first, displacements, int(rows), masks, pools,
                np.concatenate(slots), cells, chunks,
            )
        )  # fmt: skip
    return tuple(made)


def _is_pool(op: np.ndarray) -> bool:
    return bool(op[OP] == STORE and (op[POOL] > 1 or op[STRIDE] > 1))


def _size_of(op: np.ndarray) -> tuple[int, int, int]:
    return int(op[HEIGHT]), int(op[WIDTH]), int(op[STEP])


def _size_in(op: np.ndarray) -> tuple[int, int, int]:
    """Return the size of a filter's input."""
    return int(op[HEIGHT_IN]), int(op[WIDTH_IN]), int(op[STEP] // op[STRIDE])


def _grids(plan: GraphPlan) -> dict[tuple[int, int, int], Grid]:
    """Return the grid of each size, with room for all filters that read values of that size."""
    beyond: dict[tuple[int, int, int], list[int]] = {}  # above, below, left, right
    for op in plan.ops:
        beyond.setdefault(_size_of(op), [0] * 4)
        if op[OP] == LINEAR and not _has_seam(plan, op):
            room = beyond.setdefault(_size_in(op), [0] * 4)
            for k, (count, edge, before) in enumerate(
                [(HEIGHT, HEIGHT_IN, ABOVE), (WIDTH, WIDTH_IN, LEFT)]
            ):
                after = (op[count] - 1) * op[STRIDE] - op[before] + op[SIZE] - op[edge]
                room[2 * k] = max(room[2 * k], int(op[before]))
                room[2 * k + 1] = max(room[2 * k + 1], int(after))
    grids, lengths = {}, 0
    for (H, W, step), (above, below, left, right) in beyond.items():
        pitch = left + W + right
        area = (above + H + below) * pitch
        grids[H, W, step] = Grid(H, W, step, above, left, pitch, area, lengths)
        lengths += 2 * (H + 1) * (W + 1)
    return grids


def _has_seam(plan: GraphPlan, op: np.ndarray) -> bool:
    return bool(plan.cyclic and op[SIZE] > 1 and not op[CIRCULAR])


@dataclass(frozen=True)
class _Reading:
    """Which operations of a level read which results, and from where.

    Attributes:
        stages: The operations of each stage.
        operands: For each operation, the operations that compute what it reads.
        registers: For each operation, ``Step.register``.
        last: For each operation whose result is stored, the last operation that reads it.
    """

    stages: list[list[int]]
    operands: dict[int, list[int]]
    registers: dict[int, int]
    last: dict[int, int]

    def stored(self, k: int) -> list[int]:
        """Return the operands that an operation reads from memory."""
        return [x for n, x in enumerate(self.operands[k]) if n + 1 != self.registers[k]]


def _reading(plan: GraphPlan, first: int, past: int) -> _Reading:
    """Cut the operations of a level into stages."""
    made = _Reading([], {}, {}, {})
    makers: dict[int, int] = {}  # by the plan's buffer
    current = -1
    for k in range(first, past):
        op = plan.ops[k]
        sources = [] if op[OP] in (PIXELS, LOAD) else [int(op[SOURCE])]
        sources += [int(op[SECOND])] if op[OP] == ADD else []
        made.operands[k] = [makers[buffer] for buffer in sources]
        stage = made.stages[-1] if made.stages else []
        joins = (
            _is_pointwise(op)
            and 0 < len(stage) < MOST_STEPS
            and _size_of(plan.ops[stage[0]]) == _size_of(op)
            # the first operation of a stage must run wherever the others do
            and any(maker in stage for maker in made.operands[k])
        )
        if not joins:
            made.stages.append([])
            current = -1
        made.stages[-1].append(k)
        made.registers[k] = (
            made.operands[k].index(current) + 1 if current in made.operands[k] else 0
        )
        made.last.update(dict.fromkeys(made.stored(k), k))
        if op[OP] not in (STORE, END):
            makers[int(op[TARGET])] = current = k
    return made


def _take_buffers(reading: _Reading, table: np.ndarray) -> int:
    """Choose buffers for the results that a level stores; return how many there are.

    The buffer of a filter's input is free only behind the filter's stage, because other threads may
    still read it while one stores results of that stage.
    """
    free: list[int] = []
    of_result: dict[int, int] = {}
    count = 0
    for stage in reading.stages:
        read: list[int] = []
        for k in stage:
            for column, maker in zip((SOURCE, SECOND), reading.operands[k], strict=False):
                table[k, column] = of_result.get(maker, 0)
            done = [x for x in set(reading.stored(k)) if reading.last[x] == k]
            (free if _is_pointwise(table[k]) else read).extend(of_result.pop(x) for x in done)
            if k in reading.last:
                if not free:
                    free.append(count)
                    count += 1
                table[k, TARGET] = of_result[k] = free.pop()
        free += read
    return count


def _variants(
    plan: GraphPlan, grids: dict[tuple[int, int, int], Grid], reading: _Reading, table: np.ndarray
) -> list[tuple[int, Variant, int]]:
    """Return first operation, variant and fence of each stage of a level."""
    stages: list[tuple[int, Variant, int]] = []
    waiting: list[tuple[int, tuple[int, int, int] | None, bool]] = []
    for stage in reading.stages:
        front, size = table[stage[0]], _size_of(table[stage[0]])
        filtered = None
        if front[OP] == LINEAR and not _is_pointwise(front):
            filtered = Filter(
                grids[_size_in(front)], int(front[SIZE]), int(front[STRIDE]), int(front[ABOVE]),
                int(front[LEFT]), bool(front[CIRCULAR]), _has_seam(plan, front),
            )  # fmt: skip
        touched: list[tuple[int, tuple[int, int, int] | None, bool]] = []
        for k in stage:
            of_thread = size if k > stage[0] or filtered is None else None
            for n, column in enumerate((SOURCE, SECOND)[: len(reading.operands[k])]):
                if n + 1 != reading.registers[k]:
                    touched.append((int(table[k, column]), of_thread, False))
            if k in reading.last:
                touched.append((int(table[k, TARGET]), size, True))
        fence = not stages or filtered is not None or _clash(waiting, touched)
        waiting = [*([] if fence else waiting), *touched]
        steps = tuple(_step(table[k], reading.registers[k], k in reading.last) for k in stage)
        stages.append((stage[0], Variant(grids[size], steps, filtered), int(fence)))
    return stages


def _clash(waiting: Sequence[Any], touched: Sequence[Any]) -> bool:
    """Return whether a thread may touch a cell that another thread has yet to read or write.

    ``waiting`` are the accesses since the threads last waited for each other, ``touched`` those
    that follow, as (buffer, size of the values or None, whether it is written). With a size each
    thread accesses the same cells in both; with None it may access any.
    """
    return any(
        buffer == other and (written or new) and (size != of_other or size is None)
        for buffer, size, written in touched
        for other, of_other, new in waiting
    )


def _is_pointwise(op: np.ndarray) -> bool:
    """Return whether an operation computes each cell from the same cell of values."""
    if op[OP] == LINEAR:
        return bool(op[SIZE] == 1 and op[STRIDE] == 1)
    return op[OP] not in (PIXELS, LOAD)


def _step(op: np.ndarray, register: int, kept: bool) -> Step:
    kind = int(op[OP])
    signed, trained = kind >= RELU and op[SIGNED], kind == LINEAR and op[TRAINED]
    centered = kind == LOAD and op[NUMBERS] >= 0
    return Step(kind, register, kept, bool(signed), bool(trained), bool(centered), _is_pool(op))


def _warps(plan: GraphPlan) -> int:
    """Return for how many warps an operation has enough cells at a displacement, on average."""
    cells = runs = 0
    levels = plan.levels
    for level in levels.table:
        first, past = level[OPS], level[OPS_END]
        axes = []
        at = level[MASKS]
        for start, stop, edge in ((ROWS, ROWS_END, HEIGHT), (COLUMNS, COLUMNS_END, WIDTH)):
            far = levels.displacements[level[start] : level[stop]]
            mask = levels.masks[at:][: (past - first) * len(far)].reshape(past - first, len(far))
            at += mask.size
            ops = plan.ops[first:past]
            left = ops[:, edge, None] - abs(far // ops[:, STEP, None]) * (not plan.cyclic)
            axes.append(((mask * left).sum(axis=1), mask.sum(axis=1)))
        cells += int((axes[0][0] * axes[1][0]).sum())
        runs += int((axes[0][1] * axes[1][1]).sum())
    return max(1, min(TEAMS, cells // (runs * _CELLS_OF_THREAD * LANES)))


def _lengths(grid: Grid, threads: int) -> np.ndarray:
    """Return the part of ``GraphLayout.lengths`` for values of a grid."""
    H, W = grid.H, grid.W
    h, w, length = np.ogrid[: H + 1, : W + 1, 1 : H + 1]
    strips = -(-h // length) * w
    cost = -(-strips // threads) * (length + _STARTUP)
    best = cost.argmin(axis=2)[:, :, None]
    both = 1 + best, np.take_along_axis(strips, best, axis=2)
    return np.concatenate(both, axis=2).ravel().astype(np.int64)
