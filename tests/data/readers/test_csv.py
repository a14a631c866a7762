"""A table of files and labels: columns, labels, splits, and what is wrong in which line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntkdist.data import load
from ntkdist.errors import InputError

RANDOM = np.random.default_rng(0)
TABLE = "file,label\na.png,cat\nb.png,dog\nc.png,cat\n"


@pytest.fixture
def pixels(tmp_path: Path) -> dict[str, np.ndarray]:
    made = {}
    for name in ("a.png", "b.png", "c.png", "sub/d e.png"):
        made[name] = RANDOM.integers(0, 256, (4, 5), dtype=np.uint8)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(made[name]).save(tmp_path / name)
    return made


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def message_of(folder: Path, text: str | bytes, split: str = "train") -> str:
    path = written(folder, text)
    with pytest.raises(InputError) as caught:
        load(f"csv:{path}", split)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "PATH").replace(str(folder), "FOLDER")


def test_images_come_in_the_order_of_the_table_with_their_names(tmp_path, pixels):
    read = load(f"csv:{written(tmp_path, TABLE)}")
    np.testing.assert_array_equal(read.images[..., 0], [pixels[f"{x}.png"] for x in "abc"])
    assert read.labels.tolist() == [0, 1, 0]
    assert read.class_names == ("cat", "dog")
    assert read.files == ("a.png", "b.png", "c.png")


@pytest.mark.parametrize(
    "text",
    [
        "file;label\na.png;cat\nb.png;dog\n",
        "file\tlabel\na.png\tcat\nb.png\tdog\n",
        "\ufefffile,label\r\na.png,cat\r\nb.png,dog\r\n",
        "n, Path , CLASS \n1, a.png , cat \n\n2,b.png,dog\n,,\n",
        'image,"target"\n"a.png","cat"\nb.png,dog',
        'filename,target,label,note\na.png,x,cat,\nb.png,y,dog,"two\nlines"\n',
    ],
    ids=["semicolons", "tabs", "mark-and-crlf", "spaces", "quotes", "label-before-target"],
)
def test_every_delimiter_and_name_of_a_column_is_read(tmp_path, pixels, text):
    read = load(f"csv:{written(tmp_path, text)}")
    assert read.files == ("a.png", "b.png")
    assert [read.class_names[k] for k in read.labels] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("10", "9", "010"), ("9", "10")),
        (("1.0", "0", "-1"), ("-1", "0", "1")),
        (("10", "9", "x"), ("10", "9", "x")),
    ],
)
def test_whole_numbers_sort_as_numbers(tmp_path, pixels, labels, names):
    lines = "".join(f"{x}.png,{label}\n" for x, label in zip("abc", labels, strict=True))
    assert load(f"csv:{written(tmp_path, 'file,label' + chr(10) + lines)}").class_names == names


def test_a_split_column_divides_and_both_splits_have_the_same_classes(tmp_path, pixels):
    text = (
        "file,label,split\na.png,cat,train\nb.png,dog,Test\nc.png,dog,train\nsub/d e.png,ant,test\n"
    )
    path = written(tmp_path, text)
    train, test = load(f"csv:{path}"), load(f"csv:{path}", "test")
    assert (train.files, test.files) == (("a.png", "c.png"), ("b.png", "sub/d e.png"))
    assert train.class_names == test.class_names == ("ant", "cat", "dog")
    assert test.labels.tolist() == [2, 0]


def test_absolute_paths_are_read_and_images_scaled(tmp_path, pixels):
    Image.fromarray(np.full((40, 90, 3), 7, dtype=np.uint8)).save(tmp_path / "wide.jpg")
    path = written(tmp_path, f"file,label\n{tmp_path}/wide.jpg,x\na.png,y\n")
    read = load(f"csv:{path}", size="8x6")
    assert read.images.shape == (2, 8, 6, 3)
    assert (read.images[0] == 7).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TABLE + "x.png,cat\ny.png,cat\n", "PATH, line 5: there is no file FOLDER/x.png (1 other"),
        (
            TABLE + "sub/d e.png, \n",
            "PATH: the label in line 5 (sub/d e.png) is missing (empty); give",
        ),
        (TABLE + ",cat\n", "PATH, line 5: no file in column file"),
        (TABLE + "a.png,cat\n", "PATH, line 5: a.png is already in line 2"),
        (TABLE + "./a.png,cat\n", "PATH, line 5: ./a.png is already in line 2"),
        (TABLE + "d,e,f\n", "PATH, line 5: 3 fields, but the header has 2 columns separated by c"),
        (TABLE + '"a.png,cat\n', "PATH, line 5: unexpected end of data; close or double"),
        ("file,label\na.png,1\nb.png,1.0\n", "PATH: all 2 labels are '1'; at least two classes"),
        ("file,label\n\n", "PATH has a header but no rows; add a line for each image"),
        ("\n", "PATH is empty; it needs a header such as file,label"),
        (
            "fil,label\na.png,cat\n",
            "PATH, line 1: no column file, filename, path or image in the header; it has 'fil', "
            "'label'; did you mean 'file'?; begin the file with a line such as file,label",
        ),
        ("a.png,cat\n", "no column file, filename, path or image and no column label, class or"),
        ("file|label\na.png|cat\n", "it has 'file|label'"),
        (TABLE.encode("utf-16"), "PATH is in UTF-16; save it as CSV in UTF-8"),
        (TABLE.encode() + b"d.png,\xe9\n", "PATH, line 5: byte 0xe9 is not UTF-8; save"),
        (
            "file,label\na.png,Circle\nb.png,square\nc.png,circle \n",
            "PATH: class 'circle' in line 4 (c.png), but 'Circle' in line 2 (a.png), which",
        ),
        (
            "file,label\na.png,x y\nb.png,x  y\n",
            "class 'x  y' in line 3 (b.png), but 'x y' in line 2",
        ),
        ("file,label,split\na.png,x,trian\n", "PATH, line 2: split 'trian' is unknown; write tr"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, pixels, text, expected):
    assert expected in message_of(tmp_path, text)


def test_a_split_without_images_is_refused(tmp_path, pixels):
    assert "PATH has no image of the test split; add a column split" in message_of(
        tmp_path, TABLE, "test"
    )
    only = "file,label,split\na.png,x,train\nb.png,y,train\n"
    assert "test split; write test into column split" in message_of(tmp_path, only, "test")


def test_the_folder_that_paths_count_from_is_written_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("labels.csv").write_text("file,label\nx.png,cat\ny.png,dog\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load("csv:labels.csv")
    assert str(caught.value).endswith(f"paths count from the table's folder, {tmp_path.resolve()}")


def test_a_missing_table_names_its_neighbour(tmp_path, pixels):
    written(tmp_path, TABLE)
    with pytest.raises(InputError, match=r"label\.csv does not exist; did you mean 'labels\.csv'"):
        load(f"csv:{tmp_path}/label.csv")
    with pytest.raises(InputError, match=r"did you mean 'csv:labels\.csv'"):
        load("labels.csv")


def test_turned_images_are_counted_and_broken_links_refused(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(tmp_path / "a.png").save(tmp_path / "turned.png", exif=exif)
    path = written(tmp_path, "file,label\na.png,x\nturned.png,y\n")
    read = load(f"csv:{path}")
    assert read.notes == ("1 image is turned as its EXIF tag says: turned.png",)
    np.testing.assert_array_equal(read.images[1], read.images[0][::-1, ::-1])
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    text = "file,label\na.png,x\nlink.png,y\n"
    assert f"line 3: there is no file {tmp_path}/link.png" in message_of(tmp_path, text).replace(
        "FOLDER", str(tmp_path)
    )


def test_paths_of_a_home_folder_and_of_windows_are_read(tmp_path, pixels, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "table").mkdir()
    path = tmp_path / "table/list.csv"
    path.write_text("file,label\n~/a.png,x\n..\\sub\\d e.png,y\n", encoding="utf-8")
    read = load(f"csv:{path}")
    assert read.files == ("~/a.png", "..\\sub\\d e.png")
    plain = written(tmp_path, "file,label\na.png,x\nsub/d e.png,y\n")
    np.testing.assert_array_equal(read.images, load(f"csv:{plain}").images)
    path.write_text("file,label\n~/a.png,x\n../a.png,y\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 3: \.\./a.png is already in line 2"):
        load(f"csv:{path}")
