"""Which classes the kernel finds hard, and which pairs of classes it confuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ntkdist.analyses import Analysis
from ntkdist.errors import InputError
from ntkdist.pipeline.stages import Pipeline
from ntkdist.words import columns

if TYPE_CHECKING:
    from ntkdist.labels.bias import ClassBias

LABELS = ("auto", "given", "refurbished")
_MOST_PAIRS = 20  # that the command prints


@dataclass(frozen=True, eq=False)
class BiasResult:
    """Which classes and pairs the kernel finds hard, by the given or the refurbished labels."""

    labels: str
    ranking: ClassBias


def find_bias(pipeline: Pipeline, by: str = "auto") -> BiasResult:
    """Rank the classes, and the pairs of classes, that the kernel finds hard.

    Args:
        pipeline: Of a run whose Gram is computed; the factor stage is run where it is missing.
        by: Labels to judge by: ``given``, ``refurbished``, or ``auto`` for the refurbished ones
            where the run has them, as in the report.

    Raises:
        InputError: For other words, or refurbished labels that the run does not have.
    """
    from ntkdist.labels import FactorInverse, class_matrix
    from ntkdist.labels.bias import class_bias

    if by not in LABELS:
        raise InputError(f"--by {by!r} is not one of {', '.join(LABELS)}")
    run = pipeline.run
    refurbished = run.is_current("labels") and bool(run.attributes("labels").get("summary"))
    if by == "refurbished" and not refurbished:
        raise InputError(f"{run.url}: has no refurbished labels yet; ntkdist labels {run.url}")
    chosen = "refurbished" if refurbished and by != "given" else "given"
    stored = ("labels", "refurbished") if chosen == "refurbished" else ("inputs", "labels")
    labels = run.read(*stored)
    inverse = FactorInverse(pipeline.factor("solutions"), on_event=pipeline.forward)
    _, Z = class_matrix(inverse, labels, run.num_classes)
    return BiasResult(chosen, class_bias(Z, np.bincount(labels, minlength=run.num_classes)))


def describe_bias(result: BiasResult, names: Sequence[str]) -> str:
    """Return the classes by rank and the first of the ranked pairs, a line each with its score."""
    ranking = result.ranking
    shown = ranking.inter[:_MOST_PAIRS]
    classes = [(names[k], f"{ranking.intra_scores[k]:.4g}") for k in ranking.intra]
    pairs = [(f"{names[k]} – {names[d]}", f"{ranking.inter_scores[k, d]:.4g}") for k, d in shown]
    of_classes = (f"class, hardest first, by the {result.labels} labels", "score")
    of_pairs = (f"pair, most entangled first ({len(shown)} of {len(ranking.inter)})", "score")
    lines = columns([of_classes, *classes], right=(1,))
    return "\n".join([*lines, "", *columns([of_pairs, *pairs], right=(1,))])


ANALYSIS = Analysis(
    command="bias", question="Which classes are hard, and which pairs entangled?", place=9
)
