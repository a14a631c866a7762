"""Tests of kernels; without a GPU those of the cuda backend run on a simulated one."""

import importlib.util
from pathlib import Path

SIMULATED = not Path("/dev/nvidiactl").exists()
#: Whether there is a compiler for the GPU kernels.
COMPILES = importlib.util.find_spec("numba_cuda") is not None

if SIMULATED and COMPILES:
    from tests.kernels import simulator

    simulator.install()
