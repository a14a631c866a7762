"""``ntkdist audit``: own images in any form, to a list of labels that look wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntkdist import Run
from ntkdist.cli import main as cli
from ntkdist.cli.audit import (
    Item,
    LabelIssue,
    choose_run,
    compare,
    name_of,
    recognise,
    table_of,
)
from ntkdist.cli.console import Terminal
from ntkdist.errors import InputError
from ntkdist.runs.inputs import STAMP

NAMES = ("dark", "light")
MISPLACED = {0, 12, 24, 31, 57, 66, 75, 88, 101, 113}
# dark ones among the light, and the other way round
WRONG = {f"{'dark' if i % 2 else 'light'}/{i:02d}.png" for i in MISPLACED}

Captured = pytest.CaptureFixture[str]


def draw(path: Path, *, light: bool, rng: np.random.Generator, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    low = 130 if light else 0
    pixels = rng.integers(low, low + 120, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two sizes in class folders, ten of them in the wrong one."""
    folder = tmp_path_factory.mktemp("audit") / "photos"
    rng = np.random.default_rng(0)
    for i in range(120):
        light = i % 2 == 1
        wrong = i in MISPLACED
        name = f"{NAMES[light != wrong]}/{i:02d}.png"
        draw(folder / name, light=light, rng=rng, side=8 if i % 3 else 12)
    return folder


