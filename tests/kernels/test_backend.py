import subprocess
import sys

import numpy as np
import pytest

from ntkdist import Architecture, kernel_matrix
from ntkdist.errors import InputError
from ntkdist.kernels import get_backend, select_backend

X = np.random.default_rng(0).normal(size=(5, 7))
PADDED = ("Conv", "AvgPool(3, 2, 'SAME')", "Conv", "Relu", "Flatten", "Dense")


@pytest.mark.parametrize(
    ("arch", "dtype", "name", "words"),
    [
        ("cntk-gap-4", "float32", "cpu", "the fastest that covers"),
        ("myrtle-5", "float64", "cpu", "the fastest that covers"),
        (PADDED, "float32", "stax", "can follow padded windows"),
    ],
)
def test_auto_takes_the_fastest_that_covers_and_says_why(arch, dtype, name, words):
    chosen = select_backend(Architecture.parse(arch), (32, 32, 1), dtype=dtype)
    assert chosen.backend.name == name
    assert words in chosen.reason


def test_a_named_backend_that_cannot_is_refused():
    with pytest.raises(InputError, match=r"'cpu' cannot compute this: AvgPool.*take auto"):
        select_backend(Architecture.parse(PADDED), (28, 28, 1), name="cpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_backend("cpuu"), r"backend='cpuu' is not one of.*did you mean 'cpu'"),
        (lambda: get_backend("cpu", dtype="float16"), "float16"),
        (lambda: get_backend("cpu", threads=0), "threads=0 must be a whole number from 1"),
        (lambda: kernel_matrix("fc-2", np.ones((3, 4, 2, 1, 1))), r"\(3, 4, 2, 1, 1\)"),
        (lambda: kernel_matrix("cnn-2", np.ones((3, 4))), "Conv is a layer for images"),
        (lambda: kernel_matrix("fc-2", np.ones((3, 4)), np.ones((3, 5))), "need the same shape"),
        (lambda: kernel_matrix("fc-2", np.array([[1, 2], [3, np.nan]])), "row 1, column 1"),
        (lambda: kernel_matrix("fc-2", np.ones((3, 4), complex)), "dtype complex128"),
        (
            lambda: kernel_matrix([{"Residual": {"branch": ["Conv"]}}, "Flatten", "Dense"], X),
            "Conv is a layer for images",
        ),
        (lambda: kernel_matrix("fc-2", np.full((2, 2, 2, 1), np.nan)), "image 0 holds NaN"),
        (lambda: kernel_matrix("fc-2", np.ones((2, 2, 2, 1)), kind="ntkk"), "'ntkk'"),
        (
            lambda: kernel_matrix("fc-2", np.ones((2, 2, 2, 1)), np.ones((2, 3, 2, 1))),
            "need the same shape",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("backend", ["cpu", "stax", "reference"])
def test_features_are_images_of_one_pixel(backend):
    pixels, others = X[:, None, None, :], X[:3] + 1
    found = kernel_matrix("fc-2", X, backend=backend)
    np.testing.assert_array_equal(found, kernel_matrix("fc-2", pixels, backend=backend))
    cross = kernel_matrix("fc-2", others.astype(np.float32), X, kind="nngp", backend=backend)
    assert cross.shape == (3, 5)
    wide = kernel_matrix("fc-2", others, X, kind="nngp", backend="reference", dtype="float64")
    np.testing.assert_allclose(cross, wide, rtol=2e-5, atol=2e-6)


@pytest.mark.slow
def test_kernels_need_numpy_scipy_and_numba_alone():
    allowed = {"numpy", "scipy", "numba", "llvmlite", "ntkdist"}
    code = f"""
import sys
before = {{m.split('.')[0] for m in sys.modules}}
stdlib = set(sys.stdlib_module_names)
import numpy as np
import ntkdist.kernels
ntkdist.kernels.kernel_matrix('cntk-gap-4', np.ones((2, 3, 3, 1)))
new = {{m.split('.')[0] for m in sys.modules}} - before - stdlib - {allowed!r}
foreign = {{'jax', 'ray', 'zarr', 'dask', 'pandas', 'matplotlib', 'rich', 'sklearn'}} & new
sys.exit(', '.join(sorted(foreign)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
