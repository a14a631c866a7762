"""PNG, JPEG and other image files read into one array."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.data.scaling import Size, check_memory, scale_one, target
from ntkdist.errors import InputError
from ntkdist.words import counted, first_of

# Pillow's name of each format that is read, with the endings of its files
_ENDINGS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
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
) | frozenset([".psd", ".qoi", ".svg", ".tga", ".xcf"])
# What cameras store before it is developed
_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw")
UNREAD = UNREAD.union(_RAW)
# The tag that says how a camera was held, and what undoes it: the names of Pillow's transpositions
_ORIENTATION = 0x0112
_TIFF_DEPTH = 0x0102  # the tag that holds the bits of each channel
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
# How a file stores colours of 16 bits, of which Pillow reads the upper 8 alone. For each byte order
# of the file (N: this machine's), the one under which Pillow takes the lower 8 for the upper ones.
_WIDE = re.compile(r"(RGB[AX]?);16([BLN])")
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


@dataclass(frozen=True)
class _Header:
    """What the first bytes of a file say.

    Attributes:
        size: (height, width), upright.
        mode: Pillow's name of the kind of pixels.
        bits: Of a channel: 16, or 8 for all others.
        turned: Whether a tag says that the image is turned.
    """

    size: tuple[int, int]
    mode: str
    bits: int
    turned: bool


def decode(files: Sequence[Path], size: Size | None = None) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return all images in one array (N, H, W, C), scaled to ``size``, and notes on them.

    The dtype is uint8 where a channel has 8 bits or fewer. Where it has 16 it is uint16 with the
    numbers of the files, or float32 if images are scaled. All must be of one kind: whether 1000 of
    65535 is as bright as 4 of 255 depends on what wrote the files.

    Without a size all must have one. C = 1 if every image is greyscale, else 3. Alpha is dropped,
    of several frames or pages the first is taken. Images are turned as their EXIF tag says, which
    a note counts. A first pass reads only the headers, so that errors about two sizes or depths
    come before hours of decoding.
    """
    headers = [_open(path, _header) for path in files]
    sizes = [header.size for header in headers]
    if size is None:
        _refuse_two_sizes(files, sizes)
    wide = _have_sixteen_bits(files, headers)
    shape = sizes[0] if size is None else target(size, set(sizes))
    scaled = set(sizes) != {shape}
    grey = all(header.mode in _GREY for header in headers)
    check_memory(len(files), shape, 1 if grey else 3)
    dtype = (np.float32 if scaled else np.uint16) if wide else np.uint8
    images = np.empty((len(files), *shape, 1 if grey else 3), dtype=dtype)
    for i, path in enumerate(files):
        images[i] = _read(path, grey, shape)
    turned = [path.name for path, header in zip(files, headers, strict=True) if header.turned]
    if not turned:
        return images, ()
    words = "image is turned as its EXIF tag says", "images are turned as their EXIF tags say"
    return images, (f"{counted(len(turned), *words)}: {first_of(turned)}",)


def _have_sixteen_bits(files: Sequence[Path], headers: Sequence[_Header]) -> bool:
    """Return whether all files have 16 bits a channel, or none has."""
    first = headers[0].bits
    for path, header in zip(files, headers, strict=True):
        if header.bits != first:
            raise InputError(
                f"{files[0]} has {first} bits a channel but {path} {header.bits}, so that their "
                "pixels may be on different scales; save all with the same number of bits"
            )
    return first == 16


