"""The empirical tangent kernel against the Jacobian that it never forms."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from ntkdist import Architecture
from ntkdist.errors import InputError
from ntkdist.learning import FiniteNetwork, empirical
from ntkdist.learning.empirical import KINDS, empirical_kernel
from ntkdist.learning.finite.network import weight_layers
from ntkdist.networks.layers import (
    AvgPool,
    Conv,
    Dense,
    Erf,
    Flatten,
    Gelu,
    GlobalAvgPool,
    LayerNorm,
    LeakyRelu,
    Relu,
    Residual,
    Sin,
)
from tests.tolerances import RTOL

jax = pytest.importorskip("jax")

SHAPE = (7, 9, 2)
NETWORKS = {
    "fc-2": (Architecture.parse("fc-2"), 1),
    "cnn-3": (Architecture.parse("cnn-3"), 2),
    "cntk-gap-4": (Architecture.parse("cntk-gap-4"), 3),
    "biases, erf, a ragged pool, a fixed layer": (
        Architecture(
            (
                Conv(size=3, W_std=1.2, b_std=0.3),
                Erf(),
                AvgPool(2),
                Conv(size=3, W_std=1.4, b_std=0.1, trainable=False),
                Relu(),
                Flatten(),
                Dense(W_std=1.1, b_std=0.2),
            )
        ),
        4,
    ),
    "strides, even filters, wrapped edges, a residual sum": (
        Architecture(
            (
                Conv(size=4, stride=2),
                Residual(
                    (Relu(), Conv(padding="CIRCULAR", stride=2, b_std=0.4)),
                    (Conv(size=1, stride=2),),
                ),
                Relu(),
                Conv(size=2, padding="VALID"),
                Flatten(),
                Dense(),
            )
        ),
        5,
    ),
    "dense layers of pixels, filters larger than the image, a fixed readout": (
        Architecture(
            (
                Conv(size=3, padding="VALID", stride=2, b_std=0.2),
                Dense(b_std=0.5),
                Residual((Relu(), Conv(size=5))),
                GlobalAvgPool(),
                Dense(b_std=0.1),
                Erf(),
                Dense(b_std=0.7, trainable=False),
            )
        ),
        3,
    ),
    "layer norm, GELU, leaky ReLU, sine": (
        Architecture(
            (
                Conv(b_std=0.2),
                LayerNorm(0.1),
                Gelu(),
                Residual((Conv(size=2, stride=2), LeakyRelu(0.2)), (Conv(size=1, stride=2),)),
                Flatten(),
                Dense(),
                Sin(c=0.4),
                Dense(),
            )
        ),
        3,
    ),
}


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, *SHAPE)).astype(np.float32)


def drawn(name: str, width: int = 6):
    network = FiniteNetwork(NETWORKS[name][0], width, NETWORKS[name][1])
    return network, network.init(3, SHAPE)


@functools.cache
def by_jacobian(name: str, standard: bool) -> np.ndarray:
    """Return the kernel (6, K, 6, K) of ``images(6)`` by hand."""
    network, params = drawn(name)
    x = images(6)
    derivatives = jax.jit(jax.jacobian(network.apply))(params, x)
    parts = []
    for layer, pair, slopes in zip(
        weight_layers(network.arch.layers), params, derivatives, strict=True
    ):
        fan_in = np.prod(pair[0].shape[:-1])
        for slope, drawn_std in zip(slopes, (layer.W_std / fan_in**0.5, layer.b_std), strict=True):
            if layer.trainable and slope is not None:
                flat = np.asarray(slope, np.float64).reshape(len(x), network.num_classes, -1)
                parts.append(flat / drawn_std if standard else flat)
    J = np.concatenate(parts, axis=-1)
    return np.einsum("iop,jqp->iojq", J, J)


def reduced(full: np.ndarray, kind: str) -> np.ndarray:
    K = full.shape[1]
    return {
        "ntk": full,
        "trace": np.einsum("iojo->ij", full) / K,
        "pntk": full.sum(axis=(1, 3)) / K,
        "logit": full[:, 0, :, 0],
    }[kind]


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() <= RTOL["float32"] * np.abs(expected).max()


@pytest.mark.slow(but="fc-2-standard")
@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_is_that_of_the_jacobian(name, parameterization):
    network, params = drawn(name)
    full = by_jacobian(name, parameterization == "standard")
    x = images(6)
    for kind in KINDS:
        options = {"kind": kind, "parameterization": parameterization}
        crossed = empirical_kernel(network, params, x, x[[4, 2, 5, 1, 0, 3]], **options)
        assert_near(crossed, reduced(full[:, :, [4, 2, 5, 1, 0, 3]], kind))
        square = empirical_kernel(network, params, x, **options)
        assert_near(square, reduced(full, kind))
        flat = square.reshape(square.shape[0] * (network.num_classes if kind == "ntk" else 1), -1)
        np.testing.assert_array_equal(flat, flat.T)


@pytest.mark.slow(but="biases, erf, a ragged pool, a fixed layer-by positions")
@pytest.mark.parametrize("cheaper", [0, 1], ids=["by positions", "by gradients"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "fc-2"])
def test_both_contractions_are_right_in_small_blocks(name, cheaper, monkeypatch):
    monkeypatch.setattr(empirical, "costs", lambda a, b: ((0, 1), (1, 0))[cheaper])
    monkeypatch.setattr(empirical, "BLOCK_BYTES", 1500)
    network, params = drawn(name)
    full = by_jacobian(name, False)
    x = images(6)
    for kind in ("ntk", "trace"):
        found = empirical_kernel(network, params, x, kind=kind)
        assert_near(found, reduced(full, kind))
        crossed = empirical_kernel(network, params, x, x[::-1], kind=kind)
        assert_near(crossed, reduced(full[:, :, ::-1], kind))


@pytest.mark.parametrize("kind", ["ntk", "pntk"])
def test_batches_of_images_give_the_same(kind):
    name = "biases, erf, a ragged pool, a fixed layer"
    network, params = drawn(name)
    full, x = by_jacobian(name, False), images(6)
    found = empirical_kernel(network, params, x[:5], kind=kind, batch=2)
    assert_near(found, reduced(full[:5, :, :5], kind))
    crossed = empirical_kernel(network, params, x[:3], x, kind=kind, batch=2)
    assert_near(crossed, reduced(full[:3], kind))


def test_the_contraction_with_fewer_multiplications_is_taken():
    def costs(width, size, channels, pixels):
        conv = Conv(size=size)
        inputs = np.zeros((4, pixels, pixels, channels), np.float32)
        deltas = np.zeros((4, 1, pixels, pixels, width), np.float32)
        state = empirical.LayerState(conv, inputs, deltas, 1.0, 0.0)
        return empirical.costs(state, state)

    # by hand: 16·(16²·8 + 8·9·16² + 16²·4 + 16·4) and 8·16·9·8·4 + 16·9·8·4
    assert costs(4, 3, 8, 4) == (345088.0, 41472.0)
    by_positions, by_gradients = costs(512, 3, 512, 4)
    assert by_positions < by_gradients


@pytest.mark.slow
def test_neural_tangents_gives_the_same():
    from ntkdist.kernels.stax import import_neural_tangents

    nt = import_neural_tangents()
    name = "strides, even filters, wrapped edges, a residual sum"
    network, params = drawn(name)
    function = nt.empirical_ntk_fn(
        lambda params, x: network.apply(params, x), trace_axes=(), vmap_axes=0
    )
    x = images(4, seed=1)
    theirs = np.asarray(jax.jit(function)(x[:2], x[2:], params))
    found = empirical_kernel(network, params, x[:2], x[2:])
    # theirs is (n, m, K, K)
    assert_near(found, np.moveaxis(theirs, 2, 1).astype(np.float64))


def test_what_does_not_fit_is_refused():
    network, params = drawn("fc-2")
    x = images(2)
    with pytest.raises(InputError, match="kind='ntkk' is not one of ntk, trace, pntk, logit"):
        empirical_kernel(network, params, x, kind="ntkk")
    with pytest.raises(InputError, match="parameterization='mup' is not one of ntk, standard"):
        empirical_kernel(network, params, x, parameterization="mup")
    with pytest.raises(InputError, match="batch=0 must be a whole number of at least 1"):
        empirical_kernel(network, params, x, batch=0)
    with pytest.raises(InputError, match=r"do not fit images \(5, 5, 2\)"):
        empirical_kernel(network, params, x[:, :5, :5])
    with pytest.raises(InputError, match=r"images are \(5, 5, 2\)"):
        empirical_kernel(network, params, x, x[:, :5, :5])
    with pytest.raises(InputError, match="NaN or infinity"):
        empirical_kernel(network, params, np.full_like(x, np.nan))
    with pytest.raises(InputError, match="beyond float32"):
        empirical_kernel(network, params, np.full_like(x, 1e30))
    fixed = FiniteNetwork([Dense(trainable=False)], 4, 2)
    with pytest.raises(InputError, match="no layer is trainable"):
        empirical_kernel(fixed, fixed.init(0, SHAPE), x)
