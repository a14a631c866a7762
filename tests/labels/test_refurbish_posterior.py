"""``refurbish(method="posterior")``: every label decided at once, from solutions and a diagonal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ntkdist.labels import class_matrix, find_label_issues, refurbish
from ntkdist.labels.posterior import ROUNDS, class_posterior
from ntkdist.labels.refurbish import _changes_alone
from ntkdist.linalg import factorize

from .oracle import clustered, loss


class SolutionsOnly:
    """An inverse that gives solutions and its diagonal, and raises when asked for a column."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape = array.shape
        self.solved = 0

    def diagonal(self) -> np.ndarray:
        return np.diagonal(self._array)

    def columns(self, indices: np.ndarray) -> np.ndarray:
        raise AssertionError("asked for a column")

    def solve(self, b: np.ndarray) -> np.ndarray:
        self.solved += 1
        return self._array @ b


def decided(A, labels, K, **options):
    """The labels by the definition of the posterior, and the images in order of sureness."""
    G, _ = class_matrix(A, labels, K)
    found = class_posterior(A, np.diagonal(A).copy(), G, labels, rounds=ROUNDS, **options)
    q, rows = found.probabilities, np.arange(len(labels))
    changed = np.flatnonzero(q.max(axis=1) > q[rows, labels])
    order = changed[np.argsort(q[changed, labels[changed]], kind="stable")]
    out = labels.copy()
    out[changed] = q[changed].argmax(axis=1)
    return out, order


@pytest.mark.parametrize("seed", range(4))
def test_labels_are_the_most_probable_classes_the_most_probable_change_first(seed):
    A, labels, _ = clustered(150, 5, 0.4, seed)
    expected, order = decided(A, labels, 5, noise_rate=0.4)
    result = refurbish(A, labels, 5, method="posterior", noise_rate=0.4)
    np.testing.assert_array_equal(result.labels, expected)
    assert [flip.index for flip in result.history] == order.tolist()
    assert [flip.step for flip in result.history] == list(range(1, len(order) + 1))
    assert all(flip.old == labels[flip.index] for flip in result.history)
    assert all(flip.new == expected[flip.index] for flip in result.history)


def test_no_column_is_read_and_few_solutions():
    A, labels, _ = clustered(150, 5, 0.4, 1)
    source = SolutionsOnly(A)
    known = {"method": "posterior", "noise_rate": 0.4}
    result = refurbish(source, labels, 5, **known)
    plain = refurbish(A, labels, 5, **known)
    assert len(result.history) > 10
    assert result.history == plain.history
    np.testing.assert_array_equal(result.labels, plain.labels)
    # for the given labels, for each round, for the labels at the end
    assert source.solved == 2 + result.posterior.rounds


@pytest.mark.slow
def test_a_factor_in_panels_gives_the_labels_of_the_dense_inverse(tmp_path):
    A, labels, _ = clustered(450, 5, 0.4, 2)
    H = np.linalg.inv(A)
    factor = factorize((H + H.T) / 2, tmp_path / "factor", memory_limit="2MB")
    assert factor.panel_count > 1
    found = refurbish(factor, labels, 5, method="posterior")
    plain = refurbish(A, labels, 5, method="posterior")
    np.testing.assert_array_equal(found.labels, plain.labels)
    assert [f.index for f in found.history] == [f.index for f in plain.history]
    np.testing.assert_allclose(found.losses, plain.losses, rtol=1e-7)
    np.testing.assert_allclose(found.G, plain.G, atol=1e-7)
    deltas = [[f.delta_loss for f in one.history] for one in (found, plain)]
    np.testing.assert_allclose(*deltas, rtol=1e-6, atol=1e-10)
    assert not (tmp_path / "factor" / "inverse").exists()


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_losses_are_those_of_the_given_labels_and_of_each_change_alone(beta):
    A, labels, _ = clustered(160, 4, 0.4, 3)
    result = refurbish(A, labels, 4, method="posterior", beta=beta, noise_rate=0.4)
    assert len(result.history) > 10
    assert result.losses.shape == (2,)
    start = loss(A, labels, 4, beta)
    assert result.losses[0] == pytest.approx(start, rel=1e-9)
    assert result.losses[1] == pytest.approx(loss(A, result.labels, 4, beta), rel=1e-9)
    for flip in result.history:
        alone = labels.copy()
        alone[flip.index] = flip.new
        assert flip.loss == pytest.approx(loss(A, alone, 4, beta), rel=1e-9)
        assert flip.delta_loss == pytest.approx(flip.loss - start, abs=1e-9 * abs(start))
    G, _ = class_matrix(A, result.labels, 4)
    np.testing.assert_allclose(result.G, G, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 20),
    K=st.integers(2, 7),
    beta=st.sampled_from([0.0, 1.0, 5.0]),
)
def test_any_change_alone_is_the_difference_of_two_losses_and_never_nan(seed, n, K, beta):
    """Also into empty classes, and out of classes with one member or two."""
    random = np.random.default_rng(seed)
    A, _, _ = clustered(n, 2, 0.0, seed)
    labels = random.integers(0, K, n)
    G, Z = class_matrix(A, labels, K)
    images = np.repeat(np.arange(n), K)
    classes = np.tile(np.arange(K), n)
    some = classes != labels[images]
    images, classes = images[some], classes[some]
    found = _changes_alone(G, Z, np.diagonal(A).copy(), labels, images, classes, beta)
    assert np.isfinite(found).all()
    for i, j, change in zip(images, classes, found, strict=True):
        trial = labels.copy()
        trial[i] = j
        expected = loss(A, trial, K, beta) - loss(A, labels, K, beta)
        assert change == pytest.approx(expected, abs=1e-10 * np.abs(A).max())


