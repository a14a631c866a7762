"""The standard parameterisation, against neural-tangents and against networks of finite width."""

import numpy as np
import pytest

from ntkdist import Architecture, AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Relu, Residual
from ntkdist.errors import InputError
from ntkdist.kernels.stax import import_neural_tangents
from ntkdist.learning import FiniteNetwork
from ntkdist.learning.empirical import empirical_kernel
from ntkdist.learning.parameterization import layer_factors, standard_kernel_matrix

WIDTH = 7
NETWORKS = [
    "fc-1",
    "fc-3",
    "cnn-2",
    Architecture((Conv(), Relu(), AvgPool(2), Conv(5, W_std=1.1), Relu(), Flatten(), Dense())),
    Architecture((Conv(3, W_std=0.8), Relu(), GlobalAvgPool(), Dense(W_std=1.0))),
]


def images(n, seed=0, shape=(6, 5, 2)):
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)


def stax_standard(arch):
    """Build the network layer by layer with neural-tangents' own standard parameterisation."""
    import_neural_tangents()
    from neural_tangents import stax

    layers = arch.layers
    if not arch.is_spatial:
        layers = (Flatten(), *(x for x in layers if not isinstance(x, Flatten)))
    built = []
    for layer in layers:
        match layer:
            case Conv():
                built.append(
                    stax.Conv(WIDTH, (layer.size,) * 2, padding="SAME", W_std=layer.W_std,
                              parameterization="standard")
                )  # fmt: skip
            case Dense():
                built.append(stax.Dense(WIDTH, W_std=layer.W_std, parameterization="standard"))
            case Relu():
                built.append(stax.Relu())
            case AvgPool():
                built.append(stax.AvgPool((layer.size,) * 2, (layer.size,) * 2))
            case GlobalAvgPool():
                built.append(stax.GlobalAvgPool())
            case Flatten():
                built.append(stax.Flatten())
    return stax.serial(*built)[2]


@pytest.mark.slow(but="fc-3")
@pytest.mark.parametrize("spec", NETWORKS, ids=str)
def test_it_is_that_of_neural_tangents(spec):
    arch = Architecture.parse(spec)
    x, z = images(3), images(4, 1)
    ours = standard_kernel_matrix(arch, x, z, width=WIDTH, dtype="float64")
    theirs = stax_standard(arch)(x.astype(np.float64), z.astype(np.float64), "ntk")
    np.testing.assert_allclose(ours, np.asarray(theirs), rtol=1e-6)


@pytest.mark.slow(but="fc-2")
@pytest.mark.parametrize("spec", ["fc-2", NETWORKS[3]], ids=str)
def test_wide_finite_networks_come_near_it(spec):
    arch, width, x = Architecture.parse(spec), 128, images(4)
    wanted = standard_kernel_matrix(arch, x, width=width, dtype="float64")
    network = FiniteNetwork(arch, width, 1)
    draws = [
        empirical_kernel(network, network.init(seed, x.shape[1:]), x, kind="trace",
                         parameterization="standard")
        for seed in range(8)
    ]  # fmt: skip
    gap = np.linalg.norm(np.mean(draws, axis=0) - wanted) / np.linalg.norm(wanted)
    assert gap < 0.12


def test_layers_weigh_as_much_as_they_have_inputs():
    arch = Architecture(
        (
            Conv(3, W_std=2.0),
            Residual((Relu(), Conv(1, W_std=1.0, trainable=False)), (Conv(5, W_std=1.0),)),
            Flatten(),
            Dense(W_std=1.0),
        )
    )
    expected = (9 * 2 / 4, 0.0, 25 * WIDTH, 6 * 5 * WIDTH)
    assert layer_factors(arch, WIDTH, (6, 5, 2)) == expected


def test_symmetric_to_the_bit_and_of_the_dtype_asked_for():
    found = standard_kernel_matrix("cnn-1", images(5), width=3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, found.T)


def test_bad_input_is_named():
    x = images(2)
    with pytest.raises(InputError, match="takes layers with b_std=0"):
        standard_kernel_matrix([Dense(b_std=0.1), Relu(), Dense()], x, width=4)
    with pytest.raises(InputError, match="no layer is trainable"):
        standard_kernel_matrix([Dense(trainable=False)], x, width=4)
    with pytest.raises(InputError, match="width=0 must be a whole number"):
        standard_kernel_matrix("fc-1", x, width=0)
    with pytest.raises(InputError, match=r"\(N, H, W, C\) is needed"):
        standard_kernel_matrix("fc-1", x[..., None], width=4)
