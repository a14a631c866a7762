"""The block error L(Z) of a labelling, and its gradient; lower is cleaner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import finite_array, is_number, real_array
from ntkdist.errors import InputError, shown
from ntkdist.labels.compiled import gradient_coefficients, sums


@dataclass(frozen=True)
class BlockError:
    """L(Z), its two sums, and the terms that were left out.

    Attributes:
        value: L(Z) = intra − inter.
        intra: (1/K) Σ_k Z_kk / (n_k(n_k−1)).
        inter: β/(K²−K) Σ_{k≠d} Z_kd / (n_k n_d).
        left_out: One message for each kind of term that is 0/0; empty if none.
    """

    value: float
    intra: float
    inter: float
    left_out: tuple[str, ...]


def block_error(Z: Any, counts: Any, beta: float = 1.0) -> float:
    """Return the block error L(Z) of a labelling; lower is cleaner.

    L(Z) = (1/K) Σ_k Z_kk/(n_k(n_k−1)) − β/(K²−K) Σ_{k≠d} Z_kd/(n_k n_d).
    Terms that are 0/0 (empty classes, the first sum of classes with one member, the second
    sum if K = 1) are left out; the factors 1/K and 1/(K²−K) stay. ``block_error_terms`` lists
    them. β is not published; 1 is this package's choice.

    Args:
        Z: (K, K) YᵀH⁻¹Y.
        counts: (K,) class sizes n_k.
        beta: Weight β ≥ 0 of the second sum.

    Returns:
        L(Z).

    Raises:
        InputError: For wrong shapes, values that are not finite, or β < 0.

    Source:
        DeOliveira et al. 2025, L(Z).
    """
    return block_error_terms(Z, counts, beta).value


def block_error_terms(Z: Any, counts: Any, beta: float = 1.0) -> BlockError:
    """Return L(Z) with its two sums and the terms that were left out.

    Arguments, errors and source are those of ``block_error``.
    """
    Z, n = check_class_matrix(Z, counts)
    intra, inter = sums(Z, n, check_beta(beta))
    return BlockError(intra - inter, intra, inter, left_out_terms(n))


def block_error_gradient(G: Any, Z: Any, counts: Any, beta: float = 1.0) -> NDArray[np.float64]:
    """Return ∂L/∂Y (N, K), with the class sizes n = Yᵀ1 as functions of Y.

    ∂L/∂Y_ik = 2G_ik/(K n_k(n_k−1)) − (2B/n_k) Σ_{d≠k} G_id/n_d
    − Z_kk(2n_k−1)/(K n_k²(n_k−1)²) + (2B/n_k²) Σ_{d≠k} Z_kd/n_d, with B = β/(K²−K).
    Terms that L(Z) leaves out are left out here; an empty class has gradient 0.

    Args:
        G: (N, K) H⁻¹Y.
        Z: (K, K) YᵀG.
        counts: (K,) class sizes n_k.
        beta: Weight β ≥ 0.

    Returns:
        (N, K) float64.

    Raises:
        InputError: For wrong shapes, values that are not finite, or β < 0.

    Source:
        DeOliveira et al. 2025, Algorithm 1; the formula is derived from L(Z).
    """
    Z, n = check_class_matrix(Z, counts)
    G = finite_array("G", G)
    if G.ndim != 2 or G.shape[1] != len(n):
        raise InputError(f"G has shape {G.shape}; with {len(n)} class sizes it must be (N, K)")
    slope, weight, offset = gradient_coefficients(Z, n, check_beta(beta))
    w = reciprocal(n)
    return G * slope - (G @ w)[:, None] * weight + offset


def left_out_terms(counts: NDArray[Any]) -> tuple[str, ...]:
    """Return a message for each kind of term of L(Z) that is 0/0 for class sizes (K,)."""
    empty, single = np.flatnonzero(counts == 0), np.flatnonzero(counts == 1)
    messages = []
    if empty.size:
        messages.append(f"classes {empty.tolist()} have no members: all their terms are left out")
    if single.size:
        messages.append(
            f"classes {single.tolist()} have one member: their within-class terms are left out"
        )
    if len(counts) == 1:
        messages.append("there is one class: the between-class sum is left out")
    return tuple(messages)


def reciprocal(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return 1/n (K,) float64 of class sizes (K,), and 0 for empty classes."""
    return np.divide(1.0, counts, out=np.zeros(len(counts)), where=counts > 0)


def check_beta(beta: Any) -> float:
    """Return β, the weight of the between-class sum of L(Z), as a float.

    Raises:
        InputError: If it is not a finite number ≥ 0.
    """
    if not is_number(beta) or not math.isfinite(beta) or beta < 0:
        raise InputError(f"beta={shown(beta)} must be a finite number ≥ 0 (the default is 1)")
    return float(beta)


def check_class_matrix(Z: Any, counts: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return copies of Z = YᵀH⁻¹Y (K, K) and the class sizes (K,), contiguous float64.

    Raises:
        InputError: For shapes that do not fit, or values that no class matrix or size can have.
    """
    Z, n = (np.array(real_array(name, x), order="C") for name, x in (("Z", Z), ("counts", counts)))
    if Z.ndim != 2 or Z.shape[0] != Z.shape[1] or n.shape != Z.shape[:1] or not len(n):
        raise InputError(f"Z has shape {Z.shape} and counts {n.shape}; expected (K, K) and (K,)")
    if not np.isfinite(Z).all():
        raise InputError("Z holds NaN or infinity; check the inverse, or raise the ridge")
    if not (np.isfinite(n).all() and (n >= 0).all()):
        raise InputError(
            f"counts {shown(n.tolist())} must be finite and ≥ 0: the size of each class"
        )
    return Z, n
