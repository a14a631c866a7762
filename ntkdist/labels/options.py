"""The options and masks of ``refurbish``, checked before anything costly is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_choice, check_whole, is_number, is_whole, real_array
from ntkdist.errors import InputError, did_you_mean, shown
from ntkdist.labels.block_error import check_beta
from ntkdist.labels.noise import CLASS_CONDITIONAL, NOISE_MODELS, highest_rate

METHODS = ("posterior", "exact", "paper")


@dataclass(frozen=True)
class Options:
    """The options of ``refurbish``; its docstring explains each."""

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
        check_choice("noise", self.noise, NOISE_MODELS)
        check_choice("method", self.method, METHODS)
        if self.noise == CLASS_CONDITIONAL and self.noise_rate is not None:
            raise InputError(
                f"noise_rate={self.noise_rate} is a rate of symmetric noise; leave it out, or give "
                "noise='symmetric'"
            )
        if self.steps is None and self.method == "paper":
            raise InputError(
                "method='paper' does not stop by itself: give steps (a number, or 'auto' for "
                "as many as labels are estimated wrong)"
            )
        steps: Any = self.steps
        auto = steps is None or (isinstance(steps, str) and steps == "auto")
        if not (auto or (is_whole(steps) and steps >= 0)):
            raise InputError(
                f"steps={shown(steps)} must be a whole number ≥ 0, 'auto' or None"
                + (did_you_mean(steps, ["auto"]) if isinstance(steps, str) else "")
            )
        for name in ("blocks", "flips_per_step", "checkpoint_every"):
            whole = check_whole(name, getattr(self, name), 1, "give another", most=10**9)
            object.__setattr__(self, name, whole)
        for name in ("noise_rate", "confidence"):
            share = getattr(self, name)
            if share is None and name == "noise_rate":
                continue
            if not is_number(share) or not 0 <= share <= 1:
                raise InputError(f"{name}={shown(share)} must be a number from 0 to 1")


def check_noise_rate(noise_rate: float | None, num_classes: int) -> None:
    """Raise ``InputError`` for a rate at which labels say nothing about the true class."""
    if noise_rate is not None and num_classes > 1 and noise_rate > highest_rate(num_classes):
        raise InputError(
            f"noise_rate={noise_rate} is above (K−1)/K = {highest_rate(num_classes):.3g}, at which "
            "labels have no information about the true class; give a lower rate, or leave it out"
        )


def check_locked(locked: Any, n: int) -> NDArray[np.bool_]:
    """Return which labels are known to be right, as a new mask.

    Args:
        locked: (N,) bool, (m,) indices, or None for none.
        n: N.

    Returns:
        (N,) bool.

    Raises:
        InputError: For a wrong length, type or index.
    """
    mask = np.zeros(n, dtype=np.bool_)
    if locked is None:
        return mask
    try:
        given = np.asarray(locked)
    except ValueError:  # rows of several lengths
        raise InputError(f"locked={shown(locked)}; give ({n},) bool or indices") from None
    if given.dtype.kind == "b" and given.shape == (n,):
        return given.copy()
    if given.size == 0:
        return mask
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise InputError(
            f"locked has type {given.dtype} and shape {given.shape}; give ({n},) bool or indices"
        )
    wrong = given[(given < 0) | (given >= n)]
    if wrong.size:
        raise InputError(f"locked names image {wrong[0]}; they are numbered 0 to {n - 1}")
    mask[given] = True
    return mask


def check_probs(probs: Any, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Return class probabilities of a shape (N, K) as float64, or None if none are given.

    ``InputError`` for another shape, or rows that are not probabilities.
    """
    if probs is None:
        return None
    given = real_array("first_probs", probs)
    if given.shape != shape:
        raise InputError(f"first_probs has shape {given.shape}; it must be {shape}")
    # the comparisons are False for NaN
    good = (given >= 0).all(axis=1) & (np.abs(given.sum(axis=1) - 1) < 1e-3)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise InputError(
            f"first_probs: row {row} does not hold probabilities (sum {given[row].sum():.4g}, "
            f"minimum {given[row].min():.4g}); each row must be ≥ 0 and sum to 1"
        )
    return given
