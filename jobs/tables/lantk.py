"""Label-aware kernels (Chen, He and Su 2020): their gain in accuracy over the plain kernel.

    python jobs/tables/lantk.py

Five pairs of CIFAR-10 classes, with 2,000 training and 400 test images per pair (10,000 and 2,000
in the publication), the publication's network, pixels in [−1, 1], no ridge. The multiplier of the
label-aware part is chosen for each pair and variant by five-fold cross-validation on the training
images; 0 (the plain kernel) is one of the choices. Test images are predicted once, with the chosen
multiplier. The publication's script uses 0.0005 throughout.

Seed 0 is the split of the files. With 400 test images only differences of two points or more are
visible, so each further seed holds out 400 other images, none of them twice, and trains on the
remaining 2,000. Splits share training images and pairs share classes, so that their gains are not
independent; the table of gains lists each split.

Class blocks of the Gram are shared by the pairs; --cache keeps them.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import _common
import numpy as np

from ntkdist import Architecture, kernel_matrix
from ntkdist.learning.label_aware import (
    MULTIPLIERS,
    VARIANTS,
    LabelAware,
    label_aware,
)
from ntkdist.learning.pairs import Pairs, pixel_pairs

PAIRS = (("deer", "dog"), ("cat", "deer"), ("cat", "frog"), ("deer", "frog"), ("bird", "frog"))
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PUBLISHED = {
    "plain": (85.15, 83.55, 86.95, 87.55, 86.35),
    "kr-v1": (85.65, 83.90, 87.20, 87.85, 87.45),
    "kr-v2": (85.80, 83.90, 87.15, 87.90, 87.25),
    "fjlt-v1": (86.75, 84.85, 87.40, 88.10, 86.40),
    "fjlt-v2": (86.25, 84.55, 87.10, 88.30, 87.00),
}
KERNELS = ("plain", *VARIANTS)
NAMES = tuple("-".join(pair) for pair in PAIRS)
FOLDS = 5
AGREE = 1e-6  # with neural-tangents, relative
# a convolution, three groups of (ReLU, convolution of stride s, ReLU, convolution), Flatten, Dense
STRIDES = (1, 1, 2, 1, 2, 1)
ARCHITECTURE = Architecture.parse(
    ["Conv", *(x for s in STRIDES for x in ("Relu", f"Conv(stride={s})")), "Flatten", "Dense"]
)


def main() -> None:
    """Measure, print, write lantk.json and lantk.svg."""
    options = _common.parser(__doc__ or "", sets=("cifar10",), n=2000, seeds=3)
    given = options.parse_args()
    images = {split: _images(split, given) for split in ("train", "test")}
    some = images["train"]["deer"][:4]
    other = kernel_matrix(ARCHITECTURE, some, backend="stax", dtype="float64")
    found = kernel_matrix(ARCHITECTURE, some, backend="cpu", dtype="float64")
    off = float(np.abs(found / other - 1.0).max())
    if not off < AGREE:
        sys.exit(f"the kernel is off neural-tangents by {off:.3g}")
    rows: list[dict[str, Any]] = []
    for pair in PAIRS:
        whole, places, seconds = _pair(pair, images, given)
        labels = np.repeat([-1, 1, -1, 1], [len(x) for x in places])
        print(f"{'-'.join(pair)}: its Gram took {seconds:.0f} s", file=sys.stderr)
        for seed in range(given.seeds):
            start = time.perf_counter()
            train, test = _split(places, seed)
            for kernel in KERNELS:
                found = label_aware(
                    whole.take(train, train), labels[train], whole.take(test, train),
                    variant="kr-v1" if kernel == "plain" else kernel,
                    multiplier=0.0 if kernel == "plain" else None,
                    folds=FOLDS, seed=seed,
                )  # fmt: skip
                rows.append(_row(pair, kernel, seed, found, labels[test], seconds))
            print(f"  split {seed}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    means = {k: float(np.mean([r["accuracy"] for r in rows if r["kernel"] == k])) for k in KERNELS}
    _print(rows, means, given)
    more = {
        "n": given.n,
        "seeds": given.seeds,
        "test_images": len(test),
        "architecture": str(ARCHITECTURE),
        "difference_to_neural_tangents": off,
        "folds": FOLDS,
        "multipliers": MULTIPLIERS,
        "published": PUBLISHED,
        "mean_accuracy": means,
    }
    print(_common.write("lantk", given.out, rows, more))
    print(_common.save(_draw(rows, given), given.out, "lantk"))


def _images(split: str, given: Any) -> dict[str, np.ndarray]:
    """Return the images of each class, pixels in [−1, 1], the first n/2 of the training split."""
    data = _common.read("cifar10", given.data, None, split=split)
    most = given.n // 2 if split == "train" else None
    pixels = data.raw.astype(np.float32) / np.float32(127.5) - 1
    names = {name for pair in PAIRS for name in pair}
    return {name: pixels[data.labels == CLASSES.index(name)][:most] for name in names}


def _pair(
    pair: tuple[str, str], images: dict[str, dict[str, np.ndarray]], given: Any
) -> tuple[Pairs, list[np.ndarray], float]:
    """Return what is known of all pairs of images of two classes, and the kernel's seconds.

    Test images come first; where those of each class are, and then the training images of each
    class, stands in the list.
    """
    parts = [images[split][name] for split in ("test", "train") for name in pair]
    edges = np.cumsum([0, *(len(x) for x in parts)])
    places = [np.arange(*edges[i : i + 2]) for i in range(4)]
    H, seconds = np.empty((edges[-1], edges[-1])), 0.0
    for i, a in enumerate(parts):
        for j, b in enumerate(parts[i:], start=i):
            block, took = entries(a, b, given.cache)
            H[np.ix_(places[i], places[j])] = block
            H[np.ix_(places[j], places[i])] = block.T
            seconds += took
    return Pairs(H, pixel_pairs(np.concatenate(parts))), places, seconds


def _split(places: list[np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return training and test images: the files' own for seed 0, else others held out."""
    test, train = places[:2], places[2:]
    if seed:
        each = len(test[0])
        if seed * each > min(len(x) for x in train):
            sys.exit(f"{len(train[0])} images of a class are too few; give --seeds {seed}")
        test = [x[(seed - 1) * each : seed * each] for x in train]
    held = np.concatenate(test)
    return np.setdiff1d(np.concatenate(places), held), held


