"""Images as callers give them: in one array, channels last, on one scale.

N is the number of images; H, W and C are their height, width and channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError

_MOST_CHANNELS = 4  # of pictures: grey, grey and alpha, RGB, RGB and alpha
_FACTOR = 16  # between two scales, such as 0..16 and 0..1
_BEYOND_BYTES = 510  # no pixels of one scale with uint8 are larger, resampling included
_SIGNED = 1 / 8  # a negative share of the range that resampling does not cause
_FEW = 8  # images of which none may have a dark pixel
_PICTURE_SIDE = 8  # a grey set of so many images, so high and at most 4 wide, is rather one picture


def array_of(images: Any) -> NDArray[Any]:
    """Return what holds images, or rows of features, as one array of real numbers.

    Args:
        images: An array; or a list of arrays or of Pillow images, all of one shape and mode.

    Returns:
        The array, of any shape and any real dtype.

    Raises:
        InputError: For anything else, such as None, text, images of several sizes, palette images
            or masked values.
    """
    if _is_pillow(images):
        raise InputError("images is one Pillow image; give a list of at least two")
    if np.ma.is_masked(images):
        raise InputError("images hold masked values; fill them, or leave out these images")
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        _check_pillow(images)
    try:
        array = np.asarray(images)
        if array.dtype == object and array.ndim:
            # an array of arrays, or of Python numbers
            array = np.asarray(images if isinstance(images, list) else array.tolist())
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(_why_no_array(images, error)) from None
    if array.dtype.kind not in "buif":
        if array.dtype == object or not array.ndim:
            raise InputError(_why_no_array(images, None))
        what = "features" if array.ndim == 2 else "images"
        raise InputError(
            f"{what} have dtype {array.dtype}; real numbers are needed, such as uint8 or float32"
        )
    return array


def image_array(images: Any) -> NDArray[Any]:
    """Return images as one array (N, H, W, C), or features as (N, D); see ``channels_last``."""
    return channels_last(array_of(images))


def channels_last(x: Any) -> Any:
    """Return an array of images with its channel axis; features (N, D) are returned as they are.

    (N, H, W) are images of one channel. A shape (N, A, B, D) is taken for channels first, (N, C, H,
    W), if A ≤ 4 < D and A ≠ B: a picture has at most four channels, and is seldom at most four
    pixels high and then no square. Feature maps of (N, 4, 4, 512) and single pixels (N, 1, 1, D)
    are therefore accepted, and so are images 3 pixels high with up to 4 channels. What is refused
    and is channels last, such as (N, 1, 128, 12), can be given with height and width exchanged:
    filters and windows are square, so that the kernel is the same. Channels first is not noticed if
    pictures are at most 4 pixels wide or have more than 4 channels.

    Args:
        x: Anything with ``shape``, ``ndim`` and ``reshape``, on any device.

    Raises:
        InputError: For another number of axes, an axis of length 0, channels first, or one picture
            (H, W, C) in place of a set.
    """
    shape = tuple(int(side) for side in x.shape)
    if x.ndim == 2:
        if 0 in shape:
            raise InputError(
                f"features have shape {shape}; (N, D) with at least one row and one column is "
                "needed"
            )
        return x
    if x.ndim not in (3, 4):
        raise InputError(
            f"images have shape {shape}; (N, H, W, C) is needed: reshape them, greyscale may be "
            "(N, H, W)"
        )
    if 0 in shape:
        raise InputError(
            f"images have shape {shape}; (N, H, W, C) with at least one image of at least one "
            "pixel is needed"
        )
    if x.ndim == 3:
        if shape[2] in (1, 3, 4) and min(shape[:2]) >= _PICTURE_SIDE:
            raise InputError(
                f"images have shape {shape}, which looks like one picture (H, W, C); (N, H, W, C) "
                "is needed: x[None], or x[..., None] for a set of greyscale images"
            )
        return x.reshape(*shape, 1)
    _, a, b, d = shape
    if a <= _MOST_CHANNELS < d and a != b:
        raise InputError(
            f"images have shape {shape}, which looks like (N, C, H, W); (N, H, W, C) is needed: "
            f"x.transpose(0, 2, 3, 1), or x.transpose(0, 2, 1, 3) for images that are {a} "
            f"{'pixel' if a == 1 else 'pixels'} high and have {d} channels (the kernel is the same)"
        )
    return x


class ScaleError(InputError):
    """Two sets of images are not on one scale."""


@dataclass(frozen=True)
class PixelRange:
    """The range of the pixels of a set of images, by which its scale is known.

    Attributes:
        dtype: Of the array, such as ``uint8``.
        low: Least pixel.
        high: Largest pixel.
        images: N.
    """

    dtype: str
    low: float
    high: float
    images: int

    @classmethod
    def of(cls, images: NDArray[Any]) -> PixelRange:
        """Return the range of an array of images, N ≥ 1."""
        return cls(str(images.dtype), float(images.min()), float(images.max()), len(images))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PixelRange:
        """Build the range that ``to_dict`` wrote down."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.low:.6g} to {self.high:.6g} ({self.dtype})"

    def check(
        self, others: PixelRange, what: str = "training images", noun: str = "images"
    ) -> None:
        """Raise ScaleError for other images that cannot be on the scale of these.

        With m = max(|low|, |high|), they are refused if

        - their m is at least 16 times that of these images: 0..255 after 0..1, 0..65535 after
          0..255;
        - it is at most a sixteenth: 0..1 after 0..255;
        - one of the two is uint8 and the other's m is above 510, as that of 10 or 12 bits;
        - one of the two is signed (low < −m/8) and the other is not: −1..1 after 0..1, or
          standardised after raw pixels.

        The second and the last do not hold for images of the same integer dtype, which then may be
        dark, except for 8 or more images of zeros and ones, as dividing by 255 leaves; and no rule
        for images that are all 0. Fewer than 8 images may be without negative pixels where these
        have some. Different dtypes of one scale are accepted: 0..255 as float32 and as uint8.

        Args:
            others: Range of the other images.
            what: What these images are, for the message.
            noun: What the others are.
        """
        mine, theirs = self._size, others._size
        if not mine or not theirs:
            return
        same = self.dtype == others.dtype and np.dtype(self.dtype).kind in "iu"
        same = same and not (theirs <= 1 and others.images >= _FEW)
        wider, narrower = theirs >= _FACTOR * mine, mine >= _FACTOR * theirs
        bytes_alone = (self.dtype == "uint8") != (others.dtype == "uint8")
        wider = wider or (bytes_alone and max(mine, theirs) > _BEYOND_BYTES)
        bright = self._signed and others.low >= 0 and others.images < _FEW
        if wider or (not same and (narrower or (self._signed != others._signed and not bright))):
            raise ScaleError(
                f"{noun} range from {others}, the {what} from {self}, which is another scale; "
                "store both on the same scale, without dividing or standardising one alone"
            )

    @property
    def _size(self) -> float:
        return max(abs(self.low), abs(self.high))

    @property
    def _signed(self) -> bool:
        return self.low < -_SIGNED * self._size


