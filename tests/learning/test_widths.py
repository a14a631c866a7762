"""Networks of several widths beside the infinite one."""

from __future__ import annotations

import numpy as np
import pytest

from ntkdist import kernel_matrix
from ntkdist.errors import InputError
from ntkdist.learning import FiniteNetwork
from ntkdist.learning.empirical import (
    compare_pseudo_kernel,
    empirical_kernel,
    frobenius_difference,
    measure_pseudo_kernel,
    solve,
    top_eigenvalue,
)
from ntkdist.learning.widths import fit_power, sweep_widths

pytest.importorskip("jax")

K = 3


def problem(n: int, seed: int):
    random = np.random.default_rng(seed)
    y = np.arange(n) % K
    centres = np.random.default_rng(9).standard_normal((K, 4, 5, 1))
    return (centres[y] + random.standard_normal((n, 4, 5, 1))).astype(np.float32), y


def test_a_power_law_is_found_again_and_its_error_is_that_of_least_squares():
    widths = np.array([8, 16, 32, 64, 128])
    law = fit_power(widths, 3.0 * widths**-0.5)
    assert (law.exponent, law.constant, law.error) == pytest.approx((-0.5, 3.0, 0.0), abs=1e-9)
    noisy = 3.0 * widths**-0.5 * np.exp([0.1, -0.05, 0.02, -0.1, 0.04])
    fitted, covariance = np.polyfit(np.log(widths), np.log(noisy), 1, cov=True)
    law = fit_power(widths, noisy)
    assert law.exponent == pytest.approx(fitted[0])
    assert law.error == pytest.approx(covariance[0, 0] ** 0.5)
    np.testing.assert_allclose(law.at(widths), np.exp(np.polyval(fitted, np.log(widths))))
    assert fit_power([2, 8], [1.0, 0.25]).error == 0


@pytest.mark.parametrize(
    ("widths", "values", "said"),
    [([4], [1.0], "at least two widths"), ([4, 8], [1.0, 0.0], "positive values, not 0")],
)
def test_what_has_no_power_law_is_refused(widths, values, said):
    with pytest.raises(InputError, match=said):
        fit_power(widths, values)


def test_the_comparison_is_that_of_kronecker_products():
    random = np.random.default_rng(0)
    n, m = 6, 4
    J = random.standard_normal((n + m, K, 40)) + 2 * random.standard_normal((n + m, 1, 40))
    theta = np.einsum("iop,jqp->iojq", J, J)
    full, crossed = theta[:n, :, :n], theta[n:, :, :n]
    y, truth = np.arange(n) % K, np.arange(m) % K
    found = compare_pseudo_kernel(full, crossed, y, truth)
    flat = full.reshape(n * K, n * K)
    pseudo = np.array([[full[i, :, j].sum() / K for j in range(n)] for i in range(n)])
    stands_in = np.kron(pseudo, np.eye(K))
    assert found.difference == pytest.approx(
        np.linalg.norm(flat - stands_in) / np.linalg.norm(flat)
    )
    assert frobenius_difference(full, pseudo) == pytest.approx(found.difference)
    tops = [np.linalg.eigvalsh(a)[-1] for a in (stands_in, flat)]
    assert found.top_ratio == pytest.approx(tops[0] / tops[1])
    assert top_eigenvalue(flat[:2, :2]) == pytest.approx(np.linalg.eigvalsh(flat[:2, :2])[-1])
    Y = np.eye(K)[y] - 1 / K
    by_full = crossed.reshape(m * K, n * K) @ np.linalg.solve(flat, Y.ravel())
    cross = np.array([[crossed[i, :, j].sum() / K for j in range(n)] for i in range(m)])
    by_pseudo = (cross @ np.linalg.solve(pseudo, Y)).argmax(axis=1)
    by_full = by_full.reshape(m, K).argmax(axis=1)
    assert found.full_accuracy == (by_full == truth).mean()
    assert found.pseudo_accuracy == (by_pseudo == truth).mean()
    assert found.agreement == (by_full == by_pseudo).mean()


def test_regression_without_ridge_has_the_least_norm_where_the_kernel_is_singular():
    random = np.random.default_rng(1)
    Y = random.standard_normal((7, 2))
    a = random.standard_normal((7, 9))
    np.testing.assert_allclose(solve(a @ a.T, Y), np.linalg.inv(a @ a.T) @ Y)
    a = a[:, :4]
    kernel = a @ a.T - 1e-9 * np.eye(7)
    expected = np.linalg.pinv(a @ a.T, rcond=1e-6, hermitian=True) @ Y
    np.testing.assert_allclose(solve(kernel, Y), expected, rtol=1e-6)


