"""Runs of features (N, D): stored, said, judged without pictures, predicted, extended, checked."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ntkdist import Run, kernel_matrix
from ntkdist.analyses.predict import predict
from ntkdist.api import execute
from ntkdist.cli.doctor import describe_finding, diagnose
from ntkdist.config import DataConfig, GramConfig, NoiseConfig, PredictConfig, RunConfig
from ntkdist.data import Preprocessor, load
from ntkdist.errors import InputError
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.cross import held_out
from ntkdist.pipeline.extend import extend
from ntkdist.pipeline.verify import verify_run
from ntkdist.planning.plan import describe_plan, make_plan
from ntkdist.runs.inputs import row_digests
from tests.status_text import describe

N, D, M = 90, 12, 30
INLINE = GramConfig(executor="inline", tile=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with rows of three classes: in an archive of their own, and beside images."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    y = np.arange(N + M) % 3
    x = (5 + 3 * rng.normal(size=(3, D))[y] + rng.normal(size=(N + M, D))).astype(np.float16)
    pixels = rng.integers(0, 256, (N + M, 6, 4, 3), dtype=np.uint8)
    splits = {"y_train": y[:N], "y_test": y[N:], "class_names": np.array(["a", "b", "c"])}
    np.savez(folder / "rows.npz", x_train=x[:N], x_test=x[N:], **splits)
    np.savez(folder / "images.npz", x_train=pixels[:N], x_test=pixels[N:], **splits)
    np.save(folder / "f.npy", x[:N])
    np.save(folder / "f_test.npy", x[N:].astype(np.float64))
    np.savez(folder / "both.npz", train=x[:N], test=x[N:])
    return folder


def settings(place, made, features=None, **changes):
    """Return the settings of a run of the rows alone, or of the images with features."""
    source = "rows" if features is None else "images"
    data = {"source": f"npz:{made / source}.npz", **changes.pop("data", {})}
    if features is not None:
        data["features"] = str(made / features)
    base = {"run": str(place), "architecture": "fc-2", "data": DataConfig(**data), "gram": INLINE}
    return RunConfig(**{**base, **changes})


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    """Runs with every stage done: of rows alone, and of images with features."""
    folder = tmp_path_factory.mktemp("runs")
    noise = NoiseConfig(rate=0.2)
    runs = {}
    for name, features in (("alone", None), ("beside", "f.npy")):
        with Pipeline(settings(folder / name, made, features, noise=noise)) as pipeline:
            execute(pipeline)
            runs[name] = pipeline.run
    return runs


@pytest.mark.slow
def test_a_run_stores_prepared_rows_and_says_that_they_are_features(made, finished):
    data = load(f"npz:{made / 'rows.npz'}")
    prepared = Preprocessor.fit(data.images, "center+unit-norm").apply(data.images)
    for run in finished.values():
        stored = run.read("inputs", "images")
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(stored, prepared[:, None, None, :])
        assert run.manifest.inputs == "features"
        assert run.manifest.config["data"]["preprocess"] == "center+unit-norm"
        assert run.shape == (N, D)
        assert "90 rows of 12 features" in repr(run)
        np.testing.assert_array_equal(run.read("inputs", "digests"), row_digests(data.images))
    alone, beside = finished["alone"], finished["beside"]
    assert alone.fingerprint == beside.fingerprint
    assert not alone.has("inputs", "pictures")
    np.testing.assert_array_equal(
        beside.read("inputs", "pictures"), load(f"npz:{made / 'images.npz'}").images
    )


@pytest.mark.slow
def test_the_gram_is_that_of_the_rows_in_memory(made, finished):
    data = load(f"npz:{made / 'rows.npz'}")
    prepared = Preprocessor.fit(data.images, "auto").apply(data.images)
    with Pipeline(settings(finished["alone"].url, made, noise=NoiseConfig(rate=0.2))) as pipeline:
        found = np.asarray(pipeline.gram_store()[:, :])
    np.testing.assert_allclose(found, kernel_matrix("fc-2", prepared), rtol=1e-6)


def test_a_report_without_pictures_lists_rows_and_one_with_pictures_shows_them(finished):
    alone, beside = (
        Path(finished[name].url, "report.html").read_text() for name in ("alone", "beside")
    )
    assert "<title>rows.npz: 90\N{NO-BREAK SPACE}rows and their labels</title>" in alone
    assert "90 rows of 12 features" in alone
    for text in ("<img", "icture is captioned", "1 × 1", "through the pictures"):
        assert text not in alone
    issues = int(Run.open(finished["alone"].url).read("labels", "is_label_issue").sum())
    table = alone[alone.index('aria-label="Table of suspicious labels"') :]
    table = table[: table.index("</table>")]
    assert table.count("<tr>") == 1 + issues > 5
    assert "✓ truly" in table
    assert "90\N{NO-BREAK SPACE}images and their labels</title>" in beside
    assert "of 6 × 4 × 3, seen by the kernel as 12\N{NO-BREAK SPACE}features each" in beside
    assert beside.count("<img") == issues
    assert "Table of suspicious labels" not in beside


def test_the_report_repeats_the_run_with_its_features(finished):
    page = Path(finished["beside"].url, "report.html").read_text()
    assert re.search(r"--data.features \S+/f.npy", page)
    assert "--data.preprocess" not in page


def test_status_doctor_and_verify_speak_of_rows(made, finished):
    for name, run in finished.items():
        said = describe(run.url)
        assert "inputs    90 rows of 12 features, 3 classes, npz:" in said
        assert (" with " in said) == (name == "beside")
        findings = [describe_finding(one) for one in diagnose(run.config, quick=True)]
        assert any(re.match(r"features\s+90 rows of 12 features, npz:", one) for one in findings)
        check = verify_run(run)
        assert check.problems == []
        assert sum(one.recomputed for one in check.grams) > 0


@pytest.mark.slow(but="None")
@pytest.mark.parametrize("features", [None, "f.npy"])
def test_a_new_run_is_planned_and_nothing_is_written(made, tmp_path, features):
    config = settings(tmp_path / "new", made, features)
    plan = make_plan(config, seconds=0.1)
    assert plan.shape == (N, D)
    assert "features  90 rows of 12 features" in describe_plan(plan)
    pictures = 0 if features is None else 6 * 4 * 3
    assert plan.store_bytes["inputs"] == N * (4 * D + 16 + pictures)
    findings = [describe_finding(one) for one in diagnose(config, quick=True)]
    assert any("90 rows of 12 features" in one for one in findings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow(but="both.npz-None")
@pytest.mark.parametrize(
    ("features", "features_test"),
    [(None, None), ("f.npy", "f_test.npy"), ("both.npz", None)],
)
def test_the_test_split_is_predicted_from_its_features(made, tmp_path, features, features_test):
    data = {} if features_test is None else {"features_test": str(made / features_test)}
    config = settings(tmp_path / "r", made, features, data=data)
    with Pipeline(config) as pipeline:
        found = predict(pipeline)
        held = held_out(pipeline)
    assert (found.how, found.images, found.trained_on) == ("test", M, N)
    assert found.evaluation.accuracy > 0.9
    assert (held.pictures is None) == (features is None)
    rows = load(f"npz:{made / 'rows.npz'}").images
    test = load(f"npz:{made / 'rows.npz'}", "test").images
    expected = Preprocessor.fit(rows, "auto").apply(test)
    np.testing.assert_array_equal(held.images[:, 0, 0], expected)


@pytest.mark.slow(but="None-holdout-18")
@pytest.mark.parametrize(("n", "how", "images"), [(60, "rest", 30), (None, "holdout", 18)])
def test_without_test_features_others_are_predicted(made, tmp_path, n, how, images):
    config = settings(tmp_path / "r", made, "f.npy", data={"n": n})
    with Pipeline(config) as pipeline:
        found = predict(pipeline)
    assert (found.how, found.images) == (how, images)
    asked = dataclasses.replace(config, predict=PredictConfig(on="test"))
    with (
        Pipeline(asked) as pipeline,
        pytest.raises(
            InputError, match=r"no features of the test split; give --data.features_test"
        ),
    ):
        predict(pipeline)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.ones((M - 1, D)), r"holds 29 rows of 12 features, but .*\(test\) has 30 images"),
        (np.eye(M, D - 1), "rows have 11 features, but the training rows had 12"),
        (np.full((M, D), np.nan), "hold 360 NaN"),
    ],
)
def test_bad_test_features_are_told_and_not_passed_over(made, tmp_path, values, said):
    np.save(tmp_path / "bad.npy", values)
    np.savez(tmp_path / "bad.npz", train=np.load(made / "f.npy"), test=values)
    beside = {"features_test": str(tmp_path / "bad.npy")}
    for name, data in (("beside", beside), ("both", {"features": str(tmp_path / "bad.npz")})):
        config = settings(tmp_path / name, made, "f.npy")
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, **data))
        with Pipeline(config) as pipeline, pytest.raises(InputError, match=said):
            predict(pipeline)


@pytest.mark.slow
def test_test_features_may_be_named_for_a_run_that_is_there(made, tmp_path):
    config = settings(tmp_path / "r", made, "f.npy")
    Run.create(config)
    named = dataclasses.replace(config.data, features_test=str(made / "f_test.npy"))
    with Pipeline(dataclasses.replace(config, data=named)) as pipeline:
        assert predict(pipeline).how == "test"


@pytest.mark.parametrize("features", [None, "f.npy"])
def test_an_extended_run_is_one_begun_with_all_rows(made, tmp_path, features):
    whole = Run.create(settings(tmp_path / "whole", made, features))
    config = settings(tmp_path / "r", made, features, data={"n": 60})
    with Pipeline(config) as pipeline:
        pipeline.gram()
        assert extend(pipeline).after == N
        run = Run.open(config.run)
    assert run.fingerprint == whole.fingerprint
    assert run.manifest.is_features
    for name in ("images", "labels", "digests", *(["pictures"] if features else [])):
        np.testing.assert_array_equal(run.read("inputs", name), whole.read("inputs", name))


def test_a_run_may_be_of_the_test_split(made, tmp_path):
    for features in ("f_test.npy", "both.npz"):
        config = settings(tmp_path / features, made, features, data={"split": "test"})
        assert Run.create(config).shape == (M, D)


def refused(config):
    with pytest.raises(InputError) as caught:
        Run.create(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("features", [None, "f.npy"])
@pytest.mark.parametrize("architecture", ["cnn-2", "cntk-gap-4", "myrtle-5"])
def test_networks_for_images_are_refused(made, tmp_path, features, architecture):
    config = settings(tmp_path / "r", made, features, architecture=architecture)
    assert re.match(
        "architecture: Conv is a layer for images, and the inputs are features, which have no "
        "pixels; take a fully connected network, such as fc-2",
        refused(config),
    )
    with pytest.raises(InputError, match="Conv is a layer for images"):
        make_plan(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("features", "data", "said"),
    [
        (None, {"size": 32}, "data.size=32x32 scales images, and the source holds features"),
        (None, {"features": "f.npy"}, "holds features itself"),
        ("f.npy", {"preprocess": "halve+auto"}, "preprocessing 'auto' in 'halve.auto' is unknown"),
        ("f.npy", {"preprocess": "halve"}, "features have none; leave halve away"),
        ("f_test.npy", {}, "holds 30 rows of 12 features, but .* has 90 images"),
        (None, {"features_test": "f"}, "data.features_test='f' goes with data.features"),
        ("f.npy", {"features_test": "f", "split": "test"}, "leave data.features_test out"),
        ("g.npy", {}, "g.npy does not exist; did you mean 'f.npy'"),
    ],
)
def test_bad_settings_are_refused_and_nothing_is_written(made, tmp_path, features, data, said):
    assert re.search(said, refused(settings(tmp_path / "a" / "b", made, features, data=data)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["auto", "standardize", "center+unit-norm"])
def test_auto_goes_on_with_a_run_of_the_recipe_that_it_stands_for(tmp_path, recipe):
    config = RunConfig(run=str(tmp_path / "r"), data=DataConfig(n=20, preprocess=recipe))
    made = Run.create(config)
    written = tmp_path / "r" / "zarr.json"
    manifest = json.loads(written.read_text())
    for name in ("features", "features_test"):  # a run of a version that knew no features
        del manifest["attributes"]["ntkdist"]["config"]["data"][name]
    del manifest["attributes"]["ntkdist"]["inputs"]
    written.write_text(json.dumps(manifest))
    resolved = "standardize" if recipe == "auto" else recipe
    assert made.config.data.preprocess == Run.open(made.url).config.data.preprocess == resolved
    assert not Run.open(made.url).manifest.is_features
    auto = dataclasses.replace(config, data=DataConfig(n=20))
    if resolved == "standardize":
        again = Run.create(auto)
        assert (again.fingerprint, again.config.data.preprocess) == (made.fingerprint, resolved)
        explicit = dataclasses.replace(config, data=DataConfig(n=20, preprocess="standardize"))
        assert Run.create(explicit).fingerprint == made.fingerprint
        return
    said = "with data.preprocess='center.unit-norm', now data.preprocess='standardize' is asked"
    with pytest.raises(InputError, match=said):
        Run.create(auto)


def test_images_are_prepared_by_auto_as_before(tmp_path):
    old = Run.create(
        RunConfig(run=str(tmp_path / "a"), data=DataConfig(n=20, preprocess="standardize"))
    )
    new = Run.create(RunConfig(run=str(tmp_path / "b"), data=DataConfig(n=20)))
    assert old.fingerprint == new.fingerprint
    assert old.manifest.inputs == new.manifest.inputs == "images"
    assert not new.has("inputs", "digests")
    assert old.manifest.config["data"] == new.manifest.config["data"]


def test_rows_are_told_apart_whatever_number_type_holds_them():
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float16)
    found = row_digests(rows)
    assert (found.shape, found.dtype) == ((5, 16), np.uint8)
    np.testing.assert_array_equal(found, row_digests(rows.astype(np.float64)))
    np.testing.assert_array_equal(found, row_digests(np.asfortranarray(rows)))
    assert len(np.unique(found, axis=0)) == 5
    assert (row_digests(np.zeros((2, 3))) == row_digests(-np.zeros((2, 3)))).all()


@pytest.mark.slow
@pytest.mark.data
def test_real_features_find_labels_that_people_got_wrong(data_dir, tmp_path):
    n = 2000
    features = np.load(data_dir / "cifar10_features.npz")["features"][:n]
    given = np.load(data_dir / "cifar10_full" / "human_labels.npz")
    labels, checked = given["worse"][:n], given["aggre"][:n]
    np.savez(tmp_path / "f.npz", x_train=features, y_train=labels)
    config = RunConfig(
        run=str(tmp_path / "r"),
        architecture="fc-2",
        data=DataConfig(source=f"npz:{tmp_path / 'f.npz'}"),
        gram=GramConfig(executor="inline"),
    )
    with Pipeline(config) as pipeline:
        execute(pipeline, ["gram", "factor", "labels"])
        quality = pipeline.run.read("labels", "label_quality")
        assert "2,000 rows of 1,280 features" in repr(pipeline.run)
    from scipy.stats import rankdata

    wrong = labels != checked
    ranks = rankdata(-quality)
    count = wrong.sum()
    area = (ranks[wrong].sum() - count * (count + 1) / 2) / (count * (n - count))
    print(f"\n{count} of {n} labels differ from the majority's; AUC of the quality {area:.3f}")
    assert area > 0.8
