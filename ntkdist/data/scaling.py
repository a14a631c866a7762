"""Image sizes: how ``data.size`` is written, and scaling of images to one size."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import is_whole
from ntkdist.errors import InputError, shown
from ntkdist.words import counted, format_bytes

_AUTO_KEEPS, _AUTO_SIDE = 64, 32  # the longest side that auto leaves as it is; its side otherwise

_MOST = 10**6  # pixels a side; what fits into memory is checked with the number of images
_TEXT = re.compile(r"(\d{1,9})(?:\s*[xX×]\s*(\d{1,9}))?")

Size = int | str | tuple[int, int]


def parse_size(size: Size) -> str | tuple[int, int]:
    """Return ``auto`` or (height, width), at least 1, of a size in any of its forms."""
    if isinstance(size, str) and size == "auto":
        return "auto"
    pair: tuple[int, ...] = ()
    if isinstance(size, str) and (match := _TEXT.fullmatch(size.strip())):
        pair = (int(match.group(1)), int(match.group(2) or match.group(1)))
    elif isinstance(size, tuple):
        pair = size
    elif is_whole(size):
        pair = (int(size), int(size))
    if len(pair) != 2 or not all(is_whole(side) and 1 <= side <= _MOST for side in pair):
        raise InputError(
            f"data.size={shown(size)} must be auto, a side of at least 1 pixel such as 32, "
            f"or HEIGHTxWIDTH such as 32x48, at most {_MOST} pixels a side"
        )
    return int(pair[0]), int(pair[1])


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


def check_memory(count: int, size: tuple[int, int], channels: int) -> None:
    """Raise ``InputError`` where ``count`` images scaled to ``size`` do not fit into memory.

    Preprocessed images are float32, and 8 bits of each are kept as pictures beside them.
    """
    total = _memory()
    each = size[0] * size[1] * channels * (4 + 1)
    if total is not None and count * each > total:
        raise InputError(
            f"data.size={size[0]}x{size[1]}: {counted(count, 'image')} of {size[0]}x{size[1]} "
            f"pixels take {format_bytes(count * each)} ({format_bytes(each)} each), and this "
            f"machine has {format_bytes(total)} of memory; give a smaller data.size, such as 32"
        )


def _memory() -> int | None:
    """Return the bytes of this machine's memory, or of the share that a container has."""
    if not hasattr(os, "sysconf"):
        return None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            return min(total, int(file.read()))
    except (OSError, ValueError):  # no container, or one without a limit
        return total


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
    check_memory(len(images), wanted, images.shape[3])
    dtype = np.uint8 if images.dtype == np.uint8 else np.float32
    out = np.empty((len(images), *wanted, images.shape[3]), dtype=dtype)
    for i, image in enumerate(images):
        out[i] = scale_one(image, wanted)
    return out
