"""Methods that look for wrong labels, as the tables of label issues compare them.

Each says of every label how good it looks, whether it is wrong, and which one is right instead:
``ntkdist.find_label_issues`` on a Gram matrix that is there already (``refurbish_gram``), cleanlab
on cross-validated probabilities of a peer, and the agreement of the nearest neighbours.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import cached

import ntkdist
from ntkdist.labels import RefurbishResult, label_report, refurbish_gram

FOLDS = 5
DEFAULTS = {
    name: p.default for name, p in inspect.signature(ntkdist.find_label_issues).parameters.items()
}
# what find_label_issues says of its own table, in table.attrs["reliability"]
RELIABILITY = (
    *("verdict", "leave_one_out_accuracy", "chance"),
    *("noise_rate", "noise_interval", "expected_precision"),
)
# C of logistic regression, to choose from
STRENGTHS = (1e-4, 1e-3, 1e-2)
# bytes of similarities that are held at a time
BLOCK_BYTES = 1 << 28


class Found(NamedTuple):
    """What one method says of every label.

    Attributes:
        quality: (N,) low = suspicious.
        issues: (N,) bool, the labels it calls wrong.
        suggested: (N,) the label it would put in place of the given one.
        seconds: From images or features to ranking.
        reliability: The values of ``RELIABILITY``, None where they are not known.
    """

    quality: np.ndarray
    issues: np.ndarray
    suggested: np.ndarray
    seconds: float
    reliability: dict[str, Any] = dict.fromkeys(RELIABILITY)


def by_cleanlab(labels: np.ndarray, probabilities: np.ndarray, seconds: float) -> Found:
    """Return what cleanlab's defaults make of out-of-sample probabilities (N, K).

    cleanlab suggests no labels itself; those it calls issues get their most probable class.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    start = time.perf_counter()
    quality = get_label_quality_scores(labels, probabilities)
    # more jobs would fork, which JAX's threads forbid; the result is the same
    issues = find_label_issues(labels, probabilities, n_jobs=1)
    suggested = np.where(issues, probabilities.argmax(axis=1), labels)
    return Found(quality, issues, suggested, seconds + time.perf_counter() - start)


def cnn(images: np.ndarray, labels: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """Return cross-validated probabilities (N, K) of the small CNN."""
    from small_cnn import cross_validated

    return cross_validated(images, labels, num_classes, folds=FOLDS, seed=seed)


def logistic(
    inputs: np.ndarray, labels: np.ndarray, num_classes: int, seed: int, C: float = 1.0
) -> np.ndarray:
    """Return cross-validated probabilities (N, K) of logistic regression, standardised inputs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    flat = inputs.reshape(len(inputs), -1)
    return cross_val_predict(model, flat, labels, cv=folds, method="predict_proba")


def regularised(inputs: np.ndarray, labels: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """Return the same with the C of ``STRENGTHS`` that makes held-out given labels likeliest."""
    tried = [logistic(inputs, labels, num_classes, seed, C) for C in STRENGTHS]
    return max(tried, key=lambda p: float(np.log(p[np.arange(len(labels)), labels]).mean()))


def nearest(inputs: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """Return the k nearest other rows (N, k) of each row, nearest first, and the seconds.

    Nearness is the cosine of the angle between two rows.
    """
    start = time.perf_counter()
    unit = inputs.reshape(len(inputs), -1).astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    out = np.empty((len(unit), k), dtype=np.int64)
    step = max(1, BLOCK_BYTES // (4 * len(unit)))
    for first in range(0, len(unit), step):
        cosines = unit[first : first + step] @ unit.T
        rows = np.arange(len(cosines))
        cosines[rows, first + rows] = -np.inf
        near = np.argpartition(cosines, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(cosines, near, axis=1), axis=1, kind="stable")
        out[first : first + step] = np.take_along_axis(near, order, axis=1)
    return out, time.perf_counter() - start


def by_neighbours(
    neighbours: np.ndarray, seconds: float, labels: np.ndarray, num_classes: int
) -> Found:
    """Return the agreement of each label with its neighbours' (N, k).

    Quality is the share of neighbours that carry the given label. The label that most of them
    carry is suggested (Zhu et al. 2022, SimiFeat-V); of equally frequent ones the given label, or
    else the smallest.
    """
    start = time.perf_counter()
    rows = np.arange(len(labels))
    votes = np.zeros((len(labels), num_classes))
    for column in labels[neighbours].T:
        votes[rows, column] += 1
    own = votes[rows, labels]
    suggested = np.where(own == votes.max(axis=1), labels, votes.argmax(axis=1))
    quality = own / neighbours.shape[1]
    seconds += time.perf_counter() - start
    return Found(quality, suggested != labels, suggested, seconds)


def by_ours(
    kernel: np.ndarray, seconds: float, labels: np.ndarray, num_classes: int
) -> tuple[Found, RefurbishResult]:
    """Return what ``find_label_issues`` makes of a Gram matrix, also as a result."""
    start = time.perf_counter()
    result = refurbish_gram(kernel, labels, num_classes)
    table = label_report(labels, result)
    seconds += time.perf_counter() - start
    return _found(table, seconds), result


def kept(
    compute: Callable[..., np.ndarray],
    inputs: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    seed: int,
    cache: str | None,
) -> tuple[np.ndarray, float]:
    """Return a peer's probabilities and the seconds they took, from the cache if they are there."""
    cores = len(os.sched_getaffinity(0))  # seconds on another number of cores are no comparison
    network = (Path(__file__).parent / "small_cnn.py").read_bytes()
    parts = (f"{seed} {cores}", network, inputs, labels)
    return cached(
        cache, compute.__name__, parts, lambda: compute(inputs, labels, num_classes, seed)
    )


def _found(table: Any, seconds: float) -> Found:
    """Return what a table of ``find_label_issues`` says."""
    known = table.attrs.get("reliability") or {}
    columns = ("label_quality", "is_label_issue", "suggested_label")
    quality, issues, suggested = (table[name].to_numpy() for name in columns)
    return Found(quality, issues, suggested, seconds, {key: known.get(key) for key in RELIABILITY})
