from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.linalg import expm

from ntkdist.errors import InputError
from ntkdist.kernels.stax import import_neural_tangents
from ntkdist.learning.dynamics import (
    Ensemble,
    GradientDescent,
    GradientFlow,
    NngpPosterior,
    choose_stopping_time,
    log_times,
    spread_of,
    squared_loss,
)
from ntkdist.learning.spectrum import Spectrum

N, M, K = 17, 5, 3
TIMES = (0.0, 1.0, 10.0, 1e3, np.inf)


@pytest.fixture(scope="module")
def problem():
    """Kernels of a fully connected network in float64, by neural-tangents."""
    import_neural_tangents()
    import jax.numpy as jnp
    from neural_tangents import stax

    random = np.random.default_rng(0)
    kernel_fn = stax.serial(
        stax.Dense(1, W_std=1.4, b_std=0.1), stax.Relu(), stax.Dense(1, W_std=1.2)
    )[2]
    x, z = (jnp.asarray(random.standard_normal((n, 6))) for n in (N, M))
    labels = random.integers(0, K, N)
    kinds = ("nngp", "ntk")
    return SimpleNamespace(
        kernel_fn=kernel_fn,
        x=x,
        z=z,
        labels=labels,
        dd=kernel_fn(x, None, kinds),
        td=kernel_fn(z, x, kinds),
        tt=kernel_fn(z, None, kinds),
        H=np.array(kernel_fn(x, None, "ntk")),
        K=np.array(kernel_fn(x, None, "nngp")),
        H_cross=np.array(kernel_fn(z, x, "ntk")),
        K_cross=np.array(kernel_fn(z, x, "nngp")),
        K_test=np.array(kernel_fn(z, None, "nngp")),
    )


def targets(labels, centred):
    return np.eye(K)[labels] - centred / K


def close(found, expected):
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.slow(but="0.05-False")
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_gradient_flow_agrees_with_neural_tangents(problem, centred, ridge):
    from neural_tangents import predict

    random = np.random.default_rng(1)
    Y = targets(problem.labels, centred)
    f_0, g_0 = random.standard_normal((N, K)), random.standard_normal((M, K))
    flow = GradientFlow.of(problem.H, Y, learning_rate=0.7, ridge=ridge, initial=f_0)
    cross, itself = flow.project(problem.H_cross), flow.project(problem.H)
    theirs = predict.gradient_descent_mse(problem.H, Y, learning_rate=0.7, diag_reg=ridge)
    for t in TIMES:
        # it averages the loss over N·K outputs, this over N images; with a ridge its prediction
        # for a training image is had by giving it as a test image
        there = K * t if np.isfinite(t) else None
        close(flow.test(cross, t, g_0), theirs(there, f_0, g_0, problem.H_cross)[1])
        expected = theirs(there, f_0, f_0, problem.H)[1]
        close(flow.train(t), expected)
        close(flow.test(itself, t, f_0), expected)
        if not ridge:
            close(flow.train(t), theirs(there, f_0))


@pytest.mark.slow(but="0.0-True")
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_the_infinite_ensemble_agrees_with_neural_tangents(problem, centred, ridge):
    from neural_tangents import predict

    Y = targets(problem.labels, centred)
    flow = GradientFlow.of(problem.H, Y, ridge=ridge)
    ensemble = Ensemble.of(flow, problem.K)
    ntk, nngp = flow.project(problem.H_cross), flow.project(problem.K_cross)
    theirs = predict.gradient_descent_mse_ensemble(problem.kernel_fn, problem.x, Y, diag_reg=ridge)
    for t in TIMES:
        there = K * t if np.isfinite(t) else None
        expected = theirs(there, problem.z, "ntk", compute_cov=True)
        close(flow.test(ntk, t), expected.mean)
        found = ensemble.test_covariance(ntk, nngp, problem.K_test, t)
        close(found, expected.covariance)
        variance = ensemble.test_variance(ntk, nngp, np.diag(problem.K_test), t)
        np.testing.assert_allclose(variance, np.diag(found), atol=1e-12)
        # with a ridge, training images are given as test images (see above)
        expected = theirs(there, problem.x if ridge else None, "ntk", compute_cov=True)
        close(flow.train(t), expected.mean)
        close(ensemble.train_covariance(t), expected.covariance)
        np.testing.assert_allclose(
            ensemble.train_variance(t), np.diag(ensemble.train_covariance(t)), atol=1e-12
        )


