"""A stand-in for CuPy: the functions that the panels call, with NumPy and BLAS underneath.

Its arrays are as strange to NumPy as CuPy's are, it counts the bytes copied in each direction and
those that are allocated, and it runs out of memory beyond a limit. Products and solves are the
BLAS calls of the CPU's panels, so that equal work gives equal bits.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ntkdist.linalg import blas, device

GPU = "NVIDIA Stand-in"


class OutOfMemoryError(MemoryError):
    """As ``cupy.cuda.memory.OutOfMemoryError``."""


class CUDAError(RuntimeError):
    """As ``CUDARuntimeError``, ``CUBLASError`` and ``CUSOLVERError``."""


class Array:
    """An array on the GPU: float64, two-dimensional, or a transposed view of one."""

    __array_ufunc__ = None  # arithmetic with NumPy arrays raises

    def __init__(self, values: np.ndarray, gpu: StandIn) -> None:
        self.values, self.gpu = values, gpu
        self.shape, self.dtype = values.shape, values.dtype

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __reduce__(self) -> Any:
        raise TypeError("an array on the GPU goes to another process")

    @property
    def T(self) -> Array:  # noqa: N802
        return Array(self.values.T, self.gpu)

    def set(self, host: np.ndarray) -> None:
        assert type(host) is np.ndarray
        assert (host.dtype, host.shape) == (self.dtype, self.shape)
        self.values[...] = host
        self.gpu.count(up=host.nbytes)

    def get(self, *, out: np.ndarray) -> np.ndarray:
        assert type(out) is np.ndarray
        assert (out.dtype, out.shape) == (self.dtype, self.shape)
        assert out.flags.c_contiguous
        assert self.values.flags.c_contiguous
        out[...] = self.values
        self.gpu.count(down=out.nbytes)
        return out


class Pool:
    """Memory that an allocator takes from."""

    def malloc(self, size: int) -> None:
        """Name it: ``StandIn.empty`` does the counting."""


class StandIn:
    """The modules ``cupy`` and ``cupyx``.

    Attributes:
        limit: Bytes of the GPU's memory.
        gpus: Number of GPUs.
        up, down: Bytes copied to the GPU and from it.
        in_use, peak: Bytes allocated now, and most at a time.
        failing: Name of a function that fails as with a missing library.
        lost: Whether every call fails, as after a fault of the hardware.
    """

    def __init__(self, limit: int = 2**40) -> None:
        self.limit, self.gpus, self.failing, self.lost = limit, 1, "", False
        self.up = self.down = self.in_use = self.peak = 0
        self._lock, self._here = threading.RLock(), threading.local()
        self.modules = self._cupy(), self._cupyx()

    def _cupy(self) -> SimpleNamespace:
        runtime = SimpleNamespace(
            getDeviceCount=self._device_count,
            getDevice=lambda: 0,
            getDeviceProperties=lambda _: {"name": GPU.encode()},
            memGetInfo=self._memory,
            CUDARuntimeError=CUDAError,
        )
        cuda = SimpleNamespace(
            runtime=runtime,
            cublas=SimpleNamespace(CUBLASError=CUDAError),
            cusolver=SimpleNamespace(CUSOLVERError=CUDAError),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            MemoryPool=Pool,
            using_allocator=self._using_allocator,
        )
        return _Module(
            cuda=cuda,
            empty=self.empty,
            cublas=SimpleNamespace(gemm=self.gemm, syrk=self.syrk),
            linalg=SimpleNamespace(cholesky=self.cholesky),
        )

    def _cupyx(self) -> SimpleNamespace:
        solve = SimpleNamespace(solve_triangular=self.solve_triangular)
        return _Module(errstate=self._errstate, scipy=SimpleNamespace(linalg=solve))

    def load(self) -> tuple[Any, Any]:
        return self.modules

    def reset(self) -> None:
        """Count from here on."""
        self.up = self.down = 0
        self.peak = self.in_use

    def count(self, up: int = 0, down: int = 0, allocated: int = 0) -> None:
        with self._lock:  # may be called again by the collector
            self.up, self.down = self.up + up, self.down + down
            self.in_use += allocated
            self.peak = max(self.peak, self.in_use)

    def empty(self, shape: tuple[int, int], dtype: Any = float) -> Array:
        assert isinstance(getattr(self._here, "pool", None), Pool)  # else memory is never freed
        values = np.full(shape, np.nan, dtype)
        with self._lock:
            if self.in_use + values.nbytes > self.limit:
                raise OutOfMemoryError(f"Out of memory allocating {values.nbytes:,} bytes")
            self.count(allocated=values.nbytes)
        weakref.finalize(values, self.count, allocated=-values.nbytes)  # after all views of it
        return Array(values, self)

    def _device_count(self) -> int:
        if self.gpus == 0:
            raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return self.gpus

    def _memory(self) -> tuple[int, int]:
        self._enter("memGetInfo")
        return self.limit - self.in_use, self.limit

    @contextmanager
    def _using_allocator(self, allocator: Any) -> Iterator[None]:
        self._here.pool = allocator.__self__
        yield
        self._here.pool = None

    @contextmanager
    def _errstate(self, *, linalg: str) -> Iterator[None]:
        self._here.linalg = linalg
        try:
            yield
        finally:
            self._here.linalg = "ignore"

    def _enter(self, name: str, *arrays: Any) -> None:
        if self.lost:
            raise CUDAError("cudaErrorECCUncorrectable: uncorrectable ECC error encountered")
        if name == self.failing:
            raise ImportError(f"lib{name}.so.12: cannot open shared object file")
        for array in arrays:
            assert type(array) is Array, f"{name} of a {type(array).__name__}"

    def gemm(self, ta: str, tb: str, a: Array, b: Array, *, out: Array, alpha: float, beta: float):
        self._enter("gemm", a, b, out)
        assert (ta, tb, alpha, beta) == ("N", "T", -1.0, 1.0)
        blas.subtract_product(out.values, a.values, b.values, tb=True)

    def syrk(self, trans: str, a: Array, *, out: Array, alpha: float, beta: float, lower: bool):
        self._enter("syrk", a, out)
        assert (trans, alpha, beta, lower) == ("N", -1.0, 1.0, True)
        blas.subtract_gram(out.values, a.values)

    def cholesky(self, a: Array) -> Array:
        self._enter("cholesky", a)
        out = self.empty(a.shape)
        out.values[...] = a.values
        pivot = blas.cholesky_lower(out.values)
        if pivot >= 0 and self._here.linalg == "raise":
            raise np.linalg.LinAlgError(f"Error reported by dpotrf. devInfo = [{pivot + 1}]")
        out.values[...] = np.tril(out.values)
        return out

    def solve_triangular(
        self, a: Array, b: Array, *, trans: str, lower: bool, overwrite_b: bool
    ) -> Array:
        self._enter("solve_triangular", a, b)
        assert a.values.flags.f_contiguous  # else CuPy copies them
        assert b.values.flags.f_contiguous
        assert (trans, lower, overwrite_b) == ("T", False, True)
        blas.solve_lower(a.values.T, b.values.T, transposed=True, from_right=True)
        return b


class _Module(SimpleNamespace):
    __hash__ = object.__hash__  # as modules have


def no_cupy() -> Any:
    raise ModuleNotFoundError("No module named 'cupy'", name="cupy")


def install(monkeypatch: pytest.MonkeyPatch, gpu: StandIn) -> StandIn:
    """Put it in place of CuPy, and count from here on."""
    monkeypatch.setattr(device, "load_cupy", gpu.load)
    device.unavailable()  # computes a small panel, once
    gpu.reset()
    return gpu
