"""The options of ``refurbish``, checked before anything costly is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, did_you_mean
from ntkdist.labels.block_error import check_beta
from ntkdist.labels.noise import check_noise

METHODS = ("posterior", "exact", "paper")


@dataclass(frozen=True)
class Options:
    """What ``refurbish`` was asked for; its docstring says what each is."""

    method: str = "posterior"
    steps: int | str | None = "auto"
    beta: float = 1.0
    noise: str = "auto"
    noise_rate: float | None = None
    confidence: float = 0.0
    blocks: int = 1
    flips_per_step: int = 1
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        check_beta(self.beta)
        check_noise(self.noise, self.noise_rate)
        method, steps = self.method, self.steps
        if method not in METHODS:
            raise InputError(
                f"method={method!r} is not one of {', '.join(METHODS)}"
                + did_you_mean(str(method), METHODS)
            )
        if isinstance(steps, str):
            if steps != "auto":
                raise InputError(
                    f"steps={steps!r} must be a whole number ≥ 0, 'auto' or None"
                    + did_you_mean(steps, ["auto"])
                )
        elif steps is None:
            if method == "paper":
                raise InputError(
                    "method='paper' does not stop by itself: give steps (a number, or 'auto' for "
                    "as many as labels are estimated wrong)"
                )
        elif not _whole(steps) or steps < 0:
            raise InputError(f"steps={steps!r} must be a whole number ≥ 0, 'auto' or None")
        for name in ("blocks", "flips_per_step", "checkpoint_every"):
            value = getattr(self, name)
            if not _whole(value) or value < 1:
                raise InputError(f"{name}={value!r} must be a whole number ≥ 1")
        for name in ("noise_rate", "confidence"):
            share = getattr(self, name)
            if share is None and name == "noise_rate":
                continue
            if isinstance(share, bool) or not isinstance(share, (int, float, np.number)):
                raise InputError(f"{name}={share!r} must be a number from 0 to 1")
            if not 0 <= share <= 1:
                raise InputError(f"{name}={share!r} must be from 0 to 1")


def check_locked(locked: Any, n: int) -> NDArray[np.bool_]:
    """Return which labels are known to be right, as a mask.

    Args:
        locked: (N,) bool, (m,) indices, or None for none.
        n: N.

    Returns:
        (N,) bool.

    Raises:
        InputError: For a wrong length, type or index.
    """
    if locked is None:
        return np.zeros(n, dtype=np.bool_)
    given = np.asarray(locked)
    if given.dtype.kind == "b" and given.shape == (n,):
        return given.copy()
    if given.size == 0:
        return np.zeros(n, dtype=np.bool_)
    if given.dtype.kind in "iu" and given.ndim == 1:
        wrong = given[(given < 0) | (given >= n)]
        if wrong.size:
            raise InputError(f"locked names image {wrong[0]}; they are numbered 0 to {n - 1}")
        mask = np.zeros(n, dtype=np.bool_)
        mask[given] = True
        return mask
    raise InputError(
        f"locked has type {given.dtype} and shape {given.shape}; give ({n},) bool or indices"
    )


def check_probs(probs: Any, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Return class probabilities, refusing what are none.

    Args:
        probs: (N, K), rows sum to 1; None for none.
        shape: (N, K).

    Returns:
        (N, K) float64, or None.

    Raises:
        InputError: For a wrong shape, or rows that are no probabilities.
    """
    if probs is None:
        return None
    given = np.asarray(probs, dtype=np.float64)
    if given.shape != shape:
        raise InputError(f"first_probs has shape {given.shape}; it must be {shape}")
    # the comparisons are False for NaN
    good = (given >= 0).all(axis=1) & (np.abs(given.sum(axis=1) - 1) < 1e-3)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise InputError(
            f"first_probs: row {row} is no probabilities (sum {given[row].sum():.4g}, least "
            f"{given[row].min():.4g}); each row must be ≥ 0 and sum to 1"
        )
    return given


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
