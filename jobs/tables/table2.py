"""Table 2 of DeOliveira et al. 2025: the cost of training the finite networks.

    python jobs/tables/table2.py

Published are seconds for 100 epochs at width 10,000 on the full training sets. Here the networks
are trained on the cores of this process, with the width, number of images and epochs of the
options; the seconds of an epoch are measured and not extrapolated. The number of operations grows
with the squared width and with the number of images. The time of one Gram of the same images is
shown for comparison.
"""

from __future__ import annotations

import os
from typing import Any

import _common

from ntkdist.learning import train

PUBLISHED = {
    "mnist": (715, 5377, 820, 49714, 19247),
    "fashion_mnist": (715, 5377, 820, 49714, 20036),
    "cifar10": (715, 4563, 718, 53567, 16746),
    "cifar100": (731, 4617, 764, 54740, 17169),
}
ARCHITECTURES = ("fc-2", "fc-10", "cnn-1", "cnn-2", "cnn-3")


def main() -> None:
    """Measure, print, write table2.json and table2.svg."""
    options = _common.parser(__doc__ or "", sets=_common.SETS, n=500, seeds=1)
    options.add_argument("--width", type=int, default=64)
    options.add_argument("--epochs", type=int, default=5)
    given = options.parse_args()
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    for name in given.sets:
        data = _common.read(name, given.data, given.n)
        for place, architecture in enumerate(ARCHITECTURES):
            found = train(
                architecture,
                data.images,
                data.labels,
                data.num_classes,
                width=given.width,
                epochs=given.epochs,
            )
            _, kernel = _common.gram(architecture, data.images)
            rows.append(
                {
                    "set": name,
                    "architecture": architecture,
                    "seconds_an_epoch": float(found.seconds.mean()),
                    "seconds": float(found.seconds.sum()),
                    "parameters": sum(W.size for W, _ in found.params),
                    "training_accuracy": found.accuracy,
                    "gram_seconds": kernel,
                    "published_seconds": PUBLISHED[name][place],
                }
            )
    table = [
        [
            _common.NAMES[r["set"]],
            r["architecture"],
            f"{r['seconds_an_epoch']:.2f}",
            f"{r['training_accuracy']:.1%}",
            f"{r['gram_seconds']:.2f}",
            r["published_seconds"],
        ]
        for r in rows
    ]
    title = (
        f"Table 2, reduced: {given.n} images, width {given.width}, {given.epochs} epochs, {cores} "
        "cores; published: the full set, width 10,000, 100 epochs, the authors' machines"
    )
    columns = ["set", "architecture", "an epoch (s)", "training accuracy", "Gram (s)"]
    _common.show(title, [*columns, "published (s)"], table)
    more: dict[str, Any] = {name: getattr(given, name) for name in ("n", "width", "epochs")}
    more |= {
        "cores": cores,
        "load_before": load,
        "reduced": f"width 10,000 to {given.width}, 100 epochs to {given.epochs}, full training "
        f"sets to {given.n} images; every figure but the published ones is measured at that size",
        "published": "seconds for 100 epochs at width 10,000, full sets, on the authors' machines",
    }
    print(_common.write("table2", given.out, rows, more))
    print(_common.save(_draw(rows, given), given.out, "table2"))


def _draw(rows: list[dict[str, Any]], given: Any) -> Any:
    figure = _common.figure(3.0 * len(given.sets), 3.6)
    axes = figure.subplots(1, len(given.sets), squeeze=False, sharey=True)[0]
    for ax, name in zip(axes, given.sets, strict=True):
        mine = [r for r in rows if r["set"] == name]
        names = [r["architecture"] for r in mine]
        ax.plot(names, [r["seconds_an_epoch"] for r in mine], "o-", label="one epoch of training")
        ax.plot(names, [r["gram_seconds"] for r in mine], "s-", label="the Gram matrix")
        published = [r["published_seconds"] for r in mine]
        ax.plot(names, published, "x--", color="0.5", label="published: 100 epochs, full size")
        ax.set(yscale="log", title=_common.NAMES[name])
        ax.tick_params(axis="x", labelsize=8)
    axes[0].set_ylabel(f"seconds, {given.n} images, width {given.width}")
    figure.supxlabel("architecture", fontsize=10)
    axes[0].legend(frameon=False, fontsize=7)
    return figure


if __name__ == "__main__":
    main()
