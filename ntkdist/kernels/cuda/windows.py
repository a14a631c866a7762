"""How a fused kernel (``cuda.fused``) adds up the cells behind a block into pairs of windows.

An average over 2 × 2 windows takes window I of the row image and I + P of the column image
together from rows of the classes p = 2P − 1, 2P and 2P + 1: of an even p both rows of a window
meet those of the same window; of an odd one the upper rows belong to P and the lower ones to P + 1.
Along the columns it is the same. So a block of threads takes a run of p, one after the other,
for a few q next to each other (``Parts``). Each lane adds up the rows of its column over three p,
in registers or in shared memory of its own; then lanes and classes meet in shared memory, and
what is stored are windows. Cells never leave the chip, and the order of every sum is fixed,
however many p a block takes.
"""

from __future__ import annotations

from typing import Any

from ntkdist.kernels.cuda.intrinsics import block_barrier, peek, pointer, put
from ntkdist.kernels.cuda.spec import THREADS, Fused
from ntkdist.kernels.cuda.unroll import unroll


def known_of_pools(spec: Fused) -> dict[str, Any]:
    """Return what is known of the pools behind and in front of a block."""
    h, w = spec.H // 2, spec.W // 2
    known: dict[str, Any] = {"windows": h, "across_windows": w, "area": h * w, "kept": spec.kept}
    known["kept_at"] = spec.exchange_size - 2 * THREADS * spec.kept
    known["gathers"] = -(-2 * h * w // THREADS)
    known["all_gather"] = 2 * h * w % THREADS == 0
    known |= {"half": 0, "slots": 0, "run": 0, "slots_in": spec.W, "parts_in": 1}
    if spec.pools:
        parts = spec.parts
        known |= {"half": parts.half, "slots": parts.slots, "run": parts.run}
    if spec.parted:
        known["parts_in"] = -(-spec.W // spec.parted)
        known["slots_in"] = known["parts_in"] * (spec.parted + 1)
    return known


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
                block_barrier()  # nobody reads what is now written over
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
            block_barrier()  # nobody reads what is now written over
        for k in unroll(windows):
            if k < kept:
                pool_d[k], pool_t[k] = D[2 * k + 1], T[2 * k + 1]
            else:
                own = kept_at + 2 * threads * k + thread
                put(shared, own, D[2 * k + 1])
                put(shared, own + threads, T[2 * k + 1])
