"""Kernels averaged over horizontal flips: formula, bits of mirror images, symmetry, cost."""

import itertools
import re

import numpy as np
import pytest

from ntkdist import Architecture, kernel_matrix
from ntkdist.errors import InputError
from ntkdist.kernels import Family, get_backend, select_backend
from ntkdist.kernels.chain import chain_of
from ntkdist.kernels.invariance import FlipAveraged, canonical, mirror_images, uneven_layer
from ntkdist.kernels.registry import of_version
from tests.kernels.images import awkward_images, two_sets
from tests.kernels.networks import NETWORKS
from tests.kernels.oracle import KINDS
from tests.kernels.test_cpu_networks import ERF_FLAT, PLAIN, POOLED, WINDOWS
from tests.tolerances import RTOL, assert_close

END = ("Relu", "Conv", "Relu", "Flatten", "Dense")
MYRTLE = ("Conv", "Relu", "Conv", "Relu", "AvgPool", *("Conv", "Relu", "AvgPool") * 2, "Flatten",
          "Dense")  # fmt: skip
STRIDED = ("Conv(3, stride=2)", "Relu", "Conv", "Relu", "GlobalAvgPool", "Dense")

EVEN_WINDOWS = [case for name, case in WINDOWS.items() if name != "even windows"]

# layers in front of END, columns, whether they treat left and right alike
GEOMETRY = {
    "odd filter": (["Conv"], 8, True),
    "even filter": (["Conv(2)"], 8, False),
    "even filter of one pixel": (["Conv(2)"], 1, True),
    "even filter that covers all": (["Conv(4)"], 2, True),
    "stride that fits": (["Conv(3, stride=2)"], 9, True),
    "stride that does not fit": (["Conv(3, stride=2)"], 8, False),
    "even filter with a stride": (["Conv(2, stride=2)"], 8, True),
    "VALID": (["Conv(3, padding='VALID')"], 8, True),
    "VALID, even": (["Conv(2, padding='VALID')"], 8, True),
    "VALID with a stride that fits": (["Conv(3, stride=2, padding='VALID')"], 9, True),
    "VALID with a stride that does not": (["Conv(3, stride=2, padding='VALID')"], 8, False),
    "CIRCULAR": (["Conv(3, padding='CIRCULAR')"], 8, True),
    "pool": (["AvgPool(2)"], 8, True),
    "ragged pool": (["AvgPool(2)"], 9, False),
    "pools on pools": (["AvgPool(2)", "AvgPool(2)"], 8, True),
    "ragged pool on a pool": (["AvgPool(2)", "AvgPool(2)"], 6, False),
    "local pool": (["AvgPool(3, 1, 'SAME')"], 8, True),
    "even local pool": (["AvgPool(2, 1, 'SAME')"], 8, False),
    "pool with SAME padding": (["AvgPool(2, 2, 'SAME')"], 7, False),
    "overlapping pool": (["AvgPool(3, 2)"], 7, True),
    "overlapping ragged pool": (["AvgPool(3, 2)"], 8, False),
    "Dense on pixels": (["Dense", "Erf", "Dense"], 5, True),
    "branches": (["Residual([Conv(), Relu(), Conv()])"], 6, True),
    "uneven branch": (["Residual([Conv(2), Relu()])"], 6, False),
    "uneven shortcut": (["Residual([Conv()], [Conv(2)])"], 6, False),
    "branches that make an even width": (
        ["Residual([AvgPool(2)], [Conv(2, stride=2)])", "AvgPool(2)"],
        8, True,
    ),
    "branches that make an odd width": (
        ["Residual([AvgPool(2)], [Conv(2, stride=2)])", "AvgPool(2)"],
        6, False,
    ),
}  # fmt: skip


# of the cpu backend's graphs, those that some width makes even
GRAPHS = (
    "WideResNet-like",
    "stride 2, flat",
    "stride without overlap",
    "VALID, flat",
    "CIRCULAR",
    "overlapping pool",
    "LayerNorm behind a pool",
    "pool in both branches",
    "Gelu then Sin",
)


def by_hand(arch, x, y, kind):
    """Return the float64 mean over both flips of both images by the reference."""

    def k(u, v):
        return kernel_matrix(arch, u, v, kind=kind, backend="reference", dtype="float64")

    fx, fy = x[:, :, ::-1], y[:, :, ::-1]
    return (k(x, y) + k(x, fy) + k(fx, y) + k(fx, fy)) / 4


