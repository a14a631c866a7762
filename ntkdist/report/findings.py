"""What a run holds about its labels and its kernel, and which of its stages are not done yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.html import data_uris
from ntkdist.display.plots import MOST_COLORS
from ntkdist.display.words import class_name, count, quality
from ntkdist.errors import StoreError
from ntkdist.events.history import Timeline
from ntkdist.runs.run import Run
from ntkdist.words import CANNOT_JUDGE, CLEAN_SHARE, RELIABLE, VERDICTS

CLASS_CONDITIONAL = "class-conditional"
UNCLEAR = "unclear"
# Images of the ranking that are listed where labels cannot be judged.
_HEAD = 12


@dataclass(frozen=True, eq=False)
class Reliability:
    """How far the results of the label stage can be trusted, as it stored that.

    Attributes:
        verdict: One of ``VERDICTS``.
        accuracy: Leave-one-out accuracy against the given labels.
        chance: Accuracy of always predicting the largest class.
        chance_error: Its standard error.
        noise: Kind of noise, ``symmetric`` or ``class-conditional``.
        rate: Estimated share of wrong labels.
        interval: Lowest and highest share of wrong labels that fits the labels.
        precision: Expected share of the flagged labels that are wrong; None if none is flagged.
        reason: Reason of the verdict.
        noise_reason: Why this kind of noise was chosen; empty if not stored.
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
        return self.verdict == RELIABLE and estimated and self.interval[1] <= CLEAN_SHARE

    @property
    def rate_was_set(self) -> bool:
        """Whether the noise rate was set by the user, so that there is no interval."""
        return self.interval[0] == self.interval[1]


@dataclass(frozen=True, eq=False)
class Findings:
    """What the label stage stored.

    Attributes:
        summary: Its settings and numbers.
        refurbished: (N,) int64 labels after the last change.
        quality: (N,) float64, low = suspicious.
        suggested: (N,) int64 suggested labels.
        is_issue: (N,) bool.
        losses: (S+1,) float64 L(Z) over the changes, (2,) where all labels were decided at once;
            None if not stored.
        deltas: (S,) float64 what each change does to L(Z), in the order of the changes; None if
            not stored.
        Z: (K, K) class matrices by name: given, refurbished, true; those that are stored.
        gram: (m, m) kernel matrix ordered by class, averaged; None if not stored.
        boundaries: K+1 class boundaries in its bins.
        reliability: How far this can be trusted; None in runs of older versions.
    """

    summary: dict[str, Any]
    refurbished: NDArray[np.int64]
    quality: NDArray[np.float64]
    suggested: NDArray[np.int64]
    is_issue: NDArray[np.bool_]
    losses: NDArray[np.float64] | None
    deltas: NDArray[np.float64] | None
    Z: dict[str, NDArray[np.float64]]
    gram: NDArray[np.float32] | None
    boundaries: tuple[float, ...]
    reliability: Reliability | None

    @property
    def can_judge(self) -> bool:
        """Whether labels may be flagged or called clean; always in runs of older versions."""
        return self.reliability is None or self.reliability.can_judge

    @property
    def block_error(self) -> dict[str, float]:
        """L(Z) by name of the labels, where it is known and may be shown."""
        stored = self.summary.get("block_error") or {}
        return {name: float(stored[name]) for name in self._sets if stored.get(name) is not None}

    @property
    def class_matrices(self) -> dict[str, NDArray[np.float64]]:
        """Z by name of the labels, where it is stored and may be shown."""
        return {name: self.Z[name] for name in self._sets if name in self.Z}

    @property
    def _sets(self) -> tuple[str, ...]:
        # labels changed by a kernel that cannot judge them are no better than the given ones
        return ("given", "refurbished", "true") if self.can_judge else ("given", "true")

    @property
    def expected_precision(self) -> float | None:
        """Expected share of the flagged labels that are wrong; None where none is flagged."""
        if not self.num_issues:
            return None
        decided = self.summary.get("method", "posterior") == "posterior"
        if decided and self.reliability is not None and self.reliability.precision is not None:
            return self.reliability.precision
        # the methods exact and paper flag the labels they changed; the estimate is of others
        return 1.0 - float(np.nanmean(self.quality[self.is_issue]))

    @property
    def at_once(self) -> bool:
        """Whether all labels were decided at once, so that there is no curve of changes."""
        changes = int(self.summary.get("flips") or 0)
        decided = self.summary.get("method") == "posterior"
        # runs of versions that changed labels one after the other hold a loss for each change
        return decided and (self.losses is None or changes == 0 or len(self.losses) == 2)

    @property
    def num_issues(self) -> int:
        """How many labels look wrong."""
        return int(self.is_issue.sum())


