from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from ntkdist.errors import InputError
from ntkdist.kernels.stax import import_neural_tangents
from ntkdist.learning.cross_entropy import (
    chebyshev_step,
    cross_entropy_flow,
    cross_entropy_loss,
    largest_size,
    stages_for,
)
from ntkdist.learning.evaluation import softmax

N, M, K = 13, 5, 3


def problem(seed=0, spread=1.0):
    """A Gram whose eigenvalues are ``spread`` decades apart, with f_0 and a test × train block."""
    random = np.random.default_rng(seed)
    V = np.linalg.qr(random.standard_normal((N + M, N + M)))[0]
    whole = (V * np.geomspace(3.0, 3.0 * 10**-spread, N + M)) @ V.T
    Y = np.eye(K)[random.integers(0, K, N)]
    f_0 = random.standard_normal((N + M, K))
    return whole[:N, :N], whole[N:, :N], Y, f_0[:N], f_0[N:]


def reference(H, Y, f_0, times, rate):
    """α at the times, by DOP853 with errors near rounding."""

    def slope(t, alpha):
        return (Y - softmax(f_0 + rate / N * H @ alpha.reshape(Y.shape))).ravel()

    found = solve_ivp(
        slope, (0, times[-1]), np.zeros(Y.size), method="DOP853", rtol=1e-12, atol=1e-12,
        t_eval=times,
    )  # fmt: skip
    return found.y.T.reshape(len(times), *Y.shape)


@pytest.mark.parametrize("spread", [1.0, 5.0])
def test_outputs_are_those_of_another_integrator(spread):
    H, cross, Y, f_0, g_0 = problem(spread=spread)
    times, rate = np.array([0.0, 0.7, 20.0, 400.0]), 2.5
    alpha = reference(H, Y, f_0, times, rate)
    found = cross_entropy_flow(H, Y, times, learning_rate=rate, initial=f_0, tolerance=1e-8)
    np.testing.assert_allclose(found.train, f_0 + rate / N * H @ alpha, atol=1e-5)
    np.testing.assert_allclose(found.test(cross, g_0), g_0 + rate / N * cross @ alpha, atol=1e-5)


def test_small_steps_of_kernel_gradient_descent_come_to_the_same():
    H, cross, Y, f_0, g_0 = problem(1)
    f, g, rate, steps = f_0.copy(), g_0.copy(), 0.002, 20000
    for _ in range(steps):
        residual = softmax(f) - Y
        f, g = f - rate / N * H @ residual, g - rate / N * cross @ residual
    found = cross_entropy_flow(H, Y, [rate * steps], initial=f_0, tolerance=1e-7)
    np.testing.assert_allclose(found.train[0], f, atol=1e-3)
    np.testing.assert_allclose(found.test(cross, g_0)[0], g, atol=1e-3)


@pytest.mark.slow
def test_a_linearised_network_trained_by_gradient_descent_does_the_same():
    nt = import_neural_tangents()
    import jax
    import jax.numpy as jnp
    from neural_tangents import stax

    init, apply, _ = stax.serial(stax.Dense(24), stax.Erf(), stax.Dense(1))
    random = np.random.default_rng(2)
    x, z = (jnp.asarray(random.standard_normal((n, 4))) for n in (7, 3))
    Y = np.eye(K)[random.integers(0, K, 7)]
    params = jax.tree.map(lambda p: p.astype(jnp.float64), init(jax.random.PRNGKey(0), x.shape)[1])

    # one network an output, all begun alike: the kernel is Θ for each output and 0 between two
    def outputs(all_params, images):
        return jnp.concatenate([apply(p, images) for p in all_params], axis=1)

    linear = nt.linearize(outputs, [params] * K)

    def loss(p):
        return -jnp.mean(jnp.sum(Y * jax.nn.log_softmax(linear(p, x)), axis=1))

    rate, steps = 0.02, 1500
    trained = jax.lax.fori_loop(
        0, steps,
        lambda _, p: jax.tree.map(lambda a, g: a - rate * g, p, jax.grad(loss)(p)),
        [params] * K,
    )  # fmt: skip
    both = jnp.concatenate([x, z])
    slopes = jax.tree.leaves(jax.jacobian(apply)(params, both))
    J = np.concatenate([np.reshape(j, (10, -1)) for j in slopes], axis=1)
    theta, start = J @ J.T, np.asarray(outputs([params] * K, both))
    found = cross_entropy_flow(theta[:7, :7], Y, [rate * steps], initial=start[:7], tolerance=1e-7)
    moved = np.abs(np.asarray(linear(trained, x)) - start[:7]).max()
    assert moved > 1
    np.testing.assert_allclose(found.train[0], linear(trained, x), atol=3e-3 * moved)
    g = found.test(theta[7:, :7], start[7:])[0]
    np.testing.assert_allclose(g, linear(trained, z), atol=3e-3 * moved)


