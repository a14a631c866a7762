"""``ntkdist`` on features: the audit of a table, of images with features, and what is refused."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntkdist import Architecture, Run
from ntkdist.cli import main as cli
from ntkdist.data import load

NAMES = ("dark", "light")
WRONG = (4, 12, 24, 31, 57, 66, 75, 88, 101, 113)
FC2 = str(Architecture.parse("fc-2"))

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two sizes whose pixels say nothing, features that do, and a table of them."""
    folder = tmp_path_factory.mktemp("cli_features")
    rng = np.random.default_rng(0)
    for i in range(120):
        path = folder / f"photos/{NAMES[(i % 2) != (i in WRONG)]}/{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        side = 8 if i % 3 else 12
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(path)
    data = load(f"images:{folder}/photos", size="auto")
    true = np.array([int(Path(file).stem) % 2 for file in data.files])
    rows = 9 + 4 * rng.normal(size=(2, 30))[true] + rng.normal(size=(120, 30))
    np.save(folder / "emb.npy", rows.astype(np.float16))
    np.savez(folder / "table.npz", x_train=rows, y_train=data.labels, class_names=np.array(NAMES))
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: Captured, *tokens: Any) -> dict[str, Any]:
    with contextlib.suppress(SystemExit):
        cli.main([*map(str, tokens), "--json"])
    return json.loads(capsys.readouterr().out)


def suspicious(found: dict[str, Any], key: str) -> set[Any]:
    return {one[key] for one in found["result"]["suspicious"]}


@pytest.mark.slow
def test_images_of_several_sizes_are_audited_by_their_features(
    here: Path, capsys: Captured
) -> None:
    cli.main(["audit", "photos/", "--data.features", "emb.npy"])
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "10 of 120 labels look wrong:"
    assert lines[1].split() == ["file", "given", "suggested", "quality"]
    assert {line.split()[0] for line in lines[2:12]} == {
        f"{'dark' if i % 2 else 'light'}/{i:02d}.png" for i in WRONG
    }
    assert "inputs done in" in said.err
    assert ": 120 rows of 30 features" in said.err
    assert said.err.splitlines()[-1] == "next: ntkdist predict runs/photos-emb"
    made = Run.open("runs/photos-emb")
    assert str(made.architecture) == FC2
    assert made.array("inputs", "pictures").shape == (120, 32, 32, 1)
    assert made.config.data.features == "emb.npy"
    table = Path("runs/photos-emb/labels.csv").read_text()
    assert "light/04.png" in table
    assert Path("runs/photos-emb/report.html").read_text().count("<img") == 10


@pytest.mark.slow
def test_a_table_is_audited_without_pictures(here: Path, capsys: Captured) -> None:
    cli.main(["audit", "table.npz"])
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "10 of 120 labels look wrong:"
    assert lines[1].split() == ["row", "given", "suggested", "quality"]
    assert said.err.splitlines()[-1] == "next: ntkdist predict runs/table"
    made = Run.open("runs/table")
    assert str(made.architecture) == FC2
    assert made.config.data.size is None
    assert "<img" not in Path("runs/table/report.html").read_text()


@pytest.mark.slow
def test_another_network_or_none_of_the_features_has_a_run_of_its_own(
    here: Path, capsys: Captured
) -> None:
    found = run(capsys, "audit", "table.npz", "--architecture", "fc-1")
    assert found["run"] == "runs/table-fc-1"
    assert Run.open("runs/table-fc-1").architecture == Architecture.parse("fc-1")
    beside = run(capsys, "audit", "photos", "--data.features", "emb.npy")
    assert beside["run"] == "runs/photos-emb"
    plain = run(capsys, "audit", "photos", "--architecture", "fc-2")
    assert plain["run"] == "runs/photos-fc-2"
    assert not Run.open("runs/photos-fc-2").manifest.is_features


@pytest.mark.slow
def test_started_again_the_features_are_found_unchanged(here: Path, capsys: Captured) -> None:
    for tokens in (["table.npz"], ["photos", "--data.features", "emb.npy"]):
        first = run(capsys, "audit", *tokens)
        again = run(capsys, "audit", *tokens)
        assert again["run"] == first["run"]
        details = {one["stage"]: one["detail"] for one in again["result"]["stages"]}
        assert details["gram"].startswith("nothing to compute, ")
        assert details["labels"] == "as stored"
    # the same numbers in another type are the same features
    np.save("emb.npy", np.load("emb.npy").astype(np.float64))
    again = run(capsys, "audit", "photos", "--data.features", "emb.npy")
    assert again["ok"]
    assert again["run"] == "runs/photos-emb"


@pytest.mark.slow
def test_corrected_labels_of_the_same_features_are_no_new_images(
    here: Path, capsys: Captured
) -> None:
    run(capsys, "audit", "photos", "--data.features", "emb.npy")
    features = dict(zip(load("images:photos", size="auto").files, np.load("emb.npy"), strict=True))
    Path("photos/light/04.png").rename("photos/dark/04.png")
    features["dark/04.png"] = features.pop("light/04.png")
    files = load("images:photos", size="auto").files
    np.save("emb.npy", np.stack([features[file] for file in files]))
    cli.main(["audit", "photos", "--data.features", "emb.npy"])
    said = capsys.readouterr().err
    assert "1 of 120 labels differs (light/04.png is now dark)" in said
    archive = dict(np.load("table.npz"))
    run(capsys, "audit", "table.npz")
    archive["y_train"][7] ^= 1
    np.savez("table.npz", **archive)
    cli.main(["audit", "table.npz"])
    assert re.search(r"1 of 120 labels differs \(one of \w+ is now", capsys.readouterr().err)


