"""ZCA whitening of whole images: its statistics, and a matrix product with exact sums.

D is the number of values of an image, H·W·C.

A run may be extended, or used for predictions, on another machine than the one that began it. It
then recognises its images in the source by the bits of the prepared images. The last bits of an
ordinary matrix product depend on the number of rows, on the threads and on the processor. Here both
factors are split into integers so small that every sum of the product is exact in float64, whatever
the order of its terms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError

#: Most values of an image: 64×64 pixels of 3 channels.
MOST_VALUES = 12_288
#: How many arrays of the matrix's size are in memory at once while it is fitted or applied.
MATRICES = 5
_MANTISSA = 53  # bits: float64 has all integers up to 2^53
_ROUNDING = 1e-12  # relative difference of sums over the same images in another order, at most


@dataclass(frozen=True, eq=False)
class Whitening:
    """A fitted whitening x → (x − μ) W. Two are equal if means and matrices are.

    Attributes:
        mean: μ, (H, W, C) float64, the mean training image.
        matrix: W, (D, D) float64, symmetric.
    """

    mean: NDArray[np.float64] = field(repr=False)
    matrix: NDArray[np.float64] = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("mean", "matrix"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Whitening):
            return NotImplemented
        return np.array_equal(self.mean, other.mean) and np.array_equal(self.matrix, other.matrix)

    def __hash__(self) -> int:
        return hash((self.mean.tobytes(), hashlib.sha256(self.matrix.tobytes()).digest()))

    @classmethod
    def fit(
        cls,
        blocks: Callable[[], Iterable[NDArray[np.float64]]],
        count: int,
        shape: tuple[int, int, int],
        epsilon: float,
        *,
        mirrored: bool = False,
    ) -> Whitening:
        """Measure mean and covariance of the images, in two passes over their blocks.

        W = (Σ + ε·mean(λ)·I)^(−1/2), with the covariance Σ (ddof 0) and the mean of its eigenvalues
        λ, which is the mean variance of a value. With fewer images than values the N×N matrix of
        their inner products is decomposed in place of Σ, for the same W.

        Args:
            blocks: Returns the images in blocks (B, H, W, C) float64.
            count: N, the number of images.
            shape: (H, W, C).
            epsilon: ε, above 0.
            mirrored: Measure the images and their mirror images, left and right exchanged. The
                whitened mirror image of an image then has the bits of the mirror image of the
                whitened image.

        Raises:
            InputError: D is above ``MOST_VALUES``, all images are equal, or their differences
                overflow float64.
        """
        check_size(shape)
        size = int(np.prod(shape))
        turned = np.arange(size).reshape(shape)[:, ::-1].ravel()
        total, low, high = np.zeros(size), np.full(size, np.inf), np.full(size, -np.inf)
        with np.errstate(over="ignore", invalid="ignore"):  # reported below
            for block in blocks():
                rows = block.reshape(len(block), size)
                total += rows.sum(axis=0)
                low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
            # a constant value is its own mean; total / count has the rounding error of the sum
            mean = np.where(low == high, low, total / count)
            if mirrored:
                mean = (mean + mean[turned]) / 2
                low, high = np.minimum(low, low[turned]), np.maximum(high, high[turned])
            largest = float(np.maximum(high - mean, mean - low).max())
        if largest == 0.0:
            raise InputError(
                f"zca: the training images ({count}) do not differ after the steps before it, so "
                "that there is nothing to whiten; leave zca away"
            )
        if not np.isfinite(largest):
            raise InputError(
                "zca: differences between values overflow float64; divide them by a constant"
            )
        # the largest scaled value is in [½, 1): its square neither overflows nor vanishes
        exponent = int(np.frexp(largest)[1])
        scaled = (np.ldexp(block.reshape(len(block), size) - mean, -exponent) for block in blocks())
        if (2 * count if mirrored else count) < size:
            rows = np.concatenate(list(scaled))
            matrix = _from_products(
                np.concatenate([rows, rows[:, turned]]) if mirrored else rows, epsilon
            )
        else:
            covariance = _covariance(scaled, count, size)
            if mirrored:
                covariance = (covariance + covariance[np.ix_(turned, turned)]) / 2
            matrix = _from_covariance(covariance, epsilon)
        if mirrored:
            matrix = (matrix + matrix[np.ix_(turned, turned)]) / 2
        return cls(mean.reshape(shape), np.ldexp(matrix, -exponent))

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Whiten images (B, H, W, C); an image's bits depend neither on the others nor on BLAS.

        The error of a value is at most 3·D·2^(−2·bits) times the largest value of its image times
        the largest of W, 8e-9 of these for D = 3,072 (20 bits); roundings of both signs make it
        about √D in place of D.

        Raises:
            InputError: The images have another shape than the training images.
        """
        if x.shape[1:] != self.mean.shape:
            given, wanted = ("×".join(map(str, shape)) for shape in (x.shape[1:], self.mean.shape))
            raise InputError(
                f"zca was fitted to images of {wanted} and cannot whiten images of {given}: it "
                "whitens all pixels together; bring both to one size with --data.size"
            )
        rows = (x - self.mean).reshape(len(x), -1)
        size = rows.shape[1]
        bits = (_MANTISSA - (size - 1).bit_length()) // 2  # D products of 2·bits bits are exact
        row_exponents = np.frexp(np.abs(rows).max(axis=1, keepdims=True))[1]
        exponent = int(np.frexp(np.abs(self.matrix).max())[1])
        coarse, fine = _split(rows, bits, row_exponents)
        matrix, rest = _split(self.matrix, bits, exponent)
        # (a + b/2^bits)(c + d/2^bits) without bd
        small = coarse @ rest
        small += fine @ matrix
        out = coarse @ matrix
        out += np.ldexp(small, -bits)
        return np.ldexp(out, row_exponents + (exponent - 2 * bits)).reshape(x.shape)

    def agrees(self, other: Whitening, epsilon: float) -> bool:
        """Return whether another one was fitted with ``epsilon`` to the same images, in any order.

        The order of a sum decides its last bits, which the inverse root enlarges by up to D/ε.
        """
        if self.mean.shape != other.mean.shape:
            return False
        limit = _ROUNDING * self.mean.size / epsilon
        largest = float(np.abs(self.matrix).max())
        change = float(np.abs(self.matrix - other.matrix).max())
        shift = float(np.abs(self.mean - other.mean).max())
        # the shift changes whitened values, which are about 1, by the limit at most, or it is
        # rounding of the mean
        return change <= limit * largest and (
            shift * largest <= limit or shift <= _ROUNDING * float(np.abs(self.mean).max())
        )


