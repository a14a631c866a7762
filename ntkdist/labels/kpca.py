"""Separation of classes: distances in the leading kernel principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_classes, check_labels, check_square, check_whole, refuse_one_class
from ntkdist.errors import InputError
from ntkdist.linalg import bands, top_eigenpairs


@dataclass(frozen=True, eq=False)
class ClassSeparation:
    """Distances between and within classes, with the components in which they are measured.

    Attributes:
        ratio_mean: inter_mean / intra_mean, above 1 if classes are apart.
        ratio_std: inter_std / intra_std.
        inter_mean: Mean distance of two images of different classes.
        intra_mean: Mean distance of two images of one class.
        inter_std: Standard deviation (ddof 0) of the former.
        intra_std: Standard deviation of the latter.
        projection: (N, components) float64, H_c V, the largest eigenvalue first.
        eigenvalues: (components,) of the centred Gram, descending.
        explained: (components,) their shares of its trace.
    """

    ratio_mean: float
    ratio_std: float
    inter_mean: float
    intra_mean: float
    inter_std: float
    intra_std: float
    projection: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    explained: NDArray[np.float64]


def class_separation(
    gram: Any,
    labels: Any,
    num_classes: int,
    components: int = 4,
    *,
    memory_limit: int | str = "2GiB",
    scheduler: Any = None,
) -> ClassSeparation:
    """Return distances between and within classes in the leading kernel principal components.

    The centred Gram H_c is projected on the eigenvectors V of its largest eigenvalues; the
    Euclidean distances of all pairs of images there are averaged between and within classes.
    The publication does not say how the columns of V are scaled (here H_c V, which weights a
    component by its eigenvalue), nor of which numbers it gives standard deviations (here of
    distances; its values of 20 to 30 are larger than these).

    Args:
        gram: (N, N) symmetric H: NumPy, a ``GramStore``, a Zarr or Dask array.
        labels: (N,) integers in 0..K−1.
        num_classes: K.
        components: Number of components, 1 to N − 1; the publication takes 4.
        memory_limit: Bytes (or ``"2GiB"``) for one process's work.
        scheduler: Dask scheduler, as for ``ntkdist.linalg.factorize``.

    Returns:
        The ratios and the distances.

    Raises:
        InputError: For labels, components or a memory limit that do not fit, or if no two images
            are of one class or no two are of different classes (their mean distance is 0/0).

    Source:
        DeOliveira et al. 2025, Table 3; Schölkopf, Smola and Müller 1998 (kernel PCA).
    """
    gram = check_square("gram", gram)
    n = int(gram.shape[0])
    given = check_labels(labels, num_classes, n)
    check_whole("components", components, 1, "give less than N", most=n - 1)
    counts = np.bincount(given, minlength=check_classes(num_classes))
    refuse_one_class(given)
    if counts.max() < 2:
        raise InputError("no class has two images, so that there is no distance within a class")
    pairs = top_eigenpairs(
        gram, int(components), centered=True, memory_limit=memory_limit, scheduler=scheduler
    )
    values, vectors = np.asarray(pairs.values), np.asarray(pairs.vectors)
    order = np.argsort(-values, kind="stable")
    values, vectors = values[order], vectors[:, order]
    projection = vectors * values  # H_c V = V Λ
    inter, intra = _distances(projection, given)
    if intra[0] <= 1e-12 * inter[0]:
        raise InputError("all images of a class are the same point; give images that differ")
    return ClassSeparation(
        ratio_mean=inter[0] / intra[0],
        ratio_std=inter[1] / intra[1] if intra[1] > 0 else float("inf"),
        inter_mean=inter[0],
        intra_mean=intra[0],
        inter_std=inter[1],
        intra_std=intra[1],
        projection=projection,
        eigenvalues=values,
        explained=np.asarray(pairs.explained)[order],
    )


def _distances(
    points: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return mean and standard deviation of distances between classes, then within classes."""
    from scipy.spatial.distance import cdist

    n = len(points)
    # count, sum and sum of squares about a first guess, so that squares do not cancel
    guess = float(np.linalg.norm(points - points.mean(axis=0), axis=1).mean())
    sums = np.zeros((2, 3))
    for band in bands(n, n):
        d = cdist(points[band], points)
        later = np.arange(n) > np.arange(band.start, band.stop)[:, None]  # each pair once
        same = labels[band, None] == labels
        for place, chosen in enumerate((later & ~same, later & same)):
            off = d[chosen] - guess
            sums[place] += len(off), off.sum(), np.square(off).sum()
    out = []
    for count, total, squares in sums:
        mean = total / count
        out.append((float(guess + mean), float(np.sqrt(max(squares / count - mean**2, 0.0)))))
    return out[0], out[1]
