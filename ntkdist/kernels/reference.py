"""The oracle: NNGP and NTK recursions in float64, written like the formulas.

The state of a pair of images is K[i, j, i', j'] and Θ[i, j, i', j'] for every pair of
positions, as in Arora et al. 2019, section 4. Nothing is fused, packed or approximated;
a 32 × 32 pair takes tens of megabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ntkdist.errors import InputError
from ntkdist.kernels.backend import as_images, check_kinds, check_pair
from ntkdist.kernels.duals import dual
from ntkdist.kernels.ranges import check_range
from ntkdist.kernels.windows import padding_before, windows
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import (
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Layer,
    Residual,
)


@dataclass(frozen=True)
class PairKernels:
    """The kernels of n × m pairs of images at one layer.

    Attributes:
        K: (n, m, P, Q, P, Q), Σ(x, x') for positions (i, j) of x and (i', j') of x'.
        theta: Like ``K``, Θ(x, x').
        K11: (n, P, Q, P, Q), Σ(x, x) of every row image with itself.
        K22: (m, P, Q, P, Q), Σ(x', x') of every column image with itself.
    """

    K: np.ndarray
    theta: np.ndarray
    K11: np.ndarray
    K22: np.ndarray

    def variances(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the diagonals Σ(x, x) and Σ(x', x'), shaped to broadcast against ``K``."""
        A = np.einsum("nijij->nij", self.K11)[:, None, :, :, None, None]
        B = np.einsum("mijij->mij", self.K22)[None, :, None, None, :, :]
        return A, B


def input_kernels(x1: np.ndarray, x2: np.ndarray) -> PairKernels:
    """Return Σ⁽⁰⁾ = the mean over channels of x·x', and Θ = 0, for (n, P, Q, C) images.

    All three are summed channel by channel in one order: equal images then have equal bits in
    K, K11 and K22 at every layer, hence correlation exactly 1 and no error in the angle, whose
    derivative is infinite there.
    """

    def mean(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        total = np.zeros(np.broadcast_shapes(u.shape[:-1], v.shape[:-1]))
        for c in range(u.shape[-1]):
            total += u[..., c] * v[..., c]
        return total / u.shape[-1]

    def outer(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return mean(u[..., :, :, None, None, :], v[..., None, None, :, :, :])

    K = outer(x1[:, None], x2[None, :])
    return PairKernels(K, np.zeros_like(K), outer(x1, x1), outer(x2, x2))


def apply(layer: Layer, k: PairKernels) -> PairKernels:
    """Return the kernels behind a layer, from those in front of it.

    Raises:
        InputError: If what is left of the image is too small for the layer.
    """
    match layer:
        case Conv() | Dense():
            scale, bias = layer.W_std**2, layer.b_std**2

            def mean(x: np.ndarray) -> np.ndarray:
                return aligned_mean(x, layer) if isinstance(layer, Conv) else x

            K = scale * mean(k.K) + bias
            theta = scale * mean(k.theta) + (K if layer.trainable else 0.0)
            return PairKernels(K, theta, scale * mean(k.K11) + bias, scale * mean(k.K22) + bias)
        case AvgPool() | GlobalAvgPool():
            pool = layer if isinstance(layer, AvgPool) else None
            return PairKernels(*(pooled_mean(x, pool) for x in (k.K, k.theta, k.K11, k.K22)))
        case Flatten():
            return PairKernels(*(flat_mean(x) for x in (k.K, k.theta, k.K11, k.K22)))
        case Residual():
            main, other = k, k
            for inner in layer.branch:
                main = apply(inner, main)
            for inner in layer.shortcut:
                other = apply(inner, other)
            return PairKernels(
                main.K + other.K,
                main.theta + other.theta,
                main.K11 + other.K11,
                main.K22 + other.K22,
            )
        case _:
            A, B = k.variances()
            K, slope = dual(layer, k.K, A, B)
            K11, _ = dual(layer, k.K11, A[:, 0], np.moveaxis(A[:, 0], (1, 2), (3, 4)))
            K22, _ = dual(layer, k.K22, np.moveaxis(B[0], (3, 4), (1, 2)), B[0])
            return PairKernels(K, k.theta * slope, K11, K22)


def aligned_mean(x: np.ndarray, conv: Conv) -> np.ndarray:
    """Average (…, P, Q, P, Q) over the q² filter offsets that move both positions together."""
    q, s = conv.size, conv.stride
    P, Q = x.shape[-4:-2]
    pads = []
    for edge in (P, Q):
        if conv.padding == "VALID":
            if edge < q:
                raise InputError(f"Conv: a {q}-wide VALID filter does not fit into {edge} pixels")
            pads.append((0, 0))
        else:
            before = padding_before(edge, q, s)
            pads.append((before, max((-(-edge // s) - 1) * s + q - edge - before, 0)))
    mode = "wrap" if conv.padding == "CIRCULAR" else "constant"
    lead = [(0, 0)] * (x.ndim - 4)
    padded = np.pad(x, [*lead, pads[0], pads[1], pads[0], pads[1]], mode=mode)  # type: ignore[call-overload]
    rows, columns = padded.shape[-4] - q + 1, padded.shape[-3] - q + 1
    total_sum = np.zeros(())
    for u in range(q):
        for v in range(q):
            i, j = slice(u, u + rows, s), slice(v, v + columns, s)
            total_sum = total_sum + padded[..., i, j, i, j]
    return total_sum / q**2


def pooled_mean(x: np.ndarray, pool: AvgPool | None) -> np.ndarray:
    """Average (…, P, Q, P, Q) over windows of both images independently; None = all pixels."""
    P, Q = x.shape[-4:-2]
    if pool is not None and not pool.side_by_side:
        rows, columns = (
            windows(edge, pool.size, pool.step, pool.padding) / pool.size for edge in (P, Q)
        )
        return np.einsum(
            "ai,bj,ck,dl,...ijkl->...abcd", rows, columns, rows, columns, x, optimize=True
        )
    h, w = (P, Q) if pool is None else (pool.size, pool.size)
    if h > P or w > Q:
        raise InputError(f"AvgPool: a window of {h} does not fit into {P}×{Q} pixels")
    p, q = P // h, Q // w
    cut = x[..., : p * h, : q * w, : p * h, : q * w]
    split = cut.reshape(*x.shape[:-4], p, h, q, w, p, h, q, w)
    return split.mean(axis=(-7, -5, -3, -1))


def flat_mean(x: np.ndarray) -> np.ndarray:
    """Average (…, P, Q, P, Q) over aligned positions."""
    mean = np.einsum("...ijij->...", x) / (x.shape[-4] * x.shape[-3])
    return mean[..., None, None, None, None]


@dataclass(frozen=True)
class ReferenceState:
    """The network and (n, P, Q, C) float64 images; nothing is computed ahead."""

    arch: Architecture
    images: np.ndarray

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.images.nbytes


class ReferenceBackend:
    """The recursion as the papers write it; see ``backend.Backend`` for the protocol."""

    name = "reference"
    arithmetic = "reference-1"

    def __init__(self, *, dtype: str = "float64", threads: int = 1) -> None:
        self.dtype = dtype
        self.threads = threads

    def supports(
        self, arch: Architecture, image_shape: tuple[int, int, int], dtype: str | None = None
    ) -> str | None:
        """Return None: every layer is covered."""
        return None

    def prepare(self, arch: Architecture, images: np.ndarray) -> ReferenceState:
        """Check and keep the images; fully connected networks see them flattened."""
        x = as_images(images)
        check_range(arch, x, self.dtype)
        return ReferenceState(arch, x if arch.is_spatial else x.reshape(x.shape[0], 1, 1, -1))

    def block(
        self,
        a: ReferenceState,
        b: ReferenceState,
        kinds: Sequence[str] = ("ntk",),
        *,
        symmetric: bool = False,
    ) -> dict[str, np.ndarray]:
        """Compute (n_a, n_b) entries of each kind, in groups of pairs that fit memory."""
        kinds = check_kinds(kinds)
        check_pair(a.images.shape[1:], b.images.shape[1:])
        entries = {kind: np.empty((len(a), len(b)), self.dtype) for kind in kinds}
        P, Q = a.images.shape[1:3]
        step = max(1, int((2**27 / 8 / (P * Q) ** 2) ** 0.5))
        for i in range(0, len(a), step):
            for j in range(0, len(b), step):
                rows, columns = slice(i, i + step), slice(j, j + step)
                k = input_kernels(a.images[rows], b.images[columns])
                for layer in a.arch.layers:
                    k = apply(layer, k)
                for kind in kinds:
                    x = k.theta if kind == "ntk" else k.K
                    entries[kind][rows, columns] = x[:, :, 0, 0, 0, 0]
        if symmetric or a is b:
            entries = {kind: np.triu(x) + np.triu(x, 1).T for kind, x in entries.items()}
        return entries
