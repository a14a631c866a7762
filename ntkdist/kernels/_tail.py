"""The layers behind the mean over positions, as far as they are linear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ntkdist.networks.architecture import Dense, Layer


def linear_tail(tail: Sequence[Layer]) -> np.ndarray:
    """Return (5,) α, β, γ, δ, ε of dense layers: αK + β in K's place, γΘ + δK + ε in Θ's."""
    alpha, beta, gamma, mixed, rest = 1.0, 0.0, 1.0, 0.0, 0.0
    for layer in tail:
        assert isinstance(layer, Dense)
        scale = layer.W_std**2
        alpha, beta = scale * alpha, scale * beta + layer.b_std**2
        trained = float(layer.trainable)
        gamma, mixed, rest = (
            scale * gamma,
            scale * mixed + trained * alpha,
            scale * rest + trained * beta,
        )
    return np.array([alpha, beta, gamma, mixed, rest])