@pytest.mark.slow
def test_the_last_layer_alone_trains_with_the_nngp_in_the_ntks_place(problem):
    from neural_tangents import predict

    Y = targets(problem.labels, True)
    flow = GradientFlow.of(problem.K, Y)
    ensemble = Ensemble.of(flow, problem.K)
    cross = flow.project(problem.K_cross)
    theirs = predict.gradient_descent_mse_ensemble(problem.kernel_fn, problem.x, Y)
    for t in TIMES:
        there = K * t if np.isfinite(t) else None
        expected = theirs(there, problem.z, "nngp", compute_cov=True)
        close(flow.test(cross, t), expected.mean)
        found = ensemble.test_covariance(cross, cross, problem.K_test, t)
        close(found, expected.covariance)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_posterior_and_the_end_of_training_agree_with_gp_inference(problem, noise):
    from neural_tangents import predict

    Y = targets(problem.labels, False)
    theirs = predict.gp_inference(problem.dd, Y, diag_reg=noise)
    expected = theirs(("nngp", "ntk"), problem.td, problem.tt)
    posterior = NngpPosterior.of(problem.K, Y, noise=noise)
    cross = posterior.project(problem.K_cross)
    close(posterior.mean(cross), expected.nngp.mean)
    found = posterior.covariance(cross, problem.K_test)
    close(found, expected.nngp.covariance)
    variance = posterior.variance(cross, np.diag(problem.K_test))
    np.testing.assert_allclose(variance, np.diag(found), atol=1e-12)
    flow = GradientFlow.of(problem.H, Y, ridge=noise)
    ntk, nngp = flow.project(problem.H_cross), flow.project(problem.K_cross)
    close(flow.test(ntk, np.inf), expected.ntk.mean)
    ended = Ensemble.of(flow, problem.K).test_covariance(ntk, nngp, problem.K_test, np.inf)
    close(ended, expected.ntk.covariance)


def test_many_networks_drawn_have_the_ensembles_mean_and_variance(problem):
    Y = targets(problem.labels, True)
    flow, t = GradientFlow.of(problem.H, Y, ridge=0.02), 30.0
    ensemble = Ensemble.of(flow, problem.K)
    both = np.block([[problem.K, problem.K_cross.T], [problem.K_cross, problem.K_test]])
    root = np.linalg.cholesky(both + 1e-10 * np.eye(N + M))
    draws = root @ np.random.default_rng(2).standard_normal((N + M, 20000))
    # one output each: K independent networks in one call
    one = GradientFlow.of(
        flow.spectrum, np.repeat(Y[:, :1], 20000, axis=1), ridge=0.02, initial=draws[:N]
    )
    f = one.test(one.project(problem.H_cross), t, draws[N:])
    ntk, nngp = flow.project(problem.H_cross), flow.project(problem.K_cross)
    variance = ensemble.test_variance(ntk, nngp, np.diag(problem.K_test), t)
    np.testing.assert_allclose(f.var(axis=1), variance, rtol=0.05)
    np.testing.assert_allclose(
        f.mean(axis=1), flow.test(ntk, t)[:, 0], atol=5 * np.sqrt(variance.max() / 20000)
    )
    np.testing.assert_allclose(one.train(t).var(axis=1), ensemble.train_variance(t), rtol=0.05)


def weak_gram(n=12, smallest=1e-14, seed=3):
    """A Gram whose eigenvalues run from 1 to ``smallest``."""
    V = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    return (V * np.geomspace(1, smallest, n)) @ V.T, V


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_outputs_follow_the_matrix_exponential(ridge):
    random = np.random.default_rng(4)
    H, _ = weak_gram(smallest=1e-3)
    Y, f_0, cross = (random.standard_normal(s) for s in ((12, 2), (12, 2), (4, 12)))
    flow = GradientFlow.of(H, Y, learning_rate=0.4, ridge=ridge, initial=f_0)
    shifted = H + ridge * np.mean(np.diag(H)) * np.eye(12)
    for t in (0.0, 3.0, 250.0):
        pull = np.linalg.solve(shifted, np.eye(12) - expm(-0.4 * t / 12 * shifted)) @ (Y - f_0)
        np.testing.assert_allclose(flow.train(t), f_0 + H @ pull, atol=1e-9)
        np.testing.assert_allclose(flow.test(flow.project(cross), t), cross @ pull, atol=1e-9)


