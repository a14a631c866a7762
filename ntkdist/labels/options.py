"""The options of ``refurbish``, checked before anything costly is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ntkdist.errors import InputError, did_you_mean
from ntkdist.labels.checks import check_beta, is_number, is_whole
from ntkdist.labels.noise import CLASS_CONDITIONAL, NOISE_MODELS

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
        for name, known in (("noise", NOISE_MODELS), ("method", METHODS)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(
                    f"{name}={value!r} is not one of {', '.join(known)}"
                    + did_you_mean(str(value), known)
                )
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
        if not (steps in ("auto", None) or (is_whole(steps) and steps >= 0)):
            raise InputError(
                f"steps={steps!r} must be a whole number ≥ 0, 'auto' or None"
                + (did_you_mean(steps, ["auto"]) if isinstance(steps, str) else "")
            )
        for name in ("blocks", "flips_per_step", "checkpoint_every"):
            value = getattr(self, name)
            if not is_whole(value) or value < 1:
                raise InputError(f"{name}={value!r} must be a whole number ≥ 1")
        for name in ("noise_rate", "confidence"):
            share = getattr(self, name)
            if share is None and name == "noise_rate":
                continue
            if not is_number(share):
                raise InputError(f"{name}={share!r} must be a number from 0 to 1")
            if not 0 <= share <= 1:
                raise InputError(f"{name}={share!r} must be from 0 to 1")
