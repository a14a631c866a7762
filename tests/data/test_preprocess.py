"""Preprocessing: what each recipe promises about its output."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ntkdist.data import preprocess
from ntkdist.data.preprocess import Preprocessor
from ntkdist.errors import InputError
from ntkdist.pixels import PixelRange, ScaleError


def random_images(seed=0, shape=(20, 5, 4, 3), dtype=np.uint8):
    random = np.random.default_rng(seed)
    if dtype == np.uint8:
        return random.integers(0, 256, shape, dtype=np.uint8)
    return (random.normal(size=shape) * [1, 10, 100][: shape[-1]] + 7).astype(dtype)


def prepared(x, recipe):
    return Preprocessor.fit(x, recipe).apply(x)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_standardize_gives_mean_zero_and_deviation_one_per_channel(dtype):
    y = prepared(random_images(dtype=dtype), "standardize").astype(np.float64)
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, atol=1e-6)


def test_statistics_match_numpy_whatever_the_block_size(monkeypatch):
    x = random_images(dtype=np.float64)
    whole = Preprocessor.fit(x, "standardize")
    monkeypatch.setattr(preprocess, "_BLOCK_VALUES", 3 * 5 * 4 * 3)
    blocked = Preprocessor.fit(x, "standardize")
    for fitted in (whole, blocked):
        (step,) = fitted.steps
        np.testing.assert_allclose(step.shift, x.mean(axis=(0, 1, 2)), rtol=1e-13)
        np.testing.assert_allclose(step.scale, x.std(axis=(0, 1, 2)), rtol=1e-13)
    np.testing.assert_array_equal(whole.apply(x[:7]), whole.apply(x)[:7])


def test_test_images_use_the_training_statistics():
    train, test = random_images(1), random_images(2)
    y = Preprocessor.fit(train, "standardize").apply(test)
    expected = (test / 255 - (train / 255).mean(axis=(0, 1, 2))) / (train / 255).std(axis=(0, 1, 2))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.1, 7.3, 0.0])
def test_a_constant_channel_becomes_zero_not_nan(value):
    x = random_images(dtype=np.float64)
    x[..., 1] = value
    y = prepared(x, "standardize")
    assert (y[..., 1] == 0).all()
    assert np.isfinite(y).all()


def test_center_keeps_the_scale():
    x = random_images(dtype=np.float64)
    np.testing.assert_allclose(
        prepared(x, "center"), x - x.mean(axis=(0, 1, 2)), rtol=1e-5, atol=1e-4
    )


@given(st.integers(0, 1000), st.floats(1e-150, 1e150))
def test_unit_norm_gives_mean_square_one_at_any_scale(seed, scale):
    x = np.random.default_rng(seed).normal(size=(3, 4, 5, 2)) * scale
    y = prepared(x, "unit-norm").astype(np.float64)
    np.testing.assert_allclose((y**2).mean(axis=(1, 2, 3)), 1, rtol=1e-6)


def test_unit_norm_leaves_a_zero_image_zero():
    x = random_images()
    x[4] = 0
    y = prepared(x, "unit-norm")
    assert (y[4] == 0).all()
    assert np.isfinite(y).all()


@given(st.integers(0, 1000), st.floats(1e-150, 1e150), st.integers(1, 5))
def test_contrast_gives_each_image_mean_zero_and_deviation_one_whatever_the_others(
    seed, scale, count
):
    x = (np.random.default_rng(seed).normal(size=(6, 4, 5, 2)) + 3) * scale
    y = prepared(x, "contrast")
    np.testing.assert_allclose(y.mean(axis=(1, 2, 3), dtype=float), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(axis=(1, 2, 3), dtype=float), 1, rtol=1e-6)
    own_mean = x - x.mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(y, prepared(own_mean, "unit-norm"), rtol=1e-5, atol=1e-6)
    fitted = Preprocessor.fit(x, "contrast")
    np.testing.assert_array_equal(fitted.apply(x[:count]), y[:count])
    np.testing.assert_array_equal(fitted.steps[0](x[:count]), fitted.steps[0](x)[:count])


@pytest.mark.parametrize("value", [0, 0.1, 7.3, 1e-160])
def test_contrast_leaves_an_image_of_one_value_zero(value):
    x = random_images(dtype=np.float64)
    x[4] = value
    y = prepared(x, "contrast")
    assert (y[4] == 0).all()
    assert np.isfinite(y).all()


def test_contrast_of_features_is_that_of_each_row():
    rows = np.random.default_rng(0).normal(5, 2, size=(30, 7)).astype(np.float32)
    y = prepared(rows, "contrast").astype(float)
    np.testing.assert_allclose(y.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(axis=1), 1, rtol=1e-6)


def test_steps_apply_left_to_right():
    x = random_images(dtype=np.float64)
    one = prepared(x, "standardize+unit-norm").astype(np.float64)
    np.testing.assert_allclose((one**2).mean(axis=(1, 2, 3)), 1, rtol=1e-6)
    other = prepared(x, "unit-norm+standardize").astype(np.float64)
    np.testing.assert_allclose(other.std(axis=(0, 1, 2)), 1, rtol=1e-6)
    assert not np.allclose(one, other, atol=1e-2)


def test_none_takes_floats_as_they_are_and_bytes_as_shares_of_255():
    x = random_images(dtype=np.float32)
    np.testing.assert_array_equal(prepared(x, "none"), x)
    b = random_images()
    np.testing.assert_array_equal(prepared(b, "none"), (b / 255).astype(np.float32))
    np.testing.assert_array_equal(prepared(b.astype(np.int16), "none"), b.astype(np.float32))


def test_output_is_float32_and_the_input_is_left_alone():
    x = random_images(dtype=np.float64)
    before = x.copy()
    y = prepared(x, "standardize+unit-norm")
    assert y.dtype == np.float32
    assert y.shape == x.shape
    np.testing.assert_array_equal(x, before)


def test_a_preprocessor_is_a_frozen_value():
    x = random_images()
    fitted = Preprocessor.fit(x, "standardize")
    assert fitted == Preprocessor.fit(x, "standardize")
    assert hash(fitted) == hash(Preprocessor.fit(x, "standardize"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        fitted.recipe = "none"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("standardise", "preprocessing 'standardise' .* use none, standardize, center, unit-norm"),
        ("standardise", "did you mean 'standardize'"),
        ("center+unitnorm", "preprocessing 'unitnorm' in 'center.unitnorm'.*mean 'unit-norm'"),
        ("", "preprocessing '' in ''"),
    ],
)
def test_an_unknown_step_is_refused_with_a_suggestion(recipe, message):
    with pytest.raises(InputError, match=message):
        Preprocessor.fit(random_images(), recipe)


def test_another_number_of_channels_is_refused():
    fitted = Preprocessor.fit(random_images(), "center")
    with pytest.raises(InputError, match="images have 1 channels, but the training images had 3"):
        fitted.apply(random_images()[..., :1])


def test_other_shapes_and_nan_are_refused():
    with pytest.raises(InputError, match=r"images have shape \(3, 4, 2, 1, 1\)"):
        Preprocessor.fit(np.zeros((3, 4, 2, 1, 1)), "none")
    with pytest.raises(InputError, match="1 NaN and 0 infinite"):
        Preprocessor.fit(np.array([np.nan, 0.0]).reshape(2, 1, 1, 1), "none")


def test_pixels_beyond_float32_are_refused():
    with pytest.raises(InputError, match=r"prepared pixels reach 1e\+60, above float32's 3.4e\+38"):
        prepared(np.array([1e60, 0.0]).reshape(2, 1, 1, 1), "none")


def test_halve_averages_two_by_two_pixels_before_or_after_statistics():
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3)).astype(np.uint8)
    out = Preprocessor.fit(images, "halve").apply(images)
    expected = images.reshape(5, 3, 2, 2, 2, 3).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    both = Preprocessor.fit(images, "halve+standardize").apply(images)
    np.testing.assert_allclose(both.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(both.std(axis=(0, 1, 2)), 1, rtol=1e-5)
    assert Preprocessor.fit(images[:, :4], "halve+halve").apply(images[:, :4]).shape == (5, 1, 1, 3)


def test_written_down_as_json_and_read_back_it_prepares_the_same_bits():
    images = np.random.default_rng(1).integers(0, 256, (7, 4, 4, 3)).astype(np.uint8)
    fitted = Preprocessor.fit(images, "halve+standardize+unit-norm")
    again = Preprocessor.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    assert (again.apply(images[:3]) == fitted.apply(images)[:3]).all()


def test_an_odd_side_cannot_be_halved():
    images = np.zeros((2, 6, 4, 1))
    fitted = Preprocessor.fit(images, "halve")
    for act in (
        lambda: Preprocessor.fit(images, "halve+halve"),
        lambda: fitted.apply(np.zeros((2, 5, 4, 1))),
    ):
        with pytest.raises(InputError, match=r"cannot be halved \d times: \d is no multiple of"):
            act()


@pytest.mark.parametrize("recipe", ["standardize", "center+unit-norm", "none", "halve"])
def test_statistics_of_another_order_agree_and_those_of_other_images_do_not(recipe: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 6, 6, 3), dtype=np.uint8)
    fitted = Preprocessor.fit(images, recipe)
    assert fitted.agrees(Preprocessor.fit(images[::-1], recipe))
    assert not fitted.agrees(Preprocessor.fit(images[..., :1], recipe))
    assert not fitted.agrees(Preprocessor.fit(images, recipe + "+unit-norm"))
    other = images.copy()
    other[7, 3, 3, 1] ^= 1
    same = recipe in ("none", "halve")
    assert fitted.agrees(Preprocessor.fit(other, recipe)) is same


@pytest.mark.parametrize("recipe", ["standardize", "center+unit-norm", "none", "halve"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", ">u2"])
def test_the_divisor_of_the_training_images_is_taken_for_any_dtype_of_test_images(recipe, dtype):
    train, test = random_images(1, (20, 4, 4, 3)), random_images(2, (20, 4, 4, 3))
    for one, other in ((np.uint8, dtype), (dtype, np.uint8)):
        fitted = Preprocessor.fit(train.astype(one), recipe)
        assert fitted.divisor == (255 if one == np.uint8 else 1)
        np.testing.assert_array_equal(
            fitted.apply(test.astype(other)), fitted.apply(test.astype(one))
        )


def test_images_on_another_scale_are_refused_and_features_are_not():
    train = random_images()
    with pytest.raises(ScaleError, match=r"images range from 0 to 1 \(float64\), the training im"):
        Preprocessor.fit(train, "standardize").apply(train / 255)
    rows = train.reshape(20, -1).astype(np.float32)
    assert Preprocessor.fit(rows, "auto").apply(rows / 255).shape == rows.shape


def test_a_few_images_are_compared_as_a_part_of_their_set():
    train = random_images(dtype=np.float64) - 7
    fitted = Preprocessor.fit(train, "standardize")
    dim = np.abs(train[:9]) / 1e4
    with pytest.raises(ScaleError):
        fitted.apply(dim)
    assert fitted.apply(dim, of=PixelRange.of(train)).shape == dim.shape


def test_a_preprocessor_of_a_version_without_scale_divides_by_dtype_as_then():
    images = random_images()
    fitted = Preprocessor.fit(images, "standardize")
    stored = fitted.to_dict()
    assert (stored.pop("divisor"), stored.pop("range")["dtype"]) == (255, "uint8")
    old = Preprocessor.from_dict(stored)
    np.testing.assert_array_equal(old.apply(images), fitted.apply(images))
    assert fitted.agrees(old)
    assert fitted.with_statistics_of(old) == fitted
    old.apply(images / 255)  # whatever the range
    assert not fitted.agrees(Preprocessor.fit(images.astype(np.float32), "standardize"))


def test_rows_of_bytes_are_on_the_scale_of_others_or_refused():
    bytes_ = np.random.default_rng(0).integers(0, 256, (20, 6), dtype=np.uint8)
    fitted = Preprocessor.fit(bytes_, "auto")
    np.testing.assert_array_equal(fitted.apply(bytes_.astype(float)), fitted.apply(bytes_))
    with pytest.raises(
        InputError, match=r"features range from 0 to .* \(float64\), the training f"
    ):
        fitted.apply(bytes_ / 255)
    with pytest.raises(InputError, match=r"\(uint8\), the training features from 0 to 0\.9"):
        Preprocessor.fit(bytes_ / 255, "auto").apply(bytes_)
    # of two tables of floats one may have an outlier
    Preprocessor.fit(bytes_ / 255, "auto").apply(bytes_.astype(float))
    assert Preprocessor.from_dict(fitted.to_dict()) == fitted
