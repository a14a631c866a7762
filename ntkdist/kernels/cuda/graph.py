"""The GPU kernels for graphs, and the device memory between the levels of their programs.

``level_kernel`` runs a level. A block of threads computes some of the displacements of a pair of
images, one after the other, stage by stage (``cuda.stages``). Each thread computes strips of cells
of a column: it adds up each row of a filter's windows once and keeps the sum in registers for the
next rows. Values that other stages read are in device memory, small enough to stay in the caches.
In a fully connected network a value is a single cell, and each thread computes a pair by itself.

``windows_kernel`` computes a pool. All cells in front of the pool are stored first; then each
thread adds up the cells of a pair of windows, always in the same order.

Beyond the border of one image the other may still have a pixel. K and Θ are 0 there, but Δ is half
the variance of that pixel. Such cells are stored around a value before a filter reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from ntkdist.kernels import graph as kinds
from ntkdist.kernels.cuda.cells import distance, dual_function, graph_cell_function
from ntkdist.kernels.cuda.intrinsics import (
    LANES,
    SIMPLE,
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
    quotient,
)
from ntkdist.kernels.cuda.runner import Workspace, pairs_that_fit, to_device
from ntkdist.kernels.cuda.stages import (
    CELLS,
    COLUMN_SLOTS,
    FENCE,
    FIRST,
    ROW_SLOTS,
    SLOTS,
    VARIANT,
    Filter,
    GraphLayout,
    Level,
    Variant,
    graph_layout,
    levels_of,
)
from ntkdist.kernels.cuda.unroll import registers, unroll, written_out
from ntkdist.kernels.graph import (
    ARRAY,
    CONSTANTS,
    FACTOR,
    FACTOR_2,
    HALF,
    HALF_OUT,
    HEIGHT,
    NUMBERS,
    OP_FIELDS,
    POOL,
    RELU,
    SECOND,
    SOURCE,
    STRIDE,
    TARGET,
    WIDTH,
    Array,
    Graph,
)
from ntkdist.kernels.preparation import GraphPreparation

# Of a thread of ``level_kernel``: enough for all that a loop over cells needs, and few, so that a
# multiprocessor has room for many warps
MOST_REGISTERS = {"float32": 96, "float64": 128}


class GraphRunner:
    """Runs programs on pairs of images, in batches (see ``runner.pairs_that_fit``).

    Attributes:
        dtype: Of the numbers of an image.
        workspace: The memory between levels.
    """

    def __init__(self, dtype: str, workspace: Workspace) -> None:
        self.dtype = dtype
        self.workspace = workspace

    def batch_size(self, layout: GraphLayout, levels: tuple[Level, ...]) -> int:
        """Return how many pairs of images to take at a time.

        Raises:
            InputError: If not even one pair fits the memory that is free now.
        """
        kept = layout.plan.memory_cells + max(level.cells for level in levels)
        sums = 16 * max(level.chunks for level in levels) * layout.warps
        a_pair = 2 * np.dtype(self.dtype).itemsize * kept + sums
        work = max(1.0, *(work_of(layout, level) for level in levels))
        return pairs_that_fit(a_pair, work, self.dtype, self.workspace)

    def run(
        self,
        layout: GraphLayout,
        A: Any,
        B: Any,
        pairs: Any,
        levels: tuple[Level, ...],
        distances: Any = None,
    ) -> tuple[Any, Any]:
        """Run some first levels on pairs (n, 2) of images.

        Args:
            layout: The program.
            A: (n_a, numbers) of the row images.
            B: (n_b, numbers) of the column images.
            pairs: (n, 2) int64.
            levels: These levels.
            distances: (n_a, n_b, 2) float64, first Δ of the pixels; for fully connected networks.

        Returns:
            The sums at the end, (n, parts, 1, 2) float64, which are set if all levels are run, and
            the memory between levels, (n, 2, cells). The next run overwrites both.
        """
        plan, work, n = layout.plan, self.workspace, pairs.shape[0]
        memory = work.array("memory", (n, 2, max(1, plan.memory_cells)), self.dtype)
        if distances is None:
            distances = work.array("distances", (1, 1, 2), np.float64)
        for level in levels:
            tasks = n * level.chunks
            blocks = min(-(-tasks // SIMPLE) if layout.alone else tasks, most_blocks(layout))
            teams = blocks * (SIMPLE if layout.alone else 1)
            shape = (teams, max(1, layout.buffers), 2, layout.area)
            scratch = work.array("scratch", shape, self.dtype)
            cells = work.array("cells", (n, 2, max(1, level.cells)), self.dtype)
            totals = work.array("sums", (n, level.chunks * layout.warps, 1, 2), np.float64)
            slots = work.table(level.slots)
            level_kernel(layout)[blocks, layout.threads](
                pairs, tasks, level.chunks, A, B, layout.size, distances, plan.shape[2],
                work.table(layout.stages), level.stage, level.past, work.table(layout.table),
                work.table(plan.constants), level.first, work.table(level.displacements),
                level.rows, level.columns, work.table(level.masks), work.table(layout.lengths),
                work.table(plan.row_weights), work.table(plan.column_weights), memory,
                plan.memory_cells, cells, level.cells, work.table(level.pools), slots, scratch,
                layout.buffers, layout.area, totals,
            )  # fmt: skip
            for op, pool in zip(plan.ops[level.first :], level.pools, strict=False):
                if pool[CELLS] < 0:
                    continue
                H, W, size, stride = (int(op[k]) for k in (HEIGHT, WIDTH, POOL, STRIDE))
                h, w = (H - size) // stride + 1, (W - size) // stride + 1
                each(windows_kernel(self.dtype), n * (h * w) ** 2)(
                    cells, level.cells, *(int(x) for x in pool), slots, n * (h * w) ** 2,
                    size, stride, H, W, h, w, memory, plan.memory_cells, int(op[ARRAY]),
                )  # fmt: skip
        return totals, memory


def work_of(layout: GraphLayout, level: Level) -> float:
    """Return how many cells of how many operations a pair of images has in a level's launch."""
    count = len(level.pools)
    sizes = layout.plan.ops[level.first : level.first + count, [HEIGHT, WIDTH]]
    by_row, by_column = np.split(level.masks != 0, [count * level.rows])
    displacements = by_row.reshape(count, -1).sum(axis=1) * by_column.reshape(count, -1).sum(axis=1)
    return float((displacements * sizes.prod(axis=1)).sum())


