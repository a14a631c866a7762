"""Predictions for each image from all the others, and class probabilities from them.

Kernel regression gives every leave-one-out prediction at once: f_{−i}(x_i) = Y_i − G_i/A_ii,
whatever label image i has itself. Where predictions are weak, f_{−i} is near the class shares of
the *other* images, in which the image's own class has one member less: with balanced classes the
given label then gets the lowest score. ``centered_leave_one_out`` subtracts these shares, and
``probabilities`` multiplies by those of all images instead, so that a kernel without information
about the classes predicts the class shares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import finite_array
from ntkdist.errors import InputError

#: Targets, each (N, K) with rows that sum to 1, to centered leave-one-out predictions for each.
Predict = Callable[[Sequence[NDArray[np.float64]]], list[NDArray[np.float64]]]


def leave_one_out(
    G: NDArray[np.float64], diagonal: NDArray[np.float64], Y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the prediction for each image of the kernel regression on all the others.

    Args:
        G: (N, K) H⁻¹Y.
        diagonal: (N,) diagonal of H⁻¹.
        Y: (N, K) the targets that made G, one-hot labels or probabilities.

    Returns:
        (N, K) float64, f_{−i}(x_i) = Y_i − G_i/A_ii.

    Raises:
        InputError: For shapes that do not fit, or values that no inverse can have.

    Source:
        Rasmussen and Williams 2006, equation 5.12.
    """
    return _leave_one_out(*_checked(G, diagonal, Y))


def _checked(G: Any, diagonal: Any, Y: Any) -> list[NDArray[np.float64]]:
    """Return G (N, K), the diagonal (N,) and Y (N, K), or raise ``InputError``."""
    given = [finite_array(*one) for one in (("G", G), ("diagonal", diagonal), ("Y", Y))]
    shapes = [one.shape for one in given]
    if len(shapes[0]) != 2 or shapes[1] != shapes[0][:1] or shapes[2] != shapes[0]:
        raise InputError(
            f"G, diagonal and Y have the shapes {', '.join(map(str, shapes))}; (N, K), (N,) and "
            "(N, K) are needed"
        )
    if not (given[1] > 0).all():
        raise InputError("diagonal holds a number of at most 0; that of an inverse is positive")
    return given


def _leave_one_out(
    G: NDArray[np.float64], diagonal: NDArray[np.float64], Y: NDArray[np.float64]
) -> NDArray[np.float64]:
    out = G / -diagonal[:, None]
    out += Y
    return out


def centered_leave_one_out(
    G: NDArray[np.float64], diagonal: NDArray[np.float64], Y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return leave-one-out predictions less what the class shares of the other images explain.

    A prediction is a sum Σ_j w_ij Y_j over the other images. If their labels were shuffled, its
    mean would be s_i π_{−i}, with s_i = Σ_j w_ij and π_{−i} the class shares of the others:
    that part says nothing about the image, and it depends on the image's own label.

    Args:
        G: (N, K) H⁻¹Y.
        diagonal: (N,) diagonal of H⁻¹.
        Y: (N, K) the targets that made G; rows sum to 1.

    Returns:
        (N, K) float64, f_{−i}(x_i) − s_i π_{−i}; rows sum to 0 up to rounding.

    Raises:
        InputError: For shapes that do not fit, or values that no inverse can have.

    Source:
        Derived from Rasmussen and Williams 2006, equation 5.12.
    """
    return _centered(*_checked(G, diagonal, Y))


def _centered(
    G: NDArray[np.float64], diagonal: NDArray[np.float64], Y: NDArray[np.float64]
) -> NDArray[np.float64]:
    n = len(Y)
    out = _leave_one_out(G, diagonal, Y)
    # the targets' rows sum to 1, so that H⁻¹1 is the sum of G's columns
    weights = 1.0 - G.sum(axis=1) / diagonal
    others = (Y.sum(axis=0) - Y) / max(n - 1, 1)
    out -= weights[:, None] * others
    return out


def predictor(
    solve: Callable[[NDArray[np.float64]], NDArray[np.float64]], diagonal: NDArray[np.float64]
) -> Predict:
    """Return ``centered_leave_one_out`` as a function of several targets, with one solution.

    ``solve`` takes (N, M) and returns H⁻¹ times it; ``diagonal`` (N,) is that of H⁻¹.
    """

    def predict(targets: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        parts = np.split(solve(np.hstack(targets)), len(targets), axis=1)
        return [_centered(G, diagonal, Y) for G, Y in zip(parts, targets, strict=True)]

    return predict


def class_shares(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return the share of each class among the labels, (K,) float64."""
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    return counts / max(counts.sum(), 1.0)


def probabilities(
    predictions: NDArray[np.float64],
    scale: float,
    shares: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return p_ik ∝ π_k exp(scale · c_ik) (N, K), rows sum to 1.

    Of centered leave-one-out predictions c (N, K) and class shares π (K,), equal if None. A class
    without images gets probability 0.
    """
    logits = predictions * scale
    if shares is not None:
        with np.errstate(divide="ignore"):
            logits += np.log(shares)
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits
