"""The GPU kernel for ReLU behind 3 × 3 filters on images that do not fit registers.

Like ``cuda.fused``, whose arithmetic this is, it gives a displacement class to a team of lanes, and
a lane ``columns`` adjacent columns of it. But the state is in memory, and a team goes down the
rows in a loop, with several layers at a time: layer s + 1 takes row r − 1 as soon as layer s has
row r. A layer keeps its sums of two rows in registers and nothing else. So the state is read and
written once for every ``stages`` layers, by the lane that owns it, and no lane waits for another.

What bounds it, counted for 64 × 64 cells in float32, a cell and layer: 52 instructions; 4 bytes of
state, as 16 bytes go to and fro every 4 layers; 3 to 4 bytes of the two images' numbers, for which
the four teams of a block of threads take classes of one chunk and begin together, so that the
nearest cache gives three of them what the fourth one read. At 4 instructions of a warp a cycle, a
multiprocessor takes a cell every 0.41 cycles, and 8 bytes in that time are 20 bytes a cycle, about
what the L2 cache of an H100, an A100 or an RTX 4090 gives each of their multiprocessors. (With one
layer at a time it were 20 bytes a cell, and the cache alone would take twice the time of the
arithmetic.) A class takes 32 KB. In shared memory a multiprocessor would have room for 7 (H100), 5
(A100) or 3 teams (RTX 4090), too few for its four schedulers to be busy, and for one of 128 × 128
cells on a few GPUs alone. The L2 cache is shared by all: with three blocks of threads a
multiprocessor, 12 teams, the state is 52 MB on an H100 (of 50), 42 MB on an A100 (of 40), 50 MB on
an RTX 4090 (of 72). What larger images leave to the device memory are 4 to 8 bytes a cell and layer.
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


MOST_COLUMNS = 8  # of a lane
REGISTERS = 2**16  # of a multiprocessor


def stages_of(columns: int) -> int:
    """Return how many layers a team takes at a time if a lane has so many columns."""
    return min(4, max(1, 9 // columns))


def layers_to_know(layers: int, stages: int) -> int:
    """Return the least number of layers whose kernel is that of ``layers``."""
    return min(layers, 2 * stages + 1 + (layers - 1) % stages)


def blocks_at_once(spec: Fused) -> int:
    """Return how many blocks of threads a multiprocessor has at a time."""
    return 3 if spec.columns <= 2 and spec.dtype == "float32" else 2


def passes_of(spec: Fused) -> tuple[int, int]:
    """Return how many layers the first pass takes, and how many passes there are, 3 at most.

    The pixels count as a layer. The first pass takes 2 layers or more, all those that differ from
    the others; each pass behind it takes ``stages``.
    """
    behind = (spec.layers - 1) // spec.stages
    return spec.layers + 1 - behind * spec.stages, 1 + behind


@lru_cache(maxsize=64)
def streamed_kernel(spec: Fused) -> Any:
    """Return the kernel for blocks of one kind; its arguments are those of ``_streamed``."""
    head, passes = passes_of(spec)
    constants = {**known_of(spec), "head": head, "passes": passes}
    most = REGISTERS // (blocks_at_once(spec) * THREADS) // 8 * 8
    return kernel(written_out(_streamed, constants, names_of(spec)), max_registers=min(most, 255))


def _streamed(
    pairs, tasks, teams, chunks, starts, classes, A, B, size, pooled, planes, units, last, weights,
    totals, cells, scratch,
):  # fmt: skip
    """Run one block.

    Args:
        pairs: As for ``cuda.fused``, and so are all up to ``cells``. ``teams`` share a chunk
            where they go in step.
        scratch: (teams of the grid, H, columns, 2, LANES) of the dtype, Δ and Θ of each team's
            class.
    """
    thread = cuda.threadIdx.x
    lane = thread % LANES
    group = lane // lanes_of_class
    first = (lane - group * lanes_of_class) * columns
    mine, ja, jb, pa, pb, left, right = registers(columns)
    root_a, root_b, half_left, half_right = registers(columns)
    link_left, link_right, some_left, some_right = registers(columns)
    # of a cell, as it goes from layer to layer
    D, T, x, y, new_d, new_t, sum_d, sum_t = registers(columns)
    # of each layer: the sum of the last row and the one over it, and the last row
    two_d, two_t, last_d, last_t, read_d, read_t = registers(columns * (stages + 1))
    trained, factor = registers(stages + 1)
    if reads > 0:
        early = cuda.local.array(2 * reads, float64)
    for c in unroll(columns):
        mine[c] = group < together and first + c < W
        ja[c] = min(first + c, W - 1)
    number = (cuda.blockIdx.x * threads + thread) // LANES
    state = pointer(scratch, number * H * columns * 2 * LANES + lane)
    for task in range(number, tasks, cuda.gridDim.x * threads // LANES):
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
            paste(link_columns, jb)
            # a layer's numbers are 3 planes behind those of the layer in front
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
                    layers_at_once = known(head if part == 0 else stages)
                    ends = known(part == 2 or passes == 1)
                    turns_of_pass = known(H + layers_at_once - (1 if ends else 0))
                    for sweep in range(
                        0 if part == 0 else head if part == 1 else last + 1 - stages,
                        1 if part == 0 else last + 1 - stages if part == 1 else last + 1,
                        stages,
                    ):
                        if in_step:
                            block_barrier()
                        for c in unroll(columns):
                            sum_d[c], sum_t[c] = zero, zero
                        for s in unroll(layers_at_once):
                            ended = known(ends and s == layers_at_once - 1)
                            trained[s] = fetch(pointer(units, 0), 3 * (sweep + s))
                            if scaled:
                                factor[s] = fetch(pointer(units, 0), 3 * (sweep + s) + 1)
                            for c in unroll(columns):
                                sc = known(s * columns + c)
                                two_d[sc], two_t[sc] = zero, zero
                                last_d[sc], last_t[sc] = zero, zero
                                read_d[sc], read_t[sc] = zero, zero
                                # the row above is that of the column image alone
                                if not ended and p > 0:
                                    last_d[sc] = fetch(root_b[c], (3 * s + 2) * plane - pitch)
                        for turn in range(turns_of_pass):
                            for s in unroll(layers_at_once):
                                phase = known(s if part == 0 and s < 2 else 2)
                                ended = known(ends and s == layers_at_once - 1)
                                # the pointers are at row ``turn``
                                row_at = known(s * (3 * plane - pitch))
                                r = turn - s
                                if 0 <= r < H:
                                    for c in unroll(columns):
                                        if phase == 0:
                                            paste(value_in_front, window_at)
                                        if part > 0 and s == 0:
                                            cell = (r * columns + c) * 2 * LANES
                                            D[c] = peek(state, cell)
                                            T[c] = peek(state, cell + LANES)
                                        if phase > 0:
                                            ra, rb = fetch(root_a[c], row_at), fetch(root_b[c], row_at)
                                            t = zero if phase == 1 and channels > 0 else T[c]
                                            if phase == 1 and signed:
                                                x[c], y[c] = relu_signed(D[c], t, ra, rb, trained[s])
                                            else:
                                                x[c], y[c] = relu(D[c], t, ra, rb, trained[s])
                                        sc = known(s * columns + c)
                                        if reads > 0 and phase > 0 and not ended:
                                            read_d[sc] = read_d[sc] + x[c]
                                            read_t[sc] = read_t[sc] + y[c]
                                        if ended:
                                            paste(end_cell)
                                    if not ended:
                                        if phase == 0 and channels > 0:  # Θ is zero yet
                                            from_d, next_d = beside_one(x[0], x[columns - 1])
                                            from_t, next_t = zero, zero
                                        else:
                                            from_d, from_t, next_d, next_t = beside(
                                                x[0], y[0], x[columns - 1], y[columns - 1]
                                            )
                                        at_cut = r == cut
                                        link = zero if at_cut else one
                                        for c in unroll(columns):
                                            paste(add_along_row, from_d, from_t, next_d, next_t)
                                            sc = known(s * columns + c)
                                            if at_cut:  # both rows meet the row image's alone
                                                two_d[sc] += fetch(root_a[c], row_at + 2 * plane)
                                                last_d[sc] = fetch(root_a[c], row_at + 2 * plane - pitch)
                                                last_t[sc] = zero
                                            D[c] = two_d[sc] + new_d[c] * link
                                            T[c] = two_t[sc] + new_t[c] * link
                                            two_d[sc] = new_d[c] + last_d[sc]
                                            two_t[sc] = new_t[c] + last_t[sc]
                                            last_d[sc], last_t[sc] = new_d[c], new_t[c]
                                elif not ended:
                                    for c in unroll(columns):
                                        sc = known(s * columns + c)
                                        D[c], T[c] = two_d[sc], two_t[sc]
                                        if p > 0:  # below the last row is the column image's alone
                                            D[c] = D[c] + fetch(root_b[c], row_at + 2 * plane)
                                if scaled and not ended:  # keeps deep networks in range
                                    for c in unroll(columns):
                                        D[c], T[c] = D[c] * factor[s], T[c] * factor[s]
                            if not ends and turn >= layers_at_once:
                                for c in unroll(columns):
                                    cell = ((turn - layers_at_once) * columns + c) * 2 * LANES
                                    put(state, cell, D[c])
                                    put(state, cell + LANES, T[c])
                            for c in unroll(columns):
                                root_a[c], root_b[c] = advance(root_a[c], pitch), advance(root_b[c], pitch)
                                half_left[c] = advance(half_left[c], pitch)
                                half_right[c] = advance(half_right[c], pitch)
                                if part == 0 and channels > 0:
                                    pa[c], pb[c] = advance(pa[c], pitch), advance(pb[c], pitch)
                        for c in unroll(columns):
                            to_next = known(layers_at_once * 3 * plane - turns_of_pass * pitch)
                            root_a[c], root_b[c] = advance(root_a[c], to_next), advance(root_b[c], to_next)
                            half_left[c] = advance(half_left[c], to_next)
                            half_right[c] = advance(half_right[c], to_next)
                        if reads > 0:
                            for s in unroll(layers_at_once):
                                network = planes[sweep + s, 3]
                                for c in unroll(columns):
                                    sc = known(s * columns + c)
                                    if network >= 0 and mine[c] and mine_at < stop:
                                        early[2 * network] += np.float64(read_d[sc])
                                        early[2 * network + 1] += np.float64(read_t[sc])
            for c in unroll(columns):
                paste(end_column)
        paste(end_chunk)
