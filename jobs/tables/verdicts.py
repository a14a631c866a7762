"""Verdicts on labels: clean images must not be flagged, and noisy ones be flagged rightly.

    python jobs/tables/verdicts.py
    python jobs/tables/verdicts.py --photographs --runs FOLDER   # of cifar10_kernels.py --cache

Every row is one set of labels as a new user would audit it: images drawn at random, the network
and the preprocessing of ``ntkdist audit`` (cnn-2, standardised by these images alone).

- Clean: draws of a few images with their true labels: pairs of classes (3 and 5) of 15, 20 and 80
  images each, ten classes of 3 and 30. No more than 2 % of the labels may be flagged, unless the
  verdict is ``cannot judge``.
- Nothing to see: images of pure noise, copies of one image, black images, one image a class.
- Noisy: 200 to 2,000 images of ten classes, 10 % to 40 % of the labels replaced by another class.
  Either 60 % of the flags are right, or fewer than three labels are flagged, or the verdict is
  ``cannot judge``; where the ranking's average precision is above 0.9 and labels are judged, 60 %
  of the wrong labels are flagged; labels are called clean (none flagged, at most 3 % wrong) only
  where they are. Of draws judged reliable: how often the true rate lies in the stated interval, and
  how often the expected precision is within 10 points of the true one.

- With --photographs: CIFAR-10 with true labels and with 10 %, 20 % and 40 % wrong ones, by a kernel
  for photographs. The images are draws from 10,000, all of which the whitening was fitted to.

The true labels are looked at only to count.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _common import NAMES, gram, parser, read, show, write
from label_issues import kernel_of

import ntkdist
from ntkdist.data import Preprocessor, symmetric
from ntkdist.errors import NtkdistError
from ntkdist.labels import label_report, refurbish_gram

ARCHITECTURE, RECIPE = "cnn-2", "standardize"  # of ntkdist audit
PAIR, ALL = (3, 5), tuple(range(10))
CLEAN = ((PAIR, 15), (PAIR, 20), (PAIR, 80), (ALL, 3), (ALL, 30))
SIZES, RATES = (200, 500, 1000, 2000), (0.1, 0.2, 0.3, 0.4)
PHOTOGRAPHS = "cntk-lap-6-1 contrast+zca flip"
PHOTOGRAPH_SIZES, PHOTOGRAPH_RATES = (1000, 2000, 3000, 5000, 10_000), (0.0, 0.1, 0.2, 0.4)
MOST_FLAGGED, LEAST_RIGHT, CALLED_CLEAN = 0.02, 0.6, 0.03


def draw(
    labels: np.ndarray, classes: tuple[int, ...], each: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of so many images of each class, shuffled, and labels from 0."""
    random = np.random.default_rng(1000 + seed)
    chosen = [random.permutation(np.flatnonzero(labels == k))[:each] for k in classes]
    indices = random.permutation(np.concatenate(chosen))
    return indices, np.searchsorted(classes, labels[indices])


