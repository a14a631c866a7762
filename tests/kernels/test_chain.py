"""Which networks have a state in float64 for entries in float32, and that these keep their digits.

K of such networks can be a small difference of both signs; in float32 K = (a² + b²)/2 − Δ would
leave it only the digits that a² and b² have.
"""

import numpy as np
import pytest

from ntkdist import Architecture
from ntkdist.kernels.chain import chain_of, state_dtype
from ntkdist.kernels.registry import get_backend, of_version
from tests.kernels.oracle import check

ERF = ("Conv", "Erf") * 2
TOP = ("GlobalAvgPool", "Dense")
FLAT = ("Flatten", "Dense")
POINT = ("Conv(1)", "Relu")
WIDE = {
    "erf": ((*ERF, *TOP), (4, 5, 1)),
    "erf behind ReLU": (("Conv", "Relu", "Conv", "Erf", *TOP), (4, 5, 2)),
    "erf in front of ReLU": (("Conv", "Erf", "Conv", "Relu", *TOP), (4, 5, 2)),
    "erf around a pool": (("Conv", "Erf", "AvgPool(2)", "Conv", "Erf", *TOP), (4, 5, 1)),
    "deep erf": (("Conv", "Erf") * 10 + TOP, (4, 3, 1)),
    "erf of vectors": (("Dense", "Erf", "Dense"), (4, 3, 1)),
    "erf, flat": ((*ERF, *FLAT), (4, 5, 3)),
    "no nonlinearity": (("Conv", "Conv", *TOP), (4, 5, 1)),
    "a mean alone": (TOP, (4, 5, 1)),
    "grey pixels": ((*POINT, *TOP), (4, 5, 1)),
    "grey pixels, twice": ((*POINT, "Conv", "Relu", *FLAT), (4, 5, 1)),
    "pixels of three colours": ((*POINT, *TOP), (4, 5, 3)),
    "windows of grey pixels": (("AvgPool(2)", *POINT, *TOP), (4, 5, 1)),
    "one pixel": (("Conv", "Relu", *TOP), (1, 1, 2)),
    "two pixels": (("Conv", "Conv", "Relu", *TOP), (1, 2, 1)),
    "head behind a fixed layer": (("Conv", "Relu", "Relu", *TOP, "Relu", "Dense"), (4, 5, 2)),
    "saturated head": (
        ("Conv", "Relu", "Relu", "GlobalAvgPool", "Dense(W_std=3e4)", "Erf", "Dense"),
        (4, 5, 2),
    ),
    "two features": (("Dense", "Relu", "Dense"), (1, 1, 2)),
}
NARROW = {
    "cntk-gap-11": ("cntk-gap-11", (32, 32, 3)),
    "cntk-v-4": ("cntk-v-4", (28, 28, 1)),
    "myrtle-5": ("myrtle-5", (32, 32, 3)),
    "fc-2": ("fc-2", (2, 2, 1)),
    "pixels of many channels": ((*POINT, *TOP), (4, 5, 4)),
    "erf behind the mean": (("Conv", "Relu", *TOP, "Erf", "Dense"), (4, 5, 2)),
}


def cases(table):
    return pytest.mark.parametrize(("arch", "shape"), table.values(), ids=table.keys())


def wide_and_resumable(arch, shape, dtype):
    """Return the dtype of the state, and whether runs of the version before can be resumed."""
    arch, cpu = Architecture.parse(arch), get_backend("cpu", dtype=dtype)
    assert of_version(cpu, cpu.arithmetic, arch, shape) is cpu
    assert of_version(cpu, "cpu-2", arch, shape) is None
    older = of_version(cpu, "cpu-3", arch, shape)
    assert older is None or older.arithmetic == "cpu-3"
    return state_dtype(chain_of(arch), shape, dtype), older is not None


@cases(WIDE)
def test_cancelling_networks_have_a_wide_state_and_other_bits_than_before(arch, shape):
    assert wide_and_resumable(arch, shape, "float32") == ("float64", False)
    assert wide_and_resumable(arch, shape, "float64") == ("float64", True)


@cases(NARROW)
def test_other_networks_keep_their_state_and_can_be_resumed(arch, shape):
    assert wide_and_resumable(arch, shape, "float32") == ("float32", True)


def with_opposites(shape):
    """Return rows and columns with equal, opposite and proportional images, and zero patches."""
    x = np.random.default_rng(3).normal(size=(5, *shape))
    x[1, : shape[0] // 2] = 0
    return x[:4], np.concatenate([-x[:2], x[1:2], 0.5 * x[2:3], x[4:]])


@cases(WIDE)
def test_their_entries_keep_their_digits(arch, shape):
    check("cpu", arch, *with_opposites(shape), signed=True, dtypes=["float32"])


@pytest.mark.parametrize("name", ["erf", "erf around a pool", "a mean alone", "two features"])
def test_their_entries_keep_their_digits_on_a_gpu(gpu, name):
    arch, shape = WIDE[name]
    x, y = with_opposites((shape[0], min(shape[1], 4), shape[2]))
    check("cuda", arch, x[:2], y[[0, 4]], signed=True, dtypes=["float32"])
