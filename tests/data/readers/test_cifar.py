"""Both distributions of CIFAR-10 and CIFAR-100, as the archives lay them out."""

from __future__ import annotations

import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ntkdist.data import load
from ntkdist.errors import InputError

NAMES = {10: [f"thing {k}" for k in range(10)], 100: [f"fine {k}" for k in range(100)]}
FOLDERS = {
    (10, "python"): "cifar-10-batches-py",
    (10, "binary"): "cifar-10-batches-bin",
    (100, "python"): "cifar-100-python",
    (100, "binary"): "cifar-100-binary",
}


def make_split(num_classes, split, per_file=3):
    files = 5 if (num_classes, split) == (10, "train") else 1
    random = np.random.default_rng([num_classes, len(split)])
    images = random.integers(0, 256, (files * per_file, 32, 32, 3), dtype=np.uint8)
    labels = random.integers(0, num_classes, len(images))
    parts = np.array_split(np.arange(len(images)), files)
    return images, labels, parts


def file_names(num_classes, split, form):
    suffix = ".bin" if form == "binary" else ""
    if num_classes == 100:
        return [split + suffix]
    if split == "test":
        return ["test_batch" + suffix]
    return [f"data_batch_{i}{suffix}" for i in range(1, 6)]


def write(folder, num_classes, form):
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        images, labels, parts = make_split(num_classes, split)
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        for name, part in zip(file_names(num_classes, split, form), parts, strict=True):
            if form == "python":
                key = "labels" if num_classes == 10 else "fine_labels"
                batch = {"filenames": ["a.png"] * len(part), "data": planes[part]}
                batch |= {key: labels[part].tolist(), "coarse_labels": [0] * len(part)}
                (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
            else:
                columns = [labels[part, None]]
                if num_classes == 100:
                    columns.insert(0, np.full((len(part), 1), 19))  # the coarse label stands first
                records = np.concatenate([*columns, planes[part]], axis=1).astype(np.uint8)
                (folder / name).write_bytes(records.tobytes())
    if form == "binary":
        name = "batches.meta.txt" if num_classes == 10 else "fine_label_names.txt"
        (folder / name).write_text("\n".join(NAMES[num_classes]) + "\n\n")
    else:
        name, key = (
            ("batches.meta", "label_names") if num_classes == 10 else ("meta", "fine_label_names")
        )
        meta = {key: NAMES[num_classes], "coarse_label_names": ["x"], "num_vis": 3072}
        (folder / name).write_bytes(pickle.dumps(meta, protocol=0))


@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("inside", [False, True])
def test_every_distribution_is_read_as_written(tmp_path, num_classes, form, inside):
    write(tmp_path / FOLDERS[num_classes, form] if inside else tmp_path, num_classes, form)
    for split in ("train", "test"):
        images, labels, _ = make_split(num_classes, split)
        read = load(f"cifar{num_classes}:{tmp_path}", split)
        np.testing.assert_array_equal(read.images, images)
        np.testing.assert_array_equal(read.labels, labels)
        assert read.num_classes == num_classes
        assert read.class_names == tuple(NAMES[num_classes])
        assert read.images.flags.c_contiguous


@pytest.mark.parametrize(("form", "meta"), [("python", "meta"), ("binary", "fine_label_names.txt")])
def test_without_the_list_of_names_classes_are_numbered(tmp_path, form, meta):
    write(tmp_path, 100, form)
    (tmp_path / meta).unlink()
    assert load(f"cifar100:{tmp_path}").class_names == tuple(str(k) for k in range(100))


def message_of(source, split="train"):
    with pytest.raises(InputError) as caught:
        load(source, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_empty_folder_is_refused_with_the_files_looked_for(tmp_path):
    text = message_of(f"cifar10:{tmp_path}")
    assert "has neither data_batch_1 nor data_batch_1.bin" in text
    assert "give the folder that holds cifar-10-batches-py or cifar-10-batches-bin" in text


def test_an_archive_that_is_still_packed_is_named(tmp_path):
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"")
    assert "unpack cifar-100-python.tar.gz there" in message_of(f"cifar100:{tmp_path}")


def test_the_other_cifar_is_refused_with_its_source(tmp_path):
    write(tmp_path, 100, "binary")
    assert "holds CIFAR-100; use cifar100:DIR" in message_of(f"cifar10:{tmp_path}")


def test_a_missing_batch_is_named(tmp_path):
    write(tmp_path, 10, "binary")
    (tmp_path / "data_batch_3.bin").unlink()
    assert f"{tmp_path} has no data_batch_3.bin; unpack" in message_of(f"cifar10:{tmp_path}")
    assert len(load(f"cifar10:{tmp_path}", "test")) == 3


def test_a_binary_batch_that_is_cut_short_is_refused(tmp_path):
    write(tmp_path, 10, "binary")
    path = tmp_path / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-5])
    assert "data_batch_2.bin has 9214 bytes, which is not a whole number of records of 3073" in (
        message_of(f"cifar10:{tmp_path}")
    )


