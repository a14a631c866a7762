"""Kernel matrices in memory, and blocks of several networks on the same images in one pass.

Networks that share first layers, mean and last layers may differ in depth alone. A GPU computes
the shared layers once: CNTK-GAP at depths 3, 4, 6, 11 and 21 costs as much as depth 21.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ntkdist.checks import check_choice
from ntkdist.errors import InputError
from ntkdist.kernels.backend import check_kinds
from ntkdist.kernels.chain import Chain, chain_of
from ntkdist.kernels.invariance import INVARIANCES, refuse_features
from ntkdist.kernels.ranges import check_entries
from ntkdist.kernels.registry import select_backend
from ntkdist.networks.architecture import Architecture, ArchitectureSpec
from ntkdist.pixels import array_of, channels_last, check_raw_scale


def kernel_matrix(
    arch: ArchitectureSpec,
    x1: Any,
    x2: Any = None,
    *,
    kind: str = "ntk",
    backend: str = "auto",
    dtype: str = "float32",
    threads: int | None = None,
    invariance: str = "none",
) -> np.ndarray:
    """Compute the kernel matrix of two sets of images, or of rows of features.

    Channels come last. Arrays that are surely (n, C, H, W) raise an error, as everywhere in this
    package (the rule is that of ``ntkdist.pixels.channels_last``): their kernel would be another
    one and look much the same. The rule leaves square images of any size, and all of at most four
    channels; for the few that it refuses wrongly, maps of one to four rows with more channels,
    exchange height and width: the kernel stays the same up to rounding.

    Args:
        arch: A preset name, a list of layers, canonical text, or an ``Architecture``.
        x1: (n, H, W, C) images, (n, H, W) for one channel, or a list of images of one size; or
            (n, D) features for a fully connected network. The numbers are taken as they are; use
            ``ntkdist.data.Preprocessor`` to prepare both sets alike. What is on a GPU already
            (``__cuda_array_interface__``) is read there by the cuda backend.
        x2: m images or rows of features of the same shape; None means ``x1``, and half of the
            entries are computed.
        kind: ``ntk`` or ``nngp``.
        backend: ``auto``, ``cuda``, ``cpu``, ``stax`` or ``reference``.
        dtype: ``float32`` or ``float64``.
        threads: Threads to use; None takes all cores.
        invariance: ``none``, or ``flip``: averaged over horizontal flips, so that an image and its
            mirror image have equal entries (``kernels.invariance``); two entries are computed for
            each, or four where a layer treats left and right differently. Not for features.

    Returns:
        (n, m) of ``dtype``; symmetric to the bit when ``x2`` is None.

    Raises:
        InputError: For bad images, an unknown kind or backend, an architecture that no backend
            covers, integers in one of x1 and x2 and other pixels on another scale in the other, or
            entries that would all be 0 or leave the range of ``dtype``.
    """
    (kind,) = check_kinds([kind])
    arch = Architecture.parse(arch)
    check_choice("invariance", invariance, INVARIANCES)
    x1 = _rows(arch, x1, invariance)
    x2 = None if x2 is None else _rows(arch, x2, invariance)
    if isinstance(x1, np.ndarray) and isinstance(x2, np.ndarray):
        check_raw_scale(x1, x2, "images of x2")
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    chosen = select_backend(
        arch, x1.shape[1:], name=backend, dtype=dtype, threads=threads, invariance=invariance
    ).backend
    reads_device = chosen.name == "cuda" and invariance == "none"
    states = []
    for x in (x1,) if x2 is None else (x1, x2):
        states.append(chosen.prepare(arch, x if reads_device else _on_host(x)))
        check_entries(arch, _on_host(x), dtype, (kind,))
    entries = chosen.block(states[0], states[-1], (kind,))[kind]
    if not np.isfinite(entries).all():
        raise InputError(
            f"an entry is beyond the largest {dtype}; take dtype float64, or rescale the images"
        )
    return entries


def _on_host(x: Any) -> np.ndarray:
    if not hasattr(x, "__cuda_array_interface__"):
        return np.asarray(x)
    from ntkdist.kernels.cuda.prepare import on_host

    return on_host(x)


def _rows(arch: Architecture, x: Any, invariance: str) -> Any:
    """Return images (n, H, W, C); features (n, D) as images of one pixel, if the network may."""
    on_device = hasattr(x, "__cuda_array_interface__")
    x = channels_last(x if on_device else array_of(x))
    if x.ndim != 2:
        return x
    arch.check_features()
    refuse_features("invariance", invariance)
    if not on_device and not (finite := np.isfinite(x)).all():
        row, column = np.unravel_index(int(np.argmin(finite)), x.shape)
        raise InputError(
            f"features hold NaN or infinity, the first in row {row}, column {column} (counted "
            "from 0); repair or leave out these rows"
        )
    return x.reshape(x.shape[0], 1, 1, x.shape[1])


def depths_of(archs: Sequence[Architecture]) -> tuple[int, ...] | None:
    """Return how many links (see ``Link``) each of several networks has, in their order.

    None unless the links of each are the first links of the deepest, no network has a pool, and
    the mean and the layers behind it are the same.
    """
    chains = [chain_of(arch) for arch in archs]
    plain = [chain for chain in chains if isinstance(chain, Chain)]
    if len(plain) < len(chains) or any(len(chain.blocks) > 1 or not chain.links for chain in plain):
        return None
    deepest = max(plain, key=lambda chain: len(chain.links))
    if not all(
        chain.links == deepest.links[: len(chain.links)]
        and (chain.pooled, chain.windows, chain.tail, chain.spatial)
        == (deepest.pooled, deepest.windows, deepest.tail, deepest.spatial)
        for chain in plain
    ):
        return None
    return tuple(len(chain.links) for chain in plain)


class Family:
    """Kernel entries of several networks.

    Args:
        backend: Computes them.
        archs: The networks, which it must cover.
        image_shape: (H, W, C).

    Attributes:
        together: Whether one pass computes all of them.
    """

    def __init__(
        self, backend: Any, archs: Sequence[Architecture], image_shape: tuple[int, int, int]
    ) -> None:
        self._backend, self._archs = backend, tuple(archs)
        depths = depths_of(archs)
        self.together = False
        if depths is not None and hasattr(backend, "can_read"):
            self._deepest = archs[int(np.argmax(depths))]
            self._reads = tuple(sorted({*depths} - {max(depths)}))
            self._at = [sorted({*depths}).index(depth) for depth in depths]
            self.together = backend.can_read(self._deepest, image_shape)

    def prepare(self, images: Any) -> Any:
        """Compute what depends on one image of (n, H, W, C) alone; see ``Backend.prepare``."""
        if self.together:
            return self._backend.prepare(self._deepest, images, self._reads)
        return [self._backend.prepare(arch, images) for arch in self._archs]

    def block(self, a: Any, b: Any, kinds: Sequence[str] = ("ntk",)) -> list[dict[str, np.ndarray]]:
        """Compute (n_a, n_b) entries of each kind, for each network in their order.

        Args:
            a: What ``prepare`` returned for the row images.
            b: For the column images; ``a`` itself computes half of the entries.
            kinds: Which of ``ntk`` and ``nngp``.

        Returns:
            kind → entries, for each network.
        """
        if self.together:
            networks = self._backend.blocks(a, b, kinds)
            return [networks[at] for at in self._at]
        return [self._backend.block(x, y, kinds) for x, y in zip(a, b, strict=True)]
