"""Criteria of which images to label next: scores of the candidates, higher for better ones.

Outputs trained by least squares on one-hot labels less 1/K estimate class probabilities less 1/K.
Values below 0 are cut off and the rest is scaled to sum to 1; nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.active.state import LookAhead
from ntkdist.learning.checks import check_choice, check_whole
from ntkdist.learning.regression import targets_of

# Memory of the predictions f⁺ that are evaluated together: what a core's own cache holds.
BLOCK_BYTES = 2**18
# Below this, Σ max(f + 1/K, 0) counts as 0 and all classes as equally likely.
_ZERO = 1e-12


def probabilities(outputs: Any) -> NDArray[np.float64]:
    """Return the class probabilities that outputs estimate.

    Args:
        outputs: (n, K), of targets that are one-hot less 1/K.

    Returns:
        (n, K) float64, max(f + 1/K, 0) scaled so that rows sum to 1; 1/K each where all are 0.
    """
    f = np.asarray(outputs, dtype=np.float64)
    p = np.maximum(f + 1.0 / f.shape[1], 0.0)
    total = p.sum(axis=1, keepdims=True)
    return np.divide(p, total, out=np.full_like(p, 1.0 / f.shape[1]), where=total > _ZERO)


def mlmoc(state: LookAhead, candidates: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Return the most likely model output change of candidates.

    A(x') = Σ_x ‖f(x) − f⁺(x)‖₂ over the unlabelled images, with the pseudo-label argmax f(x').
    A change is a column of S times a row, so that the sum is a column sum of |S| times
    ‖y' − f(x')‖/u, and f⁺ is not computed.

    Args:
        state: As ``look_ahead`` returns it.
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
    """Return the expected model output change: ``mlmoc`` averaged over labels by probability.

    Args:
        state: As ``look_ahead`` returns it.
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
    """Return the expected error reduction of a candidate's label on the unlabelled images.

    Σ_x err(f(x)) − Σ_k p_k(x') Σ_x err(f⁺(x) | label k), with err = 1 − max p or the entropy of p.
    Costs O(m U K²); labels of probability 0 and candidates that change nothing are skipped.

    Args:
        state: As ``look_ahead`` returns it.
        candidates: (m,) places among the U; None takes all.
        measure: ``error`` or ``entropy``.

    Returns:
        (m,) float64; below 0 where the error is expected to grow.

    Raises:
        InputError: For an unknown measure.

    Source:
        Roy and McCallum 2001.
    """
    measures = {"error": _error, "entropy": _entropy}
    check_choice("measure", measure, measures)
    errors = measures[measure]
    c = _places(state, candidates)
    U, K = state.outputs.shape
    p, weights = probabilities(state.outputs[c]), state.weights()[c]
    # float32 is twice as fast, and its rounding far below the differences between candidates.
    shifted = np.ascontiguousarray(state.outputs.T + 1.0 / K, dtype=np.float32)
    no_change = np.zeros((1, U), np.float32), np.zeros((K, 1), np.float32)
    now = float(errors(shifted, *no_change).sum(dtype=np.float64))
    changing = np.flatnonzero(weights)
    expected = np.full(len(c), now)
    expected[changing] = 0.0
    places, labels = np.nonzero(p[changing])
    places = changing[places]
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
    """Return minus the distance between the two largest outputs (Scheffer et al. 2001).

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


_Score = Callable[..., NDArray[np.float64]]
# criterion -> its score, and whether that is cheap enough to score all candidates again after each
# pick, instead of a short list of the best
LOOK_AHEAD: dict[str, tuple[_Score, bool]] = {
    "mlmoc": (mlmoc, True),
    "emoc": (emoc, True),
    "eer": (eer, False),
}
_OUTPUTS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "margin": margin,
    "entropy": entropy,
}
CRITERIA = (*LOOK_AHEAD, *_OUTPUTS, "random")
PICKS = ("greedy", "top")
# Length of the short list, in units of the picks.
_SHORT = 5


def query(
    criterion: str, state: LookAhead | Any, count: int, *, picks: str = "greedy", seed: Any = 0
) -> NDArray[np.int64]:
    """Choose unlabelled images to label.

    The images of highest score are often alike, so that one label would serve for all of them.
    ``greedy`` therefore picks the best, assumes its predicted label, and scores the other images as
    if it were labelled, a rank-one update of O(U²): similar images then have low scores. ``eer``,
    which costs more, scores only the 5 · ``count`` best of the first scoring again. Scores from
    outputs alone, which an assumed label hardly changes, take the best ``count`` in either case.

    Args:
        criterion: One of ``CRITERIA``.
        state: A ``LookAhead``; ``margin``, ``entropy`` and ``random`` also take outputs (U, K).
        count: Number of images, 1 to U.
        picks: ``greedy``, or ``top`` for the best of one scoring.
        seed: Seed of ``random``, as ``numpy.random.default_rng`` takes it.

    Returns:
        (count,) int64 places among the U, best first; of ties, the lower place first.

    Raises:
        InputError: For an unknown criterion or picks, a count beyond U, or outputs where a
            ``LookAhead`` is needed.
    """
    check_choice("criterion", criterion, CRITERIA)
    check_choice("picks", picks, PICKS)
    outputs = state.outputs if isinstance(state, LookAhead) else np.asarray(state, np.float64)
    check_whole("count", count, 1, "give the images of a query", most=len(outputs))
    if criterion == "random":
        return np.random.default_rng(seed).permutation(len(outputs))[:count]
    if criterion in _OUTPUTS:
        return np.argsort(-_OUTPUTS[criterion](outputs), kind="stable")[:count]
    if not isinstance(state, LookAhead):
        raise InputError(f"criterion={criterion!r} looks ahead; give what look_ahead returns")
    score, cheap = LOOK_AHEAD[criterion]
    order = np.argsort(-score(state), kind="stable")
    if picks == "top":
        return order[:count]
    short = None if cheap else np.sort(order[: _SHORT * count])
    places = np.arange(len(outputs)) if short is None else short
    chosen = [int(order[0])]
    while len(chosen) < count:
        last = chosen[-1]
        state = state.after(last, int(state.outputs[last].argmax()))
        scores = score(state, short)
        scores[np.isin(places, chosen)] = -np.inf
        chosen.append(int(places[scores.argmax()]))
    return np.array(chosen)


def _places(state: LookAhead, candidates: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return np.arange(len(state.outputs)) if candidates is None else candidates


def _reach(state: LookAhead, candidates: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """Return Σ_x |S[x, c]|/u_c; S is symmetric, and sums of its rows are faster."""
    if candidates is None:
        return np.abs(state.covariance).sum(axis=1) * state.weights()
    return np.abs(state.covariance[candidates]).sum(axis=1) * state.weights()[candidates]


def _futures(
    shifted: NDArray[Any], reach: NDArray[Any], residuals: NDArray[Any]
) -> Iterator[NDArray[Any]]:
    """Yield max(f⁺ + 1/K, 0) (b, U) of one class after another, each time in the same array.

    ``shifted`` is f + 1/K (K, U), ``reach`` S[x', x]/u of b candidates (b, U), ``residuals``
    y' − f(x') (K, b).
    """
    future = np.empty_like(reach)
    for f, r in zip(shifted, residuals, strict=True):
        np.multiply(reach, r[:, None], out=future)
        future += f
        yield np.maximum(future, 0.0, out=future)


def _error(shifted: Any, reach: Any, residuals: Any) -> NDArray[Any]:
    """Return 1 − max p (b, U)."""
    total, top = np.zeros_like(reach), np.zeros_like(reach)
    for future in _futures(shifted, reach, residuals):
        total += future
        np.maximum(top, future, out=top)
    none = np.full_like(total, 1.0 / len(shifted))
    return 1 - np.divide(top, total, out=none, where=total > _ZERO)


def _entropy(shifted: Any, reach: Any, residuals: Any) -> NDArray[Any]:
    """Return the entropy of p = a/t (b, U) with t = Σ a, as Σ −a log a / t + log t."""
    from scipy.special import entr

    total, sums = np.zeros_like(reach), np.zeros_like(reach)
    for future in _futures(shifted, reach, residuals):
        total += future
        sums += entr(future)
    safe = np.maximum(total, _ZERO)
    return np.where(total > _ZERO, sums / safe + np.log(safe), np.log(len(shifted)))
