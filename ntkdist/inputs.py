"""The inputs of a run: images read, chosen and preprocessed, labels, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ntkdist import storage
from ntkdist._arrays import write_array
from ntkdist.architecture import Architecture
from ntkdist.config import RunConfig
from ntkdist.errors import InputError

if TYPE_CHECKING:
    from ntkdist.data import ImageSet, Preprocessor

PREPROCESS = "preprocess"
"""Attribute of the stored images: what prepared them."""


@dataclass(frozen=True)
class Inputs:
    """What a run stores before anything is computed.

    Attributes:
        images: (N, H, W, C) float32, preprocessed.
        pictures: (N, H, W, C) uint8, for display.
        labels: (N,) the given labels, noise included.
        labels_true: (N,) the labels before noise; None where none was put on.
        num_classes: K.
        class_names: One name per class.
        files: One file name per image, or none.
        preprocess: What prepared the images, with its statistics.
    """

    images: np.ndarray
    pictures: np.ndarray
    labels: np.ndarray
    labels_true: np.ndarray | None
    num_classes: int
    class_names: tuple[str, ...]
    files: tuple[str, ...]
    preprocess: Preprocessor


def load_inputs(config: RunConfig) -> Inputs:
    """Read, choose and preprocess images as ``config`` says; raises ``InputError``."""
    from ntkdist.data import Preprocessor, load, select, symmetric

    data = load(config.data.source, config.data.split, size=config.data.size)
    chosen = select(data.labels, config.data.n, config.data.subset, config.data.seed)
    preprocess = Preprocessor.fit(data.images, config.data.preprocess)
    raw = data.images[chosen]
    labels = data.labels[chosen]
    _check_classes(labels, data)
    true = None
    if config.noise.rate > 0:
        true = labels
        labels, _ = symmetric(labels, data.num_classes, config.noise.rate, config.noise.seed)
    images = preprocess.apply(raw)
    files = tuple(data.files[i] for i in chosen) if data.files else ()
    return Inputs(
        images=images,
        pictures=pictures_of(raw),
        labels=labels,
        labels_true=true,
        num_classes=data.num_classes,
        class_names=data.class_names,
        files=files,
        preprocess=preprocess,
    )


def _check_classes(labels: np.ndarray, data: ImageSet) -> None:
    """Raise ``InputError`` where all labels are equal: there is then nothing to tell apart."""
    if len(np.unique(labels)) > 1:
        return
    others = len(np.unique(data.labels)) > 1
    remedy = "take some of each with --data.subset balanced" if others else "give images of two"
    raise InputError(
        f"all {len(labels)} images are of the class {data.class_names[labels[0]]!r}; {remedy}"
    )


def store_inputs(address: str, inputs: Inputs) -> None:
    """Store every array of the inputs below an address, in place of one that is there.

    Args:
        address: Folder or URL.
        inputs: What to store; its preprocessor goes into the images' attributes.
    """
    named = {
        "images": inputs.images,
        "pictures": inputs.pictures,
        "labels": inputs.labels.astype(np.int64),
    }
    if inputs.labels_true is not None:
        named["labels_true"] = inputs.labels_true.astype(np.int64)
    if inputs.files:
        # no line can hold the end of a line; Zarr v3 has no settled type for text of any length
        text = "\n".join(name.replace("\n", "\\n") for name in inputs.files)
        named["files"] = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    about = {"images": {PREPROCESS: inputs.preprocess.to_dict()}}
    for name, values in named.items():
        write_array(storage.join(address, name), values, about.get(name))


def pictures_of(raw: np.ndarray) -> np.ndarray:
    """Return pixels as uint8 for display, floats stretched over their whole range."""
    if raw.dtype == np.uint8:
        return raw
    low, high = float(raw.min()), float(raw.max())
    span = (high - low) or 1.0
    return np.round((raw.astype(np.float64) - low) * (255 / span)).astype(np.uint8)


def fingerprint(
    images: np.ndarray,
    arch: Architecture,
    kinds: tuple[str, ...],
    dtype: str,
    arithmetic: str,
) -> str:
    """Return the sha256 of everything that decides the bits of a Gram matrix.

    Args:
        images: (N, H, W, C) float32 preprocessed images.
        arch: The network.
        kinds: Kinds of kernel.
        dtype: dtype of the entries.
        arithmetic: The backend's arithmetic version.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    head = [list(images.shape), str(images.dtype), str(arch), list(kinds), dtype, arithmetic]
    digest.update(json.dumps(head).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()
