"""What a kernel backend is: ``prepare`` once per image, then ``block`` for blocks of entries.

A backend runs on one device and knows no cluster, store or scheduler. ``registry`` chooses one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ntkdist.checks import check_choice
from ntkdist.errors import InputError
from ntkdist.networks.architecture import Architecture

KINDS = ("ntk", "nngp")


class Backend(Protocol):
    """One way to compute kernel entries on one device.

    Attributes:
        name: Short name, as in ``backend="cpu"``.
        arithmetic: Name and version of the arithmetic. Equal arithmetic and equal
            inputs give equal bits, so it is part of a run's fingerprint.
        dtype: The dtype of the entries, ``float32`` or ``float64``.
        threads: How many threads ``block`` uses.

    A backend raises ``DeviceLostError`` if its process cannot use the device any more.

    Two methods may be left out: ``of_version`` (see ``registry.of_version``), and
    ``flipped(state, even)``, which returns the state of the images with left and right exchanged,
    for networks of which ``invariance.uneven_layer`` is None. Of images that are their own mirror
    image, where ``even`` (n,) is True, it has the bits of ``state``.
    """

    name: str
    arithmetic: str
    dtype: str
    threads: int

    def supports(
        self, arch: Architecture, image_shape: tuple[int, int, int], dtype: str | None = None
    ) -> str | None:
        """Return None if the backend computes ``arch`` on (H, W, C) images, else the reason.

        ``dtype`` None asks about the backend's own.
        """

    def prepare(self, arch: Architecture, images: np.ndarray) -> Any:
        """Do everything that costs O(n): diagonals per layer, layouts.

        Args:
            arch: The network.
            images: (n, H, W, C), any float dtype.

        Returns:
            A state to hand to ``block``; it can be kept and used in many blocks.
        """

    def block(
        self, a: Any, b: Any, kinds: Sequence[str] = ("ntk",), *, symmetric: bool = False
    ) -> dict[str, np.ndarray]:
        """Compute one block of entries.

        Args:
            a: State of the row images.
            b: State of the column images. The same object as ``a`` means a
                diagonal block, which is symmetric to the bit.
            kinds: Which of ``ntk`` and ``nngp``; all come out of one pass.
            symmetric: Whether the block is symmetric though ``a`` and ``b`` are not the same
                object; its upper triangle is computed then and mirrored.

        Returns:
            kind → (n_a, n_b) of ``dtype``.
        """


def check_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return ``kinds`` as a tuple in the order of ``KINDS``, or raise ``InputError``."""
    for kind in kinds:
        check_choice("kind", kind, KINDS)
    if not kinds:
        raise InputError(f"no kind of kernel is given; take one or more of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)


def as_images(images: np.ndarray) -> np.ndarray:
    """Return (n, H, W, C) images as float64, or raise ``InputError``."""
    x = np.asarray(images, dtype=np.float64)
    if x.ndim != 4 or 0 in x.shape:
        raise InputError(f"images have shape {np.shape(images)}; (n, H, W, C) is needed")
    if not np.isfinite(x).all():
        first = int(np.argwhere(~np.isfinite(x))[0][0])
        raise InputError(f"image {first} holds NaN or infinite pixels; repair it or leave it out")
    return x


def check_pair(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Raise ``InputError`` unless row and column images have one shape (H, W, C)."""
    if a != b:
        raise InputError(
            f"row images have shape {a} and column images {b}; both need the same shape"
        )
