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
from ntkdist.pixels import array_of, image_array

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