@pytest.mark.parametrize(("layers", "width", "even"), GEOMETRY.values(), ids=GEOMETRY)
def test_layers_are_even_where_numbers_say_so(layers, width, even):
    arch = Architecture.parse([*layers, *END])
    assert (uneven_layer(arch, width) is None) == even
    x = np.random.default_rng(width).normal(size=(3, 6, width, 2))
    own, flipped = (
        kernel_matrix(arch, images, backend="reference", dtype="float64")
        for images in (x, x[:, :, ::-1])
    )
    assert np.allclose(own, flipped, rtol=1e-12) == even


def test_fully_connected_networks_are_even_on_any_width():
    assert uneven_layer(Architecture.parse("fc-3"), 7) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        ("cnn-2", (8, 8, 3)), ("cntk-gap-4", (7, 9, 2)), (MYRTLE, (8, 8, 3)), ("cnn-3", (7, 9, 2)),
        ("cnn-3", (9, 8, 1)), ("fc-2", (5, 6, 3)), (ERF_FLAT, (4, 5, 2)),
        (STRIDED, (6, 8, 2)), (STRIDED, (6, 9, 2)), NETWORKS["WideResNet-like"],
    ],
    ids=str,
)  # fmt: skip
def test_entries_are_the_mean_over_flips(arch, shape, kind):
    x, y = two_sets(shape, 3, near=False)
    x[1], y[1] = mirror_images(x[[0]])[0], mirror_images(x[[0]])[0]
    for backend, dtypes in (("cpu", tuple(RTOL)), ("reference", ("float64",))):
        for dtype in dtypes:
            found = kernel_matrix(
                arch, x, y, kind=kind, backend=backend, dtype=dtype, invariance="flip"
            )
            assert found.dtype == dtype
            right = by_hand(arch, x, y, kind)
            scale = np.sqrt(np.outer(*(np.diagonal(by_hand(arch, u, u, kind)) for u in (x, y))))
            assert_close(scale + found - right, scale, RTOL[dtype])


@pytest.mark.parametrize(("arch", "width"), [(STRIDED, 8), (STRIDED, 9), ("cnn-2", 6)], ids=str)
def test_stax_averages_with_two_or_four_entries(arch, width):
    x, y = two_sets((6, width, 2), 1, near=False)
    for kind in KINDS:
        found = kernel_matrix(
            arch, x, y, kind=kind, backend="stax", dtype="float64", invariance="flip"
        )
        assert_close(found, by_hand(arch, x, y, kind), RTOL["float64"])


def test_no_average_is_the_plain_kernel():
    x = awkward_images((4, 5, 2))
    plain = kernel_matrix("cntk-gap-4", x, backend="cpu")
    assert (kernel_matrix("cntk-gap-4", x, backend="cpu", invariance="none") == plain).all()
    assert not np.allclose(kernel_matrix("cntk-gap-4", x, invariance="flip"), plain, rtol=1e-3)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("arch", ["cnn-2", "cntk-gap-4", "cntk-lap-3-1", "cnn-3", "fc-2"])
def test_mirror_images_have_the_same_bits(arch, backend, dtype):
    x = awkward_images((5, 7, 2), 6)
    x[5] = x[5] + mirror_images(x[[5]])[0]  # its own mirror image
    y = np.concatenate([x, mirror_images(x)])
    how = {"backend": backend, "dtype": dtype, "invariance": "flip"}
    for kind in KINDS:
        right = kernel_matrix(arch, y, x, kind=kind, **how)
        assert (right[:6] == right[6:]).all()
        left = kernel_matrix(arch, x, y, kind=kind, **how)
        assert (left[:, :6] == left[:, 6:]).all()
        own = kernel_matrix(arch, y, kind=kind, **how)
        assert (own == own.T).all()
        assert (own[:6, :6] == own[6:, 6:]).all()
        # below the diagonal rows and columns have changed places, and with them roundings
        assert (np.triu(own[:6, :6]) == np.triu(own[:6, 6:])).all()


@pytest.mark.parametrize("arch", ["cntk-gap-4", "cnn-3", "cntk-gap-21"])
def test_an_image_that_is_its_own_mirror_image_keeps_its_entry(arch):
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype("f4")
    x = x + mirror_images(x)
    x[2] = 0
    for dtype in RTOL:
        plain, averaged = (
            np.diagonal(kernel_matrix(arch, x, backend="cpu", dtype=dtype, invariance=invariance))
            for invariance in ("none", "flip")
        )
        assert (plain == averaged).all()


