"""Wrong labels that people gave: how well they are found, and what becomes of the labels.

    python jobs/tables/human_labels.py

CIFAR-10N (Wei et al. 2022): people labelled the training images of CIFAR-10 again. ``aggre`` is the
majority of three of them, ``random1`` the first one's label, ``worse`` a wrong one of the three
wherever there is one. Such noise depends on class and image. The images are the first of the
training set; the features are those of a network that was pretrained on other images.

Wrong labels are the positive class of AUROC, average precision (AP) and of precision, recall and F1
of the labels that a method calls issues. ``missed`` is the share of the wrong labels that is missed
when as many of the most suspicious labels are inspected as are wrong. Accuracy is that of the given
and of the suggested labels. Seconds are those of one label set on the cores this process may use,
from features or images to ranking.

- ``neighbours, k``: agreement with the k nearest neighbours on the features, by cosine. Of three k
  the one with the highest AUROC is shown: it is chosen by the true labels, in the peer's favour.
- ``cleanlab, logistic`` and ``cleanlab, CNN``: cleanlab with its defaults on 5-fold cross-validated
  probabilities of logistic regression on the features, or of a small CNN (``small_cnn.py``) on
  standardised pixels. Regression with scikit-learn's own C = 1 overfits 1,280 features (AUROC .90
  instead of .94 on ``aggre``): C is the one of three that makes held-out given labels likeliest.
- ``ours, ARCHITECTURE``: ``ntkdist.find_label_issues`` with its defaults on the same inputs, except
  that images are preprocessed as ``--pooled-preprocess`` says for ``--pooled`` architectures.

The folder of ``--data`` holds ``cifar10_features.npz`` (``features``), and in ``cifar10_full``
``labels.npz`` (``y_train``), ``human_labels.npz``, and the images as mosaics of 40 rows and 50
columns: ``train-00000.webp``, ``train-02000.webp`` and so on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import figure, gram, parser, save, show, write
from _label_methods import (
    DEFAULTS,
    FOLDS,
    Found,
    by_cleanlab,
    by_neighbours,
    by_ours,
    cnn,
    kept,
    nearest,
    regularised,
)

from ntkdist.data import Preprocessor
from ntkdist.data.preprocess import IMAGE_RECIPE

LABEL_SETS = ("aggre", "random1", "worse")
NEIGHBOURS = (10, 30, 100)
NUM_CLASSES, SIDE = 10, 32
MOSAIC_ROWS, MOSAIC_COLUMNS = 40, 50
# what a method is better in the higher (+1) or the lower (−1) it is
COMPARED = {"auroc": 1, "average_precision": 1, "f1": 1, "missed": -1, "accuracy_after": 1}


class Data(NamedTuple):
    """The first N training images of CIFAR-10, with features, true labels and people's labels.

    Attributes:
        features: (N, D) float32.
        images: (N, 32, 32, 3) uint8.
        true: (N,) int64.
        given: Name of a label set → (N,) int64.
    """

    features: np.ndarray
    images: np.ndarray
    true: np.ndarray
    given: dict[str, np.ndarray]


def read(folder: str | None, n: int, sets: list[str]) -> Data:
    """Read the first n images and what belongs to them."""
    if not folder:
        sys.exit("name the folder of cifar10_features.npz and cifar10_full with --data")
    base = Path(folder)
    with np.load(base / "cifar10_features.npz") as file:
        features = file["features"][:n].astype(np.float32)
    if len(features) < n:
        sys.exit(f"-n {n}: there are features of {len(features)} images only; ask for fewer")
    with np.load(base / "cifar10_full" / "labels.npz") as file:
        true = file["y_train"][:n].astype(np.int64)
    with np.load(base / "cifar10_full" / "human_labels.npz") as file:
        given = {name: file[name][:n].astype(np.int64) for name in sets}
    for name, labels in given.items():
        if (labels == true).all():
            sys.exit(f"-n {n}: no label of {name} is wrong among these images; ask for more")
    return Data(features, read_images(base / "cifar10_full", n), true, given)


def read_images(folder: Path, n: int) -> np.ndarray:
    """Return the first n training images (n, 32, 32, 3) uint8 from their mosaics."""
    from PIL import Image

    count, found = MOSAIC_ROWS * MOSAIC_COLUMNS, []
    for start in range(0, n, count):
        with Image.open(folder / f"train-{start:05d}.webp") as mosaic:
            pixels = np.asarray(mosaic.convert("RGB"))
        grid = pixels.reshape(MOSAIC_ROWS, SIDE, MOSAIC_COLUMNS, SIDE, 3)
        found.append(grid.transpose(0, 2, 1, 3, 4).reshape(count, SIDE, SIDE, 3))
    return np.concatenate(found)[:n]


def missed(wrong: np.ndarray, quality: np.ndarray) -> float:
    """Return the share of wrong labels (N,) that inspecting as many suspicious ones misses.

    Labels of equal quality are inspected in random order: what is returned is the expectation.
    """
    budget = int(wrong.sum())
    last = np.sort(quality)[budget - 1]
    sure, tied = quality < last, quality == last
    hits = wrong[sure].sum() + (budget - sure.sum()) * wrong[tied].mean()
    return float(1 - hits / budget)


def score(found: Found, given: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Return the figures of one method on one label set."""
    from sklearn import metrics

    wrong = given != true
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        wrong, found.issues, average="binary", zero_division=0.0
    )
    figures = {
        "auroc": metrics.roc_auc_score(wrong, -found.quality),
        "average_precision": metrics.average_precision_score(wrong, -found.quality),
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "missed": missed(wrong, found.quality),
        "accuracy_before": np.mean(~wrong),
        "accuracy_after": np.mean(found.suggested == true),
    }
    counts = {"issues": int(found.issues.sum()), "wrong": int(wrong.sum())}
    rounded = {name: round(float(value), 4) for name, value in figures.items()}
    return rounded | counts | found.reliability | {"seconds": round(found.seconds, 2)}


