"""How far to trust what a run says about labels, and how they go wrong: read and put into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.words import class_name, counted, percent
from ntkdist.errors import StoreError
from ntkdist.runs.run import Run
from ntkdist.words import CANNOT_JUDGE, RELIABLE, VERDICTS, WEAK

CLASS_CONDITIONAL = "class-conditional"

# Labels are called clean where no more than this share of them may be wrong.
_CLEAN = 0.03
# Confusions that are told in words: at least so many, and more while they are at least this
# share of the largest.
_FEWEST, _MOST, _NEAR_LARGEST = 3, 5, 0.2
# Rows of the table of confusions: at most so many, none below this share.
_ROWS, _LEAST = 30, 0.005


@dataclass(frozen=True, eq=False)
class Reliability:
    """What the label stage stored about how far to trust it.

    Attributes:
        verdict: One of ``VERDICTS``.
        accuracy: Leave-one-out accuracy against the given labels.
        chance: That of always naming the largest class.
        chance_error: Its standard error.
        noise: Kind of noise, ``symmetric`` or ``class-conditional``.
        rate: Estimated share of wrong labels.
        interval: Lowest and highest share that the labels speak for.
        precision: Expected share of the flags that are right; None where none is flagged.
        reason: Why the verdict is what it is.
        noise_reason: Why this kind of noise was taken; empty if not stored.
        transition: (K, K) P(given label | true class); None if not stored.
    """

    verdict: str
    accuracy: float
    chance: float
    chance_error: float
    noise: str
    rate: float
    interval: tuple[float, float]
    precision: float | None
    reason: str
    noise_reason: str
    transition: NDArray[np.float64] | None

    @property
    def can_judge(self) -> bool:
        """Whether labels may be flagged or called clean at all."""
        return self.verdict != CANNOT_JUDGE

    @property
    def can_call_clean(self) -> bool:
        """Whether the labels may be called clean where none is flagged."""
        estimated = not self.rate_was_set
        return self.verdict == RELIABLE and estimated and self.interval[1] <= _CLEAN

    @property
    def rate_was_set(self) -> bool:
        """Whether the noise rate was set by the user, so that there is no interval."""
        return self.interval[0] == self.interval[1]


def read_reliability(run: Run, summary: Mapping[str, Any]) -> Reliability | None:
    """Read how far to trust what the label stage found; None for runs of older versions.

    Args:
        run: The run.
        summary: The label stage's summary.

    Returns:
        The reliability.

    Raises:
        StoreError: If it cannot be understood, or the noise matrix has another shape.
    """
    stored = summary.get("reliability")
    if stored is None:
        return None
    K = run.num_classes
    transition: NDArray[np.float64] | None = None
    if run.has("labels", "transition"):
        transition = run.read("labels", "transition")
        if transition.shape != (K, K):
            raise StoreError(
                f"{run.address('labels', 'transition')}: has shape {transition.shape} for {K} "
                f"classes; run the label stage again: ntkdist labels {run.url}"
            )
    try:
        low, high = map(float, stored["noise_interval"])
        precision = stored["expected_precision"]
        read = Reliability(
            verdict=stored["verdict"],
            accuracy=float(stored["leave_one_out_accuracy"]),
            chance=float(stored["chance"]),
            chance_error=float(stored["chance_error"]),
            noise=str(stored["noise"]),
            rate=float(stored["noise_rate"]),
            interval=(low, high),
            precision=None if precision is None else float(precision),
            reason=str(stored["reason"]),
            noise_reason=str(summary.get("noise_reason") or ""),
            transition=transition,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{run.address('labels')}: the attribute summary holds a reliability that cannot be "
            f"read ({error!r}); run the label stage again: ntkdist labels {run.url}"
        ) from error
    if read.verdict not in VERDICTS:
        raise StoreError(
            f"{run.address('labels')}: the verdict {read.verdict!r} is not one of "
            f"{', '.join(VERDICTS)}; another version of ntkdist wrote it"
        )
    return read


def verdict_sentence(reliability: Reliability, ranking: str) -> str:
    """Return what the verdict means.

    Args:
        reliability: The verdict.
        ranking: Where the ranking of all labels is stored.
    """
    if reliability.verdict == RELIABLE and reliability.rate_was_set:
        return (
            "With the noise rate that was set, the kernel tells its own errors from wrong labels."
        )
    if reliability.verdict == RELIABLE:
        return "The kernel sees these classes well enough to tell its own errors from wrong labels."
    if reliability.verdict == WEAK:
        return (
            "Wrong labels cannot all be told from right ones: only the surest are listed. The "
            f"ranking of all labels goes on in {ranking}."
        )
    return (
        "Nothing is flagged and nothing is called clean: it cannot be told from this kernel and "
        "these labels which labels are wrong, nor how many."
    )


def accuracy_sentence(reliability: Reliability) -> str:
    """Return the leave-one-out accuracy beside chance."""
    return (
        f"The leave-one-out accuracy is {percent(reliability.accuracy)}; chance, which is to "
        f"name the largest class always, is {percent(reliability.chance)} (standard error "
        f"{percent(reliability.chance_error)})."
    )


def estimate_sentence(reliability: Reliability, n: int) -> str:
    """Return the estimated share of wrong labels with its interval; empty with cannot judge."""
    if not reliability.can_judge:
        return ""
    low, high = reliability.interval
    if reliability.rate_was_set:
        return f"The share of wrong labels was set to {percent(reliability.rate)}."
    likely = percent(reliability.rate) if reliability.rate * n >= 0.5 else "none"
    between = f"between {percent(low)} and {percent(high)} of the labels are wrong"
    if low == 0:
        between = f"at most {percent(high)} of the labels are wrong"
    return f"By estimate {between}, most likely {likely}."


def may_be_wrong(reliability: Reliability, n: int) -> str:
    """Return how many labels may be wrong, as a clause."""
    low, high = reliability.interval
    if reliability.rate_was_set:
        return f"the noise rate was set to {percent(reliability.rate)} and not estimated"
    first, last = round(low * n), max(round(high * n), 1)
    labels = counted(n, "label")
    if first == 0:
        return f"up to {last:,} of the {labels} ({percent(high)}) may be wrong"
    return (
        f"between {first:,} and {last:,} of the {labels} ({percent(low)} to {percent(high)}) "
        "are wrong by estimate"
    )


def interval_words(reliability: Reliability) -> str:
    """Return the interval of the noise rate as a note, ``6.2 % to 12.0 %``."""
    if reliability.rate_was_set:
        return "set, not estimated"
    return f"{percent(reliability.interval[0])} to {percent(reliability.interval[1])}"


def finished(text: str) -> str:
    """Return a text with a full stop at its end."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def noise_words(reliability: Reliability) -> str:
    """Return which noise model was taken and why: ``symmetric noise: the rate is given``."""
    kind = f"{reliability.noise} noise"
    reason = reliability.noise_reason.removeprefix(f"{reliability.noise}: ")
    if reason.startswith((f"{kind}:", f"{kind},")):
        return reason
    return f"{kind}: {reason}" if reason else kind


