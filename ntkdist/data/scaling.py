"""Image sizes: how ``data.size`` is written, and scaling of images to one size."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError

_AUTO_KEEPS, _AUTO_SIDE = 64, 32  # the longest side that auto leaves as it is; its side otherwise

_TEXT = re.compile(r"(\d+)(?:\s*[xX×]\s*(\d+))?")

Size = int | str | tuple[int, int]


def parse_size(size: Size) -> str | tuple[int, int]:
    """Return ``auto`` or (height, width), at least 1, of a size in any of its forms."""
    if size == "auto":
        return "auto"
    pair: tuple[int, ...] = ()
    if isinstance(size, str) and (match := _TEXT.fullmatch(size.strip())):
        pair = (int(match.group(1)), int(match.group(2) or match.group(1)))
    elif isinstance(size, tuple):
        pair = size
    elif isinstance(size, int) and not isinstance(size, bool):
        pair = (size, size)
    if len(pair) != 2 or min(pair) < 1:
        raise InputError(
            f"data.size={size!r} must be auto, a side of at least 1 pixel such as 32, "
            "or HEIGHTxWIDTH such as 32x48"
        )
    return pair[0], pair[1]


def target(size: Size, sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
    """Return the height and width that images of these ``sizes`` are scaled to.

    ``auto`` keeps images of one size and at most 64 pixels a side, and takes 32×32 for all others:
    convolutional kernels compare every pixel of one image with every pixel of another, so that
    twice the side costs 16 times as much.
    """
    wanted = parse_size(size)
    if not isinstance(wanted, str):
        return wanted
    different = set(sizes)
    if len(different) == 1 and max(only := different.pop()) <= _AUTO_KEEPS:
        return only
    return _AUTO_SIDE, _AUTO_SIDE


def scale_one(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Scale one image (H, W, C), to uint8 if it was uint8, else to float32.

    The aspect ratio may change.

    Where no side grows, a pixel is the mean of those that it covers (Pillow's BOX filter; at half
    the side the same as ``halve``). Where a side grows, the filter is LANCZOS. An image of that
    size is returned itself.
    """
    height, width = size
    if image.shape[:2] == size:
        return image
    if image.dtype != np.uint8:
        image = image.astype(np.float32, copy=False)
    from PIL import Image

    shrinks = height <= image.shape[0] and width <= image.shape[1]
    how = Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS
    # Pillow has float pixels in one channel only
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(image[..., c])).resize((width, height), how)
        )
        for c in range(image.shape[2])
    ]
    return np.stack(planes, axis=-1)


def scale_all(images: NDArray[Any], size: Size) -> NDArray[Any]:
    """Scale images (N, H, W, C), to uint8 if they were uint8, else to float32.

    Images of that size are returned themselves.
    """
    shape: tuple[int, int] = (images.shape[1], images.shape[2])
    wanted = target(size, [shape])
    if wanted == shape:
        return images
    dtype = np.uint8 if images.dtype == np.uint8 else np.float32
    out = np.empty((len(images), *wanted, images.shape[3]), dtype=dtype)
    for i, image in enumerate(images):
        out[i] = scale_one(image, wanted)
    return out