@pytest.mark.slow
def test_costs_come_with_the_same_comparison(monkeypatch):
    monkeypatch.setattr("ntkdist.learning.empirical._CROSSED_BYTES", 8 * 9 * K * K * 2)
    (x, y), (test, truth) = problem(9, 0), problem(5, 1)
    network = FiniteNetwork("fc-2", 64, K)
    params = network.init(0, x.shape[1:])
    found = measure_pseudo_kernel(network, params, x, y, (test, truth))
    full, crossed = (empirical_kernel(network, params, part, x) for part in (x, test))
    expected = compare_pseudo_kernel(full, crossed, y, truth)
    assert vars(found.comparison) == pytest.approx(vars(expected), rel=1e-4)
    assert found.full_bytes == K**2 * found.pseudo_bytes == 8 * 9 * 9 * K**2
    assert min(found.full_seconds, found.pseudo_predict_seconds) > 0


def test_a_network_of_infinite_width_alone_is_refused_before_its_kernel(monkeypatch):
    monkeypatch.setattr("ntkdist.learning.widths.kernel_matrix", None)
    (x, y), test = problem(8, 0), problem(6, 1)
    arch = ["Dense", {"Residual": ["ExpNormalized", "Dense"]}, "Flatten", "Dense"]
    with pytest.raises(InputError, match="ExpNormalized is a kernel of infinite width"):
        sweep_widths(arch, x, y, K, test, widths=[16, 32])


@pytest.mark.slow
def test_rows_are_what_each_network_shows_by_itself():
    (x, y), test = problem(8, 0), problem(6, 1)
    seen = []
    found = sweep_widths(
        "fc-2", x, y, K, test,
        widths=[32, 16], seeds=3, trained=1, steps=[1, 5], on_row=seen.append,
    )  # fmt: skip
    assert list(found.rows) == seen
    assert [(r.width, r.seed) for r in seen] == [(w, s) for w in (16, 32) for s in range(3)]
    assert [r.pseudo is None for r in seen] == [False, True, True] * 2
    infinite = kernel_matrix("fc-2", x, dtype="float64", backend="reference")
    for row in seen[:2]:
        network = FiniteNetwork("fc-2", 16, K)
        params = network.init(row.seed, x.shape[1:])
        for kind, gap in (("pntk", row.kernel_gap), ("trace", row.trace_gap)):
            kernel = empirical_kernel(network, params, x, kind=kind)
            expected = np.linalg.norm(kernel - infinite) / np.linalg.norm(infinite)
            assert gap is None or gap == pytest.approx(expected, rel=1e-4)
    gaps = [r.kernel_gap for r in seen[:3]]
    assert found.by_width("kernel_gap")[0] == pytest.approx(np.mean(np.square(gaps)) ** 0.5)
    assert found.by_width("linear_gap")[0] == seen[0].linear_gap
    assert seen[0].linear_maximum > seen[0].linear_gap > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    ["fc-2", "[Conv(), Relu(), AvgPool(size=2), Conv(), Relu(), GlobalAvgPool(), Dense()]"],
)
def test_the_kernel_nears_the_infinite_one_as_the_square_root_of_the_width(architecture):
    (x, y), test = problem(6, 2), problem(3, 3)
    found = sweep_widths(
        architecture, x, y, K, test, widths=[16, 128], seeds=32, trained=3, steps=[1]
    )
    assert found.law("kernel_gap").exponent == pytest.approx(-0.5, abs=0.12)
    assert found.law("difference").exponent == pytest.approx(-0.5, abs=0.2)


def test_settings_that_do_not_fit_are_refused():
    (x, y), test = problem(6, 0), problem(3, 1)
    with pytest.raises(InputError, match="must be different"):
        sweep_widths("fc-2", x, y, K, test, widths=[8, 8])
    with pytest.raises(InputError, match="widths=0 must be a whole number"):
        sweep_widths("fc-2", x, y, K, test, widths=[0])
    with pytest.raises(InputError, match="trained=0"):
        sweep_widths("fc-2", x, y, K, test, trained=0)
    with pytest.raises(InputError, match="label 3 at index 0"):
        sweep_widths("fc-2", x, y + 3, K, test)
