"""Verdicts on real images, clean and mislabelled, and labels that people gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ntkdist import find_label_issues
from ntkdist.data import asymmetric, symmetric

pytestmark = pytest.mark.data


def some(data_dir: Path, name: str, classes: tuple[int, ...], each: int, seed: int):
    """(images, labels from 0) of a balanced draw."""
    with np.load(data_dir / f"{name}.npz") as file:
        labels = file["y_train"].astype(np.int64)
        random = np.random.default_rng(seed)
        chosen = [random.permutation(np.flatnonzero(labels == k))[:each] for k in classes]
        indices = random.permutation(np.concatenate(chosen))
        return file["x_train"][indices], np.searchsorted(classes, labels[indices])


def judged(images, labels):
    table = find_label_issues(images, labels, architecture="cnn-2")
    return table, table.attrs["reliability"]


@pytest.mark.slow(but="15-0")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("each", [15, 20, 80])
def test_clean_photographs_of_cats_and_dogs_are_not_judged_by_their_pixels(data_dir, each, seed):
    table, how = judged(*some(data_dir, "cifar10", (3, 5), each, seed))
    assert how["verdict"] == "cannot judge"
    assert not table["is_label_issue"].any()
    assert how["noise_rate"] <= 0.5


@pytest.mark.slow(but="classes0-20-mnist")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
@pytest.mark.parametrize(("classes", "each"), [((3, 5), 20), (tuple(range(10)), 30)])
def test_clean_labels_are_hardly_flagged(data_dir, name, classes, each):
    table, how = judged(*some(data_dir, name, classes, each, 7))
    assert how["verdict"] == "cannot judge" or table["is_label_issue"].mean() <= 0.02


@pytest.mark.slow(but="fashion_mnist-0.6")
@pytest.mark.parametrize(("name", "least"), [("mnist", 0.85), ("fashion_mnist", 0.6)])
def test_flags_and_interval_hold_under_symmetric_noise(data_dir, name, least):
    images, true = some(data_dir, name, tuple(range(10)), 100, 3)
    labels, _ = symmetric(true, 10, 0.2, seed=0)
    table, how = judged(images, labels)
    wrong, flags = labels != true, table["is_label_issue"].to_numpy()
    assert how["verdict"] == "reliable"
    assert how["noise_interval"][0] <= 0.2 <= how["noise_interval"][1]
    assert wrong[flags].mean() >= least
    assert flags[wrong].mean() >= 0.6
    assert how["expected_precision"] == pytest.approx(wrong[flags].mean(), abs=0.12)


@pytest.mark.slow
def test_confused_pairs_of_digits_are_found(data_dir):
    images, true = some(data_dir, "mnist", tuple(range(10)), 150, 4)
    labels, _ = asymmetric(true, 10, 0.3, {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}, seed=0)
    table, how = judged(images, labels)
    wrong, flags = labels != true, table["is_label_issue"].to_numpy()
    assert how["noise"] == "class-conditional"
    hits = (wrong & flags).sum()
    assert 2 * hits / (wrong.sum() + flags.sum()) >= 0.75
    transition = np.array(table.attrs["transition"])
    assert transition[2].argsort()[-2] == 7
    assert transition[3].argsort()[-2] == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "auroc", "f1", "rate"),
    [("random1", 0.93, 0.62, 0.06), ("worse", 0.92, 0.7, 0.12)],
)
def test_labels_that_people_gave_are_judged_by_features(data_dir, name, auroc, f1, rate):
    from sklearn.metrics import f1_score, roc_auc_score

    with np.load(data_dir / "cifar10_features.npz") as file:
        features = file["features"][:2000]
    true = np.load(data_dir / "cifar10_full/labels.npz")["y_train"][:2000]
    given = np.load(data_dir / "cifar10_full/human_labels.npz")[name][:2000].astype(np.int64)
    table = find_label_issues(features, given)  # fc-2 for features
    how, wrong = table.attrs["reliability"], given != true
    assert roc_auc_score(wrong, -table["label_quality"]) >= auroc
    assert f1_score(wrong, table["is_label_issue"]) >= f1
    assert how["noise"] == "class-conditional"
    assert abs(how["noise_rate"] - wrong.mean()) <= rate
    assert (table["suggested_label"] == true).mean() >= (~wrong).mean() + 0.05
