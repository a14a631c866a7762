"""The inputs of a run: images or features, chosen and preprocessed, labels, fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ntkdist import storage
from ntkdist.checks import refuse_one_class
from ntkdist.config import DataConfig, GramConfig, RunConfig
from ntkdist.errors import InputError, MissingSplitError
from ntkdist.networks.architecture import Architecture
from ntkdist.storage.arrays import write_array
from ntkdist.words import first_of

if TYPE_CHECKING:
    from ntkdist.data import ImageSet, Preprocessor

PREPROCESS = "preprocess"
"""Attribute of the stored images: what prepared them; the arrays that belong to it lie beside."""
STAMP = "source_stamp"
"""Attribute of the stored images: names, sizes and times of the source's files, as a digest."""
NOTES = "notes"
"""Attribute of the stored images: sentences on what the source holds that was not read as it is."""
ARRAYS = "arrays"
"""Attribute of the stored images, and of a result's group: the names of all arrays beside them."""
_SHOWN = 5


@dataclass(frozen=True)
class Inputs:
    """What a run stores before anything is computed.

    Attributes:
        images: (N, H, W, C) float32, preprocessed; features as (N, 1, 1, D).
        pictures: (N, H, W, C) uint8, for display; None for features of no images.
        labels: (N,) the given labels, noise included.
        labels_true: (N,) the labels before noise; None where none was put on.
        num_classes: K.
        class_names: One name per class.
        files: One file name per image, or none.
        preprocess: What prepared the images, with its statistics.
        digests: (N, 16) uint8 of the features as they were read, by which a later look at the
            source tells whether they are the same; None for images.
        stamp: ``stamp_of`` the configuration before its source was read; None if not known.
        notes: The notes of the ``ImageSet``, and one on classes that no image has.
    """

    images: np.ndarray
    pictures: np.ndarray | None
    labels: np.ndarray
    labels_true: np.ndarray | None
    num_classes: int
    class_names: tuple[str, ...]
    files: tuple[str, ...]
    preprocess: Preprocessor
    digests: np.ndarray | None = None
    stamp: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_features(self) -> bool:
        """Whether the kernel sees features in place of images."""
        return self.digests is not None

    def in_order(self, places: np.ndarray) -> Inputs:
        """Return the same inputs in another order; ``places`` (N,) are the images at each place."""

        def taken(values: Any) -> Any:
            return None if values is None else values[places]

        return replace(
            self,
            images=self.images[places],
            pictures=taken(self.pictures),
            labels=self.labels[places],
            labels_true=taken(self.labels_true),
            files=tuple(self.files[i] for i in places) if self.files else (),
            digests=taken(self.digests),
        )


def load_data(
    data: DataConfig,
    split: str | None = None,
    *,
    size: int | str | tuple[int, int] | None = None,
    channels: int | None = None,
) -> ImageSet:
    """Read a split of a source, with its features where the configuration names some.

    Raises:
        InputError: The data cannot be read, or there are no features of that split.
    """
    from ntkdist.data import load

    split = data.split if split is None else split
    features = _features_of(data, split)
    return load(data.source, split, size=size, channels=channels, features=features)


def sees_features(data: DataConfig) -> bool:
    """Return whether the kernel sees features of a source, without reading them."""
    from ntkdist.data.readers import holds_features

    return data.features is not None or holds_features(data.source)


def source_of(data: DataConfig) -> str:
    """Return where the data come from, such as ``digits`` or ``digits with f.npy``."""
    return data.source if data.features is None else f"{data.source} with {data.features}"


def same_data(
    stored: Mapping[str, Any], given: Mapping[str, Any], root: str | None = None
) -> dict[str, Any]:
    """Return given settings of the data, with paths as they are stored where they are the same.

    Stored paths may also count from ``root``; see ``Manifest.root``.
    """
    from ntkdist.data.paths import same_path, same_source

    out = dict(given)
    found = found_data(stored, root)
    if same_source(found["source"], given["source"]):
        out["source"] = stored["source"]
    for name in ("features", "features_test"):
        one, other = found.get(name), given.get(name)
        if one is not None and other is not None and same_path(one, other):
            out[name] = stored[name]
    return out


def found_data(data: Mapping[str, Any], root: str | None) -> dict[str, Any]:
    """Return settings of the data with absolute paths where files are found from ``root`` alone."""
    from ntkdist.data.paths import found_from, source_found_from

    out = {**data, "source": source_found_from(data["source"], root)}
    for name in ("features", "features_test"):
        if data.get(name) is not None:
            out[name] = found_from(data[name], root)
    return out


def stamp_of(data: DataConfig) -> str | None:
    """Return a digest of the names, sizes and times of a source's files; see ``source_stamp``."""
    from ntkdist.data.readers import source_stamp

    return source_stamp(data.source, data.features)


def names_test_features(data: DataConfig) -> bool:
    """Return whether a configuration names features of the test split."""
    return data.features is not None and (data.features_test is not None or _holds(data, "test"))


def _holds(data: DataConfig, split: str) -> bool:
    from ntkdist.data.features import holds_split
    from ntkdist.data.paths import resolve

    return data.features is not None and holds_split(resolve(data.features, None), split)


