"""One table of tolerances by dtype, and a comparison that says where it failed."""

from __future__ import annotations

import numpy as np

# relative to the float64 reference, up to depth 21
RTOL = {"float32": 2e-5, "float64": 1e-10}


def assert_close(actual: np.ndarray, expected: np.ndarray, rtol: float, atol: float = 0.0) -> None:
    """Assert ``|actual − expected| ≤ rtol · |expected| + atol``; report the worst entry."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all(), f"{np.count_nonzero(~np.isfinite(actual))} entries not finite"
    excess = np.abs(actual - expected) - rtol * np.abs(expected) - atol
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    error = abs(actual[worst] - expected[worst]) / max(abs(expected[worst]), 1e-300)
    assert excess[worst] <= 0, (
        f"entry {worst}: {actual[worst]!r} instead of {expected[worst]!r}, "
        f"relative error {error:.2e} > {rtol:.0e}"
    )