@pytest.mark.parametrize("width", [8, 9])
def test_blocks_and_threads_do_not_change_a_bit(width):
    arch = Architecture.parse("cnn-3")
    assert (uneven_layer(arch, width) is None) == (width == 8)
    x = np.random.default_rng(1).normal(size=(23, 5, width, 1))
    whole = {
        kind: kernel_matrix(arch, x, kind=kind, backend="cpu", invariance="flip", threads=1)
        for kind in KINDS
    }
    for edges, threads in (((0, 7, 14, 23), 3), ((0, 16, 23), 2), ((0, 1, 2, 23), 1)):
        backend = get_backend("cpu", threads=threads, invariance="flip")
        parts = [slice(*pair) for pair in itertools.pairwise(edges)]
        states = [backend.prepare(arch, x[part]) for part in parts]
        for i, rows in enumerate(parts):
            for j, columns in enumerate(parts[i:], start=i):
                for kind, block in backend.block(states[i], states[j], KINDS).items():
                    assert (block == whole[kind][rows, columns]).all()


@pytest.mark.parametrize("name", ["cpu", "stax", "reference"])
def test_a_symmetric_block_is_the_upper_triangle_mirrored(name):
    arch, x = Architecture.parse("cnn-2"), np.random.default_rng(2).normal(size=(9, 4, 4, 1))
    backend = get_backend(name)
    a, b = backend.prepare(arch, x), backend.prepare(arch, mirror_images(x))
    full = backend.block(a, b, KINDS)
    for kind, entries in backend.block(a, b, KINDS, symmetric=True).items():
        assert (entries == np.triu(full[kind]) + np.triu(full[kind], 1).T).all()


@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        *PLAIN.values(), *POOLED.values(), *EVEN_WINDOWS, ("cntk-gap-4", (4, 5, 2)),
        *(NETWORKS[name] for name in GRAPHS),
    ],
    ids=str,
)  # fmt: skip
def test_numbers_of_mirror_images_are_those_of_the_images_in_another_order(arch, shape):
    arch = Architecture.parse(arch)
    H, W, C = shape
    W = next(width for width in range(W, W + 20) if uneven_layer(arch, width) is None)
    shape = H, W, C
    backend = get_backend("cpu", dtype="float64")
    x = awkward_images(shape)
    even = np.zeros(len(x), bool)
    given = backend.prepare(arch, x)
    made = backend.flipped(given, even)
    right = backend.prepare(arch, mirror_images(x))
    assert np.allclose(made.rows, right.rows, rtol=1e-12, atol=1e-13 * np.abs(right.rows).max())
    for name in ("spread", "variance", "norm"):
        assert np.allclose(getattr(made, name), getattr(right, name), rtol=1e-12)
    assert (backend.flipped(given, ~even).rows == given.rows).all()


class Counting:
    """A backend that counts what it is asked for."""

    def __init__(self, name):
        self._backend = get_backend(name)
        self.prepared, self.symmetric = 0, []
        self.name, self.arithmetic = self._backend.name, self._backend.arithmetic
        self.dtype, self.threads = self._backend.dtype, self._backend.threads
        if hasattr(self._backend, "flipped"):
            self.flipped = self._backend.flipped

    def prepare(self, arch, images):
        self.prepared += 1
        return self._backend.prepare(arch, images)

    def block(self, a, b, kinds=("ntk",), *, symmetric=False):
        self.symmetric.append(symmetric)
        return self._backend.block(a, b, kinds, symmetric=symmetric)


@pytest.mark.parametrize(
    ("name", "arch", "width", "prepared", "blocks"),
    [("cpu", "cnn-3", 8, 1, 2), ("cpu", "cnn-3", 9, 2, 4), ("reference", "cnn-3", 8, 2, 2),
     ("cpu", "fc-2", 9, 2, 2)],
)  # fmt: skip
def test_nothing_is_computed_twice(name, arch, width, prepared, blocks):
    counting = Counting(name)
    backend, arch = FlipAveraged(counting), Architecture.parse(arch)
    state = backend.prepare(arch, np.random.default_rng(0).normal(size=(3, 4, width, 1)))
    assert counting.prepared == prepared
    backend.block(state, state, KINDS)
    assert counting.symmetric == [True] * blocks  # half of the entries each
    assert len(state) == 3
    assert state.nbytes == 2 * state.images.nbytes


def test_one_of_an_image_and_its_mirror_image_is_taken_for_both():
    x = np.random.default_rng(0).integers(-2, 3, size=(200, 2, 3, 1)).astype(np.float64)
    x[0] = np.array([-0.0, 1.0, 0.0]).reshape(1, 3, 1)
    turned, even = canonical(x)
    again, also = canonical(mirror_images(x))
    assert (turned == again).all()
    assert (even == also).all()
    assert even[0]
    assert (even == (x == x[:, :, ::-1]).all(axis=(1, 2, 3))).all()
    kept = (turned == x).all(axis=(1, 2, 3))
    assert (kept | (turned == mirror_images(x)).all(axis=(1, 2, 3))).all()
    assert 50 < kept.sum() < 190


