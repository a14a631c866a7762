"""The program of a graph as the GPU kernel runs it: stages, and the tables of the levels.

A *stage* is an operation that makes a value and those behind it that read its cells one by one: a
cell goes through all of them in registers. What other stages read is stored. Stages that differ in
places and numbers alone are one *variant*, for which the kernel has code of its own.

Values lie in rows with room for the pixels beyond the border that filters read.
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

# columns of the table of stages: first operation, code to run, and whether threads wait in front
FIRST, VARIANT, FENCE = range(3)
# columns of the table of pools: where their cells start (−1: no pool), where the slots of rows and
# of columns start, and how many slots columns have
CELLS, ROW_SLOTS, COLUMN_SLOTS, SLOTS = range(4)

MOST_STEPS = 8  # of a stage
# A team's share of an entry: enough displacements to keep the ends cheap, enough teams for a GPU
_STEPS, _CHUNKS = 8, 32
_CELLS = 8  # of a thread, at least, where there are more threads than those of a warp
# what a thread does before its first cell of a column, in cells
_STARTUP = 0.7


@dataclass(frozen=True)
class Grid:
    """How the cells of values of one size are kept.

    Attributes:
        H: Rows.
        W: Columns.
        step: Displacements of the level's inputs between two of these.
        top: Rows beyond the border above.
        left: Columns beyond the border.
        pitch: Cells from one row to the next.
        area: Cells in all.
        lengths: Where the table of ``GraphLayout.lengths`` has those of these values.
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
    """What a stage does to a cell.

    Attributes:
        kind: Of the operation.
        register: Which of its operands is what the step before made; 0 for none.
        kept: Whether its result is stored.
        signed: Whether K may be negative in front.
        trained: Whether it adds its K to Θ.
        centered: Whether means over windows of each image are subtracted.
        pooled: Whether the cells are kept for a pool.
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
    """What the first step reads other cells than its own of.

    Attributes:
        grid: Of what it reads.
        size: Edge of a window.
        stride: Step between windows.
        above: Rows above the first pixel of a window.
        left: Columns beside it.
        circular: Whether windows go on at the other end.
        seam: Whether a class holds displacements d and d − P, whose cells are no neighbours.
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
    """What the kernel has code for.

    Attributes:
        grid: Of what it makes.
        steps: In order.
        filter: Of the first step; None where it reads its own cell.
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
        displacements: Of rows, then of columns, int64.
        rows: How many are of rows.
        masks: Whether each operation runs at each of them, as in ``graph.Levels``.
        pools: (operations, 4) int64, see the constants above.
        slots: Which slot of cells holds a displacement of rows or columns; −1 for none.
        cells: Cells that are kept for pools.
        chunks: Among how many teams the displacements of a pair are dealt.
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
        table: (operations, ``graph.OP_FIELDS``) int64, those of the plan with buffers of its own.
        variants: What the kernel has code for.
        stages: (stages, 3) int64, see the constants above.
        op_levels: For each level its first stage and one behind the last.
        buffers: Values that are stored at a time.
        area: Cells of a value, those beyond the border too, at most.
        lengths: int64; for values of each size by rows · (W + 1) + columns, of how many rows the
            strips are that threads take of a column, and how many strips there are.
        warps: Teams of lanes of a block of threads.
        levels: For entries.
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
        """Return what makes means of the sums at the end."""
        return (self.plan.unit / self.plan.count,)

    @property
    def alone(self) -> bool:
        """Whether a thread takes a pair of its own: of a fully connected network."""
        return not self.plan.graph.spatial

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return SIMPLE if self.alone else self.warps * LANES

    @cached_property
    def order(self) -> np.ndarray:
        """(numbers,) the numbers of an image in planes of pixels, as they are on the device."""
        order = np.arange(self.size)
        for start, H, W, many in self.plan.planes:
            part = slice(start, start + H * W * many)
            order[part] = order[part].reshape(H * W, many).T.ravel()
        return order

    @cached_property
    def mirror(self) -> np.ndarray:
        """(numbers,) which of an image's numbers is where in those of its mirror image."""
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
    """Return the levels of a plan for some of the displacements as the kernel runs them."""
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
                near = np.unique(axis[mask[k] != 0] // op[STEP] % edge)
                slot = np.full(edge, -1, np.int64)
                slot[near] = np.arange(len(near))
                slots.append(slot)
                pools[k, column] = taken
                taken += edge
                counts.append(len(near))
            pools[k, SLOTS] = counts[1]
            cells += int(counts[0] * counts[1] * op[HEIGHT] * op[WIDTH])
        chunks = max(1, min(_CHUNKS, int(rows * columns) // _STEPS))
        slots.append(np.zeros(1, np.int64))  # never empty
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
    """Return of which size the value is that a filter reads."""
    return int(op[HEIGHT_IN]), int(op[WIDTH_IN]), int(op[STEP] // op[STRIDE])


def _grids(plan: GraphPlan) -> dict[tuple[int, int, int], Grid]:
    """Return the grid of the values of each size."""
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
    """How the operations of a level read each other's results.

    Attributes:
        stages: The operations of each stage.
        operands: By operation, which operations made what it reads.
        registers: By operation, which operand is what the step before made; 0 for none.
        last: By operation whose result is stored, the last one that reads it there.
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
            # where it runs, so does the first operation of a stage that made one of its operands
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
    """Choose buffers for what is stored in a level; return how many.

    What a filter reads, other threads may still need when its stage stores cells.
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
    """Return whether some threads may still need cells that others are about to change.

    Both are (buffer, size of the cells that each thread has to itself or None, whether they are
    written).
    """
    return any(
        buffer == other and (written or new) and (size != of_other or size is None)
        for buffer, size, written in touched
        for other, of_other, new in waiting
    )


def _is_pointwise(op: np.ndarray) -> bool:
    """Return whether an operation reads each cell where it writes it."""
    if op[OP] == LINEAR:
        return bool(op[SIZE] == 1 and op[STRIDE] == 1)
    return op[OP] not in (PIXELS, LOAD)


def _step(op: np.ndarray, register: int, kept: bool) -> Step:
    kind = int(op[OP])
    signed, trained = kind >= RELU and op[SIGNED], kind == LINEAR and op[TRAINED]
    centered = kind == LOAD and op[NUMBERS] >= 0
    return Step(kind, register, kept, bool(signed), bool(trained), bool(centered), _is_pool(op))


def _warps(plan: GraphPlan) -> int:
    """Return how many warps have cells enough at a displacement, on average."""
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
    return max(1, min(TEAMS, cells // (runs * _CELLS * LANES)))


def _lengths(grid: Grid, threads: int) -> np.ndarray:
    """Return rows of a strip and how many strips there are, of values of h × w cells, flat."""
    H, W = grid.H, grid.W
    h, w, length = np.ogrid[: H + 1, : W + 1, 1 : H + 1]
    strips = -(-h // length) * w
    cost = -(-strips // threads) * (length + _STARTUP)
    best = cost.argmin(axis=2)[:, :, None]
    both = 1 + best, np.take_along_axis(strips, best, axis=2)
    return np.concatenate(both, axis=2).ravel().astype(np.int64)