def test_tiny_eigenvalues_lose_no_digits_at_finite_times():
    H, V = weak_gram()
    Y = V[:, -1:]  # all there is to learn lies along the weakest eigenvector
    flow = GradientFlow.of(H, Y, learning_rate=1.0)
    # ηt/N of a short time; H⁻¹ would be off by its rounding times 10¹⁴
    assert flow.test(flow.project(Y.T), 24.0)[0, 0] == pytest.approx(2.0, rel=1e-9)
    exact = GradientFlow.of(Spectrum(np.array([2.0, 0.0]), np.eye(2)), np.eye(2))
    np.testing.assert_allclose(exact.gain(6.0), [(1 - np.exp(-6)) / 2, 3])
    np.testing.assert_allclose(exact.gain(np.inf), [0.5, 0])
    singular = GradientFlow.of(np.ones((4, 4)), np.eye(4)[:, :1])
    assert np.isfinite(singular.gain(1e9)).all()
    assert singular.gain(np.inf)[1:] == pytest.approx(0)
    np.testing.assert_allclose(singular.train(np.inf)[:, 0], 0.25)


def test_loss_falls_and_components_are_learned_in_order():
    H, V = weak_gram(smallest=1e-4)
    flow = GradientFlow.of(H, np.eye(12)[:, :5], learning_rate="auto")
    assert flow.time_constants[0] == pytest.approx(1)
    assert (np.diff(flow.time_constants) > 0).all()
    assert flow.energy.sum() == pytest.approx(1)
    np.testing.assert_allclose(
        flow.energy, np.square(V.T @ np.eye(12)[:, :5]).sum(axis=1) / 5, atol=1e-12
    )
    place = 3
    learned = flow.learned(flow.time_constants[place])
    assert learned[place] == pytest.approx(1 - np.exp(-1))
    assert (np.diff(learned) < 0).all()
    losses = [squared_loss(flow.train(t), np.eye(12)[:, :5]) for t in log_times(flow, 9)]
    assert (np.diff(losses) < 0).all()
    assert losses[0] == pytest.approx(5 / 24)
    assert losses[-1] == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_gradient_descent_is_a_loop_of_steps(ridge):
    random = np.random.default_rng(5)
    H, _ = weak_gram(smallest=1e-2)
    Y, f_0, cross = (random.standard_normal(s) for s in ((12, 2), (12, 2), (3, 12)))
    rate = 0.9 * GradientFlow.of(H, Y, ridge=ridge).largest_stable_rate
    flow = GradientDescent.of(H, Y, learning_rate=rate, ridge=ridge, initial=f_0)
    added, alpha = ridge * np.mean(np.diag(H)), np.zeros_like(Y)
    for step in range(8):
        for found, expected in (
            (flow.train(step), f_0 + H @ alpha),
            (flow.test(flow.project(cross), step), cross @ alpha),
        ):
            np.testing.assert_allclose(found, expected, atol=1e-11)
        alpha = alpha - rate / 12 * (f_0 + H @ alpha - Y + added * alpha)
    end = GradientFlow.of(H, Y, ridge=ridge, initial=f_0).train(np.inf)
    np.testing.assert_allclose(flow.train(np.inf), end, atol=1e-11)


def test_steps_that_would_diverge_are_refused():
    H, _ = weak_gram()
    limit = GradientFlow.of(H, np.eye(12)).largest_stable_rate
    assert limit == pytest.approx(24)
    with pytest.raises(InputError, match="learning_rate=24: steps diverge from 24 on"):
        GradientDescent.of(H, np.eye(12), learning_rate=limit).train(1)
    with pytest.raises(InputError, match="whole number of steps"):
        GradientDescent.of(H, np.eye(12)).train(0.5)


def noisy_problem():
    """Images on a line whose targets are a slow wave under heavy noise."""
    random = np.random.default_rng(6)
    x = np.sort(random.uniform(-1, 1, 61))
    H = np.exp(-8 * np.subtract.outer(x, x) ** 2) + 0.02 * np.eye(61)
    wave = np.sin(3 * x)
    return H, (wave + random.standard_normal(61))[:, None], wave[:, None]


def test_the_stopping_time_is_that_of_held_out_images_and_helps_the_truth():
    H, Y, truth = noisy_problem()
    flow = GradientFlow.of(H, Y)
    times = log_times(flow, 40)
    told = []
    found = choose_stopping_time(H, Y, times, folds=4, seed=1, on_fold=lambda *a: told.append(a))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.images == 61
    losses = np.zeros(40)
    for held in np.array_split(np.random.default_rng(1).permutation(61), 4):
        rest = np.delete(np.arange(61), held)
        for place, t in enumerate(times[:-1]):
            inner = H[np.ix_(rest, rest)]
            pull = np.linalg.solve(inner, np.eye(len(rest)) - expm(-t / len(rest) * inner))
            f = H[np.ix_(held, rest)] @ pull @ Y[rest]
            losses[place] += np.square(f - Y[held]).sum() / 2
    np.testing.assert_allclose(found.losses[:-1], losses[:-1] / 61, rtol=1e-7)
    assert 0 < found.index < 39
    assert found.time == times[found.index]
    assert found.losses[-1] > found.losses.min()
    errors = [squared_loss(flow.train(t), truth) for t in (found.time, np.inf)]
    assert errors[0] < 0.5 * errors[1]


