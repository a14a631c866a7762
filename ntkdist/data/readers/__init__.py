"""Image sets by a short text, such as ``digits``, ``npz:FILE`` or ``shapes``."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ntkdist.checks import check_choice, check_text, check_whole
from ntkdist.data import synthetic
from ntkdist.data.dataset import ImageSet
from ntkdist.data.features import feature_words, read_features
from ntkdist.data.paths import resolve
from ntkdist.data.readers import cifar, csv, digits, folders, idx, npz
from ntkdist.data.scaling import Size, parse_size, scale_all
from ntkdist.errors import InputError, did_you_mean, shown

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Reader:
    """What reads one kind of source, ``NAME:PLACE`` or ``NAME`` alone.

    Attributes:
        read: Returns the split (``train`` or ``test``) of a source as an ``ImageSet``, or raises
            ``InputError``. Called as ``read(path, split)``; as ``read(split)`` without a
            ``place``; as ``read(path, split, size)`` where it ``scales``.
        place: ``FILE`` or ``DIR``; empty for a set that needs no file.
        recognises: Whether a path holds such a source, by names alone.
        scales: Whether it scales each image to ``size`` as it reads it, so that files may have
            several sizes. Images of other readers are scaled afterwards.
        more_files: The files of a source that do not lie at or below its path.
    """

    read: Callable[..., ImageSet]
    place: str = ""
    recognises: Callable[[Path], bool] = lambda _: False
    scales: bool = False
    more_files: Callable[[Path], Iterable[Path]] = lambda _: ()


READERS = {
    "digits": Reader(digits.read),
    "npz": Reader(npz.read, "FILE", npz.recognises),
    "idx": Reader(idx.read, "DIR", idx.recognises),
    "cifar10": Reader(partial(cifar.read, 10), "DIR", partial(cifar.recognises, 10)),
    "cifar100": Reader(partial(cifar.read, 100), "DIR", partial(cifar.recognises, 100)),
    "images": Reader(folders.read, "DIR", folders.recognises, True),
    "csv": Reader(csv.read, "FILE", csv.recognises, True, csv.named_files),
    "shapes": Reader(synthetic.shapes),
    "corners": Reader(synthetic.corners),
}

SOURCES = tuple(f"{name}:{one.place}" if one.place else name for name, one in READERS.items())


def load(
    source: str,
    split: str = "train",
    *,
    root: str | None = None,
    size: Size | None = None,
    channels: int | None = None,
    features: str | None = None,
) -> ImageSet:
    """Read a labelled set of images or features.

    Args:
        source: One of

            - ``digits``: scikit-learn's 1,797 handwritten digits, 8×8×1, float32 in 0..1;
              they have no test split.
            - ``npz:FILE``: arrays x_train, y_train, x_test, y_test; an x of two dimensions
              holds features, one row each.
            - ``idx:DIR``: the original MNIST or Fashion-MNIST files, gzipped or not.
            - ``cifar10:DIR``, ``cifar100:DIR``: the python or the binary distribution
              (fine labels).
            - ``images:DIR``: a folder of image files for each class, or ``train``
              and ``test`` folders of these.
            - ``csv:FILE``: a table whose header names a file and a label, perhaps a split.
            - ``shapes``, ``corners``: made here, 16×16×1 uint8, four classes, 2,000 training
              and 500 test images (``ntkdist.data.synthetic``).

            ``~`` and environment variables are expanded: ``npz:$NTKDIST_DATA/mnist.npz``.
        split: ``train`` or ``test``.
        root: The folder that relative paths start from; None is the current folder.
        size: What the images are scaled to, whatever their aspect ratio: a side in pixels,
            ``HEIGHTxWIDTH``, (height, width), or ``auto``: none where all have one size of at
            most 64 pixels a side, else 32×32. None takes them as they are; then those of
            ``images`` and ``csv`` must have one size.
        channels: 3 repeats greyscale images three times, so that they can stand beside coloured
            ones; others change nothing.
        features: A file of features of the images, from which the kernel is computed instead:
            ``.npy`` with an array (N, D), row i for image i of the split, or ``.npz`` with one
            such array, or one for each split, called ``train`` and ``test``. The images become
            the set's ``pictures``.

    Returns:
        The images as stored (uint8 stays uint8), shape (N, H, W, C), with their labels. Scaled
        ones are float32 unless they were uint8. Features as stored, shape (N, D).

    Raises:
        InputError: The source is unknown, or its files are missing, damaged or
            inconsistent; one line names what and the remedy.
    """
    for name, text in (("source", source), ("features", features), ("root", root)):
        check_text(name, text)
    if not isinstance(source, str):
        raise InputError(f"source={shown(source)} must be text; use {', '.join(SOURCES)}")
    check_choice("split", split, SPLITS)
    if channels is not None:
        check_whole("channels", channels, 1, "3 makes greyscale images coloured")
    size = None if size is None else parse_size(size)
    data = _read(source, split, root, size)
    if channels == 3 and data.image_shape[2] == 1:
        data = dataclasses.replace(data, images=np.repeat(data.images, 3, axis=3))
    return data if features is None else _with_features(data, source, split, features, root)


def reader_of(path: Path) -> str | None:
    """Return the name of the reader that recognises what lies at a path, or None."""
    return next((name for name, reader in READERS.items() if reader.recognises(path)), None)


def holds_features(source: str) -> bool:
    """Return whether a source holds features in place of images, by the header of its file."""
    name, _, place = source.strip().partition(":")
    return name == "npz" and bool(place.strip()) and npz.holds_features(resolve(place, None))


def source_stamp(source: str, *features: str | None) -> str | None:
    """Return a digest of the names, sizes and modification times of a source's files.

    Args:
        source: As for ``ntkdist.data.load``; one without files has a stamp of its name alone.
        features: Files of features beside it; None for none.

    Returns:
        64 hexadecimal digits; None if a file is missing or its metadata cannot be read, which
        the reader then reports.
    """
    digest = hashlib.sha256(source.encode())
    try:
        for path in _files(source, features):
            stat = path.stat()
            digest.update(
                f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "replace")
            )
    except (OSError, InputError):
        return None
    return digest.hexdigest()


def _files(source: str, features: tuple[str | None, ...]) -> Iterator[Path]:
    name, _, place = source.strip().partition(":")
    if place.strip():
        path = resolve(place.strip(), None)
        if path.is_dir():
            for folder, below, files in os.walk(path, followlinks=True):
                # not runs that lie among the images, which change with each command
                below[:] = sorted(one for one in below if not folders.holds_runs(Path(folder, one)))
                yield from (Path(folder, file) for file in sorted(files))
        else:
            yield path
        if name in READERS:
            yield from READERS[name].more_files(path)
    yield from (resolve(one.strip(), None) for one in features if one is not None)


def _with_features(
    data: ImageSet, source: str, split: str, features: str, root: str | None
) -> ImageSet:
    """Return an image set whose images are replaced by their features, and kept as pictures."""
    path = resolve(features.strip(), root)
    if data.is_features:
        raise InputError(
            f"data.features={features!r}: {source} holds features itself "
            f"({feature_words(*data.images.shape)}); leave one of them out"
        )
    values = read_features(path, split)
    if len(values) != len(data):
        raise InputError(
            f"{path} holds {feature_words(*values.shape)}, but {source} ({split}) has "
            f"{len(data):,} images; give one row for each image, in the order of the source"
        )
    return dataclasses.replace(data, images=values, pictures=data.images)


def _read(source: str, split: str, root: str | None, size: Size | None) -> ImageSet:
    name, colon, place = source.strip().partition(":")
    reader = READERS.get(name)
    if reader is None or (colon and not reader.place):
        raise InputError(
            f"data source {shown(source)} is unknown; use {', '.join(SOURCES)}{_suggestion(source)}"
        )
    if not reader.place:
        return _scaled(reader.read(split), size)
    if not place.strip():
        raise InputError(
            f"data source {shown(source)} names no {reader.place.lower()}; write "
            f"{name}:{reader.place}"
        )
    try:
        path = resolve(place.strip(), root)
        if reader.scales:
            return reader.read(path, split, size)
        return _scaled(reader.read(path, split), size)
    except OSError as error:
        raise InputError(
            f"{error.filename or source} cannot be read: {error.strerror or error}"
        ) from None


def _scaled(data: ImageSet, size: Size | None) -> ImageSet:
    if size is None:
        return data
    if data.is_features:
        shown = size if isinstance(size, str | int) else f"{size[0]}x{size[1]}"
        raise InputError(
            f"data.size={shown} scales images, and the source holds features "
            f"({feature_words(*data.images.shape)}); leave data.size out"
        )
    return dataclasses.replace(data, images=scale_all(data.images, size))


def _suggestion(source: str) -> str:
    name, _, place = source.partition(":")
    for kind in ("npz", "csv"):
        if source.endswith(f".{kind}"):
            return f"; did you mean '{kind}:{place or source}'?"
    return did_you_mean(name.strip().lower(), READERS)