def noise_sentences(reliability: Reliability, num_classes: int) -> list[str]:
    """Return which noise model was taken, why, and what it says."""
    said = [finished(f"The noise model is {noise_words(reliability)}")]
    if reliability.noise == CLASS_CONDITIONAL:
        said.append(
            "Every class may be taken for some classes more often than for others; how often is "
            "estimated from the labels and the kernel."
        )
    else:
        other = "the other class" if num_classes == 2 else "any other class equally often"
        said.append(f"A label is wrong equally often in every class, and then names {other}.")
    return said


def confusions(reliability: Reliability, given: NDArray[np.int64]) -> list[tuple[int, int, float]]:
    """Return (true class, given label, share) of wrong labels, the most frequent first.

    Args:
        reliability: With the noise matrix.
        given: (N,) given labels; classes without a label are left out, nothing is known of them.

    Returns:
        Every pair of two classes; none without a noise matrix.
    """
    T = reliability.transition
    if T is None:
        return []
    present = np.flatnonzero(np.bincount(given, minlength=len(T)))
    pairs = [(int(k), int(d)) for k in present for d in range(len(T)) if k != d]
    pairs.sort(key=lambda pair: -T[pair])
    return [(k, d, float(T[k, d])) for k, d in pairs]


def confusion_sentences(pairs: Sequence[tuple[int, int, float]], names: Sequence[str]) -> list[str]:
    """Return the three to five largest confusions in words."""
    told = [
        one
        for place, one in enumerate(pairs[:_MOST])
        if place < _FEWEST or one[2] >= _NEAR_LARGEST * pairs[0][2]
    ]
    return [
        f"{percent(share)} of class {class_name(names, k)} are labelled {class_name(names, d)}"
        for k, d, share in told
    ]


def confusion_rows(
    pairs: Sequence[tuple[int, int, float]], names: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Return (true class, given label, share) of the largest confusions, as a table has them."""
    return [
        (class_name(names, k), class_name(names, d), percent(share))
        for place, (k, d, share) in enumerate(pairs[:_ROWS])
        if place < _MOST or share >= _LEAST
    ]
