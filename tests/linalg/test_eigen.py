from __future__ import annotations

import dask
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ntkdist.errors import InputError
from ntkdist.events.types import IterationDone
from ntkdist.linalg import NotConvergedError, top_eigenpairs
from tests.linalg.kernels import exponential, gaussian
from tests.linalg.matrices import upper_only, with_eigenvalues

N = 700


def centre(a: np.ndarray) -> np.ndarray:
    return a - a.mean(0) - a.mean(1)[:, None] + a.mean()


@pytest.fixture(scope="module")
def kernel() -> np.ndarray:
    return exponential(N)


@pytest.mark.slow(but="1-True-lanczos")
@pytest.mark.parametrize("method", ["auto", "lobpcg", "lanczos"])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("k", [1, 4, 16])
def test_the_largest_eigenpairs_are_lapacks(kernel, k, centered, method):
    found = top_eigenpairs(upper_only(kernel), k, centered=centered, method=method)
    whole = centre(kernel) if centered else kernel
    values, vectors = np.linalg.eigh(whole)
    assert_allclose(found.values, values[::-1][:k], rtol=1e-10)
    assert_allclose(np.abs(vectors[:, ::-1][:, :k].T @ found.vectors), np.eye(k), atol=1e-6)
    assert_allclose(found.vectors.T @ found.vectors, np.eye(k), atol=1e-12)
    assert found.residuals.max() <= 1e-8 * values[-1]
    assert_allclose(found.total, np.trace(whole), rtol=1e-12)
    assert_allclose(found.explained, values[::-1][:k] / np.trace(whole), rtol=1e-9)
    largest = np.abs(found.vectors).argmax(axis=0)
    assert (found.vectors[largest, range(k)] > 0).all()


@pytest.mark.parametrize("n", [1, 2, 30, 512])
def test_small_matrices_are_done_at_once(n):
    a = exponential(n)
    found = top_eigenpairs(a, min(n, 5))
    assert_allclose(found.values, np.linalg.eigvalsh(a)[::-1][: min(n, 5)], rtol=1e-12)
    assert found.passes == 1


def test_equal_eigenvalues_are_all_found():
    values = np.r_[[5.0] * 6, [3.0] * 20, np.geomspace(1, 1e-8, N - 26)]
    found = top_eigenpairs(with_eigenvalues(values), 10)
    assert_allclose(found.values, [5.0] * 6 + [3.0] * 4, rtol=1e-10)


def test_a_fast_decay_and_negative_rounding_are_no_trouble():
    a = gaussian(N).astype(np.float32)
    found = top_eigenpairs(a, 16)
    expected = np.linalg.eigvalsh(np.triu(a).astype(float), UPLO="U")[::-1][:16]
    assert_allclose(found.values, expected, rtol=1e-9)


@pytest.mark.slow
def test_lobpcg_needs_fewer_passes_than_lanczos(kernel):
    few = top_eigenpairs(kernel, 16, method="lobpcg").passes
    assert 2 * few <= top_eigenpairs(kernel, 16, method="lanczos").passes


@pytest.mark.parametrize("scheduler", ["synchronous", dask.get])
def test_schedulers_give_the_same_bits(kernel, scheduler):
    expected = top_eigenpairs(kernel, 3)
    found = top_eigenpairs(kernel, 3, scheduler=scheduler)
    assert_array_equal(found.values, expected.values)
    assert_array_equal(found.vectors, expected.vectors)


def test_every_pass_is_told(kernel):
    events: list = []
    found = top_eigenpairs(kernel, 3, on_event=events.append)
    assert all(isinstance(e, IterationDone) and e.method == "eigen" for e in events)
    assert [e.index for e in events] == list(range(1, found.passes + 1))


def test_a_tolerance_out_of_reach_is_said(kernel):
    with pytest.raises(NotConvergedError, match="no convergence: the largest residual") as caught:
        top_eigenpairs(kernel, 3, tolerance=1e-30, method="lobpcg")
    expected = np.linalg.eigvalsh(kernel)[::-1][:3]
    assert_allclose(caught.value.result.values, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"k": 0}, "k=0 must be a whole number from 1 to 700"),
        ({"k": N + 1}, "k=701"),
        ({"k": 2.5}, "k=2.5"),
        ({"tolerance": 1.0}, "tolerance=1.0 must be a number above 0 and below 1"),
        ({"method": "qr"}, "method='qr' is not one of auto, lobpcg, lanczos"),
        ({"memory_limit": "10kB"}, "19 vectors of 700 rows need; .*, or pass a smaller k"),
    ],
)
def test_bad_arguments_are_refused(kernel, change, text):
    with pytest.raises(InputError, match=text):
        top_eigenpairs(**{"a": kernel, "k": 3, **change})
