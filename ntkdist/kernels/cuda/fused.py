"""The GPU kernel for ReLU behind 3 × 3 filters, which is nearly all of the work.

A team of lanes (a warp) takes one displacement class of a pair of images at a time, or as many as
fit side by side. A lane has ``columns`` columns of the class with all their rows, Δ and Θ, in
registers, through all layers of a block: what a layer needs of the columns beside its own comes by
shuffles. What it needs of the two images, the teams of a block of threads share: they take
classes (p, q) of one row displacement p, and copy the numbers of a layer into shared memory while
they compute the one before. (Reading them through the cache took two thirds of the time: teams get
to different layers, and the numbers of all these layers do not fit the cache.) Where an entry has
one class, as without pooling, teams share nothing and read device memory. Cuts and units are those
of ``cpu.loops``; where a link is cut, Δ is half of the variance of the pixel that one image still
has, and Θ is zero.

Counted in machine code (32 × 32 pixels, float32, compute capability 9.0), a cell and layer takes 47
instructions with two columns a lane (cntk-gap-21) and 51 with one (myrtle-10). Three things keep
them few. The cut between
rows is the same for all threads that share, so that groups of rows without it have code without
factors for it. Behind a cut between columns a lane reads one number: where two links of a column
are cut, their sum stands in shared memory. And with two columns lanes exchange half as much.

The sums over a class are in the dtype along a column and in float64 beyond, in an order that
depends on the network and the images' size alone.

An average over 2 × 2 windows takes window I of the row image and I + P of the column image
together from rows of the classes p = 2P − 1, 2P and 2P + 1: of an even p both rows of a window
meet those of the same window; of an odd one the upper rows belong to P and the lower ones to P + 1.
Along the columns it is the same. So a block of threads takes a run of p, one after the other,
for a few q next to each other (``Parts``). Each lane adds up the rows of its column over three p,
in registers or in shared memory of its own; lanes and classes are added in shared memory, and
what is stored are windows. Cells stay in registers and shared memory, and the order of every sum
is fixed, however many p a block takes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import float64
from numba.np.numpy_support import from_dtype

from ntkdist.kernels.cuda.cells import across_of, across_one_of, cell_functions, distance, keep
from ntkdist.kernels.cuda.intrinsics import (
    LANES,
    TEAMS,
    THREADS,
    advance,
    await_copies,
    beside,
    beside_one,
    block_barrier,
    copy_unit,
    cuda,
    fetch,
    kernel,
    over_lanes,
    peek,
    pointer,
    put,
)
from ntkdist.kernels.cuda.unroll import known, paste, registers, unroll, written_out

# A lane has two numbers a cell and some forty others; 255 registers hold these and what is loaded
MOST_CELLS = 64
# Of a thread in float32, by its cells: a multiprocessor then holds four blocks of threads, or three
MOST_REGISTERS = {32: 128, 64: 168}
# Rows of a group; a group without the cut runs code without factors for it
GROUP_ROWS = 8
# Shared memory of a block of threads, static: the limit of CUDA
SHARED_BYTES = 48 * 1024
# Shared memory that the driver takes for itself in each block of threads
RESERVED_BYTES = 1024


@dataclass(frozen=True)
class Fused:
    """What is known when a fused kernel is compiled.

    Attributes:
        H: Rows of the block's images.
        W: Columns.
        pitch: Numbers from one row of a plane to the next.
        plane: Numbers of a plane.
        columns: Columns of a lane.
        channels: Channels of a pixel; 0 where the block begins with pooled windows.
        layers: Nonlinearities of the block; 3 stands for more (see also
            ``streamed.layers_to_know``).
        signed: Whether the first of them takes negative correlations.
        sums: Whether the block ends in sums over positions.
        weighted: Whether cells have weights in these sums.
        pools: Whether it ends in sums over pairs of 2 × 2 windows; else, and without ``sums``,
            its cells are stored.
        parted: How many window displacements along a row the pooled windows come in parts of (see
            ``Parts``), if the block begins with such; else 0.
        reads: Shallower networks that end in the same sums on the way.
        buffers: Layers that shared memory holds at a time, 2 if the next is copied ahead (of a
            single one there is none); 0 where images are read from device memory.
        dtype: ``float32`` or ``float64``.
        layers_of_pass: For ``cuda.streamed``, whose state is in memory; 0 where it is in
            registers. The next two are for that kernel too.
        in_step: Whether the teams of a block of threads share chunks of classes.
        scaled: Whether sums of neighbours are multiplied by factors.
    """

    H: int
    W: int
    pitch: int
    plane: int
    columns: int
    channels: int
    layers: int
    signed: bool
    sums: bool
    weighted: bool
    pools: bool
    parted: int
    reads: int
    buffers: int
    dtype: str
    layers_of_pass: int = 0
    in_step: bool = False
    scaled: bool = False

    @property
    def layer_size(self) -> int:
        """Numbers of both images that one layer needs: roots, half variances, four rows of sums.

        Rows of half variances have room for the sums of two (``_fused``).
        """
        return layer_size_of(self.H, self.pitch, self.dtype)

    @property
    def lanes_of_class(self) -> int:
        """Lanes that share a class."""
        return -(-self.W // self.columns)

    @property
    def together(self) -> int:
        """Classes of a team at a time."""
        return LANES // self.lanes_of_class

    @property
    def parts(self) -> Parts:
        """How its pooled windows are cut."""
        return Parts.of(self.W)

    @property
    def layers_size(self) -> int:
        """Numbers of the layers in shared memory; a single layer has no next one."""
        return min(self.buffers, self.layers) * self.layer_size

    @property
    def kept(self) -> int:
        """Rows of windows whose sums stay in registers.

        All where the registers suffice; else shared memory, each thread's own part of it, takes as
        many rows as fit.
        """
        rows = self.H // 2
        if self.layers == 1 or self.H <= 16:
            return rows
        limit = SHARED_BYTES // np.dtype(self.dtype).itemsize
        return next(kept for kept in range(rows + 1) if self._shared(kept) <= limit)

    def _exchange(self, kept: int) -> int:
        return max(1, self.layers_size, 2 * THREADS * kept if self.pools else 0)

    def _shared(self, kept: int) -> int:
        in_memory = self.H // 2 - kept if self.pools else 0
        return self._exchange(kept) + 2 * THREADS * in_memory

    @property
    def exchange_size(self) -> int:
        """Numbers of shared memory for layers, or for the exchange of a pool's sums."""
        return self._exchange(self.kept)

    @property
    def shared_size(self) -> int:
        """Numbers of shared memory."""
        return self._shared(self.kept)