def judged(kernel: np.ndarray, given: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Return what is said of labels, and how far that is right."""
    from sklearn.metrics import average_precision_score

    K = int(true.max()) + 1
    table = label_report(given, refurbish_gram(kernel, given, K))
    how, flags = table.attrs["reliability"], table["is_label_issue"].to_numpy()
    wrong, low, high = given != true, *how["noise_interval"]
    row = {"images": len(true), "classes": K, "verdict": how["verdict"], "noise": how["noise"]}
    row |= {"rate": how["noise_rate"], "low": low, "high": high, "wrong": float(wrong.mean())}
    row |= {"flagged": int(flags.sum()), "expected": how["expected_precision"]}
    row["precision"] = float(wrong[flags].mean()) if flags.any() else None
    row["recall"] = float(flags[wrong].mean()) if wrong.any() else None
    ap = average_precision_score(wrong, -table["label_quality"]) if wrong.any() else None
    return row | {"average_precision": None if ap is None else float(ap)}


def faults(row: dict[str, Any]) -> list[str]:
    """Return what is wrong with a row, by name."""
    K, judges = row["classes"], row["verdict"] != "cannot judge"
    found = []
    if row["rate"] > (K - 1) / K:
        found.append("rate above (K-1)/K")
    if not judges:
        return [*found, *(["flags without a verdict"] if row["flagged"] else [])]
    if row["wrong"] == 0:
        if row["flagged"] > MOST_FLAGGED * row["images"]:
            found.append("clean labels flagged")
        return found
    if row["flagged"] >= 3 and row["precision"] < LEAST_RIGHT:
        found.append("flags mostly right labels")
    if row["average_precision"] > 0.9 and row["recall"] < LEAST_RIGHT:
        found.append("flags too few")
    clean = not row["flagged"] and row["high"] <= CALLED_CLEAN
    if clean and row["verdict"] == "reliable" and row["wrong"] > CALLED_CLEAN:
        found.append("called clean")
    return found


def clean_rows(name: str, images: np.ndarray, labels: np.ndarray, seeds: int) -> Iterator[dict]:
    """Yield the rows of clean images."""
    for classes, each in CLEAN:
        for seed in range(seeds):
            chosen, true = draw(labels, classes, each, seed)
            inputs = Preprocessor.fit(images[chosen], RECIPE).apply(images[chosen])
            row = judged(ntkdist.kernel_matrix(ARCHITECTURE, inputs), true, true)
            yield {"set": name, "kind": f"clean, {len(classes)} × {each}", "seed": seed} | row


def noisy_rows(name: str, images: np.ndarray, labels: np.ndarray, options: Any) -> Iterator[dict]:
    """Yield the rows of images with wrong labels."""
    for count in options.sizes:
        for seed in range(options.seeds):
            chosen, true = draw(labels, ALL, count // 10, seed)
            inputs = Preprocessor.fit(images[chosen], RECIPE).apply(images[chosen])
            kernel, _ = gram(ARCHITECTURE, inputs, options.cache)
            for rate in RATES:
                given, _ = symmetric(true, 10, rate, seed)
                kind = f"{100 * rate:g} % wrong, {count}"
                yield {"set": name, "kind": kind, "seed": seed} | judged(kernel, given, true)


def photograph_rows(options: Any) -> Iterator[dict]:
    """Yield the rows of draws from all images of CIFAR-10's file, by ``PHOTOGRAPHS``."""
    name, most = "cifar10", PHOTOGRAPH_SIZES[-1]
    data = read(name, options.data, most)
    kernel, _ = kernel_of(PHOTOGRAPHS, name, data, options)
    for count in PHOTOGRAPH_SIZES:
        for seed in range(options.seeds if count < most else 1):
            chosen, true = draw(data.labels, ALL, count // 10, seed)
            block = kernel[np.ix_(chosen, chosen)]
            for rate in PHOTOGRAPH_RATES:
                given, _ = symmetric(true, 10, rate, seed)
                kind = f"{100 * rate:g} % wrong, {count}"
                yield {"set": name, "kind": kind, "seed": seed} | judged(block, given, true)


def blind_rows() -> Iterator[dict]:
    """Yield the rows of images in which there is nothing to see; an error is an answer, too."""
    random = np.random.default_rng(0)
    one = random.integers(0, 256, (1, 8, 8, 1), dtype=np.uint8)
    sets = {
        "pure noise": random.integers(0, 256, (100, 16, 16, 1), dtype=np.uint8),
        "copies of one image": np.repeat(one, 60, axis=0),
        "black images": np.zeros((60, 8, 8, 1), np.uint8),
        "one image a class": random.integers(0, 256, (10, 16, 16, 1), dtype=np.uint8),
    }
    for kind, images in sets.items():
        K = len(images) if kind.startswith("one") else 5
        true = np.arange(len(images)) % K
        try:
            inputs = Preprocessor.fit(images, RECIPE).apply(images)
            row = judged(ntkdist.kernel_matrix(ARCHITECTURE, inputs), true, true)
        except NtkdistError as error:
            row = {"verdict": f"error: {error}", "classes": K, "rate": 0.0, "flagged": 0}
            row |= {"wrong": 0.0, "images": len(images)}
        yield {"set": "made up", "kind": kind, "seed": 0} | row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how often intervals and expected precisions hold, of draws judged reliable."""
    sure = [row for row in rows if row["wrong"] > 0 and row["verdict"] == "reliable"]
    inside = [row["low"] <= row["wrong"] <= row["high"] for row in sure]
    near = [abs(r["expected"] - r["precision"]) <= 0.1 for r in sure if r["flagged"]]
    return {
        "draws": len(rows),
        "noisy_draws_judged_reliable": len(sure),
        "interval_holds": round(float(np.mean(inside)), 4) if inside else None,
        "expected_precision_within_10_points": round(float(np.mean(near)), 4) if near else None,
        "faults": sum(bool(row["faults"]) for row in rows),
    }


def main() -> None:
    """Measure, print the table, write JSON."""
    sets = ("mnist", "fashion_mnist", "cifar10")
    choices = parser("Verdicts on clean and noisy labels.", sets=sets, n=None, seeds=6)
    choices.add_argument("--clean-seeds", type=int, default=12, help="draws of clean images")
    choices.add_argument("--sizes", nargs="*", type=int, default=SIZES, help="of noisy draws")
    only = f"only {PHOTOGRAPHS}, on draws from 10,000 images"
    choices.add_argument("--photographs", action="store_true", help=only)
    choices.add_argument("--runs", type=Path, metavar="FOLDER", help="of cifar10_kernels.py")
    options = choices.parse_args()

    rows = list(photograph_rows(options) if options.photographs else blind_rows())
    for name in () if options.photographs else options.sets:
        data = read(name, options.data, None)
        rows += clean_rows(name, data.raw, data.labels, options.clean_seeds)
        rows += noisy_rows(name, data.raw, data.labels, options)
        print(f"{NAMES[name]}: done", flush=True)
    for row in rows:
        row["faults"] = faults(row)
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["set"], row["kind"]), []).append(row)
    shown = []
    for (name, kind), group in kinds.items():
        counts = [sum(r["verdict"] == v for r in group) for v in ("reliable", "weak")]
        counts.append(len(group) - sum(counts))
        most = max(row["flagged"] / row["images"] for row in group)
        bad = sorted({fault for row in group for fault in row["faults"]})
        share = f"{100 * most:.1f} %"
        shown.append([NAMES.get(name, name), kind, *counts, share, "; ".join(bad) or "none"])
    columns = ("set", "labels", "reliable", "weak", "cannot judge", "most flagged", "faults")
    show("Verdicts, number of draws", columns, shown)
    found = summary(rows)
    for key, value in found.items():
        print(f"{key.replace('_', ' ')}: {value}")
    more = {"architecture": ARCHITECTURE, "preprocess": RECIPE, "summary": found}
    if options.photographs:
        more |= {"architecture": PHOTOGRAPHS, "preprocess": "contrast+zca"}
    name = "verdicts_photographs" if options.photographs else "verdicts"
    print(write(name, options.out, rows, more))


if __name__ == "__main__":
    main()
