"""The CPU backend: fused layers in cache, one vector lane per column image (Numba, float32).

Covers chains of Conv (odd size, SAME, stride 1), Dense and Relu, ended by Flatten or
GlobalAvgPool, and fully connected ReLU networks, which are the same chain on 1 × 1 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ntkdist.architecture import Architecture, Conv, Dense, Flatten, GlobalAvgPool, Layer, Relu
from ntkdist.errors import InputError
from ntkdist.kernels.backend import as_images, check_kinds, check_pair
from ntkdist.kernels.duals import relu_dual


@dataclass(frozen=True)
class Stage:
    """One linear layer of a chain and what stands behind it.

    Attributes:
        size: Filter edge; 1 for a dense layer.
        W_std: Weight standard deviation.
        b_std: Bias standard deviation.
        trainable: Whether it adds its K to Θ.
        relu: Whether a ReLU follows.
    """

    size: int
    W_std: float
    b_std: float
    trainable: bool
    relu: bool


@dataclass(frozen=True)
class Chain:
    """A network as stages on pixels, a mean over positions, and layers on vectors.

    Attributes:
        stages: The stages before the mean, at least one.
        pooled: Mean over all pairs of positions (GlobalAvgPool), else over aligned ones.
        tail: The layers behind the mean; Dense only, unless the mean is over aligned positions.
    """

    stages: tuple[Stage, ...]
    pooled: bool
    tail: tuple[Dense | Relu, ...]


def chain_of(arch: Architecture) -> Chain | str:
    """Return ``arch`` as a chain, or the reason why it is none."""
    layers = arch.layers
    head: tuple[Layer, ...]
    tail: tuple[Layer, ...]
    if not arch.is_spatial:
        head, tail = tuple(x for x in layers if not isinstance(x, Flatten)), ()
        pooled = False
    else:
        end = next(i for i, x in enumerate(layers) if isinstance(x, (Flatten, GlobalAvgPool)))
        head, tail = layers[:end], layers[end + 1 :]
        pooled = isinstance(layers[end], GlobalAvgPool)
    stages: list[Stage] = []
    for layer in head:
        match layer:
            case Relu():
                if stages and not stages[-1].relu:
                    last = stages.pop()
                    stages.append(Stage(last.size, last.W_std, last.b_std, last.trainable, True))
                else:  # a ReLU with no linear layer before it stands behind the identity
                    stages.append(Stage(1, 1.0, 0.0, False, True))
            case Dense():
                stages.append(Stage(1, layer.W_std, layer.b_std, layer.trainable, False))
            case Conv() if layer.size % 2 and layer.padding == "SAME" and layer.stride == 1:
                stages.append(Stage(layer.size, layer.W_std, layer.b_std, layer.trainable, False))
            case Conv():
                return f"{layer!r} is not an odd filter with stride 1 and SAME padding"
            case _:
                return f"{type(layer).__name__} is not covered by the cpu backend"
    for layer in tail:
        if not isinstance(layer, (Dense, Relu)):
            return f"{type(layer).__name__} is not covered by the cpu backend"
        if pooled and isinstance(layer, Relu):
            return "a ReLU behind GlobalAvgPool is not covered by the cpu backend"
    return Chain(tuple(stages) or (Stage(1, 1.0, 0.0, False, False),), pooled, tail)  # type: ignore[arg-type]


def box_sum(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Sum (n, H, W) over a window of ``rows`` × ``columns`` around each pixel, zeros outside."""
    H, W = x.shape[1:]
    up, left = rows // 2, columns // 2
    padded = np.pad(x, ((0, 0), (up, up), (left, left)))
    tall = np.sum([padded[:, k : k + H, :] for k in range(rows)], axis=0)
    return np.sum([tall[:, :, k : k + W] for k in range(columns)], axis=0)


def _stack(layers: list[np.ndarray]) -> np.ndarray:
    return np.stack(layers, axis=1).astype(np.float32)


@dataclass(frozen=True)
class CpuState:
    """What ``prepare`` made of n images.

    Attributes:
        chain: The network.
        images: (n, H, W, C) float32 over √C, so that squares sum to means over channels.
        root: (n, L, H, W) float32, √Σ⁽ˡ⁾(x, x) behind the l-th linear layer.
        inverse: (n, L, H, W) float32, its reciprocal; 0 where it is 0.
        half: (n, L, H, W) float32, K(x, x)/2 in front of the l-th linear layer.
        side: (n, L, H, W) float32, its sums over the filter's columns times W_std²/q².
        variance: (n,) float64, the mean over pixels of K(x, x) at the end of the stages.
        norm: (n,) float64, what each image was divided by. Without biases the stages are
            homogeneous, and images of one size keep the digits that Δ would lose between
            images of very different contrast; with biases it is 1.
    """

    chain: Chain
    images: np.ndarray
    root: np.ndarray
    inverse: np.ndarray
    half: np.ndarray
    side: np.ndarray
    variance: np.ndarray
    norm: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes held, the lane layout included."""
        return 2 * sum(x.nbytes for x in self.arrays)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What the loops read of row images, in their order."""
        return self.images, self.root, self.inverse, self.half, self.side

    def __len__(self) -> int:
        return self.images.shape[0]

    @cached_property
    def lanes(self) -> tuple[np.ndarray, ...]:
        """``arrays`` in chunks with one image per vector lane, for column images."""
        return tuple(_to_lanes(x) for x in self.arrays)


