import subprocess
import sys

import numpy as np
import pytest

from ntkdist import Architecture, kernel_matrix
from ntkdist.kernels import stax
from tests.kernels.images import two_sets
from tests.tolerances import RTOL, assert_close

RESIDUAL = [
    "Conv",
    "Residual(branch=(Relu(), Conv(), Relu(), Conv()))",
    "Relu",
    "GlobalAvgPool",
    "Dense",
]
MIXED = [
    "Conv(5, b_std=0.1, stride=2)",
    "Relu",
    "AvgPool(2)",
    "Conv(3, padding='CIRCULAR')",
    "Erf",
    "GlobalAvgPool",
    "Dense(b_std=0.2)",
    "Relu",
    "Dense(trainable=False)",
]
SMALL = ["fc-2", "fc-10", "cnn-1", "cnn-2", "cnn-3", "cntk-v-4", "cntk-gap-4", RESIDUAL]


@pytest.mark.slow(but="fc-2-(12, 12, 3)")
@pytest.mark.parametrize("shape", [(9, 7, 2), (12, 12, 3)], ids=str)
@pytest.mark.parametrize("arch", SMALL, ids=str)
def test_neural_tangents_agrees_with_the_reference(arch, shape):
    check(arch, shape)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["cntk-v-21", "cntk-gap-21"])
def test_neural_tangents_agrees_at_depth_21(arch):
    check(arch, (9, 7, 2))


@pytest.mark.slow
def test_neural_tangents_agrees_on_strides_paddings_and_erf():
    check(MIXED, (17, 14, 2))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["cntk-v-11", "cntk-gap-11"])
def test_neural_tangents_agrees_at_depth_11(arch):
    check(arch, (12, 12, 3))


@pytest.mark.slow
def test_near_duplicates_agree_as_far_as_float64_goes():
    x, y = two_sets((9, 7, 2))
    for arch in ("fc-10", "cntk-gap-4"):
        found = kernel_matrix(arch, x, y, backend="stax", dtype="float64")
        expected = kernel_matrix(arch, x, y, backend="reference", dtype="float64")
        assert_close(found, expected, 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch",
    ["myrtle-5", *(pytest.param(f"myrtle-{d}", marks=pytest.mark.long) for d in (7, 10))],
)
def test_neural_tangents_agrees_on_myrtle(arch):
    # five halvings need 32 pixels; two images keep the (P·Q)² states in memory
    x, _ = two_sets((32, 32, 1))
    check(arch, None, x[[0, 1]], x[[0, 3]])


def check(arch, shape, x=None, y=None):
    if x is None:
        x, y = two_sets(shape, near=False)
    for kind in ("ntk", "nngp"):
        found = kernel_matrix(arch, x, y, kind=kind, backend="stax", dtype="float64")
        expected = kernel_matrix(arch, x, y, kind=kind, backend="reference", dtype="float64")
        assert_close(found, expected, RTOL["float64"])


@pytest.mark.slow
def test_float32_entries_are_float64_ones_rounded():
    x, y = two_sets((5, 6, 2))
    narrow = kernel_matrix("cntk-gap-4", x, y, backend="stax")
    wide = kernel_matrix("cntk-gap-4", x, y, backend="stax", dtype="float64")
    assert narrow.dtype == np.float32
    assert (narrow == wide.astype(np.float32)).all()


def test_diagonal_block_is_symmetric_to_the_bit():
    x, _ = two_sets((5, 6, 2))
    K = kernel_matrix("cnn-2", x, backend="stax", dtype="float64")
    assert (K == K.T).all()


@pytest.mark.slow
def test_architecture_gives_a_stax_network_that_runs():
    from jax import random

    init_fn, apply_fn, kernel_fn = stax.build(Architecture.parse("cntk-gap-4"))
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 1))
    shape, params = init_fn(random.PRNGKey(0), x.shape)
    assert apply_fn(params, x).shape == (2, shape[-1])
    assert kernel_fn(x, x, "ntk").shape == (2, 2)


@pytest.mark.slow
def test_tensorflow_is_never_loaded():
    code = (
        "import sys; from ntkdist.kernels.stax import import_neural_tangents; "
        "import_neural_tangents(); sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
