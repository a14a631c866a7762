from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from numpy.testing import assert_allclose

from ntkdist.linalg import blas

rng = np.random.default_rng(0)
BOTH = list(itertools.product([False, True], repeat=2))


def nan_above(lower: np.ndarray) -> np.ndarray:
    out = lower.copy()
    out[np.triu_indices(len(out), 1)] = np.nan
    return out


@pytest.mark.parametrize(("ta", "tb"), BOTH)
@pytest.mark.parametrize(("m", "n", "k"), [(7, 6, 5), (1, 4, 3), (4, 1, 1), (3, 3, 0)])
def test_subtract_product_works_in_place_for_every_transposition(ta, tb, m, n, k):
    a, b, c = rng.random((m, k)), rng.random((k, n)), rng.random((m, n))
    got = c.copy()
    blas.subtract_product(
        got, np.ascontiguousarray(a.T if ta else a), np.ascontiguousarray(b.T if tb else b),
        ta=ta, tb=tb,
    )  # fmt: skip
    assert_allclose(got, c - a @ b, atol=1e-14)


def test_subtract_product_takes_rows_of_a_wider_array():
    wide, b = rng.random((9, 20)), rng.random((5, 4))
    c = np.zeros((9, 4))
    blas.subtract_product(c, wide[:, 3:8], b)
    assert_allclose(c, -wide[:, 3:8] @ b, atol=1e-14)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="shapes do not fit"):
        blas.subtract_product(np.zeros((2, 2)), np.zeros((2, 3)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="not contiguous"):
        blas.solve_lower(np.eye(4)[:, ::2][:2], np.zeros((2, 2)))
    with pytest.raises(TypeError, match="float64"):
        blas.solve_lower(np.eye(2, dtype=np.float32), np.zeros((2, 2)))


@pytest.mark.parametrize(("transposed", "right"), BOTH)
def test_solve_lower_reads_the_lower_triangle_alone(transposed, right):
    lower = np.tril(rng.random((6, 6))) + 3 * np.eye(6)
    x = rng.random((4, 6) if right else (6, 4))
    got = x.copy()
    blas.solve_lower(nan_above(lower), got, transposed=transposed, from_right=right)
    op = lower.T if transposed else lower
    assert_allclose(got @ op if right else op @ got, x, atol=1e-13)


def test_factor_and_inverse_touch_the_lower_triangle_alone():
    a = np.cov(rng.random((9, 40)))
    work = nan_above(np.tril(a))
    assert blas.cholesky_lower(work) == -1
    assert_allclose(np.tril(work), np.linalg.cholesky(a), atol=1e-14)
    blas.inverse_from_lower(work)
    assert_allclose(np.tril(work), np.tril(np.linalg.inv(a)), rtol=1e-9)
    assert np.isnan(work[np.triu_indices(9, 1)]).all()


def test_a_failing_pivot_is_named_from_zero():
    assert blas.cholesky_lower(np.diag([1.0, 2.0, -3.0, 4.0])) == 2


def test_subtract_gram_leaves_the_upper_triangle():
    a, c = rng.random((5, 3)), rng.random((5, 5))
    got = nan_above(np.tril(c))
    blas.subtract_gram(got, a)
    assert_allclose(np.tril(got), np.tril(c - a @ a.T), atol=1e-14)
    assert np.isnan(got[0, 4])


def test_the_interpreter_runs_on_during_a_call():
    a = np.zeros((2500, 2500))
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        began = time.perf_counter()
        blas.subtract_product(np.zeros_like(a), a, a)
        ended = time.perf_counter()
    finally:
        stop.set()
        thread.join()
    assert sum(began < t < ended for t in ticks) >= 3
