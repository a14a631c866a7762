"""The reference and neural-tangents, which know nothing of each other, on one table of networks."""

import numpy as np
import pytest

from ntkdist import Architecture
from ntkdist.kernels import get_backend
from ntkdist.networks.layers import LAYERS, Nonlinearity, Residual
from tests.kernels.images import two_sets
from tests.kernels.networks import NETWORKS, NONLINEARITIES, REFUSED_BY_STAX
from tests.tolerances import RTOL, assert_close

KINDS = ("ntk", "nngp")
# one of each kind of network, compiled in seconds
QUICK = (
    "Gelu, connected",
    "LeakyRelu then Sin",
    "Gaussian then ExpNormalized",
    "LayerNorm then Cos",
    "LayerNorm with a large eps",
    "even strided filters",
    "WideResNet-like with LayerNorm",
)


def entries(name, arch, x, y):
    backend = get_backend(name, dtype="float64")
    return backend.block(backend.prepare(arch, x), backend.prepare(arch, y), KINDS)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NETWORKS],
)
def test_neural_tangents_agrees_with_the_reference(name):
    layers, shape = NETWORKS[name]
    arch = Architecture(layers)
    assert get_backend("stax").supports(arch, shape) is None
    # with equal images, zero patches and a zero image
    x, y = two_sets(shape, near=False)
    found, expected = entries("stax", arch, x, y), entries("reference", arch, x, y)
    for kind in KINDS:
        assert_close(found[kind], expected[kind], RTOL["float64"])


def test_the_table_has_every_layer_and_every_pair_of_nonlinearities():
    assert len({layer for layers, _ in NETWORKS.values() for layer in kinds(layers)}) == len(LAYERS)
    assert {type(layer) for layer in NONLINEARITIES.values()} == set(Nonlinearity.__args__)
    pairs = {(a, b) for a in NONLINEARITIES for b in NONLINEARITIES if a != b}
    assert {tuple(name.split(" then ")) for name in NETWORKS if " then " in name} >= pairs
    assert {shape[2] for _, shape in NETWORKS.values()} == {1, 2, 3, 4, 5}


def kinds(layers):
    for layer in layers:
        yield type(layer)
        if isinstance(layer, Residual):
            yield from kinds(layer.branch + layer.shortcut)


@pytest.mark.parametrize("name", {**NETWORKS, **REFUSED_BY_STAX})
def test_the_reference_is_finite_and_positive_semidefinite(name):
    layers, shape = {**NETWORKS, **REFUSED_BY_STAX}[name]
    arch = Architecture(layers)
    assert Architecture.parse(str(arch)) == arch
    x, _ = two_sets(shape)
    backend = get_backend("reference", dtype="float64")
    state = backend.prepare(arch, x)
    for kind, K in backend.block(state, state, KINDS).items():
        assert np.isfinite(K).all(), kind
        eigenvalues = np.linalg.eigvalsh(K)
        assert eigenvalues[0] >= -1e-6 * eigenvalues[-1], kind  # near duplicates and arccos
        # images 0 and 3 are equal; below the diagonal sums run in another order
        np.testing.assert_allclose(K[0], K[3], rtol=1e-12, atol=1e-15 * K.max())
        assert K[0, 0] == K[0, 3] == K[3, 3], kind


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nonlinearity first", "takes nonlinearities behind Conv or Dense alone"),
        ("two nonlinearities", "takes nonlinearities behind Conv or Dense alone"),
        ("nonlinearity behind Flatten", "takes nonlinearities behind Conv or Dense alone"),
        ("sum behind a ReLU", "both branches end in linear layers"),
        ("Identity first", "an empty one only behind a linear layer"),
    ],
)
def test_what_neural_tangents_refuses_is_said_in_the_layers_words(name, words):
    layers, shape = REFUSED_BY_STAX[name]
    assert words in get_backend("stax").supports(Architecture(layers), shape)


def test_sums_of_images_with_channels_are_refused_by_neural_tangents():
    arch = Architecture.parse(["Residual((Conv(),))", "Relu", "GlobalAvgPool", "Dense"])
    assert "images of several channels" in get_backend("stax").supports(arch, (5, 4, 3))
