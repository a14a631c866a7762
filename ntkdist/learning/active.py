"""Active learning: which images to label next, by looking ahead with the tangent kernel.

Look-ahead criteria score an image by the model that one more label would give. Training a model for
every candidate and label is too slow; the kernel gives all of them by matrix products.

A network trained on the labelled images X is linearised at its parameters. Trained further with x'
and its label, it would reach f⁺(x) = f(x) + Θ_xX₊ Θ_X₊X₊⁻¹ (Y₊ − f(X₊)). By block inversion, with
S = Θ_UU − Θ_UX Θ_XX⁻¹ Θ_XU and g = f + Θ_UX Θ_XX⁻¹ (Y − f(X)),

    f⁺ = g + S[:, x'] / S[x', x'] · (y' − g(x')),

a column of S times a row. (In the publication's terms u = S[x', x'] and
Θ_xX v − Θ_xx' = −S[x, x'].) One matrix S therefore serves all candidates and all images, at
O(|U|²(|X| + K)) of matrix products. g − f, which further training on X alone would change, is the
same for all candidates and not part of a candidate's change; it is small if the network fits X.

Outputs trained by least squares on one-hot labels less 1/K estimate class probabilities less 1/K.
Values below 0 are cut off and the rest is scaled to sum to 1; nothing is fitted.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_choice, check_labels, check_number, check_whole
from ntkdist.errors import InputError
from ntkdist.learning.checks import check_columns, check_outputs, check_sets
from ntkdist.learning.empirical import empirical_kernel
from ntkdist.learning.finite.training import TrainedNetwork, train
from ntkdist.learning.regression import KernelRegression, targets_of
from ntkdist.linalg import check_ridge
from ntkdist.networks.architecture import Architecture, ArchitectureSpec
from ntkdist.networks.layers import Dense

# If S[x', x'] is at most this share of Θ(x', x'), the labelled images determine the output of x',
# and S[:, x']/S[x', x'] is a ratio of rounding errors.
DETERMINED = 1e-6

# Memory of the predictions f⁺ that are evaluated together: what a core's own cache holds.
BLOCK_BYTES = 2**18
# Below this, Σ max(f + 1/K, 0) counts as 0 and all classes as equally likely.
_ZERO = 1e-12
PICKS = ("greedy", "top")
# Length of the short list, in units of the picks.
_SHORT = 5
_KINDS = ("pntk", "logit", "trace")
# Distinguishes the random numbers of the first images from those of the rounds.
_START = 13


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
        """Return f⁺ − f, (U, K) float64, for the candidate at a place among the U and its class."""
        residual = targets_of([label], self.outputs.shape[1])[0] - self.outputs[candidate]
        return np.outer(self.covariance[:, candidate] * self.weights()[candidate], residual)

    def after(self, candidate: int, label: int) -> LookAhead:
        """Return the state with a candidate labelled, in O(U²): a rank-one update of S.

        It is the state that ``look_ahead`` returns with x' among the labelled images, except that
        x' keeps its place among the U. The label may be true or assumed.
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
    y = check_labels(labels, K, L)
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

    Arguments and result are those of ``mlmoc``.

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
    """Return minus the distance between the two largest of outputs (n, K), (n,) float64 ≤ 0.

    Scheffer et al. 2001.
    """
    two = np.sort(outputs, axis=1)[:, -2:]
    return two[:, 0] - two[:, 1]


