"""Features (N, D): how they are read, checked and prepared."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ntkdist.data import ImageSet, Preprocessor, load, preprocess
from ntkdist.data.features import feature_words, holds_split, read_features
from ntkdist.data.readers import holds_features
from ntkdist.errors import InputError

RANDOM = np.random.default_rng(0)
F = RANDOM.normal(size=(12, 5)).astype(np.float32)
Y = np.arange(12) % 3
X = RANDOM.integers(0, 256, (12, 4, 6, 1), dtype=np.uint8)


@pytest.fixture
def images(tmp_path):
    """An archive of images with a test split, as a data source."""
    np.savez(tmp_path / "images.npz", x_train=X, y_train=Y, x_test=X[:6], y_test=Y[:6])
    return f"npz:{tmp_path / 'images.npz'}"


def saved(path, values):
    np.save(path, values)
    return str(path)


def message_of(act):
    with pytest.raises(InputError) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_an_archive_of_two_dimensions_is_a_feature_source(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, x_train=F, y_train=Y, x_test=F[:3].astype(np.float16), y_test=Y[:3])
    train, test = load(f"npz:{path}"), load(f"npz:{path}", "test")
    np.testing.assert_array_equal(train.images, F)
    assert (train.is_features, train.image_shape, train.shown) == (True, (1, 1, 5), None)
    assert (test.images.dtype, test.num_classes) == (np.float16, 3)
    assert holds_features(f"npz:{path}")


def test_images_are_no_features(images):
    data = load(images)
    assert not data.is_features
    assert data.shown is data.images
    assert not holds_features(images)
    for source in ("digits", "npz:", "npz:/nowhere.npz", "images:a"):
        assert not holds_features(source)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int32", "bool"])
def test_features_beside_images_are_what_the_kernel_sees(tmp_path, images, dtype):
    values = (10 * np.abs(F)).astype(dtype)
    data = load(images, features=saved(tmp_path / "f.npy", values))
    np.testing.assert_array_equal(data.images, values)
    assert data.images.dtype == dtype
    np.testing.assert_array_equal(data.shown, X)
    np.testing.assert_array_equal(data.labels, Y)
    part = data.take([7, 2])
    np.testing.assert_array_equal(part.images, values[[7, 2]])
    np.testing.assert_array_equal(part.shown, X[[7, 2]])


def test_size_and_channels_are_of_the_pictures(tmp_path, images):
    path = saved(tmp_path / "f.npy", F)
    data = load(images, features=path, size=3, channels=3)
    assert data.shown.shape == (12, 3, 3, 3)
    np.testing.assert_array_equal(data.images, F)


@pytest.mark.parametrize("names", ["{}", "x_{}", "features_{}", "{}_features"])
def test_an_archive_may_hold_the_features_of_both_splits(tmp_path, images, names):
    path = tmp_path / "f.npz"
    np.savez(path, **{names.format("train"): F, names.format("test"): -F[:6]}, other=Y)
    np.testing.assert_array_equal(load(images, features=str(path)).images, F)
    np.testing.assert_array_equal(load(images, "test", features=str(path)).images, -F[:6])
    assert holds_split(path, "test")


def test_an_archive_may_hold_one_array_of_any_name(tmp_path, images):
    np.savez(tmp_path / "one.npz", embeddings=F)
    np.savez(tmp_path / "named.npz", labels=Y, features=F)
    for name in ("one", "named"):
        path = tmp_path / f"{name}.npz"
        np.testing.assert_array_equal(load(images, features=str(path)).images, F)
        assert not holds_split(path, "test")
    assert not holds_split(tmp_path / "none.npz", "test")


def test_paths_are_relative_to_the_root_and_expanded(tmp_path, images, monkeypatch):
    saved(tmp_path / "f.npy", F)
    monkeypatch.setenv("HERE", str(tmp_path))
    for path, root in (("f.npy", str(tmp_path)), ("$HERE/f.npy", None)):
        assert load(images, root=root, features=path).is_features


def changed(row, column, value, dtype="float64"):
    values = F.astype(dtype)
    values[row, column] = value
    return values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (F[:11], "holds 11 rows of 5 features, but .* has 12 images; give one row for each image"),
        (F[:, :1], r"features have 1 column; \(N, D\) is needed.*at least 2 columns"),
        (F[:, 0], r"features have shape \(12,\); \(N, D\) is needed"),
        (F[:, :0], r"features have shape \(12, 0\)"),
        (F[None], r"features have shape \(1, 12, 5\)"),
        (F.astype(complex), "features have dtype complex128; real numbers are needed"),
        (F.astype(object), "holds Python objects, which are not read; store an array of float32"),
        (F.astype(str), "features have dtype <U32; real numbers are needed"),
        (changed(3, 4, np.nan), "1 NaN and 0 infinite values, the first in row 3, column 4"),
        (changed(2, 1, -np.inf, "float16"), "0 NaN and 1 infinite values, the first in row 2, col"),
        (changed(5, 2, -1e60), r"features reach -1e\+60 in row 5, column 2 .*3.4e\+38; divide"),
    ],
)
def test_bad_features_are_one_clear_line(tmp_path, images, values, expected):
    path = tmp_path / "f.npy"
    np.save(path, values, allow_pickle=True)
    text = message_of(lambda: load(images, features=str(path)))
    assert str(path) in text
    assert re.search(expected, text)


def test_a_missing_damaged_or_other_file_is_refused(tmp_path, images):
    path = saved(tmp_path / "feats.npy", F)
    text = message_of(lambda: load(images, features=f"{tmp_path}/feat.npy"))
    assert f"{tmp_path}/feat.npy does not exist; did you mean 'feats.npy'" in text
    (tmp_path / "text.npy").write_text("1,2,3\n")
    text = message_of(lambda: load(images, features=f"{tmp_path}/text.npy"))
    assert "is no .npy or .npz file; write it with numpy.save" in text
    whole = (tmp_path / "feats.npy").read_bytes()
    (tmp_path / "torn.npy").write_bytes(whole[:-40])
    assert "torn.npy is damaged" in message_of(
        lambda: read_features(tmp_path / "torn.npy", "train")
    )
    assert "is a folder; a file is needed" in message_of(
        lambda: load(images, features=str(tmp_path))
    )
    np.savez(tmp_path / "two.npz", a=F, b=F)
    text = message_of(lambda: load(images, features=f"{tmp_path}/two.npz"))
    assert "holds a, b, and no features of the train split; store one array" in text
    np.savez(tmp_path / "test.npz", test=F)
    text = message_of(lambda: load(images, features=f"{tmp_path}/test.npz"))
    assert "holds test, and no features of the train split" in text
    assert path


def test_features_of_features_are_refused(tmp_path):
    np.savez(tmp_path / "f.npz", x_train=F, y_train=Y)
    path = saved(tmp_path / "g.npy", F)
    text = message_of(lambda: load(f"npz:{tmp_path}/f.npz", features=path))
    assert "f.npz holds features itself (12 rows of 5 features); leave one of them out" in text


@pytest.mark.parametrize("size", ["auto", 8, (4, 8), "4x8"])
def test_features_have_no_size(tmp_path, size):
    np.savez(tmp_path / "f.npz", x_train=F, y_train=Y)
    text = message_of(lambda: load(f"npz:{tmp_path}/f.npz", size=size))
    assert "scales images, and the source holds features (12 rows of 5 features)" in text
    assert "data.size=4x8" in text or size in ("auto", 8)


def test_labels_are_checked_against_the_rows():
    assert "12 rows of features but 11 labels" in message_of(lambda: ImageSet(F, Y[:11], 3))
    assert "N = 1 rows of features" in message_of(lambda: ImageSet(F[:1], Y[:1], 3))


def test_feature_words_count_rows_and_columns():
    assert feature_words(4000, 1280) == "4,000 rows of 1,280 features"
    assert feature_words(1, 2) == "1 row of 2 features"


def test_auto_is_chosen_by_the_inputs():
    pixels = X.astype(np.float64)
    for recipe in ("auto", " auto "):
        assert Preprocessor.fit(F, recipe) == Preprocessor.fit(F, "center+unit-norm")
        assert Preprocessor.fit(pixels, recipe) == Preprocessor.fit(pixels, "standardize")


def test_auto_centres_each_column_and_gives_rows_the_norm_of_their_length():
    x = F.astype(np.float16) * 3 + 7
    fitted = Preprocessor.fit(x, "auto")
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=0)
    expected = centred * np.sqrt(5) / np.linalg.norm(centred, axis=1, keepdims=True)
    found = fitted.apply(x)
    assert (found.shape, found.dtype) == (F.shape, np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(fitted.apply(x[3:7]), found[3:7])
    again = Preprocessor.from_dict(fitted.to_dict())
    np.testing.assert_array_equal(again.apply(x), found)
    assert fitted.to_dict()["recipe"] == "center+unit-norm"


@given(st.integers(0, 1000), st.sampled_from(preprocess.RECIPES[:4]), st.integers(1, 9))
def test_features_are_prepared_as_images_of_one_pixel(seed, recipe, block):
    x = np.random.default_rng(seed).normal(size=(9, 4)) * [1, 10, 1e-3, 1e5]
    whole = Preprocessor.fit(x[:, None, None, :], recipe).apply(x[:, None, None, :])
    kept = preprocess._BLOCK_VALUES
    preprocess._BLOCK_VALUES = 4 * block
    try:
        found = Preprocessor.fit(x, recipe).apply(x)
    finally:
        preprocess._BLOCK_VALUES = kept
    np.testing.assert_allclose(found, whole[:, 0, 0], rtol=1e-5, atol=1e-6)


def test_statistics_of_one_pixel_have_the_bits_of_one_channel_at_a_time():
    x = RANDOM.normal(size=(301, 1, 1, 3)) + 3
    (step,) = Preprocessor.fit(x, "standardize").steps
    for c in range(3):
        column = x[..., c]
        mean = column.sum() / 301
        assert step.shift[c] == mean
        assert step.scale[c] == np.sqrt(np.square(column - mean).sum() / 301)


def test_bytes_of_a_table_are_numbers_and_no_pixels():
    counts = (10 * np.abs(F)).astype(np.uint8)
    np.testing.assert_array_equal(Preprocessor.fit(counts, "none").apply(counts), counts)


@pytest.mark.parametrize("value", [0.0, 7.3, 1e-200])
@pytest.mark.parametrize("recipe", ["auto", "standardize", "standardize+unit-norm"])
def test_a_constant_column_is_zero_and_a_mean_row_stays_zero(value, recipe):
    x = np.concatenate([F, -F, np.zeros((1, 5))]).astype(np.float64)
    x[:, 1] = value
    y = Preprocessor.fit(x, recipe).apply(x)
    assert np.isfinite(y).all()
    assert (y[:, 1] == 0).all()
    assert (y[-1] == 0).all()


def test_a_column_too_small_to_square_is_no_division_by_zero():
    x = F.astype(np.float64)
    x[:, 1] *= 1e-200
    assert np.isfinite(Preprocessor.fit(x, "standardize").apply(x)).all()


def test_equal_rows_are_refused():
    text = message_of(lambda: Preprocessor.fit(np.ones((7, 3)), "auto"))
    assert text.startswith(
        "all 7 rows of features are equal, so that no kernel can tell them apart"
    )


def test_what_is_for_pixels_is_refused():
    for recipe in ("halve", "halve+standardize", "center+halve"):
        text = message_of(lambda recipe=recipe: Preprocessor.fit(F, recipe))
        assert text == (
            "preprocessing 'halve' averages 2×2 pixels, and features have none; leave halve away"
        )


def test_rows_of_another_network_are_refused():
    fitted = Preprocessor.fit(F, "auto")
    text = message_of(lambda: fitted.apply(F[:, :4]))
    assert text.startswith("rows have 4 features, but the training rows had 5; compute them with")


def test_prepared_features_beyond_float32_are_refused():
    x = F.astype(np.float64)
    x[:, 2] *= 1e-30
    fitted = Preprocessor.fit(x, "standardize")
    text = message_of(lambda: fitted.apply(np.full((2, 5), 1e20)))
    assert re.search(r"prepared features reach \d.*e\+\d+, above float32's", text)
