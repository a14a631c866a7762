"""Predictions of a run's kernel: which images, with which labels, resumed, and what is refused."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from ntkdist import kernel_matrix
from ntkdist.analyses.predict import describe_predictions, predict
from ntkdist.config import DataConfig, GramConfig, NoiseConfig, PredictConfig, RunConfig
from ntkdist.data import load
from ntkdist.errors import InputError, StageError
from ntkdist.events.log import read_events
from ntkdist.gram.executors.ray import RayExecutor
from ntkdist.kernels.cpu import CpuBackend
from ntkdist.learning import KernelRegression
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.cross import held_out

ARCH = "fc-2"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Write an npz file with a test split, and return its path."""
    digits = load("digits")
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(
        path,
        x_train=digits.images[:300],
        y_train=digits.labels[:300],
        x_test=digits.images[300:351],
        y_test=digits.labels[300:351],
    )
    return f"npz:{path}"


def settings(folder, source="digits", **changes):
    base = {
        "run": str(folder),
        "architecture": ARCH,
        "data": DataConfig(source=source, n=120),
        "gram": GramConfig(executor="inline", tile=50, kinds=("ntk", "nngp")),
    }
    return RunConfig(**{**base, **changes})


def computed(folder):
    return sum(event["event"] == "TileDone" for event in read_events(str(folder)))


@pytest.mark.slow(but="nngp")
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_the_test_split_is_predicted_as_in_memory(tmp_path, source, kind):
    wanted = PredictConfig(ridge=1e-3, kind=kind)
    with Pipeline(settings(tmp_path / "r", source, predict=wanted)) as pipeline:
        found = predict(pipeline)
        images = pipeline.run.read("inputs", "images")
        labels = pipeline.run.read("inputs", "labels")
        held = held_out(pipeline)
        outputs = pipeline.run.read("cross", held.name, "outputs")
    assert (found.how, found.images, found.trained_on) == ("test", 51, 120)
    H = kernel_matrix(ARCH, images, kind=kind)
    cross = kernel_matrix(ARCH, held.images, images, kind=kind)
    model = KernelRegression.fit(H, labels, 10, ridge=1e-3)
    np.testing.assert_allclose(outputs, model.predict(cross), rtol=1e-3, atol=2e-5)
    assert found.evaluation.accuracy == (outputs.argmax(axis=1) == held.labels).mean()
    assert found.evaluation.accuracy > 0.7


@pytest.mark.slow
def test_started_again_nothing_is_computed_and_the_same_is_said(tmp_path, source):
    with Pipeline(settings(tmp_path / "r", source)) as pipeline:
        first = predict(pipeline)
    tiles = computed(tmp_path / "r")
    assert tiles == 6 + 2 * 3
    with Pipeline(settings(tmp_path / "r", source)) as pipeline:
        again = predict(pipeline)
    assert computed(tmp_path / "r") == tiles
    np.testing.assert_array_equal(first.outputs, again.outputs)


def test_a_lost_tile_of_the_cross_kernel_is_computed_again(tmp_path, source):
    with Pipeline(settings(tmp_path / "r", source)) as pipeline:
        held = held_out(pipeline)
        before = np.asarray(held.cross("ntk")[:, :])
        (tmp_path / "r" / "cross" / held.name / "ntk" / "c" / "1" / "2").unlink()
        tiles = computed(tmp_path / "r")
        after = np.asarray(held.cross("ntk")[:, :])
    assert computed(tmp_path / "r") == tiles + 1
    np.testing.assert_array_equal(before, after)


def test_what_a_run_leaves_out_is_predicted_where_there_is_no_test_split(tmp_path):
    config = settings(tmp_path / "r", predict=PredictConfig(n=40))
    with Pipeline(config) as pipeline:
        held = held_out(pipeline)
        used = pipeline.run.read("inputs", "images")
    assert (held.how, len(held.labels)) == ("rest", 40)
    assert held.indices.min() >= 120
    counts = np.bincount(held.labels, minlength=10)
    assert counts.min() == counts.max() == 4
    flat = {image.tobytes() for image in used}
    assert not any(image.tobytes() in flat for image in held.images)


