"""Whether a network keeps the kernels of images within the range of floating-point numbers.

W_std multiplies a kernel by its square at every layer: 0.1 over 30 layers gives 1e-60, 10 gives
1e60. The check follows K(x, x) and Θ(x, x), which need no second image, through the layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np

from ntkdist.errors import InputError
from ntkdist.kernels.duals import dual
from ntkdist.kernels.windows import windows
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import (
    AvgPool,
    CellLayer,
    Conv,
    Cos,
    Dense,
    Erf,
    Exp,
    Flatten,
    Gaussian,
    Gelu,
    GlobalAvgPool,
    Layer,
    Residual,
    Sin,
)

# Entries smaller than the diagonal by this factor keep all digits, and so do those of images
# whose pixels' variances are distributed otherwise than those of the images that are followed.
_MARGIN = 2.0**10

# Of K(x, x) in front of an erf, sine, cosine or Gaussian, in units of the square of the input where
# they bend. What they make of larger K(x, x') depends on A + B − 2K in these units, and float64
# keeps 16 digits of A.
_STEP = 1e10
# Of K(x, x) in front of a GELU, which multiplies variances.
_PRODUCT = 1e150
# A layer that changes K(x, x) by more is named where K leaves the range, not the weights before it.
_CHANGE = 10.0


def check_range(arch: Architecture, images: np.ndarray, dtype: str) -> None:
    """Raise ``InputError`` if K(x, x) of an image leaves the range of floating point.

    Images of zeros are left out: their kernel is 0 in a network without biases.

    Args:
        arch: The network.
        images: (n, H, W, C), finite. Those with the largest and the smallest peak are followed, and
            all of them through a network with Exp.
        dtype: Of the entries; what is in front of the last layer must fit float64.
    """
    chosen = _followed(arch, images)
    if chosen is not None:
        _check(arch, chosen, dtype, "K")


def check_entries(arch: Architecture, images: np.ndarray, dtype: str, kinds: Iterable[str]) -> None:
    """Raise ``InputError`` if a kernel matrix would be zero throughout, or not finite.

    Args:
        arch: The network.
        images: (n, H, W, C), finite.
        dtype: Of the entries.
        kinds: Of kernels that are asked for.
    """
    kinds = tuple(kinds)
    if "ntk" in kinds and not _trains(arch.layers):
        raise InputError(
            "architecture: no layer is trainable, so the NTK is 0 for all images; make a layer "
            "trainable, or take kind nngp"
        )
    if not np.any(images):
        if _last(arch, np.zeros((1, *np.shape(images)[1:])))[0] == 0:
            raise InputError(
                f"all {len(images)} images are zero (black) and the network has no bias, so every "
                "entry of the kernel is 0; give other images, or layers with b_std above 0"
            )
        return
    chosen = _followed(arch, images)
    if chosen is not None:
        _check(arch, chosen, dtype, "K")
        if "ntk" in kinds:
            _check(arch, chosen, dtype, "Θ")


def _followed(arch: Architecture, images: np.ndarray) -> np.ndarray | None:
    """Return the images with the largest and the smallest peak above 0, float64; None if none.

    An exponential makes more of small differences than a margin covers: all images above 0 then.
    """
    flat = np.reshape(images, (len(images), -1))
    peaks = np.maximum(flat.max(axis=1), -flat.min(axis=1))
    visible = np.flatnonzero(np.isfinite(peaks) & (peaks > 0))
    if not visible.size:
        return None
    if _has_exp(arch.layers):
        return np.asarray(images)[visible].astype(np.float64)
    ends = visible[[np.argmax(peaks[visible]), np.argmin(peaks[visible])]]
    return np.asarray(images)[np.unique(ends)].astype(np.float64)


def _check(arch: Architecture, images: np.ndarray, dtype: str, name: str) -> None:
    """Raise ``InputError`` if ``name``, K or Θ, leaves the range, saying behind which layer."""
    outside: tuple[int, Layer | None, float] | None = None  # first behind which dtype is too narrow
    value = 1.0
    weights: tuple[int, Layer | None] = 0, None
    largest = 0.0
    for number, layer, K, theta in _path(arch, images):
        _check_input(number, layer, largest)
        before, largest = largest, float(K.max())
        changed = not before / _CHANGE <= largest <= before * _CHANGE
        if number == 0 or isinstance(layer, (Conv, Dense, Residual)) or changed:
            weights = number, layer
        values = K if name == "K" else theta
        if name == "Θ" and not values.any():
            continue  # no layer so far is trainable
        overflows = not _fits(values.max(), "float64") or values.max() > np.finfo(dtype).max
        value = float(values.max() if overflows else values.min())
        if not _fits(value, dtype):
            outside = outside or (*weights, value)
            if not _fits(value, "float64"):
                raise InputError(_message(name, *weights, value, "float64"))
    if not _fits(value, dtype):
        assert outside is not None
        raise InputError(_message(name, *outside, dtype))


def _check_input(number: int, layer: Layer | None, K: float) -> None:
    """Raise ``InputError`` for K(x, x) in front of a layer that has no digits of what it makes."""
    match layer:
        case Erf():
            most, why = _STEP, "erf is a step and its derivative has no digits"
        case Sin() | Cos():
            most, why = _STEP / layer.b**2, "its kernel depends on differences below rounding"
        case Gaussian():
            most, why = _STEP / -layer.b, "its kernel depends on differences below rounding"
        case Gelu():
            most, why = _PRODUCT, "products of two variances leave float64"
        case _:
            return
    if most < K:
        raise InputError(
            f"architecture: in front of layer {number}, {type(layer).__name__}, K(x, x) of an "
            f"image is {K:.1e}, where {why}; the limit is {most:.0e}: take smaller W_std"
        )


def _fits(value: float, dtype: str) -> bool:
    info = np.finfo(dtype)
    return bool(float(info.tiny) * _MARGIN <= value <= float(info.max) / _MARGIN)


def _message(name: str, number: int, layer: Layer | None, value: float, dtype: str) -> str:
    info = np.finfo(dtype)
    range_ = f"{float(info.tiny) * _MARGIN:.0e} to {float(info.max) / _MARGIN:.0e}"
    if layer is None:
        return (
            f"the mean square of an image's pixels is {value:.1e}, and {dtype} keeps all digits "
            f"from {range_}; rescale the images"
        )
    numbers = f" with W_std={layer.W_std:g}" if isinstance(layer, (Conv, Dense)) else ""
    remedy = "fewer layers, or W_std near sqrt(2) = 1.414"
    if isinstance(layer, CellLayer):
        numbers = "".join(f", {f.name}={getattr(layer, f.name):g}" for f in fields(layer))
        numbers = numbers.replace(",", " with", 1)
        remedy = "other numbers in this layer"
    if isinstance(layer, Exp):
        remedy = "a smaller b, or smaller W_std in front of it"
    wider = "dtype float64, which has a wider range, " if dtype == "float32" else ""
    return (
        f"architecture: behind layer {number}, {type(layer).__name__}{numbers}, {name}(x, x) of an "
        f"image is {value:.1e}, and {dtype} keeps all digits from {range_}; take {wider}{remedy}"
    )


def _path(
    arch: Architecture, images: np.ndarray
) -> Iterable[tuple[int, Layer | None, np.ndarray, np.ndarray]]:
    """Yield each layer with its number, from 1, and the means of K and Θ behind it, (n,)."""
    if not arch.is_spatial:
        images = images.reshape(len(images), 1, 1, -1)
    with np.errstate(all="ignore"):
        K = np.mean(images * images, axis=3)
    theta = np.zeros_like(K)
    yield 0, None, K.mean(axis=(1, 2)), theta.mean(axis=(1, 2))
    for number, layer in enumerate(arch.layers, start=1):
        with np.errstate(all="ignore"):
            K, theta = _behind(layer, K, theta)
            means = K.mean(axis=(1, 2)), theta.mean(axis=(1, 2))
        yield number, layer, *means


def _last(arch: Architecture, images: np.ndarray) -> tuple[float, float]:
    """Return the largest K(x, x) and Θ(x, x) at the end of the network."""
    *_, (_, _, K, theta) = _path(arch, images)
    return float(K.max()), float(theta.max())


def _behind(layer: Layer, K: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return K(x, x) and Θ(x, x) of pixels, (n, H, W), behind a layer.

    Behind a pool they are bounds: the mean of the variances is what equal pixels would have.
    What nonlinearities make of it, which grows with K in all but a Gaussian and waves, is one too.
    """
    match layer:
        case Conv() | Dense():
            scale = layer.W_std**2
            if isinstance(layer, Conv):
                of_filter = layer.size, layer.stride, layer.padding
                K, theta = _window_mean(K, *of_filter), _window_mean(theta, *of_filter)
            K = scale * K + layer.b_std**2
            return K, scale * theta + (K if layer.trainable else 0.0)
        case AvgPool():
            of_pool = layer.size, layer.step, layer.padding
            return _window_mean(K, *of_pool), _window_mean(theta, *of_pool)
        case Flatten() | GlobalAvgPool():
            return K.mean(axis=(1, 2), keepdims=True), theta.mean(axis=(1, 2), keepdims=True)
        case Residual():
            branches = []
            for branch in (layer.branch, layer.shortcut):
                state = K, theta
                for inner in branch:
                    state = _behind(inner, *state)
                branches.append(state)
            return branches[0][0] + branches[1][0], branches[0][1] + branches[1][1]
        case _:
            K_behind, slope = dual(layer, K, K, K)
            if isinstance(layer, Erf):  # the same without its cancellation for equal inputs
                slope = 4 / np.pi / np.sqrt(1 + 4 * K)
            return K_behind, theta * slope


def _window_mean(x: np.ndarray, size: int, stride: int, padding: str) -> np.ndarray:
    """Average (n, H, W) over windows; zeros stand outside, but for CIRCULAR."""
    for axis in (1, 2):
        weights = windows(x.shape[axis], size, stride, padding) / size
        x = np.moveaxis(np.tensordot(weights, x, (1, axis)), 0, axis)
    return x


def _has_exp(layers: Sequence[Layer]) -> bool:
    return any(
        _has_exp(layer.branch + layer.shortcut)
        if isinstance(layer, Residual)
        else isinstance(layer, Exp)
        for layer in layers
    )


def _trains(layers: Sequence[Layer]) -> bool:
    return any(
        _trains(layer.branch + layer.shortcut)
        if isinstance(layer, Residual)
        else isinstance(layer, (Conv, Dense)) and layer.trainable
        for layer in layers
    )
