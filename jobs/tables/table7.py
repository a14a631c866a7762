"""Table 7 of DeOliveira et al. 2025: classes and pairs that are hard for a network.

    python jobs/tables/table7.py

The kernel ranks classes by Z_kk and pairs by |Z_kd| (``ntkdist.labels.class_bias``). Finite
networks of the same architecture, trained on the same images, rank classes by their error on test
images and pairs by their confusion. Both are mean probabilities: a good network never confuses most
pairs, so that counts would be tied. Agreement is rank-biased overlap (extrapolated; p = 0.9, which
is not published). Several networks are trained from different weights and their probabilities are
averaged; the agreement of one half of them with the other is an upper bound for any prediction.
"""

from __future__ import annotations

from typing import Any

import _common
import numpy as np

from ntkdist.labels import class_bias, class_matrix, invert, rank_biased_overlap
from ntkdist.learning import train

PUBLISHED = {
    "mnist": (0.962, 0.904),
    "fashion_mnist": (0.963, 0.915),
    "cifar10": (0.734, 0.916),
    "cifar100": (0.557, 0.688),
}
RIDGE = 1e-3
P = 0.9


def main() -> None:
    """Measure, print, write table7.json and table7.svg."""
    sets = ("mnist", "fashion_mnist", "cifar10")
    options = _common.parser(__doc__ or "", sets=sets, n=2000, seeds=4)
    options.add_argument("--architecture", default="cnn-2")
    options.add_argument("--preprocess", default="halve+standardize")
    options.add_argument("--width", type=int, default=64)
    options.add_argument("--epochs", type=int, default=8)
    given = options.parse_args()
    rows = [_one_set(name, given) for name in given.sets]
    _print(rows, given)
    more = {name: getattr(given, name) for name in ("n", "architecture", "preprocess", "width")}
    more |= {"epochs": given.epochs, "ridge": RIDGE, "p": P, "published": PUBLISHED}
    print(_common.write("table7", given.out, rows, more))
    print(_common.save(_draw(rows, given), given.out, "table7"))


def _one_set(name: str, given: Any) -> dict[str, Any]:
    data = _common.read(name, given.data, given.n, preprocess=given.preprocess)
    test = _common.read(name, given.data, None, preprocess=given.preprocess, split="test")
    K = data.num_classes
    gram, _ = _common.gram(given.architecture, data.images, given.cache)
    _, Z = class_matrix(invert(gram, RIDGE), data.labels, K)
    kernel = class_bias(Z, np.bincount(data.labels, minlength=K))
    predicted = (kernel.intra.tolist(), [tuple(pair) for pair in kernel.inter.tolist()])
    confusions, accuracies = [], []
    for seed in range(given.seeds):
        found = train(
            given.architecture,
            data.images,
            data.labels,
            K,
            width=given.width,
            epochs=given.epochs,
            seed=seed,
            test=(test.images, test.labels),
        )
        confusions.append(found.mean_probabilities(test.images, test.labels))
        accuracies.append(found.test_accuracy)
    trained = rankings(np.mean(confusions, axis=0))
    half = len(confusions) // 2
    row: dict[str, Any] = {
        "set": name,
        "n": given.n,
        "kernel_intra": predicted[0],
        "trained_intra": trained[0],
        "kernel_inter": predicted[1],
        "trained_inter": trained[1],
        "intra": rank_biased_overlap(predicted[0], trained[0], P),
        "inter": rank_biased_overlap(predicted[1], trained[1], P),
        "class_names": data.class_names,
        "test_accuracy": float(np.mean(accuracies)),
    }
    if half:
        one, two = (rankings(np.mean(c, axis=0)) for c in (confusions[:half], confusions[half:]))
        row["halves_intra"] = rank_biased_overlap(one[0], two[0], P)
        row["halves_inter"] = rank_biased_overlap(one[1], two[1], P)
    random = np.random.default_rng(0)
    for place, what in enumerate(("intra", "inter")):
        items = trained[place]
        drawn = [[items[i] for i in random.permutation(len(items))] for _ in range(200)]
        row[f"chance_{what}"] = float(np.mean([rank_biased_overlap(d, items, P) for d in drawn]))
    return row


def rankings(confusion: np.ndarray) -> tuple[list[int], list[tuple[int, int]]]:
    """Return classes by their error, and pairs by their confusion both ways, the worst first."""
    error = 1 - np.diagonal(confusion)
    both = confusion + confusion.T
    pairs = np.array(np.triu_indices(len(confusion), 1)).T
    order = np.argsort(-both[pairs[:, 0], pairs[:, 1]], kind="stable")
    return np.argsort(-error, kind="stable").tolist(), [tuple(p) for p in pairs[order].tolist()]


def _print(rows: list[dict[str, Any]], given: Any) -> None:
    table = []
    for row in rows:
        cells: list[Any] = [_common.NAMES[row["set"]]]
        for place, what in enumerate(("intra", "inter")):
            published = PUBLISHED.get(row["set"])
            cells.append(published[place] if published else None)
            keys = (what, f"halves_{what}", f"chance_{what}")
            cells += [f"{row[key]:.3f}" if key in row else None for key in keys]
        table.append([*cells, f"{row['test_accuracy']:.1%}"])
    columns = ["set"]
    for what in ("intra", "inter"):
        columns += [f"{what}: published", "ours", "two trained", "chance"]
    title = (
        f"Table 7, RBO, {given.n} images, {given.architecture} of width {given.width}, "
        f"{given.epochs} epochs, {given.seeds} networks"
    )
    _common.show(title, [*columns, "test accuracy"], table)


def _draw(rows: list[dict[str, Any]], given: Any) -> Any:
    figure = _common.figure(3.6 * len(rows), 3.6)
    axes = figure.subplots(1, len(rows), squeeze=False)[0]
    for ax, row in zip(axes, rows, strict=True):
        for k, name in enumerate(row["class_names"]):
            x, y = row["kernel_intra"].index(k) + 1, row["trained_intra"].index(k) + 1
            ax.plot(x, y, "o", ms=4)
            ax.annotate(name, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=7)
        ax.set_title(f"{_common.NAMES[row['set']]}: RBO {row['intra']:.3f}", fontsize=9)
        ax.set(xlabel="rank by Z, hardest 1", ylabel="rank by test error")
    return figure


if __name__ == "__main__":
    main()
