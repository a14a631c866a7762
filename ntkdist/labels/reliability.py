"""Verdict on how far the label results can be trusted, with its reason and a remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels.leave_one_out import class_shares
from ntkdist.labels.noise import SYMMETRIC, standard_error
from ntkdist.words import CANNOT_JUDGE, RELIABLE, WEAK, percent

if TYPE_CHECKING:
    from ntkdist.labels.posterior import Posterior

# Least skill (``noise.skill_of``). Below it, errors of the kernel cannot be told from wrong labels:
# on photographs whose labels are true it is up to 0.57, and up to 10 % of them would be flagged.
MIN_SKILL = 0.6
# Where at least MANY_WRONG of the labels are estimated wrong, and a class has on average at least
# ENOUGH_PER_CLASS labels, SKILL_OF_MANY is enough: most flags are right even if the kernel errs.
MANY_WRONG, ENOUGH_PER_CLASS, SKILL_OF_MANY = 0.3, 50, 0.5
# A label is flagged if it is wrong with a probability above this.
FLAG_THRESHOLD = 0.5
# Images per class, on average, that a verdict other than cannot judge requires.
MIN_IMAGES_PER_CLASS = 10
# Standard errors by which the leave-one-out accuracy must exceed chance.
MIN_STANDARD_ERRORS = 4.0
# Required (accuracy − chance)/(1 − chance), multiplied by the number of classes that have labels:
# 0.4 for two classes, 0.08 for ten. With fewer classes, errors of the kernel and wrong labels are
# harder to distinguish.
MIN_EXCESS_TIMES_CLASSES = 0.8
# Symmetric noise cannot be judged if the interval of its rate is wider than MAX_INTERVAL_WIDTH and
# its lower end is below NEAR_ZERO.
MAX_INTERVAL_WIDTH, NEAR_ZERO = 0.25, 0.03
# The verdict is weak if the interval's lower end amounts to fewer wrong labels than this and its
# upper end is above NEAR_ZERO.
MIN_WRONG_LABELS = 3
# If it is weak for that reason, the flagged share is at most the larger of this and the interval's
# lower end.
WEAK_SHARE = 0.02
# Expected share of flagged labels that are wrong, below which the verdict is weak.
MIN_PRECISION = 0.7

_HELP = (
    "more images or another architecture may help; for photographs, use features of a pretrained "
    "network (--data.features)"
)


@dataclass(frozen=True)
class Reliability:
    """How far statements about the labels can be trusted.

    Attributes:
        verdict: ``reliable``; ``weak``: labels are ranked, and only those most probably wrong are
            flagged; or ``cannot judge``: no label is flagged, none is called clean.
        leave_one_out_accuracy: Share of the given labels that the other images predict.
        chance: Share of the largest class: the accuracy of always predicting it.
        chance_error: Standard error of ``chance``.
        noise: Kind of noise, ``symmetric`` or ``class-conditional``.
        noise_rate: Estimated share of wrong labels.
        noise_interval: Lower and upper end of the interval of the rate.
        expected_precision: Expected share of the flagged labels that are wrong; None where none
            is flagged.
        reason: Reason for the verdict, and what may help, if anything.
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
        """Return a dictionary that can be written as JSON; floats are restored exactly."""
        return {**asdict(self), "noise_interval": list(self.noise_interval)}


