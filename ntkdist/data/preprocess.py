"""Preprocessing of images and features with the statistics of the training split.

A recipe is ``none`` or steps joined by ``+``, applied left to right, such as
``standardize+unit-norm`` or ``contrast+zca=0.1``; ``auto`` is ``standardize`` for images and
``center+unit-norm`` for features. All arithmetic is float64 in blocks of images; the result is
float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_flag, check_made
from ntkdist.data.dataset import check_pixels
from ntkdist.data.features import check_features
from ntkdist.data.whitening import Whitening
from ntkdist.errors import InputError, did_you_mean, shown
from ntkdist.pixels import PixelRange, image_array

RECIPES = ("none", "standardize", "center", "unit-norm", "halve", "contrast", "zca")

#: ε of ``zca`` without a number. Shankar et al. (2020) add 1e-4 or 1e-5 to the covariance of images
#: of norm 1, which are 0.3 and 0.03 of the mean eigenvalue for 32×32×3; this is between them.
ZCA_EPSILON = 0.1
#: Names of the arrays that hold what ``zca`` was fitted to.
ZCA_ARRAYS = ("zca_mean", "zca_matrix")

#: ``auto`` for images and for features.
IMAGE_RECIPE, FEATURE_RECIPE = "standardize", "center+unit-norm"

_ROUNDING = 1e-11  # relative difference of statistics of the same images in another order
_BLOCK_VALUES = 1 << 23  # 64 MiB of float64
_LEAST_EPSILON, _MOST_EPSILON = 1e-6, 1e6  # below, rounding decides; above, nothing is whitened


@dataclass(frozen=True)
class Step:
    """One fitted step.

    Attributes:
        name: One of ``RECIPES``, of ``zca`` with its ε: ``zca=0.1``.
        shift: Subtracted from each channel, C values; empty for no statistics.
        scale: Divides each channel after the shift, C values.
        whitening: The statistics of ``zca``; None for other steps.
    """

    name: str
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    whitening: Whitening | None = None

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Apply the step to images (N, H, W, C)."""
        if self.name == "unit-norm":
            return _unit_norm(x)
        if self.name == "halve":
            return _halve(x)
        if self.name == "contrast":
            return _contrast(x)
        if self.whitening is not None:
            return self.whitening(x)
        return (x - np.asarray(self.shift)) / np.asarray(self.scale) if self.shift else x

    def agrees(self, other: Step) -> bool:
        """Return whether a step of that name has the same statistics up to rounding."""
        if self.whitening is not None and other.whitening is not None:
            return self.whitening.agrees(other.whitening, _epsilon(self.name))
        return _close(self.shift, other.shift) and _close(self.scale, other.scale)


