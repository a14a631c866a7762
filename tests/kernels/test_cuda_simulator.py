"""Simulated threads: barriers, shared memory, and that nothing depends on the order of threads."""

import numpy as np
import pytest
from numba import float64

from tests.kernels import SIMULATED

if not SIMULATED:
    pytest.skip("a GPU is at hand", allow_module_level=True)

from tests.kernels.simulator import LANES, backwards, beside, cuda, kernel, over_lanes

THREADS = 2 * LANES


def _reversed(found):
    """Each thread stores its number and reads that of another, in two arrays."""
    xs = cuda.shared.array(THREADS, float64)
    ys = cuda.shared.array(THREADS, float64)
    at = cuda.threadIdx.x
    xs[at] = at
    ys[at] = -at
    cuda.syncthreads()
    found[at] = xs[THREADS - 1 - at] - ys[at]


def _racing(found):
    xs = cuda.shared.array(THREADS, float64)
    at = cuda.threadIdx.x
    xs[at] = at
    found[at] = xs[THREADS - 1 - at]


def _shuffling(found):
    at = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    left, _, right, _ = beside(at, 0, at, 0)
    found[at, 0], found[at, 1], found[at, 2] = left, right, over_lanes(at)


def _leaving(found):
    """Half of the threads leave before the barrier."""
    at = cuda.threadIdx.x
    if at % 2:
        return
    cuda.syncthreads()
    found[at] = 1


def test_threads_meet_at_a_barrier_and_share_arrays_whatever_their_order():
    for _ in range(2):
        found = np.zeros(THREADS)
        kernel(_reversed)[1, THREADS](found)
        assert found.tolist() == [THREADS - 1] * THREADS
        with backwards():
            again = np.zeros(THREADS)
            kernel(_reversed)[1, THREADS](again)
        assert (again == found).all()


def test_a_missing_barrier_shows():
    found, again = np.zeros(THREADS), np.zeros(THREADS)
    kernel(_racing)[1, THREADS](found)
    with backwards():
        kernel(_racing)[1, THREADS](again)
    assert np.isnan(found).any()  # nobody had stored it yet
    assert (np.isnan(found) != np.isnan(again)).any()


def test_lanes_exchange_within_their_team():
    found = np.zeros((2 * THREADS, 3))
    kernel(_shuffling)[2, THREADS](found)
    for team in range(2 * THREADS // LANES):
        lanes = np.arange(team * LANES, (team + 1) * LANES)
        of_team = found[lanes]
        assert of_team[:, 0].tolist() == [lanes[0], *lanes[:-1]]
        assert of_team[:, 1].tolist() == [*lanes[1:], lanes[-1]]
        assert (of_team[:, 2] == lanes.sum()).all()


def test_threads_that_have_left_are_not_waited_for():
    found = np.zeros(THREADS)
    kernel(_leaving)[1, THREADS](found)
    assert found.tolist() == [1, 0] * LANES


def test_an_error_in_a_thread_reaches_the_caller():
    with pytest.raises(IndexError):
        kernel(_leaving)[1, THREADS](np.zeros(1))
