"""The CPU backend: fused layers in cache, one column image in each vector lane (Numba)."""

from ntkdist.kernels.cpu.backend import CpuBackend

__all__ = ["CpuBackend"]
