"""Graphs on the cpu backend: every layer and pair of layers, against the reference."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ntkdist import Architecture, kernel_matrix
from ntkdist.errors import InputError
from ntkdist.kernels import get_backend, graph, select_backend
from ntkdist.kernels.chain import chain_of
from ntkdist.kernels.ranges import check_entries
from ntkdist.networks.layers import (
    ABRelu,
    AvgPool,
    Conv,
    Cos,
    Dense,
    Erf,
    Exp,
    ExpNormalized,
    Flatten,
    Gelu,
    GlobalAvgPool,
    Identity,
    LayerNorm,
    LeakyRelu,
    Relu,
    Residual,
    Sin,
)
from tests.kernels.images import awkward_images, two_sets
from tests.kernels.networks import FLAT, NETWORKS, REFUSED_BY_STAX, TOP
from tests.kernels.oracle import KINDS, check, entries_by, extended_entries, sizes_of
from tests.tolerances import RTOL, assert_close

# windows and filters of one pixel, larger than the image, or with gaps; one pixel or column
EDGES = {
    "branches of no layers": ((Conv(2), Residual((Residual(()),), ()), Relu(), *TOP), (5, 4, 2)),
    "a value read three times": (
        (Conv(), Relu(), Residual((Residual((Conv(),), (Conv(2),)),), (Conv(1),)), Relu(), *TOP),
        (5, 4, 2),
    ),
    "pool of one pixel": ((Conv(2), Relu(), AvgPool(1), Conv(), Relu(), *TOP), (5, 4, 2)),
    "pool of one pixel with a stride": (
        (Conv(), Relu(), Residual((AvgPool(1, 3), Conv()), (AvgPool(1, 3),)), Relu(), *FLAT),
        (5, 4, 2),
    ),
    "gaps at the end": ((Conv(2), Relu(), AvgPool(1, 3), *TOP), (5, 4, 2)),
    "one padded window": ((Conv(2), Relu(), AvgPool(3, 7, "SAME"), *FLAT), (5, 4, 2)),
    "stride larger than the image": ((Conv(8, stride=10), Relu(), Conv(), *FLAT), (5, 4, 2)),
    "filter larger than the image": ((Conv(20), Relu(), Conv(21), Relu(), *TOP), (5, 4, 2)),
    "circular filter larger than the image": (
        (Conv(11, padding="CIRCULAR"), Relu(), Conv(12, padding="CIRCULAR"), Relu(), *TOP),
        (5, 4, 2),
    ),
    "circular down to one pixel": (
        (Conv(padding="CIRCULAR"), Relu(), Conv(stride=4, padding="CIRCULAR"), Relu(), *TOP),
        (4, 4, 2),
    ),
    "one pixel": ((Conv(2, padding="CIRCULAR"), Relu(), Conv(), Gelu(), *TOP), (1, 1, 4)),
    "stride on one pixel": ((Conv(2), Relu(), Conv(stride=2), Gelu(), *TOP), (1, 1, 4)),
    "one column": ((Conv(2), Relu(), Conv(), Relu(), *TOP), (5, 1, 4)),
    "nothing but a pool": ((AvgPool(2, 1), Flatten(), Gelu(), Dense()), (5, 4, 2)),
}
# what scales values by far more or less than images scale them
SCALES = {
    "steep": ((ABRelu(0.0, 1e30), Conv(W_std=1e-30)), 1.0),
    "flat": ((ABRelu(1e-30, -2e-30), Conv(W_std=1e30)), 1.0),
    "steep on one side": ((LeakyRelu(1e25), Conv(W_std=1e-25)), 1.0),
    "small behind LayerNorm": ((LayerNorm(1e44), Conv(W_std=1e22)), 1.0),
    "branches": ((Residual((Conv(W_std=1e15),), (Conv(W_std=1e-20),)), Conv(W_std=1e-15)), 1.0),
    "exponential of small images": ((Exp(1.0, 30.0), Conv()), 0.01),
}

ALL = {**NETWORKS, **REFUSED_BY_STAX}
GRAPHS = {name: pair for name, pair in ALL.items() if chain_of(Architecture(pair[0])) is None}
STAX_ONLY = {
    "CIRCULAR with stride 2": "sizes must be multiples of the strides",
    "all paddings": "nothing VALID may cut",
    "padded pool": "can follow padded windows",
    "pool on pool": "can follow padded windows",
}
# one of each kind
QUICK = (
    "Gelu, connected",
    "LeakyRelu then Sin",
    "Gaussian then ExpNormalized",
    "LayerNorm then Cos",
    "even strided filters",
    "CIRCULAR with even filters",
    "overlapping pool",
    "WideResNet-like with LayerNorm",
    "pool in both branches",
    "all in the tail",
)
# a filter of stride 2 and its shortcut beside a pool: a value waits in memory for the next level
ACROSS = {
    "strided branch beside a pool": (
        (Conv(), Residual((Relu(), Conv(stride=2), Relu(), Conv()), (AvgPool(2),)), Relu(), *TOP),
        (8, 6, 2),
    ),
    "strides on both branches": (
        (
            Conv(),
            Residual((Conv(stride=2), Relu(), Conv()), (LeakyRelu(0.5), Conv(1, stride=2))),
            Relu(),
            *TOP,
        ),
        (6, 8, 2),
    ),
    "filters beside a strided branch": (
        (Conv(), Residual((Conv(stride=2),), (LeakyRelu(0.5), Conv(), AvgPool(2))), Relu(), *TOP),
        (8, 8, 2),
    ),
    "block beside a strided branch": (
        (
            Conv(),
            Residual((Conv(stride=2),), (Residual((LeakyRelu(0.5), Conv()), ()), AvgPool(2))),
            Relu(),
            *TOP,
        ),
        (8, 8, 2),
    ),
    "waiting over two pools": (
        (
            Conv(),
            Residual((AvgPool(2), Relu(), Conv(), AvgPool(2)), (Conv(4, stride=4),)),
            Relu(),
            *FLAT,
        ),
        (8, 12, 1),
    ),
    "one value read in two levels": (
        (Conv(), Relu(), Residual((Conv(), AvgPool(2)), (AvgPool(2), Conv())), Relu(), *TOP),
        (7, 6, 2),
    ),
    "pool on overlapping pool": (
        (Conv(), AvgPool(3, 1), Relu(), Conv(), AvgPool(2, 1), AvgPool(2), Relu(), *FLAT),
        (9, 8, 2),
    ),
    "windows with gaps": ((Conv(), Relu(), AvgPool(2, 3), Conv(), Relu(), *TOP), (8, 7, 2)),
    "local pools at the end": (
        (Conv(stride=2), Relu(), Conv(), Relu(), AvgPool(3, 1, "SAME"), *FLAT),
        (9, 12, 3),
    ),
    "circular, then local": (
        (Conv(padding="CIRCULAR"), Relu(), Conv(5), Relu(), AvgPool(3, 1, "SAME"), *FLAT),
        (6, 7, 2),
    ),
    "circular with even strides": (
        (Conv(padding="CIRCULAR"), Relu(), Conv(4, stride=2), Relu(), Conv(), Relu(), *TOP),
        (8, 6, 2),
    ),
    "circular pools": (
        (Conv(padding="CIRCULAR"), Relu(), AvgPool(2), Conv(padding="CIRCULAR"), Relu(), *TOP),
        (9, 8, 2),
    ),
    "circular filters in branches": (
        (Conv(), Residual((Relu(), Conv(padding="CIRCULAR"), Relu(), Conv())), Relu(), *FLAT),
        (5, 6, 2),
    ),
}


def parametrized(table):
    return pytest.mark.parametrize(
        ("arch", "shape"),
        [
            pytest.param(*pair, id=name, marks=() if name in QUICK else pytest.mark.slow)
            for name, pair in table.items()
            if name not in STAX_ONLY
        ],
    )


@parametrized({**GRAPHS, **ACROSS})
def test_graphs_are_near_the_oracle(arch, shape):
    check("cpu", arch, *two_sets(shape), signed=True)


@pytest.mark.parametrize(("arch", "shape"), EDGES.values(), ids=EDGES)
def test_graphs_at_the_edges_are_near_the_oracle(arch, shape):
    x, y = np.random.default_rng(0).normal(size=(2, 3, *shape))
    y[0] = x[0]
    check("cpu", arch, x, y, signed=True)


@pytest.mark.parametrize(("layers", "scale"), SCALES.values(), ids=SCALES)
def test_values_far_from_1_between_layers_are_near_the_oracle(layers, scale):
    x, y = np.random.default_rng(0).normal(size=(2, 3, 4, 3, 2)) * scale
    check("cpu", (Conv(2), *layers, Relu(), *TOP), x, y, signed=True)


@pytest.mark.parametrize("layer", [Conv(W_std=1e100), Exp(1.0, 60.0), ExpNormalized(1000.0, 0.0)])
def test_what_leaves_float64_is_said_by_ranges(layer):
    arch = Architecture((Conv(2, W_std=1e100), layer, Conv(), *TOP))
    with pytest.raises(InputError, match=r"behind layer 2.* K\(x, x\) of an image is inf"):
        kernel_matrix(arch, np.ones((1, 4, 3, 1)), backend="cpu", dtype="float64")


@pytest.mark.parametrize("layer", [Sin(1.0, 1.0, 1e9), Cos(1.0, 1.0, 1e9)])
def test_large_phases_keep_their_digits(layer):
    arch = (Conv(), layer, Conv(), Relu(), *TOP)
    x = np.random.default_rng(0).normal(size=(3, 4, 3, 2))
    found, expected = (
        kernel_matrix(arch, x, backend=name, dtype="float64") for name in ("cpu", "reference")
    )
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("layer", [Conv(1, stride=4), AvgPool(1, 4)])
def test_filters_behind_strides_read_few_pixels(layer):
    found = graph.graph_of(Architecture((layer, Conv(2), Relu(), *TOP)))
    assert graph.graph_state_dtype(found, (1, 9, 1), "float32") == "float64"
    assert graph.graph_state_dtype(found, (9, 9, 1), "float32") == "float32"


@parametrized({name: pair for name, pair in GRAPHS.items() if name not in REFUSED_BY_STAX})
def test_graphs_are_near_neural_tangents(arch, shape):
    arch = Architecture(arch)
    x, y = np.random.default_rng(1).normal(size=(2, 3, *shape))
    sizes = sizes_of(arch, x, y)
    by_stax, by_cpu = (entries_by(name, arch, x, y, "float64") for name in ("stax", "cpu"))
    for kind, expected in by_stax.items():
        # entries that are sums of both signs have roundings of what was summed
        assert_close(by_cpu[kind], expected, RTOL["float64"], 1e-14 * sizes[kind].max())


@pytest.mark.parametrize(("name", "words"), STAX_ONLY.items())
def test_what_a_graph_does_not_cover_is_said_and_left_to_neural_tangents(name, words):
    layers, shape = NETWORKS[name]
    arch = Architecture(layers)
    assert words in get_backend("cpu").supports(arch, shape)
    assert select_backend(arch, shape).backend.name == "stax"


def test_branches_of_unlike_strides_are_not_covered():
    branches = Residual((Conv(stride=2),), (Conv(2, padding="VALID"),))
    arch = Architecture((Conv(), branches, *TOP))
    assert "strides since the last pool are 1 and 2" in get_backend("cpu").supports(arch, (3, 3, 1))


@pytest.mark.parametrize("name", ["WideResNet-like", "strides behind a pool", "Gelu then Exp"])
def test_entries_do_not_depend_on_their_block_or_threads(name):
    layers, shape = NETWORKS[name]
    x = awkward_images(shape, 16 + 5)
    whole = kernel_matrix(layers, x, x.copy(), backend="cpu", threads=1)
    rows, columns = (np.array_split(np.arange(len(x)), k) for k in (3, 4))
    parts = [
        np.hstack([kernel_matrix(layers, x[r], x[c], backend="cpu", threads=2) for c in columns])
        for r in rows
    ]
    assert (np.vstack(parts) == whole).all()
    K = kernel_matrix(layers, x, backend="cpu")
    assert (K == K.T).all()
    assert (np.triu(K) == np.triu(whole)).all()


@pytest.mark.parametrize(
    "name", ["strided block", "WideResNet-like", "CIRCULAR", "pool behind a block"]
)
def test_equal_images_have_equal_entries(name):
    layers, shape = NETWORKS[name]
    x = awkward_images(shape, 5)[:4]
    K = kernel_matrix(layers, np.concatenate([x, x]), backend="cpu", dtype="float64")
    assert (K[:4, :4] == K[4:, 4:]).all()
    assert (np.diag(K[:4, 4:]) == np.diag(K[:4, :4])).all()


@pytest.mark.slow(but="cntk-gap-4")
@pytest.mark.parametrize("preset", ["cntk-gap-4", "cntk-v-5", "cntk-lap-4-1", "cnn-3", "fc-3"])
def test_graphs_and_chains_of_one_network_agree(preset, monkeypatch):
    x, y = two_sets((9, 8, 2), near=False)
    arch = Architecture.parse(preset)
    chain = {kind: kernel_matrix(arch, x, y, kind=kind, dtype="float64") for kind in KINDS}
    monkeypatch.setattr("ntkdist.kernels.cpu.backend.chain_of", lambda arch: None)
    assert isinstance(graph.graph_of(arch), graph.Graph)
    for kind in KINDS:
        found = kernel_matrix(arch, x, y, kind=kind, dtype="float64")
        assert_close(found, chain[kind], 1e-12)


def test_strides_compute_the_displacements_that_they_reach_alone():
    arch = Architecture((Conv(), Relu(), Conv(stride=4), Relu(), *TOP))
    plan = graph.graph_plan(graph.graph_of(arch), (32, 32, 3), "float32")
    (level,) = plan.levels.table
    rows = plan.levels.displacements[level[graph.ROWS] : level[graph.ROWS_END]]
    assert rows.tolist() == list(range(-28, 29, 4))


CONVS = st.builds(
    Conv,
    size=st.integers(1, 5),
    W_std=st.sampled_from([1.0, 1.5, 0.3]),
    b_std=st.sampled_from([0.0, 0.0, 0.2]),
    trainable=st.booleans(),
    stride=st.sampled_from([1, 1, 2, 3]),
    padding=st.sampled_from(["SAME", "SAME", "VALID", "CIRCULAR"]),
)
CELLS = st.sampled_from(
    [layers[1] for name, (layers, _) in NETWORKS.items() if name.endswith(", connected")]
)


@st.composite
def blocks(draw):
    conv = draw(CONVS)
    kind = draw(st.sampled_from(["plain", "plain", "residual", "norm", "pool"]))
    if kind == "residual":
        shortcut = Conv(1, stride=conv.stride, trainable=draw(st.booleans()))
        return (Residual((conv, draw(CELLS), Conv(3)), (shortcut,)), draw(CELLS))
    if kind == "norm":
        return (conv, LayerNorm(draw(st.sampled_from([1e-12, 0.1]))), draw(CELLS))
    if kind == "pool":
        return (conv, AvgPool(2, draw(st.integers(1, 3))), draw(CELLS))
    return (conv, draw(CELLS))


ENDS = st.sampled_from([(GlobalAvgPool(),), (Flatten(),), (AvgPool(3, 1, "SAME"), Flatten())])
SHAPES = st.tuples(st.integers(3, 7), st.integers(3, 7), st.integers(1, 4))


def near_the_oracle_or_refused(backend, parts, end, shape, seed):
    """Check a backend on three images and three more, one of which equals one of them."""
    arch = Architecture((*(layer for part in parts for layer in part), *end, Dense()))
    x, y = np.random.default_rng(seed).normal(size=(2, 3, *shape))
    y[0] = x[0]
    try:
        arch.check_image(*shape[:2])
        if get_backend(backend).supports(arch, shape):
            return
        check_entries(arch, x, "float32", KINDS)
    except InputError:
        return
    check(backend, arch, x, y, signed=True)


@pytest.mark.slow
@given(st.lists(blocks(), min_size=1, max_size=2), ENDS, SHAPES, st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_any_graph_is_near_the_oracle_or_refused(parts, end, shape, seed):
    near_the_oracle_or_refused("cpu", parts, end, shape, seed)


def test_identities_cost_nothing():
    plain, more = (Conv(), Relu(), *TOP), (Identity(), Conv(), Identity(), Relu(), Identity(), *TOP)
    assert graph.graph_of(Architecture(more)) == graph.graph_of(Architecture(plain))


def test_exponentials_are_accurate():
    x = two_sets((3, 2, 1))[0] * 3
    arch = (Conv(), Erf(), Conv(), *NETWORKS["Exp, GAP"][0][1:2], *FLAT)
    expected = extended_entries(arch, x, x)
    found = kernel_matrix(arch, x, x.copy(), kind="nngp", backend="cpu", dtype="float64")
    assert_close(found, expected["nngp"], 1e-13)
