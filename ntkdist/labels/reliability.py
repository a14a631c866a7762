"""Verdict on how far the label results can be trusted, with its reason and a remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels.leave_one_out import class_shares
from ntkdist.labels.noise import LEAST_SKILL, SYMMETRIC

if TYPE_CHECKING:
    from ntkdist.labels.posterior import Posterior

RELIABLE, WEAK, CANNOT_JUDGE = "reliable", "weak", "cannot judge"
VERDICTS = (RELIABLE, WEAK, CANNOT_JUDGE)

# A label is flagged where it is more probably wrong than right.
FLAGGED = 0.5
# Fewest images of a class, on average, for which anything is said.
FEWEST = 10
# Standard errors by which leave-one-out predictions have to beat chance.
LEAST_EXCESS = 4.0
# Required (accuracy − chance)/(1 − chance), times the number of classes: 0.4 with two classes, 0.08
# with ten. With few classes a kernel's error looks more like a wrong label.
REQUIRED_ACCURACY = 0.8
# An interval of the noise rate that is wider than this, and begins at or near 0, leaves open
# whether the kernel errs or the labels do.
WIDEST, NEAR_ZERO = 0.25, 0.03
# The verdict is weak if the interval's lower end amounts to fewer wrong labels than this and its
# upper end is above NEAR_ZERO.
FEW = 3
# If the noise rate is too uncertain, the flagged share is at most the larger of this and the
# interval's lower end.
WEAK_SHARE = 0.02
# Expected share of flagged labels that are wrong, below which the verdict is weak.
LEAST_PRECISION = 0.7

_HELP = (
    "more images or another architecture may help; for photographs, use features of a pretrained "
    "network (--data.features)"
)


@dataclass(frozen=True)
class Reliability:
    """How far statements about these labels can be trusted.

    Attributes:
        verdict: ``reliable``; ``weak``: labels are ranked, and flagged only where the flags are
            expected to be right; or ``cannot judge``: no label is flagged, none is called clean.
        leave_one_out_accuracy: Share of the given labels that the other images predict.
        chance: The same for predictions that always name the largest class.
        chance_error: Its standard error.
        noise: Kind of noise, ``symmetric`` or ``class-conditional``.
        noise_rate: Estimated share of wrong labels.
        noise_interval: Lower and upper end of the interval of the rate.
        expected_precision: Expected share of the flagged labels that are wrong; None where none
            is flagged.
        reason: Why the verdict is what it is, and what would help; a sentence or two.
    """

    verdict: str
    leave_one_out_accuracy: float
    chance: float
    chance_error: float
    noise: str
    noise_rate: float
    noise_interval: tuple[float, float]
    expected_precision: float | None
    reason: str

    @property
    def can_judge(self) -> bool:
        """Whether labels may be flagged or called clean at all."""
        return self.verdict != CANNOT_JUDGE

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON holds them."""
        return {**asdict(self), "noise_interval": list(self.noise_interval)}