def audit(capsys: Captured, *tokens: Any) -> dict[str, Any]:
    cli.main(["audit", *map(str, tokens), "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_wrong_labels_of_a_folder_are_found(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(photos.parent)
    cli.main(["audit", "photos/"])
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "10 of 120 labels look wrong:"
    assert lines[1].split() == ["file", "given", "suggested", "quality"]
    assert {line.split()[0] for line in lines[2:12]} == WRONG
    assert lines[12].startswith("verdict   reliable: leave-one-out predictions equal ")
    assert re.match(r"noise     \d\.\d % of the labels are estimated wrong \(.* to .*\)", lines[13])
    assert re.match(r"flags     \d+ % of the flagged labels are expected to be wrong", lines[14])
    assert lines[15].endswith("runs/photos/labels.csv")
    assert lines[16].endswith("runs/photos/report.html")
    assert (photos.parent / "runs/photos/report.html").is_file()
    careful = "--architecture cntk-lap-6-2 --run runs/photos-cntk-lap-6-2"
    assert said.err.splitlines()[-1] == (
        f"next: ntkdist audit images:photos {careful}   or: ntkdist plan runs/photos {careful}"
    )
    assert Run.open("runs/photos").array("inputs", "images").shape == (120, 32, 32, 1)


@pytest.mark.slow
def test_started_again_it_computes_nothing_anew(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(photos.parent)
    audit(capsys, "photos", "--quiet")
    found = audit(capsys, photos.name)
    details = {one["stage"]: one["detail"] for one in found["result"]["stages"]}
    assert details["gram"].startswith("nothing to compute, ")
    assert details["labels"] == "as stored"
    assert found["run"] == "runs/photos"


@pytest.mark.slow
def test_settings_are_flags_and_the_run_has_its_place(
    photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    flags = ["--run", tmp_path / "r", "--architecture", "fc-1", "--data.size", 6]
    found = audit(capsys, photos, *flags, "--labels.method", "exact")
    run = Run.open(tmp_path / "r")
    assert run.array("inputs", "images").shape == (120, 6, 6, 1)
    assert run.config.labels.method == "exact"
    assert run.config.gram.executor == "inline"
    assert found["next"] == [f"ntkdist predict {tmp_path}/r"]


@pytest.mark.slow
def test_an_archive_and_a_table_are_audited(photos: Path, tmp_path: Path, capsys: Captured) -> None:
    files = sorted(photos.rglob("*.png"))
    lines = [f"{path},{path.parent.name}" for path in files]
    (tmp_path / "list.csv").write_text("\n".join(["file,label", *lines]) + "\n")
    flags = ["--architecture", "cnn-1", "--data.size", 8]
    found = audit(capsys, tmp_path / "list.csv", "--run", tmp_path / "csv", *flags)["result"]
    assert {"/".join(Path(one["file"]).parts[-2:]) for one in found["suspicious"]} == WRONG
    assert found["source"] == f"csv:{tmp_path}/list.csv"
    rng = np.random.default_rng(1)
    y = np.arange(120) % 2
    x = rng.integers(0, 120, (120, 8, 8, 1)) + 130 * y[:, None, None, None]
    wrong = sorted(MISPLACED)
    y[wrong] = 1 - y[wrong]
    np.savez(tmp_path / "set.npz", x_train=x.astype(np.uint8), y_train=y)
    found = audit(capsys, tmp_path / "set.npz", "--run", tmp_path / "npz", *flags)["result"]
    named = sorted((one["index"], one["file"], one["given"]) for one in found["suspicious"])
    assert named == [(i, None, str(y[i])) for i in wrong]


@pytest.mark.slow
def test_qualities_are_listed_from_the_worst(
    photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    found = audit(capsys, photos, "--run", tmp_path / "r", "--noise.rate", 0.05)["result"]
    qualities = [one["quality"] for one in found["suspicious"]]
    assert len(qualities) == min(10, found["labels"]["issues"]) > 3
    assert qualities == sorted(qualities)


def test_every_form_of_images_is_recognised(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("table.csv", "set.npz", "Set.NPZ"):
        Path(name).touch()
    for folder, file in [
        ("mnist", "train-images-idx3-ubyte.gz"),
        ("c10", "data_batch_1"),
        ("c100", "cifar-100-python/train"),
    ]:
        (tmp_path / folder / file).parent.mkdir(parents=True)
        (tmp_path / folder / file).write_bytes(gzip.compress(b""))
    draw(tmp_path / "split/train/a/1.png", light=True, rng=np.random.default_rng(0))
    expected = {
        "table.csv": "csv:table.csv",
        "set.npz": "npz:set.npz",
        "Set.NPZ": "npz:Set.NPZ",
        "mnist": "idx:mnist",
        "mnist/": "idx:mnist",
        "c10": "cifar10:c10",
        "c100": "cifar100:c100",
        "split": "images:split",
        "digits": "digits",
        "images:anything": "images:anything",
        str(photos): f"images:{photos}",
    }
    assert {source: recognise(source) for source in expected} == expected


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("images:data/My photos/", "My-photos"),
        ("csv:a/list.csv", "list.csv"),  # not there, so that a suffix may be a folder's
        ("digits", "digits"),
    ],
)
def test_runs_are_named_after_their_source(source: str, name: str) -> None:
    assert name_of(source) == name


def test_what_was_found_is_said_where_nothing_will_do(tmp_path: Path) -> None:
    for place in ("a/b/c.txt", "d/e/f.txt"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    with pytest.raises(InputError, match=r"holds folders \(a, d\), and no image file in any"):
        recognise(str(tmp_path))
    (tmp_path / "a/b/c.png").touch()
    with pytest.raises(InputError, match=r"one folder further down \(.*/a\); give the folder that"):
        recognise(str(tmp_path))


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()

    def refused(folder: Path) -> None:  # a test may run with the rights to read everything
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(InputError, match=r"test_a_folder.* cannot be read: Permission denied"):
        recognise(str(tmp_path))


def test_images_without_files_go_by_their_number() -> None:
    table = table_of([LabelIssue(7, None, "cat", "dog", 0.12345)])
    assert table.head[0] == "image"
    assert table.rows == (("7", "cat", "dog", "0.123"),)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 16 images, and the run of their audit."""
    folder = tmp_path_factory.mktemp("few")
    rng = np.random.default_rng(3)
    for i in range(16):
        draw(folder / f"photos/{NAMES[i % 2]}/{i:02d}.png", light=i % 2 == 1, rng=rng)
    with contextlib.chdir(folder):
        cli.main(["audit", "photos", "--quiet"])
    return folder


@pytest.fixture
def few(audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Path:
    """A copy of that folder, which is the current one."""
    shutil.copytree(audited, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    return tmp_path


@pytest.mark.slow
def test_corrected_labels_get_a_run_of_their_own_and_the_old_is_kept(
    few: Path, capsys: Captured
) -> None:
    (few / "photos/dark/04.png").rename(few / "photos/light/04.png")
    cli.main(["audit", "photos/"])
    said = capsys.readouterr()
    assert (
        "images:photos: has changed since runs/photos was made from it: 1 of 16 labels differs "
        "(dark/04.png is now light); runs/photos is kept, the changed source is stored in "
        "runs/photos-2"
    ) in said.err
    assert "dark/04.png" in Run.open("runs/photos").files()
    assert "light/04.png" in Run.open("runs/photos-2").files()
    assert audit(capsys, "photos")["run"] == "runs/photos-2"
    assert not (few / "runs/photos-3").exists()
    (few / "photos/light/04.png").rename(few / "photos/dark/04.png")
    assert audit(capsys, "photos")["run"] == "runs/photos"


@pytest.mark.slow
def test_a_table_that_was_corrected_is_noticed(few: Path, capsys: Captured) -> None:
    files = sorted(Path("photos").rglob("*.png"))
    lines = ["file,label", *(f"{file},{file.parent.name}" for file in files)]
    Path("list.csv").write_text("\n".join(lines) + "\n")
    assert audit(capsys, "list.csv")["run"] == "runs/list"
    lines[3] = lines[3].replace(",dark", ",light")
    Path("list.csv").write_text("\n".join(lines) + "\n")
    assert audit(capsys, "list.csv")["run"] == "runs/list-2"


@pytest.mark.slow
def test_a_run_that_was_named_is_not_left_for_another(few: Path, capsys: Captured) -> None:
    audit(capsys, "photos", "--run", "mine")
    (few / "photos/dark/04.png").rename(few / "photos/light/04.png")
    with pytest.raises(SystemExit) as ended:
        cli.main(["audit", "photos", "--run", "mine"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "(dark/04.png is now light)" in said
    assert "ntkdist audit images:photos --run mine-2" in said


@pytest.mark.slow
def test_other_images_are_refused_with_what_to_do(few: Path, capsys: Captured) -> None:
    draw(few / "photos/dark/99.png", light=False, rng=np.random.default_rng(9))
    for change in ("1 new", "1 new, 1 of 16 gone"):
        with pytest.raises(SystemExit) as ended:
            cli.main(["audit", "photos"])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert f"{change};" in said
        assert "ntkdist audit images:photos --run runs/photos-2" in said
        # extend refuses a source that has lost images
        assert ("ntkdist extend runs/photos" in said) == ("gone" not in change)
        (few / "photos/light/01.png").unlink(missing_ok=True)


@pytest.mark.slow
def test_extend_is_no_remedy_where_there_is_a_new_class(few: Path, capsys: Captured) -> None:
    draw(few / "photos/another/99.png", light=False, rng=np.random.default_rng(9))
    with pytest.raises(SystemExit):
        cli.main(["audit", "photos"])
    said = capsys.readouterr().err
    assert "--run runs/photos-2" in said
    assert "ntkdist extend" not in said


@pytest.mark.slow
def test_another_architecture_has_a_run_of_its_own(few: Path, capsys: Captured) -> None:
    assert audit(capsys, "photos", "--architecture", "fc-1")["run"] == "runs/photos-fc-1"


def test_classes_of_few_images_are_warned_of(few: Path, capsys: Captured) -> None:
    cli.main(["audit", "photos"])
    said = "verdicts on classes of fewer than 10 images are guesses: dark has 8, light has 8"
    assert said in capsys.readouterr().err.splitlines()


def test_a_quality_of_almost_nothing_is_not_shown_as_nothing() -> None:
    assert table_of([LabelIssue(7, None, "cat", "dog", 0.0004)]).rows[0][3] == "<0.001"


A, B, COPY = Item(b"1", "cat", "cat/a"), Item(b"2", "dog", "dog/b"), Item(b"1", "cat", "cat/copy")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ([COPY, B, A], None),
        ([A, B, Item(b"1", "dog", "dog/copy")], (False, "1 of 3 labels differs (cat/copy is now")),
        ([A, COPY, Item(b"2", "dog", "dog/c")], (False, "1 of 3 files has another name (dog/b is")),
        ([A, B], (True, "1 of 3 gone")),
        ([A, B, COPY, COPY], (True, "1 new")),
        ([A, B, Item(b"3", "cat", "cat/copy")], (True, "1 new, 1 of 3 gone")),
    ],
)
def test_images_are_told_by_their_pixels_in_any_order(
    now: list[Item], expected: tuple[bool, str] | None
) -> None:
    found = compare([A, B, COPY], now)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert found.images is expected[0]
    assert found.words.startswith(expected[1])


@pytest.mark.slow
def test_an_extended_run_is_still_the_one_of_its_source(few: Path, capsys: Captured) -> None:
    draw(few / "photos/dark/99.png", light=False, rng=np.random.default_rng(9))
    cli.main(["extend", "runs/photos", "--quiet"])
    capsys.readouterr()
    found = audit(capsys, "photos")
    assert (found["run"], found["result"]["labels"]["images"]) == ("runs/photos", 17)


def test_classes_without_images_are_said(tmp_path: Path, capsys: Captured) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 2 + 1
    rows = rng.normal(size=(30, 4)) + labels[:, None]
    np.savez(tmp_path / "set.npz", x_train=rows, y_train=labels)
    cli.main(["audit", str(tmp_path / "set.npz"), "--run", str(tmp_path / "run")])
    note = "one class has no image and is never suggested: '0'"
    assert note in capsys.readouterr().err
    assert note.replace("'", "&#39;") in (tmp_path / "run/report.html").read_text()
    assert Run.open(tmp_path / "run").notes == (note,)


@pytest.mark.parametrize("source", ["./photos", "photos/../photos/", "$HERE/photos"])
def test_another_spelling_of_the_folder_reads_nothing_again(
    few: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("the source was read again")

    monkeypatch.setenv("HERE", str(few))
    monkeypatch.setattr("ntkdist.cli.audit.load_inputs", read)
    stored = Run.open("runs/photos").config
    data = dataclasses.replace(stored.data, source=recognise(source))
    settings = dataclasses.replace(stored, data=data)
    # the copy of the fixture has other times
    monkeypatch.setattr("ntkdist.cli.audit.stamp_of", lambda data: data.source)
    monkeypatch.setattr(Run, "attributes", lambda *_: {STAMP: "images:photos"})
    assert choose_run(settings, Terminal(), named=True).settings.run == "runs/photos"


def test_a_folder_is_audited_from_inside_twice(
    few: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(few / "photos")
    flags = ("--architecture", "fc-1", "--run", "runs/here")
    first = audit(capsys, ".", *flags)
    assert sorted(path.name for path in (few / "photos").iterdir()) == ["dark", "light", "runs"]
    again = audit(capsys, few / "photos", *flags)
    assert first["run"] == again["run"] == "runs/here"