@dataclass(frozen=True)
class Parts:
    """How the pairs of windows of a pool are cut among blocks of threads, along the columns.

    Window J of a row image with window J + Q of a column image takes cells of the classes
    q = 2Q − 1, 2Q and 2Q + 1 (modulo W). A block of threads has ``run`` adjacent classes q, from an
    even one on. Its last class, an odd one, also adds to the first Q of the next block; these sums
    have a slot of their own. So a block stores ``half`` + 1 slots.

    Attributes:
        W: Columns in front of the pool.
        run: Classes of a block of threads, even.
    """

    W: int
    run: int

    @classmethod
    def of(cls, W: int) -> Parts:
        """Return how windows of an image with W columns, W even, are cut."""
        return cls(W, min(W, TEAMS * (LANES // W)))

    @property
    def half(self) -> int:
        """Window displacements of a block of threads."""
        return self.run // 2

    @property
    def count(self) -> int:
        """Blocks of threads that the classes of one p take."""
        return -(-self.W // self.run)

    @property
    def slots(self) -> int:
        """Slots of all of them."""
        return self.count * (self.half + 1)


def layer_size_of(H: int, pitch: int, dtype: str) -> int:
    """Return how many numbers of both images a layer needs."""
    return 4 * (H + 1) * pitch + 2 * H * unit_of(dtype)


def unit_of(dtype: str) -> int:
    """Return how many numbers a thread copies at a time."""
    return 16 // np.dtype(dtype).itemsize


def columns_of(W: int) -> int:
    """Return how many columns a lane has at least."""
    return -(-W // LANES)


def best_columns(H: int, W: int, each: int, dtype: str) -> int:
    """Return how many columns a lane has in a block whose teams share what is copied.

    With two, lanes exchange half as many numbers: on 32 × 32 pixels a cell and layer takes 47
    instructions instead of 51 (compute capability 9.0). But a block of threads then takes twice as
    many classes at a time, and of the ``each`` of a row displacement the last ones may leave lanes
    idle.
    """
    if columns_of(W) > 1 or W % 2 or 2 * H > MOST_CELLS or dtype != "float32":
        return columns_of(W)
    costs = []
    for columns, instructions in ((1, 51), (2, 47)):
        at_once = TEAMS * (LANES * columns // W)
        costs.append(-(-each // at_once) * at_once * instructions)
    return 1 + (costs[1] < costs[0])


def buffers_of(
    H: int, W: int, pitch: int, layers: int, count: int, each: int, dtype: str, *, pools: bool,
    room: int,
) -> int:  # fmt: skip
    """Return how many of a block's ``layers`` to keep in shared memory.

    2, so that one is copied while another is in use; 1 where two do not fit, or where a
    multiprocessor, with ``room`` bytes of shared memory, then has more blocks of threads at a time,
    up to three; 0 where none fits, or an entry (``count``) and a row displacement (``each``) have
    too few classes for a block of teams to share what is copied.
    """
    enough = max(2, min(W, TEAMS * max(1, LANES // W)))
    if H * W == 1 or (count < H * W and each < enough and not pools):
        return 0
    size = layer_size_of(H, pitch, dtype) * np.dtype(dtype).itemsize
    fit = SHARED_BYTES // size
    if fit < min(2, layers):
        return fit
    with_two, with_one = (room // (n * size + RESERVED_BYTES) for n in (2, 1))
    return 1 if layers > 1 and not pools and with_two < min(3, with_one) else 2


def can_pool(H: int, W: int, edge: int, dtype: str) -> bool:
    """Return whether a fused kernel can add up the windows behind its block."""
    exchanged = 2 * THREADS * (H // 2) * np.dtype(dtype).itemsize
    return edge == 2 and H % 2 == 0 and W % 2 == 0 and W <= LANES and exchanged <= SHARED_BYTES


@lru_cache(maxsize=64)
def fused_kernel(spec: Fused) -> Any:
    """Return the kernel for blocks of one kind; its arguments are those of ``_fused``."""
    cells = spec.H * spec.columns
    limit = {}
    if spec.dtype == "float32" and (cells <= 32 or not spec.pools):
        limit["max_registers"] = MOST_REGISTERS[32 if cells <= 32 else 64]
    return kernel(written_out(_fused, known_of(spec), names_of(spec)), **limit)


def known_of(spec: Fused) -> dict[str, Any]:
    """Return the constants of a kernel for blocks of one kind."""
    constants = asdict(spec)
    del constants["dtype"]
    constants |= {"lanes_of_class": spec.lanes_of_class, "together": spec.together}
    constants["front"] = spec.H * spec.pitch
    constants["next_layer"] = spec.layer_size if spec.layers > 1 else 0
    constants["shared_size"] = spec.shared_size
    unit = unit_of(spec.dtype)
    constants |= {"threads": THREADS, "lanes": LANES, "unit": unit}
    constants["turns"] = -(-constants["front"] // (THREADS * unit))
    constants["side_turns"] = -(-4 * spec.pitch // (THREADS * unit))
    constants["whole"] = constants["front"] % (THREADS * unit) == 0
    assert spec.buffers == 0 or THREADS * unit % spec.pitch == 0
    half_pitch = spec.pitch + unit
    constants |= {"half_pitch": half_pitch, "halves": spec.H * half_pitch}
    constants |= {"sides": 2 * (constants["front"] + spec.H * half_pitch)}
    constants["paired"] = spec.buffers > 0 and spec.W > 1
    shares = spec.buffers > 0 or spec.pools
    groups = -(-spec.H // GROUP_ROWS) if shares else 1
    constants |= {"shares": shares, "row_groups": groups, "group_rows": -(-spec.H // groups)}
    return constants | known_of_pools(spec)


def names_of(spec: Fused) -> dict[str, Any]:
    """Return the functions and typed constants that such a kernel takes."""
    zero, one = np.dtype(spec.dtype).type(0), np.dtype(spec.dtype).type(1)
    return {
        **cell_functions(spec.dtype),
        "across": across_of(zero, one),
        "across_one": across_one_of(zero, one),
        "zero": zero,
        "one": one,
        "real": type(one),
        "kind": from_dtype(np.dtype(spec.dtype)),
        "look": peek if spec.buffers else fetch,
    }


def known_of_pools(spec: Fused) -> dict[str, Any]:
    """Return what is known of the pools behind and in front of a block."""
    h, w = spec.H // 2, spec.W // 2
    constants: dict[str, Any] = {
        "windows": h,
        "across_windows": w,
        "area": h * w,
        "kept": spec.kept,
    }
    constants["kept_at"] = spec.exchange_size - 2 * THREADS * spec.kept
    constants["gathers"] = -(-2 * h * w // THREADS)
    constants["all_gather"] = 2 * h * w % THREADS == 0
    constants |= {"half": 0, "slots": 0, "run": 0, "slots_in": spec.W, "parts_in": 1}
    if spec.pools:
        parts = spec.parts
        constants |= {"half": parts.half, "slots": parts.slots, "run": parts.run}
    if spec.parted:
        constants["parts_in"] = -(-spec.W // spec.parted)
        constants["slots_in"] = constants["parts_in"] * (spec.parted + 1)
    return constants


def _fused(
    pairs, tasks, teams, chunks, starts, classes, A, B, size, pooled, planes, units, last, weights,
    totals, cells,
):  # fmt: skip
    """Run one block.

    Args:
        pairs: (n, 2) int64, row image and column image of each pair.
        tasks: n · chunks · teams.
        teams: That share a chunk: those of a block of threads where shared memory is used, else 1.
        chunks: Parts that the classes are cut into; where shared memory is used, one for each p.
        starts: (chunks + 1,) int64, where each part's classes start; in front of a pool
            ``Pooling.columns``.
        classes: (count,) int64, p·W + q of the displacement classes. In front of a pool
            (chunks · 3,): the first P of its windows' row displacements P, how many of them, and
            the first q.
        A: (images, size) numbers of the row images.
        B: (images, size) numbers of the column images.
        size: Numbers of an image.
        pooled: (n, 2, H·slots, H, W) Δ and Θ of pooled windows, one slot for each displacement
            along a row or those of ``Parts``; unused in a first block.
        planes: (last + 1, 4) int64, where an image's numbers for a sweep start: roots (in the
            first sweep pixels, or means of windows), half variances, sums of them along rows; and
            which of the shallower networks ends behind it, or −1.
        units: (last + 1, 3) of the dtype: 1 if the layer in front is trained, else 0; what
            sums of neighbours are multiplied by; and 0.
        last: Index of the last sweep.
        weights: (H² + W²,) of the dtype: row i of a class (p, q) has p·H + i, column j has
            H² + q·W + j, and a cell the product, in weighted sums; else not read.
        totals: (n, chunks · teams, networks, 2) float64, sums of Δ and Θ.
        cells: Δ and Θ at the end of a block in front of a pool, of the dtype: ``pooled`` of
            the next block, or (n, 2, count, H, W) where another kernel pools.
    """
    thread = cuda.threadIdx.x
    lane = thread % LANES
    if shares:  # computed from the block's number alone, so that all of its threads know it equal
        chunk_of_pair, team = cuda.blockIdx.x, thread // LANES
        task = chunk_of_pair * teams + team
    else:
        task = (cuda.blockIdx.x * threads + thread) // LANES
        if task >= tasks:
            return
        chunk_of_pair = task // teams
        team = task - chunk_of_pair * teams
    pair = chunk_of_pair // chunks
    chunk = chunk_of_pair - pair * chunks
    if pools:  # a window takes rows of both neighbours: P takes p = 2P − 1, 2P and 2P + 1
        first_p, first_q = 2 * classes[3 * chunk] - 1, classes[3 * chunk + 2]
        begin, stop, stride = 0, 2 * classes[3 * chunk + 1] + 1, 1
        there = min(run, W - first_q)  # classes
        spill = (there - 1) // together * lanes + (there - 1) % together * lanes_of_class + 1
    else:
        begin, stop, count = starts[chunk], starts[chunk + 1], starts[chunks]
        stride = together * teams
    group = lane // lanes_of_class
    first = (lane - group * lanes_of_class) * columns
    a = pointer(A, pairs[pair, 0] * size)
    b = pointer(B, pairs[pair, 1] * size)
    D, T = registers(columns * H)
    mine, ja, jb, pa, pb, left, right = registers(columns)
    root_a, root_b, half_left, half_right = registers(columns)
    half, from_half = registers(columns)
    link_left, link_right, some_left, some_right = registers(columns)
    piece = registers(turns)
    side, from_side = registers(side_turns)
    x, y, sum_d, sum_t, old_d, old_t, new_d, new_t, up, down, below = registers(columns)
    total_d, total_t = np.float64(0), np.float64(0)
    read_d, read_t = registers(columns)
    if reads > 0:
        early = cuda.local.array(2 * reads, float64)
        for k in range(2 * reads):
            early[k] = np.float64(0)
    pool_d, pool_t = registers(windows)
    if pools:
        for k in unroll(kept):
            pool_d[k], pool_t[k] = zero, zero
    for c in unroll(columns):
        mine[c] = group < together and first + c < W
        ja[c] = min(first + c, W - 1)
    if buffers > 0 or pools:
        shared = pointer(cuda.shared.array(shared_size, kind, alignment=16), 0)
    for step in range(begin, stop, stride):
        if pools:
            p = first_p + step
            p += (H if p < 0 else 0) - (H if p >= H else 0)
            q = starts[min(first_q + team * together + group, W - 1)]
        else:
            mine_at = step + team * together + group
            at = min(mine_at, stop - 1)
            p = classes[begin if shares else at] // W
            q = classes[at] - p * W
        cut = H - p
        if channels == 0:
            slot, behind_slot, beyond = q, 0, False
            if parted > 0:  # the first windows of a part have more in the last slot of another
                part = q // parted
                slot, beyond = q + part, q == part * parted
                behind_slot = (part if part > 0 else parts_in) * (parted + 1) - 1
            window_at = (pair * 2 * H + p) * slots_in * H * W
            behind_at = window_at + behind_slot * H * W
            window_at += slot * H * W
        if buffers > 0:
            # what the thread copies of each layer: of b the rows from p on, cyclic, and of the
            # sums along rows b's above and below its row p, a's above and below the cut
            held = 0
            in_halves = thread * unit + thread * unit // pitch * unit
            second = thread // H
            pair_row = thread - second * H
            at_pair = 2 * front + pair_row * half_pitch + pitch + second
            pair_a, pair_b = zero, zero
            for k in unroll(turns):
                piece[k] = (k * threads + thread) * unit
            for k in unroll(side_turns):
                side[k] = (k * threads + thread) * unit
                row = min(side[k] // pitch, 3)
                of_row = planes[1, 0] + 2 * plane + side[k] - row * pitch
                if row < 2:
                    from_side[k] = advance(b, of_row + (p + row - (1 if p > 0 else row)) * pitch)
                else:
                    from_side[k] = advance(a, of_row + (H - p + row - 3 if p > 0 else 0) * pitch)
        paste(link_columns)
        for phase in unroll(3):  # pixels or windows; the first ReLU; those behind it
            if phase == 0 or (phase == 1 and layers > 1) or (phase == 2 and layers > 2):
                for sweep in range(phase, last if phase == 2 else phase + 1):
                    trained = fetch(pointer(units, 0), 3 * sweep)
                    factor = fetch(pointer(units, 0), 3 * sweep + 1)
                    # a zero is read anew: else the masks of all rows are kept in registers
                    cut_row = real(cut) + fetch(pointer(units, 0), 3 * sweep + 2)
                    if buffers == 2 or (buffers == 1 and phase > 0):
                        if buffers == 2 and phase > 0:
                            await_copies()
                            held = next_layer - held
                        block_barrier()  # all have read what is overwritten now
                        to = next_layer - held if buffers == 2 else 0
                        # the numbers of a layer follow those of the layer in front, three planes
                        layer_at = planes[1, 0] + 3 * plane * (sweep if buffers == 2 else sweep - 1)
                        for k in unroll(turns):
                            if whole or piece[k] < front:
                                turned = piece[k] + p * pitch
                                turned -= front if turned >= front else 0
                                from_a = advance(a, layer_at + piece[k])
                                from_b = advance(b, layer_at + turned)
                                copy_unit(shared, to + piece[k], from_a, 0)
                                copy_unit(shared, to + front + piece[k], from_b, 0)
                                if layers > 1:  # nothing behind a single one is filtered
                                    rows = known(k * threads * unit // pitch)
                                    at_half = to + 2 * front + rows * half_pitch + in_halves
                                    copy_unit(shared, at_half, from_a, plane)
                                    copy_unit(shared, at_half + halves, from_b, plane)
                        for k in unroll(side_turns if layers > 1 else 0):
                            if side[k] < 4 * pitch:
                                copy_unit(shared, to + sides + side[k], from_side[k], 0)
                            from_side[k] = advance(from_side[k], 3 * plane)
                        if paired and layers > 1:  # noqa: SIM102
                            if thread < 2 * H:  # stored later: what is loaded takes its time
                                of_pair = layer_at + plane + pair_row * pitch
                                pair_a = fetch(a, of_pair + (1 if second > 0 else W - 2))
                                of_pair += p * pitch
                                pair_b = fetch(b, of_pair + (W - 2 if second > 0 else 1))
                        if paired and layers > 1 and buffers == 1:  # noqa: SIM102
                            if thread < 2 * H:
                                put(shared, at_pair, pair_a + pair_b)
                        if buffers == 1:
                            await_copies()
                            block_barrier()
                    if phase > 0 and buffers > 0:
                        for c in unroll(columns):
                            root_a[c] = advance(shared, held + ja[c])
                            root_b[c] = advance(shared, held + front + jb[c])
                            half[c] = advance(shared, held + from_half[c])
                            # the rows above and below are those of the column image alone
                            old_d[c] = look(root_b[c], sides - front) if p > 0 else zero
                            if phase < 2 or row_groups == 1:
                                paste(at_cut)
                    else:
                        root_at = planes[sweep, 0]
                        half_at, side_at = planes[sweep, 1], planes[sweep, 2]
                        for c in unroll(columns):
                            root_a[c] = advance(pa[c], root_at)
                            root_b[c] = advance(pb[c], root_at)
                            half_left[c] = advance(left[c], half_at)
                            half_right[c] = advance(right[c], half_at)
                            old_d[c] = fetch(pb[c], side_at - pitch) if p > 0 else zero
                            below[c] = fetch(pb[c], side_at) if p > 0 else zero
                            up[c] = fetch(pa[c], side_at + (cut - 1) * pitch)
                            down[c] = fetch(pa[c], side_at + (cut if p > 0 else 0) * pitch)
                    for c in unroll(columns):
                        old_t[c] = zero
                        read_d[c], read_t[c] = zero, zero
                    for g in unroll(row_groups):
                        if phase == 2 and row_groups > 1:
                            if cut // group_rows == g:
                                for c in unroll(columns):
                                    paste(at_cut)
                                cuts = known(True)
                                paste(add_rows)
                            else:
                                cuts = known(False)
                                paste(add_rows)
                        else:
                            cuts = known(True)
                            paste(add_rows)
                    if paired and layers > 1 and buffers == 2:  # noqa: SIM102
                        if thread < 2 * H:
                            put(shared, to + at_pair, pair_a + pair_b)
                    for c in unroll(columns):
                        if phase > 0 and buffers > 0:
                            below[c] = look(root_b[c], sides - front + pitch) if p > 0 else zero
                        D[c * H + H - 1] = sum_d[c] + below[c]
                        if phase > 0 or channels == 0:
                            T[c * H + H - 1] = sum_t[c]
                    if reads > 0 and phase > 0:
                        ended = planes[sweep, 3]
                        for c in unroll(columns):
                            if ended >= 0 and mine[c] and mine_at < stop:
                                early[2 * ended] += np.float64(read_d[c])
                                early[2 * ended + 1] += np.float64(read_t[c])
                    if factor != one:  # keeps the units of deep networks within range
                        for r in unroll(columns * H):
                            D[r] = D[r] * factor
                            if phase > 0 or channels == 0:
                                T[r] = T[r] * factor
        trained = units[last, 0]
        if buffers == 2:
            await_copies()
            held = next_layer - held
            block_barrier()
        for c in unroll(columns):
            if buffers == 2:
                root_a[c] = advance(shared, held + ja[c])
                root_b[c] = advance(shared, held + front + jb[c])
            else:
                root_a[c] = advance(pa[c], planes[last, 0])
                root_b[c] = advance(pb[c], planes[last, 0])
            sum_d[c], sum_t[c] = zero, zero
            for r in unroll(H):
                row_at = known(r * pitch)
                ra, rb = look(root_a[c], row_at), look(root_b[c], row_at)
                t = zero if layers == 1 and channels > 0 else T[c * H + r]
                if layers == 1 and signed:
                    x[c], y[c] = relu_signed(D[c * H + r], t, ra, rb, trained)
                else:
                    x[c], y[c] = relu(D[c * H + r], t, ra, rb, trained)
                if pools:
                    D[r], T[r] = x[c], y[c]
                else:
                    paste(end_cell)
            paste(end_column)
        if pools:
            paste(into_windows)
    paste(end_chunk)


def at_cut(c, up, down, root_a, sides, pitch):
    """Load what is above and below at the cut, where it is of the row image alone."""
    up[c] = look(root_a[c], sides + 2 * pitch)
    down[c] = look(root_a[c], sides + 3 * pitch)


def add_rows(
    D, T, x, y, g, group_rows, cuts, phase, H, pitch, columns, channels, signed, reads,
    trained, root_a, root_b, cut_row, down, up, sum_d, sum_t, old_d, old_t, new_d, new_t, read_d,
    read_t,
):  # fmt: skip
    """Take a group of rows through a layer and add them up; ``cuts`` if the cut may be among them.

    At the cut, which all threads of a block of threads share, a row is no neighbour of the row
    above it. Groups without it need no factors for that.
    """
    for k in unroll(group_rows):
        r = known(g * group_rows + k)
        row_at = known(r * pitch)
        if r < H:
            for c in unroll(columns):
                if phase == 0:
                    paste(value_in_front)
                if phase > 0:
                    ra = look(root_a[c], row_at)
                    rb = look(root_b[c], row_at)
                    t = zero if phase == 1 and channels > 0 else T[c * H + r]
                    if phase == 1 and signed:
                        x[c], y[c] = relu_signed(D[c * H + r], t, ra, rb, trained)
                    else:
                        x[c], y[c] = relu(D[c * H + r], t, ra, rb, trained)
                if reads > 0 and phase > 0:
                    read_d[c], read_t[c] = read_d[c] + x[c], read_t[c] + y[c]
            if phase == 0 and channels > 0:  # Θ is zero yet
                from_d, next_d = beside_one(x[0], x[columns - 1])
                from_t, next_t = zero, zero
            else:
                from_d, from_t, next_d, next_t = beside(x[0], y[0], x[columns - 1], y[columns - 1])
            for c in unroll(columns):
                paste(add_along_row)
                if r == 0:
                    sum_d[c], sum_t[c] = old_d[c] + new_d[c], new_t[c]
                elif phase == 0 and channels > 0:
                    D[c * H + r - 1], sum_d[c] = across_one(
                        real(r), cut_row, down[c], up[c], sum_d[c], old_d[c], new_d[c]
                    )
                elif not cuts:
                    D[c * H + r - 1], T[c * H + r - 1] = sum_d[c] + new_d[c], sum_t[c] + new_t[c]
                    sum_d[c], sum_t[c] = new_d[c] + old_d[c], new_t[c] + old_t[c]
                else:
                    D[c * H + r - 1], T[c * H + r - 1], sum_d[c], sum_t[c] = across(
                        real(r), cut_row, down[c], up[c], sum_d[c], sum_t[c],
                        old_d[c], old_t[c], new_d[c], new_t[c],
                    )  # fmt: skip
                old_d[c], old_t[c] = new_d[c], new_t[c]


def link_columns(a, b, p, q, W, pitch, columns, ja, pa, pb, jb, front, halves, buffers):
    """Find the links of a lane's columns to those beside them, and where to read of the images.

    Like the functions below it is pasted into the kernels, where all names are known.
    """
    for c in unroll(columns):
        jb[c] = ja[c] + q - (W if ja[c] + q >= W else 0)
        # behind a link that is cut one of the images may still have a pixel
        link_left[c] = zero if ja[c] == 0 or jb[c] == 0 else one
        link_right[c] = zero if ja[c] == W - 1 or jb[c] == W - 1 else one
        some_left[c] = zero if ja[c] + jb[c] == 0 else one - link_left[c]
        some_right[c] = zero if ja[c] + jb[c] == 2 * W - 2 else one - link_right[c]
        pa[c] = advance(a, ja[c])
        pb[c] = advance(b, p * pitch + jb[c])
        left[c] = advance(pa[c], -1) if ja[c] > 0 else advance(pb[c], -1 if jb[c] > 0 else 0)
        right[c] = advance(pa[c], 1) if ja[c] < W - 1 else advance(pb[c], 1 if jb[c] < W - 1 else 0)
        if buffers > 0:
            # inactive lanes read an active lane's address, which takes fewer wavefronts
            from_half[c] = 2 * front + halves + max(q - 1, 0)
            if some_left[c] == one:
                from_half[c] = 2 * front + (ja[c] - 1 if ja[c] > 0 else halves + jb[c] - 1)
            if some_right[c] == one:
                from_half[c] = 2 * front + (ja[c] + 1 if ja[c] < W - 1 else halves + jb[c] + 1)
            if some_left[c] + some_right[c] > one:  # their sum, behind the row
                from_half[c] = 2 * front + pitch + (1 if ja[c] == 0 else 0)


def value_in_front(
    x, y, r, c, row_at, ja, pa, pb, root_a, root_b, pooled, window_at, behind_at, beyond, H, W,
    plane, channels, slots_in, parted,
):  # fmt: skip
    """Take Δ and Θ of a cell of row r in front of the first layer: pixels or pooled windows.

    ``row_at`` is where the row's numbers begin behind the pointers.
    """
    if channels > 8:
        x[c] = distance(pa[c], pb[c], row_at, plane, channels)
    if 0 < channels <= 8:
        for k in unroll(channels):
            at_pixel = k * plane + row_at
            d = fetch(pa[c], at_pixel) - fetch(pb[c], at_pixel)
            x[c] = d * d if k == 0 else x[c] + d * d
    if channels > 0:
        y[c] = zero
    if channels == 0:
        cell = window_at + r * W + ja[c]
        x[c] = fetch(pointer(pooled, 0), cell)
        y[c] = fetch(pointer(pooled, 0), cell + slots_in * H * H * W)
        if parted > 0:  # noqa: SIM102
            if beyond:
                cell = behind_at + r * W + ja[c]
                x[c] += fetch(pointer(pooled, 0), cell)
                cell += slots_in * H * H * W
                y[c] += fetch(pointer(pooled, 0), cell)
        x[c] -= fetch(root_a[c], row_at)
        x[c] -= fetch(root_b[c], row_at)


def add_along_row(
    x, y, r, c, row_at, new_d, new_t, from_d, from_t, next_d, next_t, half, half_left, half_right,
    half_pitch, paired, phase, channels, columns,
):  # fmt: skip
    """Add to a cell those to its left and right; ``from`` and ``next`` are of lanes."""
    ld, lt = (
        (x[c - 1] if c > 0 else from_d),
        (y[c - 1] if c > 0 else from_t),
    )
    rd = x[c + 1] if c < columns - 1 else next_d
    rt = y[c + 1] if c < columns - 1 else next_t
    new_d[c] = x[c] + ld * link_left[c] + rd * link_right[c]
    if paired and phase > 0:
        beyond_cut = look(half[c], r * half_pitch)
        new_d[c] = new_d[c] + beyond_cut * max(some_left[c], some_right[c])
    else:
        hl, hr = fetch(half_left[c], row_at), fetch(half_right[c], row_at)
        new_d[c] = new_d[c] + hl * some_left[c] + hr * some_right[c]
    if phase == 0 and channels > 0:
        new_t[c] = zero
    else:
        new_t[c] = y[c] + lt * link_left[c] + rt * link_right[c]


def end_cell(
    x, y, r, c, p, sum_d, sum_t, weights, cells, pair, count, at, stop, mine, mine_at, ja, H, W,
    weighted, sums,
):  # fmt: skip
    """Add Δ and Θ of a cell of row r behind the last layer to its column's sums, or store them."""
    if weighted:
        weight = fetch(pointer(weights, 0), p * H + r)
        sum_d[c], sum_t[c] = sum_d[c] + weight * x[c], sum_t[c] + weight * y[c]
    elif sums:
        sum_d[c], sum_t[c] = sum_d[c] + x[c], sum_t[c] + y[c]
    else:
        cell = ((pair * 2 * count + at) * H + r) * W + ja[c]
        keep(cells, cell, count * H * W, x[c], y[c], mine[c] and mine_at < stop)


def end_column(c, q, sum_d, sum_t, weights, mine, mine_at, stop, ja, H, W, weighted, sums):
    """Add the sums of a class's column to those of the chunk."""
    if weighted:
        weight = fetch(pointer(weights, 0), H * H + q * W + ja[c])
        sum_d[c], sum_t[c] = weight * sum_d[c], weight * sum_t[c]
    if sums:  # noqa: SIM102
        if mine[c] and mine_at < stop:
            total_d += np.float64(sum_d[c])
            total_t += np.float64(sum_t[c])


def end_chunk(total_d, total_t, early, totals, task, lane, reads, sums):
    """Store the sums of a chunk, those of shallower networks in front."""
    if sums:
        if reads > 0:
            for k in range(2 * reads):
                part_of = over_lanes(early[k])
                if lane == 0:
                    put(pointer(totals, 0), 2 * task * (reads + 1) + k, part_of)
        total_d, total_t = over_lanes(total_d), over_lanes(total_t)
        if lane == 0:
            put(pointer(totals, 0), 2 * (task * (reads + 1) + reads), total_d)
            put(pointer(totals, 0), 2 * (task * (reads + 1) + reads) + 1, total_t)


def into_windows(
    D, T, p, pair, step, thread, shared, cells, pool_d, pool_t, there, spill, first_q, kept,
    kept_at, windows, across_windows, area, half, slots, run, gathers, all_gather, threads,
    together, lanes, lanes_of_class,
):  # fmt: skip
    """Add up a class behind its last layer; pasted into ``_fused``, where all names are known."""
    if p % 2 == 0:
        for k in unroll(windows):
            if k < kept:
                pool_d[k] += D[2 * k] + D[2 * k + 1]
                pool_t[k] += T[2 * k] + T[2 * k + 1]
            else:
                own = kept_at + 2 * threads * k + thread
                put(shared, own, peek(shared, own) + (D[2 * k] + D[2 * k + 1]))
                own += threads
                put(shared, own, peek(shared, own) + (T[2 * k] + T[2 * k + 1]))
    else:
        if step > 0:
            if kept > 0:
                block_barrier()  # all have read what is overwritten now
            for k in unroll(windows):
                if k < kept:
                    put(shared, 2 * threads * k + thread, pool_d[k] + D[2 * k])
                    put(shared, 2 * threads * k + threads + thread, pool_t[k] + T[2 * k])
                else:
                    own = kept_at + 2 * threads * k + thread
                    put(shared, own, peek(shared, own) + D[2 * k])
                    put(shared, own + threads, peek(shared, own + threads) + T[2 * k])
            block_barrier()
            for k in unroll(gathers):
                turn = k * threads + thread
                if all_gather or turn < 2 * area:
                    of_theta = turn // area
                    window = turn - of_theta * area
                    row = window // across_windows
                    own = (2 * row + of_theta) * threads + 2 * (window - row * across_windows)
                    own += kept_at if row >= kept else 0
                    to = (pair * 2 + of_theta) * windows + p // 2
                    to = (to * slots + first_q // run * (half + 1)) * area + window
                    for s in unroll(half):
                        if 2 * s < there:
                            even = 2 * s // together * lanes + 2 * s % together * lanes_of_class
                            odd = (2 * s + 1) // together * lanes
                            odd += (2 * s + 1) % together * lanes_of_class
                            value = peek(shared, own + even) + peek(shared, own + even + 1)
                            value += peek(shared, own + odd)
                            if s > 0:
                                odd = (2 * s - 1) // together * lanes
                                odd += (2 * s - 1) % together * lanes_of_class
                                value += peek(shared, own + odd + 1)
                            put(pointer(cells, 0), to + s * area, value)
                    put(pointer(cells, 0), to + half * area, peek(shared, own + spill))
            block_barrier()  # all have read what is overwritten now
        for k in unroll(windows):
            if k < kept:
                pool_d[k], pool_t[k] = D[2 * k + 1], T[2 * k + 1]
            else:
                own = kept_at + 2 * threads * k + thread
                put(shared, own, D[2 * k + 1])
                put(shared, own + threads, T[2 * k + 1])
