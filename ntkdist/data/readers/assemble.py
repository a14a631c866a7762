"""An ImageSet of arrays as they are stored: channel axis, label column, number of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_labels
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
) -> ImageSet:
    """Return a checked ImageSet of images (N, H, W[, C]) or features (N, D), labels (N,) or (N, 1).

    ``where``, the file or folder, begins every error message. Without ``num_classes``, K is the
    number of names, else one more than the largest label of this and the other split.
    """
    if images.ndim == 3:
        images = images[..., None]
    try:
        labels = _as_column(labels)
        if num_classes is None and class_names:
            num_classes = len(class_names)
        if num_classes is None and len(images) == len(labels) > 1 and labels.ndim == 1:
            other = [] if other_labels is None else [_as_column(other_labels).ravel()]
            num_classes = _count_classes([labels, *other])
        return ImageSet(
            images,
            labels,
            1 if num_classes is None else num_classes,
            tuple(class_names),
            tuple(files),
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _as_column(labels: NDArray[Any]) -> NDArray[Any]:
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _count_classes(splits: Sequence[NDArray[Any]]) -> int:
    """Return one more than the largest label, if most of these classes occur."""
    checked = [check_labels(labels, None) for labels in splits if labels.size]
    occurring = np.unique(np.concatenate(checked))
    largest = int(occurring[-1])
    # a stray 255 or 10**9 would otherwise silently become that many classes
    if 2 * len(occurring) < largest + 1:
        raise InputError(
            f"label {largest} is the largest, but only {len(occurring)} of the classes "
            f"0..{largest} occur; number the classes 0..K-1"
        )
    return largest + 1
