"""Shapes and Corners: two sets of small images made here, the same ones every time.

DeOliveira et al. 2025 measure class separation on two synthetic sets of these names and do not
describe them. Sizes, number of images, clutter and noise are this package's choice and say nothing
about the images of that paper. They were chosen by the class separation ratios of two kernels: that
classes are about as hard to separate as published, and that a convolutional kernel separates Shapes
better and Corners worse than a fully connected one, was aimed at and is no finding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ntkdist.data.dataset import ImageSet

SHAPES = ("circle", "triangle", "square", "cross")
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")

#: Pixels along an edge, and images of each split; classes are of equal size.
SIDE = 16
SIZES = {"train": 2000, "test": 500}

# the first number of each set's random streams
_SHAPES, _CORNERS = 1, 2

_RADIUS = (3.0, 6.0)  # of the circle through the corners of a shape, pixels
_SHIFT = 2.0  # its centre lies this far from the image's at most, down and across
_LINE = 1.5  # width of the outline
_ARM = 0.3  # half the width of the cross's bars, relative to the radius
_SHAPES_NOISE = 0.1  # standard deviation, where black is 0 and white 1

_PATCH = 3  # edge of the patch whose corner is the class
_MARGIN = 2  # at most this many pixels between the patch and the edges of its corner
_CLUTTER = 12  # rectangles elsewhere, or over it
_RECTANGLE = (3, 5)  # their shortest and longest edge
_CORNERS_NOISE = 0.2


def shapes(split: str = "train") -> ImageSet:
    """Return Shapes: the outline of one of four shapes; the class is which.

    Circle, triangle, square or cross, turned by any angle, between 3 and 6 pixels in radius, up to
    2 pixels off the centre, brighter (0.5 to 1) than the background (0 to 0.5), with Gaussian noise
    of standard deviation 0.1. The form decides the class, its place does not.

    Args:
        split: ``train`` (2,000 images) or ``test`` (500).

    Returns:
        Images (N, 16, 16, 1) uint8 with labels 0..3 in equal numbers; the same in every call.

    Source:
        DeOliveira et al. 2025, Table 3, names the set only; the images are this package's.
    """
    return _make(_draw_shapes, split, _SHAPES, SHAPES)


def corners(split: str = "train") -> ImageSet:
    """Return Corners: a small bright square in one of the four corners; the class is which.

    The square is 3 × 3 pixels, up to 2 pixels from either edge of its corner, its brightness 0.6 to
    1. Twelve rectangles with edges of 3 to 5 pixels and brightness 0.2 to 1 lie anywhere, also over
    the square (the brighter one shows), and Gaussian noise has standard deviation 0.2. The absolute
    place decides the class. Splits, shapes and source are those of ``shapes``.
    """
    return _make(_draw_corners, split, _CORNERS, CORNERS)


_Drawn = NDArray[np.float64]
_Labels = NDArray[np.int64]


def _make(
    draw: Callable[[np.random.Generator, _Labels], _Drawn],
    split: str,
    stream: int,
    names: tuple[str, ...],
) -> ImageSet:
    count = SIZES[split]
    random = np.random.default_rng([stream, list(SIZES).index(split)])
    labels = random.permutation(np.arange(count) % len(names))
    pixels = np.rint(255 * np.clip(draw(random, labels), 0, 1)).astype(np.uint8)
    return ImageSet(pixels[..., None], labels, len(names), names)


def _draw_shapes(random: np.random.Generator, labels: _Labels) -> _Drawn:
    n = len(labels)

    def each(low: float, high: float) -> _Drawn:
        return random.uniform(low, high, (n, 1, 1))

    centre = (SIDE - 1) / 2
    pixel = np.arange(SIDE, dtype=np.float64)
    down = pixel[:, None] - centre - each(-_SHIFT, _SHIFT)
    across = pixel - centre - each(-_SHIFT, _SHIFT)
    angle, radius = each(0, 2 * np.pi), each(*_RADIUS)
    u = np.cos(angle) * down - np.sin(angle) * across
    v = np.sin(angle) * down + np.cos(angle) * across
    arm = _ARM * radius
    # how far each pixel lies outside the outline; negative inside
    outside = np.choose(
        labels[:, None, None],
        [
            np.hypot(u, v) - radius,
            _polygon(u, v, radius, 3),
            _polygon(u, v, radius, 4),
            np.minimum(
                np.maximum(np.abs(u) - arm, np.abs(v) - radius),
                np.maximum(np.abs(v) - arm, np.abs(u) - radius),
            ),
        ],
    )
    line = np.clip(_LINE / 2 + 0.5 - np.abs(outside), 0, 1)
    ground, ink = each(0, 0.5), each(0.5, 1)
    noise = _SHAPES_NOISE * random.standard_normal((n, SIDE, SIDE))
    return ground + (ink - ground) * line + noise


def _polygon(u: _Drawn, v: _Drawn, radius: _Drawn, edges: int) -> _Drawn:
    """Return how far points lie outside the regular polygon inscribed in a circle."""
    out = np.full(u.shape, -np.inf)
    for angle in 2 * np.pi * np.arange(edges) / edges:
        np.maximum(out, np.cos(angle) * u + np.sin(angle) * v, out=out)
    return out - radius * np.cos(np.pi / edges)


def _draw_corners(random: np.random.Generator, labels: _Labels) -> _Drawn:
    n = len(labels)
    images = np.zeros((n, SIDE, SIDE))
    for _ in range(_CLUTTER):
        height, width = random.integers(_RECTANGLE[0], _RECTANGLE[1] + 1, (2, n))
        top, left = random.integers(0, SIDE - np.stack([height, width]) + 1)
        _cover(images, top, left, height, width, random.uniform(0.2, 1, n))
    top, left = random.integers(0, _MARGIN + 1, (2, n))
    far = SIDE - _PATCH
    top = np.where(labels // 2 == 1, far - top, top)
    left = np.where(labels % 2 == 1, far - left, left)
    size = np.full(n, _PATCH)
    _cover(images, top, left, size, size, random.uniform(0.6, 1, n))
    return images + _CORNERS_NOISE * random.standard_normal(images.shape)


def _cover(
    images: _Drawn, top: _Labels, left: _Labels, height: _Labels, width: _Labels, value: _Drawn
) -> None:
    """Draw one rectangle on each image, where it is brighter than the image."""
    pixel = np.arange(SIDE)
    rows = (pixel >= top[:, None]) & (pixel < (top + height)[:, None])
    cols = (pixel >= left[:, None]) & (pixel < (left + width)[:, None])
    np.maximum(images, rows[:, :, None] * cols[:, None, :] * value[:, None, None], out=images)
