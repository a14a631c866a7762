"""BLAS and LAPACK in place, on row-major arrays, with the interpreter lock released.

``scipy.linalg.blas`` and ``scipy.linalg.lapack`` hold the lock for the whole call, so that two
Dask threads take turns. The same routines, reached through the pointers that
``scipy.linalg.cython_blas`` publishes, run side by side.

Row-major memory read column-major is the transpose: each wrapper states what it does in
row-major terms and passes the transposed statement on. Inner dimensions must be contiguous
(rows may be strided).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_blas, cython_lapack

Matrix = NDArray[np.float64]


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
        raise ImportError(f"scipy publishes {name} with a signature ntkdist does not know")
    pointer = get_pointer(capsule, signature)
    # CFUNCTYPE, unlike PYFUNCTYPE, gives the interpreter lock back during the call
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
