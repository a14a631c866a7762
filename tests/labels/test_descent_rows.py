"""One block of rows: values of all moves, and screening by lower bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ntkdist.labels import class_matrix, refurbish
from ntkdist.labels.block_error import reciprocal
from ntkdist.labels.descent import TABLES, Move, RowBlock, every

from .oracle import clustered, loss


def scanned(method, A, labels, K, beta):
    G, Z = class_matrix(A, labels, K)
    counts = np.bincount(labels, minlength=K)
    block = one_block(A, G, labels, counts)
    return every(block.state, TABLES[method](Z, counts.astype(float), beta))


def one_block(A, G, labels, counts):
    n = len(labels)
    h = G @ reciprocal(counts)
    diagonal = np.diagonal(A).copy()
    return RowBlock(0, G, diagonal, labels, np.zeros(n, bool), h)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(3, 16),
    K=st.integers(2, 6),
    beta=st.sampled_from([0.0, 0.5, 1.0, 4.0]),
)
def test_scan_finds_the_exact_change_of_loss_of_every_row(seed, n, K, beta):
    A, _, _ = clustered(n, 2, 0.0, seed)
    labels = np.random.default_rng(seed).integers(0, K, n)
    counts = np.bincount(labels, minlength=K)
    scores, classes = scanned("exact", A, labels, K, beta)
    now = loss(A, labels, K, beta)
    for i in range(n):
        changes = np.full(K, np.inf)
        for j in np.flatnonzero(counts):
            if j != labels[i] and counts[labels[i]] > 2:
                trial = labels.copy()
                trial[i] = j
                changes[j] = loss(A, trial, K, beta) - now
        if np.isinf(changes).all():
            assert np.isinf(scores[i])
        else:
            scale = np.abs(A).max()
            assert scores[i] == pytest.approx(changes.min(), abs=1e-11 * scale)
            assert changes[classes[i]] == pytest.approx(changes.min(), abs=1e-11 * scale)


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_equally_good_classes_of_one_image_give_the_smallest(method):
    # With H = I no image has information about another: all other classes have the same value.
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    scores, classes = scanned(method, np.eye(12), labels, 4, 1.0)
    assert len(set(scores)) == 1
    assert classes.tolist() == [1, 1, 1] + [0] * 9


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(3, 60),
    K=st.integers(2, 9),
    beta=st.sampled_from([0.0, 1.0, 30.0]),
    uneven=st.booleans(),
)
def test_screening_by_bounds_gives_the_result_of_evaluating_every_row(seed, n, K, beta, uneven):
    random = np.random.default_rng(seed)
    A, _, _ = clustered(n, 3, 0.0, seed)
    labels = random.integers(0, K, n)
    if uneven:
        labels[random.random(n) < 0.7] = 0
    G, Z = class_matrix(A, labels, K)
    counts = np.bincount(labels, minlength=K)
    block = one_block(A, G, labels, counts)
    for method in ("exact", "paper"):
        of_classes = (Z, counts.astype(float), beta)
        values, classes = every(block.state, TABLES[method](*of_classes))
        found = block.best([], method, of_classes)
        if np.isinf(values).all():
            assert found.index == -1
            continue
        assert found.index == int(np.argmin(values))
        assert (found.value, found.new) == (values.min(), classes[found.index])
        finite = np.isfinite(values)
        assert (block._bounds[finite] <= values[finite]).all()


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_screened_flips_are_the_unscreened_ones_to_the_end(method, monkeypatch):
    A, labels, _ = clustered(300, 30, 0.5, 13)
    screened = refurbish(A, labels, 30, method=method, steps=400)

    def unscreened(self, moves, method, of_classes):
        self.apply(moves, None)
        values, classes = every(self.state, TABLES[method](*of_classes))
        place = int(np.argmin(values))
        return self._candidate(place, values[place], classes[place])

    monkeypatch.setattr("ntkdist.labels.descent.RowBlock.best", unscreened)
    plain = refurbish(A, labels, 30, method=method, steps=400)
    assert len(plain.history) > 100
    assert screened.history == plain.history


def test_the_smallest_entries_of_rows_are_updated_by_moves():
    A, labels, _ = clustered(80, 6, 0.4, 3)
    G, _ = class_matrix(A, labels, 6)
    counts = np.bincount(labels, minlength=6)
    block = one_block(A, G, labels, counts)
    random = np.random.default_rng(0)
    for _ in range(200):
        index = int(random.integers(80))
        old, new = int(block.labels[index]), int((block.labels[index] + random.integers(1, 6)) % 6)
        w = reciprocal(counts)
        change = (old, new, w[old], w[new])
        counts[old] -= 1
        counts[new] += 1
        w = reciprocal(counts)
        block.apply([Move(index, A[:, index].copy(), (*change, w[old], w[new]))], None)
        assert (block.state[5] == block.G.min(axis=0)).all()
    np.testing.assert_allclose(block.h, w @ block.G, rtol=1e-9, atol=1e-11)
    fresh, _ = class_matrix(A, block.labels, 6)
    np.testing.assert_allclose(block.G.T, fresh, rtol=1e-8, atol=1e-9)


def test_several_flips_per_step_scan_all_rows_less_often(monkeypatch):
    A, labels, _ = clustered(300, 6, 0.4, 14)
    scans = []
    plain = RowBlock.best
    monkeypatch.setattr(
        "ntkdist.labels.descent.RowBlock.best", lambda *a: scans.append(1) or plain(*a)
    )
    result = refurbish(A, labels, 6, flips_per_step=8)
    assert len(scans) < len(result.history) / 3
