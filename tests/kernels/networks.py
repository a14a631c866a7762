"""Networks of every layer and of every meaningful pair, name → (layers, (H, W, C) of the images).

``NETWORKS`` holds all that neural-tangents computes too, as an independent check, and
``REFUSED_BY_STAX`` those that it refuses. Sides are odd and even, images seldom square, with 1 to 5
channels, and small enough for the (P Q)² cells of the reference.
"""

from __future__ import annotations

import itertools

from ntkdist.networks.layers import (
    ABRelu,
    AvgPool,
    Conv,
    Cos,
    Dense,
    Erf,
    Exp,
    ExpNormalized,
    Flatten,
    Gaussian,
    Gelu,
    GlobalAvgPool,
    Identity,
    Layer,
    LayerNorm,
    LeakyRelu,
    Nonlinearity,
    Relu,
    Residual,
    Sin,
)

Network = tuple[tuple[Layer, ...], tuple[int, int, int]]

RELU = Relu()
BIASED = Conv(b_std=0.2)
FIXED = Conv(b_std=0.1, trainable=False)
TOP = (GlobalAvgPool(), Dense(W_std=1.0))
FLAT = (Flatten(), Dense(W_std=1.0))

#: One of each nonlinearity, and more where its numbers matter.
NONLINEARITIES: dict[str, Nonlinearity] = {
    "Relu": Relu(),
    "LeakyRelu": LeakyRelu(0.2),
    "ABRelu": ABRelu(-0.5, 1.3),
    "Erf": Erf(),
    "Gelu": Gelu(),
    "Sin": Sin(),
    "Cos": Cos(2.0, 0.5, 1.0),
    "Exp": Exp(0.5, 0.4),
    "Gaussian": Gaussian(2.0, -0.3),
    "ExpNormalized": ExpNormalized(),
}
NUMBERS: dict[str, Nonlinearity] = {
    "absolute value": ABRelu(-1.0, 1.0),
    "linear as ABRelu": ABRelu(1.0, 1.0),
    "ReLU of the other side": ABRelu(1.5, 0.0),
    "steep leaky ReLU": LeakyRelu(3.0),
    "default leaky ReLU": LeakyRelu(),
    "Sin with a phase": Sin(0.7, 1.4, 0.3),
    "Sin as a Gaussian kernel": Sin(1.4, 1.0, 0.7853981633974483),
    "fast Sin": Sin(1.0, 6.0, -2.0),
    "Cos without a phase": Cos(),
    "Exp falling": Exp(-0.3, -0.5),
    "narrow Gaussian": Gaussian(1.0, -20.0),
    "ExpNormalized that shrinks": ExpNormalized(0.7, -1.5),
    "steep ExpNormalized": ExpNormalized(4.0),
}

LAYERS_ALONE: dict[str, Network] = {}
for name, layer in {**NONLINEARITIES, **NUMBERS, "Identity": Identity()}.items():
    LAYERS_ALONE |= {
        f"{name}, Flatten": ((BIASED, layer, Conv(), layer, *FLAT), (5, 4, 3)),
        f"{name}, GAP": ((Conv(), layer, BIASED, layer, *TOP), (4, 5, 2)),
        f"{name}, connected": ((Dense(), layer, Dense(b_std=0.1), layer, Dense()), (3, 2, 1)),
    }

#: Behind the mean over positions.
TAILS: dict[str, Network] = {
    f"{name} in the tail": ((Conv(), Relu(), *end, layer, Dense(b_std=0.1)), (4, 5, 2))
    for (name, layer), end in zip(
        NONLINEARITIES.items(), itertools.cycle((TOP, FLAT)), strict=False
    )
} | {
    "Identity in the tail": ((Conv(), Gelu(), *TOP, Identity(), Dense()), (4, 5, 2)),
    "LayerNorm in the tail": ((BIASED, Gelu(), *FLAT, LayerNorm(), Erf(), Dense()), (5, 4, 2)),
    "LayerNorm behind GAP": (
        (Conv(), Relu(), Conv(), GlobalAvgPool(), LayerNorm(), Dense()),
        (5, 4, 3),
    ),
    "all in the tail": (
        (
            Conv(),
            Relu(),
            *TOP,
            LayerNorm(),
            Gelu(),
            Dense(),
            Sin(),
            Dense(trainable=False),
            Cos(),
            Dense(b_std=0.1),
        ),
        (4, 3, 4),
    ),
}

