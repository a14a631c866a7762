from __future__ import annotations

import numpy as np
import pytest
import zarr

from ntkdist.errors import InputError
from ntkdist.labels import centered_leave_one_out, choose_ridge, class_matrix, invert
from ntkdist.labels.leave_one_out import probabilities
from ntkdist.labels.noise import fit_noise
from ntkdist.labels.ridge import LADDER

from .oracle import clustered
from .test_issues import digits, simple_gram


def gram(n, K, noise, seed):
    A, labels, true = clustered(n, K, noise, seed, ridge=1e-9)
    H = np.linalg.inv(A)
    return (H + H.T) / 2, labels, true


def test_each_ridge_has_the_model_of_its_own_inverse():
    H, labels, _ = gram(120, 4, 0.3, 0)
    found = choose_ridge(H, labels, 4)
    assert [ridge for ridge, _ in found.tried] == sorted(LADDER)
    for ridge, model in found.tried:
        A = invert(H, ridge)
        G, _ = class_matrix(A, labels, 4)
        c = centered_leave_one_out(G, np.diagonal(A), np.eye(4)[labels])
        expected = fit_noise(c, labels)
        assert model.rate == pytest.approx(expected.rate, abs=1e-3)
        assert model.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-5)
    best = max(found.tried, key=lambda pair: pair[1].log_likelihood)
    assert found.noise.kind == "symmetric"
    assert found.ridge == best[0]
    assert found.noise.rate == best[1].rate
    assert found.images == 120
    A = invert(H, found.ridge)
    Y = np.eye(4)[labels]
    predictions = centered_leave_one_out(class_matrix(A, labels, 4)[0], np.diagonal(A), Y)
    expected_probs = probabilities(predictions, found.noise.scale, Y.mean(axis=0))
    np.testing.assert_allclose(found.estimate.first_probs, expected_probs, atol=1e-6)


def rates(choice):
    return [(ridge, model.rate, model.scale) for ridge, model in choice.tried]


@pytest.mark.slow(but="0.6")
@pytest.mark.parametrize("noise", [0.0, 0.3, 0.6])
def test_the_noise_rate_is_found(noise):
    H, labels, _ = gram(500, 5, noise, 1)
    assert choose_ridge(H, labels, 5).noise.rate == pytest.approx(noise, abs=0.05)


@pytest.mark.slow
def test_more_noise_needs_a_larger_ridge():
    ridges = []
    for noise in (0.0, 0.6):
        images, labels, _ = digits(500, noise)
        ridges.append(choose_ridge(simple_gram(images), labels, 10).ridge)
    assert ridges[0] < ridges[1] / 5


@pytest.mark.slow
def test_a_sample_from_a_store_is_the_sample_from_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("ntkdist.linalg.matrix.BAND_BYTES", 8 * 200 * 17)
    H, labels, _ = gram(200, 4, 0.2, 3)
    stored = zarr.create_array(str(tmp_path / "h"), shape=H.shape, chunks=(50, 50), dtype="f8")
    stored[...] = H
    memory = choose_ridge(H, labels, 4, max_images=90)
    assert memory.images == 90
    assert memory.estimate.first_probs is None
    assert rates(choose_ridge(stored, labels, 4, max_images=90)) == rates(memory)
    assert rates(choose_ridge(H, labels, 4, max_images=90, seed=1)) != rates(memory)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ridges": ()}, r"ridges=\(\) must be finite numbers above 0"),
        ({"ridges": (0.0, 1.0)}, "above 0"),
        ({"max_images": 1}, "max_images=1 must be a whole number of at least 2"),
        ({"labels": [0, 1]}, "2 labels for 3 images"),
        ({"gram": np.full((3, 3), np.nan)}, "holds NaN or infinity"),
    ],
)
def test_bad_input_is_refused(change, said):
    given = {"gram": np.eye(3), "labels": [0, 1, 0], **change}
    with pytest.raises(InputError, match=said):
        choose_ridge(given.pop("gram"), given.pop("labels"), 2, **given)
