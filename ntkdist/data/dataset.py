"""One labelled set of images or features, checked when it is made.

N is the number of images or rows, K the number of classes; images are (N, H, W, C), features
(N, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntkdist.checks import (
    check_classes,
    check_indices,
    check_labels,
    label_values,
    normal_name,
    refuse_two_spellings,
    refuse_undecoded,
)
from ntkdist.data.features import check_features, not_finite
from ntkdist.errors import InputError, shown
from ntkdist.pixels import PixelRange, image_array
from ntkdist.words import counted, first_of


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images or features with their labels and the names of the classes.

    Attributes:
        images: Input of the kernel: pixels as read, shape (N, H, W, C), N ≥ 2, any real dtype
            (``Preprocessor`` knows what uint8 means), given as such, as (N, H, W) or as a list of
            images; or features, shape (N, D), D ≥ 2.
        labels: Classes 0..K−1, shape (N,), int64.
        num_classes: K; classes without an image are allowed.
        class_names: K names in label order, kept in the form of ``normal_name``; ``()`` becomes
            ``("0", "1", …)``.
        files: N names of the files the images came from, or ``()`` where they have none.
        pictures: (N, H, W, C) images to show for features; None for features without images, and
            where ``images`` holds the images.
        notes: Sentences for people on what the source holds that was not read as it is.

    Raises:
        InputError: A shape, length, dtype, pixel or label is wrong; one line names
            the value, its index, the limit and the remedy.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    num_classes: int
    class_names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    pictures: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels = image_array(self.images), label_values(self.labels)
        if images.ndim == 2:
            check_features(images)
            _check_counts(images, labels, "rows of features")
        else:
            _check_counts(images, labels, "images")
            check_pixels(images)
        if self.pictures is not None:
            pictures = image_array(self.pictures)
            _check_counts(pictures, labels, "images")
            object.__setattr__(self, "pictures", pictures)
        labels = check_labels(labels, check_classes(self.num_classes))
        for name in ("class_names", "files", "notes"):
            if not isinstance(getattr(self, name), tuple | list):
                raise InputError(f"{name}={shown(getattr(self, name))} must be a tuple of names")
        refuse_undecoded(self.class_names, "a class")
        refuse_undecoded(self.files, "a file")
        refuse_two_spellings(self.class_names, lambda k: f"is the name of class {k}")
        names = tuple(map(normal_name, self.class_names))
        if not all(names):
            k = names.index("")
            raise InputError(
                f"the name of class {k}, {self.class_names[k]!r}, is empty or stands for a missing "
                "value; give the class another name"
            )
        names = names or tuple(str(k) for k in range(self.num_classes))
        if len(names) != self.num_classes:
            raise InputError(
                f"{len(names)} class names for {self.num_classes} classes; give one for each class"
            )
        first = {name: k for k, name in reversed(list(enumerate(names)))}
        for k, name in enumerate(names):
            if first[name] < k:
                raise InputError(
                    f"classes {first[name]} and {k} are both called {name!r}; give each class a "
                    "name of its own"
                )
        if self.files and len(self.files) != len(labels):
            raise InputError(
                f"{len(self.files)} file names for {len(labels)} images; give one each"
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "num_classes", int(self.num_classes))
        object.__setattr__(self, "class_names", names)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_features(self) -> bool:
        """Whether the kernel is computed from features (N, D) instead of images."""
        return self.images.ndim == 2

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image; (1, 1, D) for features."""
        if self.is_features:
            return 1, 1, self.images.shape[1]
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def pixel_range(self) -> PixelRange | None:
        """Range of all images, by which their scale is known; None for features."""
        return None if self.is_features else PixelRange.of(self.images)

    @property
    def shown(self) -> NDArray[Any] | None:
        """(N, H, W, C) images to show; None for features without images."""
        return self.pictures if self.is_features else self.images

    def labels_in(
        self, class_names: Sequence[str], indices: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the labels of some images (M,) as places among other ``class_names``, by name.

        Raises:
            InputError: One of these images has a class that is none of them.
        """
        known = {normal_name(name): k for k, name in enumerate(class_names)}
        labels = self.labels[indices]
        places = np.array([known.get(name, -1) for name in self.class_names])[labels]
        if (places < 0).any():
            name = self.class_names[labels[np.argmin(places)]]
            count = int((places < 0).sum())
            raise InputError(
                f"{counted(count, 'image has', 'images have')} a class that the run does not "
                f"have, such as {name!r} (it has {first_of(list(class_names))}); leave them out, "
                "or give the class the name that it has in the run"
            )
        return places.astype(np.int64)

    def take(self, indices: ArrayLike) -> ImageSet:
        """Return the images at ``indices`` (M ≥ 2 integers) with the same K classes."""
        chosen = check_indices(indices, len(self))
        files = np.arange(len(self))[chosen] if self.files else ()
        return ImageSet(
            self.images[chosen],
            self.labels[chosen],
            self.num_classes,
            self.class_names,
            tuple(self.files[i] for i in files),
            None if self.pictures is None else self.pictures[chosen],
            self.notes,
        )


def _check_counts(images: NDArray[Any], labels: NDArray[Any], what: str) -> None:
    if len(images) != len(labels):
        raise InputError(
            f"{len(images)} {what} but {len(labels)} labels; give one label for each image"
        )
    if len(images) < 2:
        raise InputError(
            f"N = {len(images)} {what}; a Gram matrix needs at least 2: give more images"
        )


def check_pixels(images: NDArray[Any]) -> None:
    """Raise InputError unless all pixels, of a real dtype, are finite."""
    if bad := not_finite(images):
        counts, first = bad
        raise InputError(
            f"images hold {counts} pixels, the first in image {first[0]}; "
            "repair or leave out these images"
        )