def test_a_family_of_averages_computes_each_network():
    archs = [Architecture.parse(f"cntk-gap-{depth}") for depth in (3, 4)]
    x = awkward_images((4, 5, 2))
    family = Family(get_backend("cpu", invariance="flip"), archs, x.shape[1:])
    state = family.prepare(x)
    for arch, network in zip(archs, family.block(state, state), strict=True):
        assert (network["ntk"] == kernel_matrix(arch, x, backend="cpu", invariance="flip")).all()


def test_earlier_arithmetic_passes_through_the_average():
    arch, backend = Architecture.parse("cnn-2"), get_backend("cpu", invariance="flip")
    old = of_version(backend, "cpu-3", arch, (4, 4, 1))
    assert isinstance(old, FlipAveraged)
    assert old.arithmetic == "cpu-3"
    assert of_version(backend, backend.arithmetic, arch, (4, 4, 1)) is backend
    assert of_version(backend, "cpu-2", arch, (4, 4, 1)) is None
    other = get_backend("reference", invariance="flip")
    assert of_version(other, "reference-0", arch, (4, 4, 1)) is None
    assert isinstance(chain_of(arch).blocks, tuple)


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("cntk-gap-4", "cpu: the fastest.*; averaged over horizontal flips, 2 entries of"),
        ("cnn-3", "both images, 4 entries .* 9 columns differently: AvgPool of size 2, stride 2,"),
    ],
)
def test_the_reason_says_what_an_average_costs(arch, words):
    chosen = select_backend(Architecture.parse(arch), (8, 9, 1), invariance="flip")
    assert chosen.backend.name == "cpu"
    assert re.search(words, chosen.reason)
    plain = select_backend(Architecture.parse(arch), (8, 9, 1))
    assert "flip" not in plain.reason


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_matrix("fc-2", np.ones((3, 4)), invariance="flip"), "no left and right"),
        (
            lambda: kernel_matrix("fc-2", np.ones((2, 3, 3, 1)), invariance="flips"),
            "invariance='flips' is not one of none, flip; did you mean 'flip'",
        ),
        (lambda: get_backend("cpu", invariance=None), "invariance=None is not one of"),
        (
            lambda: select_backend(Architecture.parse("fc-2"), (2, 2, 1), invariance="x"),
            "invariance='x' is not one of",
        ),
        (
            lambda: kernel_matrix("fc-2", np.full((2, 3, 3, 1), np.nan), invariance="flip"),
            "image 0 holds NaN",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "arch",
    [
        "cntk-gap-4", "cntk-lap-3-1", (*MYRTLE[:-3], "Flatten", "Dense"), "fc-2",
        ("Conv", "LayerNorm", "Gelu", "AvgPool(2)", "Relu", "Conv", "GlobalAvgPool", "Dense"),
    ],
    ids=str,
)  # fmt: skip
def test_a_gpu_averages_likewise(arch):
    x = np.random.default_rng(5).normal(size=(3, 4, 4, 2))
    x[1] = mirror_images(x[[0]])[0]
    x[2] += mirror_images(x[[2]])[0]
    arch = Architecture.parse(arch)
    assert uneven_layer(arch, 4) is None
    backend = get_backend("cuda", dtype="float64", invariance="flip")
    state = backend.prepare(arch, x)
    found = backend.block(state, state, KINDS)
    for kind in KINDS:
        assert_close(found[kind], by_hand(arch, x, x, kind), RTOL["float64"])
        assert (found[kind] == found[kind].T).all()
        assert (found[kind][0] == found[kind][1]).all()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        ("cntk-gap-4", (3, 5, 2)), ("cntk-lap-3-1", (3, 4, 1)), (POOLED["halved"][0], (4, 8, 2)),
        (ERF_FLAT, (1, 1, 2)),
        (("Conv(3, stride=2)", "Gelu", "Conv", "GlobalAvgPool", "Dense"), (4, 7, 2)),
    ],
    ids=str,
)  # fmt: skip
def test_a_gpu_reorders_the_numbers_of_mirror_images(arch, shape):
    arch = Architecture.parse(arch)
    assert uneven_layer(arch, shape[1]) is None
    backend = get_backend("cuda", dtype="float64")
    x = awkward_images(shape)[[0, 1]]
    given, right = backend.prepare(arch, x), backend.prepare(arch, mirror_images(x))
    made = backend.flipped(given, np.zeros(2, bool)).numbers.copy_to_host()
    right = right.numbers.copy_to_host()
    assert np.allclose(made, right, rtol=1e-12, atol=1e-13 * np.abs(right).max())
    kept = backend.flipped(given, np.array([True, False])).numbers.copy_to_host()
    assert (kept[0] == given.numbers.copy_to_host()[0]).all()
    assert (kept[1] == made[1]).all()
