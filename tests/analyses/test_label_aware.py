"""Label-aware kernels on a run: what is held out, what is stored, what is refused."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from ntkdist.analyses import stored_results
from ntkdist.analyses.label_aware import (
    closest_classes,
    compare_label_aware,
    describe_label_aware,
    split_classes,
)
from ntkdist.config import DataConfig, GramConfig, RunConfig
from ntkdist.errors import InputError
from ntkdist.events.types import VariantTried
from ntkdist.pipeline import Pipeline


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return RunConfig(
        run=str(tmp_path_factory.mktemp("runs") / "digits"),
        architecture="fc-2",
        data=DataConfig(n=500),
        gram=GramConfig(executor="inline", tile=250),
    )


@pytest.mark.slow
def test_a_run_tells_what_labels_add_for_two_of_its_classes(config):
    events = []
    with Pipeline(config, [events.append]) as pipeline:
        found = compare_label_aware(pipeline, classes=(3, "8"), folds=3, multipliers=(0, 0.001))
        run = pipeline.run
        [(group, about)] = stored_results(run, "label_aware", "kernels")
        values, train, test = (run.read(group, name) for name in ("values", "train", "test"))
        H, y = run.read("gram", "ntk"), run.read("inputs", "labels")
    H = (np.triu(H) + np.triu(H, 1).T).astype(np.float64)
    assert found.classes == (3, 8)
    assert not set(train) & set(test)
    assert set(train) | set(test) == set(np.flatnonzero((y == 3) | (y == 8)))
    assert (found.trained_on, found.held_out) == (len(train), len(test))
    for k in (3, 8):
        assert (y[test] == k).sum() == round(0.2 * (y == k).sum())
    # the plain kernel is kernel regression without a ridge
    t = np.where(y == 8, 1.0, -1.0)
    f = H[np.ix_(test, train)] @ np.linalg.solve(H[np.ix_(train, train)], t[train])
    np.testing.assert_allclose(values[0], f, rtol=1e-4, atol=1e-6)
    names = ["plain", "kr-v1", "kr-v2", "fjlt-v1", "fjlt-v2"]
    assert [one.variant for one in found.tried] == names
    assert [one.variant for one in events if isinstance(one, VariantTried)] == names
    for one, f in zip(found.tried, values, strict=True):
        assert one.accuracy == np.mean((f >= 0) == (t[test] > 0))
        assert one.ridge == 0
        if one.multiplier == 0:
            np.testing.assert_array_equal(f, values[0])
    assert [row["variant"] for row in about["kernels"]] == names
    assert about["validated"]["fjlt-v1"]["multipliers"] == [0, 0.001]
    assert ElementTree.parse(f"{config.run}/label_aware.svg").getroot().tag.endswith("svg")
    words = describe_label_aware(found)
    assert words.startswith(f"3 or 8: {len(train)} images trained on, {len(test)} held out")
    assert len(words.splitlines()) == 2 + len(names) + 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_variants_can_be_chosen(config):
    with Pipeline(config) as pipeline:
        a, b, c = (
            compare_label_aware(pipeline, classes=("1", 7), variants=["kr-v2"], folds=2, seed=seed)
            for seed in (4, 4, 5)
        )
        *_, (latest, _) = stored_results(pipeline.run, "label_aware")
        same = pipeline.run.read(latest, "test")
    assert a.tried == b.tried
    assert [one.variant for one in a.tried] == ["plain", "kr-v2"]
    assert len(same) == c.held_out


@pytest.mark.slow
def test_the_most_entangled_classes_are_those_whose_means_are_closest(config):
    with Pipeline(config) as pipeline:
        pipeline.gram()
        store, y = pipeline.gram_store(), pipeline.run.read("inputs", "labels")
        found = closest_classes(store, y, 10)
        H = store[:, :].astype(np.float64)
        chosen = compare_label_aware(pipeline, variants=["kr-v1"], folds=2)
    H /= np.sqrt(np.outer(np.diag(H), np.diag(H)))
    apart = {}
    for a in range(10):
        for b in range(a + 1, 10):
            w = (y == a) / (y == a).sum() - (y == b) / (y == b).sum()
            apart[a, b] = w @ H @ w
    assert found == min(apart, key=apart.get) == chosen.classes


def test_large_classes_are_drawn_from():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    train, test = split_classes(labels, (0, 1), 0.25, 60, 0)
    assert (len(train), len(test)) == (45, 15)
    assert np.bincount(labels[np.concatenate([train, test])]).tolist() == [40, 20]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"classes": (1, 2, 3)}, "give two of them"),
        ({"classes": (3, "3")}, "are one; give two"),
        ({"classes": (3, "eleven")}, "class 'eleven' is neither a name nor a number from 0 to 9"),
        ({"classes": (3, 10)}, "class 10 is neither"),
        ({"classes": (0, 1), "test_share": 1.0}, "test_share=1.0"),
        ({"classes": (0, 1), "most": 6}, "at least 4 are needed"),
        ({"classes": (0, 1), "folds": 1}, "folds=1"),
        ({"classes": (0, 1), "multipliers": (-1.0,)}, "must be finite numbers of at least 0"),
        ({"variants": ["kr-v3"]}, "variant 'kr-v3' is not one of"),
        ({"variants": []}, "no variant to try"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config, settings, said):
    with Pipeline(config) as pipeline, pytest.raises(InputError, match=said):
        compare_label_aware(pipeline, **settings)