def assess(
    posterior: Posterior,
    labels: NDArray[np.int64],
    locked: NDArray[np.bool_] | None = None,
) -> tuple[Reliability, NDArray[np.bool_]]:
    """Return the reliability and the flagged labels.

    Args:
        posterior: Class posterior of the images.
        labels: (N,) given labels in 0..K−1.
        locked: (N,) bool, labels known to be right; never flagged.

    Returns:
        The reliability, and the flags (N,) bool. ``reliable``: labels that are wrong with a
        probability above ``FLAG_THRESHOLD``. ``cannot judge``: none. ``weak``: of these labels the
        longest list, most probably wrong first, that has an expected precision of at least
        ``MIN_PRECISION``; it may be empty. Where the verdict is weak because too few labels are
        certainly wrong (``MIN_WRONG_LABELS``), the list holds at most the larger of the interval's
        lower end and ``WEAK_SHARE`` of the labels that are not locked.
    """
    n, K = posterior.probabilities.shape
    chance = float(class_shares(labels, K).max())
    chance_error = standard_error(chance, n)
    wrong = 1.0 - posterior.probabilities[np.arange(n), labels]
    num_unlocked = n
    if locked is not None:
        wrong, num_unlocked = np.where(locked, 0.0, wrong), int((~locked).sum())
    verdict, reason = _verdict(posterior, labels, chance, chance_error, num_unlocked)
    # with few images the last round is overconfident: quality mixes in the first round
    expected = 1.0 - posterior.quality
    flags = wrong > FLAG_THRESHOLD
    if verdict == CANNOT_JUDGE:
        flags[:] = False
    elif verdict == WEAK:
        most = max(posterior.noise.interval[0], WEAK_SHARE) * num_unlocked
        flags = _most_probably_wrong(wrong, expected, int(most))
    elif flags.any() and (share := float(expected[flags].mean())) < MIN_PRECISION:
        verdict = WEAK
        reason = (
            f"only {percent(share, 0)} of the labels that are more probably wrong than right are "
            f"expected to be wrong, so that fewer are flagged; {reason}"
        )
        flags = _most_probably_wrong(wrong, expected, int(flags.sum()))
    return (
        Reliability(
            verdict=verdict,
            leave_one_out_accuracy=posterior.accuracy,
            chance=chance,
            chance_error=chance_error,
            noise=posterior.noise.kind,
            noise_rate=posterior.noise.rate,
            noise_interval=posterior.noise.interval,
            expected_precision=float(expected[flags].mean()) if flags.any() else None,
            reason=reason,
        ),
        flags,
    )


def _verdict(
    posterior: Posterior,
    labels: NDArray[np.int64],
    chance: float,
    chance_error: float,
    num_unlocked: int,
) -> tuple[str, str]:
    """Return the verdict and its reason, from quantities of all labels together."""
    present = int(np.count_nonzero(np.bincount(labels)))
    if present < 2:
        return CANNOT_JUDGE, "all labels are of one class, so that they cannot be compared"
    images_per_class = len(labels) / present
    if images_per_class < MIN_IMAGES_PER_CLASS:
        return CANNOT_JUDGE, (
            f"there are {images_per_class:.3g} images per class on average, and at least "
            f"{MIN_IMAGES_PER_CLASS} are needed: add images"
        )
    accuracy = posterior.accuracy
    standard_errors = (accuracy - chance) / chance_error if chance_error > 0 else 0.0
    excess = (accuracy - chance) / max(1 - chance, 1e-12)
    accuracies = (
        f"leave-one-out predictions equal {percent(accuracy, 0)} of the given labels; always "
        f"predicting the largest class gives {percent(chance, 0)} ± {percent(chance_error)}"
    )
    if standard_errors < MIN_STANDARD_ERRORS:
        return CANNOT_JUDGE, f"the kernel does not distinguish these classes: {accuracies}; {_HELP}"
    low, high = posterior.noise.interval
    rate_is_given = low == high and posterior.noise.kind == SYMMETRIC
    many = posterior.noise.rate >= MANY_WRONG and images_per_class >= ENOUGH_PER_CLASS
    least_skill = SKILL_OF_MANY if many else MIN_SKILL
    if not rate_is_given and (
        posterior.estimate.skill < least_skill or excess < MIN_EXCESS_TIMES_CLASSES / present
    ):
        return CANNOT_JUDGE, (
            "predictions are too inaccurate or too uncertain to tell errors of the kernel from "
            f"wrong labels: {accuracies}; {_HELP}"
        )
    if rate_is_given or posterior.noise.kind != SYMMETRIC:
        return RELIABLE, accuracies
    if high - low > MAX_INTERVAL_WIDTH and low < NEAR_ZERO:
        return CANNOT_JUDGE, (
            f"from {percent(low, 0)} to {percent(high, 0)} of the labels may be wrong: the given "
            f"labels do not determine the share more closely; {_HELP}"
        )
    if low * num_unlocked < MIN_WRONG_LABELS and high > NEAR_ZERO:
        return WEAK, (
            f"{percent(low)} to {percent(high)} of the labels may be wrong, so that only "
            f"those most probably wrong are flagged; {_HELP}"
        )
    return RELIABLE, accuracies


def _most_probably_wrong(
    wrong: NDArray[np.float64], expected: NDArray[np.float64], most: int
) -> NDArray[np.bool_]:
    """Return the longest list, most probably wrong first, whose precision is high enough."""
    flags = np.zeros(len(wrong), dtype=np.bool_)
    order = np.argsort(-wrong, kind="stable")[:most]
    order = order[wrong[order] > FLAG_THRESHOLD]
    means = np.cumsum(expected[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(means >= MIN_PRECISION)
    if len(enough):
        flags[order[: enough[-1] + 1]] = True
    return flags
