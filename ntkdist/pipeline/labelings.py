"""Labelings of a run's images judged by the kernel: pseudo-labels, and bias between classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.pipeline import Pipeline


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
    from ntkdist.labels import block_error_terms, choose_ridge, class_matrix
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
    inverse = pipeline.factor().inverse()
    store = pipeline.gram_store()
    found = []
    for name, labels in labelings.items():
        _, Z = class_matrix(inverse, labels, run.num_classes)
        terms = block_error_terms(
            Z, np.bincount(labels, minlength=run.num_classes), pipeline.config.labels.beta
        )
        rate = choose_ridge(store, labels, run.num_classes).noise.rate
        changed = float((labels != given).mean())
        found.append(Labeling(name, terms.value, changed, rate, terms.left_out))
    return sorted(found, key=lambda one: one.block_error)


def find_bias(pipeline: Pipeline) -> Any:
    """Return which classes, and which pairs, the kernel finds hard with the given labels.

    Args:
        pipeline: Of a run whose Gram is computed; the factor stage is run where it is missing.

    Returns:
        ``ntkdist.labels.ClassBias``.
    """
    from ntkdist.labels import class_matrix
    from ntkdist.labels.bias import class_bias

    run = pipeline.run
    labels = run.read("inputs", "labels")
    _, Z = class_matrix(pipeline.factor().inverse(), labels, run.num_classes)
    return class_bias(Z, np.bincount(labels, minlength=run.num_classes))


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
