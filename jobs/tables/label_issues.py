"""Label issues by ntkdist and by cleanlab: how well wrong labels are ranked, and the time it takes.

Labels of a balanced subset are corrupted, and every method ranks the images from the most to the
least suspicious. Average precision takes "the label is wrong" as the positive class (1 is
perfect, the share of wrong labels is chance); F1 is that of the labels it calls issues. Seconds
are those of one data set on the cores this process may use, from images to ranking.

- ``cleanlab, CNN`` and ``cleanlab, logistic``: cleanlab with its defaults
  (``get_label_quality_scores``, ``find_label_issues``) on 5-fold cross-validated probabilities of
  a small CNN (``small_cnn.py``) or of scikit-learn's logistic regression on standardised pixels.
- ``ours, ARCHITECTURE``: ``ntkdist.find_label_issues`` with its defaults. Nothing is trained.
- ``cleanlab on ours, ARCHITECTURE``: cleanlab with its defaults on our leave-one-out probabilities.
  Its default score is the given label's probability, so the ranking is ours wherever our
  ``label_quality`` is that; what cleanlab adds is which labels are issues.

Noise is symmetric at three rates, or of pairs of classes that are easily confused.

An architecture may be followed by a recipe of preprocessing and ``flip``, as in
``--architectures cnn-2 "cntk-lap-6-2 contrast+zca flip"``. With ``--runs FOLDER`` Gram matrices are
those of ``cifar10_kernels.py --cache FOLDER``, computed there tile by tile if they are missing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from _common import NAMES, Images, figure, gram, parser, read, save, show, write
from _label_methods import DEFAULTS, FOLDS, by_cleanlab, by_ours, cnn, kept, logistic
from cifar10_kernels import Row, core_seconds_of

from ntkdist.data import Preprocessor, asymmetric, symmetric
from ntkdist.data.preprocess import IMAGE_RECIPE, resolve_recipe
from ntkdist.events.log import read_events
from ntkdist.events.progress import GramProgress
from ntkdist.labels.issues import IMAGES_ARCHITECTURE
from ntkdist.pipeline import Pipeline

# MNIST and CIFAR-10: Patrini et al. 2017. Fashion-MNIST: ours, its usual confusions (shirt →
# T-shirt, pullover → coat, sandal → sneaker, sneaker → ankle boot).
DIGITS = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}
PAIRS = {
    "mnist": DIGITS,
    "digits": DIGITS,
    "fashion_mnist": {6: 0, 2: 4, 5: 7, 7: 9},
    "cifar10": {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
}
TEST = 2000  # test images of the runs of cifar10_kernels.py
PEERS = ("cleanlab, CNN", "cleanlab, logistic")


def noises(name: str, rates: list[float], pairs: float) -> dict[str, Callable[..., Any]]:
    """Return the kinds of noise: name → function of (labels, K, seed)."""
    found: dict[str, Callable[..., Any]] = {}
    for rate in rates:
        found[f"{100 * rate:g} %"] = lambda y, K, seed, rate=rate: symmetric(y, K, rate, seed)
    if pairs and name in PAIRS:
        found[f"{100 * pairs:g} % of pairs"] = lambda y, K, seed: asymmetric(
            y, K, pairs, PAIRS[name], seed
        )
    return found


def kernel_of(text: str, name: str, data: Images, options: Any) -> tuple[np.ndarray, float]:
    """Return the Gram matrix of a network on images, and the seconds from images to it.

    ``text`` is the network, and after it a recipe of preprocessing and ``flip``, if they are given.
    """
    architecture, *words = text.split()
    invariance = "flip" if "flip" in words else "none"
    recipe = next((word for word in words if word != "flip"), IMAGE_RECIPE)
    recipe = resolve_recipe(recipe, features=False)
    if options.runs is not None:
        row = Row(name, len(data.labels), TEST, 0, architecture, recipe, invariance)
        place = argparse.Namespace(
            cache=options.runs, data=options.data, backend="auto", tile="auto"
        )
        with GramProgress() as bar, Pipeline(row.config(place), [bar]) as pipeline:
            pipeline.gram()
            if not (pipeline.run.read("inputs", "labels") == data.labels).all():
                sys.exit(f"{pipeline.run.url} has other images; name another --runs")
            prepared = sum(
                event["seconds"]
                for event in read_events(pipeline.run.url)
                if event["event"] == "StageDone" and event["stage"] == "inputs"
            )
            seconds = core_seconds_of(pipeline.run, ["gram"]) / len(os.sched_getaffinity(0))
            return np.asarray(pipeline.gram_store()[:, :]), prepared + seconds
    start = time.perf_counter()
    fitted = Preprocessor.fit(data.raw, recipe, mirrored=invariance == "flip")
    images = fitted.apply(data.raw)
    prepared = time.perf_counter() - start
    kernel, seconds = gram(architecture, images, options.cache, invariance=invariance)
    return kernel, prepared + seconds


def measure(name: str, options: Any) -> list[dict[str, Any]]:
    """Return one row for each noise, seed and method on one data set."""
    from sklearn.metrics import average_precision_score, f1_score

    data = read(name, options.data, options.n)
    true, K = data.labels, data.num_classes
    kernels = {}
    for text in options.architectures:
        kernels[text] = kernel, seconds = kernel_of(text, name, data, options)
        print(f"{NAMES[name]}: {text}, {len(kernel)} images, Gram in {seconds:.0f} s", flush=True)
    rows = []
    for noise, corrupt in noises(name, options.rates, options.pairs).items():
        for seed in range(options.seeds):
            noisy, wrong = corrupt(true, K, seed)
            found = {}
            for method, compute in zip(PEERS, (cnn, logistic), strict=True):
                if compute is cnn and options.no_cnn:
                    continue
                peer = kept(compute, data.images, noisy, K, seed, options.cache)
                found[method] = by_cleanlab(noisy, *peer)
            for architecture, (kernel, seconds) in kernels.items():
                mine, result = by_ours(kernel, seconds, noisy, K)
                found[f"ours, {architecture}"] = mine
                combined = by_cleanlab(noisy, result.to_pred_probs(), mine.seconds)
                found[f"cleanlab on ours, {architecture}"] = combined
            for method, one in found.items():
                ap = average_precision_score(wrong, -one.quality)
                row = {"set": name, "noise": noise, "seed": seed, "method": method}
                row |= {"average_precision": round(float(ap), 4)}
                row |= {"f1": round(float(f1_score(wrong, one.issues)), 4)}
                row |= {"issues": int(one.issues.sum()), "wrong": int(wrong.sum())}
                rows.append(row | {"seconds": round(one.seconds, 2)})
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return means over seeds, with the distance of ours to the better cleanlab peer."""
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["set"], row["noise"], row["method"]), []).append(row)
    means = []
    for (name, noise, method), group in cells.items():
        precisions = [row["average_precision"] for row in group]
        mean = {"set": name, "noise": noise, "method": method, "lowest": min(precisions)}
        mean |= {"highest": max(precisions)}
        for key in ("average_precision", "f1", "seconds"):
            mean[key] = round(float(np.mean([row[key] for row in group])), 4)
        means.append(mean)
    for mean in means:
        same = [m for m in means if (m["set"], m["noise"]) == (mean["set"], mean["noise"])]
        best = max(m["average_precision"] for m in same if m["method"] in PEERS)
        ours = mean["method"] not in PEERS
        mean["ahead"] = round(mean["average_precision"] - best, 4) if ours else None
    return means


