"""Variants of a network, and what is measured of their kernels."""

import numpy as np
import pytest

from ntkdist import (
    Architecture,
    Conv,
    Dense,
    Erf,
    GlobalAvgPool,
    LeakyRelu,
    Relu,
    Residual,
    kernel_matrix,
)
from ntkdist.errors import InputError
from ntkdist.learning import sweep_ridge
from ntkdist.learning.parameterization import standard_kernel_matrix
from ntkdist.learning.sweep import DEFAULT_VALUES, Variant, measure, variants

K = 3


def problem(n=31):
    random = np.random.default_rng(0)
    labels = random.integers(0, K, n)
    x = random.standard_normal((n, 4, 5, 1)) + labels[:, None, None, None]
    return x.astype(np.float32), labels


@pytest.mark.parametrize("family", ["fc-{}", "cntk-v-{}", "cntk-gap-{}", "cntk-lap-{}-3"])
def test_depths_are_those_of_the_family(family):
    found = variants(family.format(5), "depth", ["2", "7"])
    assert [v.value for v in found] == ["2", "7"]
    expected = [Architecture.parse(family.format(depth)) for depth in (2, 7)]
    assert [v.architecture for v in found] == expected


def test_variances_are_changed_in_all_weight_layers_but_the_last():
    arch = Architecture(
        (Conv(W_std=1.0), Residual((Relu(), Conv(3, b_std=0.2)), ()), GlobalAvgPool(), Dense())
    )
    (changed,) = (v.architecture for v in variants(arch, "W_std", ["1.3"]))
    assert changed.layers[0] == Conv(W_std=1.3)
    assert changed.layers[1].branch[1] == Conv(3, W_std=1.3, b_std=0.2)
    assert changed.layers[-1] == arch.layers[-1]
    (changed,) = (v.architecture for v in variants(arch, "b_std", ["0.7"]))
    assert changed.layers[0] == Conv(W_std=1.0, b_std=0.7)
    assert changed.layers[-1] == arch.layers[-1]


def test_nonlinearities_are_replaced_in_branches_too():
    arch = Architecture((Conv(), Residual((Relu(), Conv()), ()), Relu(), GlobalAvgPool(), Dense()))
    erf = variants(arch, "nonlinearity", ["Erf"])[0].architecture
    assert erf.layers[1].branch[0] == erf.layers[2] == Erf()
    assert variants(erf, "nonlinearity", ["Relu"])[0].architecture == arch
    leaky = variants(erf, "nonlinearity", ["LeakyRelu(0.2)"])[0].architecture
    assert leaky.layers[1].branch[0] == leaky.layers[2] == LeakyRelu(0.2)


def test_widths_are_those_of_the_standard_parameterisation_beside_the_ntk_one():
    x, labels = problem()
    found = variants("fc-2", "width", ["8"])
    assert [(v.value, v.width) for v in found] == [("NTK", None), ("8", 8)]
    row = measure(found[1], x, labels, K, dtype="float64")
    H = standard_kernel_matrix("fc-2", x, width=8, dtype="float64")
    assert row.scale == pytest.approx(np.diagonal(H).mean())


@pytest.mark.parametrize("over", DEFAULT_VALUES)
def test_every_sweep_has_values_of_its_own(over):
    assert len(variants("fc-2", over)) >= 2


@pytest.mark.parametrize("network", ["fc-2", "cntk-v-4", "cntk-gap-4"])
def test_the_depths_of_its_own_can_all_be_measured(network):
    x, labels = problem(12)
    rows = [measure(v, x[:, :3, :3], labels, K) for v in variants(network, "depth")]
    assert [row.value for row in rows] == list(DEFAULT_VALUES["depth"])
    assert all(row.scale > 0 for row in rows)


def test_measures_are_those_of_their_definitions():
    x, labels = problem()
    row = measure(Variant("v", Architecture.parse("fc-2")), x, labels, K, dtype="float64")
    H = kernel_matrix("fc-2", x, dtype="float64")
    n, values = len(H), np.linalg.eigvalsh(H)
    cosines = [H[i, j] / np.sqrt(H[i, i] * H[j, j]) for i in range(n) for j in range(n) if i != j]
    assert row.cosine == pytest.approx(np.mean(cosines))
    assert row.condition == pytest.approx(values[-1] / values[0])
    assert row.effective_rank == pytest.approx(values.sum() ** 2 / (values**2).sum())
    best = sweep_ridge(H, labels, K).best
    assert (row.accuracy, row.ridge, row.log_loss) == (best.accuracy, best.ridge, best.log_loss)


def test_deep_chaotic_networks_tell_images_apart_and_deep_ordered_ones_do_not():
    """Beyond the critical variance of tanh-like units cosines fall with depth, below they rise."""
    x, labels = problem()

    def cosine(W_std, depth):
        layers = (Dense(W_std, 0.3), Erf()) * depth + (Dense(1.0),)
        return measure(Variant("v", Architecture(layers)), x, labels, K, dtype="float64").cosine

    assert cosine(0.5, 12) > cosine(0.5, 1)
    assert cosine(0.5, 12) > 0.97
    assert cosine(3.0, 12) < cosine(0.5, 12) - 0.1


def test_equal_images_have_an_infinite_condition_number():
    x, labels = problem(12)
    row = measure(
        Variant("v", Architecture.parse("fc-1")), np.concatenate([x, x]), np.tile(labels, 2), K
    )
    assert row.condition == np.inf


def test_bad_input_is_named():
    x, labels = problem(8)
    with pytest.raises(InputError, match="did you mean 'depth'"):
        variants("fc-2", "deph")
    with pytest.raises(InputError, match="none of the presets"):
        variants("cnn-3", "depth")
    with pytest.raises(InputError, match=r"depth=2\.5 must be a whole number"):
        variants("fc-2", "depth", ["2.5"])
    with pytest.raises(InputError, match="b_std=-1 must be a number of at least 0"):
        variants("fc-2", "b_std", ["-1"])
    with pytest.raises(InputError, match=r"unknown layer 'Tanh'; the layers are .*Erf, Gelu"):
        variants("fc-2", "nonlinearity", ["Tanh"])
    with pytest.raises(InputError, match=r"nonlinearity='Dense' is none; .* are Relu, LeakyRelu"):
        variants("fc-2", "nonlinearity", ["Dense"])
    with pytest.raises(InputError, match="all 8 images are zero"):
        measure(Variant("v", Architecture.parse("fc-1")), 0 * x, labels, K)
    with pytest.raises(InputError, match="no layer is trainable"):
        measure(Variant("2", Architecture.parse("cntk-gap-2")), x, labels, K)
