"""The original MNIST files: names, gzip, header checks."""

from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ntkdist.data import load
from ntkdist.errors import InputError

RANDOM = np.random.default_rng(0)
DATA = {
    "train": (RANDOM.integers(0, 256, (7, 5, 4), dtype=np.uint8), np.arange(7, dtype=np.uint8) % 4),
    "t10k": (RANDOM.integers(0, 256, (3, 5, 4), dtype=np.uint8), np.arange(3, dtype=np.uint8)),
}


def idx_bytes(values):
    header = bytes([0, 0, 8, values.ndim])
    return header + b"".join(size.to_bytes(4, "big") for size in values.shape) + values.tobytes()


def write(folder, *, dots=False, zipped=False, suffix=None):
    between = "." if dots else "-"
    suffix = (".gz" if zipped else "") if suffix is None else suffix
    for prefix, (images, labels) in DATA.items():
        for stem, values in ((f"images{between}idx3", images), (f"labels{between}idx1", labels)):
            data = idx_bytes(values)
            path = folder / f"{prefix}-{stem}-ubyte{suffix}"
            path.write_bytes(gzip.compress(data) if zipped else data)


@pytest.mark.parametrize("dots", [False, True])
@pytest.mark.parametrize(
    ("zipped", "suffix"), [(False, ""), (True, ".gz"), (True, ""), (False, ".gz")]
)
def test_files_are_read_under_every_name_packed_or_not(tmp_path, dots, zipped, suffix):
    write(tmp_path, dots=dots, zipped=zipped, suffix=suffix)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = DATA[prefix]
        read = load(f"idx:{tmp_path}", split)
        np.testing.assert_array_equal(read.images, images[..., None])
        np.testing.assert_array_equal(read.labels, labels)
        assert read.num_classes == 4  # also where the test split lacks the last class


def test_one_split_is_enough(tmp_path):
    write(tmp_path)
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    assert load(f"idx:{tmp_path}").num_classes == 4
    with pytest.raises(InputError, match=r"has no t10k-images-idx3-ubyte .nor with a dot"):
        load(f"idx:{tmp_path}", "test")


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "train-images-idx3-ubyte",
            lambda d: d[:-1],
            r"has 139 bytes of values where its header promises 140 for shape \(7, 5, 4\)",
        ),
        ("train-images-idx3-ubyte", lambda d: d + b"x", "has 141 bytes of values"),
        (
            "train-images-idx3-ubyte",
            lambda d: b"\0\0\x0d\3" + d[4:],
            "is not an idx file of 3-dimensional bytes: its magic number is 3331, 2051 is needed",
        ),
        ("train-labels-idx1-ubyte", lambda d: d[:6], "its magic number is 2049, 2049 is needed"),
        ("train-labels-idx1-ubyte", lambda d: b"", "its magic number is 0, 2049"),
        (
            "train-labels-idx1-ubyte",
            lambda d: idx_bytes(DATA["train"][1][:5]),
            "7 images but 5 labels",
        ),
        ("train-labels-idx1-ubyte", lambda d: gzip.compress(d)[:-9], "is a damaged gzip file"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, change, message):
    write(tmp_path)
    damage(tmp_path / name, change)
    with pytest.raises(InputError, match=message) as caught:
        load(f"idx:{tmp_path}")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path)

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(InputError, match="idx3-ubyte cannot be read: Permission denied"):
        load(f"idx:{tmp_path}")


@given(st.tuples(st.integers(2, 6), st.integers(1, 40), st.integers(1, 40)), st.booleans())
def test_images_of_every_shape_are_read_as_written(shape, zipped):
    images = np.random.default_rng(shape).integers(0, 256, shape, dtype=np.uint8)
    pack = gzip.compress if zipped else bytes
    with TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "train-images-idx3-ubyte").write_bytes(pack(idx_bytes(images)))
        labels = np.arange(len(images), dtype=np.uint8) % 2
        (place / "train-labels-idx1-ubyte").write_bytes(pack(idx_bytes(labels)))
        read = load(f"idx:{folder}")
    np.testing.assert_array_equal(read.images, images[..., None])


@given(st.integers(0, 14), st.integers(2, 4), st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_other_types_axes_and_sizes_are_refused(kind, axes, side, length):
    data = bytes([0, 0, kind, axes]) + side.to_bytes(4, "big") * axes + bytes(length)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "train-images-idx3-ubyte").write_bytes(data)
        (place / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(2, np.uint8)))
        with pytest.raises(InputError):
            load(f"idx:{folder}")
