"""Independent small implementations for comparison."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fully_connected_ntk(x: NDArray[np.float64], hidden: int) -> NDArray[np.float64]:
    """NTK of ``hidden`` ReLU layers (W_std = √2, no bias) of rows x (N, d): Jacot et al. 2018."""
    sigma = x @ x.T / x.shape[1]
    theta = sigma.copy()
    for _ in range(hidden):
        norm = np.sqrt(np.diagonal(sigma))
        ab = np.outer(norm, norm)
        c = np.clip(sigma / ab, -1.0, 1.0)
        angle = np.pi - np.arccos(c)
        sigma = ab * (np.sqrt(1 - c * c) + angle * c) / np.pi
        theta = theta * angle / np.pi + sigma
    return theta


def inverse_of(gram: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """(H + ridge·mean(diag)·I)⁻¹, symmetric."""
    n = len(gram)
    out = np.linalg.inv(gram + ridge * np.mean(np.diagonal(gram)) * np.eye(n))
    return (out + out.T) / 2


def loss(A: NDArray[np.float64], labels: NDArray[np.int64], K: int, beta: float = 1.0) -> float:
    """L(Z) by plain loops over class pairs, 0/0 terms left out."""
    Y = np.eye(K)[labels]
    Z, n = Y.T @ A @ Y, Y.sum(axis=0)
    total = 0.0
    for k in range(K):
        if n[k] > 1:
            total += Z[k, k] / (n[k] * (n[k] - 1)) / K
        for d in range(K):
            if k != d and n[k] and n[d]:
                total -= beta / (K * K - K) * Z[k, d] / (n[k] * n[d])
    return total


def clustered(
    n: int, K: int, noise: float, seed: int, *, ridge: float = 0.05
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """(inverse of an RBF Gram, noisy labels, true labels) of n points in K clusters."""
    random = np.random.default_rng(seed)
    true = random.permutation(np.arange(n) % K)
    x = 2.0 * random.standard_normal((K, 12))[true] + random.standard_normal((n, 12))
    square = ((x[:, None] - x) ** 2).sum(axis=2)
    labels = true.copy()
    chosen = random.permutation(n)[: round(noise * n)]
    if K > 1:
        labels[chosen] = (labels[chosen] + random.integers(1, K, len(chosen))) % K
    return inverse_of(np.exp(-square / 150), ridge), labels, true