@pytest.mark.slow
def test_neural_tangents_integrates_to_the_same():
    import_neural_tangents()
    import jax
    import jax.numpy as jnp
    from neural_tangents import predict

    H, cross, Y, f_0, g_0 = problem(3)
    theirs = predict.gradient_descent(
        lambda f, y: -jnp.mean(jnp.sum(y * jax.nn.log_softmax(f), axis=1)), H, Y
    )
    times = np.array([1.0, 10.0, 100.0])
    f, g = theirs(times, f_0, g_0, cross)
    found = cross_entropy_flow(H, Y, times, initial=f_0, tolerance=1e-8)
    np.testing.assert_allclose(found.train, f, atol=1e-5)
    np.testing.assert_allclose(found.test(cross, g_0), g, atol=1e-5)


def test_the_tolerance_bounds_the_error():
    H, _, Y, f_0, _ = problem(4, spread=4.0)
    times = np.geomspace(0.1, 3000, 7)
    expected = f_0 + H / N @ reference(H, Y, f_0, times, 1.0)
    errors, products = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        found = cross_entropy_flow(H, Y, times, initial=f_0, tolerance=tolerance)
        errors.append(np.abs(found.train - expected).max())
        products.append(found.products)
    assert errors[0] < 0.05
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 5
    assert products == sorted(products)


def test_times_asked_for_do_not_change_the_way():
    H, _, Y, _, _ = problem(5)
    few = cross_entropy_flow(H, Y, [300.0], tolerance=1e-6).train[-1]
    many = cross_entropy_flow(H, Y, np.linspace(0, 300, 101), tolerance=1e-6).train[-1]
    np.testing.assert_allclose(few, many, atol=1e-4)


def test_progress_is_told_and_may_stop():
    H, _, Y, _, _ = problem(6)
    told = []

    def listen(time, products):
        told.append((time, products))
        if len(told) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cross_entropy_flow(H, Y, [1e4], on_step=listen)
    assert len(told) == 5
    assert told == sorted(told)


def test_the_loss_is_safe_for_large_logits():
    f = np.array([[1000.0, 0.0], [3.0, 3.0]])
    assert cross_entropy_loss(f, np.eye(2)) == pytest.approx(np.log(2) / 2)
    assert cross_entropy_loss(f, np.eye(2)[::-1]) == pytest.approx(500 + np.log(2) / 2)


@pytest.mark.parametrize("stages", [2, 3, 10, 57])
def test_steps_are_of_second_order_and_stable_as_far_as_they_say(stages):
    rates = np.array([[0.0, 0.3, 1.0]])

    def error(h):
        y = chebyshev_step(lambda y: -rates * y, np.ones((1, 3)), -rates, h, stages)
        return np.abs(y - np.exp(-h * rates)).max()

    assert error(0.02) / error(0.01) == pytest.approx(8, rel=0.1)
    assert error(0.01) < 1e-6
    radius = np.linspace(0, largest_size(stages), 500)[None]
    grown = chebyshev_step(lambda y: -radius * y, np.ones_like(radius), -radius, 1.0, stages)
    assert np.abs(grown).max() <= 1 + 1e-12
    assert stages_for(largest_size(stages) - 1e-9) <= stages


GOOD = np.eye(3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cross_entropy_flow(GOOD, GOOD - 1 / 3, [1.0]), "targets.*not centred"),
        (lambda: cross_entropy_flow(GOOD, GOOD, [np.inf]), "finite"),
        (lambda: cross_entropy_flow(GOOD, GOOD, []), "at least one"),
        (lambda: cross_entropy_flow(GOOD, GOOD, [2.0, 1.0]), "each above the one before"),
        (lambda: cross_entropy_flow(GOOD, GOOD, [-1.0]), "time=-1.0"),
        (lambda: cross_entropy_flow(GOOD, GOOD, [1.0], tolerance=0), "tolerance=0"),
        (lambda: cross_entropy_flow(GOOD, GOOD, [1.0], learning_rate=-1), "learning_rate=-1"),
        (lambda: cross_entropy_flow(GOOD, np.eye(4), [1.0]), r"\(3, K\)"),
        (lambda: cross_entropy_flow(0 * GOOD, GOOD, [1.0]), "Gram is 0"),
        (lambda: cross_entropy_flow(GOOD, GOOD, [1.0]).test(np.eye(2)), r"\(2, 2\); \(M, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
