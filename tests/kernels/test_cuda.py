"""The cuda backend over the cases of the cpu backend: on a GPU at their sizes, else simulated.

The simulator runs Python, so there the images are smaller and fewer; networks, dtypes and
tolerances are the same.
"""

import dataclasses
import os
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from numba import cuda

from ntkdist import Architecture, kernel_matrix
from ntkdist.errors import InputError
from ntkdist.kernels import _cuda_batches, _cuda_plan, _cuda_prepare, _cuda_spec, get_backend
from ntkdist.kernels import cuda as backend_module
from ntkdist.kernels._cuda_intrinsics import SIMULATED
from tests.kernels import test_cpu, test_cpu_networks
from tests.kernels.images import awkward_images, two_sets
from tests.kernels.oracle import KINDS, check, entries_by
from tests.kernels.test_cpu_networks import (
    CONNECTED,
    EDGES,
    ERF_FLAT,
    PLAIN,
    POOLED,
    SIGNED,
    STAX,
    TOP,
)
from tests.tolerances import RTOL, assert_close

SMALL = {
    "ragged twice": (9, 4, 2),
    "ragged thirds": (4, 7, 3),
    "thirds": (6, 3, 2),
    "ragged halves": (5, 4, 2),
    "halved": (4, 6, 2),
    "pool on pool": (5, 6, 2),
    "unlike pools": (6, 7, 1),
    "pool first": (6, 5, 3),
    "pool to one pixel": (5, 6, 2),
    "dense between pools": (4, 5, 2),
    "wide filter on few pixels": (8, 5, 2),
    "biases and fixed layers": (5, 6, 2),
    "cnn-3": (8, 4, 3),
    "cnn-3 ragged": (4, 5, 2),
    "40 layers": (3, 2, 2),
    "40 layers, flat": (3, 2, 2),
    "40 growing layers": (3, 2, 2),
    "cntk-gap-21 (9, 7, 1)": (3, 4, 1),
    "cntk-gap-21 (5, 8, 3)": (4, 3, 3),
    "cntk-gap-11 (9, 7, 2)": (5, 3, 2),
    "40 wide filters": (3, 2, 2),
    "7-pixel filters": (5, 4, 2),
    "5-pixel filters": (4, 5, 2),
    "erf around a pool": (4, 5, 2),
    "around a pool": (4, 5, 2),
    "ReLU behind GAP": (3, 4, 2),
    "GAP of (3, 11, 16)": (3, 5, 16),
}
DTYPES = tuple(RTOL)
TWICE = ("Conv", "Relu", "Conv", "Relu", "AvgPool(2)", "Conv", "Relu", "AvgPool(2)", "Conv", "Relu")
minutes_on_the_simulator = pytest.mark.slow if SIMULATED else pytest.mark.filterwarnings("error")


def sized(name, shape):
    """Return the shape of a case's images."""
    if not SIMULATED:
        return shape
    if name in SMALL:
        return SMALL[name]
    return tuple(min(size, most) for size, most in zip(shape, (5, 4, 16), strict=True))


def sets(shape, seed=0, *, near=True):
    """Return rows and columns: a duplicate, a near duplicate, zero patches; all on a GPU."""
    x, y = two_sets(shape, seed, near=near)
    if not SIMULATED:
        return x, y
    return (x[[0, 4]], y[[0, 1]]) if near else (x[[0, 1]], y[[0, 2]])


def cases(table):
    return pytest.mark.parametrize(
        ("arch", "shape"),
        [(arch, sized(name, shape)) for name, (arch, shape) in table.items()],
        ids=table.keys(),
    )


@cases(POOLED)
def test_average_pools_are_near_the_oracle(arch, shape):
    check("cuda", arch, *sets(shape), dtypes=DTYPES)


@cases(SIGNED)
def test_erf_and_linear_networks_are_near_the_oracle(arch, shape):
    check("cuda", arch, *sets(shape), signed=True)


@cases(PLAIN)
def test_convolutions_are_near_the_oracle(arch, shape):
    check("cuda", arch, *sets(shape))


@cases(EDGES)
def test_thin_and_deep_images_are_near_the_oracle(arch, shape):
    check("cuda", arch, *sets(shape))


@cases(CONNECTED)
def test_fully_connected_networks_are_near_the_oracle(arch, shape):
    check("cuda", arch, *two_sets(shape))


@cases({f"{arch} {shape}": (arch, shape) for arch, shape in test_cpu.CASES})
def test_presets_are_near_the_oracle_at_every_depth(arch, shape):
    check("cuda", arch, *sets(shape))


