"""Label-aware kernels against the sums, features and least squares they stand for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.linalg import hadamard

from ntkdist.errors import InputError
from ntkdist.learning.label_aware import (
    VARIANTS,
    choose_multiplier,
    fold_numbers,
    held_out_values,
    label_aware,
    label_aware_kernel,
    label_part,
    local_elasticity,
)
from ntkdist.learning.pairs import (
    Fjlt,
    PairFeatures,
    Pairs,
    pair_regression,
    pixel_pairs,
    sketch_rows,
    walsh_hadamard,
)

KR, FJLT = ("kr-v1", "kr-v2"), ("fjlt-v1", "fjlt-v2")


def data(n=23, m=7, seed=0, shape=(3, 3, 1), apart=1.0):
    """Return training pairs, labels, test pairs, and the images of both."""
    random = np.random.default_rng(seed)
    y = np.where(np.arange(n + m) % 3 == 0, 1, -1)
    d = math.prod(shape)
    x = random.standard_normal((n + m, d)) + apart * y[:, None] * random.standard_normal(d)
    x = x.reshape(-1, *shape)
    flat = x.reshape(n + m, -1)
    H = np.exp(-0.05 * ((flat[:, None] - flat) ** 2).sum(axis=2))
    whole = Pairs(H, pixel_pairs(x))
    train, test = np.arange(n), np.arange(n, n + m)
    return whole.take(train, train), y[:n], whole.take(test, train), x


def brute_vote(H, v, h):
    """Z̃ by the published double sum, one entry at a time."""
    low, high = H.min(), H.max()
    out = np.empty(h.shape)
    for place in np.ndindex(*h.shape):
        entry = min(max(h[place], low), high)
        above = below = 0.0
        for i, j in itertools.product(range(len(H)), repeat=2):
            w = (high - low) ** 2 - (entry - H[i, j]) ** 2
            above += w * v[i] * v[j]
            below += w
        out[place] = above / below
    return out


@pytest.mark.parametrize("variant", KR)
def test_votes_are_the_published_double_sum(variant):
    train, y, test, _ = data(11, 4)
    v = y if variant == "kr-v1" else np.linalg.solve(train.kernel, y)
    Z, Z_test = label_part(train, y, test, variant=variant)
    np.testing.assert_allclose(Z, brute_vote(train.kernel, v, train.kernel), rtol=1e-9)
    np.testing.assert_allclose(Z_test, brute_vote(train.kernel, v, test.kernel), rtol=1e-9)


def test_votes_keep_their_digits_far_from_zero():
    train, y, test, _ = data(11, 4)
    near, _ = label_part(train, y, test, variant="kr-v1")
    far = Pairs(train.kernel + 1e4)
    moved, _ = label_part(far, y, Pairs(test.kernel + 1e4), variant="kr-v1")
    np.testing.assert_allclose(moved, near, rtol=1e-7)


def test_a_test_entry_outside_the_range_counts_as_its_end():
    train, y, _, _ = data(9, 2)
    H = train.kernel
    low, high = H.min(), H.max()
    outside = Pairs(np.array([[low - 5, high + 3, low, high] + [low] * 5]))
    Z = label_part(train, y, outside, variant="kr-v1")[1][0]
    assert (Z[0], Z[1]) == (Z[2], Z[3])


def test_features_are_what_their_names_say():
    train, _, test, x = data(13, 5, shape=(2, 3, 2))
    flat = x.reshape(18, -1)
    fit, n = flat[:13], 13
    features = PairFeatures(train, 5)
    squared = ((fit[:, None] - fit) ** 2).sum(axis=2)
    centred = fit - fit.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:5]
    for rows, pairs in ((fit, train), (flat[n:], test)):
        expected = np.empty((20, len(rows), n))
        for i, j in np.ndindex(len(rows), n):
            a, b = rows[i], fit[j]
            cosine = min(max(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1), 1)
            p, q = axes @ (a - fit.mean(axis=0)), axes @ centred[j]
            expected[:, i, j] = [
                pairs.kernel[i, j],
                a @ b,
                cosine,
                np.sum((a - b) ** 2),
                np.linalg.norm(a) * np.linalg.norm(b),
                math.sqrt(1 - cosine**2),
                math.acos(cosine),
                math.exp(-np.sum((a - b) ** 2) / squared.mean()),
                np.corrcoef(a, b)[0, 1],
                np.abs(a - b).sum(),
                *(p * q),
                *np.abs(p - q),
            ]
        found = np.array(list(features.of(pairs)))
        # sine and angle of an image with itself are roots of rounding errors
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)
    assert len(list(PairFeatures(train, 0).of(test))) == 10


def test_images_without_norm_or_contrast_have_no_correlation_but_features():
    x = np.random.default_rng(0).standard_normal((6, 4))
    x[1], x[2] = 0.0, 3.0
    train = Pairs(np.eye(6), pixel_pairs(x))
    found = np.array(list(PairFeatures(train, 5).of(train)))
    assert np.isfinite(found).all()
    assert len(found) == 10 + 2 * 4  # four pixels span four components
    assert not found[2, 1].any()  # cosine with the zero image
    assert not found[8, 1:3].any()  # correlation with the zero and the constant one


@pytest.mark.parametrize("order", [0, 1, 5, 7, 9])
def test_the_transform_is_the_product_with_a_hadamard_matrix(order):
    x = np.random.default_rng(order).standard_normal(2**order)
    np.testing.assert_allclose(walsh_hadamard(x), hadamard(2**order) @ x, atol=1e-12)


def test_the_sketch_is_linear_and_keeps_lengths():
    random = np.random.default_rng(0)
    x, z = random.standard_normal((2, 5000))
    sketch = Fjlt(5000, 3000, 11, seed=1)
    np.testing.assert_allclose(sketch(2 * x - z), 2 * sketch(x) - sketch(z), atol=1e-12)
    assert len(sketch(x)) == 3000
    assert np.linalg.norm(sketch(x)) == pytest.approx(np.linalg.norm(x), rel=0.06)
    # neither a single entry nor a constant, one coefficient of a Hadamard matrix, escapes
    for column in (np.eye(1, 5000, 17)[0], np.ones(5000)):
        assert np.linalg.norm(sketch(column)) == pytest.approx(np.linalg.norm(column), rel=0.06)


def test_the_sketch_has_the_published_number_of_rows():
    assert sketch_rows(11, 0.01) == math.floor(math.log(11) / 0.01**2) == 23978
    assert sketch_rows(21, 0.01) == 30445


@pytest.mark.parametrize("variant", FJLT)
def test_without_sketch_it_is_least_squares_over_all_pairs(variant):
    train, y, test, _ = data(31, 6)
    features = PairFeatures(train, VARIANTS[variant])
    # all n² ordered pairs, as published
    A = np.array([f.ravel() for f in features.of(train)]).T
    b = np.outer(y, y).ravel()
    weights = np.linalg.lstsq(A, b)[0]
    Z, Z_test = label_part(train, y, test, variant=variant)  # 496 pairs are less than k
    np.testing.assert_allclose(Z.ravel(), A @ weights, atol=1e-8)
    B = np.array([f.ravel() for f in features.of(test)]).T
    np.testing.assert_allclose(Z_test.ravel(), B @ weights, atol=1e-8)


@pytest.mark.slow
def test_a_sketch_comes_close_and_closer_with_more_rows():
    train, y, _, _ = data(120, 2, seed=3)
    features = PairFeatures(train, 5)
    A = np.array([f.ravel() for f in features.of(train)]).T
    b = np.outer(y, y).ravel()
    least = np.linalg.norm(A @ np.linalg.lstsq(A, b)[0] - b)
    excess = []
    for epsilon in (0.2, 0.05):
        found = [
            pair_regression(features.of(train), np.outer(y, y), 20, epsilon=epsilon, seed=seed)
            for seed in range(3)
        ]
        excess.append(np.mean([np.linalg.norm(A @ w - b) for w in found]) / least - 1)
    assert 0 < excess[1] < 0.03 < excess[0] < 1


def test_features_that_depend_on_each_other_have_a_solution():
    train, y, test, x = data(15, 4)
    x = x.reshape(19, -1)
    x /= np.linalg.norm(x, axis=1, keepdims=True)  # the product of norms is 1 throughout
    whole = pixel_pairs(x)
    train = Pairs(train.kernel, whole.take(np.arange(15), np.arange(15)))
    test = Pairs(test.kernel, whole.take(np.arange(15, 19), np.arange(15)))
    Z, Z_test = label_part(train, y, test, variant="fjlt-v1")
    assert np.isfinite(Z).all()
    assert np.isfinite(Z_test).all()
    assert np.abs(Z).max() < 10


@pytest.mark.parametrize("variant", VARIANTS)
def test_swapping_the_classes_changes_nothing(variant):
    train, y, test, _ = data()
    parts = [label_part(train, sign * y, test, variant=variant) for sign in (1, -1)]
    for one, other in zip(*parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    found = [label_aware(train, s * y, test, variant=variant, multiplier=0.01) for s in (1, -1)]
    np.testing.assert_allclose(found[0].values, -found[1].values, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_part_is_scaled_to_a_share_of_the_kernel(variant):
    train, y, test, _ = data()
    part = label_part(train, y, test, variant=variant)
    K = label_aware_kernel(train, test, part, 0.3)
    assert np.abs(K.train - train.kernel).mean() == pytest.approx(0.3 * np.abs(train.kernel).mean())
    np.testing.assert_allclose(K.test, test.kernel + K.scale * part[1])
    plain = label_aware_kernel(train, test, part, 0.0)
    np.testing.assert_array_equal(plain.train, train.kernel)


@pytest.mark.parametrize("variant", VARIANTS)
def test_held_out_images_are_predicted_without_their_labels(variant):
    train, y, _, _ = data(33)
    fold = np.arange(33) % 5
    ladder = (0.0, 0.01, 0.1)
    values, _, _ = held_out_values(train, y, fold, variant=variant, multipliers=ladder)
    held = fold == 2
    changed = np.where(held, -y, y)
    again, _, _ = held_out_values(train, changed, fold, variant=variant, multipliers=ladder)
    np.testing.assert_array_equal(again[:, held], values[:, held])
    assert not np.allclose(again[:, ~held], values[:, ~held])


@pytest.mark.parametrize("variant", ["kr-v2", "fjlt-v2"])
def test_a_fold_is_a_prediction_from_the_others(variant):
    train, y, _, _ = data(33)
    fold = np.arange(33) % 4
    values, _, _ = held_out_values(train, y, fold, variant=variant, multipliers=(0.02,))
    rest, held = np.flatnonzero(fold != 1), np.flatnonzero(fold == 1)
    found = label_aware(
        train.take(rest, rest), y[rest], train.take(held, rest), variant=variant, multiplier=0.02
    )
    np.testing.assert_allclose(values[0, held], found.values, rtol=1e-10)


def test_the_choice_is_the_most_accurate_multiplier():
    train, y, _, _ = data(60, seed=5, apart=0.5)
    choice = choose_multiplier(train, y, variant="fjlt-v1", folds=4, seed=2)
    values, solved, definite = held_out_values(
        train, y, fold_numbers(y, 4, 2), variant="fjlt-v1", multipliers=choice.multipliers, seed=2
    )
    assert solved.all()
    np.testing.assert_array_equal(choice.definite, definite)
    np.testing.assert_allclose(choice.accuracy, [np.mean((v >= 0) == (y > 0)) for v in values])
    np.testing.assert_allclose(choice.error, np.mean((values - y) ** 2, axis=1))
    best = choice.accuracy == choice.accuracy.max()
    expected = choice.multipliers[best][choice.error[best].argmin()]
    assert choice.multiplier == expected
    assert choice.best_accuracy == choice.accuracy.max()


def test_a_multiplier_that_leaves_a_singular_kernel_is_passed_over(monkeypatch):
    y = np.resize([1, -1], 24)
    train = Pairs(np.eye(24))
    monkeypatch.setattr(
        "ntkdist.learning.label_aware.label_part",
        lambda train, y, test, **_: (-train.kernel, -test.kernel),
    )
    ladder = (0.0, 1.0, 2.0)  # K = (1 − r) H
    choice = choose_multiplier(train, y, variant="kr-v1", multipliers=ladder, folds=2)
    assert choice.multipliers.tolist() == [0, 2]
    assert choice.definite.tolist() == [True, False]
    with pytest.raises(InputError, match="each gives a singular kernel"):
        choose_multiplier(train, y, variant="kr-v1", multipliers=(1.0,), folds=2)


def test_folds_deal_out_each_class_evenly():
    y = np.array([1] * 13 + [-1] * 22)
    fold = fold_numbers(y, 5, seed=1)
    for label, least in ((1, 2), (-1, 4)):
        counts = np.bincount(fold[y == label], minlength=5)
        assert set(counts) <= {least, least + 1}
    assert (fold != fold_numbers(y, 5, seed=2)).any()


def test_predictions_are_those_of_kernel_regression():
    train, y, test, _ = data()
    plain = label_aware(train, y, test, multiplier=0)
    assert plain.scale == 0
    expected = test.kernel @ np.linalg.solve(train.kernel, y)
    np.testing.assert_allclose(plain.values, expected, rtol=1e-8)
    assert plain.ridge == 0
    assert plain.elasticity == pytest.approx(local_elasticity(train.kernel, y))
    np.testing.assert_array_equal(plain.labels, np.where(expected >= 0, 1, -1))


def test_a_kernel_that_is_not_positive_definite_gets_the_least_ridge_that_helps():
    train, y, test, _ = data()
    values, vectors = np.linalg.eigh(train.kernel)
    values[0] = -3e-4 * np.trace(train.kernel) / len(y)
    H = (vectors * values) @ vectors.T
    found = label_aware(Pairs((H + H.T) / 2), y, Pairs(test.kernel), variant="kr-v1", multiplier=0)
    assert found.ridge == 1e-3
    assert found.definite
    with pytest.raises(InputError, match="not positive definite with any ridge"):
        label_aware(Pairs(-H), y, Pairs(test.kernel), variant="kr-v1", multiplier=0)


def test_a_label_aware_kernel_that_is_not_definite_is_solved_without_a_ridge():
    train, y, test, _ = data()
    part = label_part(train, y, test, variant="fjlt-v1")
    K = label_aware_kernel(train, test, part, 50.0)
    assert np.linalg.eigvalsh(K.train)[0] < 0
    found = label_aware(train, y, test, variant="fjlt-v1", multiplier=50.0)
    assert (found.ridge, found.definite) == (0, False)
    np.testing.assert_allclose(found.values, K.test @ np.linalg.solve(K.train, y), rtol=1e-7)


def test_labels_help_where_the_kernel_does_not_see_the_classes():
    """Only a direction of small variance tells the classes; pair features of images find it."""
    random = np.random.default_rng(0)
    y = np.where(np.arange(160) % 2, 1, -1)
    x = random.standard_normal((160, 12))
    x[:, 0] = 2.5 * y + random.standard_normal(160)
    noise = np.exp(-0.5 * ((x[:, None, 1:] - x[None, :, 1:]) ** 2).mean(axis=2))
    whole = Pairs(noise, pixel_pairs(x))
    a, b = np.arange(120), np.arange(120, 160)
    train, test = whole.take(a, a), whole.take(b, a)
    right = []
    for multiplier in (0.0, None):
        found = label_aware(
            train, y[a], test, variant="fjlt-v2", multiplier=multiplier, multipliers=(0, 0.01, 0.03)
        )
        right.append(np.mean(found.labels == y[b]))
    assert right[0] < 0.7 < 0.85 < right[1]


def test_local_elasticity_is_one_half_without_classes_and_more_with_them():
    y = np.array([1, 1, -1, -1, -1])
    flat = np.full((5, 5), 0.4) + 0.6 * np.eye(5)
    assert local_elasticity(flat, y) == pytest.approx(0.5)
    scale = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    H = np.where(np.equal.outer(y, y), 0.6, 0.2) + 0.4 * np.eye(5)
    assert local_elasticity(H * np.outer(scale, scale), y) == pytest.approx(0.6 / 0.8)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.arange(23) % 3, "labels hold 3 values .0, 1, 2.; .* choose a pair of classes"),
        (np.arange(23) % 2, "labels hold 2 values .0, 1."),
        (np.ones(23), "labels hold 1 values"),
        (np.where(np.arange(22) % 2, 1, -1), "22 labels need .22, 22."),
        (["cat"] * 23, "give −1 or 1 an image"),
    ],
)
def test_labels_that_are_not_of_two_classes_are_refused(labels, said):
    train, _, test, _ = data()
    with pytest.raises(InputError, match=said):
        label_aware(train, labels, test, variant="kr-v1", multiplier=0.1)


def test_what_does_not_fit_is_refused():
    train, y, test, x = data()

    def refused(said, call):
        with pytest.raises(InputError, match=said):
            call()

    bare = Pairs(train.kernel), Pairs(test.kernel)
    refused("give the images", lambda: label_part(bare[0], y, bare[1], variant="fjlt-v1"))
    refused("variant='kr-v' is not one of", lambda: label_part(train, y, test, variant="kr-v"))
    refused("columns are the 23", lambda: label_part(train, y, Pairs(np.eye(4)), variant="kr-v1"))
    refused(
        "distinguishes images",
        lambda: label_part(Pairs(np.ones((23, 23))), y, test, variant="kr-v1"),
    )
    refused("epsilon=0", lambda: label_part(train, y, test, variant="kr-v1", epsilon=0))
    refused("multipliers=.-0.1.", lambda: label_aware(train, y, test, multiplier=-0.1))
    refused("folds=9 .* from 2 to 8", lambda: choose_multiplier(train, y, variant="kr-v1", folds=9))
    refused("NaN or infinity", lambda: Pairs(np.full((3, 3), np.nan)))
    refused("images make pairs", lambda: Pairs(np.eye(4), pixel_pairs(x)))
    refused("of one shape", lambda: pixel_pairs(x, x[:, :2]))
    refused("hold NaN", lambda: pixel_pairs(np.full((2, 3), np.inf)))
    equal = Pairs(train.kernel, pixel_pairs(np.ones((23, 9))))
    refused("training images are equal", lambda: label_part(equal, y, test, variant="fjlt-v1"))
    refused("two images of one", lambda: local_elasticity(np.eye(3), np.ones(3)))
    refused(
        "diagonal has an entry 0", lambda: local_elasticity(np.zeros((3, 3)), np.array([1, 1, -1]))
    )
    refused("add up to no more", lambda: local_elasticity(np.eye(3), np.array([1, 1, -1])))
