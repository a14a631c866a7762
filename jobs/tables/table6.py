"""Table 6 of DeOliveira et al. 2025: L(Z) orders labelings as training does.

    python jobs/tables/table6.py

Five labelings of the same images: 70, 30 and 10 % symmetric noise, the true labels, and all images
in one class. L(Z) is computed from the Gram of a convolutional kernel; each seed draws another
balanced subset and other noise. The trained rank is that of the mean training loss of a wide finite
network of the same architecture after a fixed number of epochs. The network is trained on fewer and
smaller images than the publication's (250 epochs); L(Z) of the same images is shown with it.
"""

from __future__ import annotations

from typing import Any

import _common
import numpy as np

from ntkdist.data import symmetric
from ntkdist.labels import block_error, class_matrix, invert
from ntkdist.learning import train

PUBLISHED = {
    "mnist": (29662.4, 20401.4, 11784.6, 6702.7, 1.3),
    "fashion_mnist": (30889.0, 21433.0, 13248.3, 8558.3, 1.8),
    "cifar10": (1387.0, 1269.4, 1159.7, 1109.8, 0.2),
    "cifar100": (19907.0, 19166.1, 18732.8, 18456.4, 0.2),
}
LABELINGS = ("70 %", "30 %", "10 %", "true", "one class")
RIDGE = 1e-3


def main() -> None:
    """Measure, print, write table6.json and table6.svg."""
    options = _common.parser(__doc__ or "", sets=_common.SETS, n=2000, seeds=3)
    options.add_argument("--architecture", default="cnn-2")
    options.add_argument("--trained", nargs="*", default=["mnist", "fashion_mnist", "cifar10"])
    options.add_argument("--trained-n", type=int, default=1000)
    options.add_argument("--width", type=int, default=64)
    options.add_argument("--epochs", type=int, default=12)
    given = options.parse_args()
    rows = [
        {"set": name, "seed": seed, **_losses(name, seed, given.n, "standardize", given)}
        for name in given.sets
        for seed in range(given.seeds)
    ]
    trained = [_trained(name, given) for name in given.trained]
    _print(rows, trained, given)
    more = {
        "n": given.n,
        "architecture": given.architecture,
        "ridge": RIDGE,
        "labelings": LABELINGS,
        "published": PUBLISHED,
        "trained": trained,
        "trained_n": given.trained_n,
        "trained_preprocess": "halve+standardize",
        "width": given.width,
        "epochs": given.epochs,
    }
    print(_common.write("table6", given.out, rows, more))
    print(_common.save(_draw(rows, given), given.out, "table6"))


def labelings(labels: np.ndarray, num_classes: int, seed: int) -> list[np.ndarray]:
    """Return the five labelings in the order of ``LABELINGS``."""
    noisy = [symmetric(labels, num_classes, rate, seed)[0] for rate in (0.7, 0.3, 0.1)]
    return [*noisy, labels, np.zeros_like(labels)]


def _losses(name: str, seed: int, n: int, preprocess: str, given: Any) -> dict[str, Any]:
    data = _common.read(name, given.data, n, preprocess=preprocess, seed=seed)
    gram, _ = _common.gram(given.architecture, data.images, given.cache)
    inverse, K = invert(gram, RIDGE), data.num_classes
    losses = []
    for labels in labelings(data.labels, K, seed):
        _, Z = class_matrix(inverse, labels, K)
        losses.append(block_error(Z, np.bincount(labels, minlength=K)))
    return {"losses": losses, "ranks": _ranks(losses)}


def _trained(name: str, given: Any) -> dict[str, Any]:
    data = _common.read(name, given.data, given.trained_n, preprocess="halve+standardize")
    kernel = _losses(name, 0, given.trained_n, "halve+standardize", given)
    losses, accuracies, seconds = [], [], 0.0
    for labels in labelings(data.labels, data.num_classes, 0):
        found = train(
            given.architecture,
            data.images,
            labels,
            data.num_classes,
            width=given.width,
            epochs=given.epochs,
        )
        losses.append(found.loss)
        accuracies.append(found.accuracy)
        seconds += float(found.seconds.sum())
    return {
        "set": name,
        "n": len(data.labels),
        "losses": losses,
        "accuracies": accuracies,
        "ranks": _ranks(losses),
        "kernel_losses": kernel["losses"],
        "kernel_ranks": kernel["ranks"],
        "seconds": seconds,
    }


def _ranks(losses: list[float]) -> list[int]:
    """Return the rank of each loss, 1 for the lowest."""
    return [int(sum(other < loss for other in losses)) + 1 for loss in losses]


def _print(rows: list[dict[str, Any]], trained: list[dict[str, Any]], given: Any) -> None:
    table = []
    for name in given.sets:
        mine = [row for row in rows if row["set"] == name]
        mean = np.mean([row["losses"] for row in mine], axis=0)
        right = sum(row["ranks"] == [5, 4, 3, 2, 1] for row in mine)
        table.append([f"{_common.NAMES[name]} published", *PUBLISHED[name], None])
        cells = [f"{value:.4g}" for value in mean]
        table.append(["  ours (mean)", *cells, f"{right} of {len(mine)} seeds"])
    columns = ["L(Z)", *LABELINGS, "in order"]
    _common.show(f"Table 6, {given.n} images, {given.architecture}", columns, table)
    table = []
    for one in trained:
        table.append([f"{_common.NAMES[one['set']]} trained", *(f"{x:.4f}" for x in one["losses"])])
        table.append(["  rank", *one["ranks"]])
        table.append(["  rank by L(Z)", *one["kernel_ranks"]])
    title = (
        f"mean training loss after {given.epochs} epochs at width {given.width}, "
        f"{given.trained_n} images of half the size"
    )
    _common.show(title, ["", *LABELINGS], table)


def _draw(rows: list[dict[str, Any]], given: Any) -> Any:
    figure = _common.figure(6.4, 4.0)
    ax = figure.subplots()
    for name in given.sets:
        mean = np.mean([row["losses"] for row in rows if row["set"] == name], axis=0)
        (line,) = ax.plot(LABELINGS, mean / mean[3], "o-", label=_common.NAMES[name])
        published = np.array(PUBLISHED[name]) / PUBLISHED[name][3]
        ax.plot(LABELINGS, published, "x--", color=line.get_color(), alpha=0.6)
    ax.set(yscale="log", ylabel="L(Z) over that of the true labels")
    ax.legend(frameon=False, title="ours (lines), published (dashed)")
    return figure


if __name__ == "__main__":
    main()
