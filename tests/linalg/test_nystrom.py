from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ntkdist.linalg.cg import Nystrom, choose_rank
from ntkdist.linalg.matrix import Source, SymmetricOperator
from ntkdist.linalg.tasks import task_runner
from tests.linalg.kernels import exponential, gaussian
from tests.linalg.matrices import with_eigenvalues


def sketch(a, rank, shift, seed=0):
    with task_runner("synchronous") as run:
        multiply = SymmetricOperator(Source(a), run, memory_limit=1 << 30)
        found = Nystrom.sketch(multiply, rank, shift, seed)
        assert multiply.passes == 1
    return found


def test_a_matrix_of_low_rank_is_inverted_exactly():
    values = np.r_[np.geomspace(1.0, 1e-3, 20), np.zeros(180)]
    a = with_eigenvalues(values)
    p = sketch(a, 40, shift=1e-4)
    r = np.random.default_rng(0).standard_normal((200, 3))
    assert_allclose(p.values[:20], values[:20], rtol=1e-6, atol=1e-12)
    assert_allclose(p.basis.T @ p.basis, np.eye(p.rank), atol=1e-12)
    # up to a factor, the inverse of A + shift
    assert_allclose(
        p(r) / (p.tail + 1e-4),
        np.linalg.solve(a + 1e-4 * np.eye(200), r),
        rtol=0,
        atol=1e-5 * np.abs(r).max() / 1e-4,
    )


@pytest.mark.parametrize("kernel", [gaussian, exponential])
def test_the_preconditioned_matrix_is_better_conditioned(kernel):
    n, shift = 500, 1e-4
    a = kernel(n)
    p = sketch(a, 120, shift)
    whole = a + shift * np.eye(n)
    inside = np.sort(np.linalg.eigvals(p(whole)).real)
    assert inside[0] > 0
    assert inside[-1] / inside[0] < np.linalg.cond(whole) / 50
    assert (np.diff(p.values) <= 0).all()


def test_a_matrix_that_rounding_made_indefinite_is_sketched():
    values = np.r_[np.geomspace(1.0, 1e-3, 50), np.full(150, -1e-7)]
    p = sketch(with_eigenvalues(values), 100, 1e-3)
    assert 50 <= p.rank <= 100
    assert (p.values > 0).all()
    assert np.isfinite(p(np.ones((200, 1)))).all()


def test_nothing_changes_nothing():
    r = np.ones((5, 2))
    none = Nystrom.none(5)
    assert none.rank == 0
    assert_array_equal(none(r), r)
    assert sketch(np.zeros((30, 30)), 4, 1.0).rank == 0


def test_one_seed_gives_one_sketch():
    a = gaussian(200)
    first, second, other = (sketch(a, 30, 1e-3, seed) for seed in (1, 1, 2))
    assert_array_equal(first.basis, second.basis)
    assert (first.basis != other.basis).any()


def test_the_rank_follows_the_size_and_the_memory():
    assert choose_rank(20_000, 2 << 30) == 768
    assert choose_rank(800, 2 << 30) == 100
    assert choose_rank(3, 2 << 30) == 1
    assert choose_rank(10**6, 2 << 30) == 22
