"""Measures of predictions, against scikit-learn and against their definitions."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss

from ntkdist.errors import InputError
from ntkdist.learning import accuracy, evaluate
from ntkdist.learning.evaluation import BINS, softmax, softmax_scale

M, K = 203, 5


def outputs(seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, K, M)
    return random.standard_normal((M, K)) + 1.5 * np.eye(K)[labels], labels


def test_measures_are_those_of_scikit_learn():
    f, labels = outputs()
    found = evaluate(f, labels, 1.7)
    p = softmax(1.7 * f)
    assert found.accuracy == accuracy(f, labels) == (f.argmax(axis=1) == labels).mean()
    np.testing.assert_array_equal(found.confusion, confusion_matrix(labels, f.argmax(axis=1)))
    assert found.log_loss == pytest.approx(log_loss(labels, p))
    assert found.brier == pytest.approx(brier_score_loss(labels, p, scale_by_half=False))


def test_the_calibration_error_is_that_of_its_definition():
    f, labels = outputs(1)
    found = evaluate(f, labels, 0.6)
    p = softmax(0.6 * f)
    sure, right = p.max(axis=1), p.argmax(axis=1) == labels
    total, bins = 0.0, 0
    for b in range(BINS):
        inside = (sure >= b / BINS) & (sure < (b + 1) / BINS)
        if inside.any():
            bins += 1
            total += inside.sum() / M * abs(sure[inside].mean() - right[inside].mean())
    assert found.calibration_error == pytest.approx(total)
    assert found.bins.shape == (bins, 3)
    assert found.bins[:, 0].sum() == M


def test_probabilities_drawn_from_are_calibrated_and_others_are_not():
    random = np.random.default_rng(2)
    f = 2 * random.standard_normal((20_000, K))
    p = softmax(f)
    labels = (p.cumsum(axis=1) > random.random((20_000, 1))).argmax(axis=1)
    assert evaluate(f, labels, 1.0).calibration_error < 0.015
    assert evaluate(f, labels, 4.0).calibration_error > 0.1
    assert softmax_scale(f, labels) == pytest.approx(1.0, rel=0.05)


def test_the_scale_has_the_lowest_loss():
    f, labels = outputs(3)
    best = softmax_scale(f, labels)
    losses = [evaluate(f, labels, s).log_loss for s in (0.98 * best, best, 1.02 * best)]
    assert losses[1] == min(losses)


def test_without_errors_the_scale_is_finite_and_leaves_no_loss():
    labels = np.arange(K)
    scale = softmax_scale(np.eye(K), labels)
    assert 30 < scale < 1e4
    assert evaluate(np.eye(K), labels, scale).log_loss < 1e-12


def test_a_confidence_of_one_lies_in_the_last_bin():
    found = evaluate(1e6 * np.eye(K), np.arange(K), 1.0)
    np.testing.assert_array_equal(found.bins, [[K, 1.0, 1.0]])


def test_bad_input_is_named():
    f, labels = outputs()
    with pytest.raises(InputError, match=r"\(M, K\) with M ≥ 1"):
        evaluate(f[:0], labels[:0], 1.0)
    with pytest.raises(InputError, match="NaN or infinity"):
        evaluate(np.where(f > 3, np.nan, f), labels, 1.0)
    with pytest.raises(InputError, match="one for each image"):
        evaluate(f, labels[:-1], 1.0)
