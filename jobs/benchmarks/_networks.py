"""Networks that are no presets, by the names benchmarks give them, and cells of any network."""

from __future__ import annotations

from typing import Any

import numpy as np

from ntkdist import Architecture, Conv, Dense, Gelu, GlobalAvgPool, LeakyRelu, Relu, Residual
from ntkdist.kernels.chain import chain_of, plan_of

NETWORKS: dict[str, list[Any]] = {
    # like a WideResNet: three blocks of two filters, the last two with stride 2
    "strided-residual": [
        Conv(),
        *(
            Residual(
                (Relu(), Conv(stride=stride), Relu(), Conv()),
                (Conv(1, stride=stride),) if stride > 1 else (),
            )
            for stride in (1, 2, 2)
        ),
        *(Relu(), GlobalAvgPool(), Dense()),
    ],
    # as many filters and ReLUs as cntk-gap-4, with one branch
    "residual-3": [
        *(Conv(), Relu(), Residual((Conv(), Relu(), Conv()))),
        *(Relu(), GlobalAvgPool(), Dense()),
    ],
    "leaky-3": [*(Conv(), LeakyRelu(0.1)) * 3, GlobalAvgPool(), Dense()],
    "gelu-3": [*(Conv(), Gelu()) * 3, GlobalAvgPool(), Dense()],
}


def network(name: str) -> Architecture:
    """Return a network by its name here, else as ``Architecture.parse`` reads it.

    Raises:
        InputError: If neither knows it.
    """
    return Architecture.parse(NETWORKS.get(name, name))


def cells_of(arch: Architecture, shape: tuple[int, int, int]) -> int | None:
    """Return the cells of a pair of (H, W, C) images that are computed.

    None for graphs and behind pools between layers, where layers work on different numbers.
    """
    chain = chain_of(arch)
    if chain is None or len(chain.blocks) > 1:
        return None
    H, W, _ = shape
    plan = plan_of(chain, shape, "float32")
    sides = [
        np.where(parts & 1, edge - far, 0) + np.where(parts & 2, far, 0)
        for edge, far, parts in (
            (H, plan.classes // W, plan.parts % 4),
            (W, plan.classes % W, plan.parts // 4),
        )
    ]
    return int((sides[0] * sides[1]).sum())
