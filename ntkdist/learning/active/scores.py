"""How much a candidate is worth asking for; higher is more.

Outputs trained by least squares on one-hot labels less 1/K estimate class probabilities less 1/K.
What lies below 0 is cut off and the rest is scaled to sum to 1; nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, did_you_mean
from ntkdist.learning.active.look_ahead import LookAhead
from ntkdist.learning.targets import targets_of

# Futures looked at together: small enough for a core's own cache.
BLOCK_BYTES = 2**18
# Σ max(f + 1/K, 0) below this is 0: all classes are then equally likely.
_NONE = 1e-12


def probabilities(outputs: Any) -> NDArray[np.float64]:
    """Return the class probabilities that outputs stand for.

    Args:
        outputs: (n, K), of targets that are one-hot less 1/K.

    Returns:
        (n, K) float64, max(f + 1/K, 0) scaled so that rows sum to 1; 1/K each where all are 0.
    """
    f = np.asarray(outputs, dtype=np.float64)
    p = np.maximum(f + 1.0 / f.shape[1], 0.0)
    total = p.sum(axis=1, keepdims=True)
    return np.divide(p, total, out=np.full_like(p, 1.0 / f.shape[1]), where=total > _NONE)


def mlmoc(state: LookAhead, candidates: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Return the most likely model output change of candidates.

    A(x') = Σ_x ‖f(x) − f⁺(x)‖₂ over the unlabelled images, with the pseudo-label argmax f(x').
    A change is a column of S times a row, so that the sum is a column sum of |S|, times
    ‖y' − f(x')‖/u: no candidate's f⁺ is ever formed.

    Args:
        state: As ``look_ahead`` gives it.
        candidates: (m,) places among the U; None takes all.

    Returns:
        (m,) float64, at least 0.

    Source:
        Mohamadi, Bae and Sutherland 2022 (MLMOC).
    """
    f = state.outputs[_places(state, candidates)]
    residuals = targets_of(f.argmax(axis=1), f.shape[1]) - f
    return _reach(state, candidates) * np.linalg.norm(residuals, axis=1)