@pytest.mark.parametrize("arch", ["cntk-gap-4", "cnn-2", "fc-2"])
def test_zero_and_constant_images_are_near_the_oracle(arch):
    x, y = two_sets((4, 4, 1))
    check("cuda", arch, x[[2, 5]], y[[2, 0]])
    assert (entries_by("cuda", arch, x[[5]], y, "float32")["ntk"] == 0).all()


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_ill_scaled_images_keep_their_digits(scale):
    x, y = sets(sized("", (6, 7, 2)))
    check("cuda", "cntk-gap-11", x[:1] * scale, y)


@pytest.mark.parametrize("arch", ["cntk-gap-4", "cntk-v-21"])
def test_pixels_on_a_zero_background_keep_their_digits(arch):
    x = np.clip(awkward_images(sized("", (10, 10, 1)), 8), 0, None)
    x[:, :2], x[:, :, :1] = 0, 0
    check("cuda", arch, x[[0, 5]], x[[4, 6]])


@pytest.mark.gpu
@pytest.mark.parametrize("arch", ["cntk-gap-4", "cntk-gap-21", "cntk-v-21", "cnn-3", "myrtle-5"])
def test_full_size_pairs_are_near_the_reference(arch):
    x = awkward_images((32, 32, 3), 5)
    for dtype in DTYPES:
        found = kernel_matrix(arch, x[[0]], x[[1, 4]], backend="cuda", dtype=dtype)
        expected = kernel_matrix(arch, x[[0]], x[[1, 4]], backend="cpu", dtype="float64")
        assert_close(found, expected, RTOL[dtype])


@minutes_on_the_simulator
@cases(STAX)
def test_neural_tangents_agrees(arch, shape):
    x, y = sets(shape, near=False)
    found = entries_by("cuda", arch, x, y, "float64")
    for kind in KINDS:
        expected = kernel_matrix(arch, x, y, kind=kind, backend="stax", dtype="float64")
        assert_close(found[kind], expected, RTOL["float64"])


def small_networks():
    return test_cpu_networks.networks(*((4, 4) if SIMULATED else (9, 9)))


@settings(max_examples=8 if SIMULATED else 40)
@given(small_networks(), test_cpu_networks.SEEDS)
def test_any_small_network_is_near_the_oracle(network, seed):
    arch, shape = network
    x, y = sets(shape, seed, near=False)
    check("cuda", arch, x, y, signed=True, dtypes=DTYPES[:1])


@pytest.mark.parametrize("arch", ["cntk-gap-4", PLAIN["biases everywhere"][0]], ids=str)
def test_registers_and_memory_hold_the_same_state(arch, monkeypatch):
    """The general kernel must agree with the fused one, which is tested above."""
    x, y = sets((4, 5, 2))
    fused = entries_by("cuda", arch, x, y, "float64")
    layout_of = _cuda_prepare.layout_of

    def general(*args):
        layout = layout_of(*args)
        blocks = tuple(dataclasses.replace(block, fused=None) for block in layout.blocks)
        assert blocks != layout.blocks
        return dataclasses.replace(layout, blocks=blocks)

    monkeypatch.setattr(_cuda_prepare, "layout_of", general)
    found = entries_by("cuda", arch, x, y, "float64")
    for kind in KINDS:
        assert_close(found[kind], fused[kind], RTOL["float64"])


@pytest.mark.parametrize(
    ("arch", "n"),
    [(POOLED["halved"][0], 3), ((*ERF_FLAT[:4], *TOP), 3), ("cntk-gap-4", 4), ("fc-3", 11)],
    ids=str,
)
@pytest.mark.parametrize(
    "dtype",
    [d if d == "float32" else pytest.param(d, marks=minutes_on_the_simulator) for d in DTYPES],
)
def test_runs_blocks_batches_and_symmetry_do_not_change_a_bit(arch, n, dtype, monkeypatch):
    x = awkward_images((4, 3, 2), max(n, 5))[:n]
    whole = entries_by("cuda", arch, x, x.copy(), dtype)
    again = entries_by("cuda", arch, x, x.copy(), dtype)
    monkeypatch.setattr(_cuda_batches, "MOST_PAIRS", 2)
    own = {kind: kernel_matrix(arch, x, kind=kind, backend="cuda", dtype=dtype) for kind in KINDS}
    parts = [entries_by("cuda", arch, x[:2], x[k:], dtype) for k in (0, n - 1)]
    for kind in KINDS:
        assert (again[kind] == whole[kind]).all()
        assert (own[kind] == own[kind].T).all()
        assert (np.triu(own[kind]) == np.triu(whole[kind])).all()
        for part, k in zip(parts, (0, n - 1), strict=True):
            assert (part[kind] == whole[kind][:2, k:]).all()


