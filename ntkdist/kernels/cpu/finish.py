"""From sums over positions to kernel entries: the last pass over a block (Numba, float64)."""

from __future__ import annotations

from ntkdist.kernels.cpu.compile import compiled


@compiled
def finish(delta, theta, scale, spread_a, spread_b, norm_a, norm_b, last, K, T):
    """Fill a block of K and Θ from the sums of Δ and Θ.

    Args:
        delta: (n, ≥ m) sums of Δ over positions.
        theta: (n, ≥ m) sums of Θ.
        scale: What makes means of the sums.
        spread_a: (n,) mean over pixels of the row images' variances.
        spread_b: (m,) of the column images'.
        norm_a: (n,) what row images were divided by.
        norm_b: (m,) what column images were divided by.
        last: (5,) α, β, γ, δ, ε of the dense layers behind: αK + β and γΘ + δK + ε.
        K: (n, m) to fill.
        T: (n, m) to fill.
    """
    alpha, beta, gamma, mixed, rest = last[0], last[1], last[2], last[3], last[4]
    for i in range(K.shape[0]):
        # without biases an empty image has no variance, and no kernel with anything
        norm = norm_a[i] if spread_a[i] > 0 else 0.0
        for j in range(K.shape[1]):
            both = norm * norm_b[j] if spread_b[j] > 0 else 0.0
            k = both * ((spread_a[i] + spread_b[j]) / 2 - scale * delta[i, j])
            K[i, j] = alpha * k + beta
            T[i, j] = gamma * both * scale * theta[i, j] + mixed * k + rest


@compiled
def mirror(K):
    """Copy what stands above the diagonal of (n, n) below it."""
    n, edge = K.shape[0], 64
    for I in range(0, n, edge):
        for J in range(0, I + edge, edge):
            for i in range(I, min(n, I + edge)):
                for j in range(J, min(i, J + edge)):
                    K[i, j] = K[j, i]
