"""PNG, JPEG and other image files read into one array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.data.scaling import Size, scale_one, target
from ntkdist.errors import InputError

# Pillow's name of each format that is read, with the endings of its files
_ENDINGS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SUFFIXES = frozenset(ending for endings in _ENDINGS.values() for ending in endings)
KINDS = "PNG, JPEG, BMP, GIF, TIFF or WebP"
# Endings of images that cannot be read; they raise an error, because the set would otherwise lack
# images silently.
UNREAD = frozenset(
    [".avif", ".dng", ".heic", ".heif", ".jp2", ".pgm", ".ppm", ".psd", ".svg", ".tga"]
)

# Pillow's names for one grey value a pixel, with and without alpha
_GREY = frozenset(["1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I"])
_SIXTEEN_BITS = frozenset(["I;16", "I;16B", "I;16L", "I"])


def decode(files: Sequence[Path], size: Size | None = None) -> NDArray[np.uint8]:
    """Return all images in one array (N, H, W, C) uint8, scaled to ``size``.

    Without a size all must have one. C = 1 if every image is greyscale, else 3. Alpha is dropped,
    16-bit grey becomes 8-bit, rotation tags are ignored, of several frames or pages the first is
    taken. A first pass reads only the headers, so that an error about two sizes comes before hours
    of decoding.
    """
    headers = [_header(path) for path in files]
    sizes = [(height, width) for (width, height), _ in headers]
    if size is None:
        _refuse_two_sizes(files, sizes)
    shape = sizes[0] if size is None else target(size, set(sizes))
    grey = all(mode in _GREY for _, mode in headers)
    images = np.empty((len(files), *shape, 1 if grey else 3), dtype=np.uint8)
    for i, path in enumerate(files):
        images[i] = _read(path, grey, shape)
    return images


def _refuse_two_sizes(files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    height, width = sizes[0]
    for path, (h, w) in zip(files, sizes, strict=True):
        if (h, w) != (height, width):
            raise InputError(
                f"{files[0]} has {width}x{height} pixels but {path} {w}x{h}; "
                "scale all to one size with --data.size 32"
            )


def _header(path: Path) -> tuple[tuple[int, int], str]:
    """Return ((width, height), mode)."""
    return _open(path, lambda image: (image.size, image.mode))


def _read(path: Path, grey: bool, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the pixels (H, W, C), scaled."""

    def pixels(image: Any) -> NDArray[np.uint8]:
        if image.format == "JPEG":
            # decodes at an eighth to a half of the size, but at least twice the wanted one
            image.draft(image.mode, (2 * shape[1], 2 * shape[0]))
        return scale_one(_pixels(image, grey), shape)

    return _open(path, pixels)


def _open(path: Path, use: Any) -> Any:
    from PIL import Image

    try:
        with Image.open(path, formats=tuple(_ENDINGS)) as image:
            return use(image)
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        # on damaged data
        reason = str(error) or type(error).__name__
        if str(path) in reason:
            reason = f"not a {KINDS} file"
        raise InputError(f"{path} cannot be read ({reason}); repair or remove it") from None


def _pixels(image: Any, grey: bool) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode in _SIXTEEN_BITS:
        # Pillow clips at 255 instead of scaling
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("its pixels need more than 16 bits; save it with 8 or 16")
        narrow = ((wide * 255 + 32767) // 65535).astype(np.uint8)
        return narrow[..., None] if grey else np.repeat(narrow[..., None], 3, axis=2)
    if grey:
        return np.asarray(image.convert("L"))[..., None]
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