@dataclass(frozen=True)
class Preprocessor:
    """A recipe with its statistics; the same object prepares training and test images.

    ``standardize`` subtracts the mean and divides by the standard deviation (ddof 0) of each
    channel over all pixels of the training set, a constant channel by 1; ``center`` subtracts the
    mean; ``unit-norm`` divides each image by its norm and multiplies by √(H·W·C), so that its mean
    square is 1, and a zero image stays zero; ``contrast`` subtracts from each image the mean of all
    its pixels and channels and then does as ``unit-norm``, so that its standard deviation is 1, and
    an image of one value becomes zero; ``zca=ε`` subtracts the mean training image and multiplies
    the H·W·C values of an image by (Σ + ε·λ̄·I)^(−1/2), where Σ is their covariance and λ̄ the mean
    of its eigenvalues (``zca`` is ``zca=0.1``); ``halve`` averages 2×2 pixels, for a kernel in a
    sixteenth of the time; ``none`` does nothing. Before all steps pixels are divided by 255 if the
    training images are uint8, and by 1 for any other dtype. The divisor is that of the training
    images whatever dtype later images have, and images on another scale raise an error (the rule is
    that of ``ntkdist.pixels.PixelRange.check``). Features (N, D) are images of one pixel with D
    channels: each column has its mean, and each row the norm √D after ``unit-norm``; they have any
    scale, except that uint8 and other numbers are compared as pixels are.

    Attributes:
        recipe: As given to ``fit``; for ``auto`` the recipe that was taken.
        channels: C of the training images, D of features.
        steps: The fitted steps in order.
        divisor: Divides all pixels; None in runs of versions that did not store it, which then
            divide uint8 by 255 and nothing else.
        pixel_range: Range of the training images or features before division; None in such runs,
            and in older ones of features.
    """

    recipe: str
    channels: int
    steps: tuple[Step, ...]
    divisor: float | None = None
    pixel_range: PixelRange | None = None

    @classmethod
    def fit(cls, images: Any, recipe: str, *, mirrored: bool = False) -> Preprocessor:
        """Measure the statistics of the recipe on the training images.

        Args:
            images: Training images, shape (N, H, W, C) or (N, H, W), N ≥ 1, uint8 or any real
                dtype, or a list of images; or features, shape (N, D), D ≥ 2.
            recipe: ``none`` or steps joined by ``+``; or ``auto``.
            mirrored: Fit ``zca`` to the images and their mirror images, for a kernel that is
                averaged over flips; other steps treat them alike.

        Returns:
            The fitted preprocessor.

        Raises:
            InputError: A step is unknown; the images are not finite (N, H, W, C), or have an odd
                side and are halved, or too many values for ``zca``, or are all equal to it;
                features are halved, or all rows are equal.
        """
        mirrored = check_flag("mirrored", mirrored)
        images = image_array(images)
        recipe = resolve_recipe(recipe, features=images.ndim == 2)
        names = _parse(recipe)
        _check(images)
        if images.ndim == 2:
            _check_rows(images, names)
        pixels = PixelRange.of(images)
        images = _as_images(images)
        _check_halves(images.shape, names.count("halve"))
        divisor = _divisor(images)
        steps: list[Step] = []
        for name in names:
            if name in ("standardize", "center"):
                # later statistics describe what the earlier steps leave
                steps.append(_measure(name, images, steps, divisor))
            elif _is_zca(name):
                steps.append(_whiten(name, images, steps, divisor, mirrored=mirrored))
            else:
                steps.append(Step(name))
        return cls(recipe, images.shape[3], tuple(steps), divisor, pixels)

    def agrees(self, other: Preprocessor) -> bool:
        """Return whether another one was fitted to the same images, in any order.

        The order of a sum decides its last bits, so that statistics are compared up to rounding.
        """
        divisors = {self.divisor, other.divisor} - {None}
        mine, theirs = (self.recipe, self.channels), (other.recipe, other.channels)
        return (
            mine == theirs
            and len(divisors) < 2
            and all(one.agrees(two) for one, two in zip(self.steps, other.steps, strict=True))
        )

    def with_statistics_of(self, other: Preprocessor) -> Preprocessor:
        """Return this one with the steps of another one that ``agrees``, to the bit."""
        return replace(self, steps=other.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return recipe, statistics and scale as JSON holds them, floats to the bit.

        Those of ``zca`` are in ``arrays``.
        """
        return {
            "recipe": self.recipe,
            "channels": self.channels,
            "steps": [[step.name, list(step.shift), list(step.scale)] for step in self.steps],
            "divisor": self.divisor,
            "range": None if self.pixel_range is None else self.pixel_range.to_dict(),
        }

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the statistics of ``zca`` by the names of ``ZCA_ARRAYS``; none without it."""
        fitted = [step.whitening for step in self.steps if step.whitening is not None]
        return {
            name: values
            for one in fitted
            for name, values in zip(ZCA_ARRAYS, (one.mean, one.matrix), strict=True)
        }

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, Any],
        read: Callable[[str], NDArray[np.float64]] = lambda name: _not_given(name),
    ) -> Preprocessor:
        """Build the preprocessor that ``to_dict`` wrote down.

        Args:
            values: What ``to_dict`` returned.
            read: Returns the array of a name that ``arrays`` has; called for ``zca`` alone.
        """
        steps = tuple(
            Step(
                name,
                tuple(shift),
                tuple(scale),
                Whitening(*map(read, ZCA_ARRAYS)) if _is_zca(name) else None,
            )
            for name, shift, scale in values["steps"]
        )
        stored = values.get("range")
        pixels = None if stored is None else PixelRange.from_dict(stored)
        return cls(values["recipe"], values["channels"], steps, values.get("divisor"), pixels)

    def apply(self, images: Any, *, of: PixelRange | None = None) -> NDArray[np.float32]:
        """Return the prepared images or features.

        Args:
            images: Shape (M, H, W, C) with the training set's C, (M, H, W) where that is 1, or a
                list of images; or (M, D) with its D.
            of: Range of the whole set that the images are a part of, which says more about its
                scale than a few images do; None takes theirs.

        Returns:
            float32, (M, H, W, C), fewer pixels if halved, or (M, D); an image depends on itself
            and the statistics only.

        Raises:
            InputError: The number of channels differs, or for ``zca`` that of pixels; pixels are
                not finite or leave the range of float32, or (``ScaleError``) they are on another
                scale than the training images.
        """
        images = image_array(images)
        _check(images)
        features, given = images.ndim == 2, images.shape
        raw, images = images, _as_images(images)
        halvings = _halvings(self.steps)
        _check_halves(images.shape, halvings)
        if images.shape[3] != self.channels:
            what, rows = ("features", "rows") if features else ("channels", "images")
            remedy = (
                "compute them with the same network"
                if features
                else ("convert them to the same colours")
            )
            raise InputError(
                f"{rows} have {images.shape[3]} {what}, but the training {rows} had "
                f"{self.channels}; {remedy}"
            )
        if of is not None:
            check_made("of", of, PixelRange, "PixelRange.of makes one")
        if self.pixel_range is not None:
            others = PixelRange.of(raw) if of is None else of
            if not features:
                self.pixel_range.check(others)
            elif (self.pixel_range.dtype == "uint8") != (others.dtype == "uint8"):
                # rows of pixels; other tables may have outliers in one alone
                self.pixel_range.check(others, "training features", "features")
        divisor = _divisor(images) if self.divisor is None else self.divisor
        height, width = (side >> halvings for side in images.shape[1:3])
        out = np.empty((len(images), height, width, self.channels), dtype=np.float32)
        limit = float(np.finfo(np.float32).max)
        start = 0
        for block in _blocks(images, self.steps, divisor):
            largest = float(np.abs(block).max())
            if not largest <= limit:
                raise InputError(
                    f"prepared {'features' if features else 'pixels'} reach {largest:.3g}, above "
                    f"float32's {limit:.3g}; divide the {'features' if features else 'images'} "
                    "by a constant"
                )
            out[start : start + len(block)] = block
            start += len(block)
        return out.reshape(given) if features else out


