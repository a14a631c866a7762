from __future__ import annotations

import numpy as np
import pytest

from ntkdist.labels import class_matrix
from ntkdist.labels.noise import best_scale
from ntkdist.labels.posterior import class_posterior

from .oracle import clustered


def posterior(A, labels, K, **options):
    G, _ = class_matrix(A, labels, K)
    return class_posterior(A, np.diagonal(A).copy(), G, labels, **options)


def written_out(A, labels, K, rate, rounds):
    """The rounds by refitting without each image in turn, with the package's fit of the scale."""
    H, Y, n = np.linalg.inv(A), np.eye(K)[labels], len(labels)
    shares = Y.mean(axis=0)
    T = np.array([[rate * b / (1 - a) for b in shares] for a in shares])
    np.fill_diagonal(T, 1 - rate)
    q, all_rounds = Y, []
    for _ in range(rounds + 1):
        c = np.empty((n, K))
        for i in range(n):
            rest = np.delete(np.arange(n), i)
            w = np.linalg.solve(H[np.ix_(rest, rest)], H[i, rest])
            c[i] = w @ (q[rest] - q[rest].mean(axis=0))
        scale = best_scale(c, labels, T)
        p = Y.mean(axis=0) * np.exp(scale * c)
        p /= p.sum(axis=1, keepdims=True)
        q = p * T[:, labels].T
        q /= q.sum(axis=1, keepdims=True)
        all_rounds.append((p, q))
    return all_rounds


def test_rounds_are_those_of_the_formulas(monkeypatch):
    monkeypatch.setattr("ntkdist.labels.posterior.SETTLED", 0.0)
    A, labels, _ = clustered(40, 4, 0.3, 0)
    expected = written_out(A, labels, 4, 0.25, 3)
    found = posterior(A, labels, 4, noise_rate=0.25, rounds=3)
    assert found.rounds == 3
    np.testing.assert_allclose(found.probabilities, expected[3][1], atol=1e-4)
    p = (expected[0][0] + 2 * expected[3][0]) / 3
    np.testing.assert_allclose(found.pred_probs, p, atol=1e-4)
    q = p * found.noise.transition[:, labels].T
    expected_quality = q[np.arange(40), labels] / q.sum(axis=1)
    np.testing.assert_allclose(found.quality, expected_quality, atol=1e-4)
    again = posterior(A, labels, 4, noise_rate=0.25, rounds=3, first_probs=expected[0][0])
    np.testing.assert_allclose(again.probabilities, found.probabilities, atol=1e-4)


@pytest.mark.parametrize("noise", [0.3, 0.5])
def test_probabilities_point_at_the_true_classes(noise):
    A, labels, true = clustered(400, 5, noise, 1)
    found = posterior(A, labels, 5)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert found.noise.rate == pytest.approx(noise, abs=0.05)
    assert (found.probabilities.argmax(axis=1) == true).mean() >= 0.98
    assert found.quality[labels != true].mean() < 0.1
    assert found.quality[labels == true].mean() > 0.9


def test_without_noise_the_posterior_is_the_given_label():
    A, labels, _ = clustered(100, 4, 0.4, 2)
    found = posterior(A, labels, 4, noise_rate=0.0)
    np.testing.assert_array_equal(found.probabilities, np.eye(4)[labels])
    assert (found.quality == 1).all()
    assert found.rounds == 1


def test_the_estimate_is_that_of_the_labels_that_are_not_locked():
    A, labels, true = clustered(300, 4, 0.3, 3)
    locked = (labels == true) & (np.arange(300) % 2 == 0)
    found = posterior(A, labels, 4, locked=locked)
    share = (labels != true)[~locked].mean()
    assert found.noise.rate == pytest.approx(share, abs=0.08)
    assert (found.probabilities[locked, labels[locked]] == 1).all()


def test_all_labels_locked_stay_as_they_are():
    A, labels, _ = clustered(30, 3, 0.3, 4)
    found = posterior(A, labels, 3, locked=np.ones(30, bool))
    np.testing.assert_array_equal(found.probabilities, np.eye(3)[labels])


def test_rounds_are_reported_and_end_when_probabilities_settle():
    A, labels, _ = clustered(200, 4, 0.2, 5)
    seen = []
    found = posterior(A, labels, 4, rounds=50, on_round=seen.append)
    assert seen == list(range(1, found.rounds + 1))
    assert found.rounds < 20
