"""The reference recursion in extended precision, and the fast backends held against it.

Where two images correlate to within 1e-8 somewhere in a network, or exactly, float64 leaves
the reference fewer than ten digits of the angle: its derivative is infinite at correlation 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike

from ntkdist import Architecture
from ntkdist.kernels import reference, select_backend
from ntkdist.kernels.chain import Chain, chain_of, state_dtype
from ntkdist.kernels.graph import Graph, graph_of, graph_state_dtype
from ntkdist.kernels.reference import PairKernels
from ntkdist.networks.architecture import ArchitectureSpec
from ntkdist.networks.layers import (
    ABRelu,
    AvgPool,
    Flatten,
    GlobalAvgPool,
    Layer,
    LayerNorm,
    LeakyRelu,
    Nonlinearity,
    Relu,
    Residual,
)
from tests.tolerances import RTOL, assert_close

KINDS = ("ntk", "nngp")
PI = np.arccos(np.longdouble(-1))
# a few roundings of the extended precision: patches nearer than this are taken as equal
SAME = 3e-18
ROUNDINGS = 8
# error of a float64 angle at correlation 1 or −1: the root of an error of the polynomials
ANGLE = 1e-6
NO_ANGLE = 4e-7  # roundings of K in float32


def extended_entries(
    arch: ArchitectureSpec,
    x: np.ndarray,
    y: np.ndarray,
    *,
    pooled: DTypeLike = np.longdouble,
    less: float = 0.0,
) -> dict[str, np.ndarray]:
    """Return (n, m) float64 entries of both kinds, good to about 1e-14.

    ``pooled`` rounds K, K(x, x) and K(x', x') behind every pool to a dtype; K(x, x') of the
    pixels is smaller by the share ``less``.
    """
    arch = Architecture.parse(arch)
    u, v = (np.asarray(images, np.longdouble) for images in (x, y))
    if not arch.is_spatial:
        u, v = (images.reshape(len(images), 1, 1, -1) for images in (u, v))
    K = _products("nijc,mklc->nmijkl", u, v) * (1 - np.longdouble(less))
    own = (_products("nijc,nklc->nijkl", z, z) for z in (u, v))
    k = PairKernels(K, np.zeros_like(K), *own)
    for layer in arch.layers:
        k = _apply(layer, k, pooled)
    found = {"ntk": k.theta, "nngp": k.K}
    return {kind: found[kind][:, :, 0, 0, 0, 0].astype(np.float64) for kind in KINDS}


def _products(subscripts: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.einsum(subscripts, u, v) / u.shape[-1]


def _apply(layer: Layer, k: PairKernels, pooled: DTypeLike) -> PairKernels:
    match layer:
        case AvgPool() | GlobalAvgPool():
            k = reference.apply(layer, k)
            K, K11, K22 = (z.astype(pooled).astype(np.longdouble) for z in (k.K, k.K11, k.K22))
            return PairKernels(K, k.theta, K11, K22)
        case Relu():
            return _bent(0.0, 1.0, k)
        case LeakyRelu():
            return _bent(layer.alpha, 1.0, k)
        case ABRelu():
            return _bent(layer.a, layer.b, k)
        case Residual():
            main, other = k, k
            for inner in layer.branch:
                main = _apply(inner, main, pooled)
            for inner in layer.shortcut:
                other = _apply(inner, other, pooled)
            names = ("K", "theta", "K11", "K22")
            return PairKernels(*(getattr(main, x) + getattr(other, x) for x in names))
        case _:
            return reference.apply(layer, k)


def _bent(a: float, b: float, k: PairKernels) -> PairKernels:
    """Return the kernels behind a · min(u, 0) + b · max(u, 0)."""
    low, high = np.longdouble(a), np.longdouble(b)

    def dual(K: np.ndarray, A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        E, slope = _relu_dual(K, A, B)
        mixed, bend = low * high, (high - low) ** 2
        return mixed * K + bend * E, mixed + bend * slope

    A, B = k.variances()
    K, slope = dual(k.K, A, B)
    K11, _ = dual(k.K11, A[:, 0], np.moveaxis(A[:, 0], (1, 2), (3, 4)))
    K22, _ = dual(k.K22, np.moveaxis(B[0], (3, 4), (1, 2)), B[0])
    return PairKernels(K, k.theta * slope, K11, K22)


def _relu_dual(K: np.ndarray, A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ab = np.broadcast_to(np.sqrt(A) * np.sqrt(B), K.shape)
    c = np.divide(K, ab, out=np.zeros_like(K), where=ab > 0)
    c = np.where(1 - np.abs(c) < SAME, np.sign(c), c)
    theta = np.arccos(c)
    slope = (PI - theta) / (2 * PI)
    return ab * (np.sqrt((1 - c) * (1 + c)) / (2 * PI) + c * slope), slope


def entries_by(
    name: str, arch: ArchitectureSpec, x: np.ndarray, y: np.ndarray, dtype: str
) -> dict[str, np.ndarray]:
    """Return (n, m) entries of both kinds in ``dtype`` by a backend."""
    arch = Architecture.parse(arch)
    backend = select_backend(arch, x.shape[1:], name=name, dtype=dtype, threads=2).backend
    return backend.block(backend.prepare(arch, x), backend.prepare(arch, y), KINDS)


def cpu_entries(
    arch: ArchitectureSpec, x: np.ndarray, y: np.ndarray, dtype: str
) -> dict[str, np.ndarray]:
    """Return (n, m) entries of both kinds in ``dtype`` by the cpu backend."""
    return entries_by("cpu", arch, x, y, dtype)


def check_cpu(
    arch: ArchitectureSpec,
    x: np.ndarray,
    y: np.ndarray,
    expected: dict[str, np.ndarray] | None = None,
    *,
    signed: bool = False,
) -> None:
    """Assert that the cpu backend's entries are near the oracle's; see ``check``."""
    check("cpu", arch, x, y, expected, signed=signed)


def check(
    name: str,
    arch: ArchitectureSpec,
    x: np.ndarray,
    y: np.ndarray,
    expected: dict[str, np.ndarray] | None = None,
    *,
    signed: bool = False,
    multiples: bool = False,
    dtypes: Iterable[str] = tuple(RTOL),
) -> None:
    """Assert that a backend's entries of both kinds are near the oracle's.

    Args:
        name: Of the backend.
        arch: The network.
        x: (n, H, W, C) row images.
        y: (m, H, W, C) column images.
        expected: Entries of pairs without near duplicates, if they are known.
        signed: Entries are sums of both signs and may cancel to any fraction of what was
            summed: measure the error against their largest possible size as well. Where the
            state is float64 and entries are float32, ``ANGLE`` of that size is allowed.
        multiples: Patches of the images are multiples of each other. A state in float32 has no
            digits of the angle between them: allow what ``NO_ANGLE`` of K costs.
        dtypes: In which.
    """
    arch = Architecture.parse(arch)
    no_slack = dict.fromkeys(KINDS, np.zeros(())) if expected else None
    expected = expected or extended_entries(arch, x, y)
    size = sizes_of(arch, x, y) if signed else dict.fromkeys(KINDS, 0.0)
    for dtype in dtypes:
        found = entries_by(name, arch, x, y, dtype)
        state = _state_dtype(arch, x.shape[1:], dtype)
        slack = no_slack or _slack(arch, x, y, expected, state)
        if multiples and state == "float32":
            tilted = extended_entries(arch, x, y, less=NO_ANGLE)
            slack = {k: slack[k] + 2 * np.abs(tilted[k] - expected[k]) for k in KINDS}
        for kind in KINDS:
            assert found[kind].dtype == dtype
            error = found[kind] - expected[kind]
            error = np.sign(error) * np.maximum(np.abs(error) - slack[kind], 0)
            total = np.abs(expected[kind])
            total = total + size[kind] * (1.0 if state == dtype else ANGLE / RTOL[dtype])
            assert_close(total + error, total, RTOL[dtype])


def _state_dtype(arch: Architecture, shape: tuple[int, int, int], dtype: str) -> str:
    chain = chain_of(arch)
    if isinstance(chain, Chain):
        return state_dtype(chain, shape, dtype)
    graph = graph_of(arch)
    assert isinstance(graph, Graph)
    return graph_state_dtype(graph, shape if graph.spatial else (1, 1, math.prod(shape)), dtype)


def _slack(
    arch: Architecture, x: np.ndarray, y: np.ndarray, expected: dict[str, np.ndarray], dtype: str
) -> dict[str, np.ndarray]:
    """Return what ``ROUNDINGS`` of K behind the pools cost each entry.

    Near duplicates differ in few of a window's pixels: behind a pool 1 − c may be a few
    roundings of the dtype, and a nonlinearity there turns them into digits of the entry. Windows
    that are equal stay equal when they are rounded and are given nothing.
    """
    pools = [i for i, layer in enumerate(arch.layers) if _has_pool(layer)]
    behind = arch.layers[pools[0] :] if pools else ()
    if not any(isinstance(layer, Nonlinearity | LayerNorm | Residual) for layer in behind):
        return dict.fromkeys(KINDS, np.zeros(()))
    rounded = extended_entries(arch, x, y, pooled=dtype)
    return {kind: ROUNDINGS * np.abs(rounded[kind] - expected[kind]) for kind in KINDS}


def _has_pool(layer: Layer) -> bool:
    if isinstance(layer, Residual):
        return any(map(_has_pool, layer.branch + layer.shortcut))
    return isinstance(layer, AvgPool | GlobalAvgPool)


def sizes_of(arch: Architecture, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return √(k(x, x) k(x', x')) of the network without its pools, whose means cancel too."""
    layers = [Flatten() if isinstance(z, GlobalAvgPool) else z for z in arch.layers]
    end = layers.index(Flatten()) if Flatten() in layers else 0
    # a LayerNorm may not follow Flatten, and makes no sum
    kept = [
        z
        for i, z in enumerate(layers)
        if not isinstance(z, AvgPool) and not (isinstance(z, LayerNorm) and i > end)
    ]
    plain = Architecture(tuple(kept))
    own = [extended_entries(plain, images, images) for images in (x, y)]
    return {
        kind: np.sqrt(np.outer(*(np.diagonal(entries[kind]) for entries in own))) for kind in KINDS
    }
