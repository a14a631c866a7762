"""Kernel regression on class labels, and the choice of its ridge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import (
    check_choice,
    check_classes,
    check_labels,
    check_matrix,
    check_ridges,
    check_seed,
    check_square,
    check_whole,
)
from ntkdist.errors import InputError, shown
from ntkdist.learning.checks import check_columns
from ntkdist.learning.evaluation import accuracy, log_loss, softmax_scale
from ntkdist.learning.spectrum import Spectrum, dense_square, mean_of_diagonal, read_rows
from ntkdist.linalg import check_ridge, submatrix

TARGETS = ("centered", "one-hot")
# Half decades; below the first, a ridge is lost in the rounding of float32 entries.
RIDGES = (0.0, *(float(f"{10.0 ** (k / 2):.2g}") for k in range(-12, 3)))
# An eigendecomposition costs N³: of more images a sample of this many is taken.
MOST_IMAGES = 3000


def targets_of(labels: Any, num_classes: int, targets: str = "centered") -> NDArray[np.float64]:
    """Return the targets that regression fits to labels.

    Args:
        labels: (N,) whole numbers 0..K−1.
        num_classes: K.
        targets: ``one-hot``, or ``centered``: one-hot less 1/K, so that each row sums to 0.

    Returns:
        (N, K) float64.

    Raises:
        InputError: For labels that are not class numbers, or unknown targets.

    Source:
        Arora et al. 2019 (centred targets: 0.9 and −0.1 for K = 10).
    """
    check_choice("targets", targets, TARGETS)
    checked = check_labels(labels, num_classes)
    Y = np.zeros((len(checked), check_classes(num_classes)))
    Y[np.arange(len(checked)), checked] = 1.0
    return Y - 1.0 / num_classes if targets == "centered" else Y


@dataclass(frozen=True, eq=False)
class KernelRegression:
    """f(x) = k(x, X) G with G = (H + ridge · mean(diag H) · I)⁻¹Y.

    Attributes:
        dual: (N, K) float64, G.
        targets: ``one-hot`` or ``centered``.
        ridge: Relative to the mean of the Gram's diagonal.
    """

    dual: NDArray[np.float64]
    targets: str
    ridge: float

    @classmethod
    def fit(
        cls,
        gram: Any,
        labels: Any,
        num_classes: int,
        *,
        ridge: float = 0.0,
        targets: str = "centered",
    ) -> KernelRegression:
        """Fit with a Gram matrix that memory holds; ``from_factor`` takes larger ones.

        Args:
            gram: (N, N) symmetric H: NumPy, a ``GramStore``, a Zarr array.
            labels: (N,) whole numbers 0..K−1.
            num_classes: K.
            ridge: ≥ 0, relative to the mean of the diagonal.
            targets: ``centered`` (one-hot less 1/K) or ``one-hot``.

        Returns:
            The regression.

        Raises:
            InputError: If labels or matrix do not fit, or H + ridge is not positive definite.
        """
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        relative = check_ridge(ridge)
        H = dense_square(gram)
        Y = _targets(labels, num_classes, targets, len(H))
        H[np.diag_indices_from(H)] += relative * mean_of_diagonal(H)
        try:
            G = cho_solve(cho_factor(H, lower=True, overwrite_a=True), Y)
        except LinAlgError:
            raise InputError(
                f"the Gram matrix with ridge={relative:g} is not positive definite (equal images, "
                "or entries of too few digits); give a larger ridge, such as 1e-6"
            ) from None
        return cls(G, targets, relative)

    @classmethod
    def from_factor(
        cls, factor: Any, labels: Any, num_classes: int, *, targets: str = "centered"
    ) -> KernelRegression:
        """Fit with a stored factor of any size.

        Args:
            factor: ``ntkdist.CholeskyFactor``, or anything with ``shape``, ``ridge`` and
                ``solve(b)``.
            labels: (N,) whole numbers 0..K−1.
            num_classes: K.
            targets: ``centered`` (one-hot less 1/K) or ``one-hot``.

        Returns:
            The regression.

        Raises:
            InputError: If the labels do not fit.
        """
        if not all(hasattr(factor, name) for name in ("shape", "ridge", "solve")):
            raise InputError(
                f"factor is {shown(factor)}; give what ntkdist.linalg.factorize or "
                "CholeskyFactor.open returned"
            )
        Y = _targets(labels, num_classes, targets, int(factor.shape[0]))
        return cls(np.asarray(factor.solve(Y), dtype=np.float64), targets, float(factor.ridge))

    def predict(self, cross: Any) -> NDArray[np.float64]:
        """Return the outputs for images.

        Args:
            cross: (M, N) kernel of the images with the training images: NumPy, or anything that
                can be sliced by rows, which is read in bands.

        Returns:
            (M, K) float64; the largest is that of the predicted class.

        Raises:
            InputError: If it has another number of columns, or is not finite.
        """
        if not isinstance(cross, np.ndarray) or cross.shape[:1] != (0,):
            cross = check_matrix("the test × train kernel", cross)
        check_columns(cross, len(self.dual), "the test × train kernel")
        if not cross.shape[0]:
            return np.empty((0, self.dual.shape[1]))
        return read_rows(cross, lambda band: band @ self.dual)


@dataclass(frozen=True)
class RidgeRow:
    """Leave-one-out predictions with one ridge.

    Attributes:
        ridge: Relative to the mean of the diagonal.
        accuracy: Share of images whose label all other images predict.
        squared_error: Mean squared distance of the predictions to the targets.
        log_loss: Mean −log probability of the labels under softmax(scale · predictions) (nats).
        scale: The scale of least log-loss, from ``softmax_scale``.
    """

    ridge: float
    accuracy: float
    squared_error: float
    log_loss: float
    scale: float


@dataclass(frozen=True)
class RidgeSweep:
    """Ridges compared on the training images alone.

    Attributes:
        rows: One for each ridge, ascending.
        best: The chosen one.
        images: How many images were used.
    """

    rows: tuple[RidgeRow, ...]
    best: RidgeRow
    images: int


def sweep_ridge(
    gram: Any,
    labels: Any,
    num_classes: int,
    *,
    ridges: Sequence[float] = RIDGES,
    targets: str = "centered",
    max_images: int = MOST_IMAGES,
    seed: int = 0,
) -> RidgeSweep:
    """Choose a ridge by leave-one-out predictions in closed form, from one eigendecomposition.

    Of the ridges whose leave-one-out accuracy is within one standard error of the best, the one
    with the least leave-one-out squared error is chosen, as accuracy changes in steps with single
    images.

    Args:
        gram: (N, N) symmetric H, anything that can be sliced by rows.
        labels: (N,) whole numbers 0..K−1.
        num_classes: K.
        ridges: Ridges to try, ≥ 0, relative to the mean of the diagonal; those with which H is
            singular in float64 are skipped.
        targets: ``centered`` or ``one-hot``.
        max_images: Of more images a random sample of this many is used.
        seed: Seed of the sample.

    Returns:
        The sweep.

    Raises:
        InputError: For ridges, labels or a matrix that do not fit.

    Source:
        Rasmussen and Williams 2006, equation 5.12 (leave-one-out in closed form); Breiman et al.
        1984 (one standard error).
    """
    tried = check_ridges(ridges)
    check_whole("max_images", max_images, 2, "give the size of the sample")
    check_seed(seed)
    gram = check_square("gram", gram)
    if not tried:
        raise InputError("ridges=() is empty; give ridges to try, such as 1e-4, 1e-2")
    n = int(gram.shape[0])
    Y = _targets(labels, num_classes, targets, n)
    given = check_labels(labels, num_classes, n)
    chosen = np.arange(n)
    if n > max_images:
        chosen = np.sort(np.random.default_rng(seed).permutation(n)[:max_images])
        gram = submatrix(gram, chosen, chosen)
        Y, given = Y[chosen], given[chosen]
    spectrum = Spectrum.of(gram)
    mean = float(spectrum.values.mean())
    coefficients, squares = spectrum.coefficients(Y), spectrum.vectors**2
    rounding = np.finfo(np.float64).eps * len(given) * spectrum.values[0]
    rows = []
    for ridge in tried:
        shifted = spectrum.values + ridge * mean
        if shifted[-1] <= rounding:
            continue
        G = spectrum.vectors @ (coefficients / shifted[:, None])
        f = Y - G / (squares @ (1.0 / shifted))[:, None]
        scale = softmax_scale(f, given)
        rows.append(
            RidgeRow(
                ridge,
                accuracy(f, given),
                float(np.square(f - Y).sum(axis=1).mean()),
                log_loss(f, given, scale),
                scale,
            )
        )
    if not rows:
        raise InputError(f"ridges={tried}: the Gram matrix is singular with each; give larger ones")
    top = max(row.accuracy for row in rows)
    error = np.sqrt(top * (1.0 - top) / len(given))
    near = [row for row in rows if row.accuracy >= top - error]
    best = min(near, key=lambda row: row.squared_error)
    return RidgeSweep(tuple(rows), best, len(given))


def _targets(labels: Any, num_classes: int, targets: str, n: int) -> NDArray[np.float64]:
    return targets_of(check_labels(labels, num_classes, n), num_classes, targets)
