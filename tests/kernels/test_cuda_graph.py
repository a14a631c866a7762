"""Graphs on the cuda backend over the cases of the cpu backend."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ntkdist import Architecture, kernel_matrix
from ntkdist.errors import InputError
from ntkdist.kernels import get_backend
from ntkdist.kernels.cuda import runner
from ntkdist.kernels.cuda.intrinsics import cuda
from ntkdist.networks.layers import Conv, Relu
from tests.kernels import SIMULATED, test_cpu_graph
from tests.kernels.cuda_cases import assert_same_bits_in_every_order, sets
from tests.kernels.images import awkward_images, two_sets
from tests.kernels.networks import NETWORKS, TOP
from tests.kernels.oracle import KINDS, check, entries_by
from tests.kernels.test_cpu_graph import ACROSS, EDGES, GRAPHS, SCALES, parametrized
from tests.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("gpu")

# what two threads may race for: sums along rows, strides, shortcuts, values that wait
ORDERS = ("even strided filters", "strides on both branches")
QUICK_EDGES = (
    "one column",
    "a value read three times",
    "pool of one pixel",
    "filter larger than the image",
)
ALL = {**GRAPHS, **ACROSS}


def quick(table, names):
    """Return the cases of a table; those that are not named are slow."""
    return [
        pytest.param(*case, id=name, marks=() if name in names else pytest.mark.slow)
        for name, case in table.items()
    ]


@parametrized(ALL)
def test_graphs_are_near_the_oracle(arch, shape):
    check("cuda", arch, *sets(shape), signed=True)


@pytest.mark.parametrize(("arch", "shape"), quick(EDGES, QUICK_EDGES))
def test_graphs_at_the_edges_are_near_the_oracle(arch, shape):
    x, y = np.random.default_rng(0).normal(size=(2, 2, *shape))
    y[0] = x[0]
    check("cuda", arch, x, y, signed=True)


@pytest.mark.parametrize(("layers", "scale"), quick(SCALES, ("branches", "steep")))
def test_values_far_from_1_between_layers_are_near_the_oracle(layers, scale):
    x, y = np.random.default_rng(0).normal(size=(2, 2, 3, 2, 2)) * scale
    check("cuda", (Conv(2), *layers, Relu(), *TOP), x, y, signed=True)


@pytest.mark.skipif(not SIMULATED, reason="a GPU has an order of its own")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=() if x in ORDERS else pytest.mark.slow)
        for x in dict.fromkeys((*ORDERS, *ACROSS))
    ],
)
def test_the_order_of_threads_does_not_change_a_bit(name):
    arch, shape = ALL[name]
    assert_same_bits_in_every_order(arch, *sets(shape), "float64")


@pytest.mark.parametrize(
    "name", ["strided block", "strides behind a pool", "Gelu then Exp", "Gelu, connected"]
)
def test_entries_do_not_depend_on_their_block_or_batch(name, monkeypatch):
    arch, shape = NETWORKS[name]
    x = awkward_images(shape, 5)[1:]
    whole = entries_by("cuda", arch, x, x.copy(), "float32")
    own = kernel_matrix(arch, x, backend="cuda")
    monkeypatch.setattr(runner, "MOST_PAIRS", 3)
    parts = [entries_by("cuda", arch, x[:2], x[k:], "float32") for k in (0, 3)]
    for kind in KINDS:
        for part, k in zip(parts, (0, 3), strict=True):
            assert (part[kind] == whole[kind][:2, k:]).all()
    assert (own == own.T).all()
    assert (np.triu(own) == np.triu(whole["ntk"])).all()


@pytest.mark.parametrize(
    "name",
    [
        "strided block",
        "CIRCULAR",
        "pool behind a block",
        "Gelu, GAP",
        "Cos in the tail",
        "LayerNorm behind GAP",
        "ExpNormalized in the tail",
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_images_have_equal_entries(name, dtype):
    arch, shape = NETWORKS[name]
    x = awkward_images(shape, 5)[:2]
    K = kernel_matrix(arch, np.concatenate([x, x]), kind="nngp", backend="cuda", dtype=dtype)
    assert (K[:2, :2] == K[2:, 2:]).all()
    assert (np.diag(K[:2, 2:]) == np.diag(K[:2, :2])).all()


@pytest.mark.slow(but="cntk-gap-4")
@pytest.mark.parametrize("preset", ["cntk-gap-4", "cntk-v-5", "cntk-lap-4-1", "cnn-3", "fc-3"])
def test_graphs_and_chains_of_one_network_agree(preset, monkeypatch):
    x, y = two_sets((4, 5, 2), near=False)
    chain = entries_by("cuda", preset, x[:2], y, "float64")
    monkeypatch.setattr("ntkdist.kernels.cuda.backend.chain_of", lambda arch: None)
    found = entries_by("cuda", preset, x[:2], y, "float64")
    for kind in KINDS:
        assert_close(found[kind], chain[kind], 1e-12)


@pytest.mark.slow
@given(
    st.lists(test_cpu_graph.blocks(), min_size=1, max_size=2),
    test_cpu_graph.ENDS,
    test_cpu_graph.SHAPES,
    st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_any_graph_is_near_the_oracle_or_refused(parts, end, shape, seed):
    test_cpu_graph.near_the_oracle_or_refused("cuda", parts, end, shape, seed)


def test_images_on_the_device_are_taken():
    arch, shape = NETWORKS["strided block"]
    x = awkward_images(shape, 5)[:2].astype(np.float32)
    backend, arch = get_backend("cuda"), Architecture(arch)
    state = backend.prepare(arch, cuda.to_device(x))
    right = backend.prepare(arch, x)
    assert (state.numbers.copy_to_host() == right.numbers.copy_to_host()).all()
    with pytest.raises(InputError, match="image 1 holds NaN"):
        backend.prepare(arch, cuda.to_device(np.where([[[[False]]], [[[True]]]], np.nan, x)))
    with pytest.raises(InputError, match="float32 or float64"):
        backend.prepare(arch, cuda.to_device(x.astype(np.int32)))


def test_too_little_memory_is_said_with_the_numbers(monkeypatch):
    monkeypatch.setattr(runner, "free_bytes", lambda: 1000)
    arch, shape = NETWORKS["strides behind a pool"]
    with pytest.raises(InputError, match=r"one pair of images needs .* MiB .* or take backend cpu"):
        kernel_matrix(arch, np.ones((1, *shape)), backend="cuda")