@pytest.mark.slow
def test_a_share_of_the_run_is_held_out_where_it_has_all_images(tmp_path, source):
    config = settings(tmp_path / "r", source, data=DataConfig(source=source))
    config = dataclasses.replace(config, predict=PredictConfig(on="holdout", ridge=1e-2))
    with Pipeline(config) as pipeline:
        found = predict(pipeline)
        held = held_out(pipeline)
        H = np.asarray(pipeline.gram_store()[:, :], np.float64)
        labels = pipeline.run.read("inputs", "labels")
    assert found.how == "holdout"
    assert (found.images, found.trained_on) == (60, 240)
    assert set(held.indices) | set(held.train) == set(range(300))
    T = held.train
    model = KernelRegression.fit(H[np.ix_(T, T)], labels[T], 10, ridge=1e-2)
    expected = model.predict(H[np.ix_(held.indices, T)])
    np.testing.assert_allclose(found.outputs, expected, atol=1e-8)


def test_diagonals_are_those_of_the_kernel(tmp_path, source):
    for on in ("test", "holdout"):
        config = settings(tmp_path / "r", source, predict=PredictConfig(on=on))
        with Pipeline(config) as pipeline:
            pipeline.gram()
            held = held_out(pipeline)
            found = held.diagonal("nngp")
        whole = kernel_matrix(ARCH, held.images, kind="nngp")
        np.testing.assert_allclose(found, np.diagonal(whole), rtol=1e-5)


def test_diagonals_of_a_run_on_gpus_are_computed_by_a_worker(tmp_path, source, monkeypatch):
    class FakeCuda(CpuBackend):
        name = "cuda"

    called = []
    call = lambda self, function: called.append(function) or function()  # noqa: E731
    monkeypatch.setattr(RayExecutor, "call", call)
    monkeypatch.setattr(
        "ntkdist.kernels.registry._create", lambda name, dtype, threads: FakeCuda(dtype=dtype)
    )
    with Pipeline(settings(tmp_path / "r", source)) as pipeline:
        pipeline.run.manifest = dataclasses.replace(pipeline.run.manifest, backend="cuda")
        held = held_out(pipeline)
        here = held.diagonal("nngp")
        assert called == []
        pipeline.config = dataclasses.replace(
            pipeline.config, gram=dataclasses.replace(pipeline.config.gram, executor="ray")
        )
        there = held.diagonal("ntk")
    assert len(called) == 1
    assert here.shape == there.shape == (51,)


@pytest.mark.slow
def test_labels_before_the_noise_and_refurbished_ones_can_be_trained_on(tmp_path):
    accuracy = {}
    for labels in ("given", "true"):
        config = settings(
            tmp_path / "r",
            data=DataConfig(n=200),
            noise=NoiseConfig(0.5),
            predict=PredictConfig(labels=labels, n=100, ridge=1e-3),
        )
        with Pipeline(config) as pipeline:
            found = predict(pipeline)
            held = held_out(pipeline)
            stored = "labels" if labels == "given" else "labels_true"
            np.testing.assert_array_equal(held.train_labels, pipeline.run.read("inputs", stored))
        accuracy[labels] = found.evaluation.accuracy
    assert accuracy["true"] > accuracy["given"] + 0.1
    config = dataclasses.replace(config, predict=PredictConfig(labels="refurbished"))
    with Pipeline(config) as pipeline, pytest.raises(StageError, match="ntkdist labels"):
        predict(pipeline)