def _refuse_two_sizes(files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    height, width = sizes[0]
    for path, (h, w) in zip(files, sizes, strict=True):
        if (h, w) != (height, width):
            raise InputError(
                f"{files[0]} has {width}x{height} pixels but {path} {w}x{h}; "
                "scale all to one size with --data.size 32"
            )


def _header(image: Any) -> _Header:
    """Return the header of an opened file; ValueError for pixels that would not be read."""
    width, height = image.size
    tag = _orientation(image)
    # Pillow itself turns TIFF images, and gives the size of the turned one
    sides = tag in (5, 6, 7, 8) and image.format != "TIFF"
    return _Header(
        size=(width, height) if sides else (height, width),
        mode=image.mode,
        bits=16 if _has_sixteen_bits(image) else 8,
        turned=tag in _UPRIGHT,
    )


def _has_sixteen_bits(image: Any) -> bool:
    """Return whether channels have 16 bits; ValueError where not all of them would be read."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode in _SIXTEEN_BITS:
        return True
    stored = {_stored_as(tile) for tile in image.tile}
    if stored and all(map(_WIDE.fullmatch, stored)):
        return True
    if _depth(image) > 8 or any(re.search(";16[BLN]", name) for name in stored):
        raise ValueError(
            "its pixels have 16 bits in an arrangement of which only 8 bits would be read; save it "
            "as a PNG file, grey without alpha or RGB"
        )
    return False


def _depth(image: Any) -> int:
    """Return the bits of a channel where a format says so; else 8."""
    if image.format == "TIFF":
        return int(np.max(image.tag_v2.get(_TIFF_DEPTH, 8)))
    if image.format == "PPM":  # the last argument is the largest number, if it is not 255
        largest = [tile.args[-1] for tile in image.tile if isinstance(tile.args, tuple)]
        return max((one.bit_length() for one in largest if isinstance(one, int)), default=8)
    if image.format == "JPEG2000":
        with open(image.filename, "rb") as file:
            head = file.read(1 << 16)
        # markers of the start and of the size, then 38 bytes, then the depth of the first channel
        start = head.find(b"\xff\x4f\xff\x51")
        return 8 if start < 0 else (head[start + 42] & 127) + 1
    return 8


def _orientation(image: Any) -> int:
    """Return the orientation of an image by its EXIF tag; 1 where it has none that can be read."""
    # a PNG file may have the tag behind its pixels, which are not decoded to find it
    if image.format != "TIFF" and "exif" not in image.info:
        return 1
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of damaged metadata, which say nothing about the pixels
        return 1


def _stored_as(tile: Any) -> str:
    """Return Pillow's name of the order of the bytes in a part of an image."""
    args = tile.args
    return str(args[0] if isinstance(args, tuple) and args else args)


def _read(path: Path, grey: bool, shape: tuple[int, int]) -> NDArray[Any]:
    """Return the pixels (H, W, C), scaled."""

    def pixels(image: Any) -> NDArray[Any]:
        if any(_WIDE.fullmatch(_stored_as(tile)) for tile in image.tile):
            upper = _array(_upright(image))[..., :3].astype(np.uint16)
            return scale_one(upper << 8 | _open(path, _lower_bytes), shape)
        if image.format == "JPEG":
            # decodes at an eighth to a half of the size, but at least twice the wanted one
            side = 2 * max(shape) if _orientation(image) in _UPRIGHT else 0
            image.draft(image.mode, (side or 2 * shape[1], side or 2 * shape[0]))
        return scale_one(_pixels(_upright(image), grey), shape)

    return _open(path, pixels)


def _upright(image: Any) -> Any:
    """Return the image turned as its tag says; Pillow itself turns TIFF images."""
    from PIL import Image

    turn = None if image.format == "TIFF" else _UPRIGHT.get(_orientation(image))
    return image.transpose(getattr(Image.Transpose, turn)) if turn else image


def _open(path: Path, use: Any) -> Any:
    from PIL import Image

    try:
        # Pillow warns of images above 89 million pixels, and of metadata that it cannot read
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(path, formats=tuple(_ENDINGS)) as image,
        ):
            return use(image)
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(
            f"{path} has more than {limit:,} pixels, the most that are read; scale it down"
        ) from None
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        # on damaged data
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if str(path) in reason:
            reason = f"not a {KINDS} file"
        raise InputError(f"{path} cannot be read ({reason}); repair or remove it") from None


def _lower_bytes(image: Any) -> NDArray[np.uint8]:
    """Return the lower 8 of the 16 bits of each colour, (H, W, 3)."""
    tiles = []
    for tile in image.tile:
        args = tile.args
        name = _WIDE.sub(lambda found: f"{found[1]};16{_SWAPPED[found[2]]}", _stored_as(tile))
        swapped = (name, *args[1:]) if isinstance(args, tuple) else name
        tiles.append(tile._replace(args=swapped))
    image.tile = tiles
    return _array(_upright(image))[..., :3]


def _array(image: Any) -> NDArray[Any]:
    image.load()  # which raises for damaged data, where numpy returns an array of one object
    return np.asarray(image)


def _pixels(image: Any, grey: bool) -> NDArray[Any]:
    if image.mode in _SIXTEEN_BITS:
        numbers = _array(image)
        if numbers.min() < 0 or numbers.max() > 65535:
            raise ValueError("its pixels need more than 16 bits; save it with 8 or 16")
        wide = numbers.astype(np.uint16)[..., None]
        return wide if grey else np.repeat(wide, 3, axis=2)
    if grey:
        return np.asarray(image.convert("L"))[..., None]
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