def test_both_kinds_come_from_one_pass():
    backend = get_backend("cuda")
    state = backend.prepare(Architecture.parse("cntk-gap-4"), awkward_images((3, 3, 1), 5)[:2])
    both = backend.block(state, state, ("nngp", "ntk"))
    assert list(both) == ["ntk", "nngp"]
    for kind, found in both.items():
        assert (found == backend.block(state, state, (kind,))[kind]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_on_the_device_are_taken_and_given(dtype):
    backend = get_backend("cuda")
    arch = Architecture.parse("cnn-1")
    x = awkward_images((3, 4, 2), 5).astype(dtype)
    on_host = backend.prepare(arch, x)
    there = cuda.to_device(x)
    state = backend.prepare(arch, there)
    found = backend.block_on_device(state, state, ("ntk",))["ntk"]
    assert not isinstance(found, np.ndarray)
    assert (found.copy_to_host() == backend.block(on_host, on_host)["ntk"]).all()
    assert (there.copy_to_host() == x).all()


@pytest.mark.gpu
def test_arrays_of_jax_on_the_gpu_are_read_where_they_are():
    jnp = pytest.importorskip("jax.numpy")
    x = awkward_images((6, 5, 2), 5).astype(np.float32)
    there = jnp.asarray(x)
    if not hasattr(there, "__cuda_array_interface__"):
        pytest.skip("jax has no GPU here")
    view = backend_module.on_device(there)
    assert view.__cuda_array_interface__["data"] == there.__cuda_array_interface__["data"]
    found = kernel_matrix("cntk-gap-4", there, backend="cuda")
    assert (found == kernel_matrix("cntk-gap-4", x, backend="cuda")).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.ones((2, 3, 3)), r"\(2, 3, 3\)"),
        (np.full((2, 3, 3, 1), np.nan), "image 0 holds NaN"),
        (
            np.where(np.arange(3)[:, None, None, None] == 2, np.inf, np.ones((3, 3, 3, 1))),
            "image 2",
        ),
        (np.ones((2, 3, 3, 1), np.int32), "float32 or float64"),
    ],
)
def test_bad_images_are_named_on_the_device_too(images, message):
    backend, arch = get_backend("cuda"), Architecture.parse("cntk-gap-4")
    with pytest.raises(InputError, match=message):
        backend.prepare(arch, cuda.to_device(images))


def test_what_is_not_covered_is_said():
    backend = get_backend("cuda")
    arch = Architecture.parse(["Conv(3, stride=2)", "Relu", "Flatten", "Dense"])
    assert "not an odd filter with stride 1" in backend.supports(arch, (8, 8, 1))
    with pytest.raises(InputError, match="backend 'cuda'"):
        backend.prepare(arch, np.ones((2, 8, 8, 1)))


