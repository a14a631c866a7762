"""Matrices whose condition number is known, so that tolerances mean something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

#: Fits no N used here in one panel; panels come out 64 to about 80 columns wide.
SMALL = "2MB"


def spd(n: int, condition: float = 1e4, seed: int = 0) -> np.ndarray:
    """Symmetric positive definite (n, n), eigenvalues spread evenly in the exponent."""
    return with_eigenvalues(np.geomspace(1.0, 1.0 / condition, n), seed)


def with_eigenvalues(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Symmetric, with these eigenvalues and random eigenvectors."""
    n = len(values)
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    a = (q * values) @ q.T
    return (a + a.T) / 2


def upper_only(a: np.ndarray) -> np.ndarray:
    """The upper triangle, NaN below it."""
    out = np.triu(a)
    out[np.tril_indices(len(a), -1)] = np.nan
    return out


def stored_bytes(url: Path) -> dict[str, bytes]:
    """Every byte of the factor's chunks, by key."""
    root = url / "lower" / "c"
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


def whole_factor(factor: Any) -> np.ndarray:
    """L as one array."""
    import zarr

    return np.tril(np.asarray(zarr.open_array(f"{factor.url}/lower", mode="r")[:]))