def entropy(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy (n,) float64 of the class probabilities of outputs (n, K), in nats."""
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


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model trained on the labelled images, and its kernel for looking ahead.

    Attributes:
        outputs: (N, K) for the pool's images, of targets that are one-hot less 1/K.
        test_outputs: (T, K) for the test images.
        kernel: (N, N) of the pool, or a function that computes it when it is needed.
        offset: (N, K) outputs at which the model is linearised; 0 for kernel regression.
        labelled: (L,) places in the pool.
        labels: (L,) their classes.
        ridge: Relative.
    """

    outputs: NDArray[Any]
    test_outputs: NDArray[Any]
    kernel: Any
    offset: Any
    labelled: NDArray[np.int64]
    labels: NDArray[np.int64]
    ridge: float

    def look_ahead(self, unlabelled: NDArray[np.int64]) -> LookAhead:
        """Return the effect of one more label, for these images of the pool."""
        kernel = self.kernel() if callable(self.kernel) else self.kernel
        L, U = self.labelled, unlabelled
        f = np.broadcast_to(self.offset, self.outputs.shape)
        return look_ahead(
            kernel[np.ix_(L, L)], kernel[np.ix_(U, L)], kernel[np.ix_(U, U)],
            self.labels, self.outputs.shape[1],
            outputs_l=f[L], outputs_u=f[U], ridge=self.ridge,
        )  # fmt: skip


class KernelLearner:
    """Kernel regression with a Gram matrix, such as the infinite network's.

    Args:
        gram: (N, N) kernel of the pool's images.
        cross: (T, N) between test images and the pool's.
        num_classes: K.
        ridge: Relative to the mean diagonal of the labelled images' kernel.

    Raises:
        InputError: For shapes that do not fit.
    """

    def __init__(self, gram: Any, cross: Any, num_classes: int, *, ridge: float = 1e-6) -> None:
        self.gram, self.cross = np.asarray(gram), np.asarray(cross)
        if self.gram.ndim != 2 or self.gram.shape[0] != self.gram.shape[1]:
            raise InputError(f"the pool's kernel has shape {self.gram.shape}; (N, N) is needed")
        check_columns(self.cross, len(self.gram), "the test images' kernel")
        self.count, self.test_count = len(self.gram), len(self.cross)
        self.num_classes = check_whole("num_classes", num_classes, 2, "one class needs no labels")
        self.ridge = ridge

    def fit(self, labelled: NDArray[np.int64], labels: NDArray[np.int64]) -> Fitted:
        """Fit to these images of the pool with these labels (L,)."""
        A = self.gram[np.ix_(labelled, labelled)]
        G = KernelRegression.fit(A, labels, self.num_classes, ridge=self.ridge).dual
        f, test = self.gram[:, labelled] @ G, self.cross[:, labelled] @ G
        return Fitted(f, test, self.gram, 0.0, labelled, labels, self.ridge)


class NetworkLearner:
    """A network of finite width, trained for each query from the same initial weights.

    The outputs of an untrained network are as large as the targets, and remain part of its
    predictions for images unlike the labelled ones; ``readout`` makes them small. It multiplies the
    whole kernel by a constant, which does not change kernel regression.

    Args:
        architecture: A preset name, a list of layers, canonical text, or an ``Architecture``; the
            last layer is Dense.
        images: (N, H, W, C) of the pool.
        test_images: (T, H, W, C).
        num_classes: K.
        kernel: Kernel for looking ahead: a kind of ``empirical_kernel`` of the trained network,
            ``trace`` (the mean over outputs, of all κ ⊗ I the nearest to the full kernel),
            ``pntk`` or ``logit``; or the pool's (N, N) Gram matrix at infinite width.
        width: Channels or units of every weight layer but the last.
        epochs: Most passes over the labelled images.
        stop_loss: Training stops after the first epoch whose mean loss is below.
        readout: Factor of the last layer's W_std.
        ridge: Relative to the mean diagonal of the labelled images' kernel.
        seed: Seed of the initial weights and of the order of the images.

    Raises:
        InputError: For images, a kernel or settings that do not fit.
    """

    def __init__(
        self,
        architecture: ArchitectureSpec,
        images: Any,
        test_images: Any,
        num_classes: int,
        *,
        kernel: Any = "trace",
        width: int = 256,
        epochs: int = 300,
        stop_loss: float = 1e-3,
        readout: float = 0.1,
        ridge: float = 1e-6,
        seed: int = 0,
    ) -> None:
        self._images, self._test = check_sets(images, test_images)
        self.count, self.test_count = len(self._images), len(self._test)
        self.num_classes = check_whole("num_classes", num_classes, 2, "one class needs no labels")
        self.ridge = ridge
        check_number("readout", readout, 1e-3, np.inf, "0.1 makes untrained outputs small")
        layers = Architecture.parse(architecture).layers
        last = layers[-1]
        if not isinstance(last, Dense):
            raise InputError(f"the last layer is {last}; a Dense layer is needed")
        scaled = dataclasses.replace(last, W_std=last.W_std * readout)
        self._architecture = Architecture((*layers[:-1], scaled))
        if isinstance(kernel, str):
            check_choice("kernel", kernel, _KINDS)
        elif np.shape(kernel) != (self.count, self.count):
            raise InputError(
                f"the pool's kernel has shape {np.shape(kernel)}; "
                f"({self.count}, {self.count}) is needed"
            )
        self._kernel = kernel
        self._settings: dict[str, Any] = {
            "width": width, "epochs": epochs, "stop_loss": stop_loss, "seed": seed
        }  # fmt: skip

    def fit(self, labelled: NDArray[np.int64], labels: NDArray[np.int64]) -> Fitted:
        """Train on these images of the pool with these labels (L,)."""
        trained = train(
            self._architecture, self._images[labelled], labels, self.num_classes,
            loss="mse", **self._settings,
        )  # fmt: skip
        f, test = trained.predict(self._images), trained.predict(self._test)
        kernel = self._kernel
        if isinstance(kernel, str):
            kernel = functools.partial(self._empirical, trained)
        return Fitted(f, test, kernel, f, labelled, labels, self.ridge)

    def _empirical(self, trained: TrainedNetwork) -> NDArray[Any]:
        return empirical_kernel(trained.network, trained.params, self._images, kind=self._kernel)


Learner: TypeAlias = KernelLearner | NetworkLearner


@dataclass(frozen=True)
class Round:
    """A training of a simulation, as ``active_learning`` reports it.

    Attributes:
        criterion: The criterion of the queries.
        number: Number of queries before this training.
        labelled: Number of labelled images.
        accuracy: Share of the test images that are predicted right.
        seconds: Duration of the last query and of training.
    """

    criterion: str
    number: int
    labelled: int
    accuracy: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Curve:
    """Active learning under one criterion.

    Attributes:
        criterion: The criterion of the queries.
        counts: (R+1,) labelled images of each training.
        accuracy: (R+1,) accuracy of each on the test images.
        chosen: (start + R·count,) places in the pool, in the order in which they were labelled.
        query_seconds: (R,) durations of the queries.
        fit_seconds: (R+1,) durations of training and prediction.
    """

    criterion: str
    counts: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    chosen: NDArray[np.int64]
    query_seconds: NDArray[np.float64]
    fit_seconds: NDArray[np.float64]


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
    """Simulate active learning on known labels: train, measure, query, and repeat.

    With the same seed all criteria start from the same images.

    Args:
        learner: A ``KernelLearner`` or a ``NetworkLearner``, whose accuracy is measured.
        labels: (N,) classes of the pool's images; a label is used only after it was queried.
        test_labels: (T,) classes of the test images.
        criterion: One of ``CRITERIA``.
        start: Images that are labelled at first, drawn at random.
        rounds: Number of queries, at least 1.
        count: Images of a query.
        picks: As for ``query``.
        seed: Seed of the first images and of ``random``.
        on_round: Called after each training.

    Returns:
        The accuracies and the queried images.

    Raises:
        InputError: For settings, labels or numbers of images that do not fit.
    """
    check_choice("criterion", criterion, CRITERIA)
    y = check_labels(labels, learner.num_classes, learner.count)
    y_test = check_labels(test_labels, learner.num_classes, learner.test_count)
    for name, value in (("start", start), ("rounds", rounds), ("count", count)):
        check_whole(name, value, 1, "give a whole number of images, or of rounds")
    check_whole("seed", seed, 0, "give a whole number of at least 0")
    needed = start + rounds * count
    if needed > learner.count:
        raise InputError(
            f"start={start} and rounds={rounds} of count={count} ask for {needed} of a pool of "
            f"{learner.count} images; lower one of them"
        )
    order = np.random.default_rng([seed, _START]).permutation(learner.count)
    chosen = order[:start]
    accuracy, query_seconds, fit_seconds = [], [], []
    seconds = 0.0
    for number in range(rounds + 1):
        began = time.perf_counter()
        fitted = learner.fit(chosen, y[chosen])
        accuracy.append(float(np.mean(fitted.test_outputs.argmax(axis=1) == y_test)))
        fit_seconds.append(time.perf_counter() - began)
        if on_round is not None:
            on_round(Round(criterion, number, len(chosen), accuracy[-1], seconds + fit_seconds[-1]))
        if number < rounds:
            began = time.perf_counter()
            unlabelled = np.setdiff1d(np.arange(learner.count), chosen)
            looks_ahead = criterion in LOOK_AHEAD
            state = fitted.look_ahead(unlabelled) if looks_ahead else fitted.outputs[unlabelled]
            places = query(criterion, state, count, picks=picks, seed=[seed, number + 1])
            chosen = np.concatenate([chosen, unlabelled[places]])
            seconds = time.perf_counter() - began
            query_seconds.append(seconds)
    return Curve(
        criterion=criterion,
        counts=start + count * np.arange(rounds + 1),
        accuracy=np.array(accuracy),
        chosen=chosen,
        query_seconds=np.array(query_seconds),
        fit_seconds=np.array(fit_seconds),
    )