def peers(data: Data, options: Any) -> Iterator[dict[str, Any]]:
    """Yield one row for each label set and peer."""
    n = len(data.true)
    counts = [k for k in NEIGHBOURS if k < n]
    near, seconds = nearest(data.features, max(counts))
    recipe = Preprocessor.fit(data.images, IMAGE_RECIPE)
    for name, given in data.given.items():
        rows = []
        for k in counts:
            found = by_neighbours(near[:, :k], seconds, given, NUM_CLASSES)
            row = {"labels": name, "inputs": "features", "method": f"neighbours, k = {k}"}
            rows.append(row | {"peer": True} | score(found, given, data.true))
        best = max(rows, key=lambda row: row["auroc"])
        yield from (row | {"chosen_by_truth": row is best} for row in rows)
        for method, compute, inputs in (
            ("cleanlab, logistic", regularised, "features"),
            ("cleanlab, CNN", cnn, "pixels"),
        ):
            if compute is cnn and options.no_cnn:
                continue
            x = data.features if inputs == "features" else recipe.apply(data.images)
            found = by_cleanlab(given, *kept(compute, x, given, NUM_CLASSES, 0, options.cache))
            print(f"{name}: {method}, {n} images, {found.seconds:.0f} s", flush=True)
            row = {"labels": name, "inputs": inputs, "method": method, "peer": True}
            yield row | score(found, given, data.true)


def ours(data: Data, options: Any) -> Iterator[dict[str, Any]]:
    """Yield one row for each label set and architecture; each Gram is computed once."""
    default = DEFAULTS["preprocess"]
    kernels = [("features", name, default) for name in options.features]
    kernels += [("pixels", name, default) for name in options.pixels]
    kernels += [("pixels", name, options.pooled_preprocess) for name in options.pooled]
    for inputs, architecture, recipe in kernels:
        raw = data.features if inputs == "features" else data.images
        start = time.perf_counter()
        prepared = Preprocessor.fit(raw, recipe).apply(raw)
        seconds = time.perf_counter() - start
        kernel, took = gram(architecture, prepared, options.cache)
        print(f"{architecture}, {len(raw)} images, Gram in {took:.0f} s", flush=True)
        for name, given in data.given.items():
            found, _ = by_ours(kernel, seconds + took, given, NUM_CLASSES)
            print(f"{name}: ours, {architecture}, {found.seconds:.0f} s in all", flush=True)
            row = {"labels": name, "inputs": inputs, "method": f"ours, {architecture}"}
            row |= {"peer": False, "preprocess": recipe, "gram_seconds": round(took, 2)}
            yield row | score(found, given, data.true)


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without the numbers of neighbours that were not chosen."""
    return [row for row in rows if row.get("chosen_by_truth", True)]


def behind(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line wherever ours is behind the best peer of the same labels and inputs.

    The best peer is found for each figure by itself.
    """
    lines = []
    for row in rows:
        same = [r for r in rows if (r["labels"], r["inputs"]) == (row["labels"], row["inputs"])]
        rivals = [r for r in same if r["peer"]]
        if row["peer"] or not rivals:
            continue
        for name, sign in COMPARED.items():
            best = max(rivals, key=lambda rival: sign * rival[name])
            if sign * (row[name] - best[name]) < 0:
                lines.append(
                    f"behind: {row['labels']}, {row['inputs']}, {row['method']}: {name} "
                    f"{row[name]:.3f}, {best['method']} {best[name]:.3f}"
                )
    return lines


