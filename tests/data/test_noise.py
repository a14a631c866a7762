"""Symmetric label noise: exact count, never the true label, uniform, seeded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntkdist.data.noise import symmetric
from ntkdist.errors import InputError


@given(
    num_classes=st.integers(2, 12),
    n=st.integers(0, 80),
    rate=st.floats(0, 1),
    seed=st.integers(0, 2**40),
)
def test_exactly_the_rate_and_never_the_true_label(num_classes, n, rate, seed):
    labels = np.random.default_rng(seed).integers(0, num_classes, n)
    before = labels.copy()
    noisy, corrupted = symmetric(labels, num_classes, rate, seed)
    assert corrupted.sum() == round(rate * n)
    np.testing.assert_array_equal(noisy != labels, corrupted)
    assert noisy.dtype == np.int64
    assert corrupted.dtype == np.bool_
    assert ((noisy >= 0) & (noisy < num_classes)).all()
    np.testing.assert_array_equal(labels, before)


def test_other_classes_are_drawn_uniformly():
    noisy, _ = symmetric(np.full(40_000, 2), 5, 1.0, seed=1)
    counts = np.bincount(noisy, minlength=5)
    assert counts[2] == 0
    # 10,000 expected each, standard deviation 87
    assert np.abs(counts[[0, 1, 3, 4]] - 10_000).max() < 400


def test_positions_are_drawn_uniformly():
    hits = sum(symmetric(np.zeros(10, int), 2, 0.3, seed)[1].astype(int) for seed in range(2000))
    # 600 expected, standard deviation 20
    assert np.abs(hits - 600).max() < 100


def test_seed_decides():
    labels = np.arange(500) % 10
    first = symmetric(labels, 10, 0.4, 3)[0]
    np.testing.assert_array_equal(first, symmetric(labels, 10, 0.4, 3)[0])
    assert not np.array_equal(first, symmetric(labels, 10, 0.4, 4)[0])


def test_rate_zero_changes_nothing_even_with_one_class():
    noisy, corrupted = symmetric([0, 0, 0], 1, 0.0)
    np.testing.assert_array_equal(noisy, [0, 0, 0])
    assert not corrupted.any()


@pytest.mark.parametrize(
    ("labels", "num_classes", "rate", "message"),
    [
        ([0, 1], 2, 1.5, r"noise rate 1.5 is outside 0..1; 0.3 corrupts 30 %"),
        ([0, 1], 2, -0.1, "noise rate -0.1 is outside 0..1"),
        ([0, 1], 2, float("nan"), "noise rate nan is outside 0..1"),
        ([0, 0], 1, 0.01, "noise rate 0.01 with one class: there is no other class to draw"),
        ([0, 2], 2, 0.5, "label 2 at index 1 is outside the classes 0..1"),
        ([0.0, 1.0], 2, 0.5, "labels have dtype float64"),
        ([[0], [1]], 2, 0.5, r"labels have shape \(2, 1\)"),
    ],
)
def test_bad_input(labels, num_classes, rate, message):
    with pytest.raises(InputError, match=message):
        symmetric(labels, num_classes, rate)


def test_bad_seed():
    with pytest.raises(InputError, match="seed = -3"):
        symmetric([0, 1], 2, 0.5, -3)
