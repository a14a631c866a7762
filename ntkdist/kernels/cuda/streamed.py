"""The GPU kernel for ReLU behind 3 × 3 filters on images whose cells do not fit registers.

The arithmetic is that of ``cuda.fused``, and so is the division of work: a team of lanes (a warp)
takes a displacement class, or as many as fit side by side, and a lane ``columns`` adjacent columns.
Here Δ and Θ are in device memory, and a team goes down the rows in a loop, with several layers in
one pass: when a layer has added row r to its sums, row r − 1 of the next layer can be computed. So
a pass reads and writes the state once for all its layers. A layer keeps a row, and the sum of that
row and the one above, in registers. A lane reads from the state only cells that it wrote itself,
so these reads need no barrier; the columns beside its own come by shuffles, as in ``cuda.fused``.

What that costs, counted for 64 × 64 cells in float32, four layers a pass. A cell and layer take 61
instructions (in the compiled code for compute capability 9.0), so at full rate, 128 a cycle, a
multiprocessor takes two cells a cycle. A pass reads and writes 16 bytes of state a cell, 4 a layer.
A team reads 10 bytes of the images a cell and layer. With ``in_step``, a block's four teams begin a
pass together on adjacent classes, which read the same rows: three of them find in the L1 cache what
the first one fetched. That is 6 to 7 bytes a cell and layer from the L2 cache, 13 a cycle and
multiprocessor; the L2 cache of an A100 is specified to deliver 47. With one layer a pass, it would
be 18 bytes a cell and layer, and 38 a cycle and multiprocessor.

The state of a class takes 32 KB. Shared memory holds 7 (H100), 5 (A100) or 3 (RTX 4090) classes,
too few teams to keep four schedulers busy, and no class of 256 × 256. Registers allow 12 teams a
multiprocessor; their state is 52 MB on an H100 (whose L2 cache has 50), 42 MB on an A100 (40) and
50 MB on an RTX 4090 (72). More teams would only displace each other's state.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import float64

from ntkdist.kernels.cuda.fused import (
    Fused,
    add_along_row,
    end_cell,
    end_chunk,
    end_column,
    known_of,
    link_columns,
    names_of,
    value_in_front,
)
from ntkdist.kernels.cuda.intrinsics import (
    LANES,
    THREADS,
    advance,
    beside,
    beside_one,
    block_barrier,
    cuda,
    fetch,
    kernel,
    peek,
    pointer,
    put,
)
from ntkdist.kernels.cuda.unroll import known, paste, registers, unroll, written_out

MOST_COLUMNS = 8  # of a lane: 255 registers hold little more than one layer of them
REGISTERS = 2**16  # of a multiprocessor


def layers_of_pass(columns: int) -> int:
    """Return how many layers a pass takes: as many as registers hold, at most four."""
    return min(4, max(1, 9 // columns))


def layers_to_know(layers: int, of_pass: int) -> int:
    """Return the smallest number of layers that has the same kernel as ``layers``."""
    return min(layers, 2 * of_pass + 1 + (layers - 1) % of_pass)


def blocks_at_once(spec: Fused) -> int:
    """Return how many blocks of threads a multiprocessor has at a time."""
    return 3 if spec.columns <= 2 and spec.dtype == "float32" else 2


@lru_cache(maxsize=64)
def streamed_kernel(spec: Fused) -> Any:
    """Return the kernel for blocks of one kind; its arguments are those of ``_streamed``."""
    # later passes are full; the first takes the pixels, the first layer and the layers left over
    others = (spec.layers - 1) // spec.layers_of_pass
    first_pass = spec.layers + 1 - others * spec.layers_of_pass
    constants = {**known_of(spec), "first_pass": first_pass, "passes": 1 + others}
    most = min(255, REGISTERS // (blocks_at_once(spec) * THREADS) // 8 * 8)
    return kernel(written_out(_streamed, constants, names_of(spec)), max_registers=most)


def _streamed(
    pairs, tasks, teams, chunks, starts, classes, A, B, size, pooled, planes, units, last, weights,
    totals, cells, scratch,
):  # fmt: skip
    """Run one block.

    Args:
        pairs: As for ``cuda.fused``, and so are all up to ``cells``.
        scratch: (teams of the grid, H, columns, 2, LANES) of the dtype, Δ and Θ of each team's
            classes.
    """
    thread = cuda.threadIdx.x
    lane = thread % LANES
    group = lane // lanes_of_class
    first = (lane - group * lanes_of_class) * columns
    mine, ja, jb, pa, pb, left, right = registers(columns)
    root_a, root_b, half_left, half_right = registers(columns)
    link_left, link_right, some_left, some_right = registers(columns)
    x, y, D, T, new_d, new_t, sum_d, sum_t = registers(columns)
    # of each layer of a pass
    two_d, two_t, row_d, row_t, read_d, read_t = registers(columns * (layers_of_pass + 1))
    trained, factor = registers(layers_of_pass + 1)
    if reads > 0:
        early = cuda.local.array(2 * reads, float64)
    for c in unroll(columns):
        mine[c] = group < together and first + c < W
        ja[c] = min(first + c, W - 1)
    of_grid = (cuda.blockIdx.x * threads + thread) // LANES
    state = pointer(scratch, of_grid * H * columns * 2 * LANES + lane)
    for task in range(of_grid, tasks, cuda.gridDim.x * threads // LANES):
        chunk_of_pair = task // teams
        team = task - chunk_of_pair * teams
        pair = chunk_of_pair // chunks
        chunk = chunk_of_pair - pair * chunks
        a = pointer(A, pairs[pair, 0] * size)
        b = pointer(B, pairs[pair, 1] * size)
        begin, stop, count = starts[chunk], starts[chunk + 1], starts[chunks]
        total_d, total_t = np.float64(0), np.float64(0)
        if reads > 0:
            for k in range(2 * reads):
                early[k] = np.float64(0)
        for step in range(begin, stop, together * teams):
            mine_at = step + team * together + group
            at = min(mine_at, stop - 1)
            p = classes[at] // W
            q = classes[at] - p * W
            cut = H - p
            window_at = ((pair * 2 * H + p) * W + q) * H * W
            paste(link_columns)
            # the numbers of a layer follow those of the layer in front, three planes each
            roots_at = planes[1, 0] - 3 * plane
            for c in unroll(columns):
                root_a[c] = advance(pa[c], roots_at)
                root_b[c] = advance(pb[c], roots_at)
                # inactive lanes read an active lane's address, which takes fewer wavefronts
                half_left[c] = advance(b, p * pitch + max(q - 1, 0) + roots_at + plane)
                half_right[c] = advance(b, p * pitch + q + roots_at + plane)
                if some_left[c] == one:
                    half_left[c] = advance(left[c], roots_at + plane)
                if some_right[c] == one:
                    half_right[c] = advance(right[c], roots_at + plane)
            for part in unroll(3):  # the first pass, those between, the last
                if part == 0 or (part == 1 and passes > 2) or (part == 2 and passes > 1):
                    depth = known(first_pass if part == 0 else layers_of_pass)
                    ends = known(part == 2 or passes == 1)
                    for sweep in range(
                        0 if part == 0 else first_pass if part == 1 else last + 1 - layers_of_pass,
                        1 if part == 0 else last + 1 - layers_of_pass if part == 1 else last + 1,
                        layers_of_pass,
                    ):
                        paste(run_pass)
            for c in unroll(columns):
                paste(end_column)
        paste(end_chunk)


def run_pass(
    sweep, depth, ends, part, planes, units, state, root_a, root_b, half_left, half_right, pa, pb,
    p, H, pitch, plane, columns, channels, in_step, scaled, reads, mine, mine_at, stop, early,
):  # fmt: skip
    """Take ``depth`` layers from ``sweep`` on down the rows; pasted into ``_streamed``."""
    if in_step:
        block_barrier()
    for c in unroll(columns):
        sum_d[c], sum_t[c] = zero, zero
    for s in unroll(depth):
        ended = known(ends and s == depth - 1)
        trained[s] = fetch(pointer(units, 0), 3 * (sweep + s))
        factor[s] = fetch(pointer(units, 0), 3 * (sweep + s) + 1)
        for c in unroll(columns):
            own = known(s * columns + c)
            two_d[own], two_t[own], row_d[own], row_t[own] = zero, zero, zero, zero
            read_d[own], read_t[own] = zero, zero
            if not ended and p > 0:  # the row above the first is that of the column image alone
                row_d[own] = fetch(root_b[c], (3 * s + 2) * plane - pitch)
    turns = known(H + depth - (1 if ends else 0))
    for turn in range(turns):
        for s in unroll(depth):
            phase = known(s if part == 0 and s < 2 else 2)  # as in ``cuda.fused``
            ended = known(ends and s == depth - 1)
            r = turn - s
            row_at = known(s * (3 * plane - pitch))  # the pointers are at row ``turn``
            if 0 <= r < H:
                paste(activate_row)
                if not ended:
                    paste(add_row)
            elif not ended:
                for c in unroll(columns):
                    own = known(s * columns + c)
                    D[c], T[c] = two_d[own], two_t[own]
                    if p > 0:  # the row below the last is that of the column image alone
                        D[c] = D[c] + fetch(root_b[c], row_at + 2 * plane)
            if scaled and not ended:  # keeps the units of deep networks within range
                for c in unroll(columns):
                    D[c], T[c] = D[c] * factor[s], T[c] * factor[s]
        if not ends and turn >= depth:
            for c in unroll(columns):
                put(state, ((turn - depth) * columns + c) * 2 * LANES, D[c])
                put(state, ((turn - depth) * columns + c) * 2 * LANES + LANES, T[c])
        for c in unroll(columns):
            root_a[c], root_b[c] = advance(root_a[c], pitch), advance(root_b[c], pitch)
            half_left[c] = advance(half_left[c], pitch)
            half_right[c] = advance(half_right[c], pitch)
            if part == 0 and channels > 0:
                pa[c], pb[c] = advance(pa[c], pitch), advance(pb[c], pitch)
    for c in unroll(columns):
        on = known(depth * 3 * plane - turns * pitch)  # to the first row of the next pass
        root_a[c], root_b[c] = advance(root_a[c], on), advance(root_b[c], on)
        half_left[c], half_right[c] = advance(half_left[c], on), advance(half_right[c], on)
    if reads > 0:
        for s in unroll(depth):
            network = planes[sweep + s, 3]
            for c in unroll(columns):
                own = known(s * columns + c)
                if network >= 0 and mine[c] and mine_at < stop:
                    early[2 * network] += np.float64(read_d[own])
                    early[2 * network + 1] += np.float64(read_t[own])


def activate_row(
    D, T, r, s, row_at, phase, ended, state, root_a, root_b, trained, columns, channels,
    signed, reads,
):  # fmt: skip
    """Compute Δ and Θ in front of layer s of a pass, of row r; pasted into ``run_pass``."""
    for c in unroll(columns):
        if phase == 0:
            paste(value_in_front)
        else:
            if s == 0:
                D[c] = peek(state, (r * columns + c) * 2 * LANES)
                T[c] = peek(state, (r * columns + c) * 2 * LANES + LANES)
            ra, rb = fetch(root_a[c], row_at), fetch(root_b[c], row_at)
            t = zero if phase == 1 and channels > 0 else T[c]
            if phase == 1 and signed:
                x[c], y[c] = relu_signed(D[c], t, ra, rb, trained[s])
            else:
                x[c], y[c] = relu(D[c], t, ra, rb, trained[s])
            if reads > 0:
                own = known(s * columns + c)
                read_d[own], read_t[own] = read_d[own] + x[c], read_t[own] + y[c]
        if ended:
            paste(end_cell)


def add_row(x, y, D, T, two_d, two_t, r, s, row_at, cut, root_a, phase, columns, channels, plane):
    """Add row r to the sums of layer s; Δ and Θ behind it, of row r − 1, go to ``D`` and ``T``."""
    if phase == 0 and channels > 0:  # Θ is zero yet
        from_d, next_d = beside_one(x[0], x[columns - 1])
        from_t, next_t = zero, zero
    else:
        from_d, from_t, next_d, next_t = beside(x[0], y[0], x[columns - 1], y[columns - 1])
    at_cut = r == cut
    link = zero if at_cut else one
    for c in unroll(columns):
        paste(add_along_row)
        own = known(s * columns + c)
        if at_cut:  # below the row above, and above this one, is the row image's alone
            two_d[own] = two_d[own] + fetch(root_a[c], row_at + 2 * plane)
            row_d[own], row_t[own] = fetch(root_a[c], row_at + 2 * plane - pitch), zero
        D[c] = two_d[own] + new_d[c] * link
        T[c] = two_t[own] + new_t[c] * link
        two_d[own], two_t[own] = new_d[c] + row_d[own], new_t[c] + row_t[own]
        row_d[own], row_t[own] = new_d[c], new_t[c]
