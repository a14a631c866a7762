"""What the kernels ask of Numba's simulator, which runs a block's threads as Python threads."""

import sys

import numpy as np
import pytest
from numba import cuda, float64

from ntkdist.kernels._cuda_intrinsics import SIMULATED, kernel
from tests.kernels.test_cuda import _quick_threads

pytestmark = pytest.mark.skipif(not SIMULATED, reason="a GPU is at hand")
__all__ = ["_quick_threads"]  # fixture
THREADS = 4


def _reversed(found):
    """Each thread stores its number and reads that of another, in two arrays."""
    xs = cuda.shared.array(THREADS, float64)
    ys = cuda.shared.array(THREADS, float64)
    at = cuda.threadIdx.x
    xs[at] = at
    ys[at] = -at
    cuda.syncthreads()
    found[at] = xs[THREADS - 1 - at] - ys[at]


def test_all_threads_of_a_block_get_the_same_shared_arrays():
    run = kernel(_reversed)
    sys.setswitchinterval(1e-6)  # as unkind as it gets
    for _ in range(200):
        found = np.zeros(THREADS)
        run[1, THREADS](found)
        assert found.tolist() == [THREADS - 1] * THREADS
