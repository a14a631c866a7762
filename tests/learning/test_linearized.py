"""The linearised network against finite differences and against descent step by step."""

from __future__ import annotations

import numpy as np
import pytest

from ntkdist.errors import InputError
from ntkdist.learning import FiniteNetwork, train
from ntkdist.learning.empirical import empirical_kernel
from ntkdist.learning.widths import (
    descend,
    linearization_gap,
    linearized,
    linearized_descent,
)
from ntkdist.networks.layers import Conv, Dense, Erf, Flatten, Relu

jax = pytest.importorskip("jax")

SHAPE, K = (5, 4, 1), 3
SMOOTH = [Conv(b_std=0.2), Erf(), Flatten(), Dense(b_std=0.3, trainable=False), Erf(), Dense()]


def problem(n: int, seed: int = 0):
    random = np.random.default_rng(seed)
    return random.standard_normal((n, *SHAPE)).astype(np.float32), random.integers(0, K, n)


def drawn(architecture, width=8, seed=1):
    network = FiniteNetwork(architecture, width, K)
    return network, network.init(seed, SHAPE)


def test_the_expansion_meets_the_network_to_second_order():
    network, start = drawn(SMOOTH)
    _, other = drawn(SMOOTH, seed=2)
    x, _ = problem(5)
    distances = []
    for size in (0.08, 0.04):
        near = jax.tree.map(lambda a, b, h=size: a + h * b, start, other)
        f = np.asarray(network.apply(near, x), np.float64)
        distances.append(np.abs(linearized(network, start, near, x) - f).max())
    assert distances[0] > 1e-3
    assert distances[0] / distances[1] == pytest.approx(4, rel=0.25)
    np.testing.assert_allclose(
        linearized(network, start, start, x), network.apply(start, x), atol=1e-6
    )


@pytest.mark.slow
def test_the_closed_form_is_descent_on_the_expansion_step_by_step():
    network, start = drawn("fc-2", width=16)
    x, y = problem(7)
    test, _ = problem(4, seed=3)
    rate, steps = 0.5, 25
    Y = np.eye(K, dtype=np.float32)[y] - np.float32(1 / K)

    @jax.jit
    def step(params):
        def loss(at):
            move = jax.tree.map(lambda a, b: a - b, at, start)
            f, slope = jax.jvp(lambda p: network.apply(p, x), (start,), (move,))
            return 0.5 * ((f + slope - Y) ** 2).sum() / len(x)

        return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params))

    params = start
    for _ in range(steps):
        params = step(params)
    gap = linearization_gap(network, start, x, y, test, learning_rate=rate, steps=[0, 1, steps])
    np.testing.assert_allclose(
        gap.linearized[-1], linearized(network, start, params, test), atol=2e-5
    )
    np.testing.assert_allclose(gap.linearized[0], network.apply(start, test), atol=1e-6)
    # the first step is along the same gradient: what is left is of second order in the rate
    assert gap.rms[0] < 1e-6
    assert np.abs(gap.linearized[-1] - gap.linearized[0]).max() > 0.3


def test_directions_without_curvature_grow_with_the_number_of_steps():
    f = np.zeros((2, 1))
    kernel = np.diag([1.0, 0.0]).reshape(2, 1, 2, 1)
    crossed = np.array([[[[1.0], [0.0]]], [[[0.0], [3.0]]]])
    found = linearized_descent(kernel, crossed, f, f, np.ones((2, 1)), 0.5, [0, 1, 4])
    np.testing.assert_allclose(found[:, 0, 0], [0, 0.25, 1 - 0.75**4])
    np.testing.assert_allclose(found[:, 1, 0], 0.25 * 3 * np.array([0, 1, 4]))


def test_the_path_of_the_network_is_that_of_training():
    x, y = problem(9)
    network = FiniteNetwork("fc-2", 16, K)
    start = network.init(0, SHAPE)
    options = {"width": 16, "batch": 9, "learning_rate": 0.3, "loss": "mse", "momentum": 0.0}
    expected = train("fc-2", x, y, K, epochs=6, **options)
    path = list(descend(network, start, x, y, learning_rate=0.3, steps=[2, 6]))
    for (W, _), (found, _), (first, _) in zip(expected.params, path[-1], path[0], strict=True):
        np.testing.assert_allclose(found, W, atol=1e-5)
        assert np.abs(np.asarray(first) - np.asarray(W)).max() > 1e-3


def test_fixed_layers_stay():
    network, start = drawn(SMOOTH)
    x, y = problem(6)
    (end,) = descend(network, start, x, y, learning_rate=0.5, steps=[5])
    pairs = zip(start, end, strict=True)
    moved = [bool(np.abs(np.asarray(a[0]) - np.asarray(b[0])).max()) for a, b in pairs]
    assert moved == [True, False, True]


@pytest.mark.slow
def test_wider_networks_are_nearer_to_their_linearisation():
    x, y = problem(8)
    test, _ = problem(5, seed=4)
    architecture = [Conv(), Relu(), Flatten(), Dense()]
    gaps = []
    for width in (16, 1024):
        each = []
        for seed in range(3):
            network, start = drawn(architecture, width, seed)
            gap = linearization_gap(network, start, x, y, test, learning_rate=0.5, steps=[20])
            assert gap.maximum[0] >= gap.rms[0]
            each.append(gap.rms[0] ** 2)
        gaps.append(np.mean(each) ** 0.5)
    # from width^(-1/2), which is proven, to width^(-1), which smooth networks show
    assert 6 < gaps[0] / gaps[1] < 80


def test_given_kernels_are_taken():
    network, start = drawn("fc-2")
    x, y = problem(4)
    options = {"learning_rate": 0.2, "steps": [3]}
    kernel = empirical_kernel(network, start, x)
    a = linearization_gap(network, start, x, y, x, **options)
    b = linearization_gap(network, start, x, y, x, **options, kernels=(kernel, kernel))
    np.testing.assert_allclose(a.linearized, b.linearized, atol=1e-5)


def test_rates_that_diverge_are_refused():
    network, start = drawn("fc-2")
    x, y = problem(4)
    with pytest.raises(InputError, match=r"learning_rate=1e\+03 diverges"):
        linearization_gap(network, start, x, y, x, learning_rate=1e3, steps=[2])
    with pytest.raises(InputError, match="steps=1 must be a whole number of at least 2"):
        list(descend(network, start, x, y, learning_rate=0.1, steps=[2, 1]))
