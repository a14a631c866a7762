"""PNG, JPEG and other image files read into one array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.data.scaling import Size, scale_one, target
from ntkdist.errors import InputError
from ntkdist.words import counted, first_of

# Pillow's name of each format that is read, with the endings of its files
_ENDINGS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".pnm", ".pbm", ".pgm", ".ppm"),
}
SUFFIXES = frozenset(ending for endings in _ENDINGS.values() for ending in endings)
KINDS = "PNG, JPEG, JPEG 2000, BMP, GIF, TIFF, WebP or PNM"
# Endings of images that cannot be read; they raise an error, because the set would otherwise lack
# images silently.
UNREAD = frozenset(
    [".avif", ".dcm", ".dds", ".exr", ".hdr", ".heic", ".heif", ".jxl", ".jxr", ".pcx", ".pfm"]
) | frozenset([".arw", ".cr2", ".dng", ".nef", ".psd", ".qoi", ".svg", ".tga", ".xcf"])
# The tag that says how a camera was held, and what undoes it: the names of Pillow's transpositions
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

# Pillow's names for one grey value a pixel, with and without alpha
_GREY = frozenset(["1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I"])
_SIXTEEN_BITS = frozenset(["I;16", "I;16B", "I;16L", "I"])


def decode(
    files: Sequence[Path], size: Size | None = None
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return all images in one array (N, H, W, C) uint8, scaled to ``size``, and notes on them.

    Without a size all must have one. C = 1 if every image is greyscale, else 3. Alpha is dropped,
    16-bit grey becomes 8-bit, of several frames or pages the first is taken. Images are turned as
    their EXIF tag says, which a note counts. A first pass reads only the headers, so that an error
    about two sizes comes before hours of decoding.
    """
    headers = [_header(path) for path in files]
    sizes = [(height, width) for (width, height), _, _ in headers]
    if size is None:
        _refuse_two_sizes(files, sizes)
    shape = sizes[0] if size is None else target(size, set(sizes))
    grey = all(mode in _GREY for _, mode, _ in headers)
    images = np.empty((len(files), *shape, 1 if grey else 3), dtype=np.uint8)
    for i, path in enumerate(files):
        images[i] = _read(path, grey, shape)
    turned = [
        path.name for path, (_, _, is_turned) in zip(files, headers, strict=True) if is_turned
    ]
    if not turned:
        return images, ()
    words = "image is turned as its EXIF tag says", "images are turned as their EXIF tags say"
    return images, (f"{counted(len(turned), *words)}: {first_of(turned)}",)


def _refuse_two_sizes(files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    height, width = sizes[0]
    for path, (h, w) in zip(files, sizes, strict=True):
        if (h, w) != (height, width):
            raise InputError(
                f"{files[0]} has {width}x{height} pixels but {path} {w}x{h}; "
                "scale all to one size with --data.size 32"
            )


def _header(path: Path) -> tuple[tuple[int, int], str, bool]:
    """Return ((width, height) upright, mode, whether a tag says that the image is turned)."""

    def header(image: Any) -> tuple[tuple[int, int], str, bool]:
        width, height = image.size
        tag = _orientation(image)
        # Pillow itself turns TIFF images, and gives the size of the turned one
        sides = tag in (5, 6, 7, 8) and image.format != "TIFF"
        return (height, width) if sides else (width, height), image.mode, tag in _UPRIGHT

    return _open(path, header)


def _orientation(image: Any) -> int:
    """Return the orientation of an image by its EXIF tag; 1 where it has none that can be read."""
    # a PNG file may have the tag behind its pixels, which are not decoded to find it
    if image.format != "TIFF" and "exif" not in image.info:
        return 1
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of damaged metadata, which say nothing about the pixels
        return 1


def _read(path: Path, grey: bool, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the pixels (H, W, C), scaled."""
    from PIL import Image

    def pixels(image: Any) -> NDArray[np.uint8]:
        turn = None if image.format == "TIFF" else _UPRIGHT.get(_orientation(image))
        if image.format == "JPEG":
            # decodes at an eighth to a half of the size, but at least twice the wanted one
            side = 2 * max(shape) if turn else 0
            image.draft(image.mode, (side or 2 * shape[1], side or 2 * shape[0]))
        if turn:
            image = image.transpose(getattr(Image.Transpose, turn))
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