def resolve_recipe(recipe: str, *, features: bool) -> str:
    """Return the recipe that ``auto`` stands for; any other as it is, ``zca`` with its ε."""
    if not isinstance(recipe, str):
        raise InputError(
            f"preprocessing {shown(recipe)} is no text; use {', '.join(RECIPES)}, joined by +, or "
            "auto"
        )
    if recipe.strip() != "auto":
        parts = recipe.split("+")
        return "+".join(_with_epsilon(part) if _is_zca(part) else part for part in parts)
    return FEATURE_RECIPE if features else IMAGE_RECIPE


def _is_zca(name: str) -> bool:
    return name.partition("=")[0].strip() == "zca"


def _with_epsilon(name: str) -> str:
    """Return ``zca=ε`` in the one form that every way of writing it has."""
    return f"zca={_epsilon(name)!r}"


def _epsilon(name: str) -> float:
    _, sign, text = name.partition("=")
    try:
        epsilon = float(text) if sign else ZCA_EPSILON
    except ValueError:
        epsilon = math.nan
    if not _LEAST_EPSILON <= epsilon <= _MOST_EPSILON:
        raise InputError(
            f"preprocessing {shown(name.strip())}: ε must be a number from {_LEAST_EPSILON:g} to "
            f"{_MOST_EPSILON:g}, relative to the mean eigenvalue; write zca={ZCA_EPSILON:g}"
        )
    return epsilon


def _not_given(name: str) -> NDArray[np.float64]:
    raise InputError(
        f"the preprocessing has zca, whose array {name} is not given; call from_dict with read, "
        "such as arrays().__getitem__"
    )


def _halvings(steps: Sequence[Step]) -> int:
    return sum(step.name == "halve" for step in steps)


