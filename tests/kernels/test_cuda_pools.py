"""The fused CUDA kernel: shared memory, pools added up behind a block, threads in any order."""

import os
import subprocess
import sys

import pytest

from ntkdist import Architecture
from ntkdist.kernels.cuda import fused, layout, runner
from tests.kernels import SIMULATED, simulator
from tests.kernels.cuda_cases import (
    DTYPES,
    TWICE,
    blocks_of,
    changed,
    sets,
)
from tests.kernels.oracle import KINDS, check, entries_by
from tests.tolerances import RTOL, assert_close

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.mark.slow(but="arch1-1")
@pytest.mark.parametrize("buffers", [0, 1])
@pytest.mark.parametrize(
    "arch", ["cntk-gap-4", [*("Conv", "Relu") * 3, *TWICE[4:7], "Flatten", "Dense"]]
)
def test_less_shared_memory_changes_nothing(arch, buffers):
    """Layers that do not fit twice are copied one at a time, and such that do not fit are not."""
    x, y = sets((4, 4, 2))
    found = entries_by("cuda", arch, x, y, "float32")
    room = 4 * 4 * (4 + 1) * 4  # bytes, rows, and numbers of a row
    with changed(fused, SHARED_BYTES=room * 3 // 2 if buffers else room - 1):
        assert blocks_of(arch, x)[0].fused.buffers == buffers
        again = entries_by("cuda", arch, x, y, "float32")
    for kind, entries in found.items():
        assert_close(again[kind], entries, 1e-6)


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
    shapes = [(4, 4, 2), (8, 4, 1)] if SIMULATED else [(32, 32, 3), (28, 28, 1), (24, 12, 2)]
    return [
        pytest.param(arch, shape, id=f"{name} {shape}")
        for shape in shapes
        for name, arch in (("cnn-3", Architecture.parse("cnn-3")), ("to pixels", to_pixels),
                           ("aligned", aligned), ("thrice", thrice))
    ]  # fmt: skip


@pytest.mark.slow(but="aligned (4, 4, 2)")
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


WHOLE_WARPS = """
import numpy as np
from tests.kernels import simulator
from tests.kernels.images import awkward_images
from tests.kernels.oracle import KINDS, entries_by
from tests.kernels.cuda_cases import TWICE, blocks_of

assert simulator.LANES == 32
simulator.use_as_gpu()
arch = [*TWICE[:7], "GlobalAvgPool", "Dense"]
for shape in ((4, 14, 1), (2, 20, 1), (2, 32, 1), (4, 10, 2), (2, 6, 2)):
    x = awkward_images(shape)[[0, 1, 2, 3]]
    parts = blocks_of(arch, x[:1])[0].fused.parts
    found, right = (entries_by(name, arch, x[:1], x[1:], "float64") for name in ("cuda", "cpu"))
    error = max(np.abs(found[kind] / right[kind] - 1).max() for kind in KINDS)
    print(shape[1], parts.run, parts.count, error)
"""


@pytest.mark.slow
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
    x, y = sets((4, 4, 2))
    forwards = entries_by("cuda", arch, x, y, "float32")
    with simulator.backwards():
        found = entries_by("cuda", arch, x, y, "float32")
    for kind in KINDS:
        assert (found[kind] == forwards[kind]).all()
