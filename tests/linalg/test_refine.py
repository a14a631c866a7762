from __future__ import annotations

import numpy as np
import pytest

from ntkdist.errors import InputError
from ntkdist.linalg import CholeskyFactor, factorize
from ntkdist.linalg.solve import refine
from tests.linalg.matrices import SMALL, spd

N = 400


@pytest.mark.slow(but="10000.0-2GiB")
@pytest.mark.parametrize("limit", ["2GiB", SMALL])
@pytest.mark.parametrize("condition", [1e4, 1e8])
def test_refined_solutions_are_as_good_as_a_direct_solve(tmp_path, condition, limit):
    a = spd(N, condition)
    b = np.random.default_rng(0).standard_normal((N, 4))
    x = factorize(a, tmp_path / "f", memory_limit=limit).solve(b, matrix=a)
    expected = np.linalg.solve(a, b)
    norm = np.linalg.norm
    assert norm(x - expected) <= 1e-16 * condition * norm(expected)
    assert norm(a @ x - b) <= 1e-15 * (norm(a, 2) * norm(x) + norm(b))


def test_refinement_mends_a_factor_of_another_matrix(tmp_path):
    """A factor with a hundredth more on the diagonal still solves, digit by digit."""
    a = spd(N, 100.0)
    b = np.ones(N)
    shifted = CholeskyFactor.open(factorize(a * 1.01, tmp_path / "f").url)
    rough = shifted.solve(b)
    x = shifted.solve(b, matrix=a, steps=12)
    expected = np.linalg.solve(a, b)
    assert np.abs(rough - expected).max() > 1e-3 * np.abs(expected).max()
    assert np.abs(x - expected).max() <= 1e-12 * np.abs(expected).max()


def test_the_ridge_belongs_to_the_matrix_that_is_solved(tmp_path):
    a = spd(N, 1e3)
    factor = factorize(a, tmp_path / "f", ridge=0.5)
    x = factor.solve(np.ones(N), matrix=a)
    expected = np.linalg.solve(a + factor.ridge_absolute * np.eye(N), np.ones(N))
    np.testing.assert_allclose(x, expected, rtol=1e-12)


def test_no_right_hand_side_is_no_solution(tmp_path):
    factor = factorize(spd(N), tmp_path / "f")
    assert factor.solve(np.zeros((N, 0)), matrix=spd(N)).shape == (N, 0)


@pytest.mark.slow
def test_a_matrix_of_another_size_is_refused(tmp_path):
    factor = factorize(spd(N), tmp_path / "f")
    with pytest.raises(InputError, match=r"the matrix has 401 rows and the factor 400; pass"):
        factor.solve(np.ones(N), matrix=spd(N + 1))


def test_no_column_is_left_worse_than_it_was():
    a = np.diag([1.0, 2.0, 4.0])
    b = np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    x = np.array([[1.0, 0.0], [1.0, 0.0], [1.5, 0.0]])
    calls: list[int] = []

    def harm(r: np.ndarray) -> np.ndarray:
        calls.append(r.shape[1])
        return r + 100.0

    assert (refine(lambda v: a @ v, harm, b, x, 5) == x).all()
    assert calls == [1]  # the exact column is left alone, the other one given up
    good = refine(lambda v: a @ v, lambda r: np.linalg.solve(a, r), b, x, 5)
    np.testing.assert_allclose(good, np.linalg.solve(a, b))