PAIRS: dict[str, Network] = {
    f"{a} then {b}": (
        (
            Conv(b_std=0.1 * (i % 2)),
            NONLINEARITIES[a],
            Conv(),
            NONLINEARITIES[b],
            *(TOP, FLAT)[i % 2],
        ),
        (3, 4, 1 + i % 5),
    )
    for i, (a, b) in enumerate(itertools.permutations(NONLINEARITIES, 2))
}

NORMS: dict[str, Network] = {
    f"LayerNorm then {name}": (
        (Conv(), LayerNorm(), layer, Conv(b_std=0.1), LayerNorm(), layer, *end),
        (4, 5, 2),
    )
    for (name, layer), end in zip(
        NONLINEARITIES.items(), itertools.cycle((FLAT, TOP)), strict=False
    )
} | {
    "LayerNorm alone": ((Conv(), LayerNorm(), *FLAT), (5, 4, 3)),
    "LayerNorm twice": ((Conv(), LayerNorm(), LayerNorm(0.1), Relu(), *TOP), (4, 5, 2)),
    "LayerNorm with a large eps": (
        (BIASED, LayerNorm(0.5), Relu(), Conv(), LayerNorm(2.0), *TOP),
        (4, 5, 2),
    ),
    "LayerNorm behind a pool": (
        (Conv(), AvgPool(2), LayerNorm(), Relu(), Conv(), *FLAT),
        (6, 5, 2),
    ),
    "LayerNorm behind a fixed layer": ((FIXED, LayerNorm(), Gelu(), Conv(), *FLAT), (5, 4, 2)),
    "LayerNorm behind strides": ((Conv(3, stride=2), LayerNorm(), Relu(), Conv(), *TOP), (7, 6, 2)),
    "LayerNorm, connected": (
        (Dense(), LayerNorm(), Relu(), Dense(), LayerNorm(), Erf(), Dense()),
        (3, 2, 2),
    ),
}

