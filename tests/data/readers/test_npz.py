"""``npz:FILE``: what is read from an archive, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from ntkdist.data import load
from ntkdist.errors import InputError

RANDOM = np.random.default_rng(0)
X = RANDOM.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)
SPLITS = {"x_train": X, "y_train": Y, "x_test": X[:3], "y_test": Y[:3]}


def write(path, **arrays):
    np.savez_compressed(path, **(arrays or SPLITS))
    return path


def message_of(source, split="train", **kwargs):
    with pytest.raises(InputError) as caught:
        load(source, split, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_npz_splits_are_read_as_written(tmp_path, column, split):
    arrays = dict(SPLITS)
    if column:
        arrays |= {"y_train": Y[:, None], "y_test": Y[:3, None]}
    read = load(f"npz:{write(tmp_path / 'a.npz', **arrays)}", split)
    np.testing.assert_array_equal(read.images, SPLITS[f"x_{split}"])
    np.testing.assert_array_equal(read.labels, SPLITS[f"y_{split}"])
    assert read.images.dtype == np.uint8
    assert read.labels.dtype == np.int64
    assert read.num_classes == 3


def test_npz_greyscale_gets_a_channel_axis(tmp_path):
    path = write(tmp_path / "a.npz", x_train=X[..., 0], y_train=Y)
    np.testing.assert_array_equal(load(f"npz:{path}").images, X[..., :1])


def test_npz_both_splits_agree_on_the_number_of_classes(tmp_path):
    path = write(tmp_path / "a.npz", **(SPLITS | {"y_test": np.array([0, 1, 1])}))
    assert load(f"npz:{path}", "test").num_classes == 3


def test_npz_class_names_set_the_number_of_classes(tmp_path):
    path = write(tmp_path / "a.npz", **SPLITS, class_names=np.array(["ape", "bee", "cat", "dog"]))
    read = load(f"npz:{path}")
    assert read.num_classes == 4
    assert read.class_names == ("ape", "bee", "cat", "dog")


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x_train": X}, "has no y_train; it holds x_train"),
        ({"a": X}, "has no x_train and no y_train; it holds a"),
        ({"x_train": X, "y_train": Y[:5]}, "6 images but 5 labels"),
        ({"x_train": X[:1], "y_train": Y[:1]}, "N = 1 images; a Gram matrix needs at least 2"),
        (
            {"x_train": X, "y_train": np.array([-1, 0, 1, 2, 0, 1])},
            "label -1 at index 0 is outside the classes 0..K-1",
        ),
        (
            {"x_train": X, "y_train": np.array([0, 1, 2, 0, 1, 255])},
            "label 255 is the largest, but only 4 of the classes 0..255 occur; number the classes",
        ),
        (
            {"x_train": X, "y_train": Y, "class_names": np.array(["a", "b"])},
            "label 2 at index 2 is outside the classes 0..1",
        ),
        ({"x_train": X, "y_train": np.eye(6)}, "one-hot"),
        ({"x_train": np.full(X.shape, np.nan), "y_train": Y}, "360 NaN"),
        (
            {"x_train": np.zeros((6, 3, 8, 8), np.uint8), "y_train": Y},
            "looks like (N, C, H, W)",
        ),
        (
            {"x_train": np.zeros((6, 1), np.uint8), "y_train": Y},
            "features have 1 column; (N, D) is needed",
        ),
        (
            {"x_train": np.zeros(6, np.uint8), "y_train": Y},
            "images have shape (6,); (N, H, W, C) is needed",
        ),
    ],
)
def test_npz_with_wrong_content_names_the_file(tmp_path, arrays, expected):
    path = write(tmp_path / "a.npz", **arrays)
    text = message_of(f"npz:{path}")
    assert str(path) in text
    assert expected in text


def test_npz_objects_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x_train=X, y_train=np.array([print] * 6, dtype=object))
    assert "y_train holds Python objects, which are not read" in message_of(f"npz:{path}")


@pytest.mark.parametrize("damage", ["truncate", "flip", "text"])
def test_a_damaged_npz_is_named(tmp_path, damage):
    path = write(tmp_path / "a.npz")
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    elif damage == "flip":
        for i in range(80, 240):
            data[i] ^= 255
    else:
        data = bytearray(b"not an archive")
    path.write_bytes(data)
    text = message_of(f"npz:{path}")
    assert str(path) in text
    assert "damaged" in text or "not an npz archive" in text


def test_a_folder_in_place_of_an_npz_is_refused(tmp_path):
    assert f"{tmp_path} is a folder; a file is needed" in message_of(f"npz:{tmp_path}")
