"""Networks as the fast backends read them: blocks of linear layers between average pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import AvgPool, Conv, Dense, Erf, Flatten, GlobalAvgPool, Layer, Relu


@dataclass(frozen=True)
class Link:
    """One linear layer and what stands behind it.

    Attributes:
        size: Filter edge, odd; 1 for a dense layer.
        W_std: Weight standard deviation.
        b_std: Bias standard deviation.
        trainable: Whether it adds its K to Θ.
        activation: ``relu``, ``erf`` or an empty string.
    """

    size: int
    W_std: float
    b_std: float
    trainable: bool
    activation: str = ""


@dataclass(frozen=True)
class Block:
    """Linear layers on pixels, then an average over windows.

    Attributes:
        links: The layers; none where one pool follows another.
        pool: Edge of the windows behind them; 0 at the end of the chain.
    """

    links: tuple[Link, ...]
    pool: int = 0


@dataclass(frozen=True)
class Chain:
    """A network as blocks on pixels, a mean over positions, and layers on vectors.

    Attributes:
        blocks: At least one; all but the last end in a pool.
        pooled: Mean over all pairs of positions (GlobalAvgPool), else over aligned ones.
        tail: Dense, Relu and Erf layers behind the mean.
        spatial: False for a fully connected network, which reads images as vectors.
    """

    blocks: tuple[Block, ...]
    pooled: bool
    tail: tuple[Layer, ...]
    spatial: bool = True

    @property
    def links(self) -> tuple[Link, ...]:
        """The links of all blocks in order."""
        return tuple(link for block in self.blocks for link in block.links)

    @property
    def homogeneous(self) -> bool:
        """Whether scaling an image scales its kernels: no bias and no erf before the mean."""
        return not any(link.b_std or link.activation == "erf" for link in self.links)

    @property
    def bends_behind(self) -> bool:
        """Whether a nonlinearity stands behind the mean."""
        return any(isinstance(layer, (Relu, Erf)) for layer in self.tail)

    def on(self, H: int, W: int) -> Chain:
        """Return the same network on H × W pixels with pools at the end taken together.

        Averages of equal windows over an average are one average over all pixels.
        """
        edges = [(H, W)]
        for block in self.blocks[:-1]:
            H, W = H // block.pool, W // block.pool
            edges.append((H, W))
        last = len(self.blocks) - 1
        if not self.pooled and edges[last] != (1, 1):
            return self
        kept = last
        while kept > 0 and not self.blocks[kept].links:
            pool = self.blocks[kept - 1].pool
            if edges[kept - 1] != (edges[kept][0] * pool, edges[kept][1] * pool):
                break
            kept -= 1
        if kept == last:
            return self
        blocks = (*self.blocks[:kept], Block(self.blocks[kept].links))
        return Chain(blocks, True, self.tail, self.spatial)


_IDENTITY = Link(1, 1.0, 0.0, False)


def chain_of(arch: Architecture) -> Chain | str:
    """Return ``arch`` as a chain, or the reason why it is none."""
    blocks: list[Block] = []
    links: list[Link] = []
    tail: list[Layer] = []
    spatial = arch.is_spatial
    ended = pooled = False
    for layer in arch.layers:
        match layer:
            case Flatten() if not spatial:
                continue
            case Dense() | Relu() | Erf() if ended:
                tail.append(layer)
            case Flatten() | GlobalAvgPool():
                ended, pooled = True, isinstance(layer, GlobalAvgPool)
            case Relu() | Erf():
                # with no linear layer before it, it stands behind the identity
                last = links.pop() if links and not links[-1].activation else _IDENTITY
                name = "relu" if isinstance(layer, Relu) else "erf"
                links.append(Link(last.size, last.W_std, last.b_std, last.trainable, name))
            case Dense():
                links.append(Link(1, layer.W_std, layer.b_std, layer.trainable))
            case Conv() if layer.size % 2 and layer.padding == "SAME" and layer.stride == 1:
                links.append(Link(layer.size, layer.W_std, layer.b_std, layer.trainable))
            case AvgPool():
                blocks.append(Block(tuple(links), layer.size))
                links = []
            case Conv():
                return f"{layer!r} is not an odd filter with stride 1 and SAME padding"
            case _:
                return f"{type(layer).__name__} is covered by neither the cpu nor the cuda backend"
    blocks.append(Block(tuple(links)))
    return Chain(tuple(blocks), pooled, tuple(tail), spatial)


def not_a_chain(arch: Architecture) -> str | None:
    """Return why neither fast backend computes ``arch``; None where both do."""
    chain = chain_of(arch)
    return chain if isinstance(chain, str) else None


def linear_tail(tail: Sequence[Layer]) -> np.ndarray:
    """Return (5,) α, β, γ, δ, ε of dense layers: αK + β in K's place, γΘ + δK + ε in Θ's."""
    alpha, beta, gamma, mixed, rest = 1.0, 0.0, 1.0, 0.0, 0.0
    for layer in tail:
        assert isinstance(layer, Dense)
        scale = layer.W_std**2
        alpha, beta = scale * alpha, scale * beta + layer.b_std**2
        trained = float(layer.trainable)
        gamma, mixed, rest = (
            scale * gamma,
            scale * mixed + trained * alpha,
            scale * rest + trained * beta,
        )
    return np.array([alpha, beta, gamma, mixed, rest])
