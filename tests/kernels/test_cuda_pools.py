"""The fused CUDA kernel: shared memory, pools added up behind a block, threads in any order."""

import pytest

from ntkdist import Architecture
from ntkdist.kernels.cuda import fused, layout, runner
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


@pytest.mark.slow(but="arch1-1")
@pytest.mark.parametrize("buffers", [0, 1])
@pytest.mark.parametrize(
    "arch", ["cntk-gap-4", [*("Conv", "Relu") * 3, *TWICE[4:7], "GlobalAvgPool", "Dense"]]
)
def test_less_shared_memory_changes_nothing(arch, buffers):
    """Layers that do not fit twice are copied one at a time, and such that do not fit are not."""
    x, y = sets((4, 4, 2))
    room = 4 * 4 * (4 + 1) * 4  # bytes, rows, and numbers of a row
    with changed(layout, can_pool=lambda *args: False):
        found = entries_by("cuda", arch, x, y, "float32")
    with changed(fused, SHARED_BYTES=room * 3 // 2 if buffers else room - 1):
        assert blocks_of(arch, x)[0].fused.buffers == buffers
        again = entries_by("cuda", arch, x, y, "float32")
    for kind, entries in found.items():
        assert_close(again[kind], entries, 1e-6)


@pytest.mark.slow(but="9-16")
@pytest.mark.parametrize(("H", "W"), [(9, 16), (5, 24), (3, 32)])
def test_two_columns_a_lane_are_near_the_oracle(H, W):
    """Rows in groups with and without the cut, and classes of which a column has two cuts."""
    x, y = sets((H, W, 2))
    assert blocks_of("cntk-gap-5", x)[0].fused.columns == 2
    check("cuda", "cntk-gap-5", x, y)
    found = assert_same_bits_in_every_order("cntk-gap-5", x, y, "float32", lazy=[True])
    with changed(layout, best_columns=lambda *args: 1):
        assert blocks_of("cntk-gap-5", x)[0].fused.columns == 1
        again = entries_by("cuda", "cntk-gap-5", x, y, "float32")
    for kind in KINDS:
        assert_close(again[kind], found[kind], 1e-6)


def test_a_multiprocessor_with_less_shared_memory_has_one_layer_at_a_time(monkeypatch):
    """So that three blocks of threads fit on a GeForce, as on other GPUs."""
    x, y = sets((8, 8, 1))
    found = entries_by("cuda", "cntk-gap-5", x, y, "float32")
    assert blocks_of("cntk-gap-5", x)[0].fused.buffers == 2
    of_two = 2 * 4 * fused.layer_size_of(8, 8, "float32")
    with changed(layout, shared_bytes=lambda: 3 * of_two):  # and what the driver takes
        assert blocks_of("cntk-gap-5", x)[0].fused.buffers == 1
        again = entries_by("cuda", "cntk-gap-5", x, y, "float32")
    for kind in KINDS:
        assert_close(again[kind], found[kind], 1e-6)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_sums_of_windows_in_registers_or_shared_memory_have_the_same_bits(kept):
    x, y = sets((4, 4, 2))
    arch = [*("Conv", "Relu") * 3, "AvgPool(2)", *TWICE[-2:], "GlobalAvgPool", "Dense"]
    found = entries_by("cuda", arch, x, y, "float32")
    with changed(fused.Fused, kept=property(lambda self: kept if self.pools else 0)):
        again = entries_by("cuda", arch, x, y, "float32")
    for kind in KINDS:
        assert (again[kind] == found[kind]).all()


def pooling_cases():
    """Networks whose pools are added up by the kernel in front of them, and shapes."""
    to_pixels = Architecture.parse([*TWICE, "GlobalAvgPool", "Dense"])
    aligned = Architecture.parse([*TWICE, "Flatten", "Dense"])
    thrice = Architecture.parse(["Conv", "Relu", "Conv", "Relu", *TWICE, "GlobalAvgPool", "Dense"])
    shapes = [(8, 8, 3), (4, 8, 1), (12, 20, 1)]
    if not SIMULATED:
        shapes += [(32, 32, 3), (28, 28, 1), (24, 12, 2)]
    return [
        pytest.param(arch, shape, id=f"{name} {shape}")
        for shape in shapes
        for name, arch in (("cnn-3", Architecture.parse("cnn-3")), ("to pixels", to_pixels),
                           ("aligned", aligned), ("thrice", thrice))
    ]  # fmt: skip


@pytest.mark.slow(but="aligned (8, 8, 3)")
@pytest.mark.parametrize(("arch", "shape"), pooling_cases())
def test_pools_added_up_where_cells_are_computed_are_near_the_oracle(arch, shape):
    x, y = sets(shape)
    assert blocks_of(arch, x)[0].pools
    check("cuda", arch, x, y, dtypes=DTYPES)


@pytest.mark.slow(but="three")
@pytest.mark.parametrize("arch", [TWICE, ("Conv", "Relu", *TWICE)], ids=["two layers", "three"])
def test_pools_by_either_kernel_agree(arch):
    """Where cells are stored and pooled by another kernel, which the tests of odd sizes hold."""
    x, y = sets((4, 4, 2))
    arch = Architecture.parse([*arch, "GlobalAvgPool", "Dense"])
    together = entries_by("cuda", arch, x, y, "float64")
    with changed(layout, can_pool=lambda *args: False):
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
        monkeypatch.setattr(runner, "pieces_of", lambda pooling, pairs, n=pieces: n)
        found[pieces] = entries_by("cuda", arch, x, y, "float32")
    for kind in KINDS:
        assert (found[2][kind] == found[1][kind]).all()
        assert (found[99][kind] == found[1][kind]).all()


@pytest.mark.slow(but="14-8-2")
@pytest.mark.parametrize(
    ("W", "run", "count"), [(14, 8, 2), (18, 4, 5), (32, 4, 8), (10, 10, 1), (6, 6, 1)]
)
def test_blocks_of_threads_pool_all_columns(W, run, count):
    """Several classes a warp, runs of classes that do not divide the columns, idle lanes."""
    arch = [*TWICE[:7], "GlobalAvgPool", "Dense"]
    x = awkward_images((4, W, 1))[[0, 1, 2, 3]]
    parts = blocks_of(arch, x[:1])[0].fused.parts
    assert (parts.run, parts.count) == (run, count)
    check("cuda", arch, x[:1], x[1:], dtypes=["float64"])


@pytest.mark.skipif(not SIMULATED, reason="a GPU has an order of its own")
@pytest.mark.slow(but="cnn-3")
@pytest.mark.parametrize("arch", ["cnn-3", "cntk-gap-4", [*TWICE, "Flatten", "Dense"]], ids=str)
def test_no_thread_depends_on_who_comes_first(arch):
    """Nor on whether copies to shared memory arrive at once or as late as they may."""
    assert_same_bits_in_every_order(arch, *sets((8, 8, 2)), "float32")
