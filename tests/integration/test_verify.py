"""Every kind of damage done to a run, found by ``verify`` and repaired by just those tiles."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from ntkdist.api import execute
from ntkdist.cli.main import main
from ntkdist.config import DataConfig, GramConfig, RunConfig
from ntkdist.errors import StoreError
from ntkdist.events.log import read_events
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.verify import verify_and_repair, verify_run
from ntkdist.runs.run import Run
from ntkdist.words import counted
from tests.faults.script import flip_byte

KEY, OTHER = TileKey(1, 2), TileKey(0, 3)
CONFIG = RunConfig(
    architecture="cntk-gap-3",
    data=DataConfig(n=60),
    gram=GramConfig(executor="inline", tile=15, threads=1, kinds=("ntk", "nngp")),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "run"
    with Pipeline(dataclasses.replace(CONFIG, run=str(folder))) as pipeline:
        execute(pipeline, ("gram", "factor"))  # with the diagonal, for the method posterior
        pipeline.factor("inverse")
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that differs in its images alone."""
    folder = tmp_path_factory.mktemp("foreign") / "run"
    data = DataConfig(n=60, subset="balanced", seed=5)
    with Pipeline(dataclasses.replace(CONFIG, run=str(folder), data=data)) as pipeline:
        execute(pipeline, ("gram",))
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def tile(run: Path, key: TileKey, kind: str = "ntk") -> Path:
    return run / "gram" / kind / "c" / str(key.row) / str(key.col)


def flip(run: Path, foreign: Path) -> None:
    flip_byte(str(run / "gram/ntk"), KEY)


def truncate(run: Path, foreign: Path) -> None:
    path = tile(run, KEY)
    path.write_bytes(path.read_bytes()[:-7])


def empty(run: Path, foreign: Path) -> None:
    tile(run, KEY).write_bytes(b"")


def remove(run: Path, foreign: Path) -> None:
    tile(run, KEY).unlink()


def swap(run: Path, foreign: Path) -> None:
    one, two = tile(run, KEY), tile(run, OTHER)
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def stale_tile(run: Path, foreign: Path) -> None:
    shutil.copy(tile(foreign, KEY), tile(run, KEY))


def stale_metadata(run: Path, foreign: Path) -> None:
    """The fingerprint of another run, and one tile of that run."""
    stale_tile(run, foreign)
    shutil.copy(foreign / "gram/ntk/zarr.json", run / "gram/ntk/zarr.json")


def skew(run: Path, foreign: Path) -> None:
    """A tile on the diagonal that is whole, of no other tile, and not symmetric."""
    array = zarr.open_array(run / "gram/ntk", mode="r+")
    block = array[15:30, 15:30]
    block[0, 1] *= 1.25
    array[15:30, 15:30] = block


DAMAGE: list[tuple[Callable[[Path, Path], None], set[TileKey], str]] = [
    (flip, {KEY}, "tile r0001c0002: "),
    (truncate, {KEY}, "tile r0001c0002: "),
    (empty, {KEY}, "1 of 10 tiles are missing: r0001c0002"),
    (remove, {KEY}, "1 of 10 tiles are missing: r0001c0002"),
    (swap, {KEY, OTHER}, "tile r0000c0003: its entries are not those that were stored for it"),
    (stale_tile, {KEY}, "tile r0001c0002: its entries are not those that were stored for it"),
    (stale_metadata, {KEY}, "its metadata have the fingerprint"),
    (skew, {TileKey(1, 1)}, "tile r0001c0001: it lies on the diagonal and is not symmetric"),
]


def computed(run: Path, since: int) -> list[str]:
    return [e["key"] for e in read_events(str(run))[since:] if e["event"] == "TileDone"]


@pytest.mark.slow(but="truncate")
@pytest.mark.parametrize(("damage", "bad", "said"), DAMAGE, ids=[d[0].__name__ for d in DAMAGE])
def test_damage_is_found_and_just_those_tiles_are_computed_again(
    run: Path, foreign: Path, whole: Path, damage: Callable[[Path, Path], None],
    bad: set[TileKey], said: str,
) -> None:  # fmt: skip
    damage(run, foreign)
    found = verify_run(Run.open(run), recompute=2, entries=2)
    assert any(said in text for text in found.problems), found.problems
    gram = next(check for check in found.grams if check.kind == "ntk")
    assert {one.key for one in gram.bad} | set(gram.missing) == bad
    assert not [p for p in found.problems if "nngp" in p]

    events = len(read_events(str(run)))
    config = dataclasses.replace(CONFIG, run=str(run))
    after, done = verify_and_repair(config, 2, 2, repair=True)
    assert after.problems == []
    assert set(computed(run, events)) == {str(key) for key in bad}
    assert len(computed(run, events)) == len(bad)
    assert f"{counted(len(bad), 'tile')} computed again" in "\n".join(done)
    for kind in ("ntk", "nngp"):
        np.testing.assert_array_equal(
            GramStore.open(str(run / "gram" / kind))[:, :],
            GramStore.open(str(whole / "gram" / kind))[:, :],
        )
    assert Run.open(run).fingerprint == GramStore.open(str(run / "gram/ntk")).fingerprint


