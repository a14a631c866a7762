"""load(): sources, paths, digits, npz."""

from __future__ import annotations

import subprocess
import sys

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


def test_digits():
    digits = load("digits")
    assert digits.images.shape == (1797, 8, 8, 1)
    assert digits.images.min() == 0
    assert digits.images.max() == 1
    np.testing.assert_array_equal(digits.images * 16 % 1, 0)
    assert digits.num_classes == 10
    assert digits.class_names == tuple("0123456789")
    assert np.bincount(digits.labels).min() >= 174


def test_digits_have_no_test_split():
    assert "digits have no test split; use split train" in message_of("digits", "test")


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_npz_round_trip(tmp_path, column, split):
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
def test_npz_damaged(tmp_path, damage):
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


def test_missing_file_names_it_and_its_neighbour(tmp_path):
    write(tmp_path / "mnist.npz")
    text = message_of(f"npz:{tmp_path}/minst.npz")
    assert f"{tmp_path}/minst.npz does not exist; did you mean 'mnist.npz'?" in text
    assert "nor does its folder" in message_of(f"npz:{tmp_path}/nowhere/mnist.npz")


@pytest.mark.parametrize("kind", ["idx", "cifar10", "cifar100", "images"])
def test_folders_are_checked(tmp_path, kind):
    file = write(tmp_path / "a.npz")
    assert f"{file} is a file; a folder is needed" in message_of(f"{kind}:{file}")
    assert "does not exist" in message_of(f"{kind}:{tmp_path}/none")


def test_npz_wants_a_file(tmp_path):
    assert f"{tmp_path} is a folder; a file is needed" in message_of(f"npz:{tmp_path}")


def test_relative_paths_start_at_the_root(tmp_path, monkeypatch):
    write(tmp_path / "a.npz")
    assert len(load("npz:a.npz", root=str(tmp_path))) == 6
    monkeypatch.chdir(tmp_path)
    assert len(load("npz:a.npz")) == 6


def test_an_absolute_path_ignores_the_root(tmp_path):
    write(tmp_path / "a.npz")
    assert len(load(f"npz:{tmp_path}/a.npz", root="/nowhere")) == 6


def test_home_and_variables_are_expanded(tmp_path, monkeypatch):
    write(tmp_path / "a.npz")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    for place in ("~/a.npz", "$SOME_DATA/a.npz", "${SOME_DATA}/a.npz"):
        assert len(load(f"npz:{place}", root="/nowhere")) == 6


@pytest.mark.parametrize("value", [None, ""])
def test_an_unset_variable_is_named(monkeypatch, value):
    monkeypatch.delenv("SOME_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_DATA", value)
    text = message_of("npz:$SOME_DATA/a.npz")
    assert "the environment variable SOME_DATA is not set; export SOME_DATA=FOLDER" in text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("digit", "did you mean 'digits'?"),
        ("cifar:data", "did you mean 'cifar10' or 'cifar100'?"),
        ("image:data", "did you mean 'images'?"),
        ("mnist.npz", "did you mean 'npz:mnist.npz'?"),
        ("", "use digits, npz:FILE, idx:DIR, cifar10:DIR, cifar100:DIR, images:DIR"),
        ("npz:", "data source 'npz:' names no file; write npz:FILE"),
        ("idx", "data source 'idx' names no dir; write idx:DIR"),
    ],
)
def test_unknown_sources(source, expected):
    assert expected in message_of(source)


def test_unknown_split():
    assert "split 'tset' is unknown; use train or test; did you mean 'test'?" in message_of(
        "digits", "tset"
    )


def test_importing_the_room_loads_nothing_heavy():
    heavy = ("sklearn", "PIL", "scipy", "pandas", "matplotlib", "zarr", "dask", "ray", "pickle5")
    code = f"import sys, ntkdist.data; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape", "num_classes", "mean"),
    [
        ("mnist", (28, 28, 1), 10, [33.514]),
        ("fashion_mnist", (28, 28, 1), 10, [73.171]),
        ("cifar10", (32, 32, 3), 10, [125.544, 122.822, 113.517]),
        ("cifar100", (32, 32, 3), 100, [129.381, 124.409, 112.746]),
    ],
)
def test_real_image_sets(data_dir, name, shape, num_classes, mean):
    train, test = (
        load(f"npz:{name}.npz", split, root=str(data_dir)) for split in ("train", "test")
    )
    assert train.images.shape == (10_000, *shape)
    assert test.images.shape == (2_000, *shape)
    for part in (train, test):
        assert part.num_classes == num_classes
        np.testing.assert_array_equal(
            np.bincount(part.labels), np.full(num_classes, len(part) // num_classes)
        )
    np.testing.assert_allclose(train.images.mean(axis=(0, 1, 2)), mean, atol=6e-4)
