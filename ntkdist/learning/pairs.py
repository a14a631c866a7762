"""Pairs of images: kernel entries, features from their pixels, and least squares over pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.pixels import array_of, check_raw_scale

Matrix = NDArray[np.float64]
Positions = NDArray[np.integer[Any]]

# Eigenvalues of the pixels' covariance below this share of the largest are rounding.
_RANK_TOLERANCE = 1e-10

_FACTOR = 128  # order of the matrices whose products make a Walsh-Hadamard transform


@dataclass(frozen=True, eq=False)
class PixelPairs:
    """Statistics of the pixels of all pairs of m row images and n column images.

    Attributes:
        inner: (m, n) float64 inner products.
        l1: (m, n) float64 sums of absolute differences.
        squares: Squared norms of the row images (m,) and of the column images (n,).
        sums: Sums of their pixels, (m,) and (n,).
        pixels: Numbers in an image, d.
    """

    inner: Matrix
    l1: Matrix
    squares: tuple[Matrix, Matrix]
    sums: tuple[Matrix, Matrix]
    pixels: int

    def take(self, rows: Positions, cols: Positions) -> PixelPairs:
        """Return the pairs of some row and some column images."""
        chosen = np.ix_(rows, cols)
        return PixelPairs(
            self.inner[chosen],
            self.l1[chosen],
            (self.squares[0][rows], self.squares[1][cols]),
            (self.sums[0][rows], self.sums[1][cols]),
            self.pixels,
        )


def pixel_pairs(images: Any, others: Any = None) -> PixelPairs:
    """Compute the statistics that pair features need, once for all variants and folds.

    Args:
        images: (m, ...) row images, of any shape.
        others: (n, ...) column images of the same shape; None pairs ``images`` with themselves.

    Returns:
        The statistics, 16 bytes for each pair.

    Raises:
        InputError: For images of different shapes, none at all, NaN or infinity.
    """
    from scipy.spatial.distance import cdist, pdist, squareform

    x = _flat(images)
    y = x if others is None else _flat(others)
    if others is not None:
        check_raw_scale(array_of(images), array_of(others))
    if x.shape[1] != y.shape[1]:
        raise InputError(
            f"images of {x.shape[1]} and of {y.shape[1]} numbers; pairs need images of one shape"
        )
    return PixelPairs(
        inner=x @ y.T,
        l1=squareform(pdist(x, "cityblock")) if others is None else cdist(x, y, "cityblock"),
        squares=(np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y)),
        sums=(x.sum(axis=1), y.sum(axis=1)),
        pixels=x.shape[1],
    )


def _flat(images: Any) -> Matrix:
    x = array_of(images)
    if x.ndim < 2 or 0 in x.shape:
        raise InputError(f"images have shape {x.shape}; (n, H, W, C) with n ≥ 1 is needed")
    x = x.reshape(len(x), -1).astype(np.float64)
    if not np.isfinite(x).all():
        raise InputError("images hold NaN or infinity; clean them")
    return x


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of m images with n training images.

    Attributes:
        kernel: (m, n) float64, H.
        pixels: Statistics of their pixels; None suffices for KR-V1 and KR-V2.
    """

    kernel: Matrix
    pixels: PixelPairs | None = None

    def __post_init__(self) -> None:
        kernel = np.asarray(self.kernel, dtype=np.float64)
        object.__setattr__(self, "kernel", kernel)
        if kernel.ndim != 2 or 0 in kernel.shape:
            raise InputError(f"kernel has shape {kernel.shape}; a matrix of pairs is needed")
        if not np.isfinite(kernel).all():
            raise InputError("the kernel holds NaN or infinity; ntkdist status names the tile")
        if self.pixels is not None and self.pixels.inner.shape != kernel.shape:
            raise InputError(
                f"kernel has shape {kernel.shape}, but the images make pairs of shape "
                f"{self.pixels.inner.shape}; give the images of its rows and columns"
            )

    def take(self, rows: Positions, cols: Positions) -> Pairs:
        """Return the pairs of some row and some column images."""
        pixels = None if self.pixels is None else self.pixels.take(rows, cols)
        return Pairs(self.kernel[np.ix_(rows, cols)], pixels)


