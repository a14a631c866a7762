"""What a label more would change, for every candidate at once.

A network trained on the labelled images X is linearised where it stands: trained on with x' and its
label, it would end at f⁺(x) = f(x) + Θ_xX₊ Θ_X₊X₊⁻¹ (Y₊ − f(X₊)). Taking x' out of the inverse
leaves, with S = Θ_UU − Θ_UX Θ_XX⁻¹ Θ_XU and g = f + Θ_UX Θ_XX⁻¹ (Y − f(X)),

    f⁺ = g + S[:, x'] / S[x', x'] · (y' − g(x')),

one column of S times one row: u = S[x', x'] and Θ_xX v − Θ_xx' = −S[x, x'] of the publication. So
S answers for all candidates and all images, O(|U|²(|X| + K)) of matrix products in all. What
training on the labelled images alone would still change (g − f, next to nothing where the network
meets them) is the same for every candidate and no part of a candidate's change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.checks import check_labels, check_number, check_whole
from ntkdist.learning.targets import targets_of

# Where this share of Θ(x', x') or less is left, the labelled images say what x' has for an output
# and S[:, x']/S[x', x'] is rounding over rounding.
DETERMINED = 1e-6


@dataclass(frozen=True, eq=False)
class LookAhead:
    """Predictions for unlabelled images, and what one label more would make of them.

    Attributes:
        outputs: (U, K) float64 g, with the labelled images learnt; of targets less 1/K.
        covariance: (U, U) float64 S, what the labelled images leave of the kernel.
        diagonal: (U,) of Θ_UU, before anything was labelled.
        ridge: λ, absolute; S[x', x'] + λ is what a change is divided by.
    """

    outputs: NDArray[np.float64]
    covariance: NDArray[np.float64]
    diagonal: NDArray[np.float64]
    ridge: float

    def weights(self) -> NDArray[np.float64]:
        """Return 1/(S[x', x'] + λ) (U,); 0 where the labelled images determine x' already.

        A near duplicate of a labelled image so changes nothing, instead of anything.
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
            candidate: Place of x' among the U; its place stays, with nothing left to learn.
            label: Its class, 0..K−1: the true one, or one that is only supposed.

        Returns:
            What ``look_ahead`` gives with x' among the labelled images.
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
    outputs_l: Any = 0.0,
    outputs_u: Any = 0.0,
    ridge: float = 0.0,
) -> LookAhead:
    """Return what labels of unlabelled images would change.

    Args:
        ntk_ll: (L, L) Θ of the labelled images, one kernel for all outputs.
        ntk_ul: (U, L) between unlabelled and labelled images.
        ntk_uu: (U, U) of the unlabelled ones.
        labels: (L,) classes 0..K−1 of the labelled images.
        num_classes: K, at least 2.
        outputs_l: (L, K) f on the labelled images, of targets that are one-hot less 1/K; 0 for
            kernel regression.
        outputs_u: (U, K) f on the unlabelled ones.
        ridge: λ relative to the mean of Θ_LL's diagonal.

    Returns:
        The state.

    Raises:
        InputError: For shapes, labels or values that do not fit, or where Θ_LL + λI is not
            positive definite.

    Source:
        Mohamadi, Bae and Sutherland 2022 (the update, which is printed with v = Θ_Xx'; its
        inverse belongs there).
    """
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
    K = check_whole("num_classes", num_classes, 2, "with one class there is nothing to ask")
    y = check_labels(labels, L, K)
    solve, shift = solver(A, ridge)
    f_l = _outputs("outputs_l", outputs_l, L, K)
    f_u = _outputs("outputs_u", outputs_u, U, K)
    v = solve(B.T)
    outputs = f_u + v.T @ (targets_of(y, K) - f_l)
    return LookAhead(outputs, C - B @ v, np.diagonal(C).copy(), shift)


def solver(
    ntk_ll: NDArray[np.float64], ridge: float
) -> tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]:
    """Factor the kernel of the labelled images.

    Args:
        ntk_ll: (L, L) float64.
        ridge: λ relative to the mean of its diagonal.

    Returns:
        b (L, m) → (Θ_LL + λI)⁻¹b, and λ, absolute.

    Raises:
        InputError: For a bad ridge, or where Θ_LL + λI is not positive definite.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    check_number("ridge", ridge, 0.0, np.inf, "0 or a share of the mean diagonal such as 1e-6")
    L = len(ntk_ll)
    shift = float(ridge * np.mean(np.diagonal(ntk_ll)))
    try:
        factor = cho_factor(ntk_ll + shift * np.eye(L), lower=True)
    except LinAlgError:
        raise InputError(
            f"the kernel of the {L} labelled images is not positive definite at ridge={ridge:g}; "
            f"give ridge={max(10 * ridge, 1e-6):.0e}, or leave out images that are there twice"
        ) from None
    return lambda b: cho_solve(factor, b), shift


def _outputs(name: str, given: Any, count: int, K: int) -> NDArray[np.float64]:
    f = np.asarray(given, dtype=np.float64)
    if f.ndim and f.shape != (count, K):
        raise InputError(f"{name} have shape {f.shape}; ({count}, {K}) is needed")
    if not np.isfinite(f).all():
        raise InputError(f"{name} hold NaN or infinity; train with a smaller learning rate")
    return np.broadcast_to(f, (count, K))