CONVS: dict[str, Network] = {
    "2-pixel filters": ((Conv(2), Relu(), Conv(2), Relu(), *TOP), (5, 4, 3)),
    "4-pixel filters": ((Conv(4, b_std=0.1), Relu(), Conv(4), Erf(), *FLAT), (5, 6, 2)),
    "even and odd filters": ((Conv(2), Gelu(), Conv(5), Relu(), Conv(4), *TOP), (6, 5, 2)),
    "even filters over the edge": ((Conv(6), Relu(), Conv(2), Relu(), *TOP), (3, 4, 2)),
    "stride 2": ((Conv(stride=2), Relu(), Conv(), Relu(), *TOP), (7, 6, 2)),
    "stride 2, flat": ((Conv(stride=2), Relu(), Conv(), Relu(), *FLAT), (6, 7, 2)),
    "stride 2 twice": (
        (Conv(), Relu(), Conv(stride=2), Relu(), Conv(stride=2), Relu(), *TOP),
        (8, 9, 1),
    ),
    "stride 3": ((Conv(5, stride=3, b_std=0.1), Relu(), Conv(), *FLAT), (8, 7, 2)),
    "stride without overlap": (
        (Conv(2, stride=2), Relu(), Conv(2, stride=2), Gelu(), *FLAT),
        (8, 6, 3),
    ),
    "stride wider than the filter": ((Conv(1, stride=2), Relu(), Conv(), Relu(), *TOP), (7, 5, 4)),
    "stride beyond the image": ((Conv(3, stride=9), Relu(), Conv(), *FLAT), (5, 4, 2)),
    "even strided filters": (
        (Conv(4, stride=2), Relu(), Conv(2, stride=3), Relu(), *TOP),
        (9, 8, 2),
    ),
    "stride of a fixed layer": (
        (Conv(stride=2, trainable=False), Relu(), Conv(), Relu(), *TOP),
        (7, 6, 2),
    ),
    "VALID": ((Conv(padding="VALID"), Relu(), Conv(padding="VALID"), Relu(), *TOP), (7, 6, 2)),
    "VALID, flat": (
        (Conv(padding="VALID", b_std=0.1), Erf(), Conv(2, padding="VALID"), Relu(), *FLAT),
        (6, 5, 3),
    ),
    "VALID down to one pixel": (
        (Conv(4, padding="VALID"), Relu(), Conv(), Relu(), *TOP),
        (4, 4, 2),
    ),
    "VALID with stride 2": (
        (Conv(3, stride=2, padding="VALID"), Gelu(), Conv(), Relu(), *TOP),
        (9, 8, 2),
    ),
    "CIRCULAR": (
        (Conv(padding="CIRCULAR"), Relu(), Conv(padding="CIRCULAR"), Relu(), *TOP),
        (5, 4, 2),
    ),
    "CIRCULAR, flat": ((Conv(5, padding="CIRCULAR", b_std=0.1), Relu(), Conv(), *FLAT), (6, 5, 2)),
    "CIRCULAR with even filters": (
        (Conv(2, padding="CIRCULAR"), Relu(), Conv(4, padding="CIRCULAR"), Relu(), *TOP),
        (5, 6, 2),
    ),
    "CIRCULAR with stride 2": (
        (Conv(stride=2, padding="CIRCULAR"), Relu(), Conv(), Sin(), *TOP),
        (7, 6, 2),
    ),
    "all paddings": (
        (Conv(), Relu(), Conv(padding="VALID"), Relu(), Conv(padding="CIRCULAR"), Relu(), *TOP),
        (7, 6, 2),
    ),
    "1-pixel filters": ((Conv(1), LeakyRelu(0.1), Conv(1, b_std=0.1), Gelu(), *TOP), (5, 4, 5)),
    "linear": ((Conv(b_std=0.3), Conv(2), *TOP), (5, 6, 2)),
    "everything fixed but one": (
        (FIXED, Relu(), Conv(stride=2), Gelu(), FIXED, Relu(), Flatten(), Dense(trainable=False)),
        (7, 6, 2),
    ),
    "label-aware": (
        (Conv(), Relu(), Conv(stride=2), Relu(), Conv(), Relu(), Conv(stride=2), Relu(), *FLAT),
        (9, 8, 3),
    ),
    "dense layer on pixels": (
        (Dense(b_std=0.1), Gelu(), Conv(stride=2), Relu(), Dense(), Erf(), *TOP),
        (5, 6, 3),
    ),
}

POOLS: dict[str, Network] = {
    "pool behind strides": ((Conv(stride=2), Relu(), AvgPool(2), Conv(), Relu(), *TOP), (9, 8, 2)),
    "strides behind a pool": (
        (Conv(), Gelu(), AvgPool(2), Conv(stride=2), Relu(), *FLAT),
        (9, 8, 2),
    ),
    "pool of stride 1": ((Conv(), Relu(), AvgPool(3, 1, "SAME"), *FLAT), (6, 5, 2)),
    "pool of stride 1, even": ((Conv(), LeakyRelu(0.1), AvgPool(2, 1, "SAME"), *FLAT), (5, 6, 2)),
    "overlapping pool": ((Conv(), Erf(), AvgPool(3, 2), Conv(), Relu(), *TOP), (7, 6, 2)),
    "padded pool": ((Conv(), Relu(), AvgPool(3, 2, "SAME"), Conv(), Relu(), *TOP), (7, 6, 2)),
    "pool before its nonlinearity": ((Conv(), AvgPool(2), Gelu(), Conv(), Cos(), *TOP), (6, 7, 2)),
    "pool on Identity": (
        (Conv(), Identity(), AvgPool(2), Relu(), Identity(), Conv(), *FLAT),
        (6, 7, 2),
    ),
    "pool on pool": (
        (Conv(), Gaussian(), AvgPool(2), AvgPool(3, 1, "SAME"), Conv(), Relu(), *TOP),
        (8, 7, 1),
    ),
}


def block(*, stride: int = 1, nonlinearity: Nonlinearity = RELU, norm: bool = False) -> Residual:
    """Return a block of two convolutions behind their nonlinearities, as in a WideResNet.

    Where it has a stride, its shortcut is a 1×1 convolution; else the identity.
    """
    front = (LayerNorm(), nonlinearity) if norm else (nonlinearity,)
    branch = (*front, Conv(stride=stride), *front, Conv())
    return Residual(branch, (Conv(1, stride=stride),) if stride > 1 else ())


