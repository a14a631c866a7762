"""Tests of kernels; without a GPU those of the cuda backend run on simulated threads."""

from pathlib import Path

SIMULATED = not Path("/dev/nvidiactl").exists()

if SIMULATED:
    from tests.kernels import simulator

    simulator.install()
