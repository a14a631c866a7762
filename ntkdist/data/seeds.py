"""Seeded generators, a separate stream for each purpose."""

from __future__ import annotations

import numpy as np

from ntkdist.errors import InputError

SUBSET, NOISE = 1, 2


def generator(seed: int, purpose: int) -> np.random.Generator:
    """Return the generator of one purpose.

    Args:
        seed: The user's seed, an integer of at least 0.
        purpose: ``SUBSET`` or ``NOISE``, so that with one seed the images that are chosen and the
            labels that are corrupted are independent.

    Returns:
        A fresh PCG64 generator.

    Raises:
        InputError: The seed is not an integer of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed = {seed!r}; an integer of at least 0 is needed")
    return np.random.default_rng([int(seed), purpose])
