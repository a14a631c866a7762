"""What GPU kernels are written with: pointers, shuffles, device functions (numba-cuda).

A team is the threads that work on one displacement class together: the lanes of a warp, which
need no barrier in a block. The same names work without a GPU (NUMBA_ENABLE_CUDASIM=1): there a
team is a few simulated threads, and their shuffles go through a list.

* ``LANES``: threads of a team.
* ``device``, ``kernel``: decorators.
* ``pointer(array, at)``, ``advance(start, by)``, ``fetch(start, by)`` (of what no kernel is
  writing), ``peek(start, by)``, ``put(start, by, value)``: as in C, counted in elements.
* ``beside(d, t, e, u)``: e and u of the lane to the left, d and t of the lane to the right.
  ``beside_one(d, e)``: e of the one and d of the other.
* ``over_lanes(x)``: the sum over the lanes, in one order.
* ``barrier()``: what lanes stored is seen by the team; ``block_barrier()``: by all teams of the
  block of threads.
* ``copy_unit(to, at, start, by)`` begins to copy 16 bytes to shared memory, ``await_copies()``
  waits for those that this thread began.
* ``inverse_root(dtype)``: the function 1/√x of a dtype; ``root(x)``.
"""

from __future__ import annotations

from numba.core import config

SIMULATED = bool(config.ENABLE_CUDASIM)

if SIMULATED:
    from ntkdist.kernels.cuda.simulator import (
        LANES,
        advance,
        await_copies,
        barrier,
        beside,
        beside_one,
        block_barrier,
        copy_unit,
        device,
        fetch,
        inverse_root,
        kernel,
        over_lanes,
        peek,
        pointer,
        put,
        root,
    )
else:
    from ntkdist.kernels.cuda.hardware import (
        LANES,
        advance,
        await_copies,
        barrier,
        beside,
        beside_one,
        block_barrier,
        copy_unit,
        device,
        fetch,
        inverse_root,
        kernel,
        over_lanes,
        peek,
        pointer,
        put,
        root,
    )

__all__ = [
    "LANES",
    "SIMULATED",
    "advance",
    "await_copies",
    "barrier",
    "beside",
    "beside_one",
    "block_barrier",
    "copy_unit",
    "device",
    "fetch",
    "inverse_root",
    "kernel",
    "over_lanes",
    "peek",
    "pointer",
    "put",
    "root",
]