def test_a_python_batch_that_is_cut_short_is_refused(tmp_path):
    write(tmp_path, 10, "python")
    path = tmp_path / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-500])
    text = message_of(f"cifar10:{tmp_path}")
    assert f"{path} is not a readable pickle" in text


def test_a_label_outside_the_classes_is_refused(tmp_path):
    write(tmp_path, 10, "binary")
    path = tmp_path / "test_batch.bin"
    data = bytearray(path.read_bytes())
    data[3073] = 10
    path.write_bytes(data)
    assert "label 10 at index 1 is outside the classes 0..9" in message_of(
        f"cifar10:{tmp_path}", "test"
    )


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"labels": [1, 2]}, "test_batch has no data; it holds labels"),
        ({}, "has no data and no labels; it holds nothing"),
        ({"data": [1, 2], "labels": [1, 2]}, "data is not a matrix of bytes"),
        ({"data": np.zeros((2, 7), np.uint8), "labels": [1, 2]}, "7 values an image, 3072 are"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "2 images but labels of shape"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": ["a", "b"]}, "labels are not integers"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [[1], 2]}, "labels are not integers"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0.5, 1]}, "labels are not integers"),
        ([1, 2], "a list where a dict is expected"),
    ],
)
def test_a_python_batch_with_other_content_is_refused(tmp_path, batch, expected):
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    text = message_of(f"cifar10:{tmp_path}", "test")
    assert expected in text
    assert "test_batch" in text


def test_class_names_of_another_type_or_number_are_refused(tmp_path):
    write(tmp_path, 100, "python")
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": 3}))
    assert "meta has no list fine_label_names" in message_of(f"cifar100:{tmp_path}")
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a"] * 99}))
    assert "99 class names for 100 classes" in message_of(f"cifar100:{tmp_path}")


def test_a_malicious_batch_is_refused_and_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "owned"), "w")

    batch = {"data": Evil(), "labels": [0, 1]}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    text = message_of(f"cifar10:{tmp_path}", "test")
    assert "is refused: it is a pickle that holds a call to" in text
    assert not (tmp_path / "owned").exists()


@given(
    st.integers(0, 5),
    st.sampled_from(["C", "F", "strided"]),
    st.sampled_from(["|u1", "<i2", ">i2", "<f4"]),
    st.sampled_from([3072, 3071, 1024]),
)
def test_pickles_of_every_protocol_and_order_are_read_as_written_or_refused(
    protocol, order, dtype, pixels
):
    random = np.random.default_rng(pixels)
    planes = random.integers(0, 100, (4, pixels)).astype(dtype)
    stored = {
        "C": planes,
        "F": np.asfortranarray(planes),
        "strided": np.repeat(planes, 2, axis=0)[::2],
    }[order]
    labels = [0, 99, *range(1, 3)]
    with TemporaryDirectory() as folder:
        batch = {"data": stored, "fine_labels": labels}
        (Path(folder) / "train").write_bytes(pickle.dumps(batch, protocol=protocol))
        if dtype != "|u1" or pixels != 3072:
            with pytest.raises(InputError, match=r"not a matrix of bytes|values an image, 3072"):
                load(f"cifar100:{folder}")
            return
        read = load(f"cifar100:{folder}")
    np.testing.assert_array_equal(read.images, planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert read.labels.tolist() == labels
