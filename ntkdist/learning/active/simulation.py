"""Active learning simulated: learners, and rounds of training, measuring and asking for labels."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.learning.active.criteria import CRITERIA, LOOK_AHEAD, query
from ntkdist.learning.active.state import LookAhead, look_ahead
from ntkdist.learning.checks import (
    check_choice,
    check_columns,
    check_images,
    check_labels,
    check_number,
    check_whole,
)
from ntkdist.learning.empirical.kernel import empirical_kernel
from ntkdist.learning.finite.training import TrainedNetwork, train
from ntkdist.learning.regression import KernelRegression
from ntkdist.networks.architecture import Architecture, ArchitectureSpec
from ntkdist.networks.layers import Dense

_KINDS = ("pntk", "logit", "trace")
# Distinguishes the random numbers of the first images from those of the rounds.
_START = 13


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
        self._images = check_images(images)
        self._test = check_images(test_images, self._images.shape[1:])
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
    y = check_labels(labels, learner.count, learner.num_classes).astype(np.int64)
    y_test = check_labels(test_labels, learner.test_count, learner.num_classes)
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
