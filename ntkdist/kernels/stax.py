"""neural-tangents as a backend: any architecture it supports, and the independent check.

The only module that imports neural_tangents and jax.
"""

from __future__ import annotations

import functools
import importlib.util
import operator
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkdist.errors import InputError
from ntkdist.kernels.backend import as_images, check_kinds, check_pair
from ntkdist.kernels.ranges import check_range
from ntkdist.networks.architecture import Architecture
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
    Relu,
    Residual,
    Sin,
)

# The memory one call of a convolutional kernel function may take for its (P Q)² state, with a
# handful of temporaries beside it.
_CALL_BYTES = 2**30


def import_neural_tangents() -> types.ModuleType:
    """Import neural_tangents without the TensorFlow it loads through its experimental module.

    Returns:
        The package.

    Raises:
        InputError: If jax and neural-tangents are not installed or do not fit each other.
    """
    if "neural_tangents" in sys.modules:
        return sys.modules["neural_tangents"]
    if importlib.util.find_spec("neural_tangents") is None:
        raise InputError(
            "backend 'stax' needs neural-tangents and jax<0.6, which are not installed: "
            "pip install 'ntkdist[stax]'"
        )
    name = "neural_tangents.experimental"
    placeholder = types.ModuleType(name)
    sys.modules[name] = placeholder
    try:
        import jax

        with warnings.catch_warnings():
            # it uses names that jax 0.5 still has but warns about
            warnings.simplefilter("ignore", DeprecationWarning)
            import neural_tangents
    except (ImportError, AttributeError) as error:
        sys.modules.pop(name, None)
        raise InputError(
            f"backend 'stax': neural-tangents does not load with this jax ({error}); "
            "it needs jax<0.6"
        ) from error
    # float64 is asked for per array; without this jax would silently compute in float32
    jax.config.update("jax_enable_x64", True)
    return neural_tangents


def build(arch: Architecture) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Return ``(init_fn, apply_fn, kernel_fn)`` of an architecture in the NTK parameterisation."""
    import_neural_tangents()
    from neural_tangents import stax

    layers = arch.layers
    if not arch.is_spatial:
        layers = (Flatten(), *(x for x in layers if not isinstance(x, Flatten)))
    with warnings.catch_warnings():
        # it numbers the channels of images from the front in Conv and from the back in Dense
        warnings.filterwarnings("ignore", message="Got potentially mismatching `channel_axis`")
        return stax.serial(*(_layer(layer) for layer in layers))


def _layer(layer: Layer) -> tuple[Any, Any, Any]:
    from neural_tangents import stax

    match layer:
        case Conv():
            triple = stax.Conv(
                1,
                (layer.size, layer.size),
                (layer.stride, layer.stride),
                padding=layer.padding,
                W_std=layer.W_std,
                b_std=layer.b_std or None,
            )
            return triple if layer.trainable else _fixed(triple)
        case Dense():
            triple = stax.Dense(1, W_std=layer.W_std, b_std=layer.b_std or None)
            return triple if layer.trainable else _fixed(triple)
        case Relu():
            return _exact_for_equal_inputs(stax.Relu(), 0.5)
        case LeakyRelu():
            slope = (layer.alpha**2 + 1) / 2
            return _exact_for_equal_inputs(stax.LeakyRelu(layer.alpha), slope)
        case ABRelu():
            slope = (layer.a**2 + layer.b**2) / 2
            return _exact_for_equal_inputs(stax.ABRelu(layer.a, layer.b), slope)
        case Erf():
            return stax.Erf()
        case Gelu():
            return stax.Gelu()
        case Sin():
            return stax.Sin(layer.a, layer.b, layer.c)
        case Cos():
            return stax.Cos(layer.a, layer.b, layer.c)
        case Exp():
            return stax.Exp(layer.a, layer.b)
        case Gaussian():
            return stax.Gaussian(layer.a, layer.b)
        case ExpNormalized():
            return _zero_without_variance(stax.ExpNormalized(layer.gamma, layer.shift))
        case Identity():
            return stax.Identity()
        case LayerNorm():
            return stax.LayerNorm(eps=layer.eps)
        case AvgPool():
            size, step = (layer.size, layer.size), (layer.step, layer.step)
            return stax.AvgPool(size, step, padding=layer.padding)
        case GlobalAvgPool():
            return stax.GlobalAvgPool()
        case Flatten():
            return stax.Flatten()
        case Residual():
            branches = [
                stax.serial(*(_layer(x) for x in inner)) if inner else stax.Identity()
                for inner in (layer.branch, layer.shortcut)
            ]
            return stax.serial(stax.FanOut(2), stax.parallel(*branches), stax.FanInSum())


def _fixed(triple: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Make a weight layer untrained: its own kernel K is taken out of Θ again.

    A weight layer gives Θ ← W_std² mean(Θ) + (the new K); neural-tangents has no switch
    for the second term.
    """
    init_fn, apply_fn, kernel_fn = triple

    @functools.wraps(kernel_fn)  # carries the requirements neural-tangents hangs on the function
    def fixed_kernel_fn(k: Any, *args: Any, **kwargs: Any) -> Any:
        after = kernel_fn(k, *args, **kwargs)
        if after.ntk is None:
            return after
        return after.replace(ntk=after.ntk - after.nngp)

    return init_fn, apply_fn, fixed_kernel_fn


