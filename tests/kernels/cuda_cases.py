"""Cases, sizes and helpers that the cuda backend's tests share.

The simulator runs Python, so there the images are smaller and fewer; networks, dtypes and
tolerances are the same.
"""

from contextlib import contextmanager

import pytest

from ntkdist import Architecture
from ntkdist.kernels import get_backend
from ntkdist.kernels.cuda import layout
from tests.kernels import SIMULATED
from tests.kernels.images import two_sets
from tests.tolerances import RTOL

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
    "40 wide filters": (4, 3, 2),
    "7-pixel filters": (5, 4, 2),
    "5-pixel filters": (4, 5, 2),
    "erf around a pool": (4, 5, 2),
    "around a pool": (4, 5, 2),
    "ReLU behind GAP": (3, 4, 2),
    "GAP of (3, 11, 16)": (3, 5, 16),
    "pixels without a window": (4, 5, 1),
    "two pools": (7, 6, 2),
    "behind a pool": (6, 4, 2),
    "on a pool": (6, 4, 1),
}
DTYPES = tuple(RTOL)
TWICE = ("Conv", "Relu", "Conv", "Relu", "AvgPool(2)", "Conv", "Relu", "AvgPool(2)", "Conv", "Relu")
minutes_on_the_simulator = pytest.mark.long if SIMULATED else pytest.mark.filterwarnings("error")


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


def blocks_of(arch, x):
    return get_backend("cuda").prepare(Architecture.parse(arch), x).layout.blocks


@contextmanager
def changed(module, **values):
    """Set names of a module meanwhile, with which networks are laid out anew."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(module, name, value)
        layout.layout_of.cache_clear()
        yield
    layout.layout_of.cache_clear()