def entries(a: np.ndarray, b: np.ndarray, cache: str | None) -> tuple[np.ndarray, float]:
    """Return Θ of images a × b (n, m) and the seconds it took, from the cache if it is there."""

    def compute() -> np.ndarray:
        columns = None if a is b else b
        return kernel_matrix(ARCHITECTURE, a, columns, backend="cpu", dtype="float64")

    return _common.cached(cache, "lantk", (str(ARCHITECTURE), a, b), compute)


def _row(
    pair: tuple[str, str], kernel: str, seed: int, found: LabelAware, y: np.ndarray, seconds: float
) -> dict[str, Any]:
    choice = found.choice
    return {
        "pair": "-".join(pair),
        "kernel": kernel,
        "seed": seed,
        "accuracy": 100 * float(np.mean(found.labels == y)),
        "multiplier": found.multiplier,
        "ridge": found.ridge,
        "definite": found.definite,
        "elasticity": found.elasticity,
        "gram_seconds": seconds,
        "validated": None
        if choice is None
        else {
            "multipliers": choice.multipliers.tolist(),
            "accuracy": (100 * choice.accuracy).tolist(),
            "error": choice.error.tolist(),
            "definite": choice.definite.tolist(),
        },
    }


def _mean(rows: list[dict[str, Any]], kernel: str, **where: Any) -> float:
    wanted = {"kernel": kernel, **where}
    return float(np.mean([r["accuracy"] for r in rows if wanted.items() <= r.items()]))


