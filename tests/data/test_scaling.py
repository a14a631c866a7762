"""Images scaled as they are read: which size, which pixels, and the same for later images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntkdist.config import DataConfig, GramConfig, PredictConfig, RunConfig
from ntkdist.data import load
from ntkdist.data.scaling import parse_size, scale_all, scale_one, target
from ntkdist.errors import InputError
from ntkdist.runs.run import Run

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (32, 32),
        ("32", 32),
        ("32x32", 32),
        ("24X32", "24x32"),
        (" 24 × 32", "24x32"),
        ("auto", "auto"),
        (None, None),
    ],
)
def test_equal_sizes_are_kept_in_one_form(given, kept):
    assert DataConfig(size=given).size == kept


@pytest.mark.parametrize("given", [0, -3, True, "0x4", "3x", "large", "1.5", (3, 4, 5)])
def test_other_sizes_are_refused(given):
    with pytest.raises(InputError, match=r"must be auto, a side of at least 1 pixel such as 32"):
        parse_size(given)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([(28, 28)], (28, 28)),
        ([(64, 48)], (64, 48)),
        ([(65, 48)], (32, 32)),
        ([(28, 28), (28, 29)], (32, 32)),
    ],
)
def test_auto_keeps_small_images_of_one_size(found, wanted):
    assert target("auto", found) == wanted


def test_half_the_side_is_the_mean_of_four_pixels():
    image = RANDOM.random((8, 6, 3)).astype(np.float32)
    means = image.reshape(4, 2, 3, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(scale_one(image, (4, 3)), means, rtol=1e-6)


def test_a_fine_pattern_becomes_grey_and_a_flat_image_stays_flat():
    checks = (np.indices((60, 60)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None]
    small = scale_one(checks, (32, 32)).astype(int)
    assert abs(small.mean() - 127.5) < 2
    assert small.std() < 40
    for size in ((7, 9), (100, 9), (100, 100)):
        assert (scale_one(np.full((20, 30, 3), 77, np.uint8), size) == 77).all()


@pytest.mark.parametrize(
    ("dtype", "becomes"), [("uint8", "uint8"), ("uint16", "float32"), ("float64", "float32")]
)
def test_arrays_are_scaled_too(dtype, becomes):
    images = RANDOM.integers(0, 200, (3, 8, 8, 2)).astype(dtype)
    scaled = scale_all(images, "4x2")
    assert (scaled.shape, scaled.dtype) == ((3, 4, 2, 2), becomes)
    assert scale_all(images, "auto") is images


def test_made_and_stored_sets_are_scaled(tmp_path):
    assert load("digits", size=4).images.shape == (1797, 4, 4, 1)
    assert load("shapes", size="8x16").images.shape == (2000, 8, 16, 1)
    np.savez(tmp_path / "a.npz", x_train=np.zeros((4, 80, 80, 3), np.uint8), y_train=[0, 1, 0, 1])
    assert load(f"npz:{tmp_path}/a.npz", size="auto").images.shape == (4, 32, 32, 3)


def test_grey_images_can_stand_beside_coloured_ones(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        picture(tmp_path / name, (4, 4), "L")
    grey = load(f"images:{tmp_path}").images
    three = load(f"images:{tmp_path}", channels=3).images
    np.testing.assert_array_equal(three, np.repeat(grey, 3, axis=3))
    np.testing.assert_array_equal(load(f"images:{tmp_path}", channels=1).images, grey)


def picture(path: Path, size: tuple[int, int], mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((size[1], size[0])).convert(mode).save(path)


def test_files_of_many_sizes_and_modes_become_one_array(tmp_path):
    picture(tmp_path / "a/1.png", (100, 60))
    picture(tmp_path / "a/2.png", (10, 20), "L")
    ramp = np.linspace(0, 255, 400 * 300 * 3).reshape(400, 300, 3).astype(np.uint8)
    (tmp_path / "b").mkdir()
    Image.fromarray(ramp).save(tmp_path / "b/3.jpg")
    images = load(f"images:{tmp_path}", size="auto").images
    assert images.shape == (3, 32, 32, 3)
    assert (images[1, ..., 0] == images[1, ..., 2]).all()
    large = np.asarray(Image.open(tmp_path / "b/3.jpg"))
    exact = scale_one(large, (32, 32)).astype(int)
    assert np.abs(exact - images[2]).max() < 3  # read at a smaller scale, which is faster


def settings(folder: Path, place: str, **data: object) -> RunConfig:
    return RunConfig(
        run=str(folder / place),
        architecture="fc-1",
        data=DataConfig(f"images:{folder / 'set'}", **data),
        gram=GramConfig(executor="inline", backend="cpu", tile=8),
    )


@pytest.mark.slow
def test_later_images_are_scaled_as_the_first_ones_were(tmp_path):
    from ntkdist.analyses.predict import predict
    from ntkdist.pipeline import Pipeline
    from ntkdist.pipeline.extend import as_stored, extend

    for i in range(8):
        picture(tmp_path / f"set/train/{'ab'[i % 2]}/{i}.png", (12, 10))
        picture(tmp_path / f"set/test/{'ab'[i % 2]}/{i}.png", (90, 50), "L")
    config = settings(tmp_path, "run", size="auto", preprocess="halve+standardize")
    with Pipeline(config) as pipeline:
        pipeline.gram()
    picture(tmp_path / "set/train/a/new.png", (90, 90))  # with this one auto would come to 32
    with Pipeline(as_stored(config)) as pipeline:
        extend(pipeline, None)
    run = Run.open(config.run)
    assert run.scaled_to == (12, 10)
    assert run.array("inputs", "images").shape == (9, 6, 5, 3)
    with Pipeline(replace(run.config, predict=PredictConfig(on="test", ridge=0.1))) as pipeline:
        assert predict(pipeline).images == 8


def test_another_size_is_another_run(tmp_path):
    for i in range(4):
        picture(tmp_path / f"set/{'ab'[i % 2]}/{i}.png", (12, 10))
    Run.create(settings(tmp_path, "run", size=8))
    Run.create(settings(tmp_path, "run", size="8x8"))
    with pytest.raises(InputError, match=r"data\.size=8, now data\.size=6 is asked"):
        Run.create(settings(tmp_path, "run", size=6))


def test_a_size_that_does_not_fit_into_memory_is_refused_before_it_is_taken():
    images = np.zeros((2, 4, 4, 1), np.float32)
    words = (
        "2 images of 900000x900000 pixels take .* TiB .* each.*this machine has .*smaller data.size"
    )
    with pytest.raises(InputError, match=words):
        scale_all(images, 900_000)
    with pytest.raises(InputError, match="at most 1000000 pixels a side"):
        scale_all(images, 10**30)


def test_the_size_of_files_is_checked_before_they_are_decoded(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (3, 3)).save(tmp_path / name / "x.png")
    with pytest.raises(InputError, match="this machine has"):
        load(f"images:{tmp_path}", size=900_000)
