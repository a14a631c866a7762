"""The cuda backend on real images: depth 21, raw pixels, pools, near duplicates, ill scaling.

Crops and sets are those of the cpu backend's tests; a simulated GPU gets fewer images.
"""

import pytest

from tests.kernels import SIMULATED
from tests.kernels.oracle import check
from tests.kernels.test_cpu_data import NETWORKS, pixels, rows_and_columns

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("gpu"), pytest.mark.slow]
__all__ = ["pixels"]  # fixture

RECIPES = [("cifar10", "standardize"), ("cifar10", "none"), ("mnist", "none")]
EDGE = 10


def sets(images, recipe):
    """Return rows and columns that hold an image, its near duplicate and another."""
    rows, columns = rows_and_columns(images, recipe, EDGE)
    return (rows[[0, 3]], columns[[0, 2]]) if SIMULATED else (rows, columns)


@pytest.mark.parametrize("arch", ["cntk-v-21", "cntk-gap-21"])
@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_deep_networks_are_near_the_oracle(pixels, name, recipe, arch):
    check("cuda", arch, *sets(pixels[name], recipe))


@pytest.mark.parametrize("arch", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize(("name", "recipe"), RECIPES[::2])
def test_pooled_networks_are_near_the_oracle(pixels, name, recipe, arch):
    check("cuda", arch, *sets(pixels[name], recipe), signed=True)


@pytest.mark.parametrize(("first", "second"), [(1e-3, 1.0), (1e3, 1e-3)])
def test_ill_scaled_images_are_near_the_oracle(pixels, first, second):
    x, y = sets(pixels["cifar10"], "standardize")
    check("cuda", "cntk-gap-4", x * first, y * second)
