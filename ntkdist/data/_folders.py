"""``images:DIR``: a folder for each class, holding PNG or JPEG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.data._assemble import assemble
from ntkdist.data._paths import existing_folder
from ntkdist.data.dataset import ImageSet
from ntkdist.errors import InputError

_SUFFIXES = frozenset([".png", ".jpg", ".jpeg"])
# Pillow's names for one grey value a pixel, with and without alpha
_GREY = frozenset(["1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I"])
_SIXTEEN_BITS = frozenset(["I;16", "I;16B", "I;16L", "I"])


def read(folder: Path, split: str) -> ImageSet:
    """Read one split.

    Args:
        folder: Holds a folder for each class; or ``train`` and ``test`` folders that do,
            which then are the splits. Class names and files are taken in sorted order
            (by code point, so ``10`` stands before ``2``); hidden ones are passed over.
        split: ``train``, or ``test`` where there are such folders.

    Returns:
        uint8 images, C = 1 if every image of the split is greyscale, else 3. Alpha is
        dropped, 16-bit grey becomes 8-bit, rotation tags are ignored. File names are
        relative to ``folder``.

    Raises:
        InputError: No images, two sizes (both files named), or a damaged file (named).
    """
    existing_folder(folder)
    names, place = _classes(folder, split)
    files: list[Path] = []
    labels: list[int] = []
    for k, name in enumerate(names):
        if not (place / name).is_dir():
            continue  # a class of the other split only
        found = _images(place / name)
        if not found:
            raise InputError(
                f"{place / name} holds no PNG or JPEG file; remove the folder or fill it"
            )
        files += found
        labels += [k] * len(found)
    return assemble(
        f"{folder} ({split})",
        _decode(files),
        np.asarray(labels, dtype=np.int64),
        class_names=names,
        files=[path.relative_to(folder).as_posix() for path in files],
    )


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if not entry.name.startswith((".", "__")) and entry.is_dir()
    )


def _images(folder: Path) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    )


def _classes(folder: Path, split: str) -> tuple[list[str], Path]:
    """Return the class names of all splits and the folder that holds this split's."""
    by_split = {name: _folders(folder / name) for name in ("train", "test")}
    if any(by_split.values()):
        if not by_split[split]:
            raise InputError(
                f"{folder} has no class folders under {split}/; add them or read the other split"
            )
        return sorted({*by_split["train"], *by_split["test"]}), folder / split
    if split == "test":
        raise InputError(
            f"{folder} has no test split; put the class folders into {folder}/train and "
            f"{folder}/test"
        )
    names = _folders(folder)
    if not names:
        loose = len(_images(folder))
        raise InputError(
            f"{folder} holds no class folders ({loose} images lie in it directly); "
            "put the images of each class into a folder of its own"
        )
    return names, folder


def _decode(files: list[Path]) -> NDArray[np.uint8]:
    """Return all images in one array (N, H, W, C), allocated once.

    The first pass reads only the headers, so that two sizes are found before hours of
    decoding and the whole set is never held twice.
    """
    headers = [_open(path, decode=False) for path in files]
    (width, height), first = headers[0][0], files[0]
    for path, (size, _) in zip(files, headers, strict=True):
        if size != (width, height):
            raise InputError(
                f"{first} has {width}x{height} pixels but {path} {size[0]}x{size[1]}; "
                "bring all images to one size"
            )
    grey = all(mode in _GREY for _, mode in headers)
    images = np.empty((len(files), height, width, 1 if grey else 3), dtype=np.uint8)
    for i, path in enumerate(files):
        images[i] = _open(path, decode=True, grey=grey)
    return images


def _open(path: Path, *, decode: bool, grey: bool = False) -> Any:
    """Return ((width, height), mode), or the pixels (H, W, C) if ``decode``."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if not decode:
                return image.size, image.mode
            return _pixels(image, grey)
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        # on damaged data; whichever it is, the user needs the name of the file.
        reason = str(error) or type(error).__name__
        if str(path) in reason:
            reason = "not a PNG or JPEG file"
        raise InputError(f"{path} cannot be read ({reason}); repair or remove it") from None


def _pixels(image: Any, grey: bool) -> NDArray[np.uint8]:
    if image.mode in _SIXTEEN_BITS:
        # Pillow clips at 255 instead of scaling
        wide = np.asarray(image).astype(np.int64)
        narrow = ((wide * 255 + 32767) // 65535).astype(np.uint8)
        return narrow[..., None] if grey else np.repeat(narrow[..., None], 3, axis=2)
    if grey:
        return np.asarray(image.convert("L"))[..., None]
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
