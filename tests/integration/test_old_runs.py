"""Runs stored by an earlier version: opened, read, verified, resumed and refused as before.

``tests/data/old_runs.tar.xz`` holds two runs with cntk-gap-3, both kernels and backend cpu:

- ``finished``: 48 of the digits 0, 4 and 6 in tiles of edge 16 with 10 % of the labels replaced;
  gram, factor, labels; extended to 64 images; labels again; then predict (test), dynamics, sweep,
  label-aware, lookahead and widths. Its source is ``digits046.npz`` beside it.
- ``unfinished``: 40 digits in tiles of edge 10, interrupted by SIGINT after 7 of 10 tiles.

``hashes.json`` has the SHA-256 of the values of every array, ``resumed.npz`` the Gram matrices of
``unfinished`` when that version had resumed it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from ntkdist import Run, labels_table, open_gram
from ntkdist.cli.main import main
from tests.tolerances import RTOL, assert_close

ARCHIVE = Path(__file__).parents[1] / "data" / "old_runs.tar.xz"
KINDS = ("ntk", "nngp")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def folder(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the archive's files, as the current folder."""
    copy = Path(shutil.copytree(archive, tmp_path / "runs"))
    monkeypatch.chdir(copy)
    return copy


def command(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """Run a command with ``--json``; return its exit code and what it printed."""
    code: Any = 0
    try:
        main([*line.split(), "--json"])
    except SystemExit as exit:
        code = exit.code or 0
    return code, json.loads(capsys.readouterr().out)


def hashes(run: Path) -> dict[str, str]:
    found = {}
    for metadata in run.rglob("zarr.json"):
        if json.loads(metadata.read_text())["node_type"] == "array":
            values = np.asarray(zarr.open_array(metadata.parent, mode="r")[...])
            name = metadata.parent.relative_to(run).as_posix()
            found[name] = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return found


@pytest.mark.parametrize("name", ["finished", "unfinished"])
def test_every_array_is_read_to_the_bit(folder: Path, name: str) -> None:
    assert hashes(folder / name) == json.loads((folder / "hashes.json").read_text())[name]


def test_a_finished_run_is_opened(folder: Path) -> None:
    run = Run.open(folder / "finished")
    assert run.fingerprint == "efe44d5209b05abde4b8c2977431c60efd61c5d708ff7ac701baa153bd3bb6e0"
    assert run.config.data.n == 64
    gram = open_gram(run, "nngp")
    assert np.isfinite(gram[:, :]).all()
    np.testing.assert_array_equal(gram[5:20, 40:], gram[40:, 5:20].T)
    table = labels_table(run)
    assert table.loc[table["is_label_issue"], "index"].tolist() == [28]
    assert (table["given_label"].iloc[0], table["suggested_label"].iloc[0]) == (0, 2)


def test_status_of_a_finished_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = command("status finished", capsys)
    assert (code, found["next"]) == (0, ["ntkdist report finished"])
    result = found["result"]
    assert [(g["kind"], g["done"], g["total"], g["edge"]) for g in result["gram"]] == [
        ("ntk", 10, 10, 16),
        ("nngp", 10, 10, 16),
    ]
    assert (result["factored"], result["finished"], result["extended"]) == (
        True,
        True,
        "from 48 images",
    )
    assert result["labels"]["reliability"]["verdict"] == "weak"
    assert result["results"] == [
        "predict",
        "dynamics",
        "widths",
        "sweep",
        "label-aware",
        "lookahead",
    ]
    assert list(result["activity"]["stages"])[:5] == [
        "inputs",
        "gram",
        "factor",
        "labels",
        "extend",
    ]


@pytest.mark.slow
def test_verify_finds_nothing_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # tiles computed again have the same bits on the same kind of processor alone: none is
    code, found = command("verify finished --tiles 0 --entries 4", capsys)
    assert (code, found["error"]) == (0, None)


@pytest.mark.slow
def test_the_report_shows_every_result(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("report finished", capsys)[0] == 0
    page = (folder / "finished" / "report.html").read_text(encoding="utf-8")
    for name in ("predict", "dynamics", "widths", "sweep", "label-aware", "lookahead"):
        assert f"ntkdist {name}" in page or f'id="{name}' in page, name


@pytest.mark.slow
def test_labels_are_found_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "finished"
    before = {
        name: zarr.open_array(run / "labels" / name, mode="r")[...]
        for name in ("refurbished", "suggested_label", "is_label_issue", "pred_probs")
    }
    for name in ("labels", "noise"):  # from the stored factor
        shutil.rmtree(run / name)
    assert command("labels finished", capsys)[0] == 0
    after = {name: zarr.open_array(run / "labels" / name, mode="r")[...] for name in before}
    np.testing.assert_allclose(after.pop("pred_probs"), before.pop("pred_probs"), atol=1e-5)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)


def test_an_unfinished_gram_is_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = command("status unfinished", capsys)
    assert (code, found["next"]) == (0, ["ntkdist run unfinished"])
    kept = {k: zarr.open_array(folder / "unfinished/gram" / k, mode="r")[...] for k in KINDS}
    code, found = command("gram unfinished", capsys)
    assert (code, found["next"]) == (0, ["ntkdist factor unfinished"])
    assert [(gram["done"], gram["total"]) for gram in found["result"]["gram"]] == [(10, 10)] * 2
    assert "3 tiles computed" in (folder / "unfinished/events.jsonl").read_text()
    with np.load(folder / "resumed.npz") as resumed:
        for kind in KINDS:
            values = zarr.open_array(folder / "unfinished/gram" / kind, mode="r")[...]
            old = np.isfinite(kept[kind])
            np.testing.assert_array_equal(values[old], kept[kind][old])
            stored = np.isfinite(resumed[kind])
            np.testing.assert_array_equal(np.isfinite(values), stored)
            assert_close(values[stored], resumed[kind][stored], 2 * RTOL["float32"])


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("gram unfinished --architecture fc-2", "architecture='cntk-gap-3'"),
        ("gram unfinished --data.n 30", "data.n=40"),
        ("gram unfinished --data.preprocess none", "data.preprocess='standardize'"),
        ("gram unfinished --gram.dtype float64", "gram.dtype='float32'"),
        ("run finished --noise.rate 0.3", "noise.rate=0.1"),
    ],
)
def test_another_configuration_is_refused_with_the_field(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, field: str
) -> None:
    code, found = command(line, capsys)
    assert code == 2
    assert field in found["error"]["message"]
    assert line.split()[-2].removeprefix("--") + "=" in found["error"]["message"]
