"""The streamed CUDA kernel: images whose cells do not fit registers, and the same on small ones."""

import numpy as np
import pytest

from ntkdist import Architecture
from ntkdist.kernels import Family, get_backend
from ntkdist.kernels.cuda import layout, runner
from ntkdist.kernels.cuda.intrinsics import LANES
from ntkdist.kernels.cuda.streamed import layers_of_pass, layers_to_know
from tests.kernels import SIMULATED
from tests.kernels.cuda_cases import (
    DTYPES,
    TWICE,
    assert_same_bits_in_every_order,
    blocks_of,
    changed,
    sets,
)
from tests.kernels.images import awkward_images
from tests.kernels.oracle import KINDS, check, entries_by
from tests.tolerances import RTOL, assert_close

pytestmark = pytest.mark.usefixtures("gpu")

POOLED = [*TWICE, "GlobalAvgPool", "Dense"]
#: Network and shape of small images, whose state is put in memory for the test.
SMALL = {
    "one pass": ("cntk-gap-4", (5, 4, 2)),
    "one layer": ("cnn-1", (4, 3, 2)),
    "three passes": ("cntk-gap-11", (4, 3, 1)),
    "passes of equal kind, scaled": ("cntk-gap-21", (3, 3, 1)),
    "two columns a lane": ("cntk-gap-8", (3, LANES + 3, 1)),
    "several classes a team": ("cntk-gap-5", (6, 2, 3)),
    "many channels": ("cntk-gap-4", (4, 3, 9)),
    "pools": (POOLED, (5, LANES + 5, 1)),
    "pool to one pixel": (["Conv", "Relu", "AvgPool(4)", "Conv", "Relu", *POOLED[-2:]], (5, 6, 2)),
    "weights": ("cntk-lap-4-1", (5, 6, 2)),
    "flat": ("cntk-v-6", (5, 9, 2)),
    "biases and fixed layers": (
        ["Conv(3, b_std=0.3)", "Relu", "Conv(3, trainable=False)", "Relu"] * 2 + POOLED[-2:],
        (4, 5, 2),
    ),
}
#: Network and shape of images that do not fit registers, by the columns of a lane.
LARGE = {
    "1": ("cntk-lap-3-1", (70, 5, 1)),
    "2": ("cntk-v-6", (66, 62, 1)),
    "3": ("cntk-lap-5-1", (22, 67, 1)),
    "4": ("cntk-lap-4-1", (17, 97, 1)),
    "5": ("cntk-v-4", (13, 159, 1)),
    "8": ("cntk-v-4", (9, 256, 1)),
}


@pytest.mark.slow(but="three passes")
@pytest.mark.parametrize("name", SMALL)
def test_state_in_memory_is_near_the_oracle(name):
    arch, shape = SMALL[name]
    x, y = sets(shape)
    with changed(layout, MOST_CELLS=0):
        (block, *_) = blocks_of(arch, x)
        assert block.streamed
        assert block.fused.scaled == ("scaled" in name)
        check("cuda", arch, x, y, dtypes=DTYPES)


@pytest.mark.slow
@pytest.mark.parametrize("columns", LARGE)
def test_images_that_do_not_fit_registers_are_near_the_reference(columns):
    arch, shape = LARGE[columns]
    x = awkward_images(shape)
    (block,) = blocks_of(arch, x[:1])
    assert block.streamed
    assert block.fused.columns == int(columns)
    for dtype in DTYPES:
        found = entries_by("cuda", arch, x[:2], x[[1, 4]], dtype)
        expected = entries_by("cpu", arch, x[:2], x[[1, 4]], "float64")
        for kind in KINDS:
            assert_close(found[kind], expected[kind], RTOL[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("arch", ["cntk-gap-4", "cntk-lap-11-4", "myrtle-5"])
def test_full_size_pairs_are_near_the_reference(arch):
    x = awkward_images((64, 64, 3), 5)
    for dtype in DTYPES:
        found = entries_by("cuda", arch, x[[0]], x[[1, 4]], dtype)
        expected = entries_by("cpu", arch, x[[0]], x[[1, 4]], "float64")
        for kind in KINDS:
            assert_close(found[kind], expected[kind], RTOL[dtype])


def test_equal_images_have_a_distance_of_exactly_zero():
    x = awkward_images((5, 4, 2))
    backend = get_backend("cuda")
    with changed(layout, MOST_CELLS=0):
        state = backend.prepare(Architecture.parse("cntk-v-8"), x)
        (block,) = state.layout.blocks
        pairs = runner.to_device(np.array([[0, 0], [0, 3], [1, 1], [2, 2], [0, 4]]))
        of_dtype = backend._runners["float32"]
        sums = of_dtype.run(state.layout, state.numbers, state.numbers, pairs, (block.classes,))
    distances = sums.copy_to_host()[:, 0, 0, 0]
    assert (distances[:4] == 0).all()
    assert distances[4] != 0


@pytest.mark.slow(but="three passes")
@pytest.mark.parametrize("name", ["pools", "three passes"])
def test_neither_teams_nor_batches_change_a_bit(name, monkeypatch):
    arch, shape = SMALL[name]
    x, y = sets(shape)
    with changed(layout, MOST_CELLS=0):
        found = entries_by("cuda", arch, x, y, "float32")
        monkeypatch.setattr(runner, "blocks_at_once", lambda spec: 1)
        monkeypatch.setattr(runner, "MOST_WORK", {"float32": 1, "float64": 1})
        again = entries_by("cuda", arch, x, y, "float32")
        alone = entries_by("cuda", arch, x[1:], y[:1], "float32")
    for kind in KINDS:
        assert (again[kind] == found[kind]).all()
        assert (alone[kind] == found[kind][1:, :1]).all()


@pytest.mark.slow
def test_several_depths_come_from_one_pass():
    x = awkward_images((4, 3, 2))[[0, 1, 4]]
    archs = [Architecture.parse(f"cntk-gap-{depth}") for depth in (3, 4, 9)]
    for dtype in DTYPES:
        with changed(layout, MOST_CELLS=0):
            backend = get_backend("cuda", dtype=dtype)
            assert backend.can_read(archs[-1], x.shape[1:])
            family = Family(backend, archs, x.shape[1:])
            state = family.prepare(x)
            networks = family.block(state, state, KINDS)
        for arch, found in zip(archs, networks, strict=True):
            expected = entries_by("cpu", arch, x, x, "float64")
            for kind in KINDS:
                assert_close(found[kind], expected[kind], RTOL[dtype])


@pytest.mark.parametrize("columns", range(1, 9))
def test_networks_of_any_depth_share_a_few_kernels(columns):
    of_pass = layers_of_pass(columns)
    for layers in range(1, 40):
        known = layers_to_know(layers, of_pass)
        assert known <= min(layers, 3 * of_pass)
        assert (layers - known) % of_pass == 0
        # whole passes behind the first one: the last, and as many between as there are or one
        assert (known > of_pass) == (layers > of_pass)
        assert (known > 2 * of_pass) == (layers > 2 * of_pass)


@pytest.mark.slow(but="three passes")
@pytest.mark.skipif(not SIMULATED, reason="needs the simulated GPU")
@pytest.mark.parametrize("name", ["pools", "three passes"])
def test_no_thread_depends_on_who_comes_first(name):
    arch, shape = SMALL[name]
    with changed(layout, MOST_CELLS=0):
        assert_same_bits_in_every_order(arch, *sets(shape), "float32")
