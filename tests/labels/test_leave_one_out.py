from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ntkdist.labels import class_matrix, leave_one_out
from ntkdist.labels.leave_one_out import probabilities
from ntkdist.labels.noise import fit_noise

from .oracle import clustered


def test_equals_fitting_without_each_image_in_turn():
    A, labels, _ = clustered(25, 4, 0.3, 0)
    H, Y = np.linalg.inv(A), np.eye(4)[labels]
    G, _ = class_matrix(A, labels, 4)
    found = leave_one_out(G, np.diagonal(A), np.eye(4)[labels])
    for i in range(25):
        rest = np.delete(np.arange(25), i)
        expected = H[i, rest] @ np.linalg.solve(H[np.ix_(rest, rest)], Y[rest])
        np.testing.assert_allclose(found[i], expected, rtol=1e-7, atol=1e-9)


def test_the_own_label_has_no_part_in_it():
    A, labels, _ = clustered(25, 4, 0.3, 1)
    other = labels.copy()
    other[7] = (labels[7] + 1) % 4
    rows = [
        leave_one_out(class_matrix(A, y, 4)[0], np.diagonal(A), np.eye(4)[y])[7]
        for y in (labels, other)
    ]
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-9, atol=1e-11)


def test_probabilities_are_a_softmax_that_does_not_overflow():
    p = probabilities(np.array([[0.0, 1.0], [500.0, -500.0]]), 10.0)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert p[0, 1] == pytest.approx(1 / (1 + np.exp(-10)))
    assert p[1].tolist() == [1.0, 0.0]


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    K=st.integers(2, 12),
    rate=st.sampled_from([0.0, 0.05, 0.3, 0.6]),
    scale=st.sampled_from([5.0, 12.0]),
)
def test_finds_the_rate_of_labels_drawn_from_the_model(seed, K, rate, scale):
    if rate > 0.8 * (K - 1) / K:
        return  # hardly any signal left
    random = np.random.default_rng(seed)
    n = 6000
    predictions = np.eye(K)[random.integers(0, K, n)] + 0.1 * random.standard_normal((n, K))
    p = probabilities(predictions, scale)
    true = (p.cumsum(axis=1) < random.random((n, 1))).sum(axis=1).clip(0, K - 1)
    wrong = random.random(n) < rate
    labels = np.where(wrong, (true + random.integers(1, K, n)) % K, true)
    before = predictions.copy()
    model = fit_noise(predictions, labels)
    np.testing.assert_array_equal(predictions, before)
    # At K = 2 a soft softmax and noise look alike: two-sided noise is then harder to tell.
    assert model.rate == pytest.approx(rate, abs=0.15 if K == 2 else 0.05)


def test_one_class_has_no_noise():
    model = fit_noise(np.zeros((5, 1)), np.zeros(5, dtype=int))
    assert (model.rate, model.scale) == (0.0, 1.0)


def test_likelihood_prefers_the_better_predictions():
    A, labels, _ = clustered(200, 4, 0.2, 3)
    G, _ = class_matrix(A, labels, 4)
    good = leave_one_out(G, np.diagonal(A), np.eye(4)[labels])
    worse = good + 0.5 * np.random.default_rng(0).standard_normal(good.shape)
    assert fit_noise(good, labels).log_likelihood > fit_noise(worse, labels).log_likelihood


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_a_known_rate_is_kept_and_the_scale_is_fitted(rate):
    A, labels, _ = clustered(200, 4, 0.25, 3)
    predictions = leave_one_out(class_matrix(A, labels, 4)[0], np.diagonal(A), np.eye(4)[labels])
    fixed, free = fit_noise(predictions, labels, rate), fit_noise(predictions, labels)
    assert fixed.rate == rate
    assert fixed.log_likelihood <= free.log_likelihood + 1e-9
    # labels that must all be right ask for unsure predictions
    assert (fixed.scale < free.scale / 1.5) == (rate == 0.0)