@dataclass(frozen=True)
class Issue:
    """One suspicious label as it is shown.

    Attributes:
        index: Which image.
        given: Name of the given class.
        suggested: Name of the suggested class; ``UNCLEAR`` where it is probably wrong, and no other
            class is more probable than the given one; empty in a ranking without verdict.
        quality: Its label quality in words.
        true: Name of the true class; None if not known.
        verdict: ``right``, ``other`` (wrong, but another class than suggested), ``wrong`` (no
            class was suggested) or ``kept`` (the given label was right); empty if the true class
            is not known, and in a ranking without verdict.
        picture: The image as a data URI; empty where there are no pictures.
        file: Its file name; empty where it came from no file.
    """

    index: int
    given: str
    suggested: str
    quality: str
    true: str | None
    verdict: str
    picture: str
    file: str


@dataclass(frozen=True)
class ClassRow:
    """One class in numbers; None where something is not known."""

    name: str
    given: int
    suspicious: int | None
    refurbished: int | None
    true: int | None
    within_given: float | None
    within_refurbished: float | None


def read_reliability(run: Run, summary: Mapping[str, Any]) -> Reliability | None:
    """Read how far the results of the label stage can be trusted; None for older versions.

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


def read_findings(run: Run) -> Findings | None:
    """Read what the label stage stored; None if it has not finished.

    Raises:
        StoreError: If an array is missing, corrupt, or of another length than the labels.
    """
    summary = run.attributes("labels").get("summary")
    if not isinstance(summary, dict):
        return None
    names = ("refurbished", "label_quality", "suggested_label", "is_label_issue")
    arrays = [run.read("labels", name) for name in names]
    n = run.array("inputs", "labels").shape[0]
    for name, array in zip(names, arrays, strict=True):
        if array.shape != (n,):
            raise StoreError(
                f"{run.address('labels', name)}: has shape {array.shape} for {n} images; "
                f"run the label stage again: ntkdist labels {run.url}"
            )
    gram = _optional(run, "gram_by_class")
    boundaries = run.attributes("labels", "gram_by_class").get("boundaries", [])
    matrices = {name: _optional(run, f"Z_{name}") for name in ("given", "refurbished", "true")}
    return Findings(
        summary,
        arrays[0],
        arrays[1],
        arrays[2],
        arrays[3].astype(bool),
        _optional(run, "losses"),
        _optional(run, "history/delta_loss"),
        {name: Z for name, Z in matrices.items() if Z is not None},
        gram,
        tuple(float(x) for x in boundaries),
        read_reliability(run, summary),
    )


def _optional(run: Run, name: str) -> NDArray[Any] | None:
    return run.read("labels", name) if run.has("labels", name) else None


def confusions(reliability: Reliability, given: NDArray[np.int64]) -> list[tuple[int, int, float]]:
    """Return (true class, given label, share) of wrong labels, the most frequent first.

    Args:
        reliability: With the noise matrix.
        given: (N,) given labels; classes without a label are left out, nothing is known of them.
    """
    T = reliability.transition
    if T is None:
        return []
    present = np.flatnonzero(np.bincount(given, minlength=len(T)))
    pairs = [(int(k), int(d)) for k in present for d in range(len(T)) if k != d]
    pairs.sort(key=lambda pair: -T[pair])
    return [(k, d, float(T[k, d])) for k, d in pairs]


def verdicts(
    given: NDArray[np.int64], suggested: NDArray[np.int64], true: NDArray[np.int64]
) -> NDArray[np.str_]:
    """Compare each flagged label and its suggestion with the true label.

    Args:
        given: (n,) given labels.
        suggested: (n,) suggested labels.
        true: (n,) true labels.

    Returns:
        (n,) texts, those of ``Issue.verdict``.
    """
    wrong = np.where(suggested == given, "wrong", "other")
    return np.where(given == true, "kept", np.where(suggested == true, "right", wrong))


def worst_issues(
    run: Run,
    findings: Findings,
    given: NDArray[np.int64],
    true: NDArray[np.int64] | None,
    most: int,
) -> list[Issue]:
    """Return the flagged labels of least quality first, with their pictures.

    Where the labels cannot be judged none is flagged: then the images of least quality, without
    a suggestion.

    Args:
        run: The run; only the pictures shown are read.
        findings: What the label stage found.
        given: (N,) given labels.
        true: (N,) true labels where they are known.
        most: How many at most.
    """
    if findings.can_judge:
        listed = np.flatnonzero(findings.is_issue)
    else:
        listed, most = np.arange(len(given)), min(most, _HEAD)
    chosen = listed[np.argsort(findings.quality[listed], kind="stable")][:most]
    if not chosen.size:
        return []
    pictures = [""] * len(chosen)
    if run.has_pictures:
        stored: Any = run.array("inputs", "pictures")
        pictures = data_uris(np.asarray(stored.oindex[chosen]))
    judged = None
    if true is not None and findings.can_judge:
        judged = verdicts(given, findings.suggested, true)
    files = run.files()
    names = run.manifest.class_names
    return [
        Issue(
            int(i),
            class_name(names, given[i]),
            _suggestion(names, findings, int(i), int(given[i])),
            quality(float(findings.quality[i])),
            None if true is None else class_name(names, true[i]),
            "" if judged is None else str(judged[i]),
            picture,
            files[i] if files else "",
        )
        for i, picture in zip(chosen, pictures, strict=True)
    ]


def _suggestion(names: Sequence[str], findings: Findings, index: int, given: int) -> str:
    if not findings.can_judge:
        return ""
    suggested = int(findings.suggested[index])
    return UNCLEAR if suggested == given else class_name(names, suggested)


def class_rows(
    names: Sequence[str],
    findings: Findings | None,
    given: NDArray[np.int64],
    true: NDArray[np.int64] | None,
) -> list[ClassRow]:
    """Count each class before and after.

    Args:
        names: K class names.
        findings: What the label stage found, if it has finished.
        given: (N,) given labels.
        true: (N,) true labels where they are known.
    """
    K = len(names)

    def tally(labels: NDArray[np.int64] | None) -> list[int | None]:
        return [None] * K if labels is None else np.bincount(labels, minlength=K)[:K].tolist()

    def within(name: str) -> list[float | None]:
        Z = None if findings is None else findings.class_matrices.get(name)
        return [None] * K if Z is None or len(Z) != K else np.diagonal(Z).tolist()

    columns = (
        tally(given),
        tally(None if findings is None else given[findings.is_issue]),
        tally(None if findings is None else findings.refurbished),
        tally(true),
        within("given"),
        within("refurbished"),
    )
    return [ClassRow(name, *row) for name, *row in zip(names, *columns, strict=True)]


def missing_parts(run: Run, timeline: Timeline, findings: Findings | None) -> list[str]:
    """List what a run does not hold yet, in the order in which it is computed."""
    if findings is not None:
        return []
    parts: list[str] = []
    finished = {name for name, stage in timeline.stages.items() if stage.done}
    factored = "factor" in finished
    if not (factored or "gram" in finished):
        progress = ""
        if timeline.total:
            progress = f" ({count(timeline.done)} of {count(timeline.total)} tiles are stored)"
        parts.append("the kernel matrix" + progress)
    if not factored:
        parts.append("its Cholesky factor")
    parts.append("the analysis of the labels")
    return parts


@dataclass(frozen=True, eq=False)
class Geometry:
    """What the label stage stored about the kernel itself; None for what is not stored.

    Attributes:
        eigenvalues: (m,) float64 of the kernel of a sample, over the mean of its diagonal,
            descending.
        points: (p, c) float64 images in kernel principal components.
        images: (p,) which images.
        explained: (c,) shares of the variance.
    """

    eigenvalues: NDArray[np.float64] | None
    points: NDArray[np.float64] | None
    images: NDArray[np.int64] | None
    explained: tuple[float, ...]

    @property
    def complete(self) -> bool:
        """Whether eigenvalues and components are stored."""
        return self.eigenvalues is not None and self.points is not None


@dataclass(frozen=True)
class Spectrum:
    """Numbers that describe the eigenvalues.

    Attributes:
        images: How many images they are of.
        effective_rank: (Σλ)²/Σλ².
        condition: (λ_max + ridge)/(λ_min + ridge).
        condition_alone: λ_max/λ_min; None where λ_min is below rounding.
        fitted: Σ λ/(λ + ridge), the effective degrees of freedom.
    """

    images: int
    effective_rank: float
    condition: float | None
    condition_alone: float | None
    fitted: float

    @classmethod
    def of(cls, eigenvalues: NDArray[np.float64], ridge: float) -> Spectrum:
        """Sum up eigenvalues under a ridge, both over the mean of the kernel's diagonal."""
        largest, least = float(eigenvalues[0]), float(eigenvalues[-1])
        lost = least <= np.finfo(np.float32).eps * largest  # entries are stored in float32
        squares = float(np.square(eigenvalues).sum())
        return cls(
            images=len(eigenvalues),
            effective_rank=float(eigenvalues.sum()) ** 2 / squares if squares > 0 else 0.0,
            condition=(largest + ridge) / (least + ridge) if least + ridge > 0 else None,
            condition_alone=None if lost else largest / least,
            fitted=float((eigenvalues / (eigenvalues + ridge)).sum())
            if ridge > 0
            else len(eigenvalues),
        )


