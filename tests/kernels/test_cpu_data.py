"""The cpu backend on real images: depth 21, raw pixels, near duplicates, ill scaling, definiteness.

Near duplicates differ in one pixel by 1/255. Expected entries come from the recursion in extended
precision where float64 has too few digits for them, from the reference elsewhere.
"""

import numpy as np
import pytest

from ntkdist import kernel_matrix
from ntkdist.data import Preprocessor, load
from ntkdist.kernels.registry import get_backend, of_version
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import AvgPool, Conv, Dense, Erf, Flatten, GlobalAvgPool, Relu
from tests.kernels.oracle import KINDS, check_cpu

pytestmark = pytest.mark.data

FITTED = 1000  # images the statistics are taken of
DEEP = ["cntk-v-21", "cntk-gap-21"]
BIASED = (Conv(b_std=0.1), Relu(), Conv(b_std=0.1), Relu(), Conv(b_std=0.1), Relu())
POOLED = (Conv(), Relu(), AvgPool(2), Conv(b_std=0.1), Relu(), Conv(), Relu(), AvgPool(2))
TOP = (GlobalAvgPool(), Dense(b_std=0.1))
NETWORKS = {
    "cnn-3": "cnn-3",
    "pools and biases": (*POOLED, Flatten(), Dense()),
    "pools and a tail": (*POOLED, *TOP, Relu(), Dense()),
    "erf": (Conv(b_std=0.1), Erf(), AvgPool(2), Conv(b_std=0.1), Erf(), Conv(), Relu(), *TOP),
}


@pytest.fixture(scope="module")
def pixels(data_dir):
    """Set name → uint8 training images."""
    return {
        name: load(f"npz:{data_dir / f'{name}.npz'}").images[:FITTED]
        for name in ("cifar10", "mnist")
    }


def one_pixel_changed(images):
    """Return uint8 images, one pixel of each changed by 1, nearest to the middle of the range."""
    near = images.copy()
    for image in near:
        flat = image.reshape(-1)
        k = np.argmin(np.abs(flat.astype(int) - 128))
        flat[k] = flat[k] + 1 if flat[k] < 255 else 254
    return near


