"""An ImageSet of arrays as they are stored: channel axis, label column, number of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_labels, count_classes, label_values, number_names, numbers_in
from ntkdist.data.dataset import ImageSet
from ntkdist.errors import InputError


def assemble(
    where: str,
    images: NDArray[Any],
    labels: NDArray[Any],
    *,
    class_names: Sequence[str] = (),
    num_classes: int | None = None,
    other_labels: NDArray[Any] | None = None,
    files: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> ImageSet:
    """Return a checked ImageSet of images (N, H, W[, C]) or features (N, D), labels (N,) or (N, 1).

    ``where``, the file or folder, begins every error message. Labels may be names: those of
    ``class_names``, without which both splits have the classes of both, as ``number_names`` numbers
    them. Without ``num_classes``, K is the number of names, else one more than the largest label of
    this and the other split.
    """
    if images.ndim == 3:
        images = images[..., None]
    try:
        labels = label_values(labels)
        other = [] if other_labels is None else [_of_other_split(other_labels)]
        if any(map(_are_names, [labels, *other])):
            labels, class_names = _numbered(labels, other, class_names)
        if num_classes is None and class_names:
            num_classes = len(class_names)
        if num_classes is None and len(images) == len(labels) > 1:
            num_classes = count_classes(labels, *other)
        return ImageSet(
            images,
            labels,
            1 if num_classes is None else num_classes,
            tuple(class_names),
            tuple(files),
            notes=tuple(notes),
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _numbered(
    labels: NDArray[Any], other: Sequence[NDArray[Any]], class_names: Sequence[str]
) -> tuple[NDArray[Any], Sequence[str]]:
    """Return labels of which some are names as numbers, and the names of the classes."""
    if not class_names:
        if len({_are_names(one) for one in (labels, *other) if len(one)}) > 1:
            raise InputError(
                "the labels of one split are names, those of the other are numbers; give names "
                "for both, or numbers for both and class_names"
            )
        both = [str(name) for name in np.concatenate([labels, *other])]
        numbers, names = number_names(both, lambda i: f"at index {i}")
        return numbers[: len(labels)], names
    if not _are_names(labels):
        return labels, class_names
    return numbers_in(class_names, [str(name) for name in labels]), class_names


def _are_names(labels: NDArray[Any]) -> bool:
    return labels.dtype == object and any(isinstance(label, str) for label in labels)


def _of_other_split(labels: NDArray[Any]) -> NDArray[Any]:
    """Return the labels of the split that is not read, which decide the number of classes."""
    try:
        labels = label_values(labels)
        return labels if _are_names(labels) else check_labels(labels, None)
    except InputError as error:
        raise InputError(f"labels of the other split: {error}") from None
