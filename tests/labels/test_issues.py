from __future__ import annotations

import functools

import numpy as np
import pytest

from ntkdist.data import symmetric
from ntkdist.errors import InputError
from ntkdist.labels import choose_ridge, find_label_issues, invert, label_report, refurbish

from .oracle import clustered, fully_connected_ntk

COLUMNS = [
    "index",
    "given_label",
    "suggested_label",
    "label_quality",
    "is_label_issue",
    "abstained",
    "round",
    "delta_loss",
]


def area_under_curve(positive: np.ndarray, score: np.ndarray) -> float:
    """Chance that a positive scores above a negative, ties counting half."""
    from scipy.stats import rankdata

    ranks, p = rankdata(score), positive.sum()
    return (ranks[positive].sum() - p * (p + 1) / 2) / (p * (~positive).sum())


def digits(n: int, noise: float, seed: int = 0):
    """(images (n, 8, 8, 1), noisy labels, true labels) of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    found = load_digits()
    true = found.target[:n].astype(np.int64)
    random = np.random.default_rng(seed)
    labels = true.copy()
    chosen = random.permutation(n)[: round(noise * n)]
    labels[chosen] = (labels[chosen] + random.integers(1, 10, len(chosen))) % 10
    return found.images[:n, ..., None], labels, true


def simple_gram(images: np.ndarray) -> np.ndarray:
    x = images.reshape(len(images), -1)
    x = x - x.mean(axis=0)
    x *= np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    return fully_connected_ntk(x, 1)


@functools.cache
def noisy(noise: float):
    """1000 digits: (Gram matrix, noisy labels, true labels, what is estimated from them)."""
    images, labels, true = digits(1000, noise)
    gram = simple_gram(images)
    return gram, labels, true, choose_ridge(gram, labels, 10)


@pytest.mark.slow(but="exact-0.1-0.98")
@pytest.mark.parametrize(("noise", "least"), [(0.1, 0.98), (0.3, 0.98), (0.5, 0.96)])
@pytest.mark.parametrize("method", ["posterior", "exact"])
def test_ranking_by_label_quality_finds_the_corrupted_digits(noise, least, method):
    gram, labels, true, found = noisy(noise)
    ridge = 1e-3 if method == "posterior" else found.ridge
    known = {"estimate": found.estimate, "steps": "auto"}
    result = refurbish(invert(gram, ridge), labels, 10, method=method, **known)
    report = label_report(labels, result)
    bad = labels != true
    quality = report["label_quality"].to_numpy()
    assert area_under_curve(bad, -quality) >= least
    assert (report["suggested_label"] == true).mean() >= 0.95
    # as probabilities, not only as a ranking
    edges = np.linspace(0, 1, 6)
    place = np.clip(np.digitize(quality, edges) - 1, 0, 4)
    gaps = [abs(quality[place == k].sum() - (~bad[place == k]).sum()) for k in range(5)]
    assert sum(gaps) / 1000 <= 0.05


@pytest.mark.slow
def test_quality_of_clean_digits_is_the_share_that_is_right():
    gram, labels, _, found = noisy(0.0)
    known = {"estimate": found.estimate, "steps": "auto"}
    result = refurbish(invert(gram, 1e-3), labels, 10, method="posterior", **known)
    assert (result.labels != labels).mean() <= 0.015
    p = result.to_pred_probs()
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert p.max(axis=1).mean() == pytest.approx((p.argmax(axis=1) == labels).mean(), abs=0.05)


def test_report_has_each_image_and_its_last_flip():
    A, labels, _ = clustered(200, 4, 0.4, 0)
    result = refurbish(A, labels, 4, method="paper", steps=60, noise_rate=0.4)
    assert result.reliability.verdict == "reliable"
    report = label_report(labels, result)
    assert list(report.columns) == COLUMNS
    assert report["index"].tolist() == list(range(200))
    np.testing.assert_array_equal(report["given_label"], labels)
    np.testing.assert_array_equal(report["suggested_label"], result.labels)
    np.testing.assert_array_equal(report["is_label_issue"], result.labels != labels)
    assert report["label_quality"].between(0, 1).all()
    last = {flip.index: flip for flip in result.history}
    for row in report.itertuples():
        if row.index in last:
            assert (row.round, row.delta_loss) == (
                last[row.index].step,
                last[row.index].delta_loss,
            )
        else:
            assert row.round == -1
            assert np.isnan(row.delta_loss)
            assert not row.is_label_issue


def test_report_refuses_a_result_of_other_images():
    A, labels, _ = clustered(21, 3, 0.3, 0)
    result = refurbish(A, labels, 3)
    with pytest.raises(InputError, match="the result is of 21 images, 20 labels are given"):
        label_report(labels[:20], result)


@pytest.mark.parametrize("architecture", ["fc-1", "cntk-gap-3"])
def test_finds_issues_straight_from_images(architecture):
    images, labels, true = digits(250, 0.2, seed=1)
    flips = []
    report = find_label_issues(images, labels, architecture=architecture, on_event=flips.append)
    bad = labels != true
    assert area_under_curve(bad, -report["label_quality"].to_numpy()) >= 0.95
    assert (report["suggested_label"] == true).mean() > (labels == true).mean() + 0.1
    assert len(flips) == report["round"].max()


def test_images_without_a_channel_axis_are_the_same_images():
    images, labels, _ = digits(60, 0.2)
    with_axis = find_label_issues(images, labels, architecture="fc-1", steps=5)
    without = find_label_issues(images[..., 0], labels, architecture="fc-1", steps=5)
    assert with_axis.equals(without)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [0, 1]}, "2 labels for 30 images"),
        (
            {"labels": [11] * 30, "num_classes": 10},
            r"label 11 at index 0 is outside the .* 0\.\.9",
        ),
        ({"labels": [-1] * 30}, "label -1 at index 0"),
        ({"images": np.zeros((1, 8, 8)), "labels": [0]}, "1 images; at least 2"),
        ({"architecture": "cntk-gpa-4"}, "did you mean"),
        ({"preprocess": "standardise"}, "did you mean"),
        ({"ridge": -1.0}, "ridge=-1.0 must be at least 0"),
        ({"ridge": "atuo"}, "ridge='atuo' must be at least 0.*or auto"),
        ({"confidence": 2}, "confidence=2 must be a number from 0 to 1"),
        ({"method": "papr"}, "did you mean 'paper'"),
        ({"steps": "all"}, "steps='all'"),
    ],
)
def test_bad_input_is_one_clear_line(change, said):
    images, labels, _ = digits(30, 0.0)
    options = {"images": images, "labels": labels, "architecture": "fc-1", **change}
    with pytest.raises(InputError, match=said) as raised:
        find_label_issues(options.pop("images"), options.pop("labels"), **options)
    assert "\n" not in str(raised.value)


def test_options_are_refused_before_the_kernel_is_computed(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("the kernel was computed")

    monkeypatch.setattr("ntkdist.kernels.kernel_matrix", never)
    images, labels, _ = digits(30, 0.0)
    for options in ({"method": "papr"}, {"beta": -1}, {"ridge": -1}, {"steps": -3}):
        with pytest.raises(InputError):
            find_label_issues(images, labels, **options)


def test_identical_images_without_a_ridge_are_explained():
    images, labels, _ = digits(20, 0.0)
    with pytest.raises(InputError, match=r"not positive definite at ridge=0.*raise the ridge"):
        find_label_issues(
            np.concatenate([images] * 2), [*labels, *labels], architecture="fc-1", ridge=0
        )


@pytest.mark.parametrize("row_bytes", [100, 2**26])
def test_inverse_with_a_ridge_relative_to_the_mean_diagonal(monkeypatch, row_bytes):
    monkeypatch.setattr("ntkdist.linalg.matrix.BAND_BYTES", row_bytes)
    x = np.random.default_rng(0).standard_normal((31, 60))
    gram = (x @ x.T).astype(np.float32)
    before = gram.copy()
    inverse = invert(gram, 0.1)
    wide = gram.astype(np.float64)
    shifted = wide + 0.1 * np.diagonal(wide).mean() * np.eye(31)
    np.testing.assert_allclose(inverse @ shifted, np.eye(31), atol=1e-10)
    assert (inverse == inverse.T).all()
    np.testing.assert_array_equal(gram, before)


def test_names_of_classes_are_numbered_in_their_order():
    images, labels, _ = digits(60, 0.2)
    names = [f"digit {label}" for label in labels]
    numbered = find_label_issues(images, labels, architecture="fc-1", num_classes=10)
    for given in (names, np.array(names), np.array(names, dtype=object)):
        found = find_label_issues(images, given, architecture="fc-1")
        assert found["given_class"].tolist() == names
        suggested = [f"digit {label}" for label in numbered["suggested_label"]]
        assert found["suggested_class"].tolist() == suggested
        assert found.drop(columns=["given_class", "suggested_class"]).equals(numbered)


@pytest.mark.parametrize("labels", [[print] * 30, [1j] * 30, [{}] * 30])
def test_labels_that_are_neither_numbers_nor_names_come_with_a_remedy(labels):
    images, _, _ = digits(30, 0.0)
    with pytest.raises(InputError, match="give integers from 0, or a name for each image"):
        find_label_issues(images, labels, architecture="fc-1")


def test_names_say_how_many_classes_there_are():
    images, labels, _ = digits(30, 0.0)
    with pytest.raises(InputError, match=r"num_classes=12, the labels name 10 classes; leave"):
        find_label_issues(images, [str(one) for one in labels], num_classes=12)
    with pytest.raises(InputError, match="number the classes from 0"):
        find_label_issues(images, labels + 0.5)


def features(n, rate, seed=0):
    """Rows around three centres, far from the origin, with a share of wrong labels."""
    rng = np.random.default_rng(seed)
    true = np.arange(n) % 3
    rows = 40 + 3 * rng.normal(size=(3, 24))[true] + rng.normal(size=(n, 24))
    labels, _ = symmetric(true, 3, rate, seed=seed)
    return rows, labels, true


@pytest.mark.slow(but="float16")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_features_are_judged_by_a_fully_connected_network_unless_another_is_given(dtype):
    rows, labels, true = features(150, 0.2)
    rows = rows.astype(dtype)
    found = find_label_issues(rows, labels)
    assert found.equals(find_label_issues(rows, labels, architecture="fc-2"))
    assert found.equals(find_label_issues(rows, labels, preprocess="center+unit-norm"))
    assert not found.equals(find_label_issues(rows, labels, architecture="fc-3"))
    assert area_under_curve(labels != true, -found["label_quality"].to_numpy()) >= 0.95


def test_images_are_standardised_and_judged_by_a_convolutional_network_unless_told_otherwise():
    images, labels, _ = digits(40, 0.2)
    found = find_label_issues(images, labels)
    assert found.equals(
        find_label_issues(images, labels, architecture="cntk-lap-6-2", preprocess="standardize")
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "cnn-2"}, "Conv is a layer for images, and the inputs are features"),
        ({"architecture": ["Flatten", {"AvgPool": {"size": 1}}, "Dense"]}, "comes after"),
        ({"preprocess": "halve"}, "features have none; leave halve away"),
        ({"labels": [0, 1]}, "2 labels for 30 rows"),
        ({"images": np.zeros((1, 8)), "labels": [0]}, "1 rows; at least 2"),
        ({"images": np.ones((30, 8))}, "all 30 rows of features are equal"),
        ({"images": np.ones((30, 1))}, "features have 1 column"),
        ({"images": np.full((30, 3), np.nan)}, "90 NaN and 0 infinite values, the first in row 0"),
        ({"images": np.ones((30, 3), complex)}, "features have dtype complex128"),
    ],
)
def test_bad_features_are_one_clear_line(change, said):
    rows, labels, _ = features(30, 0.0)
    options = {"images": rows, "labels": labels, **change}
    with pytest.raises(InputError, match=said) as raised:
        find_label_issues(options.pop("images"), options.pop("labels"), **options)
    assert "\n" not in str(raised.value)
