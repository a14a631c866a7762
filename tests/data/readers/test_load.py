"""load(): sources, splits, paths, and the digits."""

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


def write(path):
    np.savez(path, x_train=X, y_train=Y)
    return path


def message_of(source, split="train", **kwargs):
    with pytest.raises(InputError) as caught:
        load(source, split, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_digits_are_sixteenths_in_ten_classes():
    digits = load("digits")
    assert digits.images.shape == (1797, 8, 8, 1)
    assert digits.images.min() == 0
    assert digits.images.max() == 1
    np.testing.assert_array_equal(digits.images * 16 % 1, 0)
    assert digits.num_classes == 10
    assert digits.class_names == tuple("0123456789")
    assert np.bincount(digits.labels).min() >= 174


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    theirs, ours = load_digits(), load("digits")
    np.testing.assert_array_equal(ours.images[..., 0], theirs.images / 16)
    np.testing.assert_array_equal(ours.labels, theirs.target)


def test_digits_have_no_test_split():
    assert "digits have no test split; use split train" in message_of("digits", "test")


def test_missing_file_names_it_and_its_neighbour(tmp_path):
    write(tmp_path / "mnist.npz")
    text = message_of(f"npz:{tmp_path}/minst.npz")
    assert f"{tmp_path}/minst.npz does not exist; did you mean 'mnist.npz'?" in text
    assert "nor does its folder" in message_of(f"npz:{tmp_path}/nowhere/mnist.npz")


@pytest.mark.parametrize("kind", ["idx", "cifar10", "cifar100", "images"])
def test_a_file_or_nothing_in_place_of_a_folder_is_refused(tmp_path, kind):
    file = write(tmp_path / "a.npz")
    assert f"{file} is a file; a folder is needed" in message_of(f"{kind}:{file}")
    assert "does not exist" in message_of(f"{kind}:{tmp_path}/none")


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
        ("shape", "did you mean 'shapes'?"),
        ("corner", "did you mean 'corners'?"),
        ("shapes:here", "data source 'shapes:here' is unknown"),
        ("", "use digits, npz:FILE, idx:DIR, cifar10:DIR, cifar100:DIR, images:DIR"),
        ("npz:", "data source 'npz:' names no file; write npz:FILE"),
        ("idx", "data source 'idx' names no dir; write idx:DIR"),
    ],
)
def test_unknown_sources_are_refused_with_a_suggestion(source, expected):
    assert expected in message_of(source)


def test_an_unknown_split_is_refused_with_a_suggestion():
    assert "split='tset' is not one of train, test; did you mean 'test'?" in message_of(
        "digits", "tset"
    )


def test_importing_the_package_loads_nothing_heavy():
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
def test_real_image_sets_are_balanced_and_have_their_known_means(
    data_dir, name, shape, num_classes, mean
):
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