@pytest.mark.slow
def test_undamaged_run_is_right_and_its_error_is_said(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    main_ok(["verify", str(run), "--tiles", "3", "--entries", "4"])
    said = capsys.readouterr().out
    assert "10 of 10 tiles right (0 without a digest probed, 3 computed again" in said
    assert "4 entries against the float64 reference: largest relative error" in said
    assert "nothing is wrong" in said
    found = verify_run(Run.open(run), recompute=0, entries=20)
    assert 0 < max(check.reference_error for check in found.grams) < 2e-5
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "arch",
    [
        "[Conv(), Erf(), Conv(), Erf(), GlobalAvgPool(), Dense()]",
        "[Conv(1), Relu(), GlobalAvgPool(), Dense()]",
        "[Conv(), GlobalAvgPool(), Dense()]",
    ],
)
def test_undamaged_run_of_a_cancelling_network_is_right(tmp_path: Path, arch: str) -> None:
    data = DataConfig(n=12)
    config = dataclasses.replace(CONFIG, run=str(tmp_path / "run"), architecture=arch, data=data)
    with Pipeline(config) as pipeline:
        execute(pipeline, ("gram",))
    found = verify_run(Run.open(tmp_path / "run"), recompute=0, entries=60)
    assert found.problems == []
    assert max(check.reference_error for check in found.grams) < 1e-6


def test_an_entry_that_is_zero_has_no_infinite_error(tmp_path: Path) -> None:
    """Images without a common pixel: 0 by the reference, a rounding error in float32."""
    x = np.zeros((12, 4, 6), np.float32)
    x[:6, :, :2], x[6:, :, 4:] = np.random.default_rng(0).uniform(size=(2, 6, 4, 2))
    np.savez(tmp_path / "apart.npz", x_train=x, y_train=np.arange(12) % 2)
    config = dataclasses.replace(
        CONFIG,
        run=str(tmp_path / "run"),
        architecture="[Conv(1), Relu(), Conv(1), Relu(), Flatten(), Dense()]",
        data=DataConfig(source=f"npz:{tmp_path}/apart.npz", preprocess="none"),
    )
    with Pipeline(config) as pipeline:
        execute(pipeline, ("gram",))
    assert verify_run(Run.open(tmp_path / "run"), recompute=0, entries=60).problems == []


def main_ok(tokens: list[str]) -> None:
    """Run a command that must not end with another exit code than 0."""
    main(tokens)


@pytest.mark.slow
def test_command_line_finds_repairs_and_has_exit_codes(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_byte(str(run / "gram/ntk"), KEY)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(run)])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "PROBLEM" in said.out
    assert f"repair with: ntkdist verify {run} --repair" in said.out
    assert said.err.splitlines()[-1] == f"ntkdist: 1 problem found in {run}"
    main_ok(["verify", str(run), "--repair"])
    assert "REPAIRED" in capsys.readouterr().out


@pytest.mark.slow
def test_wrong_computation_is_noticed(run: Path) -> None:
    """Entries that were wrong when they were stored: digests fit, arithmetic does not."""
    store = GramStore.open(str(run / "gram/ntk"), "r+")
    block = store.block(KEY.row, KEY.col) * np.float32(1.001)
    digest = store.write(KEY, block)
    with open(run / "gram/ntk/digests.jsonl", "a") as log:
        log.write(f"{KEY} {digest}\n")
    found = verify_run(Run.open(run), recompute=10, entries=0)
    assert [p for p in found.problems if "tile r0001c0002: computed again it differs by" in p]
    entries = verify_run(Run.open(run), recompute=0, entries=200)
    assert [p for p in entries.problems if "from the float64 reference (relative)" in p]


