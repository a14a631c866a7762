"""The cuda backend over the cases of the cpu backend: on a GPU at their sizes, else simulated."""

import numpy as np
import pytest
from hypothesis import given, settings

from ntkdist import kernel_matrix
from tests.kernels import SIMULATED, test_cpu, test_cpu_networks
from tests.kernels.cuda_cases import (
    DTYPES,
    assert_same_bits_in_every_order,
    cases,
    sets,
)
from tests.kernels.images import awkward_images, two_sets
from tests.kernels.oracle import KINDS, check, entries_by
from tests.kernels.test_cpu_networks import (
    CONNECTED,
    EDGES,
    PLAIN,
    POOLED,
    SIGNED,
    STAX,
    WINDOWS,
    WINDOWS_SIGNED,
)
from tests.tolerances import RTOL, assert_close

pytestmark = pytest.mark.usefixtures("gpu")

FULL_SIZE = (
    "cnn-3", "myrtle-5", "myrtle-7", "myrtle-10", "cntk-gap-21", "cntk-v-21", "cntk-lap-11-4",
)  # fmt: skip


@pytest.mark.slow(but="pool before its ReLU")
@cases(POOLED)
def test_average_pools_are_near_the_oracle(arch, shape):
    check("cuda", arch, *sets(shape), dtypes=DTYPES)


@pytest.mark.slow(but="behind a pool")
@cases(WINDOWS)
def test_local_average_pools_are_near_the_oracle(arch, shape):
    check("cuda", arch, *sets(shape))


@pytest.mark.slow(but="erf behind local")
@cases(WINDOWS_SIGNED)
def test_local_average_pools_behind_both_signs_are_near_the_oracle(arch, shape):
    check("cuda", arch, *sets(shape), signed=True)


@pytest.mark.slow(but="fc-10 with biases")
@cases(SIGNED)
def test_erf_and_linear_networks_are_near_the_oracle(arch, shape):
    check("cuda", arch, *sets(shape), signed=True)


@pytest.mark.slow(but="deep tail behind Flatten")
@cases(PLAIN)
def test_convolutions_are_near_the_oracle(arch, shape):
    check("cuda", arch, *sets(shape))


@cases(EDGES)
def test_thin_and_deep_images_are_near_the_oracle(arch, shape):
    check("cuda", arch, *sets(shape))


@cases({name: case for name, case in CONNECTED.items() if name != "wide"})
def test_fully_connected_networks_are_near_the_oracle(arch, shape):
    check("cuda", arch, *two_sets(shape))


@pytest.mark.slow
def test_wide_fully_connected_networks_are_near_the_oracle():
    arch, shape = CONNECTED["wide"]
    check("cuda", arch, *sets(shape))


@pytest.mark.slow(but="fc-2 (5, 4, 3)")
@cases({f"{arch} {shape}": (arch, shape) for arch, shape in test_cpu.CASES})
def test_presets_are_near_the_oracle_at_every_depth(arch, shape):
    check("cuda", arch, *sets(shape))


@pytest.mark.slow(but="fc-2")
@pytest.mark.parametrize("arch", ["cntk-gap-4", "cnn-2", "fc-2"])
def test_zero_and_constant_images_are_near_the_oracle(arch):
    x, y = two_sets((4, 4, 1))
    check("cuda", arch, x[[2, 5]], y[[2, 0]])
    assert (entries_by("cuda", arch, x[[5]], y, "float32")["ntk"] == 0).all()


@pytest.mark.slow(but="1000.0")
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_ill_scaled_images_keep_their_digits(scale):
    x, y = sets((6, 7, 2))
    check("cuda", "cntk-gap-11", x[:1] * scale, y)


@pytest.mark.slow(but="cntk-v-21")
@pytest.mark.parametrize("arch", ["cntk-gap-4", "cntk-v-21"])
def test_pixels_on_a_zero_background_keep_their_digits(arch):
    x = np.clip(awkward_images((10, 10, 1), 8), 0, None)
    x[:, :2], x[:, :, :1] = 0, 0
    check("cuda", arch, x[[0, 5]], x[[4, 6]])


@pytest.mark.slow
@pytest.mark.parametrize("arch", FULL_SIZE)
def test_full_size_pairs_are_near_the_reference(arch):
    x = awkward_images((32, 32, 3), 5)
    expected = entries_by("cpu", arch, x[[0]], x[[1, 4]], "float64")
    if SIMULATED:
        found = assert_same_bits_in_every_order(arch, x[[0]], x[[1, 4]], "float32", lazy=[True])
    else:
        found = entries_by("cuda", arch, x[[0]], x[[1, 4]], "float32")
        in_float64 = entries_by("cuda", arch, x[[0]], x[[1, 4]], "float64")
    for kind in KINDS:
        assert_close(found[kind], expected[kind], RTOL["float32"])
        if not SIMULATED:
            assert_close(in_float64[kind], expected[kind], RTOL["float64"])


@pytest.mark.slow
@cases(STAX)
def test_neural_tangents_agrees(arch, shape):
    x, y = sets(shape, near=False)
    found = entries_by("cuda", arch, x, y, "float64")
    for kind in KINDS:
        expected = kernel_matrix(arch, x, y, kind=kind, backend="stax", dtype="float64")
        assert_close(found[kind], expected, RTOL["float64"])


def small_networks():
    return test_cpu_networks.networks(*((4, 4) if SIMULATED else (9, 9)))


@settings(max_examples=4 if SIMULATED else 40)
@given(small_networks(), test_cpu_networks.SEEDS)
def test_any_small_network_is_near_the_oracle_or_refused(network, seed):
    test_cpu_networks.within_or_refused("cuda", network, seed)


@pytest.mark.slow
@settings(max_examples=40 if SIMULATED else 300)
@given(small_networks(), test_cpu_networks.SEEDS)
def test_many_small_networks_are_near_the_oracle_or_refused(network, seed):
    test_cpu_networks.within_or_refused("cuda", network, seed)
