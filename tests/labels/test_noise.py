"""Noise models: likelihood, expectation maximisation, the rate's interval, and which is taken."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ntkdist.data import asymmetric, symmetric
from ntkdist.errors import InputError
from ntkdist.labels import (
    NoiseEstimate,
    centered_leave_one_out,
    choose_ridge,
    noise as noise_models,
    refurbish,
)
from ntkdist.labels.leave_one_out import probabilities
from ntkdist.labels.noise import (
    CLASS_CONDITIONAL,
    SYMMETRIC,
    estimate_noise,
    fit_noise,
    highest_rate,
    maximise_transition,
    rate_interval,
    symmetric_transition,
)

from .oracle import clustered, inverse_of


def predictions_of(A, labels, K):
    Y = np.eye(K)[labels]
    return centered_leave_one_out(A @ Y, np.diagonal(A), Y)


def predictor(A):
    def predict(targets):
        return [centered_leave_one_out(A @ Y, np.diagonal(A), Y) for Y in targets]

    return predict


def clusters(n, K, seed, spread=1.0):
    """(inverse Gram, true labels) of n points in K clusters."""
    A, _, true = clustered(n, K, 0.0, seed)
    return A, true


def test_centered_predictions_are_those_of_refitting_less_what_shuffled_labels_predict():
    A, labels, _ = clustered(30, 3, 0.3, 0)
    H, Y = np.linalg.inv(A), np.eye(3)[labels]
    found = predictions_of(A, labels, 3)
    for i in range(30):
        rest = np.delete(np.arange(30), i)
        w = np.linalg.solve(H[np.ix_(rest, rest)], H[i, rest])
        np.testing.assert_allclose(found[i], w @ (Y[rest] - Y[rest].mean(axis=0)), atol=1e-9)


def test_an_image_s_own_label_has_no_part_in_its_prediction():
    A, labels, _ = clustered(40, 4, 0.3, 1)
    before = predictions_of(A, labels, 4)
    for i in (0, 7, 39):
        other = labels.copy()
        other[i] = (labels[i] + 1) % 4
        np.testing.assert_allclose(predictions_of(A, other, 4)[i], before[i], atol=1e-10)


def test_a_kernel_without_information_predicts_no_class_of_balanced_ones():
    A = inverse_of(np.ones((200, 200)), 0.1)
    labels = np.arange(200) % 2
    Y = np.eye(2)[labels]
    plain = Y - A @ Y / np.diagonal(A)[:, None]
    assert (plain.argmax(axis=1) == labels).mean() == 0.0
    np.testing.assert_allclose(predictions_of(A, labels, 2), 0.0, atol=1e-10)


def test_a_step_of_expectation_maximisation_is_that_of_the_formulas():
    random = np.random.default_rng(2)
    n, K, rate = 60, 4, 0.2
    p = random.dirichlet(np.ones(K), n)
    labels = random.integers(0, K, n)
    locked = random.random(n) < 0.2
    T = random.dirichlet(np.ones(K), K)
    counts = np.zeros((K, K))
    for i in range(n):
        if not locked[i]:
            r = p[i] * T[:, labels[i]]
            counts[:, labels[i]] += r / r.sum()
    expected = np.zeros((K, K))
    for k in range(K):
        row, strength, spread = counts[k], noise_models.PRIOR_ROW, noise_models.PRIOR_WRONG
        right = (row[k] + strength * (1 - rate)) / (row.sum() + strength)
        right = max(right, 1 / K)
        others = np.delete(row, k) + spread / (K - 1)
        expected[k, np.arange(K) != k] = (1 - right) * others / others.sum()
        expected[k, k] = right
    found = maximise_transition(p, T, labels, rate, locked, steps=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


def test_the_likelihood_is_that_of_the_mixture():
    A, labels, _ = clustered(50, 4, 0.3, 3)
    c = predictions_of(A, labels, 4)
    model = fit_noise(c, labels)
    shares = np.bincount(labels, minlength=4) / 50
    p = probabilities(c, model.scale, shares)
    given_likelihood = (p * model.transition[:, labels].T).sum(axis=1)
    assert model.log_likelihood == pytest.approx(np.log(given_likelihood).mean(), abs=1e-10)
    expected = symmetric_transition(model.rate, shares)
    np.testing.assert_allclose(model.transition, expected)
    np.testing.assert_allclose(expected.sum(axis=1), 1.0)
    assert expected[0, 2] / expected[0, 1] == pytest.approx(shares[2] / shares[1])
    sample = noise_models._Sample(c, labels, None)
    total = sample.total(model.scale, model.transition)
    assert total == pytest.approx(50 * model.log_likelihood, rel=1e-10)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 60), K=st.integers(2, 6))
def test_rate_and_interval_stay_within_their_limits(seed, n, K):
    random = np.random.default_rng(seed)
    labels = random.integers(0, K, n)
    c = random.standard_normal((n, K)) * random.choice([0.0, 0.01, 1.0])
    model, (low, high) = fit_noise(c, labels), rate_interval(c, labels)
    assert 0 <= model.rate <= highest_rate(K)
    assert 0 <= low <= model.rate + 0.02
    assert model.rate - 0.02 <= high <= highest_rate(K)


@pytest.mark.slow(but="0.4")
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.4])
def test_the_interval_holds_the_true_rate_and_narrows_with_more_images(rate):
    widths = []
    for n in (200, 1600):
        A, labels, true = clustered(n, 5, rate, 4)
        low, high = rate_interval(predictions_of(A, labels, 5), labels)
        assert low <= (labels != true).mean() <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


@pytest.mark.slow
def test_pair_noise_is_class_conditional_and_symmetric_noise_is_not():
    A, true = clusters(1500, 5, 5)
    swapped, _ = asymmetric(true, 5, 0.4, {0: 1, 2: 3}, seed=0)
    found = estimate_noise(predictor(A), swapped, 5)
    assert found.model.kind == CLASS_CONDITIONAL
    assert found.gain > 3 * found.simulated_gain
    expected = np.eye(5)
    expected[[0, 2]] = [[0.6, 0.4, 0, 0, 0], [0, 0, 0.6, 0.4, 0]]
    confused = found.model.transition - np.diag(np.diagonal(found.model.transition))
    largest = np.argsort(confused, axis=None)[-2:]
    assert set(largest.tolist()) == {1, 13}  # 0 as 1, 2 as 3
    assert np.sort(confused, axis=None)[-3] < 0.03
    # the prior is weak: sharper predictions of later rounds leave it behind
    last = refurbish(A, swapped, 5, method="posterior", estimate=found).noise
    np.testing.assert_allclose(last.transition, expected, atol=0.08)
    assert last.rate == pytest.approx((swapped != true).mean(), abs=0.03)
    uniform, _ = symmetric(true, 5, 0.2, seed=0)
    other = estimate_noise(predictor(A), uniform, 5)
    assert other.model.kind == SYMMETRIC
    assert "not clearly better" in other.reason
    assert other.model.rate == pytest.approx(0.2, abs=0.03)


def test_too_few_labels_or_uncertain_predictions_give_symmetric_noise():
    A, true = clusters(200, 5, 6)
    swapped, _ = asymmetric(true, 5, 0.4, {0: 1, 2: 3}, seed=0)
    few = estimate_noise(predictor(A), swapped, 5)
    assert few.model.kind == SYMMETRIC
    assert "needs at least 50 labels per class" in few.reason
    assert few.gain is None
    random = np.random.default_rng(0)
    x = random.standard_normal((600, 30))
    dim = inverse_of(np.exp(-((x[:, None] - x) ** 2).sum(axis=2) / 60), 0.1)
    blind = estimate_noise(predictor(dim), np.arange(600) % 5, 5)
    assert blind.model.kind == SYMMETRIC
    assert "the kernel's own errors" in blind.reason
    forced = estimate_noise(predictor(A), swapped, 5, noise=CLASS_CONDITIONAL)
    assert forced.model.kind == CLASS_CONDITIONAL
    assert forced.reason == "it was set by the option noise"


def test_one_class_has_no_class_conditional_noise():
    A, _ = clusters(30, 2, 9)
    found = estimate_noise(predictor(A), np.zeros(30, int), 1, noise=CLASS_CONDITIONAL)
    assert (found.model.kind, found.model.rate, found.reason) == (
        SYMMETRIC,
        0,
        "there is one class",
    )


def test_a_class_conditional_interval_contains_the_symmetric_one():
    A, true = clusters(60, 2, 10)  # few labels, all right: neither model determines the rate
    found = estimate_noise(predictor(A), true, 2, noise=CLASS_CONDITIONAL)
    low, high = found.symmetric.interval
    assert high > 0.02
    assert found.model.interval[0] <= low
    assert found.model.interval[1] >= high


def test_locked_labels_do_not_count_in_the_noise_rate():
    A, labels, true = clustered(600, 4, 0.3, 7)
    locked = (labels == true) & (np.arange(600) % 2 == 0)
    found = estimate_noise(predictor(A), labels, 4, locked=locked)
    share = (labels != true)[~locked].mean()
    assert found.model.rate == pytest.approx(share, abs=0.05)
    assert found.model.interval[0] <= share <= found.model.interval[1]


def test_an_estimate_survives_json_to_the_bit():
    A, true = clusters(600, 4, 8)
    swapped, _ = asymmetric(true, 4, 0.4, {0: 1}, seed=0)
    found = estimate_noise(predictor(A), swapped, 4)
    again = NoiseEstimate.from_dict(json.loads(json.dumps(found.to_dict())), found.first_probs)
    assert again.to_dict() == found.to_dict()
    one, other = (refurbish(A, swapped, 4, method="posterior", estimate=e) for e in (found, again))
    np.testing.assert_array_equal(one.posterior.quality, other.posterior.quality)


def test_the_same_labels_give_the_same_estimate():
    A, true = clusters(600, 4, 9)
    swapped, _ = asymmetric(true, 4, 0.4, {0: 1}, seed=0)
    one, other = (estimate_noise(predictor(A), swapped, 4).to_dict() for _ in range(2))
    assert one == other


@pytest.mark.slow
def test_the_ridge_is_chosen_for_the_selected_kind_of_noise():
    A, true = clusters(800, 4, 10)
    H = np.linalg.inv(A)
    swapped, _ = asymmetric(true, 4, 0.4, {0: 1, 2: 3}, seed=0)
    found = choose_ridge((H + H.T) / 2, swapped, 4)
    assert found.noise.kind == CLASS_CONDITIONAL
    plain = choose_ridge((H + H.T) / 2, swapped, 4, noise=SYMMETRIC)
    assert plain.noise.kind == SYMMETRIC
    assert plain.ridge == max(plain.tried, key=lambda pair: pair[1].log_likelihood)[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"noise": "symetric"},
            "noise='symetric' is not one of auto, symmetric",
        ),
        ({"noise": CLASS_CONDITIONAL, "noise_rate": 0.1}, "is a rate of symmetric noise"),
        ({"noise_rate": 0.9}, r"noise_rate=0.9 is above \(K−1\)/K = 0.667"),
    ],
)
def test_bad_noise_is_refused(options, said):
    A, labels, _ = clustered(30, 3, 0.2, 11)
    with pytest.raises(InputError, match=said):
        refurbish(A, labels, 3, method="posterior", **options)
