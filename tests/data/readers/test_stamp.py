"""Whether the files of a source have changed, told from their names, sizes and times."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ntkdist.data.readers import source_stamp


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    return tmp_path / "photos"


def test_the_same_files_have_the_same_stamp(photos: Path) -> None:
    assert source_stamp(f"images:{photos}") == source_stamp(f"images:{photos}") is not None


def _grow(path: Path) -> None:
    stat = path.stat()
    path.write_bytes(b"123456")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def _rename(path: Path) -> None:
    path.rename(path.with_name("z.png"))


@pytest.mark.parametrize("change", [_grow, _touch, _rename, Path.unlink])
def test_another_size_time_or_name_is_another_stamp(photos: Path, change) -> None:
    before = source_stamp(f"images:{photos}")
    change(photos / "dog/c.png")
    assert source_stamp(f"images:{photos}") != before


def test_the_images_that_a_table_names_count_wherever_they_are(photos: Path) -> None:
    table = photos.parent / "tables" / "list.csv"
    table.parent.mkdir()
    rows = ["../photos/cat/a.png,cat", "../photos/dog/c.png,dog"]
    table.write_text("\n".join(["file,label", *rows]))
    before = source_stamp(f"csv:{table}")
    _touch(photos / "cat/b.png")  # the table does not name it
    assert source_stamp(f"csv:{table}") == before is not None
    _touch(photos / "dog/c.png")
    assert source_stamp(f"csv:{table}") != before


def test_runs_among_the_images_do_not_count(photos: Path) -> None:
    before = source_stamp(f"images:{photos}")
    (photos / "runs/x").mkdir(parents=True)
    (photos / "runs/x/zarr.json").write_text("{}")
    assert source_stamp(f"images:{photos}") == before is not None


def test_features_beside_the_images_count(photos: Path) -> None:
    features = photos.parent / "f.npy"
    features.write_bytes(b"1")
    before = source_stamp("digits", str(features))
    _touch(features)
    assert source_stamp("digits", str(features)) != before is not None
    assert source_stamp("digits") == source_stamp("digits", None)


def test_files_that_cannot_be_looked_at_have_no_stamp(photos: Path) -> None:
    assert source_stamp(f"npz:{photos}/none.npz") is None
    assert source_stamp(f"csv:{photos}/none.csv") is None
