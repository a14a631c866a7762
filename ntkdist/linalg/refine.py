"""Iterative refinement: correct a solution by its residual against the stored matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ntkdist.linalg.matrix import Matrix, Vector


def refine(
    multiply: Callable[[Matrix], Matrix],
    solve: Callable[[Matrix], Matrix],
    b: Matrix,
    x: Matrix,
    steps: int,
) -> Matrix:
    """Correct X by M⁻¹(B − M X) as long as that halves a column's residual.

    Residuals are computed in float64, so that refinement mends what the factor lost (rounding of
    long sums, many appended bands), down to a backward error of float64's rounding; the
    forward error stays at that times the condition number.

    Args:
        multiply: X -> M X, one pass over the matrix.
        solve: R -> M⁻¹ R, by the factor.
        b: (N, K) right-hand sides.
        x: (N, K) solutions to correct; not overwritten.
        steps: Most corrections.

    Returns:
        (N, K) float64; a column is never left worse than it was.

    Source:
        Higham 2002, "Accuracy and stability of numerical algorithms", section 12.1.
    """
    best = x.copy()
    r = b - multiply(best)
    sizes = _sizes(r)
    active = sizes > 0
    for _ in range(steps):
        if not active.any():
            break
        trial = best[:, active] + solve(np.ascontiguousarray(r[:, active]))
        left = b[:, active] - multiply(trial)
        found = _sizes(left)
        where = np.flatnonzero(active)
        better = found < sizes[where]
        best[:, where[better]] = trial[:, better]
        r[:, where[better]] = left[:, better]
        active[where] = found < sizes[where] / 2
        sizes[where[better]] = found[better]
    return best


def _sizes(r: Matrix) -> Vector:
    return np.abs(r).max(axis=0) if len(r) else np.zeros(r.shape[1])