def _gains(rows: list[dict[str, Any]], kernel: str) -> np.ndarray:
    """Return each multiplier's mean gain on the plain kernel in cross-validation, in points."""
    found = []
    for row in rows:
        if row["kernel"] == kernel:
            tried = dict(
                zip(*(row["validated"][k] for k in ("multipliers", "accuracy")), strict=True)
            )
            found.append([tried.get(r, np.nan) - tried[0.0] for r in MULTIPLIERS])
    return np.nanmean(found, axis=0)


def _print(rows: list[dict[str, Any]], means: dict[str, float], given: Any) -> None:
    table = []
    for kernel in KERNELS:
        published = PUBLISHED[kernel]
        table.append(
            [f"{kernel}, published", *(f"{x:.2f}" for x in published), f"{np.mean(published):.2f}"]
        )
        ours = [_mean(rows, kernel, pair=name) for name in NAMES]
        table.append([f"{kernel}, ours", *(f"{x:.2f}" for x in ours), f"{means[kernel]:.2f}"])
        chosen = [
            [r["multiplier"] for r in rows if (r["kernel"], r["pair"]) == (kernel, name)]
            for name in NAMES
        ]
        if kernel != "plain":
            table.append(["    r", *(" ".join(f"{r:g}" for r in one) for one in chosen), None])
    title = f"Label-aware kernels, test accuracy in %, {given.n} training images a pair"
    _common.show(title, ["kernel", *NAMES, "mean"], table)
    table = []
    for kernel in VARIANTS:
        by_seed = [
            _mean(rows, kernel, seed=s) - _mean(rows, "plain", seed=s) for s in range(given.seeds)
        ]
        table.append(
            [
                kernel,
                f"{means[kernel] - means['plain']:+.2f}",
                " ".join(f"{gain:+.2f}" for gain in by_seed),
                *(f"{gain:+.2f}" for gain in _gains(rows, kernel)),
            ]
        )
    columns = ["points on the plain kernel", "test", "by split"]
    columns += [f"cv, r={r:g}" for r in MULTIPLIERS]
    _common.show(
        "Gains: on test images, and in cross-validation on training images", columns, table
    )


def _draw(rows: list[dict[str, Any]], given: Any) -> Any:
    figure = _common.figure(12.0, 4.0)
    left, middle, right = figure.subplots(1, 3)
    ours = {k: [_mean(rows, k, pair=name) for name in NAMES] for k in KERNELS}
    low = min(min(values) for values in (*PUBLISHED.values(), *ours.values()))
    for ax, values, title in (
        (left, PUBLISHED, "published, 10,000 training images"),
        (middle, ours, f"ours, {given.n:,} training images"),
    ):
        for place, kernel in enumerate(KERNELS):
            at = np.arange(len(NAMES)) + (place - 2) * 0.15
            color = "0.4" if kernel == "plain" else f"C{place - 1}"
            ax.bar(at, values[kernel], 0.14, color=color, label=kernel)
        ax.set_xticks(range(len(NAMES)), NAMES, fontsize=8, rotation=20)
        ax.set_ylim(low - 3, 92)
        ax.set_title(title, fontsize=9)
        ax.set_ylabel("test accuracy in %", fontsize=9)
    left.legend(fontsize=8, frameon=False, ncols=3)
    for kernel in VARIANTS:
        right.plot(range(len(MULTIPLIERS)), _gains(rows, kernel), "o-", ms=3, lw=1, label=kernel)
    right.axhline(0, color="0.6", lw=1)
    right.set_ylim(-2, 2)
    right.set_xticks(
        range(len(MULTIPLIERS)), [f"{r:g}" for r in MULTIPLIERS], fontsize=8, rotation=20
    )
    right.set_xlabel("multiplier r", fontsize=9)
    right.set_ylabel("gain in cross-validation, points", fontsize=9)
    right.set_title("training images, mean of the pairs", fontsize=9)
    right.legend(fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    main()
