"""Label noise: exact count, never the true label, seeded; uniform or by pairs of classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ntkdist.data.sampling import asymmetric, symmetric
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


def test_the_seed_decides_which_labels_change():
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
        ([0.5, 1.0], 2, 0.5, "label 0.5 at index 0"),
        ([[0, 1]], 2, 0.5, r"labels have shape \(1, 2\)"),
    ],
)
def test_bad_input_is_refused(labels, num_classes, rate, message):
    with pytest.raises(InputError, match=message):
        symmetric(labels, num_classes, rate)


def test_a_bad_seed_is_refused():
    with pytest.raises(InputError, match="seed=-3"):
        symmetric([0, 1], 2, 0.5, -3)


def mappings(num_classes):
    classes = st.integers(0, num_classes - 1)
    pairs = st.dictionaries(classes, classes, min_size=1)
    return pairs.map(lambda m: {a: b if a != b else (b + 1) % num_classes for a, b in m.items()})


@pytest.mark.slow
@given(
    case=st.integers(2, 8).flatmap(lambda K: st.tuples(st.just(K), mappings(K))),
    n=st.integers(0, 80),
    rate=st.floats(0, 1),
    seed=st.integers(0, 2**40),
)
def test_pairs_take_the_rate_of_each_source_class(case, n, rate, seed):
    num_classes, mapping = case
    labels = np.random.default_rng(seed).integers(0, num_classes, n)
    before = labels.copy()
    noisy, corrupted = asymmetric(labels, num_classes, rate, mapping, seed)
    for k in range(num_classes):
        moved = noisy[labels == k]
        expected = round(rate * len(moved)) if k in mapping else 0
        assert corrupted[labels == k].sum() == expected
        assert set(moved[moved != k]) <= {mapping.get(k)}
    np.testing.assert_array_equal(noisy != labels, corrupted)
    assert noisy.dtype == np.int64
    assert corrupted.dtype == np.bool_
    np.testing.assert_array_equal(labels, before)


def test_pairs_may_be_confused_with_each_other():
    noisy, _ = asymmetric([5, 5, 6, 6, 0], 7, 1.0, {5: 6, 6: 5})
    np.testing.assert_array_equal(noisy, [6, 6, 5, 5, 0])


def test_pairs_positions_are_drawn_uniformly():
    labels = np.repeat([0, 1], 10)
    hits = sum(asymmetric(labels, 2, 0.3, {1: 0}, seed)[1].astype(int) for seed in range(2000))
    assert not hits[:10].any()
    # 600 expected, standard deviation 20
    assert np.abs(hits[10:] - 600).max() < 100


def test_pairs_the_seed_alone_decides():
    labels = np.arange(500) % 10
    first = asymmetric(labels, 10, 0.4, {7: 1, 2: 7}, 3)[0]
    np.testing.assert_array_equal(first, asymmetric(labels, 10, 0.4, {2: 7, 7: 1}, 3)[0])
    assert not np.array_equal(first, asymmetric(labels, 10, 0.4, {7: 1, 2: 7}, 4)[0])


def test_pairs_at_rate_zero_change_nothing_even_without_any():
    noisy, corrupted = asymmetric([0, 1, 1], 2, 0.0, {})
    np.testing.assert_array_equal(noisy, [0, 1, 1])
    assert not corrupted.any()


def test_pairs_take_numpy_integers():
    noisy, _ = asymmetric(np.array([0, 1], np.uint8), 2, 1.0, {np.int32(0): np.int64(1)})
    np.testing.assert_array_equal(noisy, [1, 1])


@pytest.mark.parametrize(
    ("labels", "rate", "mapping", "message"),
    [
        ([0, 1], 1.5, {0: 1}, r"noise rate 1.5 is outside 0..1; 0.3 corrupts 30 %"),
        ([0, 1], float("nan"), {0: 1}, "noise rate nan is outside 0..1"),
        ([0, 3], 0.5, {0: 1}, "label 3 at index 1 is outside the classes 0..2"),
        ([0.5, 1.0], 0.5, {0: 1}, "label 0.5 at index 0"),
        ([[0, 1]], 0.5, {0: 1}, r"labels have shape \(1, 2\)"),
        ([0, 1], 0.5, {}, r"noise rate 0.5 with an empty mapping: .* name some"),
        ([0, 1], 0.5, {0: 3}, "mapping 0 → 3: 3 is not one of the classes 0..2"),
        ([0, 1], 0.0, {-1: 1}, "mapping -1 → 1: -1 is not one of the classes 0..2"),
        ([0, 1], 0.5, {0: 1.0}, r"mapping 0 → 1.0: 1.0 is not one of the classes 0..2"),
        ([0, 1], 0.5, {True: 0}, "mapping True → 0: True is not one of the classes 0..2"),
        ([0, 1], 0.5, {1: 1}, "mapping 1 → 1: a class cannot be confused with itself"),
        ([0, 1], 0.5, [(0, 1)], r"mapping = \[\(0, 1\)\]; class → other class is needed"),
    ],
)
def test_bad_pairs_are_refused(labels, rate, mapping, message):
    with pytest.raises(InputError, match=message):
        asymmetric(labels, 3, rate, mapping)


def test_a_bad_seed_is_refused_for_pairs():
    with pytest.raises(InputError, match="seed=-3"):
        asymmetric([0, 1], 2, 0.5, {0: 1}, -3)
