"""Subsets: balance, determinism, order, limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ntkdist.data.sampling import select
from ntkdist.errors import InputError

label_lists = st.lists(st.integers(0, 6), min_size=2, max_size=60).map(np.array)
seeds = st.integers(0, 2**63)


@given(label_lists, seeds, st.data())
def test_balanced_sizes_differ_by_at_most_one_unless_a_class_runs_out(labels, seed, data):
    n = data.draw(st.integers(2, len(labels)))
    chosen = select(labels, n, "balanced", seed)
    assert chosen.dtype == np.int64
    assert len(chosen) == n
    assert np.all(np.diff(chosen) > 0)
    available = np.bincount(labels, minlength=7)
    taken = np.bincount(labels[chosen], minlength=7)
    with_more = available > taken
    if with_more.any():
        # only a class that is used up may be smaller than the others
        assert taken[with_more].max() - taken[with_more].min() <= 1
        assert taken.max() - taken[with_more].min() <= 1


@given(label_lists, seeds)
def test_balanced_with_all_is_the_identity(labels, seed):
    np.testing.assert_array_equal(
        select(labels, len(labels), "balanced", seed), np.arange(len(labels))
    )


@given(label_lists, seeds, st.data())
def test_a_larger_balanced_subset_contains_the_smaller(labels, seed, data):
    n = data.draw(st.integers(2, len(labels)))
    m = data.draw(st.integers(2, n))
    assert set(select(labels, m, "balanced", seed)) <= set(select(labels, n, "balanced", seed))


def test_the_seed_decides_which_images_are_chosen():
    labels = np.arange(300) % 3
    a = select(labels, 30, "balanced", 5)
    np.testing.assert_array_equal(a, select(labels, 30, "balanced", 5))
    assert not np.array_equal(a, select(labels, 30, "balanced", 6))


def test_every_image_of_a_class_is_equally_likely():
    labels = np.zeros(10, dtype=int)
    hits = np.bincount(
        np.concatenate([select(labels, 2, "balanced", seed) for seed in range(2000)]), minlength=10
    )
    # 400 expected, standard deviation 18
    assert np.abs(hits - 400).max() < 90


def test_first_takes_the_first_and_is_the_default():
    labels = np.array([4, 4, 1, 0, 2])
    np.testing.assert_array_equal(select(labels, 3), [0, 1, 2])
    np.testing.assert_array_equal(select(labels, 3, "first", 9), [0, 1, 2])


@pytest.mark.parametrize("how", ["first", "balanced"])
def test_n_none_takes_all(how):
    np.testing.assert_array_equal(select([3, 1, 3], None, how), [0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((6,), "n = 6 images, but there are only 5; use at most 5"),
        ((1,), "n=1 must be a whole number of at least 2"),
        ((2.5,), "n=2.5 must be"),
        ((True,), "n=True must be"),
        ((3, "balance"), "subset='balance' is not one of first, balanced; did you mean 'bal"),
        ((3, "balanced", -1), "seed=-1 must be a whole number of at least 0"),
        ((3, "first", 0.5), "seed=0.5 must be"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        select([0, 1, 0, 1, 2], *arguments)


def test_labels_of_two_dimensions_are_refused():
    with pytest.raises(InputError, match=r"labels have shape \(2, 2\)"):
        select([[0, 1], [1, 0]], 2)
