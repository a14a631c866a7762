from __future__ import annotations

import numpy as np
import pytest

from ntkdist.checks import check_labels
from ntkdist.errors import InputError
from ntkdist.labels import class_matrix, class_matrix as public, one_hot

from .oracle import clustered
from .test_inverse import ColumnsOnly


def test_one_hot_has_a_single_one_at_each_label():
    Y = one_hot([2, 0, 2], 4)
    assert Y.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert Y.dtype == np.float64


@pytest.mark.parametrize("column_bytes", [1, 5000, 2**26])
def test_by_columns_and_by_solving_give_the_same(monkeypatch, column_bytes):

    monkeypatch.setattr("ntkdist.linalg.matrix.BAND_BYTES", column_bytes)
    A, labels, _ = clustered(50, 4, 0.3, 0)
    G, Z = public(A, labels, 4)
    by_columns, Z_by_columns = class_matrix(ColumnsOnly(A), labels, 4)
    Y = np.eye(4)[labels]
    np.testing.assert_allclose(G, A @ Y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(by_columns, G, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(Z, Y.T @ A @ Y, rtol=1e-11)
    np.testing.assert_allclose(Z_by_columns, Z, rtol=1e-11)
    assert (Z == Z.T).all()


@pytest.mark.parametrize(
    ("labels", "K", "said"),
    [
        ([0, 1, 5, 9], 3, r"label 5 at index 2 is outside the classes 0\.\.2 \(2 such"),
        ([0, -1], 3, "label -1 at index 1"),
        ([1.0, 1.5], 3, "label 1.5 at index 1 is not a whole number"),
        ([1.0, np.nan], 3, "the label at index 1 is missing"),
        (["a", "b"], 3, "label 'a' is a name, and whole numbers 0..K-1 are needed"),
        ([[0, 1]], 3, r"shape \(1, 2\)"),
        ([0, 1], 0, "num_classes=0 must be a whole number of at least 1"),
        ([0, 1], 2.5, "num_classes=2.5"),
    ],
)
def test_refuses_labels_that_are_not_classes(labels, K, said):
    with pytest.raises(InputError, match=said):
        one_hot(labels, K)


def test_refuses_labels_of_another_length():
    with pytest.raises(InputError, match="3 labels for 4 images"):
        class_matrix(np.eye(4), [0, 1, 0], 2)


def test_accepts_whole_floats_and_unsigned_and_copies():
    given = np.array([0, 1], dtype=np.uint8)
    checked = check_labels(given, 2)
    checked[0] = 1
    assert given[0] == 0
    assert check_labels([0.0, 1.0], 2).dtype == np.int64


def test_nan_in_the_inverse_is_an_error():
    class Broken(ColumnsOnly):
        def columns(self, indices):
            return np.full((self.shape[0], len(indices)), np.nan)

    with pytest.raises(InputError, match="NaN or infinity"):
        class_matrix(Broken(np.eye(3)), [0, 1, 1], 2)