@pytest.mark.slow
def test_tiles_without_a_digest_are_probed(run: Path) -> None:
    (run / "gram/ntk/digests.jsonl").unlink()
    assert next(iter(verify_run(Run.open(run)).grams)).probed == 10
    swap(run, run)
    gram = next(iter(verify_run(Run.open(run)).grams))
    assert {one.key for one in gram.bad} == {KEY, OTHER}
    assert "entries computed again differ" in gram.bad[0].reason


def test_changed_images_are_found_and_cannot_be_repaired(run: Path) -> None:
    images = zarr.open_array(run / "inputs/images", mode="r+")
    images[3, 2, 2, 0] = 9.0
    found = verify_run(Run.open(run))
    assert "the stored images have fingerprint" in found.problems[0]
    with pytest.raises(StoreError, match="make the run anew"):
        verify_and_repair(dataclasses.replace(CONFIG, run=str(run)), 0, 0, repair=True)


@pytest.mark.slow(but="panel")
@pytest.mark.parametrize("part", ["panel", "inverse", "diagonal"])
def test_damaged_factor_is_found_and_dropped(run: Path, whole: Path, part: str) -> None:
    (ridge,) = (run / "factor/ntk").glob("ridge-*")
    places = {"panel": "lower/c", "inverse": "inverse/rows/c", "diagonal": "diagonal/diagonal/c"}
    folder = ridge / places[part]
    path = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    found = verify_run(Run.open(run), recompute=0, entries=0)
    assert len(found.problems) == 1
    assert str(ridge) in found.problems[0]
    config = dataclasses.replace(CONFIG, run=str(run))
    after, done = verify_and_repair(config, 0, 0, repair=True)
    assert after.problems == []
    assert "ntkdist factor" in done[-1]
    with Pipeline(config) as pipeline:
        if part == "diagonal":
            shutil.rmtree(ridge / "inverse")  # whose diagonal would be read instead
            assert pipeline.run.has("factor/ntk", ridge.name, "diagonal") is False
        pipeline.factor("diagonal" if part == "diagonal" else "inverse")
    names = ("lower", "diagonal/diagonal" if part == "diagonal" else "inverse/rows")
    same = [f"{ridge.relative_to(run)}/{name}" for name in names]
    for name in same:
        got, right = (zarr.open_array(f"{base}/{name}")[...] for base in (run, whole))
        np.testing.assert_array_equal(got, right)


@pytest.mark.slow
def test_a_diagonal_that_is_not_the_factors_is_found(run: Path) -> None:
    (ridge,) = (run / "factor/ntk").glob("ridge-*")
    diagonal = zarr.open_array(ridge / "diagonal/diagonal", mode="r+")
    diagonal[...] = diagonal[...] * 1.001
    (problem,) = verify_run(Run.open(run), recompute=0, entries=0).problems
    assert "diagonal of the inverse: an entry is 1.0e-03 (relative) from the factor's" in problem
    config = dataclasses.replace(CONFIG, run=str(run))
    after, done = verify_and_repair(config, 0, 0, repair=True)
    assert after.problems == []
    assert "diagonal dropped; ntkdist factor" in done[-1]
    assert (ridge / "inverse").exists()


def test_verifying_computes_nothing_that_is_missing(run: Path) -> None:
    (ridge,) = (run / "factor/ntk").glob("ridge-*")
    shutil.rmtree(ridge / "inverse/row_blocks")
    shutil.rmtree(ridge / "diagonal/column_blocks")
    before = {path: path.stat().st_mtime_ns for path in ridge.rglob("*")}
    assert verify_run(Run.open(run), recompute=0, entries=0).problems == []
    assert before == {path: path.stat().st_mtime_ns for path in ridge.rglob("*")}


@pytest.mark.slow
def test_factor_of_a_gram_that_was_bad_already_is_dropped(run: Path) -> None:
    """A tile changed before the factorisation: the factor is whole, and of another matrix."""
    shutil.rmtree(run / "factor")
    store = GramStore.open(str(run / "gram/ntk"), "r+")
    store.write(KEY, store.block(KEY.row, KEY.col) * np.float32(0.9999))
    config = dataclasses.replace(CONFIG, run=str(run))
    with Pipeline(config) as pipeline:
        execute(pipeline, ("factor",))
    after, done = verify_and_repair(config, 0, 0, repair=True)
    assert after.problems == []
    assert "is not of this Gram, dropped" in done[-1]


def test_store_of_another_shape_is_refused(run: Path) -> None:
    path = run / "gram/ntk/zarr.json"
    metadata = json.loads(path.read_text())
    metadata["shape"] = [50, 50]
    path.write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match=r"shape .50, 50. in tiles of edge 15, not .60, 60."):
        verify_run(Run.open(run))