def read_geometry(run: Run) -> Geometry:
    """Read what the label stage stored about the kernel itself."""
    eigenvalues = points = images = None
    explained: tuple[float, ...] = ()
    if run.has("noise", "eigenvalues") and run.is_current("noise"):
        eigenvalues = run.read("noise", "eigenvalues")
    if run.has("labels", "kpca", "points") and run.has("labels", "kpca", "images"):
        points, images = run.read("labels", "kpca", "points"), run.read("labels", "kpca", "images")
        explained = tuple(map(float, run.attributes("labels", "kpca", "points")["explained"]))
    return Geometry(eigenvalues, points, images, explained)


def entangled_pairs(
    Z: NDArray[np.float64], counts: NDArray[np.int64], most: int = 5
) -> list[tuple[int, int]]:
    """Return the most entangled pairs of classes, the most entangled first.

    Z_kd is negative where fitting one class worsens the fit of the other; it is divided by the
    sizes of both, as in L(Z).

    Args:
        Z: (K, K) class matrix.
        counts: (K,) class sizes.
        most: How many pairs at most.

    Source:
        DeOliveira et al. 2025 (ranking of pairs by Z).
    """
    sizes = np.outer(counts, counts).astype(np.float64)
    scores = np.divide((Z + Z.T) / 2, sizes, out=np.zeros_like(Z, dtype=float), where=sizes > 0)
    first, second = np.triu_indices(len(Z), 1)
    order = np.argsort(scores[first, second], kind="stable")[:most]
    return [(int(first[i]), int(second[i])) for i in order if scores[first[i], second[i]] < 0]