def test_one_validation_split_is_the_first_fold(problem):
    Y = targets(problem.labels, True)
    times = (0.0, 5.0, np.inf)
    one = choose_stopping_time(problem.H, Y, times, folds=4, rounds=1)
    assert one.images == 5
    assert one.accuracies.max() <= 1
    held = np.array_split(np.random.default_rng(0).permutation(N), 4)[0]
    rest = np.delete(np.arange(N), held)
    f = problem.H[np.ix_(held, rest)] @ np.linalg.solve(problem.H[np.ix_(rest, rest)], Y[rest])
    assert one.accuracies[-1] == np.mean(f.argmax(axis=1) == problem.labels[held])
    assert one.losses[-1] == pytest.approx(np.square(f - Y[held]).sum() / 10)


def test_spread_is_held_against_errors():
    random = np.random.default_rng(7)
    labels = random.integers(0, 3, 41)
    mean = np.eye(3)[labels] + 0.7 * random.standard_normal((41, 3))
    variance = random.uniform(0.1, 1.0, 41)
    found = spread_of(mean, variance, labels)
    draws = mean + np.sqrt(variance)[:, None] * random.standard_normal((20000, 41, 3))
    first, second = np.argsort(-mean, axis=1)[:, :2].T
    rows = np.arange(41)
    above = (draws[:, rows, second] > draws[:, rows, first]).mean(axis=0)
    np.testing.assert_allclose(found.disagreement, above, atol=0.02)
    np.testing.assert_allclose(found.std**2, variance)
    wrong = mean.argmax(axis=1) != labels
    pairs = [(a > b) + (a == b) / 2 for a in found.std[wrong] for b in found.std[~wrong]]
    assert found.std_auc == pytest.approx(np.mean(pairs))
    sizes = [len(part) for part in np.array_split(rows, 4)]
    assert np.dot(found.errors, sizes) == pytest.approx(wrong.sum())
    assert spread_of(np.eye(3)[labels], variance, labels).std_auc is None


GOOD = np.eye(4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: GradientFlow.of(GOOD, np.eye(3)), r"targets have shape \(3, 3\).*\(4, K\)"),
        (lambda: GradientFlow.of(GOOD, np.full((4, 1), np.nan)), "targets hold NaN"),
        (lambda: GradientFlow.of(GOOD, GOOD, learning_rate=0), "learning_rate=0"),
        (lambda: GradientFlow.of(GOOD, GOOD, learning_rate="fast"), "learning_rate='fast'"),
        (lambda: GradientFlow.of(GOOD, GOOD, ridge=-1), "ridge=-1"),
        (lambda: GradientFlow.of(GOOD, GOOD, initial=np.zeros(4)), "initial outputs have shape"),
        (lambda: GradientFlow.of(np.zeros((4, 4)), GOOD), "images all 0"),
        (lambda: GradientFlow.of(GOOD, GOOD).train(-1), "time=-1 must be"),
        (lambda: GradientFlow.of(GOOD, GOOD).gain(float("nan")), "time=nan"),
        (lambda: GradientFlow.of(GOOD, GOOD).project(np.eye(3)), r"\(3, 3\); \(M, 4\)"),
        (lambda: log_times(GradientFlow.of(GOOD, GOOD), 2), "times=2"),
        (lambda: Ensemble.of(GradientFlow.of(GOOD, GOOD, initial=GOOD), GOOD), "initial=None"),
        (lambda: Ensemble.of(GradientFlow.of(GOOD, GOOD), np.eye(3)), "NNGP Gram has shape"),
        (lambda: NngpPosterior.of(GOOD, GOOD, noise=-1), "noise=-1"),
        (lambda: choose_stopping_time(GOOD, GOOD, (1.0, 1.0)), "each above the one before"),
        (lambda: choose_stopping_time(GOOD, GOOD, (1.0,), folds=5), "folds=5.*2 to 4"),
        (lambda: choose_stopping_time(GOOD, GOOD, (1.0,), folds=2, rounds=3), "rounds=3"),
    ],
)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