def check_size(shape: tuple[int, ...]) -> None:
    """Raise ``InputError`` for images (H, W, C) of more than ``MOST_VALUES`` values."""
    size = int(np.prod(shape))
    if size <= MOST_VALUES:
        return
    gib = matrix_bytes(size) / 2**30
    remedy = (
        "leave zca away, or reduce the columns"
        if shape[:2] == (1, 1)
        else "put halve before it, scale the images with --data.size, or leave it away"
    )
    raise InputError(
        f"zca whitens all {size:,} values of {'×'.join(map(str, shape))} together, more than "
        f"{MOST_VALUES:,}: its matrix would take {gib:.3g} GiB, and about {MATRICES * gib:.3g} GiB "
        f"while it is fitted; {remedy}"
    )


def matrix_bytes(size: int) -> int:
    """Return the bytes of the matrix for images of ``size`` values."""
    return 8 * size**2


def _covariance(
    blocks: Iterable[NDArray[np.float64]], count: int, size: int
) -> NDArray[np.float64]:
    """Return Σ of centred blocks (B, D)."""
    covariance = np.zeros((size, size))
    for rows in blocks:
        covariance += rows.T @ rows
    covariance /= count
    return covariance


def _from_covariance(covariance: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """Return W from Σ, which is overwritten (LAPACK reads arrays in Fortran order in place)."""
    from scipy.linalg import eigh

    size = len(covariance)
    added = epsilon * float(covariance.trace()) / size
    values, vectors = eigh(covariance.T, overwrite_a=True, driver="evd")
    vectors *= (np.maximum(values, 0.0) + added) ** -0.25
    return vectors @ vectors.T


def _from_products(rows: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """Return W from fewer than D centred rows (N, D).

    With Σ = XᵀX/N, XXᵀ/N = U diag(λ) Uᵀ and a = ε·mean(λ): W = I/√a − XᵀU diag(g) UᵀX/N, where
    g(λ) = (1/√a − 1/√(λ + a))/λ = 1/(√a √(λ + a) (√a + √(λ + a))), which loses no digits.
    """
    from scipy.linalg import eigh

    count, size = rows.shape
    products = rows @ rows.T
    products /= count
    added = epsilon * float(products.trace()) / size
    values, vectors = eigh(products.T, overwrite_a=True, driver="evd")
    root, roots = np.sqrt(added), np.sqrt(np.maximum(values, 0.0) + added)
    vectors *= 1.0 / np.sqrt(count * root * roots * (root + roots))
    factor = rows.T @ vectors
    matrix = factor @ factor.T
    np.negative(matrix, out=matrix)
    matrix[np.diag_indices(size)] += 1.0 / root
    return matrix


def _split(
    values: NDArray[np.float64], bits: int, exponents: int | NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return integers a, b up to 2^bits with values = (a + b/2^bits)·2^(exponents − bits), rounded.

    ``exponents`` are such that values/2^exponents is at most 1.
    """
    scaled = np.ldexp(values, bits - exponents)
    coarse = np.rint(scaled)
    scaled -= coarse
    return coarse, np.rint(np.ldexp(scaled, bits))
