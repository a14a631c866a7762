from __future__ import annotations

import numpy as np
import pytest
import zarr

from ntkdist.errors import InputError
from ntkdist.learning.spectrum import Spectrum

N = 23


def gram(seed=0, rank=N):
    x = np.random.default_rng(seed).standard_normal((N, rank))
    return x @ x.T / rank


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_matrix_comes_back_with_its_ridge(ridge):
    H = gram()
    found = Spectrum.of(H, ridge=ridge)
    V = found.vectors
    again = V @ np.diag(found.values) @ V.T
    np.testing.assert_allclose(again, H + ridge * np.trace(H) / N * np.eye(N), atol=1e-12)
    assert (np.diff(found.values) <= 0).all()
    assert len(found) == N


def test_functions_of_the_matrix_are_those_of_numpy():
    H, b = gram(1), np.random.default_rng(2).standard_normal((N, 3))
    found = Spectrum.of(H)
    inverse = np.linalg.inv(H + np.eye(N))
    weights = 1 / (found.values + 1)
    inside = found.coefficients(b)
    np.testing.assert_allclose(found.vectors @ inside, b, atol=1e-12)
    np.testing.assert_allclose(found.vectors @ (weights[:, None] * inside), inverse @ b, atol=1e-12)


def test_a_stored_matrix_is_read_in_bands(tmp_path, monkeypatch):
    monkeypatch.setattr("ntkdist.linalg.matrix.BAND_BYTES", 8 * N * 5)
    H = gram(3)
    stored = zarr.create_array(str(tmp_path / "h"), shape=H.shape, chunks=(7, 7), dtype="f4")
    stored[...] = H
    np.testing.assert_allclose(Spectrum.of(stored).values, Spectrum.of(H).values, atol=1e-5)


def test_eigenvalues_of_a_singular_matrix_are_not_below_zero():
    values = Spectrum.of(gram(4, rank=5)).values
    assert values.min() >= 0
    assert (values[:5] > 0.01).all()
    assert (values[5:] < 1e-12).all()


def test_the_given_matrix_is_left_as_it_was():
    H = gram(5)
    kept = H.copy()
    Spectrum.of(H, ridge=1.0)
    np.testing.assert_array_equal(H, kept)


def broken(change):
    H = gram(6)
    change(H)
    return H


@pytest.mark.parametrize(
    ("matrix", "ridge", "said"),
    [
        (gram()[:-1], 0.0, r"shape \(22, 23\); \(N, N\)"),
        (np.empty((0, 0)), 0.0, "with rows and columns"),
        (broken(lambda H: H.__setitem__((3, 4), np.nan)), 0.0, "NaN or infinity"),
        (broken(lambda H: H.__setitem__((3, 4), 9.0)), 0.0, "not symmetric"),
        (gram() - 0.1 * np.eye(N), 0.0, "smallest eigenvalue is -"),
        (np.zeros((3, 3)), 0.0, "are the images all 0"),
        (gram(), -0.1, "ridge=-0.1"),
        (gram(), float("nan"), "ridge=nan"),
        (gram(), True, "ridge=True"),
    ],
)
def test_what_has_no_spectrum_is_refused(matrix, ridge, said):
    with pytest.raises(InputError, match=said):
        Spectrum.of(matrix, ridge=ridge)
