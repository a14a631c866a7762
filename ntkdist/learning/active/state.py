"""The effect of one more label on all predictions, for all candidates at once.

A network trained on the labelled images X is linearised at its parameters. Trained further with x'
and its label, it would reach f⁺(x) = f(x) + Θ_xX₊ Θ_X₊X₊⁻¹ (Y₊ − f(X₊)). By block inversion, with
S = Θ_UU − Θ_UX Θ_XX⁻¹ Θ_XU and g = f + Θ_UX Θ_XX⁻¹ (Y − f(X)),

    f⁺ = g + S[:, x'] / S[x', x'] · (y' − g(x')),

a column of S times a row. (In the publication's terms u = S[x', x'] and
Θ_xX v − Θ_xx' = −S[x, x'].) One matrix S therefore serves all candidates and all images, at
O(|U|²(|X| + K)) of matrix products. g − f, which further training on X alone would change, is the
same for all candidates and not part of a candidate's change; it is small if the network fits X.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.checks import check_labels, check_outputs, check_ridge, check_whole
from ntkdist.learning.regression import targets_of

# If S[x', x'] is at most this share of Θ(x', x'), the labelled images determine the output of x',
# and S[:, x']/S[x', x'] is a ratio of rounding errors.
DETERMINED = 1e-6


@dataclass(frozen=True, eq=False)
class LookAhead:
    """Predictions for unlabelled images, and the effect of one more label on them.

    Attributes:
        outputs: (U, K) float64 g, after training on the labelled images; of targets less 1/K.
        covariance: (U, U) float64 S, the kernel conditioned on the labelled images.
        diagonal: (U,) diagonal of Θ_UU.
        ridge: λ, absolute; a change is divided by S[x', x'] + λ.
    """

    outputs: NDArray[np.float64]
    covariance: NDArray[np.float64]
    diagonal: NDArray[np.float64]
    ridge: float

    def weights(self) -> NDArray[np.float64]:
        """Return 1/(S[x', x'] + λ) (U,), or 0 where the labelled images determine x'.

        A near duplicate of a labelled image therefore changes nothing.
        """
        u = np.maximum(np.diagonal(self.covariance), 0.0) + self.ridge
        return np.divide(1.0, u, out=np.zeros_like(u), where=u > DETERMINED * self.diagonal)

    def change(self, candidate: int, label: int) -> NDArray[np.float64]:
        """Return f⁺ − f for one candidate under one label.

        Args:
            candidate: Place of x' among the U.
            label: Its class, 0..K−1.

        Returns:
            (U, K) float64.
        """
        residual = targets_of([label], self.outputs.shape[1])[0] - self.outputs[candidate]
        return np.outer(self.covariance[:, candidate] * self.weights()[candidate], residual)

    def after(self, candidate: int, label: int) -> LookAhead:
        """Return the state with a candidate labelled, in O(U²): a rank-one update of S.

        Args:
            candidate: Place of x' among the U, which it keeps.
            label: Its class, 0..K−1, true or assumed.

        Returns:
            The state that ``look_ahead`` returns with x' among the labelled images.
        """
        s = self.covariance[:, candidate]
        left = np.outer(-s * self.weights()[candidate], s)
        left += self.covariance
        outputs = self.outputs + self.change(candidate, label)
        return LookAhead(outputs, left, self.diagonal, self.ridge)


def look_ahead(
    ntk_ll: Any,
    ntk_ul: Any,
    ntk_uu: Any,
    labels: Any,
    num_classes: int,
    *,
    outputs_l: Any = None,
    outputs_u: Any = None,
    ridge: float = 0.0,
) -> LookAhead:
    """Return the effect of one more label for all unlabelled images.

    Args:
        ntk_ll: (L, L) Θ of the labelled images, one kernel for all outputs.
        ntk_ul: (U, L) between unlabelled and labelled images.
        ntk_uu: (U, U) of the unlabelled ones.
        labels: (L,) classes 0..K−1 of the labelled images.
        num_classes: K, at least 2.
        outputs_l: (L, K) f on the labelled images, of targets that are one-hot less 1/K; None is
            0, for kernel regression.
        outputs_u: (U, K) f on the unlabelled ones; None is 0.
        ridge: λ relative to the mean of Θ_LL's diagonal.

    Returns:
        The state.

    Raises:
        InputError: For shapes, labels or values that do not fit, or where Θ_LL + λI is not
            positive definite.

    Source:
        Mohamadi, Bae and Sutherland 2022; the update is printed there with v = Θ_Xx', without
        the inverse.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    A, B, C = (np.asarray(block, dtype=np.float64) for block in (ntk_ll, ntk_ul, ntk_uu))
    if A.ndim != 2 or B.ndim != 2 or 0 in B.shape:
        raise InputError(f"kernels of shapes {A.shape}, {B.shape}; (L, L) and (U, L) are needed")
    U, L = B.shape
    if A.shape != (L, L) or C.shape != (U, U):
        raise InputError(
            f"kernels of shapes {A.shape}, {B.shape}, {C.shape} do not belong together; (L, L), "
            "(U, L) and (U, U) are needed"
        )
    if not all(np.isfinite(block).all() for block in (A, B, C)):
        raise InputError("a kernel holds NaN or infinity; compute it again from clean images")
    K = check_whole("num_classes", num_classes, 2, "one class needs no labels")
    y = check_labels(labels, L, K)
    shift = float(check_ridge(ridge) * np.mean(np.diagonal(A)))
    try:
        factor = cho_factor(A + shift * np.eye(L), lower=True)
    except LinAlgError:
        raise InputError(
            f"the kernel of the {L} labelled images is not positive definite at ridge={ridge:g}; "
            f"give ridge={max(10 * ridge, 1e-6):.0e}, or leave out repeated images"
        ) from None
    f_l = check_outputs("outputs_l", outputs_l, (L, K))
    f_u = check_outputs("outputs_u", outputs_u, (U, K))
    v = cho_solve(factor, B.T)
    outputs = f_u + v.T @ (targets_of(y, K) - f_l)
    return LookAhead(outputs, C - B @ v, np.diagonal(C).copy(), shift)
