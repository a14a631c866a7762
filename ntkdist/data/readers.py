"""Image sets by a short text, such as ``digits``, ``npz:FILE`` or ``shapes``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ntkdist.data import _cifar, _folders, _idx, _npz, synthetic
from ntkdist.data._paths import resolve
from ntkdist.data.dataset import ImageSet
from ntkdist.errors import InputError, did_you_mean

SPLITS = ("train", "test")

# source -> (what follows the colon, reader)
_READERS: dict[str, tuple[str, Callable[[Path, str], ImageSet]]] = {
    "npz": ("FILE", _npz.read),
    "idx": ("DIR", _idx.read),
    "cifar10": ("DIR", partial(_cifar.read, num_classes=10)),
    "cifar100": ("DIR", partial(_cifar.read, num_classes=100)),
    "images": ("DIR", _folders.read),
}

# sets that need no file
_MADE = {"shapes": synthetic.shapes, "corners": synthetic.corners}

SOURCES = ("digits", *(f"{name}:{place}" for name, (place, _) in _READERS.items()), *_MADE)


def load(source: str, split: str = "train", *, root: str | None = None) -> ImageSet:
    """Read a labelled image set.

    Args:
        source: One of

            - ``digits``: scikit-learn's 1,797 handwritten digits, 8×8×1, float32 in 0..1;
              they have no test split.
            - ``npz:FILE``: arrays x_train, y_train, x_test, y_test.
            - ``idx:DIR``: the original MNIST or Fashion-MNIST files, gzipped or not.
            - ``cifar10:DIR``, ``cifar100:DIR``: the python or the binary distribution
              (fine labels).
            - ``images:DIR``: a folder of PNG or JPEG files for each class, or ``train``
              and ``test`` folders of these.
            - ``shapes``, ``corners``: made here, 16×16×1 uint8, four classes, 2,000 training
              and 500 test images (``ntkdist.data.synthetic``).

            ``~`` and environment variables are expanded: ``npz:$NTKDIST_DATA/mnist.npz``.
        split: ``train`` or ``test``.
        root: The folder that relative paths start from; None is the current folder.

    Returns:
        The images as stored (uint8 stays uint8), shape (N, H, W, C), with their labels.

    Raises:
        InputError: The source is unknown, or its files are missing, damaged or
            inconsistent; one line names what and the remedy.
    """
    if split not in SPLITS:
        raise InputError(
            f"split {split!r} is unknown; use {' or '.join(SPLITS)}"
            + did_you_mean(str(split), SPLITS)
        )
    name, colon, place = source.strip().partition(":")
    if name == "digits" and not colon:
        return _digits(split)
    if name in _MADE and not colon:
        return _MADE[name](split)
    if name not in _READERS:
        raise InputError(
            f"data source {source!r} is unknown; use {', '.join(SOURCES)}{_suggestion(source)}"
        )
    kind, read = _READERS[name]
    if not place.strip():
        raise InputError(f"data source {source!r} names no {kind.lower()}; write {name}:{kind}")
    try:
        return read(resolve(place.strip(), root), split)
    except OSError as error:
        raise InputError(
            f"{error.filename or source} cannot be read: {error.strerror or error}"
        ) from None


def _suggestion(source: str) -> str:
    name, _, place = source.partition(":")
    if source.endswith(".npz"):
        return f"; did you mean 'npz:{source}'?" if not place else f"; did you mean 'npz:{place}'?"
    return did_you_mean(name.strip().lower(), ["digits", *_READERS, *_MADE])


def _digits(split: str) -> ImageSet:
    if split == "test":
        raise InputError("digits have no test split; use split train, or another source")
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 0..16 as stored; sixteenths are exact in float32
    images = (digits.images / 16.0).astype("float32")[..., None]
    return ImageSet(images, digits.target, len(digits.target_names))
