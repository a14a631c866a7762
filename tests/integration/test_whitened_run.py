"""Runs prepared with zca: the matrix is stored beside the inputs, and prepares all later images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from ntkdist import Run, kernel_matrix, labels_table
from ntkdist.analyses.predict import predict
from ntkdist.analyses.status import read_status
from ntkdist.api import execute
from ntkdist.cli.main import main
from ntkdist.config import DataConfig, GramConfig, PredictConfig, RunConfig
from ntkdist.data import Preprocessor, load
from ntkdist.errors import InputError, StoreError
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.cross import held_out
from ntkdist.pipeline.extend import extend
from ntkdist.pipeline.verify import verify_run
from ntkdist.planning.plan import describe_plan, make_plan
from ntkdist.runs import inputs
from ntkdist.runs.inputs import load_inputs
from ntkdist.runs.source_match import preprocessor_of

N, M, RECIPE = 70, 20, "contrast+zca=0.05"
SHAPE = (6, 5, 2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An archive with 70 training and 20 test images of three classes."""
    rng = np.random.default_rng(0)
    y = np.arange(N + M) % 3
    means = rng.uniform(60, 200, size=(3, *SHAPE))
    x = np.clip(means[y] + rng.normal(0, 25, size=(N + M, *SHAPE)), 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("images") / "three.npz"
    np.savez(path, x_train=x[:N], y_train=y[:N], x_test=x[N:], y_test=y[N:])
    return f"npz:{path}"


def settings(place: Path, source: str, n: int | None = 40, recipe: str = RECIPE) -> RunConfig:
    return RunConfig(
        run=str(place),
        architecture="fc-2",
        data=DataConfig(source=source, n=n, preprocess=recipe),
        gram=GramConfig(executor="inline", tile=16),
        predict=PredictConfig(on="test"),
    )


def expected_images(source: str, split: str) -> np.ndarray:
    fitted = Preprocessor.fit(load(source).images, RECIPE)
    return fitted.apply(load(source, split).images)


def test_the_run_stores_the_matrix_and_later_images_are_prepared_with_it(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path / "run", source)
    with Pipeline(config) as pipeline:
        execute(pipeline, ("gram", "factor", "labels"))
    run = Run.open(config.run)
    train, test = expected_images(source, "train"), expected_images(source, "test")
    np.testing.assert_array_equal(run.read("inputs", "images"), train[:40])
    # not in the attributes, which every look at the images reads
    assert len((tmp_path / "run/inputs/images/zarr.json").read_text()) < 4000
    matrix = zarr.open_array(tmp_path / "run/inputs/zca_matrix", mode="r")
    assert (matrix.shape, matrix.dtype) == ((60, 60), np.float64)
    assert "crc32c" in (tmp_path / "run/inputs/zca_matrix/zarr.json").read_text()
    # from here on statistics are read, and not measured again
    monkeypatch.setattr(Preprocessor, "fit", None)
    with Pipeline(Run.open(config.run).config) as pipeline:
        held = held_out(pipeline)
        np.testing.assert_array_equal(held.images, test)
        np.testing.assert_allclose(
            held.cross()[:, :], kernel_matrix("fc-2", test, train[:40]), rtol=1e-5
        )
        predict(pipeline)
        extended = extend(pipeline, N)
    assert (extended.before, extended.after) == (40, N)
    run = Run.open(config.run)
    np.testing.assert_array_equal(run.read("inputs", "images"), train)
    monkeypatch.undo()
    fresh = settings(tmp_path / "fresh", source, N)
    with Pipeline(fresh) as pipeline:
        execute(pipeline, ("gram", "factor", "labels"))
    assert Run.open(fresh.run).fingerprint == run.fingerprint
    with Pipeline(Run.open(config.run).config) as pipeline:
        execute(pipeline, ("gram", "factor", "labels"))
        predict(pipeline)
    assert not verify_run(Run.open(config.run)).problems
    assert read_status(config.run) is not None
    assert len(labels_table(Run.open(config.run))) == N


def test_the_rest_of_the_split_is_found_by_the_bits_of_its_images(
    source: str, tmp_path: Path
) -> None:
    config = dataclasses.replace(settings(tmp_path / "run", source), predict=PredictConfig("rest"))
    with Pipeline(config) as pipeline:
        held = held_out(pipeline)
    np.testing.assert_array_equal(held.indices, np.arange(40, N))
    np.testing.assert_array_equal(held.images, expected_images(source, "train")[40:])


def test_the_regularisation_is_a_setting_of_the_run(source: str, tmp_path: Path) -> None:
    config = settings(tmp_path / "run", source, recipe="zca")
    run = Run.create(config)
    assert Run.open(config.run).config.data.preprocess == "zca=0.1"
    assert Run.create(settings(tmp_path / "run", source, recipe="zca=1e-1")).url == run.url
    with pytest.raises(InputError, match=r"data.preprocess='zca=0.1', now .*'zca=0.2' is asked"):
        Run.create(settings(tmp_path / "run", source, recipe="zca=0.2"))
    assert "--data.preprocess zca=0.1" in run.repeat_command


def test_damage_to_the_matrix_is_found_and_named(source: str, tmp_path: Path) -> None:
    with Pipeline(settings(tmp_path / "run", source)) as pipeline:
        pipeline.gram()
    run = pipeline.run
    assert not verify_run(run).problems
    (chunk,) = (
        path for path in (tmp_path / "run/inputs/zca_matrix/c").rglob("*") if path.is_file()
    )
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    assert "zca_matrix" in verify_run(run).problems[0]
    assert "checksum is wrong" in verify_run(run).problems[0]
    with pytest.raises(StoreError, match=r"zca_matrix.*checksum is wrong.*restore it from a copy"):
        preprocessor_of(run)
    chunk.unlink()
    with pytest.raises(StoreError, match=r"zca_matrix/c/0/0: .* is missing; restore it"):
        preprocessor_of(run)
    (tmp_path / "run/inputs/zca_matrix/zarr.json").unlink()
    with pytest.raises(StoreError, match="zca_matrix: is missing; restore it from a copy"):
        preprocessor_of(run)
    assert any("zca_matrix" in problem for problem in verify_run(run).problems)


def test_killed_between_the_arrays_it_is_made_again(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    config = settings(tmp_path / "run", source)
    whole = Run.create(settings(tmp_path / "whole", source))
    names = [Path(name).name for name in whole.array_names("inputs")]
    assert {"images", "labels", "zca_mean", "zca_matrix"} <= set(names)
    write = inputs.write_array
    for count in range(len(names)):
        written: list[str] = []

        def until(address: str, *rest: object) -> None:
            if len(written) == count:  # noqa: B023
                raise Killed
            written.append(address)  # noqa: B023
            write(address, *rest)

        monkeypatch.setattr(inputs, "write_array", until)
        with pytest.raises(Killed):
            Run.create(config)
        with pytest.raises(InputError, match="no run here"):
            Run.open(config.run)
    monkeypatch.setattr(inputs, "write_array", write)
    run = Run.create(config)
    assert run.fingerprint == whole.fingerprint
    assert preprocessor_of(run) == preprocessor_of(whole)


def test_runs_without_it_store_what_they_did(source: str, tmp_path: Path) -> None:
    run = Run.create(settings(tmp_path / "run", source, recipe="contrast+standardize"))
    assert set(run.stored_names("inputs")) == {"images", "labels", "pictures"}
    stored = run.attributes("inputs", "images")["preprocess"]
    assert set(stored) == {"recipe", "channels", "steps", "divisor", "range"}
    assert Preprocessor.from_dict(stored) == preprocessor_of(run)


def test_statistics_of_another_order_are_replaced_by_the_stored_ones(
    source: str, tmp_path: Path
) -> None:
    run = Run.create(settings(tmp_path / "run", source, None))
    stored = preprocessor_of(run)
    data = load(source)
    order = np.random.default_rng(1).permutation(N)
    np.savez(tmp_path / "other.npz", x_train=data.images[order], y_train=data.labels[order])
    again = load_inputs(
        settings(tmp_path / "again", f"npz:{tmp_path / 'other.npz'}", None), prepared_as=stored
    )
    assert again.preprocess == stored
    np.testing.assert_array_equal(again.images, run.read("inputs", "images")[order])


def test_features_are_whitened_as_images_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(80) % 3
    x = (rng.normal(size=(3, 12))[y] + rng.normal(size=(80, 12))).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    config = settings(tmp_path / "run", f"npz:{tmp_path / 'rows.npz'}", 30, "zca+unit-norm")
    with Pipeline(config) as pipeline:
        execute(pipeline, ("gram",))
        held = held_out(pipeline)
        extend(pipeline, 60)
    fitted = Preprocessor.fit(x[:60], "zca+unit-norm")
    np.testing.assert_array_equal(held.images[:, 0, 0], fitted.apply(x[60:]))
    run = Run.open(config.run)
    np.testing.assert_array_equal(run.read("inputs", "images")[:, 0, 0], fitted.apply(x[:60]))
    assert not verify_run(run).problems


@pytest.mark.slow
def test_the_plan_counts_the_matrix(source: str, tmp_path: Path) -> None:
    sizes = {}
    for recipe in ("contrast", "zca"):
        config = settings(tmp_path / recipe, source, recipe=recipe)
        plan = make_plan(config, workers=[1], seconds=0.5)
        sizes[recipe] = plan.store_bytes["inputs"]
        assert ("zca takes about" in describe_plan(plan)) == (recipe == "zca")
        Run.create(config)
        assert make_plan(config, workers=[1], seconds=0.5).store_bytes["inputs"] == sizes[recipe]
    assert sizes["zca"] - sizes["contrast"] == 8 * (60 * 60 + 60)


def test_the_command_line_takes_it(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(
        f"run: {tmp_path / 'run'}\narchitecture: fc-2\n"
        f"data:\n  source: {source}\n  preprocess: contrast+zca=0.05\n"
        "gram:\n  executor: inline\n"
    )
    for line in (
        f"gram {tmp_path / 'run.yaml'}",
        f"gram {tmp_path / 'run'} --data.preprocess contrast+zca=5e-2",
    ):
        main([*line.split(), "--json"])
        assert json.loads(capsys.readouterr().out)["ok"]
    with pytest.raises(SystemExit) as exit:
        main(["gram", str(tmp_path / "run.yaml"), "--data.preprocess", "zca=0"])
    assert exit.value.code == 2
    assert "ε must be a number from 1e-06" in capsys.readouterr().err