def check_raw_scale(images: NDArray[Any], others: NDArray[Any], what: str = "others") -> None:
    """Raise ScaleError for two arrays of which one holds integers, on another scale than the other.

    For functions that take numbers as they are: two arrays of floats may have any scales.
    """
    if images.ndim != 4 or images.dtype == others.dtype:
        return
    if images.dtype.kind != "f" or others.dtype.kind != "f":
        PixelRange.of(others).check(PixelRange.of(images), what)


def _is_pillow(image: Any) -> bool:
    return hasattr(image, "getbands") and hasattr(image, "getpalette")


def _check_pillow(images: Sequence[Any]) -> None:
    """Raise InputError for Pillow images of several modes, or whose numbers are no colours."""
    modes = [image.mode for image in images if _is_pillow(image)]
    named = set(modes)
    if not named:
        return
    remedy = '[image.convert("RGB") for image in images]'
    if len(named) > 1:
        raise InputError(f"images are of the modes {', '.join(sorted(named))}; use {remedy}")
    if modes[0] in ("P", "PA"):
        raise InputError(
            f"images are of mode {modes[0]}, whose numbers are places in a palette; use {remedy}"
        )


def _why_no_array(images: Any, error: Exception | None) -> str:
    """Return why images do not make an array: the first that does not fit, or their type."""
    remedy = "give an array (N, H, W, C), or a list of images of one size"
    if isinstance(images, list | tuple | np.ndarray) and len(images):
        try:
            shapes = [tuple(np.shape(image)) for image in images]
        except (TypeError, ValueError, RuntimeError):
            shapes = [()]
        others = [i for i, shape in enumerate(shapes) if shape != shapes[0]]
        empty = next((i for i, image in enumerate(images) if image is None), None)
        if empty is not None:
            return f"images[{empty}] is None; {remedy}"
        if others:
            return (
                f"images[0] has shape {shapes[0]} but images[{others[0]}] {shapes[others[0]]}; "
                "bring all to one height, width and number of channels"
            )
    reason = f" ({error})" if error is not None else ""
    return f"images are given as {type(images).__name__}{reason}; {remedy}"
