"""Progress events, locked images and stored results of the label stage."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.config import RunConfig
from ntkdist.errors import InputError, StageError, shown
from ntkdist.events.types import FlipsMade, PosteriorRound
from ntkdist.runs.run import Run

EVERY = 5.0  # seconds between two events


class RoundProgress:
    """Listener of the posterior's rounds."""

    def __init__(self, emit: Callable[[Any], None], most: int) -> None:
        self._emit, self._most = emit, most
        self._said = time.monotonic()

    def __call__(self, number: int) -> None:
        """Emit an event for one round."""
        now = time.monotonic()
        self._emit(PosteriorRound(number, self._most, now - self._said))
        self._said = now


class FlipProgress:
    """Listener of flips: an event every few seconds, and a stop where ``check_stop`` raises."""

    def __init__(self, emit: Callable[[Any], None], check_stop: Callable[[], None]) -> None:
        self._emit = emit
        self._check_stop = check_stop
        self._said, self._flips = time.monotonic(), 0

    def __call__(self, flip: Any) -> None:
        """Check for a stop, and emit an event every few seconds."""
        self._check_stop()
        now = time.monotonic()
        if now - self._said >= EVERY:
            rate = (flip.step - self._flips) / (now - self._said)
            self._emit(FlipsMade(flip.step, flip.loss, rate))
            self._said, self._flips = now, flip.step


def read_locked(path: str | None, n: int) -> NDArray[np.int64] | None:
    """Return the (m,) int64 locked images, ascending, which a text file names by one number a line.

    Raises:
        InputError: The file cannot be read, or a line is no image's number.
    """
    if path is None:
        return None
    try:
        with open(storage.expand(path), encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"labels.locked={shown(path)}: cannot be read: {reason}; give a text file with the "
            "number of an image on each line"
        ) from None
    numbers = set()
    for place, line in enumerate(lines, start=1):
        if not line:
            continue
        if not line.isdecimal() or len(line) > 18 or int(line) >= n:
            raise InputError(
                f"{path}: line {place} is {shown(line)}; each is the number of an image, "
                f"0 to {n - 1}"
            )
        numbers.add(int(line))
    return np.array(sorted(numbers), dtype=np.int64)


_THUMBNAIL = 400  # most bins of the Gram's picture by class
_POINTS = 1500  # images of the kernel PCA; more would overlap
_COMPONENTS = 4
_PICTURE = 1e-5  # relative residual of an eigenvector in a picture


def summarise(
    run: Run, settings: RunConfig, ridge: float, inverse: Any, given: np.ndarray, result: Any
) -> dict[str, Any]:
    """Store Z of the given, refurbished and true labels; return the summary of the labels.

    Args:
        run: Where to store.
        settings: The run's configuration.
        ridge: The ridge of the inverse.
        inverse: (N, N) inverse Gram, anything ``as_inverse`` takes.
        given: (N,) given labels.
        result: What ``refurbish`` returned for them.
    """
    from ntkdist.labels import block_error, one_hot
    from ntkdist.labels.class_matrix import class_sums, product

    K = run.num_classes
    true = run.read("inputs", "labels_true") if run.has("inputs", "labels_true") else None
    losses: dict[str, float | None] = {"true": None}
    sets = {"given": given, "refurbished": result.labels}
    if true is not None:
        sets["true"] = true
    # all at once: the factor, or the inverse, may have to be read from disk for it
    G = product(inverse, np.hstack([one_hot(labels, K) for labels in sets.values()]))
    for place, (name, labels) in enumerate(sets.items()):
        Z = class_sums(G[:, place * K : (place + 1) * K], labels)
        run.write(f"labels/Z_{name}", Z)
        losses[name] = block_error(Z, np.bincount(labels, minlength=K), settings.labels.beta)
    summary: dict[str, Any] = {
        "kind": "ntk",
        "method": settings.labels.method,
        "steps": settings.labels.steps,
        "beta": settings.labels.beta,
        "ridge": ridge,
        "flips": len(result.history),
        "stopped": result.stopped,
        "left_out": list(result.left_out),
        "noise_rate": result.noise.rate,
        "noise_reason": f"{result.noise.kind}: {result.posterior.estimate.reason}",
        "reliability": result.reliability.to_dict(),
        "abstained": int(result.abstained.sum()),
        "block_error": losses,
        "corrupted": None,
        "restored_share": None,
        "accuracy_given": None,
        "accuracy_refurbished": None,
    }
    if true is not None:
        wrong = given != true
        right = result.labels == true
        summary |= {
            "corrupted": int(wrong.sum()),
            "restored_share": float(right[wrong].mean()) if wrong.any() else None,
            "accuracy_given": float((~wrong).mean()),
            "accuracy_refurbished": float(right.mean()),
        }
    return summary


#: Columns of ``label_report`` that the label stage stores as arrays.
_COLUMNS = (
    "suggested_label", "label_quality", "is_label_issue", "abstained", "round", "delta_loss",
)  # fmt: skip


