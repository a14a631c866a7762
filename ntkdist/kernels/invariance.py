"""Kernels averaged over horizontal flips of the images, by any backend.

For a kernel k and the mirror image fx of x, left and right exchanged, the averaged kernel is

    K(x, x') = ½ (k(x, x') + k(x, fx')).

Where every layer treats left and right alike, k(fx, fx') = k(x, x'). K is then symmetric, and has
equal entries for an image and its mirror image. Where a layer does not, such as a filter whose
stride does not fit the width, both images of a pair are flipped,

    K(x, x') = ¼ (k(x, x') + k(x, fx') + k(fx, x') + k(fx, fx')),

which equals the mean above where k(fx, fx') = k(x, x').

Of an image and its mirror image the same one is always prepared as x (``canonical``), so that the
entries of both have equal bits as rows of a block, and as columns. A symmetric block that holds
both is computed above the diagonal only: there x may be the row of its entry with a third image and
fx the column, and their roundings differ.

Source: Haasdonk, Vossen and Burkhardt 2005, *Invariance in Kernel Methods by Haar-Integration
Kernels*; for flips and convolutional tangent kernels Li et al. 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkdist.errors import InputError
from ntkdist.kernels.backend import Backend, as_images
from ntkdist.kernels.windows import windows
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import AvgPool, Conv, Layer, Residual

INVARIANCES = ("none", "flip")


@dataclass(frozen=True)
class FlipState:
    """Prepared images and their mirror images.

    Attributes:
        images: State of the images, each turned by ``canonical``.
        mirrored: State of their mirror images.
        both: Whether both images of a pair have to be flipped.
    """

    images: Any
    mirrored: Any
    both: bool

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.images.nbytes) + int(self.mirrored.nbytes)


class FlipAveraged:
    """A backend's kernels averaged over horizontal flips; see ``backend.Backend``.

    ``block`` takes as long as two blocks of the backend, or four where ``uneven_layer`` finds a
    layer. Name, arithmetic, dtype and threads are the backend's.

    Args:
        backend: Computes the kernel k.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name = backend.name
        self.arithmetic = backend.arithmetic
        self.dtype = backend.dtype
        self.threads = backend.threads

    def of_version(
        self, arithmetic: str, arch: Architecture, image_shape: tuple[int, int, int]
    ) -> FlipAveraged | None:
        """Return the same average of an earlier version's kernels; None if there is none."""
        older = getattr(self._backend, "of_version", None)
        backend = None if older is None else older(arithmetic, arch, image_shape)
        return None if backend is None else FlipAveraged(backend)

    def supports(
        self, arch: Architecture, image_shape: tuple[int, int, int], dtype: str | None = None
    ) -> str | None:
        """Return None if the backend computes ``arch``, else the reason."""
        return self._backend.supports(arch, image_shape, dtype)

    def prepare(self, arch: Architecture, images: np.ndarray) -> FlipState:
        """Prepare (n, H, W, C) images and their mirror images.

        The state of the mirror images is made from the state of the images where the backend can do
        so, every layer treats left and right alike and the network reads pixels. (One without
        spatial layers reads an image as a vector, whose state has no columns to exchange.)
        """
        x, even = canonical(as_images(images))
        state = self._backend.prepare(arch, x)
        both = uneven_layer(arch, x.shape[2]) is not None
        flipped: Callable[[Any, np.ndarray], Any] | None = getattr(self._backend, "flipped", None)
        if flipped is None or both or not arch.is_spatial:
            return FlipState(state, self._backend.prepare(arch, mirror_images(x)), both)
        return FlipState(state, flipped(state, even), both)

    def block(
        self,
        a: FlipState,
        b: FlipState,
        kinds: Sequence[str] = ("ntk",),
        *,
        symmetric: bool = False,
    ) -> dict[str, np.ndarray]:
        """Compute (n_a, n_b) averaged entries of each kind; the terms have a fixed order."""
        pairs = [(a.images, b.images), (a.images, b.mirrored)]
        if a.both:
            pairs += [(a.mirrored, b.images), (a.mirrored, b.mirrored)]
        totals: dict[str, np.ndarray] = {}
        # k(x, fx') and k(fx, x') are each other's transpose: their sum is symmetric, so that each
        # may be mirrored at the diagonal
        for x, y in pairs:
            block = self._backend.block(x, y, kinds, symmetric=symmetric or a is b)
            for kind, entries in block.items():
                entries *= entries.dtype.type(1 / len(pairs))
                if kind in totals:
                    totals[kind] += entries
                else:
                    totals[kind] = entries
        return totals