def colored_classes(given: NDArray[np.int64], suspicious: NDArray[np.bool_], K: int) -> list[int]:
    """Return the classes that have their own colour, in ascending order.

    Args:
        given: (N,) given labels.
        suspicious: (N,) labels that look wrong.
        K: How many classes there are.
    """
    trouble = np.bincount(given[suspicious], minlength=K)
    order = np.lexsort((np.arange(K), -np.bincount(given, minlength=K), -trouble))
    return sorted(int(k) for k in order[:MOST_COLORS])


@dataclass(frozen=True, eq=False)
class Discovery:
    """How many wrong labels checking finds, in the order of quality and among those flagged.

    The flagged labels need not be the first in that order: flags depend on the probability of the
    suggested class, the order on that of the given one.

    Attributes:
        found: (N+1,) wrong labels found among the first 0 to N, the most suspicious first.
        flagged: How many labels are flagged.
        flagged_wrong: How many of these are wrong.
    """

    found: NDArray[np.int64]
    flagged: int
    flagged_wrong: int

    @classmethod
    def of(
        cls,
        quality: NDArray[np.float64],
        wrong: NDArray[np.bool_],
        flagged: NDArray[np.bool_],
    ) -> Discovery | None:
        """Order labels by quality, and count those flagged.

        Args:
            quality: (N,) low = suspicious.
            wrong: (N,) which labels are wrong.
            flagged: (N,) which look wrong.
        """
        if not wrong.any():
            return None
        order = np.argsort(quality, kind="stable")
        found = np.concatenate([[0], np.cumsum(wrong[order])]).astype(np.int64)
        return cls(found, int(flagged.sum()), int((flagged & wrong).sum()))

    @property
    def total(self) -> int:
        """How many labels are wrong."""
        return int(self.found[-1])

    @property
    def images(self) -> int:
        """N."""
        return len(self.found) - 1

    def share(self, checked: int) -> float:
        """Return the share of the wrong labels among the first ``checked`` in order."""
        return float(self.found[checked] / self.total)

    @property
    def flagged_share(self) -> float:
        """The share of the wrong labels that is flagged."""
        return self.flagged_wrong / self.total

    def checks_for(self, share: float) -> int:
        """Return how many labels to check to find a share (0 to 1) of the wrong ones."""
        return int(np.searchsorted(self.found, np.ceil(share * self.total)))