def emoc(state: LookAhead, candidates: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Return the expected model output change: as ``mlmoc``, over labels by their probability.

    Args:
        state: As ``look_ahead`` gives it.
        candidates: (m,) places among the U; None takes all.

    Returns:
        (m,) float64, at least 0.

    Source:
        Freytag, Rodner and Denzler 2014; Käding et al. 2016.
    """
    f = state.outputs[_places(state, candidates)]
    # ‖y' − f‖² for all labels: y' = e_k − 1/K has the square 1 − 1/K
    own = np.square(f).sum(axis=1, keepdims=True) + 1 - 1.0 / f.shape[1]
    squares = own - 2 * (f - f.mean(axis=1, keepdims=True))
    residuals = np.sqrt(np.maximum(squares, 0.0))
    return _reach(state, candidates) * (probabilities(f) * residuals).sum(axis=1)


def eer(
    state: LookAhead, candidates: NDArray[np.int64] | None = None, *, measure: str = "error"
) -> NDArray[np.float64]:
    """Return by how much a candidate's label is expected to lower the error on the others.

    Σ_x err(f(x)) − Σ_k p_k(x') Σ_x err(f⁺(x) | label k), with err = 1 − max p or the entropy of p.
    Costs O(m U K²); labels of probability 0 are left out, and so are candidates that change
    nothing.

    Args:
        state: As ``look_ahead`` gives it.
        candidates: (m,) places among the U; None takes all.
        measure: ``error`` or ``entropy``.

    Returns:
        (m,) float64; below 0 where the prediction is expected to become less sure.

    Raises:
        InputError: For an unknown measure.

    Source:
        Roy and McCallum 2001.
    """
    errors = _measure(measure)
    c = _places(state, candidates)
    U, K = state.outputs.shape
    p, weights = probabilities(state.outputs[c]), state.weights()[c]
    # Futures in float32: twice as fast, and their rounding is far below what parts candidates.
    shifted = np.ascontiguousarray(state.outputs.T + 1.0 / K, dtype=np.float32)
    nothing = np.zeros((1, U), np.float32), np.zeros((K, 1), np.float32)
    now = float(errors(shifted, *nothing).sum(dtype=np.float64))
    asked = np.flatnonzero(weights)
    expected = np.full(len(c), now)
    expected[asked] = 0.0
    places, labels = np.nonzero(p[asked])
    places = asked[places]
    residuals = (targets_of(labels, K) - state.outputs[c[places]]).astype(np.float32)
    step = max(1, BLOCK_BYTES // (4 * U))
    for start in range(0, len(places), step):
        block = slice(start, start + step)
        rows, k = places[block], labels[block]
        reach = (state.covariance[c[rows]] * weights[rows, None]).astype(np.float32)
        errs = errors(shifted, reach, np.ascontiguousarray(residuals[block].T))
        np.add.at(expected, rows, p[rows, k] * errs.sum(axis=1, dtype=np.float64))
    return now - expected


def margin(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how small the distance between the two largest outputs is (Scheffer et al. 2001).

    Args:
        outputs: (n, K).

    Returns:
        (n,) float64, at most 0.
    """
    two = np.sort(outputs, axis=1)[:, -2:]
    return two[:, 0] - two[:, 1]


def entropy(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy of the class probabilities in nats (Shannon 1948).

    Args:
        outputs: (n, K).

    Returns:
        (n,) float64.
    """
    from scipy.special import entr

    return entr(probabilities(outputs)).sum(axis=1)


def _places(state: LookAhead, candidates: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return np.arange(len(state.outputs)) if candidates is None else candidates


def _reach(state: LookAhead, candidates: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """Return Σ_x |S[x, c]|/u_c; S is symmetric, and its rows lie side by side in memory."""
    if candidates is None:
        return np.abs(state.covariance).sum(axis=1) * state.weights()
    return np.abs(state.covariance[candidates]).sum(axis=1) * state.weights()[candidates]


_Measure: TypeAlias = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[Any]]


def _measure(name: str) -> _Measure:
    measures = {"error": _doubt, "entropy": _entropies}
    if name not in measures:
        raise InputError(
            f"measure={name!r} is unknown; use error or entropy{did_you_mean(name, measures)}"
        )
    return measures[name]


def _futures(
    shifted: NDArray[Any], reach: NDArray[Any], residuals: NDArray[Any]
) -> Iterator[NDArray[Any]]:
    """Yield max(f⁺ + 1/K, 0) (b, U) of one class after another, in the same array each time.

    Args:
        shifted: (K, U) f + 1/K.
        reach: (b, U) S[x', x]/u of b candidates.
        residuals: (K, b) y' − f(x').
    """
    future = np.empty_like(reach)
    for f, r in zip(shifted, residuals, strict=True):
        np.multiply(reach, r[:, None], out=future)
        future += f
        yield np.maximum(future, 0.0, out=future)


def _doubt(shifted: Any, reach: Any, residuals: Any) -> NDArray[Any]:
    """Return 1 − max p (b, U)."""
    total, top = np.zeros_like(reach), np.zeros_like(reach)
    for future in _futures(shifted, reach, residuals):
        total += future
        np.maximum(top, future, out=top)
    none = np.full_like(total, 1.0 / len(shifted))
    return 1 - np.divide(top, total, out=none, where=total > _NONE)


def _entropies(shifted: Any, reach: Any, residuals: Any) -> NDArray[Any]:
    """Return the entropy of p (b, U): with a the shares, t their sum, Σ −a log a / t + log t."""
    from scipy.special import entr

    total, sums = np.zeros_like(reach), np.zeros_like(reach)
    for future in _futures(shifted, reach, residuals):
        total += future
        sums += entr(future)
    safe = np.maximum(total, _NONE)
    return np.where(total > _NONE, sums / safe + np.log(safe), np.log(len(shifted)))
