"""Runs whose kernel is averaged over flips: entries, predictions, resuming, extending, checking."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from ntkdist import Run, find_label_issues, kernel_matrix
from ntkdist.analyses.compare import compare_architectures
from ntkdist.analyses.predict import predict
from ntkdist.analyses.status import describe_status, read_status
from ntkdist.analyses.sweep import sweep
from ntkdist.api import execute
from ntkdist.cli.audit import run_name
from ntkdist.cli.main import main
from ntkdist.config import DataConfig, GramConfig, PredictConfig, RunConfig
from ntkdist.data import select
from ntkdist.errors import InputError
from ntkdist.gram.tiling import TileKey
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.cross import held_out
from ntkdist.pipeline.extend import extend
from ntkdist.pipeline.verify import verify_run
from ntkdist.planning.devices import Probe, TileProbe
from ntkdist.planning.plan import describe_plan, make_plan
from ntkdist.runs.inputs import fingerprint
from tests.tolerances import RTOL, assert_close

N, M = 60, 12
SHAPE = (5, 6, 1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An archive with 60 training images and 12 test images, the last six the first ones mirrored.

    The last training image is the first one mirrored.
    """
    rng = np.random.default_rng(0)
    y = np.arange(N + M) % 2
    means = rng.uniform(60, 200, size=(2, *SHAPE))
    x = np.clip(means[y] + rng.normal(0, 40, size=(N + M, *SHAPE)), 0, 255).astype(np.uint8)
    x[N + M // 2 :] = x[N : N + M // 2, :, ::-1]
    x[N - 1] = x[0, :, ::-1]
    path = tmp_path_factory.mktemp("images") / "two.npz"
    np.savez(path, x_train=x[:N], y_train=y[:N], x_test=x[N:], y_test=y[N:])
    return f"npz:{path}"


def settings(place: Path | str, source: str, **gram: object) -> RunConfig:
    how = {"executor": "inline", "tile": 16, "invariance": "flip", "kinds": ("ntk", "nngp")}
    return RunConfig(
        run=str(place),
        architecture="cnn-2",
        data=DataConfig(source=source, n=N),
        gram=GramConfig(**{**how, **gram}),
        predict=PredictConfig(on="test", ridge=1e-3),
    )


def by_hand(x: np.ndarray, y: np.ndarray, kind: str) -> np.ndarray:
    """Return the float64 mean over flips of the second images by the reference."""
    how = {"kind": kind, "backend": "reference", "dtype": "float64"}
    return (
        kernel_matrix("cnn-2", x, y, **how) + kernel_matrix("cnn-2", x, y[:, :, ::-1], **how)
    ) / 2


@pytest.fixture(scope="module")
def finished(source: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = settings(tmp_path_factory.mktemp("runs") / "run", source)
    with Pipeline(config) as pipeline:
        execute(pipeline, ("gram", "factor", "labels"))
        predict(pipeline)
    return pipeline.run


def test_the_matrices_are_averages_and_an_image_is_its_mirror_image(finished: Run) -> None:
    images = finished.read("inputs", "images")
    with Pipeline(finished.config) as pipeline:
        for kind in ("ntk", "nngp"):
            gram = np.asarray(pipeline.gram_store(kind)[:, :])
            assert_close(gram, by_hand(images, images, kind), RTOL["float32"])
            assert (gram == gram.T).all()
            assert gram[0, N - 1] == gram[0, 0] == gram[N - 1, N - 1]
            how = {"kind": kind, "backend": "cpu", "invariance": "flip"}
            assert (gram == kernel_matrix("cnn-2", images, **how)).all()
            assert (held_out(pipeline).diagonal(kind) > 0).all()


def test_predictions_behind_whitening_are_equal_to_the_bit_too(source: str, tmp_path: Path) -> None:
    plain = settings(tmp_path / "whitened", source, kinds=("ntk",))
    data = dataclasses.replace(plain.data, preprocess="contrast+zca")
    with Pipeline(dataclasses.replace(plain, data=data)) as pipeline:
        execute(pipeline, ("gram",))
        predict(pipeline)
        outputs = pipeline.run.read("cross", held_out(pipeline).name, "outputs")
    assert (outputs[: M // 2] == outputs[M // 2 :]).all()


def test_predictions_of_an_image_and_its_mirror_image_are_equal_to_the_bit(finished: Run) -> None:
    with Pipeline(finished.config) as pipeline:
        held = held_out(pipeline)
        outputs = pipeline.run.read("cross", held.name, "outputs")
        cross = np.asarray(held.cross()[:, :])
        for kind in ("ntk", "nngp"):
            own = held.diagonal(kind)
            assert (own[: M // 2] == own[M // 2 :]).all()
    assert len(outputs) == M
    assert len(np.unique(outputs)) == M // 2 * 2
    assert (outputs[: M // 2] == outputs[M // 2 :]).all()
    assert (cross[: M // 2] == cross[M // 2 :]).all()
    images = finished.read("inputs", "images")
    assert_close(cross, by_hand(held.images, images, "ntk"), RTOL["float32"])


def test_verify_compares_with_averages_of_the_reference(finished: Run) -> None:
    check = verify_run(finished, entries=4)
    assert not check.problems
    assert {one.kind for one in check.grams} == {"ntk", "nngp"}
    assert all(one.entries and one.reference_error < 2e-5 for one in check.grams)
    assert all(one.recomputed for one in check.grams)


def test_the_average_is_part_of_the_fingerprint_and_of_nothing_else(
    finished: Run, source: str
) -> None:
    images, config = finished.read("inputs", "images"), finished.config.gram
    arithmetic = finished.manifest.arithmetic
    assert arithmetic == "cpu-4"
    plain = dataclasses.replace(config, invariance="none")
    found = {fingerprint(images, finished.architecture, one, arithmetic) for one in (config, plain)}
    assert finished.fingerprint in found
    assert len(found) == 2
    # the text of runs of earlier versions
    head = [list(images.shape), "float32", str(finished.architecture), ["ntk", "nngp"], "float32",
            arithmetic]  # fmt: skip
    digest = hashlib.sha256(json.dumps(head).encode() + images.tobytes()).hexdigest()
    assert digest in found - {finished.fingerprint}


def test_another_average_is_refused_and_named(finished: Run, source: str) -> None:
    with pytest.raises(
        InputError, match=r"gram.invariance='flip', now gram.invariance='none' is asked"
    ):
        Run.create(settings(finished.url, source, invariance="none"))
    assert Run.create(settings(finished.url, source)).fingerprint == finished.fingerprint
    assert "--gram.invariance flip" in finished.repeat_command


def test_a_run_of_a_version_without_averages_is_resumed(source: str, tmp_path: Path) -> None:
    config = settings(tmp_path / "run", source, invariance="none")
    run = Run.create(config)
    metadata = tmp_path / "run/zarr.json"
    stored = json.loads(metadata.read_text())
    del stored["attributes"]["ntkdist"]["config"]["gram"]["invariance"]
    metadata.write_text(json.dumps(stored))
    assert Run.create(config).fingerprint == run.fingerprint
    with pytest.raises(
        InputError, match=r"gram.invariance='none', now gram.invariance='flip' is asked"
    ):
        Run.create(settings(tmp_path / "run", source))
    with Pipeline(config) as pipeline:
        pipeline.gram()
    assert not verify_run(pipeline.run).problems


def test_an_extended_run_is_the_larger_one(finished: Run, source: str, tmp_path: Path) -> None:
    config = settings(tmp_path / "run", source)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, n=40))
    with Pipeline(config) as pipeline:
        pipeline.gram()
        extend(pipeline, N)
        grown = np.asarray(pipeline.gram_store()[:, :])
    assert pipeline.run.fingerprint == finished.fingerprint
    with Pipeline(finished.config) as pipeline:
        assert (grown == np.asarray(pipeline.gram_store()[:, :])).all()


@pytest.mark.parametrize("tile", [7, 60, "auto"])
def test_tiles_do_not_change_a_bit(
    finished: Run, source: str, tmp_path: Path, tile: int | str
) -> None:
    with Pipeline(settings(tmp_path / "run", source, tile=tile, threads=2)) as pipeline:
        pipeline.gram()
        found = np.asarray(pipeline.gram_store("nngp")[:, :])
    with Pipeline(finished.config) as pipeline:
        assert (found == np.asarray(pipeline.gram_store("nngp")[:, :])).all()


@pytest.mark.slow
def test_workers_do_not_change_a_bit(finished: Run, source: str, tmp_path: Path) -> None:
    how = {"executor": "ray", "workers": 2, "tile": 9}
    with Pipeline(settings(tmp_path / "run", source, **how)) as pipeline:
        pipeline.gram()
        found = np.asarray(pipeline.gram_store()[:, :])
    with Pipeline(finished.config) as pipeline:
        assert (found == np.asarray(pipeline.gram_store()[:, :])).all()


def test_the_run_says_that_it_averages_and_what_that_costs(
    finished: Run, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "averaged over horizontal flips, 2 entries of the kernel for each"
    assert words in finished.manifest.reason
    assert words in describe_status(read_status(finished.url))
    assert "averaged over flips" in repr(finished)
    assert "averaged over flips" in finished._repr_html_()
    ragged = dataclasses.replace(
        settings(tmp_path / "new", source),
        architecture="[Conv(), Relu(), AvgPool(4), Flatten(), Dense()]",
    )
    plan = describe_plan(make_plan(ragged, seconds=0.2))
    assert "of both images, 4 entries of the kernel for each, because a layer treats left" in plan
    main(["doctor", finished.url, "--quick"])
    assert words in capsys.readouterr().out


def test_a_plan_measures_tiles_and_states_of_averages() -> None:
    images = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)
    sizes = {}
    for invariance in ("none", "flip"):
        measuring = TileProbe(
            Probe("cnn-2", "cpu", "float32", invariance, ("ntk",), 1, 4, 0), images
        )
        try:
            measuring.start()
            (tile,) = measuring._worker.blocks(TileKey(0, 1)).values()
            sizes[invariance] = measuring.measure().state_bytes
        finally:
            measuring.close()
        expected = kernel_matrix("cnn-2", images[:4], images[4:], backend="cpu",
                                 invariance=invariance)  # fmt: skip
        assert (tile == expected).all()
    assert sizes["flip"] == 2 * sizes["none"]


def test_features_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "f.npz", x_train=rng.normal(size=(20, 4)), y_train=np.arange(20) % 2)
    config = settings(tmp_path / "run", f"npz:{tmp_path / 'f.npz'}")
    config = dataclasses.replace(
        config, architecture="fc-2", data=dataclasses.replace(config.data, n=None)
    )
    with pytest.raises(InputError, match=r"gram.invariance=flip averages.*take gram.invar.*=none"):
        Run.create(config)
    with pytest.raises(InputError, match="features have no left and right"):
        find_label_issues(rng.normal(size=(20, 4)), np.arange(20) % 2, invariance="flip")


def test_label_issues_of_images_are_found_with_the_average(source: str) -> None:
    data = np.load(source.removeprefix("npz:"))
    x, y = data["x_train"], data["y_train"]
    plain, averaged = (
        find_label_issues(x, y, architecture="cnn-2", invariance=invariance)
        for invariance in ("none", "flip")
    )
    assert not np.allclose(plain["label_quality"], averaged["label_quality"])


def test_a_sweep_measures_averaged_kernels(finished: Run) -> None:
    with Pipeline(finished.config) as pipeline:
        own, wide = sweep(pipeline, over="b_std", values=("0", "0.1"), images=30).rows
    images, labels = finished.read("inputs", "images"), finished.read("inputs", "labels")
    assert own.value == "0"
    chosen = select(labels, 30, "balanced", 0)
    gram = kernel_matrix("cnn-2", images[chosen], invariance="flip")
    assert own.scale == pytest.approx(float(np.mean(np.diagonal(gram))), rel=1e-6)
    assert wide.scale > own.scale


@pytest.mark.slow
def test_averages_are_compared_with_the_others_and_kept_apart(source: str, tmp_path: Path) -> None:
    plain = settings(tmp_path / "set", source, invariance="none", kinds=("ntk",))
    with Pipeline(plain) as pipeline:
        pipeline.gram()
    compare_architectures(plain, ["fc-2"])
    averaged = settings(tmp_path / "set", source, kinds=("ntk",))
    found = compare_architectures(averaged, ["fc-2", "cnn-2"])
    assert {one.title for one in found} == {"fc-2", "cnn-2", "fc-2 (flip)", "cnn-2 (flip)"}
    folders = {one.title: Path(one.run).name for one in found}
    assert folders == {
        "fc-2": "fc-2", "cnn-2": "set", "fc-2 (flip)": "fc-2-flip", "cnn-2 (flip)": "cnn-2-flip",
    }  # fmt: skip
    for one in found:
        assert (Run.open(one.run).config.gram.invariance == "flip") == ("flip" in one.title)


def test_an_audit_of_averages_has_a_run_of_its_own() -> None:
    usual, flip = "cnn-2", GramConfig(invariance="flip")
    for architecture, gram, name in (
        ("cnn-2", GramConfig(), "runs/photos"),
        ("cnn-2", flip, "runs/photos-flip"),
        ("fc-2", flip, "runs/photos-fc-2-flip"),
        ("fc-2", GramConfig(), "runs/photos-fc-2"),
    ):
        config = RunConfig(architecture=architecture, gram=gram)
        assert run_name("photos", config, usual) == name