def test_too_little_memory_is_said_with_the_numbers(monkeypatch):
    monkeypatch.setattr(_cuda_batches, "free_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"one pair of images needs .* MiB .* or take backend cpu"):
        kernel_matrix(POOLED["halved"][0], np.ones((1, 4, 6, 2)), backend="cuda")


@contextmanager
def changed(module, **values):
    """Set names of a module meanwhile, with which networks are laid out anew."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(module, name, value)
        _cuda_plan.layout_of.cache_clear()
        yield
    _cuda_plan.layout_of.cache_clear()


@pytest.mark.parametrize("buffers", [0, 1])
@pytest.mark.parametrize(
    "arch", ["cntk-gap-4", [*("Conv", "Relu") * 3, *TWICE[4:7], "Flatten", "Dense"]]
)
def test_less_shared_memory_changes_nothing(arch, buffers):
    """Layers that do not fit twice are copied one at a time, and such that do not fit are not."""
    x, y = sets((4, 4, 2))
    found = entries_by("cuda", arch, x, y, "float32")
    room = 4 * 4 * (4 + 1) * 4  # bytes, rows, and numbers of a row
    with changed(_cuda_spec, SHARED_BYTES=room * 3 // 2 if buffers else room - 1):
        assert blocks_of(arch, x)[0].fused.buffers == buffers
        again = entries_by("cuda", arch, x, y, "float32")
    for kind, entries in found.items():
        assert_close(again[kind], entries, 1e-6)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_sums_of_windows_in_registers_or_shared_memory_have_the_same_bits(kept):
    x, y = sets((4, 4, 2))
    arch = [*("Conv", "Relu") * 3, "AvgPool(2)", *TWICE[-2:], "GlobalAvgPool", "Dense"]
    found = entries_by("cuda", arch, x, y, "float32")
    with changed(_cuda_spec.Fused, kept=property(lambda self: kept if self.pools else 0)):
        again = entries_by("cuda", arch, x, y, "float32")
    for kind in KINDS:
        assert (again[kind] == found[kind]).all()


def pooling_cases():
    """Networks whose pools are added up by the kernel in front of them, and shapes."""
    to_pixels = Architecture.parse([*TWICE, "GlobalAvgPool", "Dense"])
    aligned = Architecture.parse([*TWICE, "Flatten", "Dense"])
    thrice = Architecture.parse(["Conv", "Relu", "Conv", "Relu", *TWICE, "GlobalAvgPool", "Dense"])
    shapes = [(4, 4, 2), (8, 4, 1)] if SIMULATED else [(32, 32, 3), (28, 28, 1), (24, 12, 2)]
    return [
        pytest.param(arch, shape, id=f"{name} {shape}")
        for shape in shapes
        for name, arch in (("cnn-3", Architecture.parse("cnn-3")), ("to pixels", to_pixels),
                           ("aligned", aligned), ("thrice", thrice))
    ]  # fmt: skip


@pytest.mark.parametrize(("arch", "shape"), pooling_cases())
def test_pools_added_up_where_cells_are_computed_are_near_the_oracle(arch, shape):
    x, y = sets(shape)
    assert blocks_of(arch, x)[0].pools
    check("cuda", arch, x, y, dtypes=DTYPES)


def blocks_of(arch, x):
    return get_backend("cuda").prepare(Architecture.parse(arch), x).layout.blocks


@pytest.mark.parametrize("arch", [TWICE, ("Conv", "Relu", *TWICE)], ids=["two layers", "three"])
def test_pools_by_either_kernel_agree(arch):
    """Where cells are stored and pooled by another kernel, which the tests of odd sizes hold."""
    x, y = sets((4, 4, 2))
    arch = Architecture.parse([*arch, "GlobalAvgPool", "Dense"])
    together = entries_by("cuda", arch, x, y, "float64")
    with changed(_cuda_plan, can_pool=lambda *args: False):
        assert not any(block.pools for block in blocks_of(arch, x))
        apart = entries_by("cuda", arch, x, y, "float64")
    for kind in KINDS:
        assert_close(together[kind], apart[kind], RTOL["float64"])


@pytest.mark.parametrize("shape", [(8, 4, 2), (4, 2, 1)])
def test_pieces_of_an_entry_do_not_change_a_bit(shape, monkeypatch):
    x, y = sets(shape)
    arch = [*TWICE[-5:], "GlobalAvgPool", "Dense"]
    found = {}
    for pieces in (1, 2, 99):
        monkeypatch.setattr(backend_module, "pieces_of", lambda pooling, pairs, n=pieces: n)
        found[pieces] = entries_by("cuda", arch, x, y, "float32")
    for kind in KINDS:
        assert (found[2][kind] == found[1][kind]).all()
        assert (found[99][kind] == found[1][kind]).all()


WHOLE_WARPS = """
import numpy as np
from ntkdist.kernels import _cuda_intrinsics
from tests.kernels.images import awkward_images
from tests.kernels.oracle import KINDS, entries_by
from tests.kernels.test_cuda import TWICE, blocks_of

assert _cuda_intrinsics.LANES == 32
arch = [*TWICE[:7], "GlobalAvgPool", "Dense"]
for shape in ((4, 14, 1), (2, 20, 1), (2, 32, 1), (4, 10, 2), (2, 6, 2)):
    x = awkward_images(shape)[[0, 1, 2, 3]]
    parts = blocks_of(arch, x[:1])[0].fused.parts
    found, right = (entries_by(name, arch, x[:1], x[1:], "float64") for name in ("cuda", "cpu"))
    error = max(np.abs(found[kind] / right[kind] - 1).max() for kind in KINDS)
    print(shape[1], parts.run, parts.count, error)
"""


@pytest.mark.skipif(not SIMULATED, reason="needs simulated threads")
def test_warps_of_their_true_size_pool_all_columns():
    """Several classes a warp, runs of classes that do not divide the columns, idle lanes."""
    done = subprocess.run(
        [sys.executable, "-c", WHOLE_WARPS],
        env=os.environ | {"NTKDIST_SIMULATED_LANES": "32"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [(int(W), int(run), int(count)) for W, run, count, _ in rows] == [
        (14, 4, 4), (20, 2, 10), (32, 2, 16), (10, 6, 2), (6, 6, 1),
    ]  # fmt: skip
    assert max(float(error) for *_, error in rows) < RTOL["float64"]


@pytest.mark.skipif(not SIMULATED, reason="needs simulated threads")
@pytest.mark.parametrize("arch", ["cnn-3", "cntk-gap-4", [*TWICE, "Flatten", "Dense"]], ids=str)
def test_no_thread_depends_on_who_comes_first(arch):
    """Threads in the opposite order between barriers meet the same numbers."""
    from ntkdist.kernels._cuda_threads import backwards

    x, y = sets((4, 4, 2))
    forwards = entries_by("cuda", arch, x, y, "float32")
    with backwards():
        found = entries_by("cuda", arch, x, y, "float32")
    for kind in KINDS:
        assert (found[kind] == forwards[kind]).all()
