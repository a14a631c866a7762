"""The simulated GPU: what compiled code computes, and reports of what a GPU leaves undefined."""

import math

import numpy as np
import pytest
from numba import cuda, float32, float64

from tests.kernels import COMPILES, SIMULATED

if not (SIMULATED and COMPILES):
    pytest.skip("a GPU is at hand, or no compiler for one", allow_module_level=True)

from ntkdist.kernels.cuda.intrinsics import (
    LANES,
    await_copies,
    barrier,
    beside,
    copy_unit,
    fetch,
    over_lanes,
    peek,
    pointer,
    put,
)
from tests.kernels.simulator import GPU
from tests.kernels.simulator.device import Kernel
from tests.kernels.simulator.machine import ORDERS, Fault

THREADS = 2 * LANES
TWICE, UNITS = 2 * THREADS, 4 * THREADS


def run(function, *args, blocks=1, threads=THREADS):
    """Launch a kernel; return its last argument, an array, as it is then."""
    there = [GPU.to_device(arg) if isinstance(arg, np.ndarray) else arg for arg in args]
    Kernel(function, {})[blocks, threads](*there)
    return there[-1].copy_to_host()


def reversed_order(found):
    """Each thread stores its number and reads that of another, in two arrays."""
    xs = cuda.shared.array(THREADS, float64)
    ys = cuda.shared.array(THREADS, float64)
    at = cuda.threadIdx.x
    xs[at] = at
    ys[at] = -at
    cuda.syncthreads()
    found[at] = xs[THREADS - 1 - at] - ys[at]


@pytest.mark.parametrize("order", ORDERS)
def test_threads_meet_at_a_barrier_and_share_arrays_whatever_their_order(order):
    with GPU.checking(order=order):
        assert run(reversed_order, np.zeros(THREADS)).tolist() == [THREADS - 1] * THREADS


def without_a_barrier(found):
    xs = cuda.shared.array(THREADS, float64)
    at = cuda.threadIdx.x
    xs[at] = at
    found[at] = xs[THREADS - 1 - at]


def stores_before_others_have_read(found):
    xs = cuda.shared.array(THREADS, float64)
    at = cuda.threadIdx.x
    xs[at] = at
    cuda.syncthreads()
    found[at] = xs[THREADS - 1 - at]
    xs[at] = 0


def blocks_share_an_element(found):
    put(pointer(found, 0), cuda.threadIdx.x, float64(cuda.blockIdx.x + 1))


def warps_do_not_meet_at_a_warps_barrier(found):
    at = cuda.threadIdx.x
    put(pointer(found, 0), at, float64(at))
    barrier()
    put(pointer(found, 0), THREADS + at, peek(pointer(found, 0), THREADS - 1 - at))


def reads_what_nothing_wrote(found):
    xs = cuda.shared.array(TWICE, float32)
    at = cuda.threadIdx.x
    xs[at] = at
    found[at] = xs[at + 1 - at % 2 + THREADS]


def reads_what_a_copy_may_not_have_reached(source, found):
    shared = cuda.shared.array(UNITS, float32)
    at = cuda.threadIdx.x
    copy_unit(pointer(shared, 0), 4 * at, pointer(source, 0), 4 * at)
    found[at] = shared[4 * at]
    await_copies()


def awaits_nothing(source, found):
    shared = cuda.shared.array(UNITS, float32)
    at = cuda.threadIdx.x
    copy_unit(pointer(shared, 0), 4 * at, pointer(source, 0), 4 * at)
    found[at] = at


def reads_only_what_it_writes(found):
    at = cuda.threadIdx.x
    put(pointer(found, 0), at, fetch(pointer(found, 0), at) + 1)


def leaves_before_a_barrier(found):
    at = cuda.threadIdx.x
    if at >= LANES:
        return
    cuda.syncthreads()
    found[at] = 1


def meets_in_two_places(found):
    at = cuda.threadIdx.x
    if at < LANES:
        cuda.syncthreads()
        found[at] = 1
    else:
        found[at] = 2
        cuda.syncthreads()
        found[at] += 1


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (without_a_barrier, "read after write"),
        (stores_before_others_have_read, "write after read"),
        (blocks_share_an_element, "two threads write a word"),
        (warps_do_not_meet_at_a_warps_barrier, "read after write"),
        (reads_what_nothing_wrote, "load of memory that nothing wrote"),
        (reads_what_a_copy_may_not_have_reached, "load of a word in flight"),
        (awaits_nothing, "copies that nobody awaits"),
        (reads_only_what_it_writes, "read-only load of an array that is written"),
        (leaves_before_a_barrier, "barrier without threads that returned"),
        (meets_in_two_places, "barriers at different places"),
    ],
)
def test_what_a_gpu_leaves_undefined_is_reported(function, problem):
    arrays = [np.zeros(4 * THREADS, np.float32)] if "cop" in problem or "flight" in problem else []
    with pytest.raises(AssertionError, match=problem):
        run(function, *arrays, np.zeros(2 * THREADS), blocks=2)


