"""The most suspicious labels of a run, as ``ntkdist audit`` lists them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntkdist.console import Table
from ntkdist.run import Run

MOST = 10


@dataclass(frozen=True)
class Suspect:
    """An image whose label looks wrong.

    Attributes:
        index: Its number in the run.
        file: Its file; None where images came from no files.
        given: Name of the class that it is labelled as.
        suggested: Name of the class that it looks like.
        quality: Probability that the given label is right.
    """

    index: int
    file: str | None
    given: str
    suggested: str
    quality: float


def suspects(run: Run, most: int = MOST) -> list[Suspect]:
    """Return the labels that look wrong, the most suspicious first.

    Args:
        run: Whose label stage is done.
        most: How many.

    Returns:
        At most so many; fewer where fewer look wrong.
    """
    quality = run.read("labels", "label_quality")
    issue = np.flatnonzero(run.read("labels", "is_label_issue"))
    order = issue[np.argsort(quality[issue], kind="stable")][:most]
    given, suggested = run.read("inputs", "labels"), run.read("labels", "suggested_label")
    files, names = run.files(), run.manifest.class_names
    return [
        Suspect(
            index=int(i),
            file=files[i] if files else None,
            given=names[given[i]],
            suggested=names[suggested[i]],
            quality=float(quality[i]),
        )
        for i in order
    ]


def table_of(found: list[Suspect]) -> Table:
    """Return the list for people; images without a file go by their number."""
    by_file = any(one.file is not None for one in found)
    return Table(
        ("file" if by_file else "image", "given", "suggested", "quality"),
        tuple(
            (one.file or str(one.index), one.given, one.suggested, f"{one.quality:.3f}")
            for one in found
        ),
        right=(3,),
    )