def _exact_for_equal_inputs(triple: tuple[Any, Any, Any], slope: float) -> tuple[Any, Any, Any]:
    """Make the derivative kernel of a ReLU exact, ``slope``, where both inputs are equal.

    neural-tangents takes the angle from √(K(x,x) K(x',x') − K(x,x')²). For equal inputs this is
    the root of a rounding error, 1e-8 in float64, and costs every diagonal entry half of its
    digits. Correlations within rounding of 1 (256 units in the last place, as sums over many equal
    pixels lose them) are taken as 1 here.
    """
    init_fn, apply_fn, kernel_fn = triple

    @functools.wraps(kernel_fn)
    def exact_kernel_fn(k: Any, *args: Any, **kwargs: Any) -> Any:
        import jax.numpy as jnp
        from neural_tangents._src.stax.requirements import get_diagonal_outer_prods

        after = kernel_fn(k, *args, **kwargs)
        if after.ntk is None or jnp.ndim(after.ntk) == 0 or k.nngp.dtype != jnp.float64:
            return after
        product = get_diagonal_outer_prods(
            k.cov1, k.cov2, k.diagonal_batch, k.diagonal_spatial, operator.mul
        )[1]
        equal = (product > 0) & (k.nngp >= (1 - 256 * jnp.finfo(jnp.float64).eps) * product**0.5)
        return after.replace(ntk=jnp.where(equal, slope * k.ntk, after.ntk))

    return init_fn, apply_fn, exact_kernel_fn


