"""Table 1 of DeOliveira et al. 2025: seconds for one Gram matrix.

    python jobs/tables/table1.py

The NTK of a balanced subset of each set with each architecture, on the cores of this process,
without compilation; the median of three, or one measurement where it takes long. The published
times are for the full training sets (60,000 or 50,000 images) on the authors' machines. Ours for as
many images is extrapolated from the entries per second measured here to N(N+1)/2 entries, and is
marked so. The architectures are not published in detail; this package's presets of these names are
used.
"""

from __future__ import annotations

import os
import statistics
from typing import Any

import _common

PUBLISHED = {
    "mnist": (25, 56, 50, 89, 6067),
    "fashion_mnist": (25, 55, 60, 90, 5931),
    "cifar10": (25, 46, 90, 153, 5390),
    "cifar100": (25, 46, 86, 152, 5407),
}
FULL = {"mnist": 60000, "fashion_mnist": 60000, "cifar10": 50000, "cifar100": 50000}
ARCHITECTURES = ("fc-2", "fc-10", "cnn-1", "cnn-2", "cnn-3")
# no second run of what takes longer (seconds)
LONG = 5.0


def main() -> None:
    """Measure, print, write table1.json and table1.svg."""
    options = _common.parser(__doc__ or "", sets=_common.SETS, n=2000, seeds=1)
    options.add_argument("--pooled-n", type=int, default=400, help="images for cnn-3")
    given = options.parse_args()
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    for name in given.sets:
        for place, architecture in enumerate(ARCHITECTURES):
            n = given.pooled_n if architecture == "cnn-3" else given.n
            images = _common.read(name, given.data, n).images
            runs = [_common.gram(architecture, images)[1]]
            while len(runs) < 3 and runs[0] < LONG:
                runs.append(_common.gram(architecture, images)[1])
            seconds = statistics.median(runs)
            entries = n * (n + 1) / 2
            full = FULL[name]
            rows.append(
                {
                    "set": name,
                    "architecture": architecture,
                    "n": n,
                    "seconds": seconds,
                    "runs": runs,
                    "entries_per_second": entries / seconds,
                    "extrapolated_n": full,
                    "extrapolated_seconds": seconds * full * (full + 1) / 2 / entries,
                    "published_seconds": PUBLISHED[name][place],
                }
            )
    table = [
        [
            _common.NAMES[r["set"]],
            r["architecture"],
            r["n"],
            f"{r['seconds']:.2f}",
            f"{r['entries_per_second']:.3g}",
            f"{r['extrapolated_seconds']:.0f}",
            r["published_seconds"],
        ]
        for r in rows
    ]
    columns = ["set", "architecture", "N", "seconds", "entries/s", "full set, extrapolated (s)"]
    title = f"Table 1: {cores} cores here; published: the authors' machines, the full training set"
    _common.show(title, [*columns, "published (s)"], table)
    more = {
        "cores": cores,
        "load_before": load,
        "measured": "seconds, of n images on these cores",
        "extrapolated": "extrapolated_seconds = seconds x M(M+1)/(n(n+1)), M = extrapolated_n",
        "published": "full training sets, on the authors' machines",
    }
    print(_common.write("table1", given.out, rows, more))
    print(_common.save(_draw(rows, given), given.out, "table1"))


def _draw(rows: list[dict[str, Any]], given: Any) -> Any:
    figure = _common.figure(6.4, 4.0)
    ax = figure.subplots()
    for name in given.sets:
        mine = [r for r in rows if r["set"] == name]
        names = [r["architecture"] for r in mine]
        (line,) = ax.plot(names, [r["extrapolated_seconds"] for r in mine], "o-")
        line.set_label(_common.NAMES[name])
        ax.plot(names, [r["published_seconds"] for r in mine], "x--", color=line.get_color())
    ax.set(yscale="log", xlabel="architecture", ylabel="seconds for the full training set")
    ax.legend(
        frameon=False,
        title="ours, extrapolated (lines);\npublished, other machines (dashed)",
        fontsize=8,
    )
    return figure


if __name__ == "__main__":
    main()
