"""Labelings of a run's images judged by the kernel: pseudo-labels, and bias between classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.events.types import LabelingScored
from ntkdist.pipeline.stages import Pipeline

if TYPE_CHECKING:
    from ntkdist.labels.bias import ClassBias

LABELS = ("auto", "given", "refurbished")


@dataclass(frozen=True)
class Labeling:
    """How well one labeling fits the kernel.

    Attributes:
        name: Where it comes from.
        block_error: L(Z), lower is cleaner.
        changed: Share of labels that differ from the given ones.
        noise_rate: Share of labels estimated wrong.
        left_out: Terms of L(Z) that are 0/0.
    """

    name: str
    block_error: float
    changed: float
    noise_rate: float
    left_out: tuple[str, ...]


def score_labelings(pipeline: Pipeline, files: Sequence[str]) -> list[Labeling]:
    """Rank labelings of a run's images by L(Z), such as pseudo-labels of several models.

    Args:
        pipeline: Of a run whose Gram is computed; the factor stage is run where it is missing.
        files: .npy files, or text files with one class number a line, of N labels each. The
            given labels are always among those judged, the true ones where the run has them.

    Returns:
        One entry a labeling, the cleanest first.

    Raises:
        InputError: A file cannot be read, or its labels do not fit the images.
    """
    from ntkdist.labels import FactorInverse, block_error_terms, choose_ridge, class_matrix
    from ntkdist.labels.class_matrix import check_labels

    run = pipeline.run
    given = run.read("inputs", "labels")
    labelings: dict[str, NDArray[np.int64]] = {"given": given}
    if run.has("inputs", "labels_true"):
        labelings["true"] = run.read("inputs", "labels_true")
    for path in files:
        try:
            labelings[path] = check_labels(_read(path), run.num_classes, len(given))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    inverse = FactorInverse(pipeline.factor("solutions"), on_event=pipeline.forward)
    store = pipeline.gram_store()
    found: list[Labeling] = []

    def noise(labels: NDArray[np.int64], _: Any) -> float:
        return choose_ridge(store, labels, run.num_classes).noise.rate

    with pipeline.stage("labelings") as detail:
        for name, labels in labelings.items():
            _, Z = class_matrix(inverse, labels, run.num_classes)
            terms = block_error_terms(
                Z, np.bincount(labels, minlength=run.num_classes), pipeline.config.labels.beta
            )
            rate = pipeline.watched(f"noise of the labels {name}", partial(noise, labels))
            changed = float((labels != given).mean())
            found.append(Labeling(name, terms.value, changed, rate, terms.left_out))
            pipeline.forward(LabelingScored(name, terms.value, len(found), len(labelings)))
        detail.append(f"{len(found)} judged")
    return sorted(found, key=lambda one: one.block_error)


@dataclass(frozen=True, eq=False)
class Bias:
    """Which classes and pairs the kernel finds hard.

    Attributes:
        labels: By which labels: given or refurbished.
        ranking: Of classes and of pairs.
    """

    labels: str
    ranking: ClassBias


def find_bias(pipeline: Pipeline, by: str = "auto") -> Bias:
    """Return which classes, and which pairs, the kernel finds hard.

    Args:
        pipeline: Of a run whose Gram is computed; the factor stage is run where it is missing.
        by: Labels to judge by: ``given``, ``refurbished``, or ``auto`` for the refurbished ones
            where the run has them, as in the report.

    Returns:
        The rankings, and the labels they are by.

    Raises:
        InputError: For other words, or refurbished labels that the run does not have.
    """
    from ntkdist.labels import FactorInverse, class_matrix
    from ntkdist.labels.bias import class_bias

    if by not in LABELS:
        raise InputError(f"--by {by!r} is not one of {', '.join(LABELS)}")
    run = pipeline.run
    there = run.is_current("labels") and bool(run.attributes("labels").get("summary"))
    if by == "refurbished" and not there:
        raise InputError(f"{run.url}: has no refurbished labels yet; ntkdist labels {run.url}")
    chosen = "refurbished" if there and by != "given" else "given"
    stored = ("labels", "refurbished") if chosen == "refurbished" else ("inputs", "labels")
    labels = run.read(*stored)
    inverse = FactorInverse(pipeline.factor("solutions"), on_event=pipeline.forward)
    _, Z = class_matrix(inverse, labels, run.num_classes)
    return Bias(chosen, class_bias(Z, np.bincount(labels, minlength=run.num_classes)))


def _read(path: str) -> NDArray[Any]:
    try:
        if path.endswith(".npy"):
            return np.load(path, allow_pickle=False)
        return np.loadtxt(path, dtype=np.int64, ndmin=1)
    except (OSError, ValueError) as error:
        first = str(error).split("\n")[0]
        raise InputError(
            f"cannot be read as labels ({first}); give .npy or a number a line"
        ) from None
