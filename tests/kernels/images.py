"""Image sets that go where kernels break."""

from __future__ import annotations

import numpy as np


def awkward_images(shape: tuple[int, int, int], n: int = 5, seed: int = 0) -> np.ndarray:
    """Return n ≥ 5 images: plain, zero patches, constant, a duplicate, a near duplicate."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, *shape))
    x[1, : shape[0] // 2] = 0.0
    x[2] = 0.7
    x[3] = x[0]
    x[4] = x[0]
    x[4].flat[0] += 1 / 255
    return x


def two_sets(
    shape: tuple[int, int, int], seed: int = 0, *, near: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of different sizes that share images, one of them all zero.

    ``near`` False leaves out the near duplicates, on which K(x, x') itself has too few digits in
    float64 to tell two recursions apart at 1e-10.
    """
    x = awkward_images(shape, 6, seed)
    x[5] = 0.0
    y = awkward_images(shape, 5, seed + 1)
    y[0], y[1] = x[1], x[4]
    return (x, y) if near else (np.delete(x, 4, axis=0), y[[0, 2, 3]])
