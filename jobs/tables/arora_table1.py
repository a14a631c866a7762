"""Table 1 of Arora et al. 2019 with 2,000 training images: CIFAR-10 accuracy of CNTK regression.

    python jobs/tables/arora_table1.py --kernels cntk-v
    python jobs/tables/arora_table1.py --kernels cntk-gap cntk-v --depths 11 -n 500 --test 500

Kernel regression without a ridge on zero-centred one-hot labels; pixels standardised by the
statistics of the whole training split, entries in float32, solved in float64. ``cntk-v`` trains
every layer, ``cntk-gap`` all but the first and the last, as published. Training images are balanced
draws, one a seed, so that ours are others than theirs; theirs were tested on 10,000 images, and how
hard the 2,000 of a file are moves all accuracies together. With --rest the images of the training
split that the first seed leaves out are predicted too.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import _common
import numpy as np

from ntkdist.kernels import kernel_matrix
from ntkdist.learning import KernelRegression, accuracy

DEPTHS = (3, 4, 6, 11, 21)
PUBLISHED = {
    "cntk-v": dict(zip(DEPTHS, (40.94, 42.54, 43.43, 43.42, 42.53), strict=True)),
    "cntk-gap": dict(zip(DEPTHS, (49.71, 51.06, 51.73, 51.92, 52.22), strict=True)),
}
PUBLISHED_WITH = 2000  # training images


def main() -> None:
    """Measure, print, write arora_table1.json and its plot."""
    options = _common.parser(__doc__ or "", sets=("cifar10",), n=2000, seeds=1)
    options.add_argument("--kernels", nargs="+", default=["cntk-v"], choices=list(PUBLISHED))
    options.add_argument("--depths", nargs="+", type=int, default=list(DEPTHS))
    options.add_argument("--test", type=int, default=2000, help="test images")
    options.add_argument("--rest", action="store_true", help="predict what seed 0 leaves out too")
    options.add_argument("--name", default="arora_table1", help="of the files written")
    given = options.parse_args()
    rows: list[dict[str, Any]] = []
    for name in given.sets:
        for seed in range(given.seeds):
            train = _common.read(name, given.data, given.n, seed=seed)
            test = _common.read(name, given.data, given.test, split="test")
            rest = _rest(name, given, train) if given.rest and seed == 0 else None
            for kernel in given.kernels:
                for depth in given.depths:
                    rows.append(_row(name, seed, kernel, depth, train, test, rest, given.cache))
                    print(
                        {k: rows[-1][k] for k in ("kernel", "depth", "accuracy", "rest")},
                        flush=True,
                    )
    _print(rows)
    more = {"n": given.n, "test": given.test, "published": PUBLISHED}
    print(_common.write(given.name, given.out, rows, more))
    print(_common.save(_draw(rows, given), given.out, given.name))


def _row(
    name: str,
    seed: int,
    kernel: str,
    depth: int,
    train: _common.Images,
    test: _common.Images,
    rest: _common.Images | None,
    cache: str | None,
) -> dict[str, Any]:
    architecture = f"{kernel}-{depth}"
    gram, seconds = _common.gram(architecture, train.images, cache)
    start = time.perf_counter()
    cross = kernel_matrix(architecture, test.images, train.images)
    seconds += time.perf_counter() - start
    model = KernelRegression.fit(gram, train.labels, train.num_classes)
    on_rest = None
    if rest is not None:
        others = kernel_matrix(architecture, rest.images, train.images)
        on_rest = 100 * accuracy(model.predict(others), rest.labels)
    return {
        "set": name,
        "seed": seed,
        "kernel": kernel,
        "depth": depth,
        "n": len(train.labels),
        "test": len(test.labels),
        "accuracy": 100 * accuracy(model.predict(cross), test.labels),
        "rest": on_rest,
        "published": PUBLISHED[kernel].get(depth) if len(train.labels) == PUBLISHED_WITH else None,
        "entries": len(gram) * (len(gram) + 1) // 2 + cross.size,
        "seconds": seconds,
    }


def _rest(name: str, given: Any, train: _common.Images) -> _common.Images:
    """Return the images of the training split that are not among those trained on."""
    whole = _common.read(name, given.data, None)
    used = {image.tobytes() for image in train.images}
    left = [i for i, image in enumerate(whole.images) if image.tobytes() not in used]
    return dataclasses.replace(
        whole, images=whole.images[left], raw=whole.raw[left], labels=whole.labels[left]
    )


def _print(rows: list[dict[str, Any]]) -> None:
    table = []
    for kernel, depth in dict.fromkeys((row["kernel"], row["depth"]) for row in rows):
        mine = [row for row in rows if (row["kernel"], row["depth"]) == (kernel, depth)]
        accuracies = [row["accuracy"] for row in mine]
        published, rest = mine[0]["published"], mine[0]["rest"]
        table.append(
            [
                f"{kernel}-{depth}",
                f"{np.mean(accuracies):.2f}",
                f"{min(accuracies):.2f} to {max(accuracies):.2f}",
                published,
                None if published is None else f"{np.mean(accuracies) - published:+.2f}",
                None if rest is None else f"{rest:.2f}",
                f"{min(1e6 * row['seconds'] / row['entries'] for row in mine):.1f}",
            ]
        )
    columns = ["kernel", "accuracy %", "range", "published", "difference", "on the rest"]
    first = rows[0]
    seeds = len({row["seed"] for row in rows})
    title = f"{first['n']} training, {first['test']} test images, means of {seeds} draws"
    _common.show(title, [*columns, "µs an entry"], table)


def _draw(rows: list[dict[str, Any]], given: Any) -> Any:
    figure = _common.figure(5.2, 3.4)
    ax = figure.subplots()
    for place, kernel in enumerate(given.kernels):
        depths = [d for d in given.depths if any(r["depth"] == d for r in rows)]
        means = [
            np.mean([r["accuracy"] for r in rows if (r["kernel"], r["depth"]) == (kernel, d)])
            for d in depths
        ]
        ax.plot(depths, means, "o-", color=f"C{place}", label=f"{kernel}, here")
        if given.n == PUBLISHED_WITH:
            theirs = [PUBLISHED[kernel].get(d) for d in depths]
            ax.plot(depths, theirs, "s--", color=f"C{place}", mfc="none", label=f"{kernel}, 2019")
    ax.set(xlabel="depth", ylabel="test accuracy in %")
    ax.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
