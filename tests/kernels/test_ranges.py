"""Kernels that leave the range of floating point, or are 0 throughout, are refused."""

import numpy as np
import pytest

from ntkdist import Architecture, kernel_matrix
from ntkdist.errors import InputError
from ntkdist.kernels import get_backend
from ntkdist.kernels.ranges import _path, check_entries, check_range
from tests.kernels.images import awkward_images

X = np.random.default_rng(0).normal(size=(3, 4, 5, 2))
BLACK = np.zeros_like(X)


def deep(W_std, layers=30, activation="Relu"):
    return [{"Conv": {"W_std": W_std}}, activation] * layers + ["GlobalAvgPool", "Dense"]


FIXED = ["Conv(trainable=False)", "Relu", "Flatten", "Dense(trainable=False)"]


@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda", "stax"])
@pytest.mark.parametrize(("W_std", "words"), [(0.1, "W_std=0.1"), (10.0, "W_std=10")])
def test_every_backend_names_layer_and_weights(gpu, backend, W_std, words):
    arch = Architecture.parse(deep(W_std))
    message = rf"layer \d+, Conv with {words}, K\(x, x\) .* float32 .*dtype float64.*sqrt\(2\)"
    with pytest.raises(InputError, match=message) as caught:
        get_backend(backend).prepare(arch, X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arch", "dtype", "message"),
    [
        (deep(1e-6, 60), "float64", r"behind layer 4\d, Conv.* float64 .*take fewer layers"),
        (deep(1e6, 60), "float64", "behind layer 5., Conv.* float64 "),
        (deep(10.0, 60, "Erf"), "float32", r"Θ\(x, x\) .* float32"),
        (
            ["Dense(W_std=1e6)", "Erf", "Dense"],
            "float64",
            "front of layer 2, Erf, .* smaller W_std",
        ),
        ("cntk-gap-999", "float32", r"float32 .*fewer layers"),
        ("cntk-gap-9999", "float32", r"float64 .*fewer layers"),
        (["Dense(W_std=1e12)", "Relu", "Dense(W_std=1e12)"], "float32", "layer 3, Dense"),
        ([{"Conv": {"stride": 2, "W_std": 1e-25}}, "Flatten", "Dense"], "float32", "layer 1, Conv"),
        (
            ["Conv", {"Residual": {"branch": ["Conv(W_std=1e25)"]}}, "Flatten", "Dense"],
            "float32",
            "layer 2, Residual, K",
        ),
        (
            ["Dense", "Exp(b=30)", "Dense"],
            "float64",
            r"behind layer 2, Exp with a=1, b=30, K\(x, x\) of an image is inf, .*smaller b, or",
        ),
        (["Dense", "Exp(b=5)", "Dense"], "float32", "layer 2, Exp .*float32 .*take dtype float64"),
        (["Dense(W_std=20)", "Exp", "Dense"], "float32", "layer 2, Exp .*smaller W_std in front"),
        (["Dense", "ABRelu(1e30, 0)", "Dense"], "float32", "ABRelu with a=1e.30, b=0, K.*numbers"),
        (["Dense", "ExpNormalized(200, 0)", "Dense"], "float32", "gamma=200, shift=0, K.*other"),
        (["Dense(W_std=1e6)", "Sin", "Dense"], "float64", "layer 2, Sin, .* limit is 1e.10: take"),
        (["Dense", "Cos(b=1e6)", "Dense"], "float64", "front of layer 2, Cos, .*below rounding"),
        (["Dense", "Gaussian(b=-1e11)", "Dense"], "float64", "front of layer 2, Gaussian, .*1e-01"),
        (["Dense(W_std=1e80)", "Gelu", "Dense"], "float64", "layer 2, Gelu, .*leave float64"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_leaves_the_range_is_refused(arch, dtype, message):
    arch = Architecture.parse(arch)
    with pytest.raises(InputError, match=message):
        check_entries(arch, X, dtype, ["ntk"])


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_images_out_of_range_are_named(scale):
    with pytest.raises(InputError, match=r"mean square of an image's pixels.*rescale the images"):
        kernel_matrix("fc-2", X * scale, dtype="float64")


@pytest.mark.parametrize("arch", [deep(0.1), deep(10.0)])
def test_float64_has_a_wider_range(arch):
    found = kernel_matrix(arch, X, backend="cpu", dtype="float64")
    assert (found > 0).all()


def test_what_is_not_the_dtype_s_in_between_is_accepted():
    arch = ["Dense(W_std=1e-25)", "Relu", "Dense(W_std=1e25)"]
    check_range(Architecture.parse(arch), X, "float32")


def test_a_tangent_kernel_out_of_range_leaves_nngp():
    check_entries(Architecture.parse(deep(10.0, 60, "Erf")), X, "float32", ["nngp"])


def test_the_exponential_of_every_image_is_followed():
    # neither the largest nor the smallest peak, but the largest mean square
    x = np.zeros((3, 4, 5, 2))
    x[0, 0, 0, 0], x[1], x[2, 0, 0, 0] = 4.0, 3.9, 0.1
    arch = Architecture.parse(["Dense", "Exp(b=3.5)", "Dense"])
    check_range(arch, x[[0, 2]], "float64")
    with pytest.raises(InputError, match="layer 2, Exp"):
        check_range(arch, x, "float64")


@pytest.mark.parametrize(
    "arch",
    [
        ["Conv(W_std=1e100)", "Relu", "Conv(W_std=1e-100)", "Flatten", "Dense"],
        ["Conv(W_std=1e-100)", "LeakyRelu(0.2)", "Conv(W_std=1e100)", "Flatten", "Dense"],
        ["Conv(W_std=1e100)", "LayerNorm", "Relu", "Conv", "GlobalAvgPool", "Dense"],
        ["Conv(W_std=1e-100)", "ExpNormalized", "Conv(W_std=1e100)", "Flatten", "Dense"],
    ],
    ids=str,
)
def test_variances_whose_product_is_no_number_are_computed(arch):
    found = kernel_matrix(arch, X, backend="reference", dtype="float64")
    scaled = [text.replace("1e-100", "1.0").replace("1e100", "1.0") for text in arch]
    expected = kernel_matrix(scaled, X, backend="reference", dtype="float64")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_untrainable_networks_have_no_ntk():
    with pytest.raises(InputError, match="no layer is trainable, so the NTK is 0"):
        kernel_matrix(FIXED, X)
    assert (kernel_matrix(FIXED, X, kind="nngp") > 0).all()


@pytest.mark.parametrize("images", [(BLACK, None), (X, BLACK), (BLACK, X)], ids=str)
def test_black_images_alone_are_refused(images):
    with pytest.raises(InputError, match=r"all 3 images are zero \(black\).*b_std above 0"):
        kernel_matrix("cnn-1", *images)
    assert (kernel_matrix(["Conv(b_std=0.1)", "Relu", "Flatten", "Dense"], *images) > 0).all()


def test_one_black_image_among_others_has_kernel_zero():
    x = X.copy()
    x[1] = 0
    assert (kernel_matrix("cnn-1", x) == 0).sum() == 5


@pytest.mark.parametrize(
    "arch",
    [
        ["Conv(b_std=0.2)", "Relu", "Conv(5, stride=2)", "Erf", "Flatten", "Dense(b_std=0.1)"],
        ["Conv(2, padding='VALID')", "Erf", "Conv(4, padding='CIRCULAR', stride=3)", "Flatten",
         "Dense", "Relu", "Dense"],
        ["Conv(2)", {"Residual": {"branch": ["Conv", "Relu", "Conv(trainable=False)"]}}, "Relu",
         "Flatten", "Dense"],
        ["Dense", "Erf", "Dense", "Relu", "Dense(b_std=1.0)"],
        ["Conv", "LeakyRelu", "Conv", "Gelu", "Conv", "Sin(0.7, 1.4, 0.3)", "Flatten", "Dense"],
        ["Conv", "LayerNorm", "Cos", "Conv", "Exp(b=0.5)", "Conv", "Gaussian", "Flatten", "Dense"],
        ["Conv", "ABRelu(-1, 2)", "Dense", "ExpNormalized(2)", "Identity", "Flatten", "Dense"],
    ],
    ids=str,
)  # fmt: skip
def test_diagonals_are_those_of_the_reference(arch):
    arch = Architecture.parse(arch)
    x = awkward_images((4, 5, 2))
    *_, (_, _, K, theta) = _path(arch, x)
    backend = get_backend("reference", dtype="float64")
    state = backend.prepare(arch, x)
    expected = backend.block(state, state, ("nngp", "ntk"))
    np.testing.assert_allclose(K, np.diag(expected["nngp"]), rtol=1e-12)
    np.testing.assert_allclose(theta, np.diag(expected["ntk"]), rtol=1e-6)  # arccos near 1
