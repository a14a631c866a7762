"""``ntkdist audit`` on corrected labels: the Gram and the factor of the run before are taken."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntkdist import Run, storage
from ntkdist.cli import main as cli
from ntkdist.cli.audit import Item, places_in
from ntkdist.data import preprocess, readers
from ntkdist.events.log import read_events
from ntkdist.gram.store import GramStore

NAMES = ("dark", "light")
COUNT = 60
FLAGS = ("--gram.tile", "10", "--gram.kinds", "ntk,nngp", "--data.size", "8")
TILES = 21

Captured = pytest.CaptureFixture[str]


def draw(path: Path, *, light: bool, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    low = 130 if light else 0
    Image.fromarray(rng.integers(low, low + 120, (8, 8), dtype=np.uint8)).save(path)


def write_table(labels: dict[str, str]) -> None:
    lines = [f"{file},{label}" for file, label in labels.items()]
    Path("list.csv").write_text("\n".join(["file,label", *lines]) + "\n")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images in class folders, a table of them, and the run of the table's audit."""
    folder = tmp_path_factory.mktemp("corrected")
    rng = np.random.default_rng(3)
    for i in range(COUNT):
        draw(folder / f"photos/{NAMES[i % 2]}/{i:02d}.png", light=i % 2 == 1, rng=rng)
    with contextlib.chdir(folder):
        files = sorted(Path("photos").rglob("*.png"), key=lambda path: path.name)
        write_table({str(file): file.parent.name for file in files})
        cli.main(["audit", "list.csv", *FLAGS, "--quiet"])
    return folder