class PairFeatures:
    """Features of pairs, the regressors of label products in FJLT-V1 (ten) and FJLT-V2 (twenty).

    The ten: H, inner product, cosine, squared distance, product of norms, sine and angle, RBF
    exp(−‖x − x'‖²/s) with s the mean squared distance of all pairs of training images, Pearson
    correlation, L1 distance. Ten more come from the first five principal components of the
    training images: products p_c p'_c and distances |p_c − p'_c|; fewer if the images span less.
    Cosine with an image of zeros and correlation with a constant image, which are 0/0, are 0.
    Unlike in the authors' script, no pixel of 1 is appended to the images. ``components`` is 0 or 5
    as published. ``InputError`` without pixels, or if all training images are equal (Chen, He and
    Su 2020, LANTK-FJLT-V1 and V2).
    """

    def __init__(self, train: Pairs, components: int) -> None:
        pixels = _pixels_of(train)
        self._width = float(_squared_distances(pixels).mean())
        if not self._width > 0:
            raise InputError("all training images are equal; FJLT needs images that differ")
        self._axes, self._mean, self._grand = _principal_axes(pixels.inner, components)
        self.count = 10 + 2 * self._axes.shape[1]

    def of(self, pairs: Pairs) -> Iterator[Matrix]:
        """Yield one (m, n) matrix a feature, always in the same order.

        Args:
            pairs: Of any images (rows) with the training images (columns).
        """
        p = _pixels_of(pairs)
        yield pairs.kernel
        yield p.inner
        norms = np.sqrt(np.outer(*p.squares))
        cosine = _ratio(p.inner, norms)
        yield cosine
        squared = _squared_distances(p)
        yield squared
        yield norms
        yield np.sqrt(1.0 - cosine**2)
        yield np.arccos(cosine)
        yield np.exp(squared / -self._width)
        (a, b), (s, t) = p.squares, p.sums
        spread = np.maximum(a - s**2 / p.pixels, 0.0), np.maximum(b - t**2 / p.pixels, 0.0)
        yield _ratio(p.inner - np.outer(s, t) / p.pixels, np.sqrt(np.outer(*spread)))
        yield p.l1
        rows, cols = self._scores(p)
        for c in range(self._axes.shape[1]):
            yield np.outer(rows[:, c], cols[:, c])
        for c in range(self._axes.shape[1]):
            yield np.abs(np.subtract.outer(rows[:, c], cols[:, c]))

    def _scores(self, pixels: PixelPairs) -> tuple[Matrix, Matrix]:
        """Return principal component scores of the row images and of the training images."""
        centred = pixels.inner - pixels.inner.mean(axis=1, keepdims=True) - self._mean + self._grand
        values = np.linalg.norm(self._axes, axis=0)  # the axes are V√Λ
        return centred @ (self._axes / values**2), self._axes


def _principal_axes(inner: Matrix, components: int) -> tuple[Matrix, Matrix, float]:
    """Return the training images' scores V√Λ, and the column means and mean of ``inner``."""
    from scipy.linalg import eigh

    n = len(inner)
    mean, grand = inner.mean(axis=0), float(inner.mean())
    if components == 0:
        return np.empty((n, 0)), mean, grand
    centred = inner - mean - mean[:, None] + grand
    values, vectors = eigh(centred, subset_by_index=[max(0, n - components), n - 1])
    kept = values > _RANK_TOLERANCE * max(values[-1], 0.0)
    return (vectors[:, kept] * np.sqrt(values[kept]))[:, ::-1], mean, grand


def _pixels_of(pairs: Pairs) -> PixelPairs:
    if pairs.pixels is None:
        raise InputError("FJLT variants read pixels; give the images, or use kr-v1 or kr-v2")
    return pairs.pixels


def _squared_distances(p: PixelPairs) -> Matrix:
    return np.maximum(np.add.outer(*p.squares) - 2.0 * p.inner, 0.0)