@pytest.mark.slow
def test_changed_features_are_noticed_and_refused_with_what_to_do(
    here: Path, capsys: Captured
) -> None:
    run(capsys, "audit", "photos", "--data.features", "emb.npy")
    rows = np.load("emb.npy")
    rows[3, 2] += 1
    np.save("emb.npy", rows)
    found = run(capsys, "audit", "photos", "--data.features", "emb.npy")
    assert found["exit_code"] == 2
    said = found["error"]["message"]
    assert "images:photos with emb.npy: has changed since runs/photos-emb was made from it" in said
    assert "1 new, 1 of 120 gone" in said
    assert "ntkdist audit images:photos --data.features emb.npy --run runs/photos-emb-2" in said
    assert "ntkdist extend" not in said
    assert not Path("runs/photos-emb-2").exists()


@pytest.mark.slow
def test_the_more_careful_network_is_not_one_for_images(here: Path, capsys: Captured) -> None:
    for tokens in (["table.npz"], ["photos", "--data.features", "emb.npy"]):
        found = run(capsys, "audit", *tokens)
        assert found["next"] == [f"ntkdist predict {found['run']}"]


@pytest.mark.slow
def test_predictions_and_status_of_features(here: Path, capsys: Captured) -> None:
    run(capsys, "audit", "photos", "--data.features", "emb.npy")
    assert run(capsys, "status", "runs/photos-emb")["result"]["shape"] == [120, 30]
    found = run(capsys, "predict", "runs/photos-emb")
    assert found["result"]["how"] == "holdout"
    assert found["result"]["evaluation"]["accuracy"] > 0.7
    refused = run(capsys, "predict", "runs/photos-emb", "--predict.on", "test")
    assert refused["exit_code"] == 2
    assert (
        "holds no features of the test split; give --data.features_test FILE"
        in (refused["error"]["message"])
    )


@pytest.mark.slow
def test_networks_compared_on_features_are_checked_before_any_is_computed(
    here: Path, capsys: Captured
) -> None:
    run(capsys, "audit", "table.npz")
    found = run(capsys, "compare", "runs/table", "--architectures", "fc-1,cnn-2")
    assert found["exit_code"] == 2
    assert "Conv is a layer for images" in found["error"]["message"]
    assert [path.name for path in Path("runs").iterdir()] == ["table"]


def spoilt(kind: str) -> None:
    rows = np.load("emb.npy").astype(np.float64)
    if kind == "nan":
        rows[3, 4] = np.nan
    elif kind == "inf":
        rows[5, 0] = np.inf
    else:
        rows = {
            "short": rows[:119],
            "column": rows[:, :1],
            "flat": rows[:, 0],
            "complex": rows.astype(complex),
            "object": rows.astype(object),
            "equal": np.ones_like(rows),
        }[kind]
    np.save("bad.npy", rows, allow_pickle=True)


@pytest.mark.slow(but="object-holds Python objects, which are not read")
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nan", "features hold 1 NaN and 0 infinite values, the first in row 3, column 4"),
        ("inf", "features hold 0 NaN and 1 infinite values, the first in row 5, column 0"),
        ("short", "holds 119 rows of 30 features, but images:photos (train) has 120 images"),
        ("column", "features have 1 column; (N, D) is needed"),
        ("flat", "features have shape (120,); (N, D) is needed"),
        ("complex", "features have dtype complex128"),
        ("object", "holds Python objects, which are not read"),
        ("equal", "all 120 rows of features are equal"),
    ],
)
def test_bad_features_are_one_line_and_exit_code_2(
    here: Path, capsys: Captured, kind: str, said: str
) -> None:
    spoilt(kind)
    with pytest.raises(SystemExit) as ended:
        cli.main(["audit", "photos", "--data.features", "bad.npy"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ntkdist: ")
    assert said in line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (
            ["photos", "--data.features", "emp.npy"],
            "emp.npy does not exist; did you mean 'emb.npy'",
        ),
        (
            ["photos", "--data.features", "emb.npy", "--architecture", "cnn-2"],
            "Conv is a layer for",
        ),
        (["table.npz", "--architecture", "cntk-gap-4"], "Conv is a layer for images"),
        (["table.npz", "--data.features", "emb.npy"], "npz:table.npz holds features itself"),
        (["table.npz", "--data.size", "8"], "data.size=8x8 scales images, and the source holds"),
        (["table.npz", "--data.preprocess", "halve"], "features have none; leave halve away"),
        (["photos", "--data.features_test", "emb.npy"], "goes with data.features"),
        (["emb.npy"], "is an array without labels (features go beside their images: ntkdist audit"),
    ],
)
def test_what_does_not_go_with_features_is_refused(
    here: Path, capsys: Captured, tokens: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["audit", *tokens])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not Path("runs").exists()
