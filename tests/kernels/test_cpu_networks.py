"""The cpu backend over the networks it covers, against the recursion in extended precision."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ntkdist import Architecture, kernel_matrix
from ntkdist.errors import InputError
from ntkdist.kernels import get_backend, select_backend
from ntkdist.kernels.chain import chain_of, plan_of
from ntkdist.kernels.ranges import check_entries
from ntkdist.networks.layers import AvgPool, Conv, Dense, Erf, Flatten, GlobalAvgPool, Layer, Relu
from tests.kernels.images import awkward_images, two_sets
from tests.kernels.oracle import KINDS, check, check_cpu, cpu_entries, extended_entries
from tests.tolerances import RTOL, assert_close

BIASED = Conv(3, b_std=0.2)
FIXED = Conv(trainable=False)
TOP = (GlobalAvgPool(), Dense())
FLAT = (Flatten(), Dense())
ERF_FLAT = (Conv(b_std=0.1), Erf(), Conv(5, b_std=0.2), Erf(), Flatten(), Dense(b_std=0.3))
DEEP_FC = (Dense(b_std=0.1), Relu())

POOLED = {
    "halved": ((Conv(), Relu(), AvgPool(2), Conv(), Relu(), *TOP), (8, 6, 2)),
    "thirds": ((Conv(), Relu(), AvgPool(3), Conv(), Relu(), *TOP), (9, 6, 2)),
    "ragged halves": ((Conv(), Relu(), AvgPool(2), Conv(), Relu(), *TOP), (7, 9, 2)),
    "ragged thirds": ((Conv(), Relu(), AvgPool(3), Conv(), Relu(), *FLAT), (8, 10, 3)),
    "ragged twice": ((Conv(), Relu(), AvgPool(2), Conv(), AvgPool(2), Relu(), *TOP), (11, 7, 2)),
    "pool on pool": ((Conv(), Relu(), AvgPool(2), AvgPool(2), Conv(), Relu(), *TOP), (9, 8, 2)),
    "unlike pools": ((Conv(), Relu(), AvgPool(3), AvgPool(2), Conv(), Relu(), *TOP), (13, 12, 1)),
    "pool first": ((AvgPool(2), Conv(), Relu(), Conv(), Relu(), *TOP), (8, 7, 3)),
    "pool last": ((Conv(), Relu(), Conv(), Relu(), AvgPool(2), *FLAT), (6, 8, 2)),
    "pool of one": ((Conv(), Relu(), AvgPool(1), Conv(), Relu(), *FLAT), (5, 4, 2)),
    "pool to one pixel": ((Conv(), Relu(), AvgPool(5), Conv(), Relu(), *FLAT), (5, 9, 2)),
    "pool then GAP": ((Conv(), Relu(), AvgPool(2), *TOP), (6, 8, 2)),
    "pool before its ReLU": ((Conv(), AvgPool(2), Relu(), Conv(), Relu(), *TOP), (8, 6, 2)),
    "dense between pools": (
        (Conv(), Relu(), AvgPool(2), Dense(b_std=0.1), Relu(), AvgPool(2), *FLAT),
        (8, 9, 2),
    ),
    "tail behind a pool": (
        (BIASED, Relu(), AvgPool(2), BIASED, Relu(), Flatten(), Dense(b_std=0.1), Relu(), Dense()),
        (8, 7, 2),
    ),
    "wide filter on few pixels": ((Conv(), Relu(), AvgPool(4), Conv(7), Relu(), *TOP), (9, 8, 2)),
    "biases and fixed layers": (
        (BIASED, Relu(), AvgPool(2), Conv(b_std=0.3, trainable=False), Relu(), AvgPool(2), *FLAT),
        (9, 10, 2),
    ),
    "cnn-3": ("cnn-3", (12, 12, 3)),
    "cnn-3 ragged": ("cnn-3", (7, 9, 2)),
}
LOCAL = AvgPool(3, 1, "SAME")
WINDOWS = {
    "cntk-lap-3-1": ("cntk-lap-3-1", (7, 6, 2)),
    "cntk-lap-6-2": ("cntk-lap-6-2", (9, 12, 3)),
    "wider than the image": ("cntk-lap-4-8", (5, 7, 2)),
    "even windows": ((Conv(), Relu(), AvgPool(4, 1, "SAME"), *FLAT), (8, 5, 1)),
    "strided and padded": (
        (BIASED, Relu(), Conv(), Relu(), AvgPool(4, 3, "SAME"), *FLAT),
        (9, 8, 2),
    ),
    "pixels without a window": ((Conv(), Relu(), AvgPool(1, 2, "SAME"), *FLAT), (8, 7, 1)),
    "overlapping": ((Conv(), Relu(), Conv(), Relu(), AvgPool(3, 1), *FLAT), (8, 7, 3)),
    "two pools": ((Conv(), Relu(), AvgPool(3, 2), AvgPool(2), *FLAT), (12, 9, 2)),
    "local, then GAP": ((Conv(), Relu(), Conv(), Relu(), LOCAL, *TOP), (6, 8, 2)),
    "behind a pool": ((Conv(), Relu(), AvgPool(2), Conv(), Relu(), LOCAL, *FLAT), (12, 10, 2)),
    "on a pool": ((Conv(), Relu(), AvgPool(2), LOCAL, *FLAT), (8, 8, 1)),
    "behind wide filters": ((Conv(5), Relu(), Conv(7, b_std=0.3), Relu(), LOCAL, *FLAT), (7, 9, 2)),
    "nonlinear head": ((Conv(), Relu(), Conv(), Relu(), LOCAL, *FLAT, Relu(), Dense()), (8, 7, 2)),
    "fixed layers": ((FIXED, Relu(), BIASED, Relu(), FIXED, Relu(), LOCAL, *FLAT), (6, 7, 2)),
}
WINDOWS_SIGNED = {
    "linear, local": ((Conv(b_std=1.0), Conv(5), LOCAL, *FLAT), (6, 5, 2)),
    "pixels, local": ((LOCAL, *FLAT), (7, 8, 2)),
    "erf, local": ((*ERF_FLAT[:-2], AvgPool(4, 2, "SAME"), *FLAT), (7, 6, 2)),
    "erf behind local": ((BIASED, Erf(), LOCAL, *FLAT, Erf(), Dense(b_std=0.1)), (5, 6, 2)),
}
SIGNED = {
    "linear": ((Conv(b_std=1.0), Conv(5), *TOP), (6, 5, 2)),
    "pool alone": ((AvgPool(3), *FLAT), (7, 8, 2)),
    "around a pool": (
        (BIASED, Erf(), AvgPool(2), BIASED, Erf(), GlobalAvgPool(), Dense(b_std=0.3)),
        (7, 8, 2),
    ),
    "flat": (ERF_FLAT, (7, 6, 2)),
    "pooled": ((*ERF_FLAT[:-2], GlobalAvgPool(), Dense(b_std=0.3)), (6, 7, 2)),
    "without biases": ((Conv(), Erf(), Conv(), Erf(), *FLAT), (6, 5, 2)),
    "then ReLU": ((Conv(), Erf(), BIASED, Relu(), *TOP), (5, 6, 2)),
    "behind ReLU": ((Conv(), Relu(), BIASED, Erf(), *FLAT), (5, 6, 2)),
    "erf of erf": ((Conv(), Erf(), Erf(), Conv(), Erf(), Relu(), *TOP), (5, 6, 2)),
    "first": ((Erf(), Conv(), Relu(), *TOP), (5, 6, 3)),
    "in the tail": ((BIASED, Relu(), Flatten(), Dense(), Erf(), Dense(b_std=0.1)), (5, 6, 2)),
    "in the tail behind GAP": ((BIASED, Relu(), *TOP, Erf(), Dense(b_std=0.1)), (5, 6, 2)),
    "mixed tail": (
        (BIASED, Erf(), *TOP, Erf(), Dense(b_std=0.1), Relu(), Dense(trainable=False)),
        (5, 6, 2),
    ),
    "saturated": ((Conv(W_std=30.0, b_std=0.1), Erf(), Conv(), Erf(), *FLAT), (5, 6, 2)),
    "fc-2": ((Dense(), Erf()) * 2 + (Dense(),), (5, 4, 3)),
    "fc-10 with biases": ((Dense(b_std=0.1), Erf()) * 10 + (Dense(b_std=0.1),), (5, 4, 3)),
    "wide": ((Dense(b_std=0.1), Erf()) * 2 + (Dense(),), (64, 64, 16)),
    "nearly linear": ((Conv(W_std=0.01), Erf(), Conv(), Relu(), *FLAT), (5, 6, 2)),
}
PLAIN = {
    "ReLU behind GAP": ((Conv(), Relu(), *TOP, Relu(), Dense(b_std=0.1)), (5, 6, 2)),
    "deep tail behind GAP": ((Conv(), Relu(), *TOP, *DEEP_FC * 4, Dense()), (5, 6, 2)),
    "deep tail behind Flatten": ((Conv(), Relu(), *FLAT, *DEEP_FC * 4, Dense()), (5, 6, 2)),
    "first fixed": ((FIXED, Relu(), Conv(), Relu(), *TOP), (5, 6, 2)),
    "middle fixed": ((Conv(), Relu(), FIXED, Relu(), Conv(), Relu(), *FLAT), (5, 6, 2)),
    "all fixed": ((FIXED, Relu(), FIXED, Relu(), Flatten(), Dense(trainable=False)), (5, 6, 2)),
    "biases everywhere": ((BIASED, Relu()) * 3 + (GlobalAvgPool(), Dense(b_std=1.0)), (6, 5, 2)),
    "large bias": ((Conv(b_std=10.0), Relu()) * 2 + FLAT, (6, 5, 2)),
    "1-pixel filters": ((Conv(1), Relu(), Conv(1, b_std=0.1), Relu(), *TOP), (5, 6, 3)),
    "5-pixel filters": ((Conv(5), Relu(), Conv(5), Relu(), *TOP), (8, 6, 2)),
    "7-pixel filters": ((Conv(7), Relu(), Conv(1), Relu(), Conv(7), Relu(), *FLAT), (8, 10, 2)),
    "filters over the edge": ((Conv(9), Relu(), Conv(7, b_std=0.5), Relu(), *TOP), (3, 4, 2)),
    "16 channels": ((Conv(), Relu(), Conv(), Relu(), *TOP), (6, 5, 16)),
    "small weights": ((Conv(W_std=1e-3), Relu()) * 3 + TOP, (5, 6, 2)),
    "large weights": ((Conv(W_std=1e3), Relu()) * 3 + TOP, (5, 6, 2)),
    "40 layers": ((Conv(), Relu()) * 40 + TOP, (4, 5, 2)),
    "40 layers, flat": ((Conv(), Relu()) * 40 + FLAT, (4, 5, 2)),
    "40 growing layers": ((Conv(W_std=2.5), Relu()) * 40 + FLAT, (4, 5, 2)),
    "40 wide filters": ((Conv(7), Relu()) * 40 + TOP, (5, 6, 2)),
}
ONE = (Conv(5), Relu(), BIASED, Relu())
EDGES = {
    f"{end} of {shape}": ((*ONE, *tail), shape)
    for shape in [(1, 1, 5), (1, 9, 2), (8, 1, 3), (2, 1, 1), (1, 1, 16), (3, 11, 16)]
    for end, tail in (("GAP", TOP), ("Flatten", FLAT))
}
CONNECTED = {
    "fc-2": ("fc-2", (5, 4, 3)),
    "fc-10": ("fc-10", (5, 4, 3)),
    "fc-21": ("fc-21", (5, 4, 3)),
    "fc-10 with biases": ((*DEEP_FC * 10, Dense(b_std=0.1)), (5, 4, 3)),
    "fc-21 with biases": ((*DEEP_FC * 21, Dense(b_std=0.1)), (5, 4, 3)),
    "one pixel": ("fc-2", (1, 1, 3)),
    "wide": ("fc-3", (64, 64, 16)),
}


def cases(table):
    return pytest.mark.parametrize(("arch", "shape"), table.values(), ids=table.keys())


@pytest.mark.slow(but="pool then GAP")
@cases(POOLED)
def test_average_pools_are_near_the_oracle(arch, shape):
    check_cpu(arch, *two_sets(shape))


@pytest.mark.slow(but="cntk-lap-3-1")
@cases(WINDOWS)
def test_local_average_pools_are_near_the_oracle(arch, shape):
    check_cpu(arch, *two_sets(shape))


@pytest.mark.slow(but="linear, local")
@cases(WINDOWS_SIGNED)
def test_local_average_pools_behind_both_signs_are_near_the_oracle(arch, shape):
    check_cpu(arch, *two_sets(shape), signed=True)


@pytest.mark.slow(but="strided and padded")
@cases(WINDOWS)
def test_local_average_pools_are_near_neural_tangents(arch, shape):
    x, y = np.random.default_rng(3).normal(size=(2, 3, *shape))
    for kind in KINDS:
        expected = kernel_matrix(arch, x, y, kind=kind, backend="stax", dtype="float64")
        found = kernel_matrix(arch, x, y, kind=kind, backend="cpu", dtype="float64")
        assert_close(found, expected, RTOL["float64"])


def test_local_average_pools_compute_near_displacements_alone():
    plan = plan_of(chain_of(Architecture.parse("cntk-lap-4-2")), (32, 32, 3), "float32")
    ends = (32 - np.arange(5)) * np.array([1, 2, 2, 2, 2])
    rows, columns = np.divmod(plan.classes, 32)
    sizes = [
        np.where(bits & 1, 32 - at, 0) + np.where(bits & 2, at, 0)
        for at, bits in ((rows, plan.parts % 4), (columns, plan.parts // 4))
    ]
    assert (sizes[0] * sizes[1]).sum() == ends.sum() ** 2 == 268**2


@pytest.mark.parametrize("layer", ["Relu", "Conv", "Dense"])
def test_local_average_pools_with_layers_behind_say_why_they_are_not_covered(layer):
    arch = Architecture.parse(["Conv", "AvgPool(3, 1, 'SAME')", layer, "Flatten", "Dense"])
    assert "can follow padded windows" in get_backend("cpu").supports(arch, (8, 8, 3))
    assert select_backend(arch, (8, 8, 3)).backend.name == "stax"


@pytest.mark.slow(but="pool alone")
@cases(SIGNED)
def test_erf_and_linear_networks_are_near_the_oracle(arch, shape):
    check_cpu(arch, *two_sets(shape), signed=True)


@pytest.mark.slow(but="1-pixel filters")
@cases(PLAIN)
def test_convolutions_are_near_the_oracle(arch, shape):
    check_cpu(arch, *two_sets(shape))


@cases(EDGES)
def test_thin_and_deep_images_are_near_the_oracle(arch, shape):
    check_cpu(arch, *two_sets(shape))


@cases(CONNECTED)
def test_fully_connected_networks_are_near_the_oracle(arch, shape):
    check_cpu(arch, *two_sets(shape))


@pytest.mark.slow(but="cnn-3")
@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        ("cnn-3", (28, 28, 1)),
        ("myrtle-5", (32, 32, 3)),
        ((Conv(), Relu(), AvgPool(4), *ONE, *TOP), (64, 16, 2)),
        pytest.param((Conv(), Relu(), AvgPool(4), *ONE, *TOP), (64, 64, 2), marks=pytest.mark.long),
    ],
    ids=["cnn-3", "myrtle-5", "64 rows", "64 rows and columns"],
)
def test_full_size_pair_is_near_the_oracle(arch, shape):
    x = awkward_images(shape)
    expected = {
        kind: kernel_matrix(arch, x[[0]], x[[1]], kind=kind, backend="reference", dtype="float64")
        for kind in KINDS
    }
    check_cpu(arch, x[[0]], x[[1]], expected)


@pytest.mark.parametrize("arch", [POOLED["ragged twice"][0], ERF_FLAT, "cntk-gap-4"], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_threads_and_symmetry_do_not_change_a_bit(arch, dtype):
    x = awkward_images((8, 9, 2), 41)
    whole = cpu_entries(arch, x, x.copy(), dtype)["ntk"]
    own = kernel_matrix(arch, x, backend="cpu", dtype=dtype, threads=1)
    assert (own == own.T).all()
    assert (np.triu(own) == np.triu(whole)).all()
    rows, columns = (np.array_split(np.arange(len(x)), k) for k in (2, 3))
    parts = [
        np.hstack([cpu_entries(arch, x[r], x[c], dtype)["ntk"] for c in columns]) for r in rows
    ]
    assert (np.vstack(parts) == whole).all()


STAX = {
    "cnn-3": ("cnn-3", (9, 12, 2)),
    "ragged twice": POOLED["ragged twice"],
    "erf around a pool": SIGNED["around a pool"],
    "erf, flat": SIGNED["flat"],
    "ReLU behind GAP": PLAIN["ReLU behind GAP"],
}


@pytest.mark.slow(but="erf, flat")
@cases(STAX)
def test_neural_tangents_agrees(arch, shape):
    x, y = two_sets(shape, near=False)
    found = cpu_entries(arch, x, y, "float64")
    for kind in KINDS:
        expected = kernel_matrix(arch, x, y, kind=kind, backend="stax", dtype="float64")
        assert_close(found[kind], expected, RTOL["float64"])


@pytest.mark.parametrize("arch", [POOLED["tail behind a pool"][0], ERF_FLAT, "fc-10"], ids=str)
def test_oracle_is_the_reference_where_float64_has_the_digits(arch):
    x, y = two_sets((8, 7, 2), near=False)
    oracle = extended_entries(arch, x, y)
    for kind in KINDS:
        expected = kernel_matrix(arch, x, y, kind=kind, backend="reference", dtype="float64")
        assert_close(oracle[kind], expected, 1e-13)


def weights(*usual: float) -> st.SearchStrategy[float]:
    """A usual standard deviation, or one from 1e-6 to 1e6."""
    return st.one_of(st.sampled_from(usual), st.floats(-6, 6).map(lambda power: 10.0**power))


WEIGHTS = {
    "W_std": weights(2**0.5, 0.5, 3.0, 1.0, 2.0),
    "b_std": weights(0.0, 0.0, 0.1, 1.0),
    "trainable": st.sampled_from([True, True, False]),
}
DENSE = st.builds(Dense, **WEIGHTS)
CONV = st.builds(Conv, size=st.sampled_from([3, 5, 1, 7]), **WEIGHTS)
NONLINEAR = st.sampled_from([Relu(), Erf(), Relu(), None])
POOL = st.sampled_from([None, AvgPool(2), AvgPool(3), AvgPool(1)])
BLOCKS = st.lists(
    st.tuples(st.one_of(CONV, CONV, DENSE), POOL, NONLINEAR, POOL), min_size=1, max_size=3
)


SEEDS = st.integers(0, 2**16)


@st.composite
def networks(
    draw: st.DrawFn, rows: int = 9, columns: int = 9
) -> tuple[Architecture, tuple[int, int, int]]:
    """A network of a few blocks and the shape of images that fit it."""
    H, W = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    C = draw(st.sampled_from([1, 2, 3, 16]))
    layers: list[Layer] = []
    P, Q = H, W
    for layer in (layer for block in draw(BLOCKS) for layer in block if layer is not None):
        if isinstance(layer, AvgPool):
            if layer.size > min(P, Q):
                continue
            P, Q = P // layer.size, Q // layer.size
        layers.append(layer)
    if draw(st.booleans()):
        size = draw(st.integers(1, 5))
        layers.append(AvgPool(size, draw(st.integers(1, 3)), "SAME"))
    layers.append(draw(st.sampled_from([GlobalAvgPool(), Flatten()])))
    layers += draw(st.lists(st.one_of(DENSE, st.sampled_from([Relu(), Erf()])), max_size=2))
    return Architecture((*layers, draw(DENSE))), (H, W, C)


def within_or_refused(name: str, network: Any, seed: int) -> None:
    """Assert that a backend is near the oracle, or refuses the network with a reason.

    The images: any, opposite ones, equal ones, one of half the contrast, patches of zeros.
    """
    arch, shape = network
    x = np.random.default_rng(seed).normal(size=(4, *shape))
    x[1, : shape[0] // 2] = 0.0
    y = np.stack([-x[0], x[0], 0.5 * x[1], x[3]])
    if not any(getattr(layer, "b_std", 0.0) for layer in arch.layers):
        y[2] = 0.0  # with biases the pair has K = b², of which float32 may have no digits
    refusal = ""
    try:
        for images in (x[:3], y):
            check_entries(arch, images, "float32", KINDS)
    except InputError as error:
        refusal = str(error)
    if refusal:
        # no NTK, a kernel out of range, or saturated
        assert re.search("no layer is trainable|keeps all digits|erf is a step", refusal)
    else:
        check(name, arch, x[:3], y, signed=True, multiples=True, dtypes=["float32"])


@settings(max_examples=25)
@given(networks(), SEEDS)
def test_any_small_network_is_near_the_oracle_or_refused(network, seed):
    within_or_refused("cpu", network, seed)


@pytest.mark.slow
@settings(max_examples=300)
@given(networks(), SEEDS)
def test_many_small_networks_are_near_the_oracle_or_refused(network, seed):
    within_or_refused("cpu", network, seed)