def rows_and_columns(images, recipe, edge):
    """Crop and preprocess images so that rows and columns share some, and near duplicates.

    MNIST's crops leave the middle, so that they hold patches of zeros and strokes.
    """
    side = images.shape[1]
    top, left = (side // 8, side // 3) if images.shape[-1] == 1 else ((side - edge) // 2,) * 2
    cut = images[:, top : top + edge, left : left + edge]
    near = one_pixel_changed(cut)
    preprocess = Preprocessor.fit(cut, recipe).apply
    rows = preprocess(np.concatenate([cut[:3], near[:1]]))
    return rows, preprocess(np.concatenate([cut[:2], near[1:2], cut[3:4]]))


@pytest.mark.slow(but="mnist-none-cntk-v-21")
@pytest.mark.parametrize("arch", DEEP)
@pytest.mark.parametrize(
    ("name", "recipe"), [("cifar10", "standardize"), ("cifar10", "none"), ("mnist", "none")]
)
def test_depth_21_is_near_the_oracle(pixels, name, recipe, arch):
    check_cpu(arch, *rows_and_columns(pixels[name], recipe, 10))


@pytest.mark.long
@pytest.mark.parametrize("arch", DEEP)
@pytest.mark.parametrize(("name", "recipe"), [("cifar10", "standardize"), ("mnist", "none")])
def test_depth_21_is_near_the_oracle_on_whole_near_duplicates(pixels, name, recipe, arch):
    images = pixels[name]
    x, y = rows_and_columns(images, recipe, images.shape[1])
    check_cpu(arch, x[[3]], y[[0]])


@pytest.mark.slow
@pytest.mark.parametrize("arch", DEEP)
def test_depth_21_is_near_the_reference_on_a_whole_pair(pixels, arch):
    images = Preprocessor.fit(pixels["cifar10"], "standardize").apply(pixels["cifar10"][:2])
    x, y = images[:1], images[1:]
    expected = {
        kind: kernel_matrix(arch, x, y, kind=kind, backend="reference", dtype="float64")
        for kind in KINDS
    }
    check_cpu(arch, x, y, expected)


@pytest.mark.slow(but="cifar10-standardize-pools and biases")
@pytest.mark.parametrize("arch", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize(("name", "recipe"), [("cifar10", "standardize"), ("mnist", "none")])
def test_pooled_networks_are_near_the_oracle(pixels, name, recipe, arch):
    signed = arch is NETWORKS["erf"]
    check_cpu(arch, *rows_and_columns(pixels[name], recipe, 11), signed=signed)


# with biases the contrast is part of the network; float32 is for pairs not too far apart
SCALED = [("cntk-gap-21", 1e-3, 1e3)] + [
    (arch, *scales)
    for arch in ((*BIASED, *TOP), NETWORKS["pools and a tail"])
    for scales in ((1e-3, 1e-3), (1e3, 1e3), (0.5, 2))
]


@pytest.mark.slow(but="mnist-none-arch2-1000.0-1000.0")
@pytest.mark.parametrize(("arch", "first", "second"), SCALED)
@pytest.mark.parametrize(("name", "recipe"), [("cifar10", "standardize"), ("mnist", "none")])
def test_ill_scaled_images_are_near_the_oracle(pixels, name, recipe, arch, first, second):
    # float64, so that an image stays the same image at both scales
    x, y = (np.asarray(z, np.float64) for z in rows_and_columns(pixels[name], recipe, 8))
    check_cpu(arch, x * first, y * second)


@pytest.mark.slow(but="cnn-2")
@pytest.mark.parametrize("arch", ["cntk-v-11", "cnn-2"])
def test_gram_of_raw_digits_is_semidefinite(pixels, arch):
    check_semidefinite(
        arch, Preprocessor.fit(pixels["mnist"], "none").apply(among(pixels["mnist"]))
    )


@pytest.mark.slow(but="arch2")
@pytest.mark.parametrize("arch", ["cntk-gap-4", "cnn-3", (*POOLED[:3], *TOP, Relu(), Dense())])
def test_gram_of_small_photographs_is_semidefinite(pixels, arch):
    small = pixels["cifar10"].reshape(FITTED, 8, 4, 8, 4, 3).mean(axis=(2, 4)).astype(np.uint8)
    check_semidefinite(arch, Preprocessor.fit(small, "standardize").apply(among(small)))


def among(images):
    """Return 500 images, 20 of them near duplicates of others and 5 equal to others."""
    return np.concatenate([images[:475], one_pixel_changed(images[:20]), images[20:25]])


def check_semidefinite(arch, images):
    K = kernel_matrix(arch, images, backend="cpu")
    assert K.dtype == np.float32
    values = np.linalg.eigvalsh(K.astype(np.float64))
    assert values[0] >= -1e-5 * values[-1], f"{values[0]:.3e} of {values[-1]:.3e}"


@pytest.mark.parametrize("recipe", ["standardize", "center+unit-norm"])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_even_areas_of_several_contrasts_are_within_the_bound(data_dir, name, recipe):
    """Patches that are multiples of each other; the version before had entries up to 5e-5 off."""
    images = load(f"npz:{data_dir / f'{name}.npz'}").images
    x = Preprocessor.fit(images[:FITTED], recipe).apply(images[:96])
    arch = Architecture.parse("cntk-v-4")
    errors = {}
    exact = get_backend("cpu", dtype="float64")
    state = exact.prepare(arch, x)
    expected = exact.block(state, state)["ntk"]
    for version in ("cpu-3", "cpu-4"):
        backend = of_version(get_backend("cpu"), version, arch, x.shape[1:])
        state = backend.prepare(arch, x)
        errors[version] = np.abs(backend.block(state, state)["ntk"] / expected - 1).max()
    assert errors["cpu-4"] < 1.2e-5
    assert errors["cpu-4"] < errors["cpu-3"] / 2