def write_table(run: Run, table: Any, *, probabilities: bool = False) -> None:
    """Write ``labels.csv``, most suspicious first, into the run."""
    names = np.array(run.manifest.class_names)
    if files := run.files():
        table.insert(1, "file", files)
    table = table.sort_values("label_quality", kind="stable")
    for name in ("given", "suggested"):
        place = table.columns.get_loc(f"{name}_label") + 1
        table.insert(place, f"{name}_class", names[table[f"{name}_label"]])
    if probabilities:
        table = with_probabilities(run, table)
    _store(run, table)


def refresh_table(run: Run, *, probabilities: bool = False) -> None:
    """Write ``labels.csv`` from the stored results if it is missing or lacks probabilities."""
    import pandas as pd

    content = storage.read_bytes(run.address("labels.csv"))
    if content is None:
        given = run.read("inputs", "labels")
        columns = {name: run.read("labels", name) for name in _COLUMNS if run.has("labels", name)}
        table = pd.DataFrame({"index": np.arange(len(given)), "given_label": given, **columns})
        write_table(run, table, probabilities=probabilities)
        return
    if not probabilities:
        return
    # as text, so that every other cell stays what it is
    table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    if not set(probability_columns(run)) <= set(table.columns):
        _store(run, with_probabilities(run, table))


def probability_columns(run: Run) -> list[str]:
    """Return the names of the columns of class probabilities, in the order of the classes."""
    return [f"probability_{name}" for name in run.manifest.class_names]


def with_probabilities(run: Run, table: Any) -> Any:
    """Return a table of a run's images with a column of probabilities for each class.

    Raises:
        StageError: An older version analysed the labels, which stored no probabilities.
    """
    import pandas as pd

    if not run.has("labels", "pred_probs"):
        raise StageError(
            f"{run.url}: its labels were analysed by a version that stored no probabilities; "
            f"ntkdist labels {run.url} --probabilities"
        )
    names = probability_columns(run)
    rows = run.read("labels", "pred_probs")[table["index"].astype(int)]
    columns = pd.DataFrame(rows.astype(np.float64).round(6), columns=names, index=table.index)
    return pd.concat([table.drop(columns=names, errors="ignore"), columns], axis=1)


def _store(run: Run, table: Any) -> None:
    with storage.writing(run.address("labels.csv")) as path:
        table.to_csv(path, index=False)


def thumbnail(
    gram: Any, labels: np.ndarray, num_classes: int, bins: int = _THUMBNAIL
) -> tuple[np.ndarray, list[float]]:
    """Average a Gram matrix, its images ordered by class, down to a small picture.

    Args:
        gram: (N, N) with row slicing; read in bands of rows.
        labels: (N,) classes to order by.
        num_classes: K.
        bins: Most rows of the picture.

    Returns:
        (m, m) float32 with m = min(N, bins), and the K + 1 class boundaries in bins.
    """
    n = len(labels)
    m = min(n, bins)
    order = np.argsort(labels, kind="stable")
    place = np.empty(n, np.int64)  # bin of each image
    place[order] = np.arange(n) * m // n
    sizes = np.bincount(place, minlength=m).astype(np.float64)
    picture = np.zeros((m, m))
    columns = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[columns], np.arange(m))
    band = max(1, 2**25 // (8 * n))
    for start in range(0, n, band):
        rows = np.asarray(gram[start : start + band, :], np.float64)
        summed = np.add.reduceat(rows[:, columns], starts, axis=1)
        np.add.at(picture, place[start : start + band], summed)
    counts = np.bincount(labels, minlength=num_classes)
    bounds = np.concatenate([[0], np.cumsum(counts)]) * (m / n)
    return (picture / np.outer(sizes, sizes)).astype(np.float32), [float(b) for b in bounds]


def store_kpca(run: Run, gram: Any, labels: np.ndarray) -> None:
    """Store a class-balanced sample of the images in the leading kernel principal components.

    Component k is √λ_k v_k of the sample's centred Gram, so that distances in the picture are
    those of the kernel's features (``ntkdist.labels.kpca`` scales by λ_k, as its source does). The
    sample is drawn with a fixed seed. A few passes over it are enough for a picture.

    Args:
        run: Where ``labels/kpca/points`` (m, c) and ``labels/kpca/images`` (m,) go; the
            attribute ``explained`` of the former holds the components' shares of the variance.
        gram: (N, N) with row slicing.
        labels: (N,) given labels.

    Source:
        Schölkopf, Smola and Müller 1998.
    """
    from ntkdist.data import select
    from ntkdist.linalg import NotConvergedError, submatrix, top_eigenpairs

    chosen = select(labels, min(len(labels), _POINTS), "balanced", 0)
    sample = submatrix(gram, chosen, chosen)
    pairs: Any
    components = min(_COMPONENTS, len(chosen) - 1)
    try:
        pairs = top_eigenpairs(sample, components, centered=True, tolerance=_PICTURE)
    except NotConvergedError as error:  # the last iterate is accurate enough for a picture
        pairs = error.result
    values = np.maximum(np.asarray(pairs.values), 0.0)
    total = float(pairs.total)  # 0 where all images are alike
    run.write("labels/kpca/images", chosen)
    run.write(
        "labels/kpca/points",
        np.asarray(pairs.vectors) * np.sqrt(values),
        {"explained": [float(value) / total if total > 0 else 0.0 for value in values]},
    )
