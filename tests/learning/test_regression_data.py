"""Kernel regression on real images: leave-one-out predictions say how good those of others are."""

import numpy as np
import pytest

from ntkdist import kernel_matrix
from ntkdist.data import Preprocessor, load, select
from ntkdist.learning import KernelRegression, evaluate, sweep_ridge

pytestmark = pytest.mark.data


def pictures(path, n, m):
    """Return n balanced training and m test images with their labels, standardised."""
    train, test = load(f"npz:{path}", "train"), load(f"npz:{path}", "test")
    recipe = Preprocessor.fit(train.images, "standardize")
    a, b = select(train.labels, n, "balanced"), select(test.labels, m, "balanced")
    return (
        recipe.apply(train.images[a]),
        train.labels[a],
        recipe.apply(test.images[b]),
        test.labels[b],
    )


@pytest.mark.slow(but="mnist-cnn-2")
@pytest.mark.parametrize(("name", "architecture"), [("mnist", "cnn-2"), ("cifar10", "cntk-v-4")])
def test_leave_one_out_predictions_foretell_those_of_test_images(data_dir, name, architecture):
    x, labels, others, truth = pictures(data_dir / f"{name}.npz", 800, 800)
    H = kernel_matrix(architecture, x)
    best = sweep_ridge(H, labels, 10).best
    model = KernelRegression.fit(H, labels, 10, ridge=best.ridge)
    found = evaluate(model.predict(kernel_matrix(architecture, others, x)), truth, best.scale)
    deviation = np.sqrt(2 * found.accuracy * (1 - found.accuracy) / 800)
    assert abs(found.accuracy - best.accuracy) < 4 * deviation
    assert found.calibration_error < 0.08
    assert found.accuracy > {"mnist": 0.9, "cifar10": 0.28}[name]
