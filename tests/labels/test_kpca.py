from __future__ import annotations

import numpy as np
import pytest
import zarr
from scipy.spatial.distance import pdist, squareform

from ntkdist.errors import InputError
from ntkdist.labels.kpca import class_separation


def gram(n=90, seed=0, K=3):
    random = np.random.default_rng(seed)
    labels = random.integers(0, K, n)
    x = random.standard_normal((K, 6))[labels] + random.standard_normal((n, 6))
    return np.exp(-(squareform(pdist(x)) ** 2) / 20), labels


@pytest.mark.parametrize("block", [100, 2**26])
def test_ratios_are_those_of_numpy_and_scipy(block, monkeypatch):
    monkeypatch.setattr("ntkdist.linalg.matrix.BAND_BYTES", block)
    H, y = gram()
    J = np.eye(90) - 1 / 90
    values, vectors = np.linalg.eigh(J @ H @ J)
    P = J @ H @ J @ vectors[:, -4:]
    d = squareform(pdist(P))
    same, off = y[:, None] == y, ~np.eye(90, dtype=bool)
    inter, intra = d[~same], d[same & off]
    found = class_separation(H, y, 3)
    assert found.ratio_mean == pytest.approx(inter.mean() / intra.mean(), rel=1e-9)
    assert found.ratio_std == pytest.approx(inter.std() / intra.std(), rel=1e-8)
    assert (found.inter_mean, found.intra_std) == pytest.approx((inter.mean(), intra.std()))
    np.testing.assert_allclose(found.eigenvalues, values[::-1][:4])
    np.testing.assert_allclose(np.abs(found.projection), np.abs(P[:, ::-1]), atol=1e-8)
    np.testing.assert_allclose(found.explained, values[::-1][:4] / values.sum())


def test_directions_are_those_of_scikit_learn():
    from sklearn.decomposition import KernelPCA

    H, y = gram(seed=1)
    found = class_separation(H, y, 3, components=3)
    P = KernelPCA(3, kernel="precomputed").fit_transform(H)
    scaled = found.projection / np.sqrt(found.eigenvalues)
    np.testing.assert_allclose(np.abs(scaled), np.abs(P), atol=1e-8)


def test_classes_farther_apart_have_the_larger_ratio():
    random = np.random.default_rng(2)
    y = np.arange(80) % 4
    centres, spread = random.standard_normal((4, 5)), random.standard_normal((80, 5))
    ratios = []
    for distance in (0.0, 1.0, 3.0):
        x = distance * centres[y] + spread
        ratios.append(class_separation(x @ x.T, y, 4).ratio_mean)
    assert ratios[0] == pytest.approx(1, abs=0.05)
    assert ratios == sorted(ratios)


def test_a_stored_matrix_gives_the_same(tmp_path):
    H, y = gram(seed=3)
    stored = zarr.create_array(str(tmp_path / "h"), shape=H.shape, chunks=(40, 40), dtype="f8")
    stored[...] = H
    a, b = class_separation(H, y, 3), class_separation(stored, y, 3)
    assert a.ratio_mean == pytest.approx(b.ratio_mean, rel=1e-9)


@pytest.mark.parametrize(
    ("labels", "components", "said"),
    [
        ([0] * 90, 4, "all 90 labels are 0; at least two classes"),
        (list(range(90)), 4, "no class has two images"),
        ([0, 1] * 45, 90, "components=90 must be a whole number from 1 to 89"),
        ([0, 1] * 45, 0, "components=0"),
        ([0, 1] * 44, 4, "88 labels for 90 images"),
    ],
)
def test_labels_and_components_without_a_ratio_are_refused(labels, components, said):
    H, _ = gram()
    with pytest.raises(InputError, match=said):
        class_separation(H, labels, 90, components)


def test_equal_points_within_classes_are_refused():
    y = np.arange(20) % 2
    with pytest.raises(InputError, match="same point"):
        class_separation(np.equal.outer(y, y).astype(float), y, 2, components=1)