def _close(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
    a, b = np.asarray(one), np.asarray(two)
    return bool((np.abs(a - b) <= _ROUNDING * np.abs(a).max(initial=0.0)).all())


def _parse(recipe: str) -> list[str]:
    names = [part.strip() for part in recipe.split("+")]
    if sum(map(_is_zca, names)) > 1:
        raise InputError(
            f"preprocessing {shown(recipe)} has zca several times; once is enough: whitened images "
            "are white"
        )
    for name in names:
        if name not in RECIPES and not _is_zca(name):
            raise InputError(
                f"preprocessing {shown(name)} in {shown(recipe)} is unknown; use "
                f"{', '.join(RECIPES)}, joined by +, or auto"
                + did_you_mean(name, (*RECIPES, "auto"))
            )
    return names


def _check(images: NDArray[Any]) -> None:
    if images.ndim == 2:
        check_features(images)
        return
    check_pixels(images)


def _check_rows(features: NDArray[Any], names: list[str]) -> None:
    """Refuse steps for images, and rows that are all equal."""
    if "halve" in names:
        raise InputError(
            "preprocessing 'halve' averages 2×2 pixels, and features have none; leave halve away"
        )
    if len(features) > 1 and (features == features[0]).all():
        raise InputError(
            f"all {len(features)} rows of features are equal, so that no kernel can tell them "
            "apart; check how they were computed"
        )


def _as_images(images: NDArray[Any]) -> NDArray[Any]:
    """Return features (N, D) as images (N, 1, 1, D), images as they are."""
    if images.ndim == 4:
        return images
    # uint8 features are numbers, not pixels that are divided by 255
    rows = images.astype(np.float32) if images.dtype == np.uint8 else images
    return rows[:, None, None, :]


def _check_halves(shape: tuple[int, ...], times: int) -> None:
    for side in shape[1:3]:
        if side % (1 << times):
            raise InputError(
                f"images of {shape[1]}×{shape[2]} pixels cannot be halved {times} times: {side} is "
                f"no multiple of {1 << times}; leave halve away"
            )


def _divisor(images: NDArray[Any]) -> float:
    return 255.0 if images.dtype == np.uint8 else 1.0


def _blocks(
    images: NDArray[Any], steps: Sequence[Step], divisor: float
) -> Iterator[NDArray[np.float64]]:
    """Yield the images in order as float64 blocks after the given steps."""
    count = max(1, _BLOCK_VALUES // math.prod(images.shape[1:]))
    for start in range(0, len(images), count):
        part = images[start : start + count]
        block = part.astype(np.float64)
        if divisor != 1.0:
            block /= divisor
        for step in steps:
            block = step(block)
        yield block


def _measure(name: str, images: NDArray[Any], before: Sequence[Step], divisor: float) -> Step:
    """Return a step with the statistics of the images after division and the steps before it."""
    channels = images.shape[3]
    count = math.prod(images.shape[:3]) >> 2 * _halvings(before)
    total, squares, scale = np.zeros(channels), np.zeros(channels), np.ones(channels)
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    for block in _blocks(images, before, divisor):
        for c, values, axis in _by_channel(block):
            total[c] += values.sum(axis=axis)
            low[c] = np.minimum(low[c], values.min(axis=axis))
            high[c] = np.maximum(high[c], values.max(axis=axis))
    constant = low == high
    # a constant channel's own value: its mean would be off by the sum's rounding
    mean = np.where(constant, low, total / count)
    if name == "standardize":
        # a second pass over the data, since E[x²] − mean² would cancel
        for block in _blocks(images, before, divisor):
            for c, values, axis in _by_channel(block):
                shift = mean[c] if axis is None else mean[:, None]
                squares[c] += np.square(values - shift).sum(axis=axis)
        # the square of a difference below 1e-162 is zero; such a channel counts as constant
        scale = np.where(constant | (squares == 0.0), 1.0, np.sqrt(squares / count))
    return Step(name, tuple(mean.tolist()), tuple(scale.tolist()))


def _whiten(
    name: str, images: NDArray[Any], before: Sequence[Step], divisor: float, *, mirrored: bool
) -> Step:
    """Return a whitening step, fitted to the images after division and the steps before it."""
    halvings = _halvings(before)
    n, height, width, channels = images.shape
    whitening = Whitening.fit(
        lambda: _blocks(images, before, divisor),
        n,
        (height >> halvings, width >> halvings, channels),
        _epsilon(name),
        mirrored=mirrored,
    )
    return Step(name, whitening=whitening)


def _by_channel(
    block: NDArray[np.float64],
) -> Iterator[tuple[int | slice, NDArray[np.float64], int | None]]:
    """Yield channels with their values and the axis to sum these over.

    One channel at a time, since a sum over three axes at once is seven times slower and, not being
    pairwise, less accurate. For images of one pixel, as features are, all channels at once and
    transposed, since the values of a column are far apart in memory.
    """
    n, height, width, channels = block.shape
    if height == width == 1:
        yield slice(None), np.ascontiguousarray(block.reshape(n, channels).T), 1
        return
    for c in range(channels):
        yield c, block[..., c], None


def _unit_norm(x: NDArray[np.float64]) -> NDArray[np.float64]:
    axes = (1, 2, 3)
    # dividing by the largest value first keeps the squares within float64
    largest = np.abs(x).max(axis=axes, keepdims=True)
    x = x / np.where(largest == 0.0, 1.0, largest)
    root_mean_square = np.sqrt(np.square(x).mean(axis=axes, keepdims=True))
    return x / np.where(root_mean_square == 0.0, 1.0, root_mean_square)


def _contrast(x: NDArray[np.float64]) -> NDArray[np.float64]:
    axes = (1, 2, 3)
    centred = x - _mean_either_way(x)
    # the mean of equal values is off by rounding, which the division would enlarge
    centred[x.min(axis=axes) == x.max(axis=axes)] = 0.0
    largest = np.abs(centred).max(axis=axes, keepdims=True)
    centred /= np.where(largest == 0.0, 1.0, largest)  # so that squares are numbers of float64
    deviation = np.sqrt(_mean_either_way(np.square(centred)))
    return centred / np.where(deviation == 0.0, 1.0, deviation)


def _mean_either_way(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each image's mean (N, 1, 1, 1), of equal bits for its mirror image."""
    return (x + x[:, :, ::-1]).mean(axis=(1, 2, 3), keepdims=True) / 2


def _halve(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
