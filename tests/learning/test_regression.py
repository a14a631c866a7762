"""Kernel regression and the choice of its ridge, against the formulas and against refitting."""

import numpy as np
import pytest

from ntkdist.errors import InputError
from ntkdist.learning import KernelRegression, sweep_ridge, targets_of
from ntkdist.linalg import submatrix

K = 4


def problem(n=37, m=11, noise=0.0, seed=0):
    """Return the Gram of n points, the kernel of m others with them, and both sets of labels."""
    random = np.random.default_rng(seed)
    centers = random.standard_normal((K, 5))
    labels = random.integers(0, K, n + m)
    x = centers[labels] + 0.8 * random.standard_normal((n + m, 5))
    squared = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    kernel = np.exp(-squared / 8)
    train = labels[:n].copy()
    wrong = random.random(n) < noise
    train[wrong] = random.integers(0, K, wrong.sum())
    return kernel[:n, :n], kernel[n:, :n], train, labels[n:]


class ByRows:
    """A matrix that can be sliced by rows only, as stores are."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.largest = matrix, matrix.shape, 0

    def __getitem__(self, index):
        rows, columns = index
        assert columns == slice(None)
        self.largest = max(self.largest, rows.stop - rows.start)
        return self.matrix[rows]


@pytest.mark.parametrize("targets", ["centered", "one-hot"])
@pytest.mark.parametrize("ridge", [0.0, 0.03])
def test_predictions_are_those_of_the_formula(targets, ridge):
    H, cross, labels, _ = problem()
    Y = np.eye(K)[labels] - (1 / K if targets == "centered" else 0)
    direct = cross @ np.linalg.solve(H + ridge * np.trace(H) / len(H) * np.eye(len(H)), Y)
    model = KernelRegression.fit(H, labels, K, ridge=ridge, targets=targets)
    np.testing.assert_allclose(model.predict(cross), direct, rtol=1e-8, atol=1e-9)
    stored = KernelRegression.fit(ByRows(H), labels, K, ridge=ridge, targets=targets)
    np.testing.assert_array_equal(stored.predict(ByRows(cross)), model.predict(cross))


def test_targets_of_arora_are_nine_tenths_and_minus_one_tenth():
    Y = targets_of([3, 9], 10)
    assert Y[0, 3] == Y[1, 9] == pytest.approx(0.9)
    np.testing.assert_allclose(np.sort(Y, axis=1)[:, :9], -0.1)


def test_a_stored_factor_gives_the_same_regression(tmp_path):
    from ntkdist.linalg import factorize

    H, cross, labels, _ = problem()
    factor = factorize(H, tmp_path / "factor", ridge=0.01)
    model = KernelRegression.from_factor(factor, labels, K)
    assert model.ridge == 0.01
    other = KernelRegression.fit(H, labels, K, ridge=0.01)
    np.testing.assert_allclose(model.predict(cross), other.predict(cross), atol=1e-10)


@pytest.mark.parametrize("targets", ["centered", "one-hot"])
def test_the_sweep_is_what_leaving_out_each_image_says(targets):
    H, _, labels, _ = problem(n=23, noise=0.2)
    sweep = sweep_ridge(H, labels, K, ridges=[1e-3, 0.1, 2.0], targets=targets)
    assert [row.ridge for row in sweep.rows] == [1e-3, 0.1, 2.0]
    mean = np.trace(H) / len(H)
    for row in sweep.rows:
        Y = targets_of(labels, K, targets)
        predicted = np.empty_like(Y)
        for i in range(len(H)):
            rest = np.delete(np.arange(len(H)), i)
            A = H[np.ix_(rest, rest)] + row.ridge * mean * np.eye(len(rest))
            predicted[i] = H[i, rest] @ np.linalg.solve(A, Y[rest])
        assert row.accuracy == pytest.approx((predicted.argmax(axis=1) == labels).mean())
        assert row.squared_error == pytest.approx(((predicted - Y) ** 2).sum(axis=1).mean())
        p = np.exp(row.scale * predicted)
        p /= p.sum(axis=1, keepdims=True)
        assert row.log_loss == pytest.approx(-np.log(p[np.arange(len(p)), labels]).mean())


def test_noisy_labels_ask_for_a_larger_ridge_that_predicts_better():
    H, cross, noisy, truth = problem(n=300, m=300, noise=0.5)
    clean = problem(n=300, m=300)[2]
    chosen = sweep_ridge(H, noisy, K).best
    assert chosen.ridge > sweep_ridge(H, clean, K).best.ridge

    def right(ridge):
        predicted = KernelRegression.fit(H, noisy, K, ridge=ridge).predict(cross)
        return (predicted.argmax(axis=1) == truth).mean()

    assert right(chosen.ridge) > right(1e-6) + 0.1


def test_equal_ridges_within_an_error_are_decided_by_the_squared_error():
    H, _, labels, _ = problem(n=60)
    sweep = sweep_ridge(H, labels, K)
    top = max(row.accuracy for row in sweep.rows)
    error = np.sqrt(top * (1 - top) / 60)
    near = [row for row in sweep.rows if row.accuracy >= top - error]
    assert sweep.best in near
    assert sweep.best.squared_error == min(row.squared_error for row in near)


def test_a_singular_gram_is_judged_without_ridge_zero():
    H, _, labels, _ = problem(n=20)
    twice = np.tile(H, (2, 2))
    sweep = sweep_ridge(twice, np.tile(labels, 2), K, ridges=[0.0, 0.1])
    assert [row.ridge for row in sweep.rows] == [0.1]
    with pytest.raises(InputError, match="singular with each; give larger ones"):
        sweep_ridge(twice, np.tile(labels, 2), K, ridges=[0.0])


def test_large_sets_are_judged_by_a_sample():
    H, _, labels, _ = problem(n=60)
    stored = ByRows(H)
    sweep = sweep_ridge(stored, labels, K, ridges=[0.01], max_images=25)
    assert sweep.images == 25
    assert sweep.rows == sweep_ridge(H, labels, K, ridges=[0.01], max_images=25).rows
    assert sweep.rows != sweep_ridge(H, labels, K, ridges=[0.01], max_images=25, seed=1).rows


def test_a_submatrix_of_rows_is_that_of_the_array():
    matrix = np.random.default_rng(0).standard_normal((31, 17)).astype(np.float32)
    rows, columns = np.array([0, 4, 5, 30]), np.array([16, 2])
    expected = matrix[np.ix_(rows, columns)].astype(np.float64)
    np.testing.assert_array_equal(submatrix(ByRows(matrix), rows, columns), expected)
    np.testing.assert_array_equal(submatrix(matrix, rows, columns), expected)


def test_bad_input_is_named():
    H, cross, labels, _ = problem(n=12)
    with pytest.raises(InputError, match="11 labels for 12 images"):
        KernelRegression.fit(H, labels[:-1], K)
    with pytest.raises(InputError, match=r"not positive definite .* larger ridge"):
        KernelRegression.fit(np.ones((12, 12)), labels, K)
    with pytest.raises(InputError, match=r"\(M, 12\) is needed"):
        KernelRegression.fit(H, labels, K).predict(cross[:, :5])
    with pytest.raises(InputError, match="did you mean 'centered'"):
        KernelRegression.fit(H, labels, K, targets="centred")
    with pytest.raises(InputError, match="NaN or infinity"):
        KernelRegression.fit(H, labels, K).predict(np.full((2, 12), np.nan))
    with pytest.raises(InputError, match=r"outside the classes 0\.\.2"):
        KernelRegression.fit(H, labels, 3)
    with pytest.raises(InputError, match="ridge=-1"):
        sweep_ridge(H, labels, K, ridges=[-1])
    with pytest.raises(InputError, match="is empty"):
        sweep_ridge(H, labels, K, ridges=[])
