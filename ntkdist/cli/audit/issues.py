"""The most suspicious labels of a run, as ``ntkdist audit`` lists them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntkdist.cli.console import Table
from ntkdist.runs.run import Run

MOST = 10
FEWEST = 10
"""Images of a class, below which what is said of its labels is a guess."""


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label looks wrong.

    Attributes:
        index: Its number in the run.
        file: Its file; None where images came from no files.
        given: Name of the class that it is labelled as.
        suggested: Name of the class that it looks like; None where no other class is more
            probable than the given one, which is probably wrong all the same.
        quality: Probability that the given label is right.
    """

    index: int
    file: str | None
    given: str
    suggested: str | None
    quality: float


def worst_labels(run: Run, most: int = MOST) -> list[LabelIssue]:
    """Return the labels that look wrong, the most suspicious first."""
    quality = run.read("labels", "label_quality")
    issue = np.flatnonzero(run.read("labels", "is_label_issue"))
    order = issue[np.argsort(quality[issue], kind="stable")][:most]
    given, suggested = run.read("inputs", "labels"), run.read("labels", "suggested_label")
    files, names = run.files(), run.manifest.class_names
    return [
        LabelIssue(
            index=int(i),
            file=files[i] if files else None,
            given=names[given[i]],
            suggested=None if suggested[i] == given[i] else names[suggested[i]],
            quality=float(quality[i]),
        )
        for i in order
    ]


def warn_of_few(run: Run, most: int = 5) -> str | None:
    """Return a warning where classes have so few images that verdicts on them are guesses."""
    names = run.manifest.class_names
    counts = np.bincount(run.read("inputs", "labels"), minlength=len(names))
    few = [int(k) for k in np.argsort(counts, kind="stable") if 0 < counts[k] < FEWEST]
    if not few:
        return None
    shown = ", ".join(f"{names[k]} has {counts[k]}" for k in few[:most])
    more = f" and {len(few) - most} more are as small" if len(few) > most else ""
    return f"verdicts on classes of fewer than {FEWEST} images are guesses: {shown}{more}"


def table_of(found: list[LabelIssue], what: str = "image") -> Table:
    """Return the list for people; images, or rows, without a file go by their number."""
    by_file = any(one.file is not None for one in found)
    return Table(
        ("file" if by_file else what, "given", "suggested", "quality"),
        tuple(
            (
                one.file or str(one.index),
                one.given,
                one.suggested or "unclear",
                _shown(one.quality),
            )
            for one in found
        ),
        right=(3,),
    )


def _shown(quality: float) -> str:
    return "<0.001" if quality < 0.001 else f"{quality:.3f}"