def table_row(mean: dict[str, Any]) -> list[Any]:
    """Return one line of the printed table."""
    ahead, span = mean["ahead"], f"{mean['lowest']:.3f} to {mean['highest']:.3f}"
    mark = None if ahead is None else f"{ahead:+.3f}" + ("" if ahead > 0 else " behind")
    precision = f"{mean['average_precision']:.3f} ({span})"
    cells = [NAMES[mean["set"]], mean["noise"], mean["method"], precision, f"{mean['f1']:.3f}"]
    return [*cells, f"{mean['seconds']:.1f}", mark]


def draw(means: list[dict[str, Any]], out: Path, name: str) -> Path:
    """Write the SVG: average precision against noise, one panel a set."""
    sets = list(dict.fromkeys(mean["set"] for mean in means))
    drawn = figure(4.2 * len(sets) + 1.6, 3.6)
    axes = drawn.subplots(1, len(sets), squeeze=False)[0]
    for axis, of in zip(axes, sets, strict=True):
        here = [m for m in means if m["set"] == of and "on ours" not in m["method"]]
        places = list(dict.fromkeys(m["noise"] for m in here))
        joined = [p for p in places if "pairs" not in p]
        for method in dict.fromkeys(m["method"] for m in here):
            level = {m["noise"]: m["average_precision"] for m in here if m["method"] == method}
            style = "--" if method in PEERS else "-"
            line = axis.plot(joined, [level[p] for p in joined], style, marker="o", label=method)
            for place in places:
                if place not in joined:
                    axis.plot(place, level[place], "o", color=line[0].get_color())
        axis.margins(x=0.15)
        axis.set_title(NAMES[of])
        axis.set_xlabel("wrong labels")
    axes[0].set_ylabel("average precision")
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    return save(drawn, out, name)


def main() -> None:
    """Measure, print the table, write JSON and SVG."""
    choices = parser(
        "Label issues: ntkdist against cleanlab.", sets=("mnist", "fashion_mnist"), n=2000, seeds=3
    )
    choices.add_argument(
        "--architectures", nargs="+", default=[IMAGES_ARCHITECTURE, "cnn-2", "fc-2"]
    )
    choices.add_argument("--runs", type=Path, metavar="FOLDER", help="of cifar10_kernels.py")
    choices.add_argument("--name", default="label_issues", help="OUT/NAME.json and .svg")
    choices.add_argument("--rates", nargs="*", type=float, default=[0.1, 0.2, 0.3])
    choices.add_argument("--no-cnn", action="store_true", help="leave out the CNN, which is slow")
    choices.add_argument("--pairs", type=float, default=0.3, help="rate of the pairs; 0: none")
    options = choices.parse_args()
    warnings.simplefilter("error", RuntimeWarning)

    rows = [row for name in options.sets for row in measure(name, options)]
    means = summarise(rows)
    columns = ("set", "noise", "method", "average precision", "F1", "seconds", "to best peer")
    cores = len(os.sched_getaffinity(0))
    title = f"Label issues, {options.n} images, {options.seeds} seeds, {cores} core(s)"
    show(title, columns, [table_row(mean) for mean in means])
    behind = [m for m in means if m["ahead"] is not None and m["ahead"] <= 0]
    for m in behind:
        print(f"behind: {NAMES[m['set']]}, {m['noise']}, {m['method']} ({m['ahead']:+.3f})")
    pairs = {name: {str(a): b for a, b in PAIRS[name].items()} for name in PAIRS}
    settings = {"preprocess": IMAGE_RECIPE}
    settings |= {key: DEFAULTS[key] for key in ("ridge", "method", "steps", "beta")}
    more = {"n": options.n, "folds": FOLDS, "cores": cores, "defaults": settings, "pairs": pairs}
    more["versions"] = {name: version(name) for name in ("cleanlab", "scikit-learn")}
    print(write(options.name, options.out, rows, more | {"means": means}))
    print(draw(means, options.out, options.name))


if __name__ == "__main__":
    main()