def _to_lanes(x: np.ndarray) -> np.ndarray:
    from ntkdist.kernels._cpu_loops import LANES

    chunks = -(-x.shape[0] // LANES)
    padded = np.zeros((chunks * LANES, *x.shape[1:]), x.dtype)
    padded[: x.shape[0]] = x
    return np.ascontiguousarray(np.moveaxis(padded.reshape(chunks, LANES, *x.shape[1:]), 1, -1))


class CpuBackend:
    """Kernel entries on CPU cores; see ``backend.Backend`` for the protocol."""

    name = "cpu"
    arithmetic = "cpu-1"

    def __init__(self, *, dtype: str = "float32", threads: int = 1) -> None:
        self.dtype = dtype
        self.threads = threads

    def supports(
        self, arch: Architecture, image_shape: tuple[int, int, int], dtype: str | None = None
    ) -> str | None:
        """Return None if the cpu backend covers ``arch``, else the reason."""
        if (dtype or self.dtype) != "float32":
            return f"the cpu backend computes in float32, not {dtype or self.dtype}"
        chain = chain_of(arch)
        return chain if isinstance(chain, str) else None

    def prepare(self, arch: Architecture, images: np.ndarray) -> CpuState:
        """Compute the diagonals Σ⁽ˡ⁾(x, x) of (n, H, W, C) images in float64."""
        chain = chain_of(arch)
        if isinstance(chain, str):
            raise InputError(f"backend 'cpu': {chain}")
        x = as_images(images)
        if not arch.is_spatial:
            x = x.reshape(x.shape[0], 1, 1, -1)
        norm = np.ones(x.shape[0])
        if not any(stage.b_std for stage in chain.stages):
            norm = np.sqrt(np.mean(x * x, axis=(1, 2, 3)))
            norm[norm == 0] = 1.0
            x = x / norm[:, None, None, None]
        A = np.mean(x * x, axis=3)
        behind, half, side = [], [], []
        for stage in chain.stages:
            scale = stage.W_std**2 / stage.size**2
            half.append(A / 2)
            side.append(scale * box_sum(A / 2, 1, stage.size))
            A = scale * box_sum(A, stage.size, stage.size) + stage.b_std**2
            behind.append(A)
            A = A / 2 if stage.relu else A
        root = np.sqrt(_stack(behind))
        inverse = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
        scaled = (x / np.sqrt(x.shape[3])).astype(np.float32)
        variance = A.mean(axis=(1, 2))
        return CpuState(chain, scaled, root, inverse, _stack(half), _stack(side), variance, norm)

    def block(
        self, a: CpuState, b: CpuState, kinds: Sequence[str] = ("ntk",)
    ) -> dict[str, np.ndarray]:
        """Compute (n_a, n_b) float32 entries of each kind; ``a is b`` computes half of them."""
        kinds = check_kinds(kinds)
        check_pair(a.images.shape[1:], b.images.shape[1:])
        delta, theta = self._stages(a, b)
        K = (a.variance[:, None] + b.variance[None, :]) / 2 - delta
        # without biases a zero image has no variance at all, and no kernel with anything
        some = (a.variance > 0)[:, None] & (b.variance > 0)[None, :]
        scale = np.where(some, a.norm[:, None] * b.norm[None, :], 0.0)
        K, theta = scale * K, scale * theta
        K, theta = _vector_layers(a, b, K, theta)
        found = {"ntk": theta, "nngp": K}
        if a is b:
            found = {kind: np.triu(x) + np.triu(x, 1).T for kind, x in found.items()}
        return {kind: found[kind].astype(self.dtype) for kind in kinds}

    def _stages(self, a: CpuState, b: CpuState) -> tuple[np.ndarray, np.ndarray]:
        from ntkdist.kernels._cpu_loops import LANES, entries

        stages = a.chain.stages
        columns = b.lanes
        n, chunks = len(a), columns[0].shape[0]
        sizes = np.array([s.size for s in stages], np.int64)
        scales = np.array([s.W_std**2 / s.size**2 for s in stages], np.float32)
        trained = np.array([s.trainable for s in stages], np.float32)
        relu = np.array([s.relu for s in stages], np.bool_)
        delta = np.zeros((n, chunks, LANES))
        theta = np.zeros((n, chunks, LANES))
        first = np.arange(n) // LANES if a is b else np.zeros(n, np.int64)

        def run(rows: slice) -> None:
            entries(  # type: ignore[call-arg]  # the compiled function's signature is not typed
                *(x[rows] for x in a.arrays), *columns,
                sizes, scales, trained, relu, a.chain.pooled, first[rows], delta[rows], theta[rows],
            )  # fmt: skip

        threads = min(self.threads, n)
        if threads == 1:
            run(slice(0, n))
        else:
            # small groups of rows, so that the triangle of a diagonal tile spreads evenly
            groups = [slice(i, min(n, i + 4)) for i in range(0, n, 4)]
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(run, groups))
        width = len(b)
        return delta.reshape(n, -1)[:, :width], theta.reshape(n, -1)[:, :width]


def _vector_layers(
    a: CpuState, b: CpuState, K: np.ndarray, theta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Apply the layers behind Flatten or GlobalAvgPool to (n_a, n_b) float64 matrices."""
    A, B = (a.variance * a.norm**2)[:, None], (b.variance * b.norm**2)[None, :]
    for layer in a.chain.tail:
        if isinstance(layer, Relu):
            K, slope = relu_dual(K, A, B)
            theta, A, B = theta * slope, A / 2, B / 2
        else:
            scale, bias = layer.W_std**2, layer.b_std**2
            K, A, B = scale * K + bias, scale * A + bias, scale * B + bias
            theta = scale * theta + (K if layer.trainable else 0.0)
    return K, theta
