"""How networks of finite width near the infinite one: kernels, and training.

    python jobs/tables/width.py

Networks of widths 32 to 2,048 are drawn for MNIST images, averaged to 14 × 14. Their empirical
kernel is held against the infinite one: the pNTK, whose mean is the infinite kernel, by its
relative Frobenius distance, the root of the mean square over seeds (a single draw is off by a third
and more, so that an exponent from one seed means nothing). Of the first seeds the network is also
trained by full-batch gradient descent on squares, beside its linearisation, whose descent by the
full empirical kernel is in closed form; the distance is that of their outputs on test images, the
largest over 1, 2, 4, 8 and 16 steps. Half of 1/λ of the infinite kernel is the learning rate of
all.

Lee et al. 2019 prove width^−1/2 for both as a bound. The distance of a network from its own
linearisation falls faster here, up to width^−1, as Dyer and Gur-Ari 2020 argue.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import _common
import numpy as np

from ntkdist.analyses.widths import Gap, plot_gaps
from ntkdist.learning.widths import WIDTHS, WidthRow, WidthSweep, sweep_widths

MEASURES = {
    "kernel_gap": "pNTK from the infinite kernel",
    "trace_gap": "mean over outputs from the infinite kernel",
    "difference": "full kernel from pNTK ⊗ I",
    "linear_gap": "network from its linearisation, RMS",
    "linear_maximum": "network from its linearisation, largest",
}
DRAWN = ("kernel_gap", "difference", "linear_gap")


def main() -> None:
    """Measure, print, write width.json and width.svg."""
    options = _common.parser(__doc__ or "", sets=("mnist",), n=16, seeds=16)
    options.add_argument("--architectures", nargs="+", default=["fc-2", "cnn-3"])
    options.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    options.add_argument("--trained", type=int, default=2, help="seeds that are trained")
    options.add_argument("--pool", type=int, default=2, help="pixels averaged to one, each way")
    given = options.parse_args()
    rows: list[dict[str, Any]] = []
    laws: dict[str, Any] = {}
    sweeps: dict[str, WidthSweep] = {}
    for name in given.sets:
        train = _common.read(name, given.data, given.n)
        test = _common.read(name, given.data, given.n, split="test")
        x, held = (_pooled(data.images, given.pool) for data in (train, test))
        for architecture in given.architectures:
            start = last = time.perf_counter()

            def tell(row: WidthRow, name: str = name, architecture: str = architecture) -> None:
                nonlocal last
                now = time.perf_counter()
                rows.append(
                    {
                        "set": name,
                        "architecture": architecture,
                        **asdict(row),
                        "seconds": now - last,
                    }
                )
                last = now
                print(f"{architecture} {row.width} seed {row.seed}", file=sys.stderr)

            sweep = sweep_widths(
                architecture, x, train.labels, train.num_classes, (held, test.labels),
                widths=given.widths, seeds=given.seeds, trained=given.trained, on_row=tell,
            )  # fmt: skip
            key = f"{_common.NAMES[name]}, {architecture}"
            sweeps[key] = sweep
            laws[key] = {m: asdict(sweep.law(m)) for m in MEASURES}
            laws[key]["learning_rate"] = sweep.learning_rate
            laws[key]["seconds"] = time.perf_counter() - start
            _print(key, sweep)
    shape = list(x.shape[1:])
    more = {"n": given.n, "trained": given.trained, "image_shape": shape, "laws": laws}
    print(_common.write("width", given.out, rows, more))
    print(_draw(sweeps, given.out))


def _pooled(images: np.ndarray, size: int) -> np.ndarray:
    """Return images averaged over squares of ``size`` pixels; a ragged rest is cut."""
    n, H, W, C = images.shape
    h, w = H // size, W // size
    cut = images[:, : h * size, : w * size].reshape(n, h, size, w, size, C)
    return np.ascontiguousarray(cut.mean(axis=(2, 4)))


def _print(title: str, sweep: WidthSweep) -> None:
    columns = [sweep.by_width(measure) for measure in MEASURES]
    table: list[list[Any]] = [
        [int(width), *(f"{value:.4f}" for value in values)]
        for width, *values in zip(sweep.widths, *columns, strict=True)
    ]
    fits = [sweep.law(measure) for measure in MEASURES]
    table.append(["exponent", *(f"{law.exponent:.3f} ± {law.error:.3f}" for law in fits)])
    _common.show(title, ["width", *MEASURES.values()], table)


def _draw(sweeps: dict[str, WidthSweep], out: Path) -> Path:
    figure = _common.figure(5.4 * len(sweeps), 4.4)
    for axes, (title, sweep) in zip(
        figure.subplots(1, len(sweeps), squeeze=False).flat, sweeps.items(), strict=True
    ):
        gaps = []
        for measure in DRAWN:
            law = sweep.law(measure)
            values = sweep.by_width(measure)
            gaps.append(Gap(MEASURES[measure], values, law.at(sweep.widths), law.exponent))
        plot_gaps(axes, sweep.widths, gaps, 9)
        axes.set_title(title, fontsize=9)
    return _common.save(figure, out, "width")


if __name__ == "__main__":
    main()