@pytest.fixture
def here(audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Path:
    """A copy of that folder, which is the current one."""
    shutil.copytree(audited, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    return tmp_path


def correct(*numbers: int) -> None:
    """Give images of the table another label."""
    lines = Path("list.csv").read_text().splitlines()
    for i in numbers:
        file, _, label = lines[i + 1].partition(",")
        lines[i + 1] = f"{file},{NAMES[label == 'dark']}"
    Path("list.csv").write_text("\n".join(lines) + "\n")


def audit(capsys: Captured, *tokens: Any, source: str = "list.csv") -> dict[str, Any]:
    cli.main(["audit", source, *FLAGS, *map(str, tokens), "--json"])
    found = capsys.readouterr()
    return {**json.loads(found.out), "said": found.err}


def computed(url: str) -> list[str]:
    """Return what was computed of the Gram and the factor of a run, by the names of events."""
    names = ("TileDone", "PanelDone", "InverseBlockDone")
    events = [one for one in read_events(url) if one["event"] in names]
    return [one["event"] for one in events if not one.get("resumed")]


def chunks(url: str) -> dict[str, bytes]:
    found = {}
    for room in ("gram", "factor"):
        for name, content in storage.read_all(f"{url}/{room}").items():
            if "/c/" in name:
                found[f"{room}/{name}"] = content
    return found


@pytest.mark.slow
def test_only_the_label_stage_runs_and_finds_what_a_fresh_audit_finds(
    here: Path, capsys: Captured
) -> None:
    correct(4, 7)
    found = audit(capsys)
    assert found["run"] == "runs/list-2"
    assert found["result"]["gram_from"] == "runs/list"
    words = f"the Gram of runs/list is reused: {TILES} of {TILES} tiles; the factor too"
    assert words in found["said"].splitlines()
    assert computed("runs/list-2") == []
    assert chunks("runs/list-2") == chunks("runs/list")
    fresh = audit(capsys, "--run", "fresh")
    assert fresh["result"]["gram_from"] is None
    assert "TileDone" in computed("fresh")
    assert Path("fresh/labels.csv").read_bytes() == Path("runs/list-2/labels.csv").read_bytes()


@pytest.mark.slow
def test_the_run_is_as_any_other_and_outlives_the_old_one(here: Path, capsys: Captured) -> None:
    correct(4)
    audit(capsys)
    linked = [path for path in Path("runs/list-2/gram").rglob("c/*/*") if path.stat().st_nlink > 1]
    assert len(linked) == 2 * TILES
    cli.main(["gram", "runs/list-2", "--recompute", "r0000c0001", "--quiet"])
    assert chunks("runs/list-2") == chunks("runs/list")
    shutil.rmtree("runs/list")
    capsys.readouterr()
    cli.main(["verify", "runs/list-2", "--quiet"])
    said = capsys.readouterr().out
    assert f"{TILES} of {TILES} tiles right (0 without a digest" in said
    assert "nothing is wrong" in said
    cli.main(["status", "runs/list-2", "--json"])
    assert json.loads(capsys.readouterr().out)["result"]["finished"]
    cli.main(["plan", "runs/list-2", "--seconds", "0.2"])
    assert f"0 of {TILES} to compute" in capsys.readouterr().out
    again = audit(capsys, "--run", "runs/list-2")
    assert again["result"]["gram_from"] == "runs/list"
    draw(here / "photos/new.png", light=True, rng=np.random.default_rng(9))
    with Path("list.csv").open("a") as table:
        table.write("photos/new.png,light\n")
    cli.main(["extend", "runs/list-2", "--quiet"])
    assert Run.open("runs/list-2").shape[0] == COUNT + 1
    capsys.readouterr()
    cli.main(["verify", "runs/list-2", "--quiet"])
    assert "nothing is wrong" in capsys.readouterr().out


@pytest.mark.slow
def test_images_that_move_to_another_folder_keep_their_places(here: Path, capsys: Captured) -> None:
    audit(capsys, source="photos")
    Path("photos/dark/04.png").rename("photos/light/04.png")
    found = audit(capsys, source="photos")
    assert found["result"]["gram_from"] == "runs/photos"
    assert computed("runs/photos-2") == []
    old, new = Run.open("runs/photos"), Run.open("runs/photos-2")
    moved = old.files().index("dark/04.png")
    assert new.files()[moved] == "light/04.png"
    differ = np.flatnonzero(old.read("inputs", "labels") != new.read("inputs", "labels"))
    assert differ.tolist() == [moved]
    assert [a for a, b in zip(old.files(), new.files(), strict=True) if a != b] == ["dark/04.png"]
    for name in ("images", "pictures"):
        np.testing.assert_array_equal(old.read("inputs", name), new.read("inputs", name))
    assert np.argmin(new.read("labels", "label_quality")) == moved
    # a third one takes it from either, and the first is found again
    Path("photos/dark/06.png").rename("photos/light/06.png")
    assert audit(capsys, source="photos")["run"] == "runs/photos-3"
    assert computed("runs/photos-3") == []
    Path("photos/light/04.png").rename("photos/dark/04.png")
    Path("photos/light/06.png").rename("photos/dark/06.png")
    assert audit(capsys, source="photos")["run"] == "runs/photos"


@pytest.mark.slow
def test_a_run_that_was_named_takes_from_the_one_it_follows(here: Path, capsys: Captured) -> None:
    audit(capsys, "--run", "mine")
    correct(4)
    found = audit(capsys, "--run", "mine-2")
    assert found["result"]["gram_from"] == "mine"
    assert computed("mine-2") == []
    assert audit(capsys, "--run", "other-2")["result"]["gram_from"] is None
    assert audit(capsys, "--run", "mine-3", "--architecture", "fc-1")["result"]["gram_from"] is None


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that decode images, as they come."""
    calls: list[Any] = []
    read = readers.load

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return read(*args, **kwargs)

    monkeypatch.setattr("ntkdist.data.load", counted)
    return calls


@pytest.mark.slow
def test_images_are_decoded_once_where_labels_were_corrected(
    here: Path, capsys: Captured, reads: list[Any]
) -> None:
    correct(4)
    audit(capsys)
    assert len(reads) == 1


@pytest.mark.slow
def test_nothing_is_decoded_where_the_files_are_those_of_the_run(
    here: Path, capsys: Captured, reads: list[Any]
) -> None:
    assert audit(capsys)["run"] == "runs/list"
    assert not reads
    correct(4)
    assert audit(capsys)["run"] == "runs/list-2"
    reads.clear()
    assert audit(capsys)["run"] == "runs/list-2"  # the later run has the files' stamp
    assert not reads
    picture = next(Path("photos").rglob("*.png"))
    os.utime(picture, ns=(0, 0))  # another time, the same pixels
    assert audit(capsys)["run"] == "runs/list-2"
    assert len(reads) == 1


def spoil(address: str, place: int = 50) -> None:
    content = bytearray(storage.read_bytes(address) or b"")
    content[place] ^= 1
    storage.write_bytes(address, bytes(content))


@pytest.mark.slow
def test_a_damaged_tile_is_computed_again_and_so_is_the_factor(
    here: Path, capsys: Captured
) -> None:
    correct(4)
    right = chunks("runs/list")
    spoil("runs/list/gram/nngp/c/1/2")
    found = audit(capsys)
    words = "20 of 21 tiles; tile r0001c0002 is damaged there and computed again"
    assert words in found["said"]
    assert found["result"]["gram_from"] == "runs/list"
    assert computed("runs/list-2").count("TileDone") == 1
    assert "PanelDone" in computed("runs/list-2")
    assert chunks("runs/list-2") == right


@pytest.mark.slow
def test_a_damaged_factor_is_computed_again(here: Path, capsys: Captured) -> None:
    correct(4)
    right = chunks("runs/list")
    spoil("runs/list/factor/ntk/ridge-0.001/lower/c/0/0")
    found = audit(capsys)
    assert "21 of 21 tiles; the factor ntk/ridge-0.001 is not taken: panel 0" in found["said"]
    assert set(computed("runs/list-2")) >= {"PanelDone"}
    assert "TileDone" not in computed("runs/list-2")
    assert chunks("runs/list-2") == right


@pytest.mark.slow
def test_tiles_that_the_old_run_lacks_are_computed(here: Path, capsys: Captured) -> None:
    correct(4)
    right = chunks("runs/list")
    GramStore.open("runs/list/gram/ntk", "r+").remove(
        min(GramStore.open("runs/list/gram/ntk").done())
    )
    found = audit(capsys)
    assert "the Gram of runs/list is reused: 20 of 21 tiles\n" in found["said"]
    assert chunks("runs/list-2") == right


@pytest.mark.slow(but="41")
@pytest.mark.parametrize("after", [0, 5, 2 * TILES - 1, 2 * TILES + 1])
def test_a_kill_while_it_is_taken_leaves_a_run_that_goes_on(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    correct(4)
    right, copy, count = chunks("runs/list"), storage.copy, 0

    def killed(source: str, target: str) -> bool:
        nonlocal count
        if count == after:
            raise SystemExit(137)
        count += 1
        return copy(source, target)

    monkeypatch.setattr(storage, "copy", killed)
    with pytest.raises(SystemExit):
        cli.main(["audit", "list.csv", *FLAGS])
    monkeypatch.setattr(storage, "copy", copy)
    half = chunks("runs/list-2")
    assert len(half) == after
    assert half.items() <= right.items()
    capsys.readouterr()
    cli.main(["run", "runs/list-2"])
    assert f"is reused: {TILES} of {TILES} tiles; the factor too" in capsys.readouterr().err
    assert computed("runs/list-2") == []
    assert chunks("runs/list-2") == right
    assert audit(capsys)["result"]["gram_from"] == "runs/list"


@pytest.mark.slow
def test_what_a_kill_left_of_a_factor_goes_where_the_old_run_is_gone(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct(4)
    right, copy = chunks("runs/list"), storage.copy

    def killed(source: str, target: str) -> bool:
        if "/lower/" in source:
            raise SystemExit(137)
        return copy(source, target)

    monkeypatch.setattr(storage, "copy", killed)
    with pytest.raises(SystemExit):
        cli.main(["audit", "list.csv", *FLAGS])
    monkeypatch.setattr(storage, "copy", copy)
    shutil.rmtree("runs/list")
    left = "runs/list-2/factor/ntk/ridge-0.001"
    assert storage.list_objects(left)
    storage.write_text(f"{left}/lower/c/9/9", "of the old one's last panel")
    # of another cut than the factor that was being copied
    cli.main(["factor", "runs/list-2", "--factor.memory_limit", "1MB"])
    assert (
        "the Gram of runs/list is not reused: runs/list: there is no run" in capsys.readouterr().err
    )
    assert Run.open("runs/list-2").manifest.gram_from is None
    assert not storage.exists(f"{left}/lower/c/9/9")
    cli.main(["verify", "runs/list-2", "--quiet"])
    assert "nothing is wrong" in capsys.readouterr().out
    gram = {name for name in right if name.startswith("gram/")}
    assert gram <= set(chunks("runs/list-2"))


@pytest.mark.slow
def test_tiles_of_another_edge_are_not_taken(here: Path, capsys: Captured) -> None:
    correct(4)
    cli.main(["audit", "list.csv", *FLAGS[2:], "--gram.tile", "20", "--json"])
    said = capsys.readouterr()
    found = {**json.loads(said.out), "said": said.err}
    assert "is not reused: its tiles have edge 10, gram.tile=20 is set" in found["said"]
    assert found["result"]["gram_from"] is None
    assert GramStore.open("runs/list-2/gram/ntk").tiling.edge == 20


@pytest.mark.slow(but="another")
@pytest.mark.parametrize("change", ["added", "removed", "another"])
def test_other_images_take_nothing(here: Path, capsys: Captured, change: str) -> None:
    lines = Path("list.csv").read_text().splitlines()
    draw(here / "photos/new.png", light=True, rng=np.random.default_rng(9))
    if change != "removed":
        lines.append("photos/new.png,light")
    if change != "added":
        del lines[5]
    Path("list.csv").write_text("\n".join(lines) + "\n")
    found = audit(capsys, "--run", "runs/list-2")
    assert found["result"]["gram_from"] is None
    assert computed("runs/list-2").count("TileDone") == TILES + (7 if change == "added" else 0)


@pytest.mark.slow
def test_images_in_another_order_take_it_in_the_old_one(here: Path, capsys: Captured) -> None:
    lines = Path("list.csv").read_text().splitlines()
    Path("list.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    correct(4)
    found = audit(capsys)
    assert found["result"]["gram_from"] == "runs/list"
    assert Run.open("runs/list-2").files() == Run.open("runs/list").files()


@pytest.mark.slow
def test_statistics_that_another_order_rounds_otherwise_are_those_of_the_old_run(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = preprocess._measure

    def other(*args: Any) -> Any:
        step = measure(*args)
        return dataclasses.replace(step, shift=tuple(one + 1e-3 for one in step.shift))

    correct(4)
    monkeypatch.setattr(preprocess, "_measure", other)
    monkeypatch.setattr(preprocess.Preprocessor, "agrees", lambda *_: True)
    assert audit(capsys)["result"]["gram_from"] == "runs/list"
    monkeypatch.setattr(preprocess.Preprocessor, "agrees", lambda *_: False)
    correct(6)
    assert audit(capsys)["result"]["gram_from"] is None


A, B, COPY = Item(b"1", "cat", "cat/a"), Item(b"2", "dog", "dog/b"), Item(b"1", "cat", "cat/copy")


@pytest.mark.parametrize(
    ("now", "places"),
    [
        ([A, B, COPY], [0, 1, 2]),
        ([COPY, B, A], [2, 1, 0]),
        ([Item(b"1", "dog", "dog/a"), COPY, B], [0, 2, 1]),
        ([B, Item(b"1", "dog", "dog/x"), Item(b"1", "dog", "dog/y")], [1, 0, 2]),
        ([A, B], None),
        ([A, B, COPY, COPY], None),
        ([A, B, Item(b"3", "cat", "cat/copy")], None),
    ],
)
def test_images_are_paired_by_their_pixels(now: list[Item], places: list[int] | None) -> None:
    found = places_in([A, B, COPY], now)
    assert places == (None if found is None else found.tolist())
