from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ntkdist.errors import InputError
from ntkdist.labels import class_bias, class_matrix, rank_biased_overlap

from .oracle import inverse_of


def extended(a, b, p, depth=3000):
    """RBO of two lists of one length, by its definition, the last agreement going on."""
    k, total = len(a), 0.0
    for d in range(1, depth + 1):
        e = min(d, k)
        agreement = len(set(a[:e]) & set(b[:e])) / e
        total += p ** (d - 1) * agreement
    return (1 - p) * total


def webber(short, long, p):
    """Equation 32 of Webber et al. 2010, term by term."""
    s, l = len(short), len(long)
    X = [len(set(long[:d]) & set(short[: min(d, s)])) for d in range(1, l + 1)]
    total = sum(X[d - 1] / d * p**d for d in range(1, l + 1))
    total += sum(X[s - 1] * (d - s) / (s * d) * p**d for d in range(s + 1, l + 1))
    return (1 - p) / p * total + ((X[l - 1] - X[s - 1]) / l + X[s - 1] / s) * p**l


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    a=st.integers(1, 12),
    b=st.integers(1, 12),
    p=st.sampled_from([0.1, 0.5, 0.9, 0.98]),
)
def test_overlap_is_that_of_the_formula(seed, a, b, p):
    random = np.random.default_rng(seed)
    first, second = random.permutation(15)[:a].tolist(), random.permutation(15)[:b].tolist()
    found = rank_biased_overlap(first, second, p)
    short, long = sorted((first, second), key=len)
    assert found == pytest.approx(webber(short, long, p), abs=1e-12)
    assert found == pytest.approx(rank_biased_overlap(second, first, p), abs=1e-12)
    assert -1e-12 <= found <= 1 + 1e-12
    if a == b:
        assert found == pytest.approx(extended(first, second, p), abs=1e-9)


def test_equal_lists_agree_and_disjoint_ones_do_not():
    assert rank_biased_overlap("abcd", "abcd") == pytest.approx(1)
    assert rank_biased_overlap("abcd", "efgh") == 0
    assert rank_biased_overlap([(0, 1), (2, 3)], np.array([[0, 1], [2, 3]])) == pytest.approx(1)


def test_the_first_places_count_most():
    same = list(range(10))
    early, late = [1, 0, *same[2:]], [*same[:8], 9, 8]
    assert rank_biased_overlap(same, early) < rank_biased_overlap(same, late) < 1


@pytest.mark.parametrize(
    ("a", "b", "p", "said"),
    [
        ("ab", "ab", 1.0, "p=1.0 must be a number above 0 and below 1"),
        ("ab", "ab", 0.0, "p=0.0"),
        ("ab", "ab", "high", "p='high' must be a number above 0"),
        ("ab", "ab", float("nan"), "p=nan"),
        ("", "ab", 0.9, "ranking a is empty"),
        ("ab", "aa", 0.9, "ranking b holds 'a' twice"),
    ],
)
def test_bad_rankings_are_refused(a, b, p, said):
    with pytest.raises(InputError, match=said):
        rank_biased_overlap(a, b, p)


def test_the_class_in_the_middle_is_hardest_and_neighbours_are_most_entangled():
    # four clusters on a line at 0, 1, 2 and 6: 1 lies between 0 and 2, 3 far away
    random = np.random.default_rng(0)
    counts = np.array([40, 25, 30, 50])
    labels = np.repeat(np.arange(4), counts)
    x = np.array([0.0, 1.0, 2.0, 6.0])[labels][:, None] + 0.35 * random.standard_normal((145, 1))
    A = inverse_of(np.exp(-((x - x.T) ** 2) / 2), 1e-2)
    _, Z = class_matrix(A, labels, 4)
    found = class_bias(Z, counts)
    assert found.intra[0] == 1
    assert found.intra[-1] == 3
    assert {tuple(pair) for pair in found.inter[:2]} == {(0, 1), (1, 2)}
    assert all(3 in pair for pair in found.inter[-2:])
    np.testing.assert_allclose(found.intra_scores, np.diagonal(Z) / (counts * (counts - 1)))
    assert found.inter_scores[0, 2] == pytest.approx(abs(Z[0, 2]) / (40 * 30))


@pytest.mark.slow(but="0")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_most_entangled_pairs_are_those_confused_when_left_out(seed):
    random = np.random.default_rng(seed)
    K, n = 8, 240
    labels = np.repeat(np.arange(K), n // K)
    x = random.standard_normal((K, 3))[labels] + 0.8 * random.standard_normal((n, 3))
    H = np.exp(-((x[:, None] - x) ** 2).sum(axis=2) / 4)
    A = inverse_of(H, 1e-1)
    _, Z = class_matrix(A, labels, K)
    found = class_bias(Z, np.full(K, n // K))
    H = H + 1e-1 * np.eye(n)
    confused = np.zeros((K, K))
    for i in range(n):  # predicted from all others, not from Z
        others = np.delete(np.arange(n), i)
        f = np.linalg.solve(H[np.ix_(others, others)], H[others, i]) @ np.eye(K)[labels[others]]
        confused[labels[i], f.argmax()] += 1
    upper = np.triu_indices(K, 1)
    mistakes = (confused + confused.T)[upper]
    worst = np.array(upper).T[np.argsort(-mistakes, kind="stable")]
    assert rank_biased_overlap(found.inter, worst) > 0.6
    assert rank_biased_overlap(found.inter[::-1], worst) < 0.3
    errors = 1 - np.diagonal(confused) / (n // K)
    hardest = np.argsort(-errors, kind="stable")
    assert rank_biased_overlap(found.intra, hardest) > 0.75
    assert rank_biased_overlap(found.intra[::-1], hardest) < 0.65


def test_classes_without_members_have_no_place():
    Z = np.diag([1.0, 2.0, 3.0, 0.0])
    found = class_bias(Z, [5, 1, 4, 0])
    assert found.intra.tolist() == [2, 0]
    assert found.inter.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert np.isnan(found.intra_scores[[1, 3]]).all()


def test_bad_matrices_are_refused():
    for Z, n in ((np.ones((2, 3)), [1, 1]), (np.ones((2, 2)), [1]), (np.eye(2) * np.nan, [1, 1])):
        with pytest.raises(InputError):
            class_bias(Z, n)