def _ratio(numerator: Matrix, denominator: Matrix) -> Matrix:
    """Return the ratio within −1..1, and 0 where the denominator is 0."""
    out = np.zeros_like(numerator)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return np.clip(out, -1.0, 1.0, out=out)


def walsh_hadamard(x: Matrix) -> Matrix:
    """Return ``scipy.linalg.hadamard(2**a) @ x`` of x (2^a,).

    The matrix of order 2^a is a Kronecker product of small ones, each applied along its own axis:
    a few matrix products instead of a passes over memory.
    """
    from scipy.linalg import hadamard

    size, done = len(x), 1
    while done < size:
        order = min(_FACTOR, size // done)
        shaped = x.reshape(size // (done * order), order, done)
        x = np.matmul(hadamard(order, dtype=np.float64), shaped)
        done *= order
    return x.reshape(size)


class Fjlt:
    """Φ = P H D: signs D, a Hadamard transform H, and a sparse Gaussian matrix P of k rows.

    Entries of P are nonzero with probability q = min(1, ln²(columns)/size). Columns are
    transformed one at a time, so that the matrix, of ``length`` rows, need not be in memory. The
    sketch has ``rows`` rows, k (Ailon and Chazelle 2009).
    """

    def __init__(self, length: int, rows: int, columns: int, seed: int) -> None:
        from scipy.sparse import csr_array

        random = np.random.default_rng(seed)
        self._size = 1 << (length - 1).bit_length()
        self._signs = random.integers(0, 2, length, dtype=np.int8) * 2 - 1
        density = min(1.0, math.log(columns) ** 2 / self._size)
        each = random.binomial(self._size, density, rows)
        starts = np.concatenate([[0], np.cumsum(each)])
        places = random.integers(0, self._size, starts[-1])
        # Least squares do not depend on a common factor; this one preserves squared norms.
        values = random.normal(0.0, (density * rows * self._size) ** -0.5, starts[-1])
        self._sparse = csr_array((values, places, starts), shape=(rows, self._size))

    def __call__(self, column: Matrix) -> Matrix:
        """Return the sketch (k,) of a column (length,)."""
        padded = np.zeros(self._size)
        padded[: len(column)] = column * self._signs
        return self._sparse @ walsh_hadamard(padded)


def sketch_rows(columns: int, epsilon: float) -> int:
    """Return k = ⌊ln(columns)/ε²⌋, at least the number of columns."""
    return max(columns, int(math.log(columns) / epsilon**2))


def pair_regression(
    features: Iterable[Matrix], target: Matrix, count: int, *, epsilon: float, seed: int
) -> Matrix:
    """Return the weights of least squares over all pairs of n images, from a sketch of its rows.

    ``features`` are p = ``count`` symmetric matrices (n, n), read one after another; ``target`` is
    symmetric. Of the n² rows those of pairs i ≤ j are used, with a factor √2 for i < j, which gives
    the same sums of squares. The matrix and its target have p + 1 columns, the sketch
    k = ⌊ln(p + 1)/ε²⌋ rows; if that is not less than the number of pairs, there is no sketch. There
    is no intercept and no ridge; columns are scaled for the solver alone. The weights (p,) are
    those of least norm if features depend on each other (Chen, He and Su 2020, LANTK-FJLT).
    """
    n = len(target)
    upper = np.tri(n, dtype=bool).T
    weight = np.where(np.eye(n, dtype=bool), 1.0, math.sqrt(2.0))[upper]
    k = sketch_rows(count + 1, epsilon)
    sketch = Fjlt(len(weight), k, count + 1, seed) if k < len(weight) else None

    def reduced(matrix: Matrix) -> Matrix:
        column = matrix[upper] * weight
        return column if sketch is None else sketch(column)

    A = np.stack([reduced(feature) for feature in features], axis=1)
    scale = np.linalg.norm(A, axis=0)
    scale[scale == 0] = 1.0
    solved: Matrix = np.linalg.lstsq(A / scale, reduced(target))[0]
    return solved / scale
