from __future__ import annotations

import numpy as np
import pytest

from ntkdist.errors import InputError
from ntkdist.labels import FactorInverse, MemoryFactor, invert
from ntkdist.labels.descent import Columns
from ntkdist.labels.inverse import (
    ArrayInverse,
    Inverse,
    StoredInverse,
    as_inverse,
    checked_diagonal,
)

from .oracle import clustered


class ColumnsOnly:
    """The least an inverse may offer; counts what is asked of it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.asked: list[list[int]] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def diagonal(self) -> np.ndarray:
        return np.diagonal(self.array)

    def columns(self, indices: np.ndarray) -> np.ndarray:
        self.asked.append(list(indices))
        return self.array[:, indices]


def stored(array: np.ndarray):
    import zarr

    return StoredInverse(zarr.array(array, chunks=(1, len(array))))


@pytest.mark.parametrize("wrap", [ArrayInverse, ColumnsOnly, stored])
def test_every_kind_gives_the_same_diagonal_and_columns(wrap):
    A, _, _ = clustered(20, 3, 0.0, 0)
    source = as_inverse(wrap(A))
    assert isinstance(source, Inverse)
    np.testing.assert_array_equal(source.diagonal(), np.diagonal(A))
    np.testing.assert_array_equal(source.columns(np.array([4, 0, 19])), A[:, [4, 0, 19]])


def test_wraps_arrays_and_stored_arrays_and_keeps_the_rest():
    import zarr

    A = np.eye(3, dtype=np.float32)
    assert isinstance(as_inverse(A), ArrayInverse)
    assert isinstance(as_inverse(A.tolist()), ArrayInverse)
    assert isinstance(as_inverse(zarr.array(A)), StoredInverse)
    own = ColumnsOnly(A)
    assert as_inverse(own) is own
    assert as_inverse(A).columns(np.array([1])).dtype == np.float64


def test_stored_diagonal_is_read_in_row_blocks(monkeypatch):
    monkeypatch.setattr("ntkdist.linalg.matrix.BAND_BYTES", 8 * 20 * 3)
    A, _, _ = clustered(20, 3, 0.0, 1)
    np.testing.assert_array_equal(stored(A).diagonal(), np.diagonal(A))
    np.testing.assert_allclose(as_inverse(A).solve(A), A @ A, rtol=1e-12)


def broken(row: int, column: int, value: float) -> np.ndarray:
    A = np.eye(4)
    A[row, column] = value
    return A


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones((3, 4)), r"shape \(3, 4\); \(N, N\) is needed"),
        (np.ones(4), r"shape \(4,\)"),
        (np.zeros((0, 0)), r"shape \(0, 0\)"),
        (broken(2, 3, np.nan), r"holds nan at \(2, 3\)"),
        (broken(1, 1, np.inf), r"holds inf at \(1, 1\)"),
        (broken(1, 3, 0.5), "not symmetric"),
        (np.eye(2) * 1j, "complex128"),
        ([["a"]], "real numbers is needed"),
    ],
)
def test_refuses_arrays_that_are_no_inverse(array, said):
    with pytest.raises(InputError, match=said):
        as_inverse(array)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_refuses_a_diagonal_no_inverse_can_have(value):
    A = np.eye(4)
    A[2, 2] = value
    with pytest.raises(InputError, match="at index 2, not positive"):
        checked_diagonal(ColumnsOnly(A))


def test_float32_rounding_is_not_asymmetry():
    A, _, _ = clustered(30, 3, 0.0, 2)
    A = A.astype(np.float32)
    A[3, 4] *= 1 + 1e-6
    as_inverse(A)


def test_columns_are_fetched_in_batches_of_likely_ones_and_cached():
    A, _, _ = clustered(60, 3, 0.0, 3)
    source = ColumnsOnly(A)
    source.columns_at_once = 8
    columns = Columns(source)
    likely = np.arange(10, 40)
    for index in [10, 11, 17, 12, 10]:
        np.testing.assert_array_equal(columns.get(index, lambda m: likely[:m]), A[:, index])
    assert source.asked == [[10, 11, 12, 13, 14, 15, 16, 17]]
    columns.get(50, lambda m: likely[:m])
    assert source.asked[1] == [50, 18, 19, 20, 21, 22, 23, 24, 25][:8]
    assert columns.fetches == 2


def test_cached_columns_stay_within_their_share_of_memory(monkeypatch):
    monkeypatch.setattr("ntkdist.labels.descent.KEPT_BYTES", 8 * 60 * 4)
    A, _, _ = clustered(60, 3, 0.0, 3)
    source = ColumnsOnly(A)
    source.columns_at_once = 2
    columns = Columns(source)

    def nothing(m):
        return np.empty(0, dtype=np.int64)

    for index in [0, 1, 2, 3, 0, 4, 0, 1]:
        np.testing.assert_array_equal(columns.get(index, nothing), A[:, index])
        assert len(columns._kept) <= 4
    # 0 was used again before 4 came, so 1 had to go
    assert source.asked == [[0], [1], [2], [3], [4], [1]]


@pytest.mark.parametrize(
    ("returned", "said"),
    [(np.zeros((5, 2)), r"shape \(5, 2\)"), (np.full((60, 1), np.nan), "column 7 of the inverse")],
)
def test_refuses_columns_of_the_wrong_shape_or_not_finite(returned, said):
    A, _, _ = clustered(60, 3, 0.0, 3)
    source = ColumnsOnly(A)
    source.columns = lambda indices: returned
    source.columns_at_once = 1
    with pytest.raises(InputError, match=said):
        Columns(source).get(7, lambda m: np.arange(0))


# -- factors ----------------------------------------------------------------------


@pytest.fixture
def factor(tmp_path):
    from ntkdist.linalg import factorize

    A, _, _ = clustered(90, 3, 0.0, 4)
    return factorize(np.linalg.inv(A), tmp_path / "factor", memory_limit="2MB"), A


def test_a_stored_factor_is_an_inverse_without_forming_it(factor, tmp_path):
    stored_factor, A = factor
    source = as_inverse(stored_factor)
    assert isinstance(source, FactorInverse)
    assert isinstance(source, Inverse)
    assert as_inverse(source) is source
    b = np.random.default_rng(0).normal(size=(90, 4))
    np.testing.assert_allclose(source.solve(b), A @ b, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(source.diagonal(), np.diagonal(A), rtol=1e-8)
    np.testing.assert_allclose(source.columns(np.array([3, 80])), A[:, [3, 80]], atol=1e-8)
    assert not (tmp_path / "factor" / "inverse").exists()


def test_a_given_diagonal_is_used_and_solutions_report_progress(factor, monkeypatch):
    from ntkdist.events.types import LinalgProgress
    from ntkdist.linalg import tasks

    monkeypatch.setattr(tasks, "PROGRESS_SECONDS", 1e-4)
    stored_factor, A = factor
    told = []
    source = FactorInverse(stored_factor, np.diagonal(A), on_event=told.append)
    np.testing.assert_array_equal(source.diagonal(), np.diagonal(A))
    source.solve(np.ones((90, 50)))
    assert {(type(one), one.stage) for one in told} == {(LinalgProgress, "solve")}


@pytest.mark.parametrize("n", [1, 7, 90])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_factor_in_memory_is_the_inverse(monkeypatch, n, dtype):
    monkeypatch.setattr("ntkdist.linalg.matrix.BAND_BYTES", 8 * n * 13)
    random = np.random.default_rng(n)
    x = random.normal(size=(n, n + 5))
    gram = (x @ x.T).astype(dtype)
    before = gram.copy()
    source = MemoryFactor(gram, 0.1)
    A = invert(gram, 0.1)
    np.testing.assert_array_equal(gram, before)
    assert isinstance(source, Inverse)
    b = random.normal(size=(n, 3))
    np.testing.assert_allclose(source.solve(b), A @ b, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(source.diagonal(), np.diagonal(A), rtol=1e-9)
    indices = np.array([0, n - 1])
    np.testing.assert_allclose(source.columns(indices), A[:, indices], rtol=1e-8, atol=1e-10)


def test_a_matrix_in_memory_without_a_factor_is_refused_as_by_the_inverse():
    gram = np.eye(4)
    gram[2, 2] = -1.0
    said = []
    for form in (MemoryFactor, invert):
        with pytest.raises(InputError, match=r"ridge=0.0 \(pivot 3 of 4\)") as caught:
            form(gram, 0.0)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_factor_in_memory_holds_one_matrix_in_float64():
    import tracemalloc

    n = 700
    gram = np.eye(n, dtype=np.float32)
    tracemalloc.start()
    source = MemoryFactor(gram, 0.1)
    source.diagonal()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 64 MiB of columns are more than the whole of so small a matrix
    assert peak < 8 * n * n * 2.2
