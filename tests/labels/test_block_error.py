from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ntkdist.errors import InputError
from ntkdist.labels import (
    block_error,
    block_error_gradient,
    block_error_terms,
    class_matrix,
)

from .oracle import clustered, loss


def parts(seed: int, n: int, K: int, beta: float):
    A, labels, _ = clustered(n, K, 0.3, seed)
    G, Z = class_matrix(A, labels, K)
    return A, labels, G, Z, np.bincount(labels, minlength=K)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 25),
    K=st.integers(1, 6),
    beta=st.sampled_from([0.0, 0.4, 1.0, 3.0]),
)
def test_equals_the_formula_written_as_loops_whatever_the_class_sizes(seed, n, K, beta):
    A, _, _ = clustered(n, K, 0.0, seed)
    labels = np.random.default_rng(seed).integers(0, K, n)
    _, Z = class_matrix(A, labels, K)
    counts = np.bincount(labels, minlength=K)
    assert block_error(Z, counts, beta) == pytest.approx(loss(A, labels, K, beta), rel=1e-11)


def test_parts_add_up_and_scale_with_beta():
    _, _, _, Z, counts = parts(0, 40, 4, 1.0)
    one, half = block_error_terms(Z, counts, 1.0), block_error_terms(Z, counts, 0.5)
    assert one.value == one.intra - one.inter == block_error(Z, counts)
    assert half.intra == one.intra
    assert half.inter == pytest.approx(0.5 * one.inter, rel=1e-14)
    assert one.left_out == ()


def test_relabelling_the_classes_changes_nothing():
    _, _, _, Z, counts = parts(1, 40, 5, 1.0)
    order = np.array([3, 0, 4, 1, 2])
    permuted = block_error(Z[np.ix_(order, order)], counts[order])
    assert permuted == pytest.approx(block_error(Z, counts), rel=1e-13)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([3, 0, 4], ["classes [1] have no members"]),
        ([3, 1, 4], ["classes [1] have one member"]),
        ([1, 0, 1], ["classes [1] have no members", "classes [0, 2] have one member"]),
        ([5], ["there is one class"]),
    ],
)
def test_says_which_terms_were_left_out_and_stays_finite(counts, said):
    labels = np.repeat(np.arange(len(counts)), counts)
    A, _, _ = clustered(len(labels), 1, 0.0, 2)
    _, Z = class_matrix(A, labels, len(counts))
    result = block_error_terms(Z, counts)
    assert np.isfinite(result.value)
    assert len(result.left_out) == len(said)
    for message, part in zip(result.left_out, said, strict=True):
        assert part in message


def test_one_class_is_the_mean_within_it():
    A, _, _ = clustered(7, 1, 0.0, 3)
    _, Z = class_matrix(A, np.zeros(7, dtype=int), 1)
    assert block_error(Z, [7]) == pytest.approx(A.sum() / 42, rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("K", [1, 2, 5])
def test_gradient_agrees_with_finite_differences(K, beta):
    A, labels, G, Z, counts = parts(4, 30, K, beta)

    def extended(Y: np.ndarray) -> float:
        return block_error(Y.T @ A @ Y, Y.sum(axis=0), beta)

    Y, h = np.eye(K)[labels], 1e-4
    numeric = np.empty_like(Y)
    for i, k in np.ndindex(*Y.shape):
        step = np.zeros_like(Y)
        step[i, k] = h
        # fourth order: the step may then be large enough for rounding not to matter
        near = extended(Y + step) - extended(Y - step)
        far = extended(Y + 2 * step) - extended(Y - 2 * step)
        numeric[i, k] = (8 * near - far) / (12 * h)
    analytic = block_error_gradient(G, Z, counts, beta)
    assert np.abs(analytic - numeric).max() <= 1e-9 * np.abs(numeric).max()


def test_gradient_leaves_out_what_the_loss_leaves_out():
    labels = np.array([0, 0, 0, 2, 3, 3, 0, 3])  # class 1 empty, class 2 single
    A, _, _ = clustered(8, 1, 0.0, 5)
    G, Z = class_matrix(A, labels, 4)
    gradient = block_error_gradient(G, Z, np.bincount(labels, minlength=4))
    assert np.isfinite(gradient).all()
    assert (gradient[:, 1] == 0).all()

    def terms_of(Y: np.ndarray) -> float:
        """L with exactly those terms that are defined at the labels."""
        Z, n = Y.T @ A @ Y, Y.sum(axis=0)
        intra = sum(Z[k, k] / (n[k] * (n[k] - 1)) for k in (0, 3)) / 4
        inter = sum(Z[k, d] / (n[k] * n[d]) for k in (0, 2, 3) for d in (0, 2, 3) if k != d) / 12
        return intra - inter

    Y, h = np.eye(4)[labels], 1e-6
    for i, k in [(0, 0), (1, 2), (3, 2), (3, 3), (7, 0)]:
        step = np.zeros_like(Y)
        step[i, k] = h
        numeric = (terms_of(Y + step) - terms_of(Y - step)) / (2 * h)
        assert gradient[i, k] == pytest.approx(numeric, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("Z", "counts", "beta", "said"),
    [
        (np.zeros((2, 3)), [1, 2], 1.0, r"Z has shape \(2, 3\)"),
        (np.zeros((2, 2)), [1, 2, 3], 1.0, r"counts \(3,\)"),
        (np.full((2, 2), np.nan), [1, 2], 1.0, "Z holds NaN"),
        (np.eye(2), [1, -2], 1.0, "must be finite and ≥ 0"),
        (np.eye(2), [1, 2], -0.5, "beta=-0.5 must be a finite number ≥ 0"),
        (np.eye(2), [1, 2], float("inf"), "beta=inf"),
        (np.eye(2), [1, 2], float("nan"), "beta=nan"),
        (np.eye(2), [1, 2], "1", "beta='1'"),
    ],
)
def test_refuses_bad_matrices_counts_and_beta(Z, counts, beta, said):
    with pytest.raises(InputError, match=said):
        block_error(Z, counts, beta)


def test_gradient_refuses_a_g_of_other_classes():
    with pytest.raises(InputError, match=r"G has shape \(3, 4\)"):
        block_error_gradient(np.zeros((3, 4)), np.eye(2), [1, 2])
