"""How the cuda backend computes: same bits, one pass, arrays on the device, errors."""

import dataclasses

import numpy as np
import pytest

from ntkdist import Architecture, kernel_matrix
from ntkdist.errors import InputError
from ntkdist.kernels import get_backend
from ntkdist.kernels.cuda import prepare, runner
from ntkdist.kernels.cuda.intrinsics import cuda
from tests.kernels.cuda_cases import (
    DTYPES,
    sets,
)
from tests.kernels.images import awkward_images
from tests.kernels.oracle import KINDS, entries_by
from tests.kernels.test_cpu_networks import (
    ERF_FLAT,
    PLAIN,
    POOLED,
    TOP,
)
from tests.tolerances import RTOL, assert_close

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.mark.slow(but="cntk-gap-4")
@pytest.mark.parametrize("arch", ["cntk-gap-4", PLAIN["biases everywhere"][0]], ids=str)
def test_registers_and_memory_hold_the_same_state(arch, monkeypatch):
    """The general kernel must agree with the fused one, which is tested above."""
    x, y = sets((4, 5, 2))
    fused = entries_by("cuda", arch, x, y, "float64")
    layout_of = prepare.layout_of

    def general(*args):
        layout = layout_of(*args)
        blocks = tuple(dataclasses.replace(block, fused=None) for block in layout.blocks)
        assert blocks != layout.blocks
        return dataclasses.replace(layout, blocks=blocks)

    monkeypatch.setattr(prepare, "layout_of", general)
    found = entries_by("cuda", arch, x, y, "float64")
    for kind in KINDS:
        assert_close(found[kind], fused[kind], RTOL["float64"])


@pytest.mark.slow(but="float32-fc-3-11")
@pytest.mark.parametrize(
    ("arch", "n"),
    [(POOLED["halved"][0], 3), ((*ERF_FLAT[:4], *TOP), 3), ("cntk-gap-4", 4), ("fc-3", 11)],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_runs_blocks_batches_and_symmetry_do_not_change_a_bit(arch, n, dtype, monkeypatch):
    x = awkward_images((4, 3, 2), max(n, 5))[:n]
    whole = entries_by("cuda", arch, x, x.copy(), dtype)
    again = entries_by("cuda", arch, x, x.copy(), dtype)
    monkeypatch.setattr(runner, "MOST_PAIRS", 2)
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
    view = prepare.on_device(there)
    interfaces = view.__cuda_array_interface__, there.__cuda_array_interface__
    assert interfaces[0]["data"][0] == interfaces[1]["data"][0]
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
    arch = Architecture.parse(["Conv", "AvgPool(3, 2, 'SAME')", "Conv", "Flatten", "Dense"])
    assert "can follow padded windows" in backend.supports(arch, (8, 8, 1))
    with pytest.raises(InputError, match="backend 'cuda'"):
        backend.prepare(arch, np.ones((2, 8, 8, 1)))


def test_too_little_memory_is_said_with_the_numbers(monkeypatch):
    monkeypatch.setattr(runner, "free_bytes", lambda: 10)
    with pytest.raises(InputError, match=r"one pair of images needs .* MiB .* or take backend cpu"):
        kernel_matrix(POOLED["halved"][0], np.ones((1, 4, 6, 2)), backend="cuda")


@pytest.mark.parametrize(
    ("arch", "work"),
    [
        ("cntk-gap-4", 20 * 20 * 4),  # classes, cells, layers
        (["Conv(5)", "Relu", "GlobalAvgPool", "Dense"], 20 * 20 * 2 * runner.GENERAL),
        ("cnn-1", None),
        (["Conv", "Gelu", "Conv(3, stride=2)", "Gelu", "GlobalAvgPool", "Dense"], None),
    ],
    ids=str,
)
def test_a_launch_is_short_on_a_slow_gpu(arch, work, monkeypatch):
    backend = get_backend("cuda", dtype="float64")
    state = backend.prepare(Architecture.parse(arch), awkward_images((4, 5, 2)))
    most = backend._batch_size(state.layout)
    for pairs in (3, 100):
        monkeypatch.setattr(runner, "MOST_WORK", {"float64": pairs * (work or 200) + 0.5})
        batch = backend._batch_size(state.layout)
        assert batch == pairs if work else 1 <= batch < most
    monkeypatch.setattr(runner, "MOST_WORK", {"float64": 0.5})
    assert backend._batch_size(state.layout) == 1


def test_a_pair_larger_than_a_batch_is_computed_alone(monkeypatch):
    x, y = sets((4, 6, 2))
    arch = POOLED["halved"][0]
    found = entries_by("cuda", arch, x, y, "float32")
    monkeypatch.setattr(runner, "MOST_BYTES", 1)
    again = entries_by("cuda", arch, x, y, "float32")
    for kind in KINDS:
        assert (again[kind] == found[kind]).all()