def mirror_images(images: np.ndarray) -> np.ndarray:
    """Return (n, H, W, C) images with left and right exchanged, in C order."""
    return np.ascontiguousarray(images[:, :, ::-1])


def canonical(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of (n, H, W, C) images itself or its mirror image, the same one for both.

    The first value in which the two differ is smaller in the one that is returned.

    Returns:
        These images, and (n,) bool, which of them are their own mirror image.
    """
    n = len(images)
    flat, mirrored = images.reshape(n, -1), mirror_images(images).reshape(n, -1)
    differs = flat != mirrored
    first = np.arange(n), differs.argmax(axis=1)
    turned = np.where((flat[first] > mirrored[first])[:, None], mirrored, flat)
    return turned.reshape(images.shape), ~differs[first]


def uneven_layer(arch: Architecture, width: int) -> Conv | AvgPool | None:
    """Return the first layer that treats left and right differently on images of a width.

    None means k(fx, fx') = k(x, x') for all images. A filter or pool treats both alike if its
    windows along a row are the same when the row is reversed. Fully connected layers add up all
    pixels in any order.

    Args:
        arch: The network.
        width: Columns of pixels.
    """
    return _first_uneven(arch.layers, width)[0]


def _first_uneven(layers: Sequence[Layer], width: int) -> tuple[Conv | AvgPool | None, int]:
    """Return the first uneven layer, and the columns of the layers' output; 0 if one is uneven."""
    for layer in layers:
        match layer:
            case Conv() | AvgPool():
                counts = windows(width, layer.size, _stride(layer), layer.padding)
                if not (counts == counts[::-1, ::-1]).all():
                    return layer, 0
                width = len(counts)
            case Residual():
                uneven, behind = _first_uneven(layer.branch, width)
                uneven = uneven or _first_uneven(layer.shortcut, width)[0]
                if uneven is not None:
                    return uneven, 0
                width = behind
            case _:  # acts on each pixel alone, or adds up all pixels
                continue
    return None, width


def refuse_features(name: str, invariance: str) -> None:
    """Raise ``InputError`` for features with an invariance; ``name`` is the setting's name."""
    if invariance != "none":
        raise InputError(
            f"{name}={invariance} averages over images with left and right exchanged, and features "
            f"have no left and right; take {name}=none"
        )


def in_words(invariance: str, arch: Architecture, image_shape: tuple[int, int, int]) -> str:
    """Return what an average costs, to append to a backend's reason; empty for ``none``."""
    if invariance == "none":
        return ""
    width = image_shape[1]
    uneven = uneven_layer(arch, width)
    if uneven is None:
        return "; averaged over horizontal flips, 2 entries of the kernel for each"
    return (
        "; averaged over horizontal flips of both images, 4 entries of the kernel for each, "
        f"because a layer treats left and right of {width} columns differently: {_window(uneven)}"
    )


def _window(layer: Conv | AvgPool) -> str:
    name, size = type(layer).__name__, layer.size
    return f"{name} of size {size}, stride {_stride(layer)}, padding {layer.padding}"


def _stride(layer: Conv | AvgPool) -> int:
    return layer.step if isinstance(layer, AvgPool) else layer.stride