@pytest.mark.slow
def test_a_table_a_picture_and_the_figures_are_left_in_the_run(tmp_path, source):
    with Pipeline(settings(tmp_path / "r", source)) as pipeline:
        found = predict(pipeline)
        summary = pipeline.run.attributes("predict")
    with open(f"{found.place}/predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 51
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert right == pytest.approx(found.evaluation.accuracy)
    picture = (tmp_path / "r" / "predict.svg").read_text()
    assert picture.startswith("<?xml")
    assert "leave-one-out" in picture
    assert summary["accuracy"] == found.evaluation.accuracy
    assert json.dumps(summary)
    said = describe_predictions(found)
    assert "of 51 images of the test split, 120 trained on" in said
    assert "predictions.csv" in said


@pytest.mark.slow
def test_a_ridge_without_a_factor_is_refused_and_a_chosen_one_is_raised(tmp_path, source):
    doubled = np.load(source.removeprefix("npz:"))
    path = tmp_path / "twice.npz"
    x, y = doubled["x_train"][:40], doubled["y_train"][:40]
    np.savez(path, x_train=np.tile(x, (2, 1, 1, 1)), y_train=np.tile(y, 2),
             x_test=doubled["x_test"], y_test=doubled["y_test"])  # fmt: skip
    config = settings(tmp_path / "r", f"npz:{path}", data=DataConfig(source=f"npz:{path}"))
    with Pipeline(config) as pipeline:
        assert predict(pipeline).ridge > 0
    config = dataclasses.replace(config, predict=PredictConfig(ridge=0.0))
    with Pipeline(config) as pipeline, pytest.raises(InputError, match="give larger ones"):
        predict(pipeline)


def test_bad_input_is_named(tmp_path, source):
    with pytest.raises(InputError, match=r"predict\.share=1\.5 must lie between 0 and 1"):
        PredictConfig(share=1.5)
    config = settings(tmp_path / "r", source, gram=GramConfig(executor="inline", tile=50))
    nngp = dataclasses.replace(config, predict=PredictConfig(kind="nngp"))
    with Pipeline(nngp) as pipeline, pytest.raises(InputError, match=r"--gram\.kinds ntk,nngp"):
        predict(pipeline)
    many = dataclasses.replace(config, predict=PredictConfig(on="test", n=52))
    with Pipeline(many) as pipeline, pytest.raises(InputError, match="at most 51"):
        predict(pipeline)
    digits = settings(tmp_path / "d", predict=PredictConfig(on="test"))
    with Pipeline(digits) as pipeline, pytest.raises(InputError, match="no test split"):
        predict(pipeline)


def scaled_source(folder, train, test):
    """Write digits whose splits are stored as two functions of 0..255 make them."""
    digits = load("digits")
    pixels = np.rint(digits.images[:200] * 255).astype(np.uint8)
    labels = digits.labels[:200]
    path = folder / "scaled.npz"
    np.savez(
        path, x_train=train(pixels[:100]), y_train=labels[:100], x_test=test(pixels[100:]),
        y_test=labels[100:],
    )  # fmt: skip
    return f"npz:{path}"


@pytest.mark.parametrize("train", [np.float32, np.uint8])
def test_test_images_of_another_dtype_get_the_divisor_of_the_training_images(tmp_path, train):
    def images(*dtypes):
        source = scaled_source(tmp_path, *dtypes)
        place = tmp_path / "-".join(one.__name__ for one in dtypes)
        with Pipeline(settings(place, source, data=DataConfig(source=source))) as pipeline:
            held = held_out(pipeline)
            assert held.how == "test"
            return held.images

    other = np.uint8 if train is np.float32 else np.float32
    np.testing.assert_array_equal(images(train, other), images(train, train))


@pytest.mark.parametrize("on", ["auto", "test"])
def test_a_test_split_on_another_scale_is_refused_with_both_ranges(tmp_path, on):
    source = scaled_source(tmp_path, np.uint8, lambda x: x / np.float32(255))
    data = DataConfig(source=source)
    config = settings(tmp_path / "r", data=data, predict=PredictConfig(on=on))
    with Pipeline(config) as pipeline, pytest.raises(InputError) as raised:
        held_out(pipeline)
    text = str(raised.value)
    assert "predict.on=test: images range from 0 to 1 (float32), the training images from" in text
    assert "0 to 255 (uint8)" in text


def test_the_rest_of_a_source_stored_in_another_dtype_is_found(tmp_path):
    source = scaled_source(tmp_path, np.uint8, np.uint8)
    config = settings(
        tmp_path / "r", source, data=DataConfig(source=source, n=60),
        predict=PredictConfig(on="rest"),
    )  # fmt: skip
    with Pipeline(config) as pipeline:
        wanted = held_out(pipeline).images
        scaled_source(tmp_path, np.float64, np.uint8)
        np.testing.assert_array_equal(held_out(pipeline).images, wanted)
        scaled_source(tmp_path, lambda x: x / 255, np.uint8)
        with pytest.raises(InputError, match=r"rest: npz:.*: images range from 0 to 1 \(float"):
            held_out(pipeline)


def named_source(folder, names):
    """Write digits whose labels are names; ``names`` turns those of the test split into others."""
    digits = load("digits")
    train = np.array(["zero", "one", "two"])[digits.labels[:60] % 3]
    test = [names(one) for one in np.array(["zero", "one", "two"])[digits.labels[60:100] % 3]]
    path = folder / "named.npz"
    x = digits.images[:100]
    np.savez(path, x_train=x[:60], y_train=train, x_test=x[60:], y_test=np.array(test))
    return f"npz:{path}"


def test_labels_of_other_images_are_numbered_by_the_names_of_the_run(tmp_path):
    config = settings(
        tmp_path / "r", data=DataConfig(source=named_source(tmp_path, str), n=40),
        predict=PredictConfig(on="test"),
    )  # fmt: skip
    rest = dataclasses.replace(config, predict=PredictConfig(on="rest"))
    with Pipeline(config) as pipeline:
        labels = held_out(pipeline).labels
    with Pipeline(rest) as pipeline:
        others = held_out(pipeline).labels
    # another class that sorts first and has no image: every number is one larger
    names = np.array(["a", "one", "two", "zero"])
    with np.load(tmp_path / "named.npz") as archive:
        np.savez(tmp_path / "named.npz", **archive, class_names=names)
    with Pipeline(config) as pipeline:
        np.testing.assert_array_equal(held_out(pipeline).labels, labels)
    with Pipeline(rest) as pipeline:
        np.testing.assert_array_equal(held_out(pipeline).labels, others)


@pytest.mark.parametrize("on", ["auto", "test"])
def test_a_class_of_test_images_that_the_run_does_not_have_is_refused(tmp_path, on):
    config = settings(
        tmp_path / "r", data=DataConfig(source=named_source(tmp_path, str)),
        predict=PredictConfig(on=on),
    )  # fmt: skip
    with Pipeline(config) as pipeline:
        named_source(tmp_path, lambda name: "aero" if name == "zero" else name)
        with pytest.raises(InputError) as raised:
            held_out(pipeline)
    text = str(raised.value)
    assert "predict.on=test: " in text
    assert "a class that the run does not have, such as 'aero' (it has one, two, zero)" in text
    assert ("--predict.on holdout" in text) == (on == "auto")


def test_auto_does_not_hide_a_test_split_that_cannot_be_read(tmp_path, source):
    path = tmp_path / "own.npz"
    with np.load(source.removeprefix("npz:")) as archive:
        arrays = dict(archive)
    np.savez(path, **arrays)
    config = settings(tmp_path / "r", f"npz:{path}")
    with Pipeline(config) as pipeline:
        np.savez(path, **arrays | {"x_test": arrays["x_test"][:, :4]})
        with pytest.raises(InputError, match=r"images of 4×8×1 are compared .* 8×8×1; bring"):
            held_out(pipeline)
        np.savez(path, **arrays | {"y_test": arrays["y_test"][:4]})
        with pytest.raises(InputError, match=r"on=test: .*51 images but 4 labels.*on holdout"):
            held_out(pipeline)
        del arrays["y_test"]
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=r"on=test: .* has no y_test; it holds"):
            held_out(pipeline)
        del arrays["x_test"]
        np.savez(path, **arrays)
        assert held_out(pipeline).how == "rest"
        path.unlink()
        with pytest.raises(InputError, match=r"on=test: .*does not exist.*on holdout predicts"):
            held_out(pipeline)


def test_copies_of_images_in_a_new_class_are_not_taken_for_those_of_the_run(tmp_path):
    source = named_source(tmp_path, str)
    config = settings(tmp_path / "r", data=DataConfig(source=source))
    on_rest = dataclasses.replace(config, predict=PredictConfig(on="rest"))
    with Pipeline(config) as pipeline:
        assert held_out(pipeline).how == "test"
    with np.load(tmp_path / "named.npz") as archive:
        x, y = archive["x_train"], archive["y_train"]
    copies = np.flatnonzero(y == "one")[:3]
    # the new class sorts first, which gives every other class another number
    np.savez(
        tmp_path / "named.npz", x_train=np.concatenate([x[copies], x]),
        y_train=np.concatenate([["aero"] * 3, y]),
    )  # fmt: skip
    with Pipeline(on_rest) as pipeline, pytest.raises(InputError, match="3 images have a class"):
        held_out(pipeline)