def _zero_without_variance(triple: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Make K zero behind ``ExpNormalized`` where a variance is zero.

    neural-tangents takes 1e-15 for √(K(x,x) K(x',x')) there, which another layer makes 1e-8 of.
    """
    init_fn, apply_fn, kernel_fn = triple

    @functools.wraps(kernel_fn)
    def zero_kernel_fn(k: Any, *args: Any, **kwargs: Any) -> Any:
        import jax.numpy as jnp
        from neural_tangents._src.stax.requirements import get_diagonal_outer_prods

        after = kernel_fn(k, *args, **kwargs)
        products = get_diagonal_outer_prods(
            k.cov1, k.cov2, k.diagonal_batch, k.diagonal_spatial, operator.mul
        )
        cov1, nngp, cov2 = (
            None if K is None else jnp.where(product > 0, K, 0.0)
            for K, product in zip((after.cov1, after.nngp, after.cov2), products, strict=True)
        )
        return after.replace(cov1=cov1, nngp=nngp, cov2=cov2)

    return init_fn, apply_fn, zero_kernel_fn


@dataclass(frozen=True)
class StaxState:
    """The compiled kernel function of a network, and (n, H, W, C) images."""

    arch: Architecture
    images: np.ndarray
    kernel_fn: Callable[..., Any]

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.images.nbytes


@functools.lru_cache(maxsize=8)
def _kernel_fn(arch: Architecture) -> Callable[..., Any]:
    import jax

    kernel_fn = build(arch)[2]

    def both(a: Any, b: Any) -> Any:
        with warnings.catch_warnings():
            # it cannot check that branches are independent; an identity beside one is meant
            warnings.filterwarnings("ignore", message=".*FanIn.*independent inputs")
            return kernel_fn(a, b, ("nngp", "ntk"))

    return jax.jit(both)


class StaxBackend:
    """neural-tangents behind the protocol of ``backend.Backend``; always computes in float64.

    In float32 its angle at equal inputs would be wrong by 1e-4 (see ``_exact_for_equal_inputs``),
    which no tile may be; ``dtype`` is that of the entries returned. jax takes all cores,
    whatever ``threads`` says.
    """

    name = "stax"
    arithmetic = "stax-1"

    def __init__(self, *, dtype: str = "float32", threads: int = 1) -> None:
        import_neural_tangents()
        self.dtype = dtype
        self.threads = threads

    def supports(
        self, arch: Architecture, image_shape: tuple[int, int, int], dtype: str | None = None
    ) -> str | None:
        """Return None if neural-tangents can trace the network on such images, else why not."""
        import jax

        spec = jax.ShapeDtypeStruct((1, *image_shape), "float64")
        try:
            jax.eval_shape(_kernel_fn(arch), spec, spec)
        except Exception as error:  # neural-tangents raises whatever its depths raise
            return _reason(error)
        return None

    def prepare(self, arch: Architecture, images: np.ndarray) -> StaxState:
        """Keep the images; neural-tangents computes its diagonals with every block."""
        x = as_images(images)
        check_range(arch, x, self.dtype)
        return StaxState(arch, x, _kernel_fn(arch))

    def block(
        self,
        a: StaxState,
        b: StaxState,
        kinds: Sequence[str] = ("ntk",),
        *,
        symmetric: bool = False,
    ) -> dict[str, np.ndarray]:
        """Compute (n_a, n_b) entries of each kind, in groups of one size (compiled once)."""
        kinds = check_kinds(kinds)
        symmetric = symmetric or a is b
        check_pair(a.images.shape[1:], b.images.shape[1:])
        entries = {kind: np.empty((len(a), len(b)), self.dtype) for kind in kinds}
        step = min(max(len(a), len(b)), self._group(a))
        for i in range(0, len(a), step):
            for j in range(0, len(b), step):
                if symmetric and j < i:
                    continue
                rows, columns = _padded(a.images, i, step), _padded(b.images, j, step)
                kernel = a.kernel_fn(rows, columns)
                m, n = min(step, len(a) - i), min(step, len(b) - j)
                for kind in kinds:
                    entries[kind][i : i + m, j : j + n] = np.asarray(getattr(kernel, kind))[:m, :n]
        if symmetric:
            entries = {kind: np.triu(x) + np.triu(x, 1).T for kind, x in entries.items()}
        return entries

    def _group(self, state: StaxState) -> int:
        """Return how many images on each side fit into one call."""
        H, W = state.images.shape[1:3]
        pooled = any(isinstance(x, (AvgPool, GlobalAvgPool)) for x in state.arch.layers)
        cells = 1 if not state.arch.is_spatial else (H * W) ** 2 if pooled else H * W
        each = 8 * state.images.itemsize * cells
        return max(1, min(1024, int((_CALL_BYTES / each) ** 0.5)))


def _reason(error: Exception) -> str:
    """Return why neural-tangents refuses a network, in this package's terms where it can."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    if "input to the activation function must be Gaussian" in words:
        return (
            "neural-tangents takes nonlinearities behind Conv or Dense alone, with nothing but "
            "pools, Identity, LayerNorm or sums of such layers between, and one here is elsewhere"
        )
    if "`FanInSum` is only implemented" in words:
        return (
            "neural-tangents takes Residual only where both branches end in linear layers, and an "
            "empty one only behind a linear layer"
        )
    if "All shapes should be equal in `FanInSum" in words:
        return (
            "neural-tangents takes an empty branch of Residual only behind a Conv or Dense; it "
            "cannot add images of several channels"
        )
    return words[:300]


def _padded(images: np.ndarray, start: int, count: int) -> np.ndarray:
    """Return ``count`` images from ``start``, the last one repeated where there are no more."""
    chosen = np.minimum(np.arange(start, start + count), len(images) - 1)
    return images[chosen]
