"""Seeded generators, a separate stream for each purpose."""

from __future__ import annotations

import numpy as np

from ntkdist.errors import InputError

SUBSET, NOISE = 1, 2


def generator(seed: int, purpose: int) -> np.random.Generator:
    """Return a fresh PCG64 generator for a seed of at least 0 and a purpose.

    With one seed, the images that are chosen (``SUBSET``) and the labels that are corrupted
    (``NOISE``) are independent.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed = {seed!r}; an integer of at least 0 is needed")
    return np.random.default_rng([int(seed), purpose])
