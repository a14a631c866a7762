"""Labelings of a run's images, such as pseudo-labels of several models, ranked by the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage, words
from ntkdist.analyses import Analysis
from ntkdist.errors import InputError
from ntkdist.events.types import LabelingScored
from ntkdist.pipeline.stages import Pipeline
from ntkdist.words import columns


@dataclass(frozen=True)
class Labeling:
    """How well one labeling fits the kernel.

    Attributes:
        name: ``given``, ``true``, or the file it was read from.
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
        files: .npy files, or text files with one class number or name a line, of N labels each.
            Numbers beyond 0..K-1 are names, where classes are called so. The given labels are
            always among those ranked, the true ones where the run has them.

    Returns:
        One entry a labeling, the cleanest first.

    Raises:
        InputError: A file cannot be read, its labels do not fit the images, or are all of one
            class.
    """
    from ntkdist.checks import check_labels, label_values, numbers_in, refuse_one_class
    from ntkdist.labels import FactorInverse, block_error_terms, choose_ridge, class_matrix

    run = pipeline.run
    given = run.read("inputs", "labels")
    labelings: dict[str, NDArray[np.int64]] = {"given": given}
    if run.has("inputs", "labels_true"):
        labelings["true"] = run.read("inputs", "labels_true")
    for path in files:
        try:
            read = label_values(_read(storage.expand(path)))
            texts, classes = [str(label) for label in read], run.manifest.class_names
            numbers = not any(isinstance(label, str) for label in read)
            beyond = numbers and len(read) and not 0 <= min(read) <= max(read) < run.num_classes
            if not numbers or (beyond and set(texts) <= set(classes)):
                read = numbers_in(classes, texts)
            labelings[path] = check_labels(read, run.num_classes, len(given))
            refuse_one_class(
                labelings[path], classes, "labels of one class are clean by any kernel"
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    inverse = FactorInverse(pipeline.factor("solutions"), on_event=pipeline.forward)
    store = pipeline.gram_store()
    scored: list[Labeling] = []

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
            scored.append(Labeling(name, terms.value, changed, rate, terms.left_out))
            pipeline.forward(LabelingScored(name, terms.value, len(scored), len(labelings)))
        detail.append(f"{len(scored)} judged")
    return sorted(scored, key=lambda one: one.block_error)


def _read(path: str) -> NDArray[Any] | list[str]:
    try:
        if path.endswith(".npy"):
            return np.load(path, allow_pickle=False)
        try:
            return np.loadtxt(path, dtype=np.int64, ndmin=1)
        except ValueError:
            with open(path, encoding="utf-8-sig") as file:
                return [line for line in file.read().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        first = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise InputError(
            f"cannot be read as labels ({first}); give .npy, or a number or name a line"
        ) from None


def describe_labelings(labelings: Sequence[Labeling]) -> str:
    """Return a table of labelings, the cleanest first."""
    head = ("labels", "L(Z)", "differ from given", "estimated noise", "")
    rows = [
        (
            one.name,
            f"{one.block_error:.5g}",
            words.percent(one.changed, 2),
            words.percent(one.noise_rate),
            "; ".join(one.left_out),
        )
        for one in labelings
    ]
    return "\n".join(columns([head, *rows]))


ANALYSIS = Analysis(
    command="labelings",
    question="Which of several labelings, such as pseudo-labels, is the cleanest?",
    place=8,
)
