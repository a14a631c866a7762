"""The layers of a network as frozen dataclasses, checked where they are made.

NTK parameterisation (Jacot et al. 2018): a weight layer maps the NNGP kernel K to
``W_std² · mean(K) + b_std²`` and the tangent kernel Θ to
``W_std² · mean(Θ) + (the new K if trainable)``, where the mean runs over the
aligned filter offsets of a convolution (one offset for a dense layer).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypeAlias, get_args

from ntkdist.errors import InputError, did_you_mean, shown

SQRT2 = math.sqrt(2.0)
# squares of standard deviations must be within the range of float64, and keep all digits
SMALLEST_STD, LARGEST_STD = 1e-150, 1e150
LARGEST_FILTER = 1000
LARGEST_STEP = 10**6  # of strides and pools, in pixels


@dataclass(frozen=True)
class Conv:
    """A convolution with a square filter of ``size`` × ``size`` weights.

    Attributes:
        size: Filter edge in pixels, at least 1.
        W_std: Standard deviation of a weight, scaled by 1/√(size²·channels).
        b_std: Standard deviation of a bias; 0 means no bias.
        trainable: Whether its weights and biases add to the tangent kernel.
        stride: Step between outputs in pixels.
        padding: ``SAME`` (zeros outside), ``VALID`` (filters inside the image) or ``CIRCULAR``
            (the image repeats outside).
    """

    size: int = 3
    W_std: float = SQRT2
    b_std: float = 0.0
    trainable: bool = True
    stride: int = 1
    padding: str = "SAME"

    def __post_init__(self) -> None:
        _check_integer(self, "size", most=LARGEST_FILTER)
        _check_integer(self, "stride", most=LARGEST_STEP)
        _check_padding(self, ("SAME", "VALID", "CIRCULAR"))
        _check_weights(self)


@dataclass(frozen=True)
class Dense:
    """A fully connected layer along the channels (after Flatten: along everything).

    Attributes:
        W_std: Standard deviation of a weight, scaled by 1/√width.
        b_std: Standard deviation of a bias; 0 means no bias.
        trainable: Whether its weights and biases add to the tangent kernel.
    """

    W_std: float = SQRT2
    b_std: float = 0.0
    trainable: bool = True

    def __post_init__(self) -> None:
        _check_weights(self)


@dataclass(frozen=True)
class Relu:
    """The nonlinearity max(u, 0)."""


@dataclass(frozen=True)
class LeakyRelu:
    """The nonlinearity alpha · min(u, 0) + max(u, 0).

    Attributes:
        alpha: Slope for u < 0.
    """

    alpha: float = 0.01

    def __post_init__(self) -> None:
        _check_number(self, "alpha")


@dataclass(frozen=True)
class ABRelu:
    """The nonlinearity a · min(u, 0) + b · max(u, 0).

    Attributes:
        a: Slope for u < 0; −1 with b = 1 is the absolute value.
        b: Slope for u > 0.
    """

    a: float
    b: float

    def __post_init__(self) -> None:
        _check_number(self, "a")
        _check_number(self, "b")
        if max(abs(self.a), abs(self.b)) < SMALLEST_STD:
            raise InputError(
                f"ABRelu: a={self.a} and b={self.b}; the absolute value of one must be at least "
                f"{SMALLEST_STD:g}, else all outputs are 0"
            )


@dataclass(frozen=True)
class Erf:
    """The nonlinearity erf(u)."""


@dataclass(frozen=True)
class Gelu:
    """The nonlinearity u · Φ(u), where Φ is the standard normal distribution function."""


@dataclass(frozen=True)
class _Wave:
    a: float = 1.0
    b: float = 1.0
    c: float = 0.0

    def __post_init__(self) -> None:
        _check_number(self, "a", least=SMALLEST_STD)
        _check_number(self, "b", least=SMALLEST_STD)
        _check_number(self, "c")


@dataclass(frozen=True)
class Sin(_Wave):
    """The nonlinearity a · sin(b u + c).

    Attributes:
        a: Amplitude, not 0.
        b: Frequency, not 0.
        c: Phase in radians.
    """


@dataclass(frozen=True)
class Cos(_Wave):
    """The nonlinearity a · cos(b u + c).

    Attributes:
        a: Amplitude, not 0.
        b: Frequency, not 0.
        c: Phase in radians.
    """


@dataclass(frozen=True)
class Exp:
    """The nonlinearity a · exp(b u).

    Attributes:
        a: Output scale, not 0.
        b: Input scale, not 0.
    """

    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        _check_number(self, "a", least=SMALLEST_STD)
        _check_number(self, "b", least=SMALLEST_STD)


@dataclass(frozen=True)
class Gaussian:
    """The nonlinearity a · exp(b u²).

    Attributes:
        a: Output scale, not 0.
        b: Factor of u², below 0: otherwise the variance of the outputs may be infinite.
    """

    a: float = 1.0
    b: float = -1.0

    def __post_init__(self) -> None:
        _check_number(self, "a", least=SMALLEST_STD)
        _check_number(self, "b", least=SMALLEST_STD)
        if self.b > 0:
            raise InputError(f"Gaussian: b={self.b} must be below 0; the function is a · exp(b u²)")


@dataclass(frozen=True)
class ExpNormalized:
    """The normalized Gaussian kernel: K becomes √(AB) · exp(gamma (c + shift)).

    A and B are the variances; the correlation c is K/√(AB), or 0 where a variance is 0. The kernel
    has no known nonlinearity, and hence no network of finite width (Shankar et al. 2020).

    Attributes:
        gamma: Scale of the exponent, above 0.
        shift: Added to the correlation; −1 leaves the variances unchanged.
    """

    gamma: float = 1.0
    shift: float = -1.0

    def __post_init__(self) -> None:
        _check_number(self, "gamma", least=SMALLEST_STD)
        _check_number(self, "shift")
        if self.gamma < 0:
            raise InputError(
                f"ExpNormalized: gamma={self.gamma} must be above 0; otherwise it is no kernel"
            )


@dataclass(frozen=True)
class Identity:
    """The layer that changes nothing."""


@dataclass(frozen=True)
class LayerNorm:
    """Normalisation of each pixel over its channels to mean 0 and variance 1.

    It must follow a linear layer, where the mean over infinitely many channels is 0;
    ``architecture.Architecture`` checks this.

    Attributes:
        eps: Added to the variance, above 0; the output is 0 where the variance is 0.
    """

    eps: float = 1e-12

    def __post_init__(self) -> None:
        _check_number(self, "eps", least=SMALLEST_STD)
        if self.eps < 0:
            raise InputError(f"LayerNorm: eps={self.eps} must be above 0")


@dataclass(frozen=True)
class AvgPool:
    """The mean over windows of ``size`` × ``size`` pixels.

    By default the windows lie side by side, and pixels beyond the last whole window are dropped.
    ``AvgPool(9, 1, "SAME")`` is local average pooling (Li et al. 2019): the mean over a window
    around each pixel.

    Attributes:
        size: Edge of a window in pixels.
        stride: Step between windows in pixels; None for ``size``.
        padding: ``VALID`` (windows inside the image) or ``SAME`` (zeros outside count in the mean).
    """

    size: int = 2
    stride: int | None = None
    padding: str = "VALID"

    def __post_init__(self) -> None:
        _check_integer(self, "size", most=LARGEST_STEP)
        if self.stride is None:
            object.__setattr__(self, "stride", self.size)
        _check_integer(self, "stride", most=LARGEST_STEP)
        _check_padding(self, ("VALID", "SAME"))

    @property
    def step(self) -> int:
        """The stride."""
        assert self.stride is not None
        return self.stride

    @property
    def side_by_side(self) -> bool:
        """Whether the windows are inside the image and touch without overlap."""
        return self.stride == self.size and self.padding == "VALID"

    def __repr__(self) -> str:
        # the text that runs stored when AvgPool had no other field; their fingerprints contain it
        if self.side_by_side:
            return f"AvgPool(size={self.size})"
        return f"AvgPool(size={self.size}, stride={self.stride}, padding={self.padding!r})"


@dataclass(frozen=True)
class GlobalAvgPool:
    """The mean over all pixels."""


@dataclass(frozen=True)
class Flatten:
    """All pixels and channels as one vector."""


@dataclass(frozen=True)
class Residual:
    """The sum of two branches that read the same input; an empty branch is the identity.

    Attributes:
        branch: Layers of the main branch.
        shortcut: Layers of the other branch.
    """

    branch: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "branch", as_layers("Residual: branch", self.branch))
        object.__setattr__(self, "shortcut", as_layers("Residual: shortcut", self.shortcut))
        for layer in self.branch + self.shortcut:
            if isinstance(layer, (Flatten, GlobalAvgPool)):
                raise InputError(
                    f"Residual: {layer!r} cannot be part of a branch; put it after the Residual"
                )


Nonlinearity: TypeAlias = (
    Relu | LeakyRelu | ABRelu | Erf | Gelu | Sin | Cos | Exp | Gaussian | ExpNormalized
)
#: Layers that act on each cell of the kernels by itself, given the variances of its two pixels.
CellLayer: TypeAlias = Nonlinearity | Identity | LayerNorm
Layer: TypeAlias = Conv | Dense | CellLayer | AvgPool | GlobalAvgPool | Flatten | Residual

LAYERS: dict[str, type] = {cls.__name__: cls for cls in get_args(Layer)}


def weight_depth(layers: Sequence[Layer]) -> int:
    """Return the number of weight layers in sequence; of two branches, that of the longer one."""
    count = 0
    for layer in layers:
        if isinstance(layer, Residual):
            count += max(weight_depth(layer.branch), weight_depth(layer.shortcut))
        else:
            count += isinstance(layer, (Conv, Dense))
    return count


def first_spatial(layers: Sequence[Layer]) -> Layer | None:
    """Return the first convolution or pool, also inside branches; None where there is none."""
    for layer in layers:
        if isinstance(layer, (Conv, AvgPool, GlobalAvgPool)):
            return layer
        if isinstance(layer, Residual):
            inner = first_spatial(layer.branch + layer.shortcut)
            if inner is not None:
                return inner
    return None


def output_size(layers: Sequence[Layer], H: int, W: int, image: str) -> tuple[int, int]:
    """Return the pixels (rows, columns) of the layers' output for an image of H × W pixels.

    ``image`` is the size of the whole image, for messages.
    """
    for layer in layers:
        match layer:
            case Conv() | AvgPool():
                stride = layer.step if isinstance(layer, AvgPool) else layer.stride
                rest = -(-H // stride), -(-W // stride)
                if layer.padding == "VALID":
                    rest = (H - layer.size) // stride + 1, (W - layer.size) // stride + 1
            case Residual():
                rest = output_size(layer.branch, H, W, image)
                other = output_size(layer.shortcut, H, W, image)
                if rest != other:
                    raise InputError(
                        f"Residual: the branch leaves {rest[0]}×{rest[1]} pixels and the shortcut "
                        f"{other[0]}×{other[1]}; give both the same strides and pools"
                    )
            case Flatten() | GlobalAvgPool():
                return H, W
            case _:
                continue
        if min(rest) < 1:
            raise InputError(
                f"architecture: {layer!r} does not fit into the {H}×{W} pixels that the layers "
                f"before it leave of {image} images; take larger images or fewer pools"
            )
        H, W = rest
    return H, W


def as_layers(owner: str, layers: object) -> tuple[Layer, ...]:
    """Return layers as a tuple, or raise ``InputError`` if they are no sequence of layers."""
    try:
        if isinstance(layers, (str, bytes)) or not isinstance(layers, Iterable):
            raise TypeError
        checked = tuple(layers)
    except TypeError:  # a NumPy array of no axes is an Iterable and raises it too
        raise InputError(f"{owner}: {shown(layers)} is not a list of layers") from None
    for layer in checked:
        if type(layer).__name__ not in LAYERS:
            raise InputError(
                f"{owner}: {shown(layer)} is not a layer; the layers are {', '.join(LAYERS)}"
            )
    return checked


def _check_integer(layer: Conv | AvgPool, field: str, *, most: int) -> None:
    value = getattr(layer, field)
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not 1 <= value <= most:
        raise InputError(
            f"{type(layer).__name__}: {field}={shown(value)} must be a whole number from 1 to "
            f"{most}"
        )
    # NumPy integers too must give the same canonical text
    object.__setattr__(layer, field, int(value))


def _check_padding(layer: Conv | AvgPool, paddings: tuple[str, ...]) -> None:
    if not isinstance(layer.padding, str) or layer.padding not in paddings:
        raise InputError(
            f"{type(layer).__name__}: padding={shown(layer.padding)} is not one of "
            + ", ".join(paddings)
            + did_you_mean(shown(layer.padding).strip("'").upper(), paddings)
        )


def _check_weights(layer: Conv | Dense) -> None:
    owner = type(layer).__name__
    for field, least in (("W_std", SMALLEST_STD), ("b_std", 0.0)):
        value = getattr(layer, field)
        number = _as_float(value)
        if not least <= number <= LARGEST_STD:
            raise InputError(
                f"{owner}: {field}={shown(value)} must be a number from {least:g} to "
                f"{LARGEST_STD:g}"
            )
        # 1 and 1.0, or 0.0 and −0.0, are the same network and must give the same canonical text
        object.__setattr__(layer, field, number + 0.0)
    if not isinstance(layer.trainable, bool):
        raise InputError(f"{owner}: trainable={shown(layer.trainable)} must be true or false")


def _check_number(layer: CellLayer | _Wave, field: str, *, least: float = 0.0) -> None:
    """Make a field a float whose absolute value is from ``least`` to ``LARGEST_STD``."""
    value = getattr(layer, field)
    number = _as_float(value)
    if not least <= abs(number) <= LARGEST_STD:
        limits = f"from {least:g} to" if least else "up to"
        raise InputError(
            f"{type(layer).__name__}: {field}={shown(value)} must be a number with an absolute "
            f"value {limits} {LARGEST_STD:g}"
        )
    object.__setattr__(layer, field, number + 0.0)


def _as_float(value: object) -> float:
    """Return a number as float64; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond float64
        return math.inf
