"""Training dynamics of a run, from its stored Gram to the picture."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from ntkdist.analyses import stored_results
from ntkdist.analyses.dynamics import describe_dynamics, find_dynamics
from ntkdist.config import (
    DataConfig,
    FactorConfig,
    GramConfig,
    NoiseConfig,
    PredictConfig,
    RunConfig,
)
from ntkdist.errors import InputError, InterruptedRunError
from ntkdist.events.types import DynamicsProgress
from ntkdist.learning import targets_of
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.cross import held_out


def settings(folder, **changes):
    base = {
        "run": str(folder),
        "architecture": "fc-2",
        "data": DataConfig(n=240),
        "noise": NoiseConfig(0.3),
        "gram": GramConfig(executor="inline", tile=100, kinds=("ntk", "nngp")),
        "predict": PredictConfig(on="rest", n=101),
    }
    return RunConfig(**{**base, **changes})


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    config = settings(tmp_path_factory.mktemp("run") / "whole")
    told = []
    with Pipeline(config, [told.append]) as pipeline:
        found = find_dynamics(pipeline, cross_entropy=True, times=25)
    return config, found, told


@pytest.mark.slow
def test_both_ends_of_training_are_chance_and_kernel_regression(followed):
    config, found, _ = followed
    with Pipeline(config) as pipeline:
        held = held_out(pipeline)
        H = np.asarray(held.gram()[:, :], np.float64)
        cross = np.asarray(held.cross()[:, :], np.float64)
    Y = targets_of(held.train_labels, 10)
    f = cross @ np.linalg.solve(H, Y)
    squared = found.squared
    assert (squared.times[0], squared.times[-1]) == (0, np.inf)
    assert squared.test_accuracy[-1] == np.mean(f.argmax(axis=1) == held.labels)
    loss = np.square(f - targets_of(held.labels, 10)).sum() / (2 * len(f))
    assert squared.test_loss[-1] == pytest.approx(loss, rel=1e-4)
    assert squared.train_loss[0] == pytest.approx(0.45)
    assert squared.train_accuracy[-1] == 1
    assert squared.true_accuracy[-1] == pytest.approx(0.7, abs=0.01)


@pytest.mark.slow
def test_stopping_early_forgets_label_noise(followed):
    _, found, _ = followed
    place = found.stopping.index
    assert 0 < place < 24
    assert found.stopping.images == found.trained_on == 240
    assert found.squared.true_accuracy[place] > 0.85
    assert found.squared.test_accuracy[place] > found.squared.test_accuracy[-1] + 0.1
    assert 0 < found.learned_at(found.stopping.time) < 240


def test_the_cross_entropy_learns_the_same_labels_more_slowly(followed):
    _, found, _ = followed
    curves = found.cross_entropy
    assert np.isfinite(curves.times).all()
    assert curves.train_loss[0] == pytest.approx(np.log(10))
    assert (np.diff(curves.train_loss) < 0).all()
    assert curves.test_accuracy.max() > found.squared.test_accuracy[-1] + 0.1


def test_the_spread_is_that_of_the_ensemble(followed):
    config, found, _ = followed
    with Pipeline(config) as pipeline:
        held = held_out(pipeline)
        grams = [np.asarray(held.gram(k)[:, :], np.float64) for k in ("ntk", "nngp")]
        crosses = [np.asarray(held.cross(k)[:, :], np.float64) for k in ("ntk", "nngp")]
        prior = held.diagonal("nngp")
    from scipy.linalg import expm

    t = found.stopping.time * found.learning_rate / 240
    B = crosses[0] @ np.linalg.solve(grams[0], np.eye(240) - expm(-t * grams[0]))
    variance = prior + ((B @ grams[1] - 2 * crosses[1]) * B).sum(axis=1)
    np.testing.assert_allclose(found.spread.std, np.sqrt(variance), rtol=1e-3)
    assert found.spread.errors.mean() > 0
    assert found.spread.disagreement_auc > 0.7
    assert found.spread.errors[-1] == found.spread.errors.max()


def test_figures_arrays_and_picture_are_kept(followed):
    config, found, told = followed
    with Pipeline(config) as pipeline:
        run = pipeline.run
        [(group, kept)] = stored_results(run, "dynamics", "squared")
        np.testing.assert_array_equal(
            run.read(group, "squared", "test_loss"), found.squared.test_loss
        )
        np.testing.assert_array_equal(run.read(group, "squared", "times")[[0, -1]], [0, np.inf])
        np.testing.assert_array_equal(
            run.read(group, "cross_entropy", "train_accuracy"),
            found.cross_entropy.train_accuracy,
        )
        assert run.read(group, "energy").sum() == pytest.approx(1)
        picture = ElementTree.parse(f"{run.url}/dynamics.svg")
    assert kept["stopping_time"] == found.stopping.time
    assert kept["squared"]["end"]["test_accuracy"] == found.squared.test_accuracy[-1]
    assert kept["cross_entropy"]["times"] == found.cross_entropy.times[-1]
    assert kept["spread"]["disagreement_auc"] == found.spread.disagreement_auc
    panels = [g.get("id", "") for g in picture.findall(".//{*}g[@id]")]
    assert sum(name.startswith("axes_") for name in panels) == 4  # the last has two scales
    shares = [e.fraction for e in told if isinstance(e, DynamicsProgress)]
    assert 0 < min(shares) <= max(shares) == 1


def test_the_text_says_what_a_reader_needs(followed):
    _, found, _ = followed
    text = describe_dynamics(found)
    place = found.stopping.index
    for words in (
        f"stop at   t = {found.stopping.time:.4g}",
        f"{100 * found.squared.test_accuracy[place]:.2f} %",
        "101 images of the split that the run leaves out",
        "... true labels",
        "cross-entropy at t = ",
        f"chance {found.spread.disagreement_auc:.3f}",
        "dynamics.svg",
    ):
        assert words in text


@pytest.mark.slow
def test_without_the_nngp_kernel_the_spread_is_left_out_and_said_why(tmp_path):
    config = settings(
        tmp_path / "run", data=DataConfig(n=60), noise=NoiseConfig(0.0),
        gram=GramConfig(executor="inline", tile=60), predict=PredictConfig(on="holdout"),
    )  # fmt: skip
    with Pipeline(config) as pipeline:
        found = find_dynamics(pipeline, times=9, folds=3, ridge=0.01)
        [(_, kept)] = stored_results(pipeline.run, "dynamics", "squared")
        assert kept["spread"] is None
    assert found.spread is found.cross_entropy is found.squared.true_accuracy is None
    assert (found.trained_on, found.tested_on) == (48, 12)
    assert "begin one with --gram.kinds ntk,nngp" in describe_dynamics(found)


def test_too_many_images_for_the_memory_are_refused_before_anything_is_computed(tmp_path):
    config = settings(tmp_path / "run", factor=FactorConfig(memory_limit="1MiB"))
    with Pipeline(config) as pipeline:
        with pytest.raises(InputError, match=r"240 images need .*at most (\d+) images") as caught:
            find_dynamics(pipeline)
        assert not pipeline.run.has("gram", "ntk")
        # what it proposes fits, one more does not
        fits = int(str(caught.value).split("at most ")[1].split()[0])
        assert 8 * fits * (5 * fits + 3 * 101) <= 2**20 < 8 * (fits + 1) * (5 * fits + 3 * 101 + 5)


@pytest.mark.parametrize(
    ("settings_given", "said"),
    [
        ({"ridge": -1.0}, "ridge=-1.0"),
        ({"folds": 1}, "folds=1"),
        ({"times": 2}, "times=2"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ],
)
def test_settings_are_refused_before_anything_is_computed(tmp_path, settings_given, said):
    with Pipeline(settings(tmp_path / "run")) as pipeline:
        with pytest.raises(InputError, match=said):
            find_dynamics(pipeline, **settings_given)
        assert not pipeline.run.has("gram", "ntk")


@pytest.mark.slow
def test_images_that_are_there_twice_give_numbers_and_a_note(tmp_path):
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    np.savez(
        tmp_path / "d.npz", x_train=np.concatenate([x, x]),
        y_train=np.tile(np.arange(30) % 3, 2), x_test=x[:6], y_test=np.arange(6) % 3,
    )  # fmt: skip
    config = settings(
        tmp_path / "run", data=DataConfig(source=f"npz:{tmp_path}/d.npz"), noise=NoiseConfig(0.0),
        gram=GramConfig(executor="inline", tile=60), predict=PredictConfig(),
    )  # fmt: skip
    with Pipeline(config) as pipeline:
        found = find_dynamics(pipeline, times=7, folds=2)
        calm = find_dynamics(pipeline, times=7, folds=2, ridge=1e-4)
    assert 20 <= found.unsettled <= 30
    assert "within the rounding" in describe_dynamics(found)
    assert calm.unsettled == 0
    for values in found.squared.arrays().values():
        assert not np.isnan(values).any()
    # the same images were trained on
    assert calm.squared.test_accuracy[-1] == 1


def test_a_signal_stops_it(followed):
    config, _, _ = followed
    with Pipeline(config) as pipeline:
        pipeline._emit.subscribe(
            lambda event: pipeline.stop.set() if isinstance(event, DynamicsProgress) else None
        )
        with pytest.raises(InterruptedRunError):
            find_dynamics(pipeline, cross_entropy=True, times=9)