def lanes_of_a_warp_meet(found):
    at = cuda.threadIdx.x
    put(pointer(found, 0), at, float64(at))
    barrier()
    put(
        pointer(found, 0), THREADS + at, peek(pointer(found, 0), at - at % LANES + (at + 1) % LANES)
    )


def test_a_warps_barrier_orders_its_lanes():
    found = run(lanes_of_a_warp_meet, np.zeros(2 * THREADS))[THREADS:]
    at = np.arange(THREADS)
    assert (found == at - at % LANES + (at + 1) % LANES).all()


def outside(found):
    found[cuda.threadIdx.x + 1] = 0


def misaligned(source, found):
    shared = cuda.shared.array(UNITS, float32)
    copy_unit(pointer(shared, 0), 4 * cuda.threadIdx.x, pointer(source, 0), 1)
    await_copies()


def some_lanes_shuffle(found):
    at = cuda.threadIdx.x
    if at % 2:
        found[at] = cuda.shfl_xor_sync(0xFFFFFFFF, at, 1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (outside, "outside of every array.*st.global"),
        (misaligned, "misaligned: cp.async"),
        (some_lanes_shuffle, "never come|lane that returned"),
    ],
)
def test_what_stops_a_gpu_stops_the_launch(function, message):
    arrays = [np.zeros(4 * THREADS, np.float32)] if function is misaligned else []
    with pytest.raises((Fault, AssertionError), match=message):
        run(function, *arrays, np.zeros(THREADS))


def shuffling(found):
    at = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    left, _, right, _ = beside(at, 0, at, 0)
    found[at, 0], found[at, 1], found[at, 2] = left, right, over_lanes(at)


def test_lanes_exchange_within_their_team():
    found = run(shuffling, np.zeros((2 * THREADS, 3)), blocks=2)
    for team in range(2 * THREADS // LANES):
        lanes = np.arange(team * LANES, (team + 1) * LANES)
        of_team = found[lanes]
        assert of_team[:, 0].tolist() == [lanes[0], *lanes[:-1]]
        assert of_team[:, 1].tolist() == [*lanes[1:], lanes[-1]]
        assert (of_team[:, 2] == lanes.sum()).all()


def whole_numbers(xs, ys, found):
    at = cuda.threadIdx.x
    x, y = xs[at], ys[at]
    found[at, 0], found[at, 1] = x // y, x % y
    found[at, 2], found[at, 3] = x << (y & 7), x >> (y & 7)
    found[at, 4], found[at, 5] = min(x, y), max(x, -y)
    found[at, 6] = abs(x) if x < y and x != 0 else ~x


def test_whole_numbers_are_those_of_python():
    rng = np.random.default_rng(0)
    x = rng.integers(-(2**40), 2**40, THREADS)
    y = rng.integers(1, 50, THREADS) * rng.choice([-1, 1], THREADS)
    x[:4], y[:4] = (0, -7, 7, -8), (3, 2, -2, 8)
    found = run(whole_numbers, x, y, np.zeros((THREADS, 7), np.int64))
    expected = [
        (a // b, a % b, a << (b & 7), a >> (b & 7), min(a, b), max(a, -b),
         abs(a) if a < b and a != 0 else ~a)
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    ]  # fmt: skip
    assert found.tolist() == [list(row) for row in expected]


def real_numbers(xs, ys, found):
    at = cuda.threadIdx.x
    x, y = xs[at], ys[at]
    found[at, 0], found[at, 1] = x / y, cuda.fma(x, y, x)
    found[at, 2], found[at, 3] = math.sqrt(abs(x)), min(x, y) if x != y else max(x, -y)
    found[at, 4] = float32(x) - y


def test_real_numbers_are_those_of_numpy():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, THREADS)) * 10.0 ** rng.integers(-3, 3, (2, THREADS))
    y[0] = x[0]
    found = run(real_numbers, x, y, np.zeros((THREADS, 5)))
    fused = (x.astype(np.longdouble) * y + x).astype(np.float64)
    smaller = np.where(x != y, np.minimum(x, y), np.maximum(x, -y))
    expected = [x / y, fused, np.sqrt(np.abs(x)), smaller, x.astype(np.float32) - y]
    np.testing.assert_allclose(found.T, expected, rtol=1e-15)
