"""ZCA whitening: its matrix against NumPy's eigenvalues, its bits against other blocks."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ntkdist.data import preprocess, whitening
from ntkdist.data.preprocess import Preprocessor, resolve_recipe
from ntkdist.errors import InputError


def smooth_images(seed=0, shape=(150, 6, 5, 2), dtype=np.uint8):
    """Images whose neighbouring pixels are alike, as those of photographs are."""
    rough = np.random.default_rng(seed).normal(size=(shape[0], shape[1] + 2, *shape[2:]))
    smooth = rough[:, 2:] + rough[:, 1:-1] + rough[:, :-2]
    if dtype == np.uint8:
        return np.clip(128 + 30 * smooth, 0, 255).astype(np.uint8)
    return smooth.astype(dtype)


def whitened(train, others, epsilon):
    """The definition, in float64: (x − μ) U (Λ + ε·mean(λ))^(−1/2) Uᵀ."""
    rows = train.reshape(len(train), -1)
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    roots = np.sqrt(np.maximum(values, 0) + epsilon * values.mean())
    flat = others.reshape(len(others), -1) - rows.mean(axis=0)
    return (flat @ (vectors / roots) @ vectors.T).reshape(others.shape)


def assert_near(found, expected, error):
    assert np.abs(found - expected).max() <= error * np.abs(expected).max()


@pytest.mark.parametrize("n", [150, 61, 60, 59, 20, 2])  # images have 60 values
@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 10.0])
def test_the_matrix_is_that_of_the_eigenvalues_of_the_covariance(n, epsilon):
    train, test = smooth_images(dtype=float)[:n], smooth_images(1, dtype=float)
    fitted = Preprocessor.fit(train, f"zca={epsilon}")
    assert_near(fitted.steps[0](test), whitened(train, test, epsilon), 1e-9)
    found = fitted.apply(test)
    assert found.dtype == np.float32
    assert_near(found, whitened(train, test, epsilon), 1e-7)


def test_bytes_are_divided_first_and_steps_before_are_applied_first():
    train, test = smooth_images(), smooth_images(1)
    expected = whitened(train / 255, test / 255, 0.1)
    assert_near(Preprocessor.fit(train, "zca").apply(test), expected, 1e-7)
    before = Preprocessor.fit(train, "contrast")
    ready = [step(np.asarray(x, float)) for x in (train, test) for step in before.steps]
    assert_near(Preprocessor.fit(train, "contrast+zca").apply(test), whitened(*ready, 0.1), 1e-7)


@pytest.mark.parametrize("n", [150, 40])
def test_whitened_training_images_have_variance_one_but_for_the_regularisation(n):
    train = smooth_images(dtype=float)[:n]
    rows = Preprocessor.fit(train, "zca=0.05").steps[0](train).reshape(n, -1)
    values, vectors = np.linalg.eigh(np.cov(train.reshape(n, -1).T, bias=True))
    covariance = vectors.T @ np.cov(rows.T, bias=True) @ vectors
    np.testing.assert_allclose(
        covariance, np.diag(values / (values + 0.05 * values.mean())), atol=1e-9
    )
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(0, 30))
def test_the_bits_of_an_image_do_not_depend_on_the_others(seed, count, start):
    images = smooth_images(seed, (80, 5, 3, 3))
    fitted = Preprocessor.fit(images[:50], "contrast+zca=0.01+unit-norm")
    whole = fitted.apply(images)
    np.testing.assert_array_equal(
        fitted.apply(images[start : start + count]), whole[start:][:count]
    )
    step = fitted.steps[1]
    exact = step(images.astype(float))  # float64 has the bits that float32 would hide
    np.testing.assert_array_equal(step(images[start : start + 1].astype(float))[0], exact[start])


@pytest.mark.parametrize("size", [2, 60, 64, 65, 1000])
def test_the_bits_of_a_product_do_not_depend_on_the_order_of_its_sums(size):
    rng = np.random.default_rng(0)
    # near 1 all of them, so that sums are as large as they can be
    matrix, images = 1 - rng.random((size, size)) / 8, 1 - rng.random((40, 1, 1, size)) / 8
    order = rng.permutation(size)
    one = whitening.Whitening(np.zeros((1, 1, size)), matrix)(images)
    other = whitening.Whitening(np.zeros((1, 1, size)), matrix[np.ix_(order, order)])
    np.testing.assert_array_equal(other(images[..., order]), one[..., order])
    np.testing.assert_allclose(one, images @ matrix, rtol=1e-10)


def test_the_size_of_the_blocks_changes_the_statistics_by_rounding_and_no_image(monkeypatch):
    images = smooth_images()
    whole = Preprocessor.fit(images, "standardize+zca")
    expected = whole.apply(images)
    monkeypatch.setattr(preprocess, "_BLOCK_VALUES", 7 * 60)
    np.testing.assert_array_equal(whole.apply(images), expected)
    blocked = Preprocessor.fit(images, "standardize+zca")
    assert blocked.agrees(whole)
    assert blocked.with_statistics_of(whole) == whole


@pytest.mark.parametrize("n", [150, 40])
def test_statistics_of_the_same_images_agree_in_any_order_and_of_others_do_not(n):
    images = smooth_images()[:n]
    fitted = Preprocessor.fit(images, "center+zca")
    order = np.random.default_rng(0).permutation(n)
    again = Preprocessor.fit(images[order], "center+zca")
    assert fitted.agrees(again)
    assert again.with_statistics_of(fitted) == fitted
    other = images.copy()
    other[3, 2, 2, 0] ^= 255
    assert not fitted.agrees(Preprocessor.fit(other, "center+zca"))
    assert not fitted.agrees(Preprocessor.fit(images, "center+zca=0.2"))
    assert not fitted.agrees(Preprocessor.fit(images.transpose(0, 2, 1, 3), "center+zca"))


def test_json_and_arrays_give_the_same_preprocessor_back():
    images = smooth_images()
    fitted = Preprocessor.fit(images, "contrast+zca=0.2+unit-norm")
    assert {name: values.shape for name, values in fitted.arrays().items()} == {
        "zca_mean": (6, 5, 2),
        "zca_matrix": (60, 60),
    }
    text = json.dumps(fitted.to_dict())
    assert len(text) < 500  # the matrix is no text
    again = Preprocessor.from_dict(json.loads(text), fitted.arrays().__getitem__)
    assert again == fitted
    assert hash(again) == hash(fitted)
    assert again != Preprocessor.fit(images[1:], fitted.recipe)
    np.testing.assert_array_equal(again.apply(images), fitted.apply(images))
    with pytest.raises(InputError, match="array zca_mean is not given; call from_dict with read"):
        Preprocessor.from_dict(json.loads(text))
    with pytest.raises(ValueError, match="read-only"):
        fitted.steps[1].whitening.matrix[0, 0] = 0
    assert Preprocessor.fit(images, "standardize").arrays() == {}


def test_halved_images_are_whitened_as_they_are_then():
    images = smooth_images(shape=(90, 6, 4, 3))
    found = Preprocessor.fit(images, "halve+zca").apply(images)
    small = Preprocessor.fit(images, "halve").steps[0](images / 255)
    assert found.shape == (90, 3, 2, 3)
    assert_near(found, whitened(small, small, 0.1), 1e-7)
    assert Preprocessor.fit(images, "zca+halve").apply(images).shape == (90, 3, 2, 3)


@pytest.mark.parametrize("n", [150, 30])
def test_features_are_whitened(n):
    rows = smooth_images(dtype=np.float32).reshape(150, -1)
    fitted = Preprocessor.fit(rows[:n], "zca=0.01")
    found = fitted.apply(rows)
    assert found.shape == rows.shape
    assert_near(found, whitened(rows[:n].astype(float), rows.astype(float), 0.01), 1e-7)


def test_constant_values_become_zero():
    images = smooth_images(dtype=float)
    images[:, 2, 3, 1] = 0.1
    fitted = Preprocessor.fit(images, "zca")
    found = fitted.apply(images)
    np.testing.assert_allclose(found[:, 2, 3, 1], 0, atol=1e-12)
    assert_near(found, whitened(images, images, 0.1), 1e-7)


@pytest.mark.parametrize("scale", [1e-170, 1e-30, 1e30])
@pytest.mark.parametrize("n", [150, 40])
def test_the_scale_of_the_images_is_undone(scale, n):
    images = smooth_images(dtype=float)[:n]
    expected = Preprocessor.fit(images, "zca").apply(images)
    found = Preprocessor.fit(images * scale, "zca").apply(images * scale)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("n", "dtype"), [(1, np.uint8), (30, np.float64)])
def test_equal_images_are_refused(n, dtype):
    images = np.repeat(smooth_images(dtype=dtype)[:1], n, axis=0)
    message = rf"zca: the training images \({n}\) do not differ after the steps before it"
    with pytest.raises(InputError, match=message):
        Preprocessor.fit(images, "standardize+zca")


def test_values_that_overflow_are_refused():
    images = np.where(smooth_images(dtype=float) > 0, 1.7e308, -1.7e308)
    with pytest.raises(InputError, match="zca: differences between values overflow float64"):
        Preprocessor.fit(images, "zca")


def test_too_many_values_are_refused_before_anything_is_computed():
    images = np.zeros((3, 128, 128, 3), np.uint8)
    with pytest.raises(
        InputError,
        match=re.escape(
            "zca whitens all 49,152 values of 128×128×3 together, more than 12,288: its matrix "
            "would take 18 GiB, and about 90 GiB while it is fitted; put halve before it, scale"
        ),
    ):
        Preprocessor.fit(images, "zca")
    rows = np.random.default_rng(0).normal(size=(3, 20_000)).astype(np.float32)
    with pytest.raises(InputError, match="leave zca away, or reduce the columns"):
        Preprocessor.fit(rows, "zca")


def test_images_of_another_size_are_refused():
    fitted = Preprocessor.fit(smooth_images(), "zca")
    with pytest.raises(
        InputError, match="zca was fitted to images of 6×5×2 and cannot whiten images of 5×6×2"
    ):
        fitted.apply(smooth_images().transpose(0, 2, 1, 3))


@pytest.mark.parametrize("text", ["zca=", "zca=x", "zca=0", "zca=-1", "zca=1e-9", "zca=nan"])
def test_a_regularisation_out_of_range_is_refused(text):
    with pytest.raises(
        InputError,
        match=rf"preprocessing '{text}': ε must be a number from 1e-06 to 1e\+06.*write zca=0\.1",
    ):
        Preprocessor.fit(smooth_images(), f"center+{text}")


def test_zca_twice_and_other_spellings_are_refused():
    with pytest.raises(InputError, match=r"'zca=0\.1\+zca=1\.0' has zca several times"):
        Preprocessor.fit(smooth_images(), "zca=0.1+zca=1")
    with pytest.raises(InputError, match=r"preprocessing 'zca\(0\.1\)' .* is unknown; use none"):
        Preprocessor.fit(smooth_images(), "center+zca(0.1)")


@pytest.mark.parametrize("recipe", ["zca", "zca=0.1", " zca = .10 ", "zca=1e-1"])
def test_every_spelling_of_a_regularisation_is_one_recipe(recipe):
    assert resolve_recipe(recipe, features=False) == "zca=0.1"
    assert resolve_recipe(f"contrast+{recipe}", features=True) == "contrast+zca=0.1"
    assert resolve_recipe(" standardize + halve ", features=False) == " standardize + halve "


@pytest.mark.parametrize("n", [150, 40, 20])  # images have 60 values
@pytest.mark.parametrize("recipe", ["zca", "contrast+zca", "standardize+zca=1"])
def test_mirrored_statistics_whiten_a_mirror_image_to_the_mirror_image(n, recipe):
    train, test = smooth_images()[:n], smooth_images(1)
    fitted = Preprocessor.fit(train, recipe, mirrored=True)
    turned = fitted.apply(test[:, :, ::-1])
    assert (turned == fitted.apply(test)[:, :, ::-1]).all()
    plain = Preprocessor.fit(train, recipe)
    assert (plain.apply(test[:, :, ::-1]) != plain.apply(test)[:, :, ::-1]).any()


@pytest.mark.parametrize("n", [150, 50, 20])
def test_mirrored_statistics_are_those_of_images_and_mirror_images(n):
    train, test = smooth_images(dtype=float)[:n], smooth_images(1, dtype=float)
    both = np.concatenate([train, train[:, :, ::-1]])
    fitted = Preprocessor.fit(train, "zca=0.1", mirrored=True)
    assert_near(fitted.apply(test), whitened(both, test, 0.1), 1e-7)
