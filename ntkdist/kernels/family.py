"""Several networks on the same images, in one pass of the deepest where they share its layers.

Networks that begin with the same layers and end in the same way differ in where they end. A GPU
passes their common layers once: CNTK-GAP at depths 3, 4, 6, 11 and 21 for the price of 21.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ntkdist.kernels.chain import Chain, chain_of
from ntkdist.networks.architecture import Architecture


def depths_of(archs: Sequence[Architecture]) -> tuple[int, ...] | None:
    """Return how many layers with a nonlinearity each of several networks has.

    Args:
        archs: Networks, any order.

    Returns:
        Counts in the order of ``archs``; None unless all are the beginning of the deepest, without
        pools on the way, with the same layers behind the same mean.
    """
    chains = [chain_of(arch) for arch in archs]
    plain = [chain for chain in chains if isinstance(chain, Chain)]
    if len(plain) < len(chains) or any(len(chain.blocks) > 1 or not chain.links for chain in plain):
        return None
    deepest = max(plain, key=lambda chain: len(chain.links))
    if not all(
        chain.links == deepest.links[: len(chain.links)]
        and (chain.pooled, chain.tail, chain.spatial)
        == (deepest.pooled, deepest.tail, deepest.spatial)
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
            found = self._backend.blocks(a, b, kinds)
            return [found[at] for at in self._at]
        return [self._backend.block(x, y, kinds) for x, y in zip(a, b, strict=True)]
