"""ImageSet: what it accepts, and one clear line for what it does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ntkdist.data.dataset import ImageSet
from ntkdist.errors import InputError

IMAGES = np.arange(4 * 2 * 3 * 1, dtype=np.uint8).reshape(4, 2, 3, 1)
LABELS = np.array([0, 1, 2, 1], dtype=np.uint8)


def make(images=IMAGES, labels=LABELS, num_classes=3, class_names=()):
    return ImageSet(images, labels, num_classes, class_names)


def test_labels_become_int64_and_names_default_to_numbers():
    s = make()
    assert s.labels.dtype == np.int64
    assert s.class_names == ("0", "1", "2")
    assert len(s) == 4
    assert s.image_shape == (2, 3, 1)
    assert s.images.dtype == np.uint8


def test_an_image_set_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().num_classes = 4


def test_take_keeps_classes_and_names():
    part = make(class_names=("a", "b", "c")).take([3, 0])
    np.testing.assert_array_equal(part.labels, [1, 0])
    np.testing.assert_array_equal(part.images, IMAGES[[3, 0]])
    assert (part.num_classes, part.class_names) == (3, ("a", "b", "c"))


def test_a_class_without_images_is_allowed():
    assert make(num_classes=10).num_classes == 10


def floats(**pixels: float) -> np.ndarray:
    x = IMAGES.astype(np.float32)
    for name, value in pixels.items():
        x[int(name[1:]), 0, 0, 0] = value
    return x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": IMAGES[..., None]},
            r"images have shape \(4, 2, 3, 1, 1\); \(N, H, W, C\) is needed: reshape .*\(N, H, W\)",
        ),
        ({"labels": np.eye(4, dtype=int)}, r"labels have shape \(4, 4\); .* argmax\(axis=1\)"),
        ({"labels": LABELS[:3]}, "4 images but 3 labels; give one label for each image"),
        (
            {"images": IMAGES[:1], "labels": LABELS[:1]},
            "N = 1 images; a Gram matrix needs at least 2: give more images",
        ),
        ({"images": IMAGES[:, :0]}, "at least one pixel"),
        ({"images": IMAGES.astype(complex)}, "images have dtype complex128; real numbers are"),
        (
            {"images": floats(i1=np.nan, i2=np.inf, i3=-np.inf)},
            "images hold 1 NaN and 2 infinite pixels, the first in image 1; repair or leave out",
        ),
        ({"labels": LABELS + 0.5}, "label 0.5 at index 0 is not a whole number; number the"),
        (
            {"labels": np.array([0, 1, 3, 7])},
            r"label 3 at index 2 is outside the classes 0..2 \(2 such labels\); number the",
        ),
        ({"labels": np.array([0, -1, 1, 1])}, r"label -1 at index 1 is outside the classes 0..2"),
        (
            {"labels": np.array([0, 2**64 - 1, 1, 1], dtype=np.uint64)},
            "label 18446744073709551615 at index 1 is outside",
        ),
        ({"num_classes": 0}, "num_classes=0 must be a whole number of at least 1"),
        ({"class_names": ("a", "b")}, "2 class names for 3 classes; give one for each class"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    with pytest.raises(InputError, match=message) as caught:
        make(**change)
    assert "\n" not in str(caught.value)


def test_names_that_are_not_utf8_are_refused():
    images, names = np.zeros((2, 3, 3, 1)), ("a", "caf\udce9")
    for given in ({"class_names": names}, {"files": names}):
        with pytest.raises(InputError, match="is not in UTF-8; rename it"):
            ImageSet(images, [0, 1], 2, **given)
