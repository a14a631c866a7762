"""Look-ahead active learning: its block update against training again, and its rounds."""

from __future__ import annotations

import numpy as np
import pytest

from ntkdist import kernel_matrix
from ntkdist.errors import InputError
from ntkdist.learning.active import (
    CRITERIA,
    KernelLearner,
    NetworkLearner,
    active_learning,
    eer,
    emoc,
    entropy,
    look_ahead,
    margin,
    mlmoc,
    probabilities,
    query,
)

K = 4


def problem(L=13, U=17, seed=0, features=60):
    """Return a kernel (L + U, L + U), labels (L,) and outputs (L + U, K)."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((L + U, features))
    f = 0.4 * random.standard_normal((L + U, K))
    return x @ x.T / features, random.integers(0, K, L), f


def state_of(H, y, f=None, ridge=0.0):
    L = len(y)
    f = np.zeros((len(H), K)) if f is None else f
    return look_ahead(
        H[:L, :L], H[L:, :L], H[L:, L:], y, K, outputs_l=f[:L], outputs_u=f[L:], ridge=ridge
    )


def trained_again(H, rows, labels, f, shift):
    """f + Θ(·, X)(Θ_XX + λI)⁻¹(Y − f(X)), solved from scratch."""
    A = H[np.ix_(rows, rows)] + shift * np.eye(len(rows))
    return f + H[:, rows] @ np.linalg.solve(A, np.eye(K)[labels] - 1 / K - f[rows])


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_changes_are_those_of_training_again(offset, ridge):
    H, y, f = problem()
    f = f if offset else np.zeros_like(f)
    L, shift = len(y), ridge * np.mean(np.diag(H)[: len(y)])
    state = state_of(H, y, f, ridge)
    before = trained_again(H, np.arange(L), y, f, shift)
    np.testing.assert_allclose(state.outputs, before[L:], atol=1e-12)
    for candidate in (0, 5, 16):
        for label in range(K):
            rows = np.append(np.arange(L), L + candidate)
            after = trained_again(H, rows, np.append(y, label), f, shift)
            np.testing.assert_allclose(
                state.change(candidate, label), (after - before)[L:], atol=1e-10
            )
            np.testing.assert_allclose(state.after(candidate, label).outputs, after[L:], atol=1e-10)


def test_changes_are_those_of_the_published_form():
    H, y, f = problem(seed=1)
    L = len(y)
    Y = np.eye(K)[y] - 1 / K
    state = state_of(H, y, f)
    for c in range(17):
        x = L + c
        v = np.linalg.solve(H[:L, :L], H[:L, x])
        u = H[x, x] - H[x, :L] @ v
        residual = v @ (Y - f[:L]) - (np.eye(K)[2] - 1 / K - f[x])
        change = np.outer(H[L:, :L] @ v - H[L:, x], residual) / u
        np.testing.assert_allclose(state.change(c, 2), change, atol=1e-10)


@pytest.mark.slow
def test_a_network_linearised_where_it_stands_is_met_exactly():
    jax = pytest.importorskip("jax")
    from ntkdist.learning import FiniteNetwork
    from ntkdist.learning.empirical import empirical_kernel

    random = np.random.default_rng(0)
    x = random.standard_normal((12, 3, 3, 1)).astype(np.float32)
    network = FiniteNetwork("fc-2", 32, 2)
    params = network.init(0, x.shape[1:])
    f = np.asarray(network.apply(params, x), np.float64)
    leaves, tree = jax.tree.flatten(params)

    def first(leaves):
        return network.apply(jax.tree.unflatten(tree, leaves), x)[:, 0]

    J = np.concatenate([np.reshape(j, (12, -1)) for j in jax.jacobian(first)(leaves)], axis=1)
    J = J.astype(np.float64)
    H = empirical_kernel(network, params, x, kind="logit")
    y = np.array([0, 1, 1, 0, 0, 1])
    state = look_ahead(H[:6, :6], H[6:, :6], H[6:, 6:], y, 2, outputs_l=f[:6], outputs_u=f[6:])
    # the least change of the first output's parameters that meets seven targets
    rows, t = [*range(6), 9], np.append(y == 0, True) - 0.5
    step = np.linalg.lstsq(J[rows], t - f[rows, 0], rcond=None)[0]
    np.testing.assert_allclose(state.after(3, 0).outputs[:, 0], (f[:, 0] + J @ step)[6:], atol=1e-4)


def test_labelling_one_after_another_equals_all_at_once():
    H, y, f = problem(seed=2)
    for ridge in (0.0, 0.03):
        state = state_of(H, y, f, ridge)
        state = state.after(4, 1).after(11, 3)
        rest = np.setdiff1d(np.arange(17), [4, 11])
        places = np.concatenate([np.arange(13), [17, 24], 13 + rest])
        shift = ridge * np.mean(np.diag(H)[:13])  # that of the thirteen
        more = H[np.ix_(places, places)]
        again = shift / np.mean(np.diag(more)[:15])
        at_once = state_of(more, np.append(y, [1, 3]), f[places], again)
        np.testing.assert_allclose(state.outputs[rest], at_once.outputs, atol=1e-10)
        np.testing.assert_allclose(
            state.covariance[np.ix_(rest, rest)], at_once.covariance, atol=1e-10
        )


def brute(state, score):
    """Score every candidate from its f⁺ under each label, one after another."""
    found = []
    for c in range(len(state.outputs)):
        futures = [state.outputs + state.change(c, k) for k in range(K)]
        found.append(score(futures, c))
    return np.array(found)


def moved(state, future):
    return np.linalg.norm(future - state.outputs, axis=1).sum()


def doubt(f):
    return (1 - probabilities(f).max(axis=1)).sum()


@pytest.mark.parametrize("block", [1, 2**18])
def test_scores_are_those_of_every_future_formed(block, monkeypatch):
    monkeypatch.setattr("ntkdist.learning.active.BLOCK_BYTES", block)
    H, y, f = problem(seed=3)
    state = state_of(H, y, f)
    p = probabilities(state.outputs)
    expected = {
        mlmoc: brute(state, lambda g, c: moved(state, g[int(state.outputs[c].argmax())])),
        emoc: brute(state, lambda g, c: sum(p[c, k] * moved(state, g[k]) for k in range(K))),
        eer: doubt(state.outputs)
        - brute(state, lambda g, c: sum(p[c, k] * doubt(g[k]) for k in range(K))),
    }
    some = np.array([12, 0, 7])
    for score, values in expected.items():
        assert np.ptp(values) > 0.1
        rtol, atol = (1e-9, 1e-10) if score is not eer else (0, 1e-5)  # futures are float32
        np.testing.assert_allclose(score(state), values, rtol=rtol, atol=atol)
        np.testing.assert_allclose(score(state, some), values[some], rtol=rtol, atol=atol)
    by_entropy = entropy(state.outputs).sum() - brute(
        state, lambda g, c: sum(p[c, k] * entropy(g[k]).sum() for k in range(K))
    )
    np.testing.assert_allclose(eer(state, measure="entropy"), by_entropy, atol=1e-5)


def test_outputs_that_rule_every_class_out_leave_all_equally_likely():
    p = probabilities(np.array([[-1.0, -2.0, -0.5, -3.0], [0.75, -0.25, -0.25, -0.25]]))
    np.testing.assert_allclose(p, [[0.25] * 4, [1.0, 0, 0, 0]])
    np.testing.assert_allclose(entropy(np.full((1, K), -1.0)), np.log(K))


def test_near_duplicates_of_labelled_images_change_nothing():
    H, y, _ = problem(seed=4)
    twin = np.concatenate([np.arange(30), [2]])  # image 2 is labelled
    H = H[np.ix_(twin, twin)]
    H[-1, :2] *= 1 + 1e-7  # as rounding to float32 leaves it
    H[:2, -1] = H[-1, :2]
    state = state_of(H, y)
    assert state.weights()[-1] == 0 < state.weights()[:-1].min()
    for score in (mlmoc, emoc, eer):
        values = score(state)
        assert np.isfinite(values).all()
        assert values[-1] == 0
    assert np.isfinite(state.after(17, 0).outputs).all()
    with_ridge = mlmoc(state_of(H, y, ridge=1e-3))
    assert with_ridge[-1] < 0.1 * np.median(with_ridge)


def test_greedy_picks_do_not_repeat_themselves_where_the_best_do():
    H, y, _ = problem(seed=5)
    best = int(mlmoc(state_of(H, y)).argmax())
    twice = np.concatenate([np.arange(30), [13 + best]])
    H = H[np.ix_(twice, twice)] + 1e-9 * np.eye(31)
    state = state_of(H, y)
    assert set(query("mlmoc", state, 2, picks="top")) == {best, 17}
    greedy = query("mlmoc", state, 9)
    assert {best, 17} - set(greedy)
    assert len(set(greedy)) == 9
    # the first is the best, the second the best with the first one's predicted label added
    label = int(state.outputs[greedy[0]].argmax())
    assert greedy[0] == mlmoc(state).argmax()
    assert greedy[1] == mlmoc(state.after(int(greedy[0]), label)).argmax()


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("picks", ["greedy", "top"])
def test_queries_are_different_images_up_to_all_of_them(criterion, picks):
    state = state_of(*problem(seed=6)[:2])
    for count in (1, 4, 17):
        assert len(set(query(criterion, state, count, picks=picks, seed=3))) == count
    if criterion in ("margin", "entropy", "random"):
        np.testing.assert_array_equal(
            query(criterion, state.outputs, 5, seed=3), query(criterion, state, 5, seed=3)
        )


def test_margin_and_entropy_ask_for_the_least_sure():
    sure, unsure = [0.7, -0.2, -0.25, -0.25], [0.2, 0.19, -0.25, -0.14]
    outputs = np.array([sure, unsure, sure])
    assert query("margin", outputs, 1)[0] == query("entropy", outputs, 1)[0] == 1
    np.testing.assert_allclose(margin(outputs), [-0.9, -0.01, -0.9])


def digits(n, seed=0):
    from sklearn.datasets import load_digits

    found = load_digits()
    chosen = np.random.default_rng(seed).permutation(len(found.target))[:n]
    x = found.images[chosen][..., None] / 16.0
    return ((x - x.mean()) / x.std()).astype(np.float32), found.target[chosen]


def test_rounds_of_kernel_regression_measure_it_and_ask_only_for_new_images():
    x, y = digits(260)
    H = kernel_matrix("fc-2", x, dtype="float64", backend="cpu")
    learner = KernelLearner(H[:180, :180], H[180:, :180], 10)
    seen = []
    found = active_learning(
        learner, y[:180], y[180:], criterion="mlmoc", start=20, rounds=3, count=7, seed=1,
        on_round=seen.append,
    )  # fmt: skip
    assert found.counts.tolist() == [20, 27, 34, 41] == [one.labelled for one in seen]
    assert len(set(found.chosen)) == 41
    assert [one.accuracy for one in seen] == found.accuracy.tolist()
    for count, accuracy in zip(found.counts, found.accuracy, strict=True):
        L = found.chosen[:count]
        A = H[np.ix_(L, L)]
        A = A + 1e-6 * np.mean(np.diag(A)) * np.eye(count)
        f = H[180:][:, L] @ np.linalg.solve(A, np.eye(10)[y[L]] - 0.1)
        assert accuracy == np.mean(f.argmax(axis=1) == y[180:])
    again = active_learning(
        learner, y[:180], y[180:], criterion="random", start=20, rounds=1, count=7, seed=1
    )
    np.testing.assert_array_equal(again.chosen[:20], found.chosen[:20])
    assert again.accuracy[0] == found.accuracy[0]


def test_labels_are_not_looked_at_before_they_are_asked_for():
    x, y = digits(150, seed=2)
    H = kernel_matrix("fc-2", x, dtype="float64", backend="cpu")
    learner = KernelLearner(H[:110, :110], H[110:, :110], 10)
    for criterion in CRITERIA:
        settings = {"criterion": criterion, "start": 15, "rounds": 2, "count": 5}
        found = active_learning(learner, y[:110], y[110:], **settings)
        told = np.zeros(110, dtype=np.int64)
        told[found.chosen] = y[found.chosen]
        same = active_learning(learner, told, y[110:], **settings)
        np.testing.assert_array_equal(same.chosen, found.chosen)


def test_greedy_picks_ask_once_for_each_group_that_nothing_is_known_of():
    random = np.random.default_rng(0)
    group = np.arange(80) % 4
    x = np.eye(4)[group] + 0.05 * random.standard_normal((80, 4))
    order = np.argsort(group != 0, kind="stable")  # the labelled ones are all of group 0
    x, group = x[order], group[order]
    H = x @ x.T + 0.01 * np.eye(80)
    state = state_of(H, np.zeros(5, dtype=int))
    for criterion in ("mlmoc", "emoc"):
        asked = group[5:][query(criterion, state, 3)]
        assert sorted(asked) == [1, 2, 3], criterion
    assert len(set(group[5:][query("mlmoc", state, 3, picks="top")])) < 3


@pytest.mark.slow
def test_a_network_is_trained_each_round_and_looks_ahead_with_its_own_kernel():
    pytest.importorskip("jax")
    x, y = digits(200, seed=1)
    learner = NetworkLearner("fc-2", x[:120], x[120:], 10, width=48, seed=4)
    rows = np.arange(30, 75)
    fitted = learner.fit(rows, y[rows])
    met = fitted.outputs[rows] - (np.eye(10)[y[rows]] - 0.1)
    assert 0.5 * np.square(met).sum(axis=1).mean() < 2e-3
    state = fitted.look_ahead(np.arange(30))
    np.testing.assert_allclose(state.outputs, fitted.outputs[:30], atol=0.15)
    found = active_learning(
        learner, y[:120], y[120:], criterion="emoc", start=30, rounds=1, count=4
    )
    assert found.accuracy[0] > 0.5
    infinite = kernel_matrix("fc-2", x[:120])
    other = NetworkLearner("fc-2", x[:120], x[120:], 10, width=48, seed=4, kernel=infinite)
    same = other.fit(rows, y[rows])
    np.testing.assert_array_equal(same.outputs, fitted.outputs)  # the model is the same
    by_infinite = same.look_ahead(np.arange(30))
    np.testing.assert_array_equal(by_infinite.diagonal, np.diagonal(infinite)[:30])
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(by_infinite.covariance, state.covariance, rtol=0.1)


H0, Y0, _ = problem(seed=7)
X0 = np.zeros((4, 2, 2, 1))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: query("mlmok", state_of(H0, Y0), 2), "did you mean.*mlmoc|mlmoc"),
        (lambda: query("mlmoc", state_of(H0, Y0).outputs, 2), "looks ahead"),
        (lambda: query("mlmoc", state_of(H0, Y0), 18), "count=18 .* from 1 to 17"),
        (lambda: query("mlmoc", state_of(H0, Y0), 0), "count=0"),
        (lambda: query("mlmoc", state_of(H0, Y0), 2, picks="all"), "picks='all'"),
        (lambda: eer(state_of(H0, Y0), measure="loss"), "measure='loss'"),
        (lambda: look_ahead(H0[:13, :13], H0[13:, :12], H0[13:, 13:], Y0, K), "belong together"),
        (lambda: look_ahead(H0[0], H0[13:, :13], H0[13:, 13:], Y0, K), "are needed"),
        (lambda: state_of(H0, Y0[:12].repeat(2)[:13] + K), "outside the classes 0..3"),
        (lambda: state_of(np.ones((20, 20)), Y0), "not positive definite at ridge=0"),
        (lambda: state_of(H0, Y0, ridge=-1.0), "ridge=-1.0"),
        (lambda: state_of(np.where(np.eye(30), np.nan, H0), Y0), "NaN or infinity"),
        (lambda: state_of(H0, Y0, np.full((30, K), np.inf)), "outputs_l hold NaN"),
        (lambda: look_ahead(H0, H0, H0, Y0, 1), "num_classes=1"),
        (lambda: KernelLearner(H0[:5], H0, K), "the pool's kernel has shape"),
        (lambda: KernelLearner(H0, H0[:, :4], K), r"\(M, 30\) is needed"),
        (
            lambda: active_learning(
                KernelLearner(H0, H0, K), np.zeros(30, int), np.zeros(30, int), start=20, rounds=3
            ),
            "ask for 80 of a pool of 30",
        ),
        (
            lambda: active_learning(KernelLearner(H0, H0, K), np.zeros(29, int), np.zeros(30, int)),
            "one for each image",
        ),
        (lambda: NetworkLearner("fc-2", X0, np.zeros((4, 2, 3, 1)), K), "bring them to that shape"),
        (
            lambda: NetworkLearner("fc-2", X0, X0, K, kernel="pntj"),
            "kernel='pntj'",
        ),
        (
            lambda: NetworkLearner("fc-2", X0, X0, K, kernel=np.eye(3)),
            r"\(4, 4\) is needed",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