def most_blocks(layout: GraphLayout) -> int:
    """Return how many blocks of threads are worth having at a time."""
    of_warps = 32 * multiprocessors()
    return max(1, of_warps * LANES // layout.threads)


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
        plan, layout = self.plan, self.layout
        levels = levels_of(plan, layout.op_levels, plan.levels_to_windows(array))
        h, w = plan.sizes[array.node]
        sums = np.empty((len(self.rows), h * w), self.rows.dtype)
        for part, _, memory in self._with_itself(levels[: array.level + 1]):
            found = cuda.device_array(sums[part].shape, sums.dtype)
            each(copy_kernel(), found.size)(
                memory, found.size, h * w, 2 * plan.memory_cells, array.start, found
            )
            sums[part] = found.copy_to_host()
        return sums

    def self_entries(self) -> np.ndarray:
        """Run the program on each image and itself; see ``preparation.GraphPreparation``."""
        means = np.empty(len(self.rows))
        for part, totals, _ in self._with_itself(self.layout.levels):
            # added up in the order of an entry's parts
            means[part] = reduce(np.add, totals.copy_to_host()[:, :, 0, 0].T)
        return means * (self.plan.unit / self.plan.count)

    def _with_itself(self, levels: tuple[Level, ...]) -> Iterator[tuple[slice, Any, Any]]:
        """Run levels on each image and itself; yield each batch's slice and ``run``'s results."""
        numbers = self.numbers()
        batch = self._runner.batch_size(self.layout, levels)
        for start in range(0, len(self.rows), batch):
            part = slice(start, min(len(self.rows), start + batch))
            pairs = to_device(np.repeat(np.arange(part.start, part.stop)[:, None], 2, axis=1))
            yield part, *self._runner.run(self.layout, numbers, numbers, pairs, levels)


def level_kernel(layout: GraphLayout) -> Any:
    """Return the kernel that runs levels of a program; its arguments are those of ``_level``."""
    return _level_kernel(layout.plan.dtype, layout.variants, layout.plan.cyclic, layout.alone)


@lru_cache(maxsize=16)
def _level_kernel(dtype: str, variants: tuple[Variant, ...], cyclic: bool, alone: bool) -> Any:
    layers = frozenset(
        step.kind for variant in variants for step in variant.steps if step.kind >= RELU
    )
    names = {"real": np.dtype(dtype).type, "zero": np.dtype(dtype).type(0)}
    names["cell_layer"] = graph_cell_function(dtype, layers)
    for k, variant in enumerate(variants):
        known = {**_known(variant), "CYCLIC": cyclic, "ALONE": alone}
        names["frame"] = device(written_out(_frame, known, names))
        names[f"stage_{k}"] = device(written_out(_stage, known, names))
    names["run_stage"] = _choice(len(variants), names)
    limit = MOST_REGISTERS[dtype]
    return kernel(written_out(_level, {"ALONE": alone}, names), max_registers=limit)


def _known(variant: Variant) -> dict[str, Any]:
    """Return the constants of a variant's code, and the kinds of operations that it tells apart."""
    grid, steps = variant.grid, variant.steps
    filtered = variant.filter or Filter(grid, 1, 1, 0, 0, False, False)
    inner, size, stride = filtered.grid, filtered.size, filtered.stride
    operations = ("PIXELS", "LOAD", "STORE", "END", "LINEAR", "ADD")
    return {
        **{name: getattr(kinds, name) for name in operations},
        "H": grid.H, "W": grid.W, "STEP": grid.step, "TOP": grid.top, "LEFT": grid.left,
        "PITCH": grid.pitch, "LENGTHS": grid.lengths, "STEPS": len(steps),
        "KIND": tuple(step.kind for step in steps),
        "REGISTER": tuple(step.register for step in steps),
        "KEPT": tuple(step.kept for step in steps),
        "SIGNED": tuple(int(step.signed) for step in steps),
        "TRAINED": tuple(step.trained for step in steps),
        "CENTERED": tuple(step.centered for step in steps),
        "POOLED": tuple(step.pooled for step in steps),
        "FILTERED": variant.filter is not None, "SEAM": filtered.seam,
        "CIRCULAR": filtered.circular,
        "FRAMED": size > 1 and not filtered.seam,
        "SIZE": size, "STRIDE": stride, "ABOVE": filtered.above, "BEFORE": filtered.left,
        "CARRIED": max(0, size - stride), "H_IN": inner.H, "W_IN": inner.W,
        "TOP_IN": inner.top, "LEFT_IN": inner.left, "PITCH_IN": inner.pitch,
    }  # fmt: skip


def _choice(count: int, names: dict[str, Any]) -> Any:
    """Return the device function that runs a stage of the variant that is its first argument."""
    code = _stage.__code__
    arguments = ", ".join(code.co_varnames[: code.co_argcount])
    lines = [f"def run_stage(variant, {arguments}):"]
    for k in range(count - 1):
        lines += [f"    if variant == {k}:", f"        return stage_{k}({arguments})"]
    lines.append(f"    return stage_{count - 1}({arguments})\n")
    scope = dict(names)
    exec("\n".join(lines), scope)  # our own text
    return device(scope["run_stage"])


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
    pairs, tasks, chunks, A, B, size, distances, channels, stages, stage, past, ops, constants,
    first, displacements, rows, columns, masks, lengths, row_weights, column_weights, memory,
    memory_cells, cells, cell_count, pools, slots, scratch, buffers, area, totals,
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
        channels: Channels of a pixel.
        stages: (stages, 3) int64.
        stage: First stage of the level.
        past: One behind the last.
        ops: (operations, OP_FIELDS) int64.
        constants: (operations, CONSTANTS) of the dtype.
        first: First operation of the level.
        displacements: (rows + columns,) int64.
        rows: How many of them are of rows.
        columns: How many are of columns.
        masks: Whether each operation runs at each of them.
        lengths: See ``GraphLayout``.
        row_weights: Of the plan.
        column_weights: Of the plan.
        memory: (n, 2, memory_cells) of the dtype, Δ and Θ kept between levels.
        memory_cells: Cells of it for a pair.
        cells: (n, 2, cell_count) of the dtype, Δ and Θ to fill for pools.
        cell_count: Cells of it for a pair.
        pools: See ``stages.Level``.
        slots: See ``stages.Level``.
        scratch: (teams, buffers, 2, area) of the dtype: Δ and Θ of each value that is stored.
        buffers: How many values a team stores.
        area: Cells of a value, at most.
        totals: (n, chunks · warps, 1, 2) float64 to fill at the end.
    """
    lane, threads, team = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    teams = cuda.gridDim.x
    if ALONE:
        team, teams = team * threads + lane, teams * threads
        lane, threads = 0, 1
    work = pointer(scratch, team * buffers * 2 * area)
    for task in range(team, tasks, teams):
        pair = task // chunks
        row_image, column_image = pairs[pair, 0], pairs[pair, 1]
        a, b = pointer(A, row_image * size), pointer(B, column_image * size)
        given = pointer(distances, 0)
        if ALONE:
            given = advance(given, 2 * (row_image * distances.shape[1] + column_image))
        kept = pointer(memory, pair * 2 * memory_cells)
        found = pointer(cells, pair * 2 * cell_count)
        total_d, total_t = np.float64(0), np.float64(0)
        for at in range(task - pair * chunks, rows * columns, chunks):
            r = quotient(at, columns)
            c = at - r * columns
            row = fetch(pointer(displacements, 0), r)
            column = fetch(pointer(displacements, 0), rows + c)
            for k in range(stage, past):
                of_stage = pointer(stages, 3 * k)
                op, fence = fetch(of_stage, FIRST), fetch(of_stage, FENCE)
                # whether an operation runs; of the n-th behind it n · rows (columns) further
                by_row = pointer(masks, (op - first) * rows + r)
                by_column = pointer(masks, pools.shape[0] * rows + (op - first) * columns + c)
                if fetch(by_row, 0) * fetch(by_column, 0) == 0:
                    if not ALONE and fence != 0:
                        block_barrier()
                    continue
                d, t = run_stage(
                    fetch(of_stage, VARIANT), pointer(ops, op * OP_FIELDS),
                    pointer(constants, op * CONSTANTS), by_row, rows, by_column, columns,
                    pointer(pools, (op - first) * 4), pointer(slots, 0), row, column,
                    a, b, given, channels, work, area,
                    pointer(lengths, 0), kept, memory_cells, found, cell_count,
                    pointer(row_weights, 0), pointer(column_weights, 0), fence, lane, threads,
                )  # fmt: skip
                total_d += np.float64(d)
                total_t += np.float64(t)
        if ALONE:
            put(pointer(totals, 0), 2 * task, total_d)
            put(pointer(totals, 0), 2 * task + 1, total_t)
        else:
            total_d, total_t = over_lanes(total_d), over_lanes(total_t)
            if lane % LANES == 0:
                to = (task * threads + lane) // LANES
                put(pointer(totals, 0), 2 * to, total_d)
                put(pointer(totals, 0), 2 * to + 1, total_t)


def _stage(
    op, values, by_row, rows, by_column, columns, pools, slots, row, column, a, b, given, channels,
    work, area, lengths, kept, memory_cells, found, cell_count, row_weights, column_weights, fence,
    lane, threads,
):  # fmt: skip
    """Run a stage at one displacement; return the thread's sums of Δ and Θ at the end.

    The names in capitals are constants of the variant, see ``_known``.

    Args:
        op: Pointer to the first operation of the stage.
        values: Pointer to its constants.
        by_row: Pointer to its mask at this displacement of rows; that of the next operation
            follows ``rows`` elements later.
        rows: Displacements of rows.
        by_column: Pointer to its mask at this displacement of columns; that of the next operation
            follows ``columns`` elements later.
        columns: Displacements of columns.
        pools: Pointer to its row of ``stages.Level.pools``.
        slots: See ``stages.Level``.
        row: Displacement of rows of the level's inputs.
        column: Displacement of columns of the level's inputs.
        a: Pointer to the numbers of the row image.
        b: Pointer to the numbers of the column image.
        given: Pointer to Δ of the pixels; read only where a thread is alone.
        channels: Channels of a pixel.
        work: Pointer to the team's values.
        area: Cells of a value, at most.
        lengths: See ``stages.GraphLayout``.
        kept: Pointer to the pair's memory between levels.
        memory_cells: Cells of it.
        found: Pointer to the pair's cells for pools.
        cell_count: How many these are.
        row_weights: Of the plan.
        column_weights: Of the plan.
        fence: Whether the threads must wait for each other before they read or write values.
        lane: The thread's index in the team.
        threads: Threads of the team.
    """
    source, second, target, factor, factor_2, array, runs = registers(STEPS)
    a_half, b_half, a_cell, b_cell = registers(STEPS)
    sums_d, sums_t = registers(SIZE)
    dr, dc = row // STEP, column // STEP
    i0, i1, j0, j1 = 0, H, 0, W
    if not CYCLIC:
        i0, i1, j0, j1 = max(0, -dr), min(H, H - dr), max(0, -dc), min(W, W - dc)
    wide = j1 - j0
    shift = 0 if CYCLIC else dr * W + dc  # from a pixel of the row image to that of the other one
    for n in unroll(STEPS):
        source[n] = advance(work, fetch(op, n * OP_FIELDS + SOURCE) * 2 * area)
        second[n] = advance(work, fetch(op, n * OP_FIELDS + SECOND) * 2 * area)
        target[n] = advance(work, fetch(op, n * OP_FIELDS + TARGET) * 2 * area)
        a_half[n] = advance(a, fetch(op, n * OP_FIELDS + HALF_OUT))
        b_half[n] = advance(b, fetch(op, n * OP_FIELDS + HALF_OUT) + shift)
        a_cell[n] = advance(a, fetch(op, n * OP_FIELDS + NUMBERS))
        b_cell[n] = advance(b, fetch(op, n * OP_FIELDS + NUMBERS) + shift)
        factor[n] = fetch(values, n * CONSTANTS + FACTOR)
        factor_2[n] = fetch(values, n * CONSTANTS + FACTOR_2)
        array[n] = fetch(op, n * OP_FIELDS + ARRAY) + (dr % H * W + dc % W) * H * W
        runs[n] = 1
        if KIND[n] == STORE or KIND[n] == END:
            runs[n] = fetch(by_row, n * rows) * fetch(by_column, n * columns)
        if POOLED[n] and runs[n] != 0:
            slot = fetch(slots, fetch(pools, 4 * n + ROW_SLOTS) + dr)
            slot = slot * fetch(pools, 4 * n + SLOTS)
            slot = slot + fetch(slots, fetch(pools, 4 * n + COLUMN_SLOTS) + dc)
            array[n] = fetch(pools, 4 * n + CELLS) + slot * H * W
    a_edge, b_edge = advance(a, fetch(op, HALF)), advance(b, fetch(op, HALF))
    if FRAMED:
        # store the cells beyond the border that windows reach
        if CIRCULAR:
            block_barrier()
        near, far = dr * STRIDE, dc * STRIDE
        r0, r1, c1 = 0, H_IN, W_IN
        if not CYCLIC:
            r0, r1, c1 = max(0, -near), min(H_IN, H_IN - near), min(W_IN, W_IN - far)
        e1, f0 = (i1 - 1) * STRIDE - ABOVE + SIZE, j0 * STRIDE - BEFORE
        across = (wide - 1) * STRIDE + SIZE
        for u in range(ABOVE + max(0, e1 - r1)):
            p, q = r0 + u - ABOVE if u < ABOVE else r1 + u - ABOVE, f0 + lane
            while q < f0 + across:
                frame(source[0], area, a_edge, b_edge, p, q, near, far)
                q += threads
        for u in range(BEFORE + max(0, f0 + across - c1)):
            p, q = r0 + lane, f0 + u if u < BEFORE else c1 + u - BEFORE
            while p < min(r1, e1):
                frame(source[0], area, a_edge, b_edge, p, q, near, far)
                p += threads
    if not ALONE and fence != 0:
        block_barrier()
    part_d, part_t = zero, zero
    length = fetch(lengths, LENGTHS + 2 * ((i1 - i0) * (W + 1) + wide))
    strips = fetch(lengths, LENGTHS + 2 * ((i1 - i0) * (W + 1) + wide) + 1)
    strip = lane  # a range with such a step would divide to count its steps
    while strip < strips:
        i = quotient(strip, wide)
        j = j0 + strip - i * wide
        i = i0 + i * length
        stop = min(i + length, i1)
        i2, j2 = i + dr, j + dc
        if CYCLIC:
            j2 = j2 - W if j2 >= W else j2
        cell = (i + TOP) * PITCH + j + LEFT
        here = i * W + j
        first = (i * STRIDE - ABOVE + TOP_IN) * PITCH_IN + j * STRIDE - BEFORE + LEFT_IN
        if FRAMED:
            for u in unroll(CARRIED):
                sums_d[u], sums_t[u] = peek(source[0], first), peek(source[0], area + first)
                for v in range(1, SIZE):
                    sums_d[u] += peek(source[0], first + v)
                    sums_t[u] += peek(source[0], area + first + v)
                first += PITCH_IN
        while i < stop:
            if CYCLIC:
                i2 = i + dr - H if i + dr >= H else i + dr
            there = i2 * W + j2 if CYCLIC else here
            d, t = zero, zero
            for n in unroll(STEPS):
                if KIND[n] == PIXELS:
                    if ALONE:
                        d = real(fetch(given, 0))
                    else:
                        d = distance(
                            advance(a, here), advance(b, there + shift), 0, H * W, channels
                        )
                elif KIND[n] == LOAD:
                    d = fetch(kept, array[n] + here)
                    t = fetch(kept, memory_cells + array[n] + here)
                    if CENTERED[n]:
                        d = (d - fetch(a_cell[n], here)) - fetch(b_cell[n], there)
                elif FILTERED and n == 0:
                    if FRAMED:
                        for u in unroll(SIZE):
                            if u >= CARRIED:
                                sums_d[u] = peek(source[0], first)
                                sums_t[u] = peek(source[0], area + first)
                                for v in range(1, SIZE):
                                    sums_d[u] += peek(source[0], first + v)
                                    sums_t[u] += peek(source[0], area + first + v)
                                first += PITCH_IN
                        d, t = sums_d[0], sums_t[0]
                        for u in unroll(SIZE - 1):
                            d += sums_d[u + 1]
                            t += sums_t[u + 1]
                        for u in unroll(CARRIED):
                            sums_d[u] = sums_d[u + STRIDE]
                            sums_t[u] = sums_t[u + STRIDE]
                        if STRIDE > SIZE:
                            first += (STRIDE - SIZE) * PITCH_IN
                    elif SEAM:
                        near, far = (i2 - i) * STRIDE, (j2 - j) * STRIDE
                        for x in range(i * STRIDE - ABOVE, i * STRIDE - ABOVE + SIZE):
                            for y in range(j * STRIDE - BEFORE, j * STRIDE - BEFORE + SIZE):
                                mine = 0 <= x < H_IN and 0 <= y < W_IN
                                other = 0 <= x + near < H_IN and 0 <= y + far < W_IN
                                if mine and other:
                                    at = (x + TOP_IN) * PITCH_IN + y + LEFT_IN
                                    d += peek(source[0], at)
                                    t += peek(source[0], area + at)
                                elif mine:
                                    d += fetch(a_edge, x * W_IN + y)
                                elif other:
                                    d += fetch(b_edge, (x + near) * W_IN + y + far)
                    else:
                        d, t = peek(source[0], first), peek(source[0], area + first)
                        first += STRIDE * PITCH_IN
                elif KIND[n] == STORE or KIND[n] == END:
                    x, y = d, t
                    if REGISTER[n] == 0:
                        x, y = peek(source[n], cell), peek(source[n], area + cell)
                    if runs[n] != 0:
                        if KIND[n] == END:
                            weight = fetch(row_weights, i * H + i2)
                            weight *= fetch(column_weights, j * W + j2)
                            part_d += weight * x
                            part_t += weight * y
                        elif POOLED[n]:
                            put(found, array[n] + here, x)
                            put(found, cell_count + array[n] + here, y)
                        else:
                            put(kept, array[n] + here, x)
                            put(kept, memory_cells + array[n] + here, y)
                elif KIND[n] == ADD:
                    x, y, z, w = d, t, d, t
                    if REGISTER[n] != 1:
                        x, y = peek(source[n], cell), peek(source[n], area + cell)
                    if REGISTER[n] != 2:
                        z, w = peek(second[n], cell), peek(second[n], area + cell)
                    d, t = factor[n] * x + factor_2[n] * z, factor[n] * y + factor_2[n] * w
                else:
                    if REGISTER[n] == 0:
                        d, t = peek(source[n], cell), peek(source[n], area + cell)
                    if KIND[n] != LINEAR:
                        d, t = cell_layer(
                            KIND[n], SIGNED[n], advance(values, n * CONSTANTS), d, t,
                            advance(a_cell[n], here), advance(b_cell[n], there), H * W,
                        )  # fmt: skip
                if KIND[n] == LINEAR:
                    d, t = d * factor[n], t * factor[n]
                    if TRAINED[n]:
                        x, y = fetch(a_half[n], here), fetch(b_half[n], there)
                        # exactly 0 where a variance is 0: a LayerNorm would enlarge rounding errors
                        t += (x + y) - d if x > zero and y > zero else zero
                if KEPT[n]:
                    put(target[n], cell, d)
                    put(target[n], area + cell, t)
            i, i2, cell, here = i + 1, i2 + 1, cell + PITCH, here + W
        strip += threads
    return part_d, part_t


def _frame(source, area, a, b, x, y, near, far):
    """Store cell (x, y) beyond the border of a filter's input.

    ``a`` and ``b`` point to the images' half variances of the input, ``near`` and ``far`` are its
    displacements of rows and columns.
    """
    d, t = zero, zero
    if CIRCULAR:
        there = (x % H_IN + TOP_IN) * PITCH_IN + y % W_IN + LEFT_IN
        d, t = peek(source, there), peek(source, area + there)
    elif 0 <= x < H_IN and 0 <= y < W_IN:
        d = fetch(a, x * W_IN + y)
    elif 0 <= x + near < H_IN and 0 <= y + far < W_IN:
        d = fetch(b, (x + near) * W_IN + y + far)
    put(source, (x + TOP_IN) * PITCH_IN + y + LEFT_IN, d)
    put(source, area + (x + TOP_IN) * PITCH_IN + y + LEFT_IN, t)


def _windows(
    cells, cell_count, start, row_slots, column_slots, columns, slots, total, size, stride, H, W,
    h, w, memory, memory_cells, array,
):  # fmt: skip
    """Add up the cells of every pair of windows of a pool, one in each of n·(h·w)² threads.

    Args:
        cells: (n, 2, cell_count) of the dtype, filled by ``_level``.
        cell_count: Cells of it for a pair.
        start: Where the pool's cells start.
        row_slots: Where its slot of row displacement 0 is.
        column_slots: Where its slot of column displacement 0 is.
        columns: How many slots the columns have.
        slots: See ``stages.Level``.
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
            row = slots[row_slots + i2 - i]
            row_d, row_t = zero, zero
            for j in range(J * stride, J * stride + size):
                for j2 in range(J2 * stride, J2 * stride + size):
                    column = slots[column_slots + j2 - j]
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
