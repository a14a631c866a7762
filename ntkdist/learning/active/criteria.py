"""Which images to label next: active learning that looks ahead with the tangent kernel.

Look-ahead criteria ask what a label more would make of the model, and needed a training for
every candidate and label; the kernel answers for all of them by matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, did_you_mean
from ntkdist.learning.active.learners import Fitted, Learner
from ntkdist.learning.active.look_ahead import LookAhead
from ntkdist.learning.active.rounds import Curve, Round, run_rounds
from ntkdist.learning.active.scores import eer, emoc, entropy, margin, mlmoc
from ntkdist.learning.checks import check_whole

_Score = Callable[..., NDArray[np.float64]]
# criterion -> its score, and whether that is cheap enough to look at all candidates again behind
# every pick, instead of a short list of the best
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
# Candidates on the short list, a pick.
_SHORT = 5


def query(
    criterion: str, state: LookAhead | Any, count: int, *, picks: str = "greedy", seed: Any = 0
) -> NDArray[np.int64]:
    """Choose the unlabelled images to ask labels for.

    The best by score are often alike, and one label would do for all of them. ``greedy`` therefore
    takes the best, supposes that its label is the predicted one, and scores the rest as if it were
    labelled: a rank-one update, O(U²) a pick. What was learnt from a pick goes out of S, and
    with it the reason to ask for its like. ``eer``, which is dearer, looks behind its first pick
    only at the 5 · ``count`` best of the first scoring. Scores from outputs alone, which a
    supposed label hardly changes, take the best ``count`` either way.

    Args:
        criterion: One of ``CRITERIA``.
        state: A ``LookAhead``; for ``margin``, ``entropy`` and ``random`` the outputs (U, K) do.
        count: How many, 1 to U.
        picks: ``greedy``, or ``top`` for the best by one scoring.
        seed: Of ``random``: what ``numpy.random.default_rng`` takes.

    Returns:
        (count,) int64 places among the U, the first choice first; ties go to the lower place.

    Raises:
        InputError: For an unknown criterion or picks, a count beyond U, or outputs where a
            ``LookAhead`` is needed.
    """
    check_criterion(criterion)
    if picks not in PICKS:
        raise InputError(f"picks={picks!r} is unknown; use greedy or top")
    outputs = state.outputs if isinstance(state, LookAhead) else np.asarray(state, np.float64)
    if check_whole("count", count, 1, "give the images to ask for") > len(outputs):
        raise InputError(f"count={count} images of {len(outputs)} unlabelled ones; ask for fewer")
    if criterion == "random":
        return np.random.default_rng(seed).permutation(len(outputs))[:count]
    if criterion in _OUTPUTS:
        return np.argsort(-_OUTPUTS[criterion](outputs), kind="stable")[:count]
    if not isinstance(state, LookAhead):
        raise InputError(f"criterion {criterion!r} looks ahead: give what look_ahead returns")
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


def active_learning(
    learner: Learner,
    labels: Any,
    test_labels: Any,
    *,
    criterion: str = "mlmoc",
    start: int = 100,
    rounds: int = 10,
    count: int = 20,
    picks: str = "greedy",
    seed: int = 0,
    on_round: Callable[[Round], None] | None = None,
) -> Curve:
    """Simulate active learning on labels that are known: query, learn, measure, again.

    Each round's accuracy is that of the learner itself, so that criteria can be compared under one
    learner. Criteria with the same seed start from the same images.

    Args:
        learner: A ``KernelLearner``, whose model is kernel regression, or a ``NetworkLearner``,
            whose model is a network trained anew each round from the same initial weights.
        labels: (N,) classes of the pool's images, told only where they are asked for.
        test_labels: (T,) classes of the test images.
        criterion: One of ``CRITERIA``.
        start: Images that are labelled at first, drawn at random.
        rounds: Queries, at least 1.
        count: Images of a query.
        picks: As for ``query``.
        seed: Draws the first images; with the round's number, those of ``random``.
        on_round: Called after each training.

    Returns:
        The accuracies and what was asked for.

    Raises:
        InputError: For settings, labels or numbers of images that do not fit.
    """
    check_criterion(criterion)

    def choose(fitted: Fitted, unlabelled: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        state: Any = fitted.outputs[unlabelled]
        if criterion in LOOK_AHEAD:
            state = fitted.look_ahead(unlabelled)
        return query(criterion, state, count, picks=picks, seed=[seed, number])

    return run_rounds(
        learner, labels, test_labels, choose, criterion, start, rounds, count, seed, on_round
    )


def check_criterion(criterion: str) -> str:
    """Refuse a criterion that is not known.

    Args:
        criterion: One of ``CRITERIA``.

    Returns:
        The criterion.

    Raises:
        InputError: If it is another.
    """
    if criterion not in CRITERIA:
        raise InputError(
            f"criterion {criterion!r} is unknown; use one of {', '.join(CRITERIA)}"
            + did_you_mean(str(criterion), CRITERIA)
        )
    return criterion
