"""Several networks in one pass: what a family is, and that members are what they are alone."""

import numpy as np
import pytest

from ntkdist import Architecture
from ntkdist.kernels import Family, get_backend
from ntkdist.kernels.matrix import depths_of
from tests.kernels.images import awkward_images
from tests.kernels.oracle import KINDS
from tests.tolerances import RTOL, assert_close


def parsed(*specs):
    return [Architecture.parse(spec) for spec in specs]


def test_depths_of_one_family_are_its_layers():
    assert depths_of(parsed("cntk-gap-6", "cntk-gap-3", "cntk-gap-21")) == (5, 2, 20)


@pytest.mark.parametrize(
    "specs",
    [
        ("cntk-gap-3", "cntk-v-6"),  # other trained layers, another end
        ("cnn-1", "cnn-3"),  # pools on the way
        (["Conv", "Relu", "GlobalAvgPool", "Dense"], ["Conv(b_std=0.1)", "Relu"] * 2
         + ["GlobalAvgPool", "Dense"]),
        (["Conv", "Relu", "GlobalAvgPool", "Dense"], ["Conv", "Relu"] * 2
         + ["GlobalAvgPool", "Dense", "Relu", "Dense"]),
        (["GlobalAvgPool", "Dense"], ["Conv", "Relu", "GlobalAvgPool", "Dense"]),
        ("cntk-gap-3", ["Conv(stride=2)", "Relu", "Flatten", "Dense"]),
    ],
    ids=["ends", "pools", "layers", "tails", "no layer", "uncovered"],
)  # fmt: skip
def test_other_networks_are_no_family(specs):
    specs = [list(spec) if isinstance(spec, list) else spec for spec in specs]
    assert depths_of(parsed(*specs)) is None


@pytest.mark.slow(but="depths2-float32")
@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("depths", [(3, 6), (11, 2, 3, 12), (4, 4)])
def test_one_pass_gives_what_each_network_gives_alone(gpu, depths, dtype):
    archs = parsed(*(f"cntk-gap-{depth}" for depth in depths))
    x = awkward_images((4, 3, 2))
    backend = get_backend("cuda", dtype=dtype)
    family = Family(backend, archs, x.shape[1:])
    assert family.together
    a, b = family.prepare(x[[0, 1]]), family.prepare(x[[0, 4, 2]])
    mixed, own = family.block(a, b, KINDS), family.block(a, a, KINDS)
    for arch, found, symmetric in zip(archs, mixed, own, strict=True):
        alone = [backend.prepare(arch, images) for images in (x[[0, 1]], x[[0, 4, 2]])]
        for kind, entries in backend.block(*alone, KINDS).items():
            assert_close(found[kind], entries, 1e-6 if dtype == "float32" else 1e-13)
        right = get_backend("reference", dtype="float64")
        states = [right.prepare(arch, images) for images in (x[[0, 1]], x[[2]])]
        for kind, entries in right.block(*states, KINDS).items():
            assert_close(found[kind][:, 2:], entries, RTOL[dtype])
        for kind in KINDS:
            assert (symmetric[kind] == symmetric[kind].T).all()


def test_what_is_no_family_is_computed_one_by_one():
    archs = parsed("cnn-3", "cntk-v-3")
    x = awkward_images((4, 4, 1))[:2]
    backend = get_backend("cpu")
    family = Family(backend, archs, x.shape[1:])
    assert not family.together
    state = family.prepare(x)
    for arch, found in zip(archs, family.block(state, state), strict=True):
        alone = backend.prepare(arch, x)
        assert (found["ntk"] == backend.block(alone, alone)["ntk"]).all()
    assert not np.allclose(*(found["ntk"] for found in family.block(state, state)))
