"""Where the kernel holds images and classes: eigenvalues, principal components, entangled pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.kernel_plots import MOST_COLORS
from ntkdist.runs.run import Run


@dataclass(frozen=True, eq=False)
class Geometry:
    """What the label stage stored about the kernel itself; what older versions left out is None.

    Attributes:
        eigenvalues: (m,) float64 of the kernel of a sample, over the mean of its diagonal,
            descending.
        points: (p, c) float64 images in kernel principal components.
        images: (p,) which images.
        explained: (c,) shares of the variance.
    """

    eigenvalues: NDArray[np.float64] | None
    points: NDArray[np.float64] | None
    images: NDArray[np.int64] | None
    explained: tuple[float, ...]

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return self.eigenvalues is not None and self.points is not None


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues in figures.

    Attributes:
        images: How many images they are of.
        effective_rank: (Σλ)²/Σλ².
        condition: (λ_max + ridge)/(λ_min + ridge).
        condition_alone: λ_max/λ_min; None where λ_min is below rounding.
        fitted: Σ λ/(λ + ridge), the effective degrees of freedom.
    """

    images: int
    effective_rank: float
    condition: float | None
    condition_alone: float | None
    fitted: float

    @classmethod
    def of(cls, eigenvalues: NDArray[np.float64], ridge: float) -> Spectrum:
        """Sum up eigenvalues under a ridge, both over the mean of the kernel's diagonal."""
        largest, least = float(eigenvalues[0]), float(eigenvalues[-1])
        lost = least <= np.finfo(np.float32).eps * largest  # entries are stored in float32
        squares = float(np.square(eigenvalues).sum())
        return cls(
            images=len(eigenvalues),
            effective_rank=float(eigenvalues.sum()) ** 2 / squares if squares > 0 else 0.0,
            condition=(largest + ridge) / (least + ridge) if least + ridge > 0 else None,
            condition_alone=None if lost else largest / least,
            fitted=float((eigenvalues / (eigenvalues + ridge)).sum())
            if ridge > 0
            else len(eigenvalues),
        )


def read_geometry(run: Run) -> Geometry:
    """Read what the label stage stored about the kernel itself.

    Args:
        run: The run.

    Returns:
        The geometry, without what is not there.
    """
    eigenvalues = points = images = None
    explained: tuple[float, ...] = ()
    if run.has("noise", "eigenvalues") and run.is_current("noise"):
        eigenvalues = run.read("noise", "eigenvalues")
    if run.has("labels", "kpca", "points") and run.has("labels", "kpca", "images"):
        points, images = run.read("labels", "kpca", "points"), run.read("labels", "kpca", "images")
        explained = tuple(map(float, run.attributes("labels", "kpca", "points")["explained"]))
    return Geometry(eigenvalues, points, images, explained)


def entangled_pairs(
    Z: NDArray[np.float64], counts: NDArray[np.int64], most: int = 5
) -> list[tuple[int, int]]:
    """Return the pairs of classes that the kernel holds apart worst, the worst first.

    Z_kd is negative where fitting one class is undone by the other; it is divided by the
    sizes of both, as in L(Z).

    Args:
        Z: (K, K) class matrix.
        counts: (K,) class sizes.
        most: How many pairs at most.

    Returns:
        Pairs k < d with Z_kd below 0.

    Source:
        DeOliveira et al. 2025 (ranking of pairs by Z).
    """
    sizes = np.outer(counts, counts).astype(np.float64)
    scores = np.divide((Z + Z.T) / 2, sizes, out=np.zeros_like(Z, dtype=float), where=sizes > 0)
    first, second = np.triu_indices(len(Z), 1)
    order = np.argsort(scores[first, second], kind="stable")[:most]
    return [(int(first[i]), int(second[i])) for i in order if scores[first[i], second[i]] < 0]


def colored_classes(given: NDArray[np.int64], suspicious: NDArray[np.bool_], K: int) -> list[int]:
    """Return the classes that have a colour of their own, in ascending order.

    Args:
        given: (N,) given labels.
        suspicious: (N,) labels that look wrong.
        K: How many classes there are.

    Returns:
        At most ten; of more classes those with the most suspicious labels.
    """
    trouble = np.bincount(given[suspicious], minlength=K)
    order = np.lexsort((np.arange(K), -np.bincount(given, minlength=K), -trouble))
    return sorted(int(k) for k in order[:MOST_COLORS])
