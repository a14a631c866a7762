"""``npz:FILE``: what is read from an archive, and what is refused."""

from __future__ import annotations

from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ntkdist.data import Preprocessor, load
from ntkdist.data.scaling import scale_all
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


REAL = ["?", "u1", "i1", "<u2", ">u2", "<i4", ">i8", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "g"]
OTHER = ["<c8", "S3", "<U3", "<M8[s]", "<m8[s]"]


@st.composite
def arrays(draw, dtypes):
    """Draw images as an archive may hold them: any shape, dtype, byte order and memory order."""
    shape = draw(st.tuples(st.integers(2, 5), *[st.integers(1, 9)] * draw(st.integers(2, 3))))
    code, seed = draw(st.sampled_from(dtypes)), draw(st.integers(0, 1000))
    numbers = np.random.default_rng(seed).integers(0, 100, shape)
    values = numbers.astype(code) if code in REAL or code[1] == "c" else numbers.astype("i8")
    values = values if values.dtype == np.dtype(code) else values.astype(code)
    order = draw(st.sampled_from(["C", "F", "reversed", "strided"]))
    if order == "F":
        return np.asfortranarray(values)
    if order == "reversed":
        return values[:, ::-1, ::-1]
    return np.repeat(values, 2, axis=1)[:, ::2] if order == "strided" else values


@given(arrays(REAL + OTHER))
def test_images_of_every_type_and_order_are_read_as_written_or_refused(images):
    labels = np.arange(len(images)) % 2
    with TemporaryDirectory() as folder:
        np.savez(f"{folder}/a.npz", x_train=images, y_train=labels)
        four = images if images.ndim == 4 else images[..., None]
        a, b, c = four.shape[1:]
        if images.dtype.kind not in "buif" or (a <= 4 < c and a != b):
            assert "a.npz (train): images have" in message_of(f"npz:{folder}/a.npz")
            return
        read = load(f"npz:{folder}/a.npz")
    np.testing.assert_array_equal(read.images, four)
    np.testing.assert_array_equal(read.labels, labels)
    assert read.image_shape == (a, b, c)
    for recipe in ("standardize", "none"):
        plain = np.ascontiguousarray(four, dtype=four.dtype.newbyteorder("="))
        np.testing.assert_array_equal(
            Preprocessor.fit(read.images, recipe).apply(read.images),
            Preprocessor.fit(plain, recipe).apply(plain),
        )


@given(arrays(REAL), st.one_of(st.integers(1, 40), st.tuples(st.integers(1, 40), st.just(5))))
def test_images_of_every_type_are_scaled_to_every_size(images, size):
    four = images if images.ndim == 4 else images[..., None]
    scaled = scale_all(four, size)
    height, width = (size, size) if isinstance(size, int) else size
    assert scaled.shape == (len(four), height, width, four.shape[3])
    if four.shape[1:3] == (height, width):
        assert scaled is four
        return
    assert scaled.dtype == (np.uint8 if four.dtype == np.uint8 else np.float32)
    if height <= four.shape[1] and width <= four.shape[2]:
        assert four.min() - 1e-3 <= scaled.min()
        assert scaled.max() <= four.max() + 1e-3
    plain = four.astype(scaled.dtype)
    np.testing.assert_array_equal(scaled, scale_all(plain, size))


def test_arrays_that_are_not_read_are_named(tmp_path):
    path = write(tmp_path / "a.npz", **SPLITS, class_names=["a", "b", "c"])
    assert load(f"npz:{path}").notes == ()
    path = write(tmp_path / "a.npz", **SPLITS, x_val=X, y_val=Y)
    assert load(f"npz:{path}").notes == ("arrays that are not read: x_val, y_val",)