RESIDUALS: dict[str, Network] = {
    "identity shortcut": ((Conv(), block(), Relu(), *TOP), (5, 4, 3)),
    "identity shortcut, flat": ((BIASED, block(), Relu(), *FLAT), (4, 5, 2)),
    "two blocks": ((Conv(), block(), block(), Relu(), *TOP), (5, 4, 2)),
    "strided block": ((Conv(), block(stride=2), Relu(), *TOP), (7, 6, 2)),
    "strided block, flat": ((Conv(), block(stride=2), Relu(), *FLAT), (6, 7, 2)),
    "strided then plain block": ((Conv(), block(stride=2), block(), Relu(), *TOP), (6, 5, 2)),
    "WideResNet-like": (
        (Conv(), block(), block(stride=2), block(stride=2), Relu(), *TOP),
        (9, 8, 3),
    ),
    "WideResNet-like, flat": (
        (BIASED, block(), block(stride=2), block(stride=2), Relu(), Flatten(), Dense()),
        (8, 9, 3),
    ),
    "WideResNet-like of GELUs": (
        (Conv(), block(nonlinearity=Gelu()), block(stride=2, nonlinearity=Gelu()), Gelu(), *TOP),
        (7, 6, 2),
    ),
    "WideResNet-like with LayerNorm": (
        (Conv(), block(norm=True), block(stride=2, norm=True), LayerNorm(), Relu(), *TOP),
        (7, 6, 2),
    ),
    "shortcut of a fixed layer": (
        (Conv(), Residual((Relu(), FIXED), (Conv(1, trainable=False),)), Erf(), *FLAT),
        (5, 4, 2),
    ),
    "branches of one convolution": ((Residual((Conv(),), (Conv(1),)), Relu(), *TOP), (5, 4, 3)),
    "VALID branches": (
        (
            Conv(),
            Residual((Relu(), Conv(padding="VALID")), (Conv(3, padding="VALID"),)),
            Relu(),
            *TOP,
        ),
        (6, 5, 2),
    ),
    "CIRCULAR and even branches": (
        (Conv(), Residual((Relu(), Conv(2, padding="CIRCULAR")), (Conv(4),)), Gelu(), *FLAT),
        (5, 6, 2),
    ),
    "block inside a block": (
        (Conv(), Residual((block(), Relu(), Conv(b_std=0.1))), Relu(), *TOP),
        (5, 4, 2),
    ),
    "pool in both branches": (
        (Conv(), Residual((AvgPool(2), Relu(), Conv()), (AvgPool(2), Identity())), Relu(), *TOP),
        (6, 7, 2),
    ),
    "pool behind a block": ((Conv(), block(), AvgPool(2), Relu(), Conv(), *FLAT), (6, 5, 2)),
    "doubled": ((Conv(), Residual(()), Relu(), Conv(), *FLAT), (5, 4, 2)),
    "dense branch": (
        (Conv(), Residual((Relu(), Dense(b_std=0.2)), (Dense(),)), Relu(), *TOP),
        (5, 4, 2),
    ),
    "LayerNorm on a sum": ((Conv(), block(), LayerNorm(), Sin(), Conv(), *FLAT), (5, 4, 2)),
}

NETWORKS: dict[str, Network] = {
    **LAYERS_ALONE,
    **TAILS,
    **PAIRS,
    **NORMS,
    **CONVS,
    **POOLS,
    **RESIDUALS,
}

#: Networks that neural-tangents refuses: a nonlinearity reads what it knows as no Gaussian.
REFUSED_BY_STAX: dict[str, Network] = {
    "nonlinearity first": ((Relu(), Conv(), Gelu(), *TOP), (5, 4, 3)),
    "two nonlinearities": ((Conv(), Gelu(), Sin(), Conv(), *FLAT), (5, 4, 2)),
    "sum behind a ReLU": (
        (Conv(), Relu(), Residual((Conv(), Relu(), Conv())), Relu(), *TOP),
        (5, 4, 2),
    ),
    "nonlinearity behind Flatten": ((Conv(), Flatten(), Relu(), Dense()), (5, 4, 2)),
    "Identity first": ((Identity(), Residual((Conv(),)), Relu(), *TOP), (5, 4, 1)),
}