def _features_of(data: DataConfig, split: str) -> str | None:
    # not where the settings are made: those of the command line are, before the run's are known
    if data.features_test is not None and data.features is None:
        raise InputError(
            f"data.features_test={data.features_test!r} goes with data.features, the features of "
            "the split that the run is of; give both, or none"
        )
    if data.features_test is not None and data.split == "test":
        raise InputError(
            f"data.features_test={data.features_test!r}: with data.split=test the features of the "
            "test split are data.features; leave data.features_test out"
        )
    if data.features is None or split == data.split:
        return data.features
    if split == "test" and data.features_test is not None:
        return data.features_test
    if _holds(data, split):
        return data.features
    remedy = "give --data.features_test FILE" if split == "test" else "store both in one .npz file"
    raise MissingSplitError(
        f"data.features={data.features!r} holds no features of the {split} split; {remedy}"
    )


def kernel_view(prepared: np.ndarray) -> np.ndarray:
    """Return prepared features (N, D) as kernels take them, (N, 1, 1, D); images as they are."""
    return prepared[:, None, None, :] if prepared.ndim == 2 else prepared


def load_inputs(config: RunConfig, *, prepared_as: Preprocessor | None = None) -> Inputs:
    """Read, choose and preprocess what ``config`` names.

    Raises:
        InputError: The data cannot be read, or do not fit the configuration.
    """
    from ntkdist.data import Preprocessor, select, symmetric
    from ntkdist.kernels.invariance import refuse_features

    stamp = stamp_of(config.data)  # first: what changes while it is read then counts as a change
    data = load_data(config.data, size=config.data.size)
    if data.is_features:
        Architecture.parse(config.architecture).check_features()
        refuse_features("gram.invariance", config.gram.invariance)
    chosen = select(data.labels, config.data.n, config.data.subset, config.data.seed)
    preprocess = Preprocessor.fit(
        data.images, config.data.preprocess, mirrored=config.gram.invariance == "flip"
    )
    if prepared_as is not None and preprocess.agrees(prepared_as):
        preprocess = preprocess.with_statistics_of(prepared_as)
    raw = data.images[chosen]
    labels = data.labels[chosen]
    _check_classes(labels, data)
    true = None
    if config.noise.rate > 0:
        true = labels
        labels, _ = symmetric(labels, data.num_classes, config.noise.rate, config.noise.seed)
    images = kernel_view(preprocess.apply(raw, of=preprocess.pixel_range))
    files = tuple(data.files[i] for i in chosen) if data.files else ()
    return Inputs(
        images=images,
        pictures=None if data.shown is None else pictures_of(data.shown[chosen]),
        labels=labels,
        labels_true=true,
        num_classes=data.num_classes,
        class_names=data.class_names,
        files=files,
        preprocess=preprocess,
        digests=row_digests(raw) if data.is_features else None,
        stamp=stamp,
        notes=notes_of(data, labels),
    )


def notes_of(data: ImageSet, labels: np.ndarray) -> tuple[str, ...]:
    """Return what is to be said of a source and of the labels (N,) that a run takes of it."""
    counts = np.bincount(labels, minlength=data.num_classes)
    unused = [repr(name) for name, n in zip(data.class_names, counts, strict=True) if not n]
    if not unused:
        return data.notes
    some = f"{len(unused)} of {data.num_classes} classes have no image and are"
    words = "one class has no image and is" if len(unused) == 1 else some
    return (*data.notes, f"{words} never suggested: {first_of(unused, _SHOWN)}")


def row_digests(features: np.ndarray) -> np.ndarray:
    """Return 16 bytes of each row of features, whatever number type holds it: (N, 16) uint8."""
    rows = (np.ascontiguousarray(row, dtype=np.float64) for row in features)
    digests = [hashlib.blake2b((row + 0.0).data, digest_size=16).digest() for row in rows]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def _check_classes(labels: np.ndarray, data: ImageSet) -> None:
    """Raise ``InputError`` where all labels are equal: there is then nothing to tell apart."""
    others = len(np.unique(data.labels)) > 1
    remedy = "take some of each with --data.subset balanced" if others else "give images of two"
    refuse_one_class(labels, data.class_names, remedy)


def store_inputs(address: str, inputs: Inputs) -> None:
    """Store every array of the inputs below an address, in place of one that is there."""
    named = {
        "images": inputs.images,
        "labels": inputs.labels.astype(np.int64),
    }
    if inputs.pictures is not None:
        named["pictures"] = inputs.pictures
    if inputs.digests is not None:
        named["digests"] = inputs.digests
    if inputs.labels_true is not None:
        named["labels_true"] = inputs.labels_true.astype(np.int64)
    if inputs.files:
        # no line can hold the end of a line; Zarr v3 has no settled type for text of any length
        text = "\n".join(name.replace("\n", "\\n") for name in inputs.files)
        named["files"] = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    named |= inputs.preprocess.arrays()
    about: dict[str, dict[str, Any]] = {
        "images": {PREPROCESS: inputs.preprocess.to_dict(), ARRAYS: sorted(named)}
    }
    if inputs.stamp is not None:
        about["images"][STAMP] = inputs.stamp
    if inputs.notes:
        about["images"][NOTES] = list(inputs.notes)
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
    images: np.ndarray, arch: Architecture, settings: GramConfig, arithmetic: str
) -> str:
    """Return the sha256 of everything that decides the bits of a Gram matrix.

    Args:
        images: (N, H, W, C) float32 preprocessed images.
        arch: The network.
        settings: Kinds of kernel, dtype and invariance of the entries.
        arithmetic: The backend's arithmetic version.
    """
    digest = hashlib.sha256()
    kinds = list(settings.kinds)
    head = [list(images.shape), str(images.dtype), str(arch), kinds, settings.dtype, arithmetic]
    if settings.invariance != "none":  # which runs of earlier versions do not have
        head.append(settings.invariance)
    digest.update(json.dumps(head).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()