def table_row(row: dict[str, Any]) -> list[Any]:
    """Return one line of the printed table."""
    cells = [row["inputs"], row["method"]]
    names = ("auroc", "average_precision", "f1", "precision", "expected_precision", "recall")
    cells += [None if row[name] is None else f"{row[name]:.3f}" for name in names]
    cells += [f"{100 * row['missed']:.1f} %", f"{100 * row['accuracy_after']:.2f} %"]
    noise, interval = row["noise_rate"], row["noise_interval"]
    if noise is not None and interval is not None:
        noise = f"{noise:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
    return [*cells, noise, row["verdict"], f"{row['seconds']:.1f}"]


def draw(rows: list[dict[str, Any]], out: Path) -> Path:
    """Write the SVG: ranking, flags and labels afterwards against the label sets."""
    sets = list(dict.fromkeys(row["labels"] for row in rows))
    before = {row["labels"]: row["accuracy_before"] for row in rows}
    places = [f"{name}\n{100 * (1 - before[name]):.1f} % wrong" for name in sets]
    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        # k is chosen anew for each label set
        method = "neighbours" if "chosen_by_truth" in row else row["method"]
        groups.setdefault((row["inputs"], method), {})[row["labels"]] = row
    drawn = figure(13.5, 4.0)
    axes = drawn.subplots(1, 3)
    panels = {"auroc": "AUROC of the ranking", "f1": "F1 of the flags"}
    panels["accuracy_after"] = "accuracy of the labels afterwards"
    for axis, (name, title) in zip(axes, panels.items(), strict=True):
        for (inputs, method), found in groups.items():
            style = "--" if next(iter(found.values()))["peer"] else "-"
            mark = "o" if inputs == "features" else "s"
            level = [found[one][name] for one in sets]
            axis.plot(places, level, style, marker=mark, label=f"{method} ({inputs})")
        if name == "accuracy_after":
            axis.plot(places, [before[one] for one in sets], "k:", label="before")
        axis.margins(x=0.15)
        axis.set_title(title)
        axis.grid(alpha=0.3)
    drawn.legend(*axes[-1].get_legend_handles_labels(), loc="outside right upper")
    return save(drawn, out, "human_labels")


def main() -> None:
    """Measure, print the tables, write JSON and SVG."""
    choices = parser("Wrong labels that people gave: CIFAR-10N.", n=10_000)
    choices.add_argument("--labels", nargs="+", choices=LABEL_SETS, default=list(LABEL_SETS))
    choices.add_argument("--features", nargs="*", default=["fc-1", "fc-2"], help="on features")
    choices.add_argument("--pixels", nargs="*", default=["cnn-2"], help="on images")
    choices.add_argument("--pooled", nargs="*", default=["cntk-gap-3"], help="on smaller images")
    choices.add_argument("--pooled-preprocess", default="halve+halve+standardize+unit-norm")
    choices.add_argument("--no-cnn", action="store_true", help="leave out the CNN, which is slow")
    options = choices.parse_args()

    data = read(options.data, options.n, options.labels)
    rows = [*peers(data, options), *ours(data, options)]
    place = {"features": 0, "pixels": 1}
    rows.sort(key=lambda row: (options.labels.index(row["labels"]), place[row["inputs"]]))

    cores = len(os.sched_getaffinity(0))
    columns = ("inputs", "method", "AUROC", "AP", "F1", "precision", "expected", "recall")
    columns += ("missed", "accuracy", "noise", "verdict", "seconds")
    for name in options.labels:
        mine = [row for row in shown(rows) if row["labels"] == name]
        wrong, before = mine[0]["wrong"], 100 * mine[0]["accuracy_before"]
        title = f"{name}: {wrong} of {options.n} labels wrong (accuracy {before:.2f} %), "
        show(title + f"{cores} core(s)", columns, [table_row(row) for row in mine])
    print("k of the neighbours is chosen by the true labels, in the peer's favour")
    for line in behind(shown(rows)):
        print(line)
    settings = {key: DEFAULTS[key] for key in ("preprocess", "ridge", "method", "steps", "beta")}
    more = {"n": options.n, "folds": FOLDS, "cores": cores, "defaults": settings}
    more["versions"] = {name: version(name) for name in ("cleanlab", "scikit-learn")}
    print(write("human_labels", options.out, rows, more))
    print(draw(shown(rows), options.out))


if __name__ == "__main__":
    main()