def test_a_class_that_loses_or_gains_its_only_member_gives_no_nan():
    A, _, true = clustered(180, 6, 0.0, 5)
    given_labels = true.copy()
    given_labels[np.flatnonzero(true == 0)[0]] = 6  # one image in a class of its own
    given_labels[true == 2] = 1  # class 2 is empty
    first = np.full((180, 7), 0.005)
    first[np.arange(180), true] = 0.97
    result = refurbish(A, given_labels, 7, method="posterior", noise_rate=0.6, first_probs=first)
    moved_to = {flip.new for flip in result.history}
    assert len(result.history) > 0
    assert 6 not in set(result.labels)
    assert np.isfinite([flip.delta_loss for flip in result.history]).all()
    assert np.isfinite(result.losses).all()
    assert any("classes [2] have no members" in text for text in result.left_out)
    assert any("classes [6] have one member" in text for text in result.left_out)
    assert moved_to


def test_steps_limit_the_changes_to_the_most_probable_ones():
    A, labels, _ = clustered(200, 4, 0.4, 6)
    known = {"method": "posterior", "noise_rate": 0.4}
    whole = refurbish(A, labels, 4, **known)
    some = refurbish(A, labels, 4, steps=7, **known)
    none = refurbish(SolutionsOnly(A), labels, 4, steps=0, **known)
    assert some.history == whole.history[:7]
    assert some.stopped == "the limit of 7 steps was reached"
    assert int((some.labels != labels).sum()) == 7
    assert none.history == ()
    assert none.losses[0] == none.losses[1]
    assert len(none.to_dataframe()) == 0


def test_rounds_and_changes_are_reported(tmp_path):
    A, labels, _ = clustered(100, 4, 0.4, 7)
    rounds, steps = [], []
    result = refurbish(
        A,
        labels,
        4,
        method="posterior",
        on_round=rounds.append,
        on_step=steps.append,
        checkpoint=str(tmp_path / "state"),
        checkpoint_every=1,
        blocks=9,
    )
    assert rounds == list(range(1, result.posterior.rounds + 1))
    assert tuple(steps) == result.history
    assert not (tmp_path / "state").exists()


def test_locked_and_uncertain_images_keep_their_labels():
    A, labels, _ = clustered(120, 4, 0.4, 8)
    plain = refurbish(A, labels, 4, method="posterior")
    locked = [flip.index for flip in plain.history[:5]]
    kept = refurbish(A, labels, 4, method="posterior", locked=locked, confidence=0.9)
    np.testing.assert_array_equal(kept.labels[locked], labels[locked])
    q = kept.posterior.probabilities
    changed = np.flatnonzero(kept.labels != labels)
    assert (q[changed, kept.labels[changed]] >= 0.9).all()


def test_in_memory_the_inverse_is_never_formed(monkeypatch):
    from ntkdist.data import load, symmetric
    from ntkdist.labels import issues

    digits = load("digits")
    labels, _ = symmetric(digits.labels[:120], 10, 0.2)
    options = {"architecture": "fc-1", "ridge": 1e-3}
    images = digits.images[:120]
    table = find_label_issues(images, labels, **options)
    monkeypatch.setattr(issues, "MemoryFactor", issues.invert)
    dense = find_label_issues(images, labels, **options)
    np.testing.assert_array_equal(table["suggested_label"], dense["suggested_label"])
    np.testing.assert_array_equal(table["round"], dense["round"])
    np.testing.assert_allclose(table["delta_loss"], dense["delta_loss"], rtol=1e-6, atol=1e-9)
    monkeypatch.undo()
    monkeypatch.setattr(issues, "invert", None)
    find_label_issues(images, labels, **options)
