"""What a run holds about its labels, and which of its stages are not done yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.pictures import data_uris
from ntkdist.display.words import class_name, count, quality
from ntkdist.errors import StoreError
from ntkdist.events.history import Timeline
from ntkdist.report.sections.reliability import Reliability, read_reliability
from ntkdist.runs.run import Run

UNCLEAR = "unclear"
# The head of a ranking without verdict: enough to see what it is worth, and no list to work off.
_HEAD = 12


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
        reliability: How far to trust all this; None in runs of older versions.
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
        """Whether labels may be flagged or called clean; runs of older versions always did."""
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
        # the methods exact and paper flag what they changed, which the estimate is not of
        return 1.0 - float(np.nanmean(self.quality[self.is_issue]))

    @property
    def at_once(self) -> bool:
        """Whether all labels were decided at once, so that no curve leads from first to last."""
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


def read_findings(run: Run) -> Findings | None:
    """Read what the label stage stored; None if it has not finished.

    Args:
        run: The run.

    Returns:
        The findings.

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


def verdicts(
    given: NDArray[np.int64], suggested: NDArray[np.int64], true: NDArray[np.int64]
) -> NDArray[np.str_]:
    """Judge each flag and its suggestion by the true labels, by the words of ``Issue``.

    Args:
        given: (n,) given labels.
        suggested: (n,) suggested labels.
        true: (n,) true labels.

    Returns:
        (n,) texts.
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

    Returns:
        At most ``most`` issues.
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

    Returns:
        One row a class.
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
    """List what a run does not hold yet, in the order in which it is computed.

    Args:
        run: The run.
        timeline: Its events.
        findings: What the label stage found, if it has finished.

    Returns:
        Phrases; empty if the run is complete.
    """
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
