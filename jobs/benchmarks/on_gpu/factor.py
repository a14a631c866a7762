"""The factor stage with panels on the GPU, beside the same with panels on the CPU."""

from __future__ import annotations

import statistics
import tempfile
from typing import Any

import numpy as np
from _measure import in_turns, ratios, timed

from ntkdist.errors import InputError
from on_gpu.entries import Scale
from on_gpu.worker import Refused

CHECKED = 600  # rows of the matrix whose factor is checked
SIMULATED = 64  # rows of the matrix that is factored where threads are simulated
REPEATS = 3
FEATURES = 256
MEMORY_LIMIT = "4GiB"
LARGEST_ERROR = 1e-10  # of a solution against LAPACK's in float64, relative


def measure_factor(n: int, scale: Scale) -> dict[str, Any]:
    """Check and time the Cholesky factor of an n × n float32 matrix, from memory into a store.

    Args:
        n: Rows.
        scale: Whether all is a simulation: CuPy's place is then taken by the CPU.

    Returns:
        ``n``, ``checks``, ``seconds`` of each device in turns, and what follows from them.

    Raises:
        Refused: If something is not installed, CuPy cannot use the GPU, or the factor is wrong.
    """
    device, n = ("cpu", SIMULATED) if scale.simulated else ("cuda", n)
    try:
        checks = {"largest_error": _check(min(n, CHECKED), device)}
        a = _matrix(n)
        with tempfile.TemporaryDirectory() as folder:
            times = in_turns(
                {
                    "cuda": lambda: timed(lambda: _factor(a, folder, device))[0],
                    "cpu": lambda: timed(lambda: _factor(a, folder, "cpu"))[0],
                },
                1 if scale.simulated else REPEATS,
            )
    except (ImportError, InputError) as why:
        raise Refused(str(why)) from why
    row: dict[str, Any] = {"n": n, "checks": checks}
    if scale.simulated:
        return row | {"simulated": True}
    ratio, extremes = ratios(times["cpu"], times["cuda"])
    seconds = statistics.median(times["cuda"])
    return row | {
        "seconds": times,
        "seconds_on_gpu": seconds,
        "gflops": n**3 / 3 / seconds / 1e9,
        "ratio": ratio,
        "ratio_range": extremes,
    }


def _matrix(n: int) -> np.ndarray:
    """Return an n × n positive definite matrix, as a Gram is stored: float32."""
    x = np.random.default_rng(0).standard_normal((n, FEATURES), np.float32)
    a = x @ x.T / FEATURES
    a.flat[:: n + 1] += 1
    return a


def _factor(a: np.ndarray, folder: str, device: str) -> Any:
    from ntkdist.linalg import factorize

    return factorize(a, folder, memory_limit=MEMORY_LIMIT, device=device, overwrite=True)


def _check(n: int, device: str) -> float:
    """Return the largest relative error of a solution; raises ``Refused`` if it is too large."""
    from scipy.linalg import cho_factor, cho_solve

    a, b = _matrix(n), np.random.default_rng(1).standard_normal((n, 2))
    right = cho_solve(cho_factor(a.astype(np.float64)), b)
    with tempfile.TemporaryDirectory() as folder:
        found = _factor(a, folder, device).solve(b)
    worst = float(np.abs(found - right).max() / np.abs(right).max())
    if not worst <= LARGEST_ERROR:
        raise Refused(f"a solution differs from LAPACK's by {worst:.1e}, beyond {LARGEST_ERROR}")
    return worst
