"""Networks of finite width: their kernels at initialisation, and their training."""

from __future__ import annotations

import numpy as np
import pytest

from ntkdist import Architecture, kernel_matrix
from ntkdist.errors import InputError
from ntkdist.layers import AvgPool, Conv, Dense, Erf, Flatten, Relu, Residual
from ntkdist.learning import FiniteNetwork, train

pytest.importorskip("jax")


def digits(n, seed=0):
    from sklearn.datasets import load_digits

    found = load_digits()
    chosen = np.random.default_rng(seed).permutation(len(found.target))[:n]
    x = found.images[chosen][..., None] / 16.0
    return ((x - x.mean()) / x.std()).astype(np.float32), found.target[chosen].astype(np.int64)


NETWORKS = {
    "fc-2": Architecture.parse("fc-2"),
    "cnn-2": Architecture.parse("cnn-2"),
    "cntk-gap-4, ends fixed": Architecture.parse("cntk-gap-4"),
    "biases, erf, pool": Architecture(
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
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_kernels_at_initialisation_tend_to_those_of_infinite_width(name, kind):
    import jax
    import jax.numpy as jnp

    arch = NETWORKS[name]
    x, _ = digits(3)
    backend = "stax" if "erf" in name else "auto"
    expected = kernel_matrix(arch, x, kind=kind, dtype="float64", backend=backend)
    width, seeds, K = 256, 24, 4
    network = FiniteNetwork(arch, width, K)
    found = np.zeros((3, 3))
    for seed in range(seeds):
        params = network.init(seed, x.shape[1:])
        if kind == "nngp":
            f = np.asarray(network.apply(params, x), dtype=np.float64)
            found += f @ f.T / K / seeds
            continue
        trains = network.trainable()
        moving = [p for p, t in zip(params, trains, strict=True) if t]

        def outputs(part, params=params, trains=trains):
            part = iter(part)
            own = tuple(next(part) if t else p for p, t in zip(params, trains, strict=True))
            return network.apply(own, jnp.asarray(x))[:, 0]

        flat = [
            np.asarray(leaf).reshape(3, -1).astype(np.float64)
            for leaf in jax.tree.leaves(jax.jacobian(outputs)(moving))
        ]
        J = np.concatenate(flat, axis=1)
        found += J @ J.T / seeds
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    # nngp: 96 draws of an output, 1/sqrt(96) each; ntk: much less, and the width
    limit = 0.4 if kind == "nngp" else 0.12
    assert np.abs((found - expected) / scale).max() <= limit


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
    counts = found.confusion(x[300:], y[300:])
    assert counts.sum() == 100
    assert np.trace(counts) / 100 == found.test_accuracy
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(y[300:], minlength=10))
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


def test_mean_loss_of_an_epoch_counts_each_image_once():
    x, y = digits(50)
    # a step too small to change anything: batches of 7 and 8 must give the plain mean
    found = train("fc-2", x, y, 10, width=8, epochs=1, batch=8, learning_rate=1e-12)
    assert found.losses[0] == pytest.approx(found.loss, rel=1e-5)


def test_a_residual_sum_adds_its_branches():
    x, _ = digits(4)
    arch = Architecture(
        (Conv(), Residual((Relu(), Conv()), ()), Flatten(), Dense())
    )  # fmt: skip
    network = FiniteNetwork(arch, 8, 3)
    params = list(network.init(0, (8, 8, 1)))
    whole = np.asarray(network.apply(tuple(params), x))
    params[1] = (0 * params[1][0], None)
    plain = FiniteNetwork(Architecture((Conv(), Flatten(), Dense())), 8, 3)
    np.testing.assert_allclose(
        network.apply(tuple(params), x), plain.apply((params[0], params[2]), x), rtol=1e-5
    )
    assert np.abs(whole - np.asarray(plain.apply((params[0], params[2]), x))).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 0}, "width=0 must be a whole number of at least 1"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch": 0}, "batch=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be"),
        ({"loss": "hinge"}, "loss='hinge' is unknown; use cross-entropy or mse"),
        ({"momentum": 1.0}, "momentum=1.0 must be"),
        ({"labels": [11] * 20}, r"label 11 at index 0 lies outside 0\.\.9"),
        ({"labels": [0]}, r"give one whole number an image, \(20,\)"),
        ({"images": np.zeros((20, 64))}, "images have shape"),
        ({"images": np.full((20, 8, 8, 1), np.nan)}, "NaN or infinity"),
        ({"architecture": Architecture((Dense(trainable=False),))}, "no layer is trainable"),
        ({"learning_rate": 1e6, "epochs": 3}, r"training diverged; give .* or 'auto'"),
        ({"architecture": "cnn-9"}, "cnn-9"),
    ],
)
def test_bad_input_is_one_clear_error(change, said):
    x, y = digits(20)
    given = {"architecture": "fc-2", "images": x, "labels": y, "width": 8, "epochs": 1, **change}
    with pytest.raises(InputError, match=said):
        train(given.pop("architecture"), given.pop("images"), given.pop("labels"), 10, **given)
