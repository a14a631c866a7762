"""The smallest ridge of a ladder with which a matrix has a Cholesky factor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ntkdist.linalg import blas
from ntkdist.linalg.events import Listener, RidgeTried
from ntkdist.linalg.status import RIDGE_LADDER
from ntkdist.linalg.panels import PanelPlan
from ntkdist.linalg.matrix import Matrix, Source


def suggest_ridge(
    source: Source,
    plan: PanelPlan,
    ridge: float,
    mean: float,
    fails: Callable[[float], bool],
    notify: Listener,
) -> float | None:
    """Find the smallest step of the ladder that passes, by really factoring with it.

    Where the matrix fits the memory limit (one panel), its smallest eigenvalue (LAPACK,
    float64) says which step to try first, and that step and its neighbours are then factored
    in memory. Where it does not fit, the ladder is searched by bisection with whole
    factorisations over the failed factor's own storage: at most four.

    Args:
        source: The matrix.
        plan: How its factor is cut.
        ridge: The relative ridge that failed; only larger ones are tried.
        mean: mean(diag) of the matrix.
        fails: Factors by panels with an absolute ridge; True where that fails.
        notify: Receives a ``RidgeTried`` for each attempt.

    Returns:
        The ridge, relative to ``mean``; None where no step passes.
    """
    steps = [step for step in RIDGE_LADDER if step > ridge]
    if mean <= 0 or not steps:
        return None
    start = None
    if plan.count == 1:
        needed = -smallest_eigenvalue(source, plan) / mean
        start = next((i for i, step in enumerate(steps) if step > needed), len(steps))
        fails = _in_memory(source, plan)

    def passes(index: int) -> bool:
        passed = not fails(steps[index] * mean)
        notify(RidgeTried(steps[index], passed))
        return passed

    best = first_passing(len(steps), passes, start)
    return steps[best] if best < len(steps) else None


def first_passing(count: int, passes: Callable[[int], bool], start: int | None = None) -> int:
    """Return the first of ``count`` steps that passes, ``count`` where none does.

    Steps after a passing one are taken to pass. Every answer is tried: the step returned has
    passed and the one before it has failed.

    Args:
        count: How many steps there are.
        passes: Tries one.
        start: A guess, from which the search walks; None bisects.
    """
    low, high = 0, count  # before low all fail, from high on all pass
    guess = start
    while low < high:
        middle = (low + high) // 2 if guess is None else min(max(guess, low), high - 1)
        if passes(middle):
            high = middle
            guess = None if guess is None else middle - 1
        else:
            low = middle + 1
            guess = None if guess is None else middle + 1
    return high


def smallest_eigenvalue(source: Source, plan: PanelPlan) -> float:
    """Return the smallest eigenvalue of the whole matrix in float64 (LAPACK syevr)."""
    from scipy.linalg import eigh

    return float(
        eigh(
            _load(source, plan).T,  # column-major, as LAPACK takes it: no second copy
            lower=False,
            eigvals_only=True,
            subset_by_index=[0, 0],
            overwrite_a=True,
            check_finite=False,
        )[0]
    )


def _in_memory(source: Source, plan: PanelPlan) -> Callable[[float], bool]:
    def fails(shift: float) -> bool:
        lower = _load(source, plan)
        np.fill_diagonal(lower, lower.diagonal() + shift)
        return blas.cholesky_lower(lower) >= 0

    return fails


def _load(source: Source, plan: PanelPlan) -> Matrix:
    lower = np.zeros((source.n, source.n))
    source.fill_lower(lower, 0, plan.block)
    return lower
