"""Images as callers give them: one array, channels last, the same at every entry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

import ntkdist
from ntkdist.data import ImageSet, Preprocessor, load
from ntkdist.errors import InputError
from ntkdist.learning import FiniteNetwork, standard_kernel_matrix, train
from ntkdist.learning.active import NetworkLearner
from ntkdist.learning.empirical import empirical_kernel
from ntkdist.learning.pairs import pixel_pairs
from ntkdist.learning.sweep import Variant, measure
from ntkdist.learning.widths import sweep_widths
from ntkdist.networks.architecture import Architecture
from ntkdist.pixels import PixelRange, ScaleError, array_of, image_array

N = 12
LABELS = np.arange(N) % 2
RANDOM = np.random.default_rng(0)
ARCH = "cnn-1"


def pixels(*shape):
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def finite(use):
    """Return what an untrained network makes of images."""

    def call(images):
        network = FiniteNetwork(ARCH, width=4, num_classes=2)
        return use(network, network.init(0, (8, 10, 3)), images)

    return call


def learner(images, test_images):
    return NetworkLearner(ARCH, images, test_images, 2)


# every public function that takes images
ENTRIES = {
    "ImageSet": lambda x: ImageSet(x, LABELS, 2),
    "ImageSet, pictures": lambda x: ImageSet(np.eye(N), LABELS, 2, pictures=x),
    "fit": lambda x: Preprocessor.fit(x, "standardize"),
    "apply": lambda x: Preprocessor.fit(pixels(N, 8, 10, 3), "center").apply(x),
    "kernel_matrix": lambda x: ntkdist.kernel_matrix(ARCH, x),
    "kernel_matrix, x2": lambda x: ntkdist.kernel_matrix(ARCH, pixels(N, 8, 10, 3), x),
    "standard_kernel_matrix": lambda x: standard_kernel_matrix(ARCH, x, width=4),
    "find_label_issues": lambda x: ntkdist.find_label_issues(x, LABELS, architecture=ARCH),
    "train": lambda x: train(ARCH, x, LABELS, 2, width=4, epochs=1),
    "train, test": lambda x: train(
        ARCH, pixels(N, 8, 10, 3), LABELS, 2, width=4, epochs=1, test=(x, LABELS)
    ),
    "NetworkLearner": lambda x: learner(x, x),
    "NetworkLearner, test": lambda x: learner(pixels(N, 8, 10, 3), x),
    "empirical_kernel": finite(empirical_kernel),
    "FiniteNetwork.apply": finite(FiniteNetwork.apply),
    "measure": lambda x: measure(Variant("1", Architecture.parse(ARCH)), x, LABELS, 2),
    "sweep_widths": lambda x: sweep_widths(ARCH, x, LABELS, 2, (x, LABELS), widths=(2,)),
}


def sizes():
    return [pixels(8, 10, 3) for _ in range(N - 1)] + [pixels(9, 10, 3)]


def pillow(mode="RGB"):
    return [Image.fromarray(pixels(8, 10, 3)).convert(mode) for _ in range(N)]


WRONG = {
    "several sizes": (sizes, r"images\[0\] has shape \(8, 10, 3\) but images\[11\] \(9, 10, 3\); "),
    "one is None": (lambda: [*sizes()[:-1], None], r"images\[11\] is None; give an array"),
    "None": (lambda: None, "images are given as NoneType; give an array"),
    "a dictionary": (lambda: {"images": sizes()}, "images are given as dict; give an array"),
    "a generator": (lambda: (one for one in sizes()), "images are given as generator; give an"),
    "names of files": (lambda: ["a.png"] * N, "dtype <U5; real numbers are needed"),
    "one Pillow image": (lambda: pillow()[0], "one Pillow image; give a list of at least two"),
    "Pillow images of two modes": (lambda: pillow()[1:] + pillow("L")[:1], "the modes L, RGB; use"),
    "palettes": (lambda: pillow("P"), r'mode P, .* use \[image.convert\("RGB"\) for image in'),
    "complex numbers": (lambda: pixels(N, 8, 10, 3) * 1j, "images have dtype complex128"),
    "dates": (lambda: pixels(N, 8, 10, 3).astype("M8[s]"), "images have dtype datetime64"),
    "masked": (lambda: np.ma.masked_less(pixels(N, 8, 10, 3), 9), "hold masked values; fill"),
    "one picture": (lambda: pixels(N, 10, 3), r"looks like one picture \(H, W, C\).*x\[None\]"),
    "five axes": (lambda: pixels(N, 8, 10, 3, 1), r"\(12, 8, 10, 3, 1\); \(N, H, W, C\) is needed"),
    "channels first": (
        lambda: pixels(N, 3, 8, 10),
        r"shape \(12, 3, 8, 10\), which looks like \(N, C, H, W\).*x.transpose\(0, 2, 3, 1\), or "
        r"x.transpose\(0, 2, 1, 3\) for images that are 3 pixels high and have 10 channels",
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_set_of_images_is_one_clear_line_at_every_entry(entry, case):
    if case == "None" and entry in ("kernel_matrix, x2", "ImageSet, pictures"):
        pytest.skip("None has a meaning")
    make, message = WRONG[case]
    with pytest.raises(InputError, match=message) as raised:
        ENTRIES[entry](make())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", ["several sizes", "one is None", "None"])
def test_pairs_of_images_of_any_shape_need_an_array_too(case):
    make, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        pixel_pairs(make())


@pytest.mark.parametrize(
    "shape",
    [
        (1, 28, 28), (3, 32, 32), (3, 28, 20), (3, 20, 28), (2, 9, 5), (4, 64, 48), (1, 4, 5),
        (3, 4, 28), (4, 3, 5),
    ],
)  # fmt: skip
def test_channels_first_is_refused_for_every_number_of_channels_and_every_shape(shape):
    with pytest.raises(InputError, match=r"looks like \(N, C, H, W\)"):
        image_array(np.zeros((6, *shape), np.uint8))


@pytest.mark.parametrize(
    "shape",
    [
        (3, 28, 1), (3, 28, 3), (1, 28, 4), (2, 3, 4), (1, 1, 5), (1, 1, 512), (4, 4, 512),
        (7, 7, 512), (28, 28, 1), (32, 32, 3), (5, 28, 28), (12, 64, 64), (3, 3, 9),
    ],
)  # fmt: skip
def test_flat_images_single_pixels_and_feature_maps_are_accepted(shape):
    x = np.zeros((6, *shape), np.uint8)
    assert image_array(x) is x


@given(st.integers(1, 4), st.integers(5, 40), st.integers(5, 40))
def test_channels_first_is_refused_and_its_remedy_accepted(channels, height, width):
    x = np.zeros((6, channels, height, width), np.uint8)
    with pytest.raises(InputError, match=r"looks like \(N, C, H, W\)"):
        image_array(x)
    assert image_array(x.transpose(0, 2, 3, 1)).shape == (6, height, width, channels)
    assert image_array(x.transpose(0, 2, 1, 3)).shape == (6, height, channels, width)


@pytest.mark.parametrize("arch", ["cnn-1", "cntk-gap-3", ["Conv", "Flatten", "Dense"]])
def test_height_and_width_may_be_exchanged(arch):
    x = RANDOM.normal(size=(5, 9, 2, 3))
    wanted = ntkdist.kernel_matrix(arch, x, backend="reference", dtype="float64")
    turned = x.transpose(0, 2, 1, 3)
    found = ntkdist.kernel_matrix(arch, turned, backend="reference", dtype="float64")
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize(
    "entry", ["ImageSet", "ImageSet, pictures", "fit", "standard_kernel_matrix", "measure",
              "find_label_issues", "NetworkLearner"]
)  # fmt: skip
def test_greyscale_images_need_no_channel_axis(entry):
    ENTRIES[entry](pixels(N, 8, 10))


def test_greyscale_images_without_channel_axis_have_the_same_kernel_and_preparation():
    grey = pixels(N, 8, 10)
    np.testing.assert_array_equal(
        ntkdist.kernel_matrix(ARCH, grey), ntkdist.kernel_matrix(ARCH, grey[..., None])
    )
    fitted = Preprocessor.fit(grey, "standardize")
    assert fitted == Preprocessor.fit(grey[..., None], "standardize")
    np.testing.assert_array_equal(fitted.apply(grey), fitted.apply(grey[..., None]))
    assert ImageSet(grey, LABELS, 2).image_shape == (8, 10, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1"])
def test_pillow_images_of_one_mode_are_the_array_of_their_numbers(mode):
    images = pillow(mode)
    np.testing.assert_array_equal(array_of(images), np.stack([np.asarray(one) for one in images]))


def test_arrays_in_an_array_of_objects_are_one_array():
    held = np.empty(N, object)
    held[:] = [one[:8] for one in sizes()]
    assert image_array(held).shape == (N, 8, 10, 3)


def test_readers_refuse_channels_first_too(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=pixels(N, 3, 8, 10), y_train=LABELS)
    with pytest.raises(InputError, match=r"a.npz \(train\): images have shape .*\(N, C, H, W\)"):
        load(f"npz:{tmp_path}/a.npz")


def span(dtype, low, high, images=20):
    return PixelRange(dtype, low, high, images)


@pytest.mark.parametrize(
    ("training", "others"),
    [
        (span("float32", 0, 1), span("uint8", 0, 255)),
        (span("float32", 0, 1), span("float32", 0, 255)),
        (span("uint8", 0, 255), span("float32", 0, 1)),
        (span("uint8", 0, 255), span("float64", -1, 1)),
        (span("uint8", 0, 255), span("float64", -0.4, 2.8)),
        (span("uint8", 0, 255), span("uint16", 0, 65535)),
        (span("uint8", 0, 255), span("uint16", 0, 4095)),
        (span("uint16", 0, 65535), span("uint8", 0, 255)),
        (span("uint16", 0, 255), span("uint16", 0, 65535)),
        (span("uint8", 0, 15), span("uint8", 0, 255)),
        (span("uint8", 0, 255), span("bool", 0, 1)),
        (span("float32", -1, 1), span("float32", 0, 1)),
        (span("float32", 0, 1), span("float32", -1, 1)),
        (span("float32", -1, 1), span("uint8", 0, 255)),
        (span("float32", -0.42, 2.8), span("float32", 0, 1)),
        (span("uint8", 0, 255), span("uint16", 0, 1023)),
        (span("uint16", 0, 1023), span("uint8", 0, 255)),
        (span("float32", 0, 1), span("float32", 0, 16)),
        (span("uint8", 0, 255), span("uint8", 0, 1)),
        (span("int64", 0, 255), span("int64", 0, 1)),
        (span("float32", 0, 1, 2), span("float32", 0, 255, 1)),
        (span("float32", 0, 255, 2), span("float32", 0, 1, 1)),
    ],
)
def test_another_scale_is_refused_with_both_ranges(training, others):
    with pytest.raises(ScaleError) as raised:
        training.check(others)
    text = str(raised.value)
    assert f"images range from {others}, the training images from {training}, which is" in text
    assert f"{others.high:g} ({others.dtype})" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("training", "others"),
    [
        (span("uint8", 0, 255), span("float32", 0, 255)),
        (span("float64", 0, 255), span("uint8", 0, 255)),
        (span("uint8", 0, 255), span("int64", 3, 251)),
        (span("uint8", 0, 255), span("uint8", 0, 3)),
        (span("uint8", 0, 255), span("uint8", 0, 1, 7)),
        (span("uint8", 0, 255), span("float32", -20, 280)),
        (span("uint16", 0, 255), span("uint8", 0, 250)),
        (span("int16", -300, 700), span("int16", 0, 60)),
        (span("uint8", 0, 255), span("uint8", 0, 0)),
        (span("uint8", 0, 90), span("uint8", 0, 255)),
        (span("int16", -1000, 3000), span("int16", 0, 20)),
        (span("uint16", 0, 65535), span("uint16", 0, 900)),
        (span("float32", 0, 1), span("float64", 0, 0.4)),
        (span("float32", 0, 1), span("float32", -0.05, 1.3)),
        (span("float32", -2.5, 3.1), span("float32", -4.0, 5.2)),
        (span("float32", -2.1, 2.6), span("float32", 0.4, 1.9, 1)),
        (span("bool", 0, 1), span("float32", 0, 1)),
        (span("float32", 0, 0), span("uint8", 0, 255)),
    ],
)
def test_the_same_scale_is_accepted_dark_or_in_another_type(training, others):
    training.check(others)


@given(st.integers(0, 10_000), st.sampled_from(["uint8", "uint16", "int16", "int64"]))
def test_images_of_a_set_of_integers_are_on_the_scale_of_the_set(seed, dtype):
    random = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    high = int(random.integers(1, min(limits.max, 2**40)))
    low = int(random.integers(max(limits.min, -(2**40)), high))
    images = random.integers(low, high, (20, 2, 2, 1), endpoint=True).astype(dtype)
    part = images[random.integers(0, 20, 3)]
    PixelRange.of(images).check(PixelRange.of(part))


RAW = pixels(N, 8, 10, 3)

# every function of two sets: (sets that were standardised are for check_sets, numbers for the rest)
PAIRS = {
    "Preprocessor": lambda x, z: Preprocessor.fit(x, "standardize").apply(z),
    "kernel_matrix": lambda x, z: ntkdist.kernel_matrix(ARCH, x, z),
    "standard_kernel_matrix": lambda x, z: standard_kernel_matrix(ARCH, x, z, width=4),
    "pixel_pairs": pixel_pairs,
    "train": lambda x, z: train(ARCH, x, LABELS, 2, width=4, epochs=1, test=(z, LABELS)),
    "NetworkLearner": learner,
    "empirical_kernel": lambda x, z: finite(
        lambda network, params, images: empirical_kernel(network, params, images, z)
    )(x),
    "sweep_widths": lambda x, z: sweep_widths(ARCH, x, LABELS, 2, (z, LABELS), widths=(2,)),
}


@pytest.mark.parametrize("entry", PAIRS)
@pytest.mark.parametrize("raw_first", [True, False])
def test_every_function_of_two_sets_refuses_another_scale(entry, raw_first):
    sets = (RAW, RAW / np.float32(255))
    with pytest.raises(ScaleError, match=r"0 to 255 \(uint8\).*which is another scale"):
        PAIRS[entry](*(sets if raw_first else sets[::-1]))


def test_a_trained_network_predicts_images_on_the_scale_of_its_training_only():
    trained = train(ARCH, RAW / 255.0, LABELS, 2, width=4, epochs=1)
    assert trained.predict(RAW[:2] / np.float32(255)).shape == (2, 2)
    with pytest.raises(ScaleError, match=r"the training images from 0 to 1 \(float64\)"):
        trained.predict(RAW[:2])


def test_kernels_of_floats_may_have_any_two_scales():
    x = RANDOM.normal(size=(3, 4, 4, 1)).astype(np.float32)
    ntkdist.kernel_matrix(ARCH, x, 1000 * x)
