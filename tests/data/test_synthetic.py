"""Shapes and Corners: shape, balance, determinism, and that the class is what it says."""

from __future__ import annotations

import numpy as np
import pytest

from ntkdist.data import load, synthetic
from ntkdist.errors import InputError

SETS = {"shapes": synthetic.SHAPES, "corners": synthetic.CORNERS}
SIDE = synthetic.SIDE


@pytest.mark.parametrize(("split", "count"), [("train", 2000), ("test", 500)])
@pytest.mark.parametrize("name", SETS)
def test_a_source_of_balanced_small_images(name, split, count):
    made = load(name, split)
    assert made.images.shape == (count, 16, 16, 1)
    assert made.images.dtype == np.uint8
    assert made.class_names == SETS[name]
    np.testing.assert_array_equal(np.bincount(made.labels), [count // 4] * 4)
    # the classes are mixed, so that the first n are a fair sample too
    assert np.bincount(made.labels[:100], minlength=4).min() >= 10


@pytest.mark.parametrize("name", SETS)
def test_the_same_images_every_time(name):
    first, again = load(name), load(name)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)


@pytest.mark.parametrize("name", SETS)
def test_no_image_twice_and_none_in_both_splits(name):
    train, test = load(name, "train"), load(name, "test")
    rows = np.concatenate([train.images, test.images]).reshape(2500, -1)
    assert len(np.unique(rows, axis=0)) == 2500


def test_corners_are_brighter_where_the_class_says():
    made = load("corners")
    means = np.stack([made.images[made.labels == k, ..., 0].mean(axis=0) for k in range(4)])
    means -= means.mean(axis=0)
    half = SIDE // 2
    quarters = means.reshape(4, 2, half, 2, half).mean(axis=(2, 4)).reshape(4, 4)
    np.testing.assert_array_equal(quarters.argmax(axis=1), range(4))
    # and nowhere else: the clutter is the same in every class
    others = quarters[~np.eye(4, dtype=bool)]
    assert others.max() < 0.2 * np.diagonal(quarters).min()


def test_shapes_are_outlines_brighter_than_their_background():
    made = load("shapes")
    middle = made.images[:, 3:-3, 3:-3].mean(axis=(1, 2, 3))
    border = made.images[:, [0, -1]].mean(axis=(1, 2, 3))
    assert (middle > border).mean() > 0.9
    # hollow: filled circles and squares would be over 100 brighter here than at the border
    hollow = np.isin(made.labels, (0, 2))
    centre = made.images[hollow, 7:9, 7:9].mean()
    assert abs(centre - border[hollow].mean()) < 20


@pytest.mark.parametrize("edges", [3, 4])
def test_a_polygon_has_its_corners_on_the_circle(edges):
    angle = 2 * np.pi * np.arange(edges) / edges
    corner = angle + np.pi / edges
    radius = np.full(edges, 5.0)
    at_corners = synthetic._polygon(5 * np.cos(corner), 5 * np.sin(corner), radius, edges)
    np.testing.assert_allclose(at_corners, 0, atol=1e-12)
    at_centre = synthetic._polygon(np.zeros(edges), np.zeros(edges), radius, edges)
    np.testing.assert_allclose(at_centre, -5 * np.cos(np.pi / edges))
    apothem = 5 * np.cos(np.pi / edges) + 1
    beyond = synthetic._polygon(apothem * np.cos(angle), apothem * np.sin(angle), radius, edges)
    np.testing.assert_allclose(beyond, 1)


@pytest.mark.parametrize("name", SETS)
def test_unseen_images_can_be_told_apart(name):
    train, test = load(name, "train"), load(name, "test")
    x = np.concatenate([train.images, test.images]).reshape(2500, -1) / 255.0
    square = (x * x).sum(axis=1)
    distance = square[:, None] + square - 2 * x @ x.T
    kernel = np.exp(-distance / np.median(distance))
    Y = np.eye(4)[train.labels] - 0.25
    fitted = np.linalg.solve(kernel[:2000, :2000] + 0.1 * np.eye(2000), Y)
    right = (kernel[2000:, :2000] @ fitted).argmax(axis=1) == test.labels
    # guessing gives 0.25, with a standard deviation of 0.02
    assert 0.4 < right.mean() < 0.95


@pytest.mark.parametrize(
    ("source", "split", "text"),
    [
        ("shape", "train", "did you mean 'shapes'?"),
        ("corner", "train", "did you mean 'corners'?"),
        ("shapes:here", "train", "data source 'shapes:here' is unknown"),
        ("corners", "valid", "split 'valid' is unknown; use train or test"),
    ],
)
def test_misspelt_sources(source, split, text):
    with pytest.raises(InputError) as caught:
        load(source, split)
    assert text in str(caught.value)
