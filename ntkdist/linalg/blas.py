"""BLAS and LAPACK on row-major arrays in place, and the number of their threads.

``scipy.linalg.blas`` and ``scipy.linalg.lapack`` hold the interpreter lock for the whole call, so
that two Dask threads take turns. The same routines, reached through the pointers that
``scipy.linalg.cython_blas`` publishes, run side by side.

Row-major memory read as column-major is the transpose: each wrapper documents the row-major
operation and passes the transposed one to BLAS. Inner dimensions must be contiguous (rows may be
strided).

Threads: tasks that run side by side get one BLAS thread each. What runs alone (a panel's diagonal
block, the whole matrix where there is one panel, substitutions, the work of an iteration between
two passes) gets as many as Dask would use threads where the result was begun. This number is
stored with the result, because LAPACK's bits depend on it. Both rules hold in every process and
under every scheduler, whatever ``OPENBLAS_NUM_THREADS`` says, so that all give the same bits.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_blas, cython_lapack

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
#: Bytes of a float64.
ITEM = 8

_lock = threading.Lock()


@cache
def _routine(name: str, arguments: int) -> Callable[..., None]:
    module: Any = cython_lapack if name in ("dpotrf", "dpotri") else cython_blas
    capsule = module.__pyx_capi__[name]
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
        ("PyCapsule_GetName", ctypes.pythonapi)
    )
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    signature = get_name(capsule)
    if signature is None or b"int *" not in signature:
        raise ImportError(f"scipy publishes {name} with a signature that ntkdist does not know")
    pointer = get_pointer(capsule, signature)
    # CFUNCTYPE, unlike PYFUNCTYPE, releases the interpreter lock during the call
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(pointer)


def _int(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


def _real(value: float) -> Any:
    return ctypes.byref(ctypes.c_double(value))


def _lead(array: Matrix) -> int:
    if array.dtype != np.float64 or array.ndim != 2:
        raise TypeError(f"expected a float64 matrix, got {array.dtype} of {array.ndim} dimensions")
    if array.shape[1] > 1 and array.strides[1] != array.itemsize:
        raise ValueError("the inner dimension is not contiguous")
    stride = array.strides[0] // array.itemsize if array.shape[0] > 1 else 0
    return max(stride, array.shape[1], 1)


def subtract_product(
    c: Matrix, a: Matrix, b: Matrix, *, ta: bool = False, tb: bool = False
) -> None:
    """C <- C - op(A) op(B) in place.

    Args:
        c: (m, n) float64, overwritten.
        a: (m, k) float64, or (k, m) where ``ta``.
        b: (k, n) float64, or (n, k) where ``tb``.
        ta: Transpose A.
        tb: Transpose B.
    """
    m, n = c.shape
    k = a.shape[0] if ta else a.shape[1]
    if (a.shape[1] if ta else a.shape[0], b.shape[0] if tb else b.shape[1]) != (m, n) or k != (
        b.shape[1] if tb else b.shape[0]
    ):
        raise ValueError(f"shapes do not fit: {c.shape} - {a.shape} {b.shape}")
    if not (m and n and k):
        return
    _routine("dgemm", 13)(
        b"T" if tb else b"N",
        b"T" if ta else b"N",
        _int(n),
        _int(m),
        _int(k),
        _real(-1.0),
        b.ctypes.data,
        _int(_lead(b)),
        a.ctypes.data,
        _int(_lead(a)),
        _real(1.0),
        c.ctypes.data,
        _int(_lead(c)),
    )


def subtract_gram(c: Matrix, a: Matrix, *, transposed: bool = False) -> None:
    """C <- C - A Aᵀ (or C - Aᵀ A) in place, lower triangle only.

    Args:
        c: (n, n) float64; its upper triangle is neither read nor written.
        a: (n, k) float64, or (k, n) where ``transposed``.
        transposed: Multiply Aᵀ by A.
    """
    n, k = a.shape[::-1] if transposed else a.shape
    if c.shape != (n, n):
        raise ValueError(f"shapes do not fit: {c.shape} and {a.shape}")
    if not (n and k):
        return
    _routine("dsyrk", 10)(
        b"U",
        b"N" if transposed else b"T",
        _int(n),
        _int(k),
        _real(-1.0),
        a.ctypes.data,
        _int(_lead(a)),
        _real(1.0),
        c.ctypes.data,
        _int(_lead(c)),
    )


def solve_lower(
    lower: Matrix, x: Matrix, *, transposed: bool = False, from_right: bool = False
) -> None:
    """X <- L⁻¹X (or L⁻ᵀX), or from the right X <- XL⁻¹ (or XL⁻ᵀ), in place.

    Args:
        lower: (w, w) float64; its upper triangle is not read.
        x: (w, k) float64, or (k, w) where ``from_right``; overwritten.
        transposed: Solve with Lᵀ.
        from_right: Solve from the right.
    """
    rows, cols = x.shape
    if not (rows and cols):
        return
    _routine("dtrsm", 11)(
        b"L" if from_right else b"R",
        b"U",
        b"T" if transposed else b"N",
        b"N",
        _int(cols),
        _int(rows),
        _real(1.0),
        lower.ctypes.data,
        _int(_lead(lower)),
        x.ctypes.data,
        _int(_lead(x)),
    )


def cholesky_lower(a: Matrix) -> int:
    """A <- L with A = LLᵀ in place, lower triangle only; one LAPACK call.

    Args:
        a: (n, n) float64; its upper triangle is neither read nor written.

    Returns:
        -1 where it succeeded, else the first failing pivot, from 0.
    """
    info = ctypes.c_int(0)
    _routine("dpotrf", 5)(b"U", _int(a.shape[0]), a.ctypes.data, _int(_lead(a)), ctypes.byref(info))
    return info.value - 1 if info.value > 0 else -1


def inverse_from_lower(lower: Matrix) -> None:
    """L <- (LLᵀ)⁻¹ in place, lower triangle only; one LAPACK call.

    Args:
        lower: (n, n) float64; its upper triangle is neither read nor written.
    """
    info = ctypes.c_int(0)
    _routine("dpotri", 5)(
        b"U", _int(lower.shape[0]), lower.ctypes.data, _int(_lead(lower)), ctypes.byref(info)
    )


@cache
def _blas_pools() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()  # it searches every loaded library: once is enough


@cache
def _limiter() -> ThreadPoolExecutor:
    os.register_at_fork(after_in_child=_limiter.cache_clear)  # a forked child has no such thread
    return ThreadPoolExecutor(1, thread_name_prefix="blas-limits")


class _BlasThreadScope:
    """Counts the callers within a scope; when scopes overlap, the first limit applies."""

    def __init__(self) -> None:
        self.callers = 0
        self.count = 0


_tasks, _between = _BlasThreadScope(), _BlasThreadScope()
_original: Any = None


def _set_limit(count: int) -> None:
    from threadpoolctl import OpenBLASController

    global _original

    # otherwise a limit that a caller set outside would stay in force
    OpenBLASController.clear_controlling_thread(force=True)
    limit = _blas_pools().limit(limits=count, user_api="blas")
    if _original is None:
        _original = limit


def _lift_limit() -> None:
    from threadpoolctl import OpenBLASController

    global _original

    OpenBLASController.clear_controlling_thread(force=True)
    _original.restore_original_limits()
    _original = None


def _apply() -> None:
    """Set the limit of the innermost scope in use, or restore the original one."""
    if _tasks.callers or _between.callers:
        count = _tasks.count if _tasks.callers else _between.count
        _limiter().submit(_set_limit, count).result()
    else:
        _limiter().submit(_lift_limit).result()


@contextmanager
def _limited(scope: _BlasThreadScope, count: int) -> Iterator[None]:
    # OpenBLAS has one limit per process: the first caller sets it and the last one restores it.
    # threadpoolctl lets only the thread that set a limit restore it, and those two callers may be
    # different threads; so a thread kept for this purpose does both.
    with _lock:
        if scope.callers == 0:
            scope.count = count
        scope.callers += 1
        if scope.callers == 1:
            _apply()
    try:
        yield
    finally:
        with _lock:
            scope.callers -= 1
            if scope.callers == 0:
                _apply()


def blas_threads(count: int) -> AbstractContextManager[None]:
    """Limit BLAS to a number of threads in this process while a task runs.

    Args:
        count: Threads. When scopes overlap, the first limit applies.
    """
    return _limited(_tasks, count)


def blas_threads_between(count: int) -> AbstractContextManager[None]:
    """Limit BLAS to a number of threads in this process while no task runs.

    For code that starts tasks and computes between them; tasks in this process set their own
    limit.

    Args:
        count: Threads. When scopes overlap, the first limit applies.
    """
    return _limited(_between, count)