def assess(
    posterior: Posterior,
    labels: NDArray[np.int64],
    locked: NDArray[np.bool_] | None = None,
) -> tuple[Reliability, NDArray[np.bool_]]:
    """Return how far the posterior can be trusted, and the labels that may be flagged.

    Args:
        posterior: Class posterior of the images.
        labels: (N,) given labels in 0..K−1.
        locked: (N,) bool, labels known to be right; never flagged.

    Returns:
        The reliability, and the flags (N,) bool: labels that are more probably wrong than right;
        none with ``cannot judge``. With ``weak`` they are those most probably wrong, as many as
        keep the expected precision at ``LEAST_PRECISION`` or above; if the noise rate is too
        uncertain, their share is also at most the larger of the interval's lower end and
        ``WEAK_SHARE``.
    """
    n, K = posterior.probabilities.shape
    chance = float(class_shares(labels, K).max())
    error = float(np.sqrt(chance * (1 - chance) / max(n, 1)))
    wrong = 1.0 - posterior.probabilities[np.arange(n), labels]
    count = n
    if locked is not None:
        wrong, count = np.where(locked, 0.0, wrong), int((~locked).sum())
    verdict, reason = _verdict(posterior, labels, chance, error, count)
    # with few images the last round is overconfident; quality mixes in the first round
    expected = 1.0 - posterior.quality
    flags = wrong > FLAGGED
    if verdict == CANNOT_JUDGE:
        flags[:] = False
    elif verdict == WEAK:
        most = max(posterior.noise.interval[0], WEAK_SHARE) * count
        flags = _surest(wrong, expected, int(most))
    elif flags.any() and (share := float(expected[flags].mean())) < LEAST_PRECISION:
        verdict = WEAK
        reason = f"only {share:.0%} of the flagged labels would be expected to be wrong; {reason}"
        flags = _surest(wrong, expected, int(flags.sum()))
    return (
        Reliability(
            verdict=verdict,
            leave_one_out_accuracy=posterior.accuracy,
            chance=chance,
            chance_error=error,
            noise=posterior.noise.kind,
            noise_rate=posterior.noise.rate,
            noise_interval=posterior.noise.interval,
            expected_precision=float(expected[flags].mean()) if flags.any() else None,
            reason=reason,
        ),
        flags,
    )


def _verdict(
    posterior: Posterior, labels: NDArray[np.int64], chance: float, error: float, count: int
) -> tuple[str, str]:
    """Return the verdict by totals over all labels, before single labels are flagged; and why."""
    present = int(np.count_nonzero(np.bincount(labels)))
    if present < 2:
        return CANNOT_JUDGE, "all labels are of one class: there is nothing to compare them with"
    images = len(labels) / present
    if images < FEWEST:
        return CANNOT_JUDGE, (
            f"there are {images:.3g} images a class on average, and at least {FEWEST} are needed: "
            "add images"
        )
    accuracy = posterior.accuracy
    beaten = (accuracy - chance) / error if error > 0 else 0.0
    above = (accuracy - chance) / max(1 - chance, 1e-12)
    seen = (
        f"the other images predict {accuracy:.0%} of the given labels, and always naming the "
        f"largest class would get {chance:.0%} ± {error:.1%}"
    )
    if beaten < LEAST_EXCESS:
        return CANNOT_JUDGE, f"the kernel does not see these classes: {seen}; {_HELP}"
    low, high = posterior.noise.interval
    known = low == high and posterior.noise.kind == SYMMETRIC  # the rate is given
    if not known and (
        posterior.estimate.skill < LEAST_SKILL or above < REQUIRED_ACCURACY / present
    ):
        return CANNOT_JUDGE, (
            f"the kernel sees these classes too dimly to tell its errors from wrong labels: {seen}"
            f"; {_HELP}"
        )
    if known or posterior.noise.kind != SYMMETRIC:
        return RELIABLE, seen
    if high - low > WIDEST and low < NEAR_ZERO:
        return CANNOT_JUDGE, (
            f"anything from {low:.0%} to {high:.0%} of the labels may be wrong; the given labels "
            f"do not determine the share; {_HELP}"
        )
    if low * count < FEW and high > NEAR_ZERO:
        return WEAK, (
            f"{low:.1%} to {high:.1%} of the labels may be wrong, and only the most probable ones "
            f"can be listed; {_HELP}"
        )
    return RELIABLE, seen


def _surest(
    wrong: NDArray[np.float64], expected: NDArray[np.float64], most: int
) -> NDArray[np.bool_]:
    """Flag the longest list, most probably wrong first, with ``LEAST_PRECISION`` expected."""
    flags = np.zeros(len(wrong), dtype=np.bool_)
    order = np.argsort(-wrong, kind="stable")[:most]
    order = order[wrong[order] > FLAGGED]
    means = np.cumsum(expected[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(means >= LEAST_PRECISION)
    if len(enough):
        flags[order[: enough[-1] + 1]] = True
    return flags
