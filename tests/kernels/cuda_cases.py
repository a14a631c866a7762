"""Cases and helpers that the cuda backend's tests share; a simulated GPU gets fewer images."""

from contextlib import contextmanager

import pytest

from ntkdist import Architecture
from ntkdist.kernels import get_backend
from ntkdist.kernels.cuda import layout
from tests.kernels import SIMULATED
from tests.kernels.images import two_sets
from tests.kernels.oracle import KINDS, entries_by
from tests.tolerances import RTOL

DTYPES = tuple(RTOL)
TWICE = ("Conv", "Relu", "Conv", "Relu", "AvgPool(2)", "Conv", "Relu", "AvgPool(2)", "Conv", "Relu")


def sets(shape, seed=0, *, near=True):
    """Return row and column images: a duplicate, a near duplicate, zero patches.

    A simulated GPU gets two images of each set.
    """
    x, y = two_sets(shape, seed, near=near)
    if not SIMULATED:
        return x, y
    return (x[[0, 4]], y[[0, 1]]) if near else (x[[0, 1]], y[[0, 2]])


def cases(table):
    return pytest.mark.parametrize(("arch", "shape"), list(table.values()), ids=table.keys())


def blocks_of(arch, x):
    return get_backend("cuda").prepare(Architecture.parse(arch), x).layout.blocks


@contextmanager
def changed(module, **values):
    """Set names of a module meanwhile; networks are laid out anew under them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(module, name, value)
        layout.layout_of.cache_clear()
        yield
    layout.layout_of.cache_clear()


def assert_same_bits_in_every_order(arch, x, y, dtype, *, lazy=(True, False)):
    """Run threads in every order, with copies early and late; all give the bits of the first."""
    from tests.kernels.simulator import GPU
    from tests.kernels.simulator.machine import ORDERS

    first = entries_by("cuda", arch, x, y, dtype)
    for order in ORDERS:
        for late in lazy:
            with GPU.checking(order=order, lazy=late):
                again = entries_by("cuda", arch, x, y, dtype)
            for kind in KINDS:
                assert (again[kind] == first[kind]).all(), (order, late, kind)
    return first
