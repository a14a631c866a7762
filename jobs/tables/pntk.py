"""The pNTK as a stand-in for the full empirical kernel (Mohamadi, Bae and Sutherland 2023).

    python jobs/tables/pntk.py

Networks of several widths, as drawn, on MNIST: how far the full (N·10)² kernel is from pNTK ⊗ I,
what both predict by kernel regression without ridge on test images, and what they cost. Each kernel
is computed by itself; seconds are those of the kernel of the training images and of the prediction
(the solution, and the kernel of test images with training images), the least of the seeds, so that
compilation is not in them; bytes are those of the training kernel in float64.

At width 32 the full kernel has not many fewer rows than the network has parameters, and a condition
number above 1e9: without ridge it predicts badly there, in float64 arithmetic throughout as well.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import _common
import numpy as np

from ntkdist.analyses.widths import Gap, plot_gaps
from ntkdist.learning import FiniteNetwork
from ntkdist.learning.empirical import measure_pseudo_kernel
from ntkdist.learning.widths import fit_power

WIDTHS = (32, 128, 512, 2048)


def main() -> None:
    """Measure, print, write pntk.json and pntk.svg."""
    options = _common.parser(__doc__ or "", sets=("mnist",), n=700, seeds=4)
    options.add_argument("--architecture", default="fc-2")
    options.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    options.add_argument("--tests", type=int, default=1000, help="test images")
    given = options.parse_args()
    rows: list[dict[str, Any]] = []
    for name in given.sets:
        train = _common.read(name, given.data, given.n)
        test = _common.read(name, given.data, given.tests, split="test")
        for width in given.widths:
            for seed in range(given.seeds):
                network = FiniteNetwork(given.architecture, width, train.num_classes)
                params = network.init(seed, train.images.shape[1:])
                found = asdict(
                    measure_pseudo_kernel(
                        network, params, train.images, train.labels, (test.images, test.labels)
                    )
                )
                comparison = found.pop("comparison")
                rows.append({"set": name, "width": width, "seed": seed, **comparison, **found})
                print(rows[-1], file=sys.stderr)
        _print(name, rows, given)
    more = {"n": given.n, "tests": given.tests, "architecture": given.architecture}
    print(_common.write("pntk", given.out, rows, more))
    print(_draw(rows, given, given.out))


def _at(rows: list[dict[str, Any]], name: str, width: int, what: str) -> np.ndarray:
    return np.array([r[what] for r in rows if r["set"] == name and r["width"] == width])


def _print(name: str, rows: list[dict[str, Any]], given: Any) -> None:
    table = []
    for width in given.widths:
        means = {
            key: _at(rows, name, width, key).mean()
            for key in ("difference", "top_ratio", "full_accuracy", "pseudo_accuracy", "agreement")
        }
        least = {
            key: _at(rows, name, width, key).min() for key in rows[0] if key.endswith("seconds")
        }
        sizes = [_at(rows, name, width, f"{k}_bytes")[0] / 2**20 for k in ("full", "pseudo")]
        table.append(
            [
                width,
                f"{means['difference']:.4f}",
                f"{means['top_ratio']:.3f}",
                f"{100 * means['full_accuracy']:.2f}",
                f"{100 * means['pseudo_accuracy']:.2f}",
                f"{100 * means['agreement']:.2f}",
                f"{least['full_seconds']:.2f} + {least['full_predict_seconds']:.2f}",
                f"{least['pseudo_seconds']:.2f} + {least['pseudo_predict_seconds']:.2f}",
                f"{sizes[0]:.0f} / {sizes[1]:.1f}",
            ]
        )
    columns = ["width", "‖Θ − P⊗I‖/‖Θ‖", "λ_max ratio", "full, % right", "pNTK, % right"]
    columns += ["same class, %", "full, s", "pNTK, s", "MiB"]
    title = f"{_common.NAMES[name]}, {given.architecture}, {given.n} images, {given.tests} tests"
    _common.show(f"{title}, means of {given.seeds} seeds", columns, table)


def _draw(rows: list[dict[str, Any]], given: Any, out: Path) -> Path:
    figure = _common.figure(9.6, 4.0)
    left, right = figure.subplots(1, 2)
    widths = np.array(given.widths)
    gaps = []
    for name in given.sets:
        values = [np.sqrt((_at(rows, name, w, "difference") ** 2).mean()) for w in widths]
        law = fit_power(widths, values)
        title = f"{_common.NAMES[name]}, full kernel from pNTK ⊗ I"
        gaps.append(Gap(title, np.array(values), law.at(widths), law.exponent))
        for place, what in enumerate(("full", "pseudo")):
            right.plot(
                widths,
                [100 * _at(rows, name, w, f"{what}_accuracy").mean() for w in widths],
                "os"[place] + "-",
                ms=4,
                lw=1,
                label=f"{_common.NAMES[name]}, {('full kernel', 'pNTK')[place]}",
            )
    plot_gaps(left, widths, gaps, 9)
    left.set_ylabel("relative Frobenius difference", fontsize=9)
    right.set(xscale="log")
    right.set_xticks(widths, [str(w) for w in widths], fontsize=9)
    right.minorticks_off()
    right.tick_params(labelsize=9)
    right.set_xlabel("width", fontsize=9)
    right.set_ylabel("kernel regression, test images right, %", fontsize=9)
    right.legend(fontsize=8, frameon=False)
    return _common.save(figure, out, "pntk")


if __name__ == "__main__":
    main()
