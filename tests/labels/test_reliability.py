"""How far to trust what is said of labels: verdicts, flags, expected precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ntkdist.data import asymmetric, symmetric
from ntkdist.labels import find_label_issues, label_report, refurbish, refurbish_gram
from ntkdist.labels.reliability import WEAK_SHARE, assess
from ntkdist.words import CANNOT_JUDGE, RELIABLE, WEAK

from .oracle import clustered, inverse_of
from .test_issues import digits, simple_gram

KEYS = {
    "verdict",
    "leave_one_out_accuracy",
    "chance",
    "chance_error",
    "noise",
    "noise_rate",
    "noise_interval",
    "expected_precision",
    "reason",
}


def judged(A, labels, K, **options):
    return refurbish(A, labels, K, method="posterior", **options)


def test_clear_clusters_with_wrong_labels_are_judged_reliably():
    A, labels, true = clustered(800, 5, 0.3, 0)
    found = judged(A, labels, 5)
    how, wrong = found.reliability, labels != true
    assert how.verdict == RELIABLE
    low, high = how.noise_interval
    assert low <= wrong.mean() <= high
    precision = wrong[found.flagged].mean()
    assert how.expected_precision == pytest.approx(precision, abs=0.05)
    assert found.flagged[wrong].mean() > 0.95
    assert how.leave_one_out_accuracy == pytest.approx(0.7, abs=0.05)
    assert how.chance == pytest.approx(0.22, abs=0.04)
    table = label_report(labels, found)
    assert set(table.attrs["reliability"]) == KEYS
    np.testing.assert_array_equal(table["is_label_issue"], found.flagged)
    np.testing.assert_allclose(table.attrs["transition"], found.noise.transition)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "K"), [(30, 2), (100, 5), (300, 10), (400, 2)])
def test_pure_noise_is_never_judged(n, K, seed):
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, 64))
    A = inverse_of(np.exp(-((x[:, None] - x) ** 2).sum(axis=2) / 128), 0.05)
    labels = np.arange(n) % K
    found = judged(A, labels, K)
    assert found.reliability.verdict == CANNOT_JUDGE
    assert not found.flagged.any()
    np.testing.assert_array_equal(found.labels, labels)
    assert found.history == ()
    assert "cannot be judged" in found.stopped
    assert found.reliability.expected_precision is None
    assert found.noise.rate <= (K - 1) / K


def test_identical_images_are_never_judged():
    A = inverse_of(np.ones((60, 60)), 0.1)
    found = judged(A, np.arange(60) % 3, 3)
    assert found.reliability.verdict == CANNOT_JUDGE
    assert "does not distinguish these classes" in found.reliability.reason


def test_too_few_images_per_class_are_not_judged_and_the_remedy_is_named():
    A, labels, _ = clustered(40, 5, 0.0, 1)
    how = judged(A, labels, 5).reliability
    assert how.verdict == CANNOT_JUDGE
    assert "8 images per class on average" in how.reason
    assert "add images" in how.reason


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_other_methods_flag_nothing_where_labels_cannot_be_judged(method):
    A, labels, _ = clustered(40, 5, 0.4, 2)
    found = refurbish(A, labels, 5, method=method, steps=3)
    assert len(found.history) == 3
    assert found.reliability.verdict == CANNOT_JUDGE
    assert not label_report(labels, found)["is_label_issue"].any()


def test_a_few_possible_wrong_labels_make_a_weak_verdict_with_few_flags():
    weak = 0
    for seed in range(8):
        A, true, _ = clustered(150, 3, 0.0, seed)
        labels, _ = symmetric(true, 3, 0.03, seed)
        found = judged(A, labels, 3)
        if found.reliability.verdict == WEAK:
            weak += 1
            most = max(found.reliability.noise_interval[0], WEAK_SHARE) * 150
            assert found.flagged.sum() <= most
    assert weak >= 2


def test_a_given_rate_is_used_as_it_is():
    A, labels, _ = clustered(100, 5, 0.3, 3)
    found = judged(A, labels, 5, noise_rate=0.3)
    assert found.reliability.noise_interval == (0.3, 0.3)
    assert found.reliability.verdict == RELIABLE


def test_locked_labels_are_never_flagged():
    A, labels, true = clustered(600, 4, 0.3, 4)
    free = judged(A, labels, 4)
    locked = np.flatnonzero(free.flagged)[:20]
    found = judged(A, labels, 4, locked=locked)
    assert not found.flagged[locked].any()
    assert found.flagged.sum() > 0
    assert (labels != true)[locked].mean() > 0.8


@pytest.mark.slow
def test_flags_under_class_conditional_noise_are_right():
    A, true, _ = clustered(1500, 5, 0.0, 5)
    labels, _ = asymmetric(true, 5, 0.4, {0: 1, 2: 3}, seed=0)
    found = judged(A, labels, 5)
    assert found.reliability.noise == "class-conditional"
    assert found.reliability.verdict == RELIABLE
    wrong = labels != true
    assert wrong[found.flagged].mean() > 0.95
    assert found.flagged[wrong].mean() > 0.95
    assert (found.labels == true).mean() > 0.98


@pytest.mark.slow(but="0.1")
@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_digits_are_judged_reliably(noise):
    images, labels, true = digits(1000, noise)
    found = refurbish_gram(simple_gram(images), labels, 10)
    how, wrong = found.reliability, labels != true
    assert how.verdict == RELIABLE
    assert how.noise_interval[0] <= wrong.mean() <= how.noise_interval[1]
    assert how.expected_precision == pytest.approx(wrong[found.flagged].mean(), abs=0.1)


def test_the_public_function_returns_its_reliability():
    images, labels, _ = digits(300, 0.2)
    table = find_label_issues(images, labels, architecture="fc-2")
    how = table.attrs["reliability"]
    assert set(how) == KEYS
    assert how["verdict"] in (RELIABLE, WEAK)
    few = find_label_issues(images[:20], labels[:20], architecture="fc-2", num_classes=10)
    assert few.attrs["reliability"]["verdict"] == CANNOT_JUDGE
    assert not few["is_label_issue"].any()


@pytest.mark.parametrize(
    ("skill", "rate", "per_class", "judges"),
    [
        (0.61, 0.1, 60, True),
        (0.59, 0.1, 60, False),
        (0.59, 0.29, 60, False),
        (0.51, 0.31, 60, True),  # most flags are right even if the kernel errs often
        (0.49, 0.31, 60, False),
        (0.51, 0.31, 40, False),
    ],
)
def test_uncertain_predictions_are_not_judged_unless_many_labels_are_wrong(
    skill, rate, per_class, judges
):
    A, labels, _ = clustered(5 * per_class, 5, 0.3, 0)
    posterior = judged(A, labels, 5).posterior
    noise = replace(posterior.noise, rate=rate, interval=(rate / 2, rate * 1.5))
    estimate = replace(posterior.estimate, skill=skill)
    how, _ = assess(replace(posterior, noise=noise, estimate=estimate), labels)
    assert how.can_judge == judges
    assert judges or "too inaccurate or too uncertain" in how.reason
