"""Active learning simulated on a run: its figures, its picture, its settings."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

import numpy as np
import pytest

from ntkdist.analyses import read_sections, stored_results
from ntkdist.analyses.lookahead import describe_active_learning, simulate_active_learning
from ntkdist.config import DataConfig, FactorConfig, GramConfig, RunConfig
from ntkdist.errors import InputError, InterruptedRunError
from ntkdist.events.types import LabelsAsked
from ntkdist.pipeline import Pipeline


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return RunConfig(
        run=str(tmp_path_factory.mktemp("runs") / "digits"),
        architecture="fc-2",
        data=DataConfig(n=240),
        gram=GramConfig(executor="inline", tile=120),
        factor=FactorConfig(ridge=1e-4),
    )


def test_a_run_tells_what_its_labels_would_have_taught(config):
    events = []
    with Pipeline(config, [events.append]) as pipeline:
        found = simulate_active_learning(
            pipeline, criteria=("mlmoc", "random"), start=20, rounds=3, count=8, seeds=2
        )
        run = pipeline.run
        [(group, about)] = stored_results(run, "lookahead", "criteria")
        stored = run.read(group, "accuracy")
        H, y = run.read("gram", "ntk"), run.read("inputs", "labels")
    assert (found.pool, found.held_out) == (180, 60)
    assert found.counts.tolist() == [20, 28, 36, 44]
    np.testing.assert_array_equal(stored, np.stack([*found.accuracy.values()]))
    assert about["criteria"] == ["mlmoc", "random"]
    assert about["gain_over_random"]["random"] == 0
    told = [event for event in events if isinstance(event, LabelsAsked)]
    assert len(told) == 2 * 2 * 4
    assert {(one.seed, one.number) for one in told} == {(s, r) for s in (0, 1) for r in range(4)}
    # the first accuracy is that of kernel regression on the first labels
    H = np.triu(H) + np.triu(H, 1).T
    parted = np.random.default_rng(0).permutation(240)
    test, pool = np.sort(parted[:60]), np.sort(parted[60:])
    first = pool[np.random.default_rng([0, 13]).permutation(180)[:20]]
    A = H[np.ix_(first, first)].astype(np.float64)
    A += 1e-4 * np.mean(np.diag(A)) * np.eye(20)
    f = H[np.ix_(test, first)] @ np.linalg.solve(A, np.eye(10)[y[first]] - 0.1)
    assert found.accuracy["mlmoc"][0, 0] == np.mean(f.argmax(axis=1) == y[test])
    root = ElementTree.parse(f"{config.run}/lookahead.svg").getroot()
    assert root.tag.endswith("svg")
    words = describe_active_learning(found)
    assert "20 to 44 labels of 180 images, 60 held out" in words
    assert f"{100 * found.gain('mlmoc'):+.2f} points over random" in words


@pytest.mark.slow
def test_networks_are_trained_where_they_are_asked_for(config):
    pytest.importorskip("jax")
    with Pipeline(config) as pipeline:
        found = simulate_active_learning(
            pipeline, criteria=("mlmoc",), start=30, rounds=1, count=10, seeds=1,
            most=120, empirical=True, width=32,
        )  # fmt: skip
    assert (found.pool, found.held_out) == (90, 30)
    assert found.accuracy["mlmoc"].shape == (1, 2)
    assert found.accuracy["mlmoc"].mean() > 0.5
    assert found.gain("mlmoc") is None
    assert "networks of width 32" in describe_active_learning(found)


def test_a_result_of_other_settings_is_kept_beside_it(config, tmp_path):
    settings = {"start": 20, "count": 5, "seeds": 1}
    with Pipeline(dataclasses.replace(config, run=str(tmp_path / "run"))) as pipeline:
        for rounds in (2, 1, 2):
            simulate_active_learning(pipeline, criteria=("margin",), rounds=rounds, **settings)
        kept = stored_results(pipeline.run, "lookahead", "criteria")
        counts = [pipeline.run.read(group, "counts").tolist() for group, _ in kept]
        sections, _ = read_sections(pipeline.run)
    assert counts == [[20, 25, 30], [20, 25]]
    assert [one.title for one in sections] == [
        "Which images to label next (1)",
        "Which images to label next (2)",
    ]


def test_a_signal_stops_it(config):
    with Pipeline(config) as pipeline:
        pipeline.gram()
        asked = []

        def stop(event):
            if isinstance(event, LabelsAsked):
                asked.append(event)
                pipeline.stop.set()

        pipeline._emit.subscribe(stop)
        with pytest.raises(InterruptedRunError):
            simulate_active_learning(pipeline, start=20, rounds=2, count=5, seeds=1)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"criteria": ("mlmok",)}, "criterion='mlmok' is not one of"),
        ({"criteria": ()}, "no criterion to compare"),
        ({"share": 1.0}, "share=1.0 must lie between 0 and 1"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"rounds": 90}, "ask for 950 of a pool of 180 images"),
        ({"picks": "best"}, "picks='best'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config, settings, said):
    with Pipeline(config) as pipeline, pytest.raises(InputError, match=said):
        simulate_active_learning(pipeline, **settings)
