from __future__ import annotations

import numpy as np
import pytest

from ntkdist.errors import InputError
from ntkdist.labels.descent.columns import Columns

from ..oracle import clustered
from ..test_inverse import ColumnsOnly


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
    monkeypatch.setattr("ntkdist.labels.descent.columns.KEPT_BYTES", 8 * 60 * 4)
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
