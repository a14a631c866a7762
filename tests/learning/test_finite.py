"""Networks of finite width: their kernels at initialisation, and their training."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from ntkdist import Architecture, kernel_matrix
from ntkdist.errors import InputError
from ntkdist.kernels.stax import build
from ntkdist.learning import FiniteNetwork, evaluate, train
from ntkdist.networks.layers import (
    ABRelu,
    AvgPool,
    Conv,
    Cos,
    Dense,
    Erf,
    Exp,
    Flatten,
    Gaussian,
    Gelu,
    GlobalAvgPool,
    Identity,
    LayerNorm,
    LeakyRelu,
    Relu,
    Residual,
    Sin,
)
from tests.kernels.test_duals import BENDS, FUNCTIONS

pytest.importorskip("jax")


def digits(n, seed=0):
    from sklearn.datasets import load_digits

    found = load_digits()
    chosen = np.random.default_rng(seed).permutation(len(found.target))[:n]
    x = found.images[chosen][..., None] / 16.0
    return ((x - x.mean()) / x.std()).astype(np.float32), found.target[chosen].astype(np.int64)


NETWORKS = {
    **{name: Architecture.parse(name) for name in ("fc-2", "cnn-2", "cnn-3", "cntk-gap-4")},
    "biases, erf, ragged pool, a fixed layer": Architecture(
        (
            Conv(size=3, W_std=1.2, b_std=0.3),
            Erf(),
            AvgPool(3),
            Conv(size=3, W_std=1.4, b_std=0.1, trainable=False),
            Relu(),
            Flatten(),
            Dense(W_std=1.1, b_std=0.2),
        )
    ),
    "strides, even filters, wrapped edges, a residual sum": Architecture(
        (
            Conv(size=4, stride=2),
            Conv(size=2),
            Residual((Relu(), Conv(padding="CIRCULAR", stride=2)), (Conv(size=1, stride=2),)),
            Relu(),
            Conv(size=2, padding="VALID"),
            Flatten(),
            Dense(),
        )
    ),
    "ReLUs of other slopes, GELU": Architecture(
        (
            Conv(b_std=0.2),
            LeakyRelu(0.2),
            Conv(),
            ABRelu(-0.5, 1.3),
            Flatten(),
            Dense(W_std=1.0),
            Gelu(),
            Dense(W_std=1.0),
        )
    ),
    "sine and cosine": Architecture(
        (Conv(), Sin(0.7, 1.4, 0.3), AvgPool(2), Dense(), Cos(2.0, 0.5, 1.0), Flatten(), Dense())
    ),
    "exponential and Gaussian": Architecture(
        (Conv(), Exp(0.5, 0.4), Conv(), Gaussian(2.0, -0.3), GlobalAvgPool(), Dense())
    ),
    "layer norm": Architecture(
        (
            Conv(W_std=5.0, b_std=0.5),
            LayerNorm(),
            Relu(),
            Identity(),
            Conv(W_std=0.3),
            LayerNorm(0.05),
            Gelu(),
            GlobalAvgPool(),
            Dense(),
        )
    ),
}


@functools.cache
def slopes(network: FiniteNetwork):
    """Return (parameters that train, the others, images) → derivatives of the first output."""
    import jax

    def first_output(moving, fixed, x):
        parts = iter(moving), iter(fixed)
        params = tuple(next(parts[0] if trains else parts[1]) for trains in network.trainable())
        return network.apply(params, x)[:, 0]

    return jax.jit(jax.jacobian(first_output))


def tangent_kernel(network: FiniteNetwork, seed: int, x: np.ndarray) -> np.ndarray:
    """Return ∇f₀(x)∇f₀(x')ᵀ (n, n) of the first output over the layers that train."""
    import jax

    pairs = list(zip(network.init(seed, x.shape[1:]), network.trainable(), strict=True))
    moving, fixed = ([p for p, trains in pairs if trains is which] for which in (True, False))
    leaves = jax.tree.leaves(slopes(network)(moving, fixed, x))
    J = np.concatenate([np.reshape(leaf, (len(x), -1)) for leaf in leaves], axis=1)
    return J.astype(np.float64) @ J.T.astype(np.float64)


def relative(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.diag(expected))
    return (found - expected) / np.outer(scale, scale)


@pytest.mark.slow(but="fc-2")
@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_at_initialisation_tend_to_those_of_infinite_width(name):
    x, _ = digits(3)
    seeds, outputs = range(16), 96
    network = FiniteNetwork(NETWORKS[name], 128, outputs)
    f = [np.asarray(network.apply(network.init(s, x.shape[1:]), x), np.float64) for s in seeds]
    nngp = np.mean([one @ one.T / outputs for one in f], axis=0)
    ntk = np.mean([tangent_kernel(network, s, x) for s in seeds], axis=0)
    for kind, found in (("nngp", nngp), ("ntk", ntk)):
        expected = kernel_matrix(network.arch, x, kind=kind, dtype="float64", backend="reference")
        # 16 draws of about 1/sqrt(128) each, and for the NNGP of 1536 outputs
        assert np.abs(relative(found, expected)).max() <= 0.12, kind


@pytest.mark.slow(but="cntk-gap-4")
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_equal_those_of_neural_tangents_for_the_same_weights(name):
    import jax

    x, _ = digits(3)
    arch = NETWORKS[name]
    network = FiniteNetwork(arch, 1, 1)  # stax.build has one channel everywhere
    params = network.init(7, x.shape[1:])
    init, apply, _ = build(arch)
    theirs, tree = jax.tree.flatten(init(jax.random.key(0), x.shape)[1])
    ours = [  # it computes in float64 alone once it is imported
        np.reshape(a, b.shape).astype(np.float64)
        for a, b in zip(jax.tree.leaves(params), theirs, strict=True)
    ]
    expected = np.asarray(apply(jax.tree.unflatten(tree, ours), x.astype(np.float64)))
    np.testing.assert_allclose(network.apply(params, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [*FUNCTIONS, *BENDS], ids=str)
def test_a_nonlinearity_is_the_function_of_its_dual(layer):
    network = FiniteNetwork([Dense(W_std=1.0), layer, Dense(W_std=1.0)], 1, 1)
    u, one = np.linspace(-3, 3, 8, dtype=np.float32)[:, None], np.ones((1, 1), np.float32)
    function = FUNCTIONS.get(
        layer, (lambda u: np.where(u < 0, BENDS[layer][0], BENDS[layer][1]) * u,)
    )
    found = network.apply(((one, None), (one, None)), u)
    np.testing.assert_allclose(found, function[0](u.astype(np.float64)), rtol=1e-5, atol=1e-6)


def test_layer_norm_normalises_each_pixel_over_its_channels():
    x, _ = digits(3)
    network = FiniteNetwork([Conv(), LayerNorm(0.5), Flatten(), Dense()], 6, 5)
    (W, _), last = params = network.init(7, x.shape[1:])
    plain = FiniteNetwork([Conv(), Flatten(), Dense()], 6, 384)
    eye = np.eye(384, dtype=np.float32) * np.sqrt(192)
    z = np.asarray(plain.apply(((W, None), (eye, None)), x)).reshape(3, 8, 8, 6)
    z = (z - z.mean(axis=3, keepdims=True)) / np.sqrt(z.var(axis=3, keepdims=True) + 0.5)
    expected = z.reshape(3, -1) @ np.asarray(last[0]) * np.sqrt(2 / 384)
    np.testing.assert_allclose(network.apply(params, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_distance_from_infinite_width_falls_as_its_square_root():
    x, _ = digits(3)
    expected = kernel_matrix("fc-2", x, dtype="float64", backend="reference")
    spread = []
    for width in (32, 512):
        found = [tangent_kernel(FiniteNetwork("fc-2", width, 1), s, x) for s in range(24)]
        spread.append(np.sqrt(np.mean([relative(one, expected) ** 2 for one in found])))
    assert 2.5 < spread[0] / spread[1] < 6.5  # sqrt(512 / 32) = 4


@pytest.mark.slow
def test_the_automatic_rate_is_that_of_the_infinite_kernel():
    x, y = digits(100)
    H = kernel_matrix("fc-2", x, dtype="float64", backend="reference")
    top = np.linalg.eigvalsh(H)[-1] / len(x)
    found = train("fc-2", x, y, 10, width=512, epochs=1, loss="mse")
    assert found.learning_rate == pytest.approx(1 / top, rel=0.15)
    assert train("fc-2", x, y, 10, width=512, epochs=1).learning_rate == pytest.approx(
        2 * found.learning_rate
    )


@pytest.mark.parametrize(("batch", "momentum"), [(2, 0.9), (4, 0.95)])
def test_the_automatic_rate_bears_small_batches(batch, momentum):
    x, y = digits(128)
    found = train("fc-2", x, y, 10, width=32, epochs=12, batch=batch, momentum=momentum)
    assert found.loss < 0.6 * found.losses[0]


def test_an_optimizer_of_optax_takes_the_place_of_rate_and_momentum():
    import optax

    x, y = digits(120)
    options = {"width": 16, "epochs": 5, "seed": 2}
    sgd = train("fc-2", x, y, 10, **options, optimizer=optax.sgd(0.1, momentum=0.5))
    same = train("fc-2", x, y, 10, **options, learning_rate=0.1, momentum=0.5)
    assert sgd.learning_rate is None
    np.testing.assert_allclose(sgd.losses, same.losses, rtol=1e-6)
    adam = train("fc-2", x, y, 10, **options, optimizer=optax.adam(0.05))
    assert adam.losses[-1] < 0.5 * adam.losses[0]
    assert abs(adam.losses[-1] - same.losses[-1]) > 1e-3
    with pytest.raises(InputError, match="given beside an optimizer"):
        train("fc-2", x, y, 10, **options, optimizer=optax.adam(0.05), learning_rate=0.1)
    with pytest.raises(InputError, match="the optimizer's steps: training diverged; give a small"):
        train("fc-2", x, y, 10, **options, optimizer=optax.sgd(1e4))


@pytest.mark.slow
def test_steps_are_those_of_momentum_by_hand():
    import jax

    x, y = digits(6)
    network = FiniteNetwork("fc-1", 8, 10)
    params = network.init(0, x.shape[1:])
    Y = np.eye(10, dtype=np.float32)[y] - np.float32(0.1)

    def loss(at):
        return 0.5 * ((network.apply(at, x) - Y) ** 2).sum() / len(x)

    velocity = jax.tree.map(np.zeros_like, params)
    for _ in range(4):
        slope = jax.grad(loss)(params)
        velocity = jax.tree.map(lambda v, g: 0.7 * v + g, velocity, slope)
        params = jax.tree.map(lambda p, v: p - 0.3 * v, params, velocity)
    found = train(
        "fc-1", x, y, 10,
        width=8, epochs=4, batch=6, loss="mse", learning_rate=0.3, momentum=0.7,
    )  # fmt: skip
    for (W, _), (expected, _) in zip(found.params, params, strict=True):
        np.testing.assert_allclose(W, expected, atol=1e-5)


def test_training_meets_all_labels_and_predicts_new_images():
    x, y = digits(400)
    seen = []
    found = train(
        "cnn-1", x[:300], y[:300], 10, width=32, epochs=40, stop_loss=0.02, on_epoch=seen.append,
        test=(x[300:], y[300:]),
    )  # fmt: skip
    assert found.accuracy == 1.0
    assert found.test_accuracy is not None
    assert found.test_accuracy >= 0.85
    assert found.losses[-1] < 0.02 < found.losses[-2]
    assert [e.number for e in seen] == list(range(1, len(found.losses) + 1))
    assert [e.loss for e in seen] == found.losses.tolist()
    counts = evaluate(found.predict(x[300:]), y[300:], 1.0).confusion
    assert np.trace(counts) / 100 == found.test_accuracy
    soft = found.mean_probabilities(x[300:], y[300:])
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found.predict(x[:50]).argmax(axis=1), y[:50])


def test_squares_reach_the_targets_too():
    x, y = digits(120)
    found = train("fc-2", x, y, 10, width=64, epochs=60, loss="mse")
    assert found.accuracy == 1.0
    targets = np.eye(10)[y] - 0.1
    assert found.loss == pytest.approx(
        0.5 * np.square(found.predict(x) - targets).sum(axis=1).mean(), rel=1e-4
    )


def test_seeds_decide_the_bits():
    x, y = digits(60)
    options = {"width": 16, "epochs": 2}
    one, same = (train("cnn-1", x, y, 10, seed=3, **options) for _ in range(2))
    other = train("cnn-1", x, y, 10, seed=4, **options)
    np.testing.assert_array_equal(one.losses, same.losses)
    np.testing.assert_array_equal(one.predict(x), same.predict(x))
    assert one.losses[0] != other.losses[0]


def test_fixed_layers_keep_their_weights():
    x, y = digits(60)
    arch = Architecture((Conv(trainable=False), Relu(), Flatten(), Dense()))
    found = train(arch, x, y, 10, width=8, epochs=2)
    before = found.network.init(0, (8, 8, 1))
    np.testing.assert_array_equal(found.params[0][0], before[0][0])
    assert (np.asarray(found.params[1][0]) != np.asarray(before[1][0])).any()


@pytest.mark.slow
def test_mean_loss_of_an_epoch_counts_each_image_once():
    x, y = digits(50)
    # a step too small to change anything: batches of 7 and 8 must give the plain mean
    found = train("fc-2", x, y, 10, width=8, epochs=1, batch=8, learning_rate=1e-12)
    assert found.losses[0] == pytest.approx(found.loss, rel=1e-5)


def test_a_network_without_active_units_is_told():
    x, y = digits(40)
    with pytest.raises(InputError, match=r"every image has the same output .* give 5"):
        train("fc-10", x, y, 10, width=4, epochs=6, batch=4, learning_rate=20.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 0}, "width=0 must be a whole number from 1"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch": 0}, "batch=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be"),
        ({"loss": "hinge"}, "loss='hinge' is not one of cross-entropy, mse"),
        ({"momentum": 1.0}, "momentum=1.0 must be"),
        ({"labels": [11] * 20}, r"label 11 at index 0 is outside the classes 0\.\.9"),
        ({"labels": [0]}, r"give one for each image"),
        ({"images": np.zeros((20, 8, 8, 1, 1))}, "images have shape"),
        ({"images": np.full((20, 8, 8, 1), np.nan)}, "NaN or infinity"),
        ({"architecture": Architecture((Dense(trainable=False),))}, "no layer is trainable"),
        ({"learning_rate": 1e6, "epochs": 3}, r"training diverged; give .* or 'auto'"),
        ({"architecture": "cnn-9"}, "cnn-9"),
        (
            {"architecture": ["Dense", "ExpNormalized", "Dense"]},
            "ExpNormalized is a kernel of infinite width .* take Gaussian or another",
        ),
        ({"images": np.zeros((20, 8, 8, 1))}, "no learning rate follows"),
    ],
)
def test_bad_input_is_one_clear_error(change, said):
    x, y = digits(20)
    given = {"architecture": "fc-2", "images": x, "labels": y, "width": 8, "epochs": 1, **change}
    with pytest.raises(InputError, match=said):
        train(given.pop("architecture"), given.pop("images"), given.pop("labels"), 10, **given)


def test_features_are_images_of_one_pixel():
    rows = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    labels = np.arange(12) % 2
    options = {"num_classes": 2, "width": 8, "epochs": 1, "batch": 12, "seed": 0}
    found = train("fc-1", rows, labels, **options)
    pixels = train("fc-1", rows[:, None, None, :], labels, **options)
    np.testing.assert_array_equal(found.predict(rows), pixels.predict(rows[:, None, None, :]))
    with pytest.raises(InputError, match="Conv is a layer for images, and the inputs are features"):
        train("cnn-2", rows, labels, **options)
