from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from ntkdist.errors import InputError, StoreError
from ntkdist.linalg import CholeskyFactor, factorize
from ntkdist.linalg.solve import inverse_norm1
from tests.linalg.matrices import SMALL, spd

N = 450
#: (limit of the factorisation, limit of the open factor): streamed where the second is small
MODES = {
    "one panel": ("2GiB", "2GiB"),
    "kept panels": (SMALL, "2GiB"),
    "streamed panels": (SMALL, "100kB"),
}


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    return spd(N, 1e4)


@pytest.fixture(scope="module", params=MODES.values(), ids=MODES)
def factor(request, matrix, tmp_path_factory) -> CholeskyFactor:
    built, used = request.param
    url = tmp_path_factory.mktemp("factor") / "f"
    factorize(matrix, url, memory_limit=built)
    return CholeskyFactor.open(url, memory_limit=used)


@pytest.mark.slow(but="kept panels-7")
@pytest.mark.parametrize("k", [None, 1, 7])
def test_solutions_have_a_small_backward_error(factor, matrix, k):
    b = np.random.default_rng(1).standard_normal(N if k is None else (N, k))
    kept = b.copy()
    x = factor.solve(b)
    assert x.shape == b.shape
    norm = np.linalg.norm
    error = norm(matrix @ x - b) / (norm(matrix, 2) * norm(x) + norm(b))
    assert error <= 1e-15
    assert_allclose(x, np.linalg.solve(matrix, b), rtol=0, atol=1e-9 * np.abs(x).max())
    assert_array_equal(b, kept)  # not overwritten


def test_right_hand_sides_may_be_integers_or_column_major(factor, matrix):
    b = np.eye(N, dtype=np.int64)[:, :5]
    expected = factor.solve(b.astype(float))
    assert_array_equal(factor.solve(b), expected)
    assert_array_equal(factor.solve(np.asfortranarray(b.astype(np.float32))), expected)


def test_no_right_hand_side_is_no_solution(factor):
    assert factor.solve(np.zeros((N, 0))).shape == (N, 0)


@settings(max_examples=20, deadline=None)
@given(b=arrays(np.float64, (60, 2), elements=st.floats(-1e3, 1e3)), scale=st.floats(0.01, 100))
def test_solving_is_linear(small_factor, b, scale):
    one = small_factor.solve(b)
    assert_allclose(small_factor.solve(scale * b), scale * one, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def small_factor(tmp_path_factory) -> CholeskyFactor:
    return factorize(spd(60, 100.0), tmp_path_factory.mktemp("small") / "f")


@pytest.mark.parametrize(
    ("b", "text"),
    [
        (np.ones(N + 1), r"shape \(451,\); it must be \(450,\) or \(450, K\)"),
        (np.ones((N, 2, 2)), "it must be"),
        (np.float64(1.0), "it must be"),
        (np.r_[np.ones(N - 1), np.nan], r"entry \(449, 0\) of the right-hand side is nan"),
    ],
)
def test_unfit_right_hand_sides_are_refused(factor, b, text):
    with pytest.raises(InputError, match=text):
        factor.solve(b)


@pytest.mark.parametrize("indices", [[0], [N - 1], [3, 300, 3, 64], [], list(range(70))])
def test_columns_of_the_inverse_in_the_order_asked_for(factor, matrix, indices):
    got = factor.inverse_columns(indices)
    assert got.shape == (N, len(indices))
    inverse = np.linalg.inv(matrix)
    assert_allclose(got, inverse[:, indices], rtol=0, atol=1e-9 * np.abs(inverse).max())


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ([N], "index 450 is outside 0 to 449"),
        ([2, -1], "index -1 is outside"),
        ([0.5], "one-dimensional integers"),
        ([[1, 2]], "one-dimensional integers"),
    ],
)
def test_unfit_indices_are_refused(factor, indices, text):
    with pytest.raises(InputError, match=text):
        factor.inverse_columns(indices)


def test_logdet_is_numpys(factor, matrix):
    assert_allclose(factor.logdet(), np.linalg.slogdet(matrix)[1], rtol=1e-12)


def test_the_smallest_pivot_is_the_factors(factor, matrix):
    assert_allclose(factor.min_pivot, (np.diag(np.linalg.cholesky(matrix)) ** 2).min(), rtol=1e-10)


@pytest.mark.slow(but="0.0-10000.0-2GiB")
@pytest.mark.parametrize("limit", ["2GiB", SMALL])
@pytest.mark.parametrize("condition", [1.0, 10.0, 1e4, 1e9])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_the_condition_estimate_is_near_and_below(tmp_path, condition, ridge, limit):
    a = spd(350, condition, seed=3)
    factor = factorize(a, tmp_path / "f", ridge=ridge, memory_limit=limit)
    true = np.linalg.cond(a + factor.ridge_absolute * np.eye(350), 1)
    assert true / 10 <= factor.condition_estimate() <= true * (1 + 1e-6)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12))
def test_the_norm_of_a_diagonal_inverse_is_exact(diagonal):
    values = np.array(diagonal)
    got = inverse_norm1(lambda b: b / values, len(values))
    assert_allclose(got, (1 / values).max(), rtol=1e-12)


def test_an_absent_factor_names_the_remedy(tmp_path):
    with pytest.raises(StoreError, match=r"holds no factor; compute it with ntkdist\.linalg\.fac"):
        CholeskyFactor.open(tmp_path / "nothing")
