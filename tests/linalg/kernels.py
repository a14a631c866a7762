"""Kernel matrices with a decaying spectrum, as the iterative methods meet them."""

from __future__ import annotations

import numpy as np


def points(n: int, dimension: int = 3, seed: int = 0) -> np.ndarray:
    """Points in the unit cube, (n, dimension)."""
    return np.random.default_rng(seed).random((n, dimension))


def gaussian(n: int, width: float = 0.3, dimension: int = 3, seed: int = 0) -> np.ndarray:
    """exp(−‖x − y‖²/2w²): eigenvalues fall exponentially; (n, n) float64, positive definite."""
    x = points(n, dimension, seed)
    squares = (x**2).sum(1)
    return np.exp(-np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0) / (2 * width**2))


def exponential(n: int, width: float = 0.5, dimension: int = 3, seed: int = 0) -> np.ndarray:
    """exp(−‖x − y‖/w): eigenvalues fall like a power, as those of ReLU kernels do."""
    x = points(n, dimension, seed)
    squares = (x**2).sum(1)
    return np.exp(-np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0)) / width)
