"""Look-ahead active learning (Mohamadi, Bae and Sutherland 2022): which labels to ask for.

    python jobs/tables/lookahead.py

From a hundred labelled images of MNIST, twenty are asked for at a time, out of a pool of 2,000
training images (drawn anew for each seed), by the change that they are expected to make (MLMOC,
EMOC), by the error that they are expected to leave (EER), by the margin of the two largest outputs,
or at random. Two models: a network of finite width, trained anew on the labelled images before
each query, with accuracy measured on that network, whichever kernel looks ahead (its own, where
training ended, or that of infinite width); and kernel regression at infinite width. Criteria of one
model and seed share pool, first images and initial weights. No setting was chosen by looking at
test images.
"""

from __future__ import annotations

import time
from typing import Any

import _common
import numpy as np

from ntkdist.kernels import kernel_matrix
from ntkdist.learning.active import KernelLearner, NetworkLearner, active_learning

# (model, the kernel that looks ahead) -> criteria; those without a kernel are the same for both
PLAN = {
    ("network", "empirical"): ("mlmoc", "emoc", "eer"),
    ("network", "infinite"): ("mlmoc", "emoc"),
    ("network", None): ("margin", "random"),
    ("regression", "infinite"): ("mlmoc", "emoc", "eer"),
    ("regression", None): ("margin", "random"),
}
COLORS = {"mlmoc": "tab:red", "emoc": "tab:orange", "eer": "tab:blue", "margin": "tab:green"}


def main() -> None:
    """Measure, print, write lookahead.json and lookahead.svg."""
    options = _common.parser(__doc__ or "", sets=("mnist",), n=2000, seeds=3)
    options.add_argument("--architecture", default="fc-2")
    options.add_argument("--width", type=int, default=256)
    options.add_argument("--kind", default="trace", help="of the empirical kernel")
    options.add_argument("--start", type=int, default=100, help="images labelled at first")
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--count", type=int, default=20, help="images of a query")
    options.add_argument("--picks", default="greedy")
    options.add_argument("--test", type=int, default=2000, help="test images")
    given = options.parse_args()
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for name in given.sets:
        for seed in range(given.seeds):
            rows += _measure(name, seed, given)
    settings = {k: v for k, v in vars(given).items() if k not in ("data", "cache", "out")}
    seconds = time.perf_counter() - began
    print(f"{seconds:.0f} s")
    summary = [_summary(rows, name, *key) for name in given.sets for key in _keys(rows)]
    _print(summary, given)
    more = {"settings": settings, "seconds": seconds, "summary": summary}
    print(_common.write("lookahead", given.out, rows, more))
    print(_common.save(_draw(rows, given), given.out, "lookahead"))


def _measure(name: str, seed: int, given: Any) -> list[dict[str, Any]]:
    """Return one row a criterion, kernel and model, all from one pool and one start."""
    pool = _common.read(name, given.data, given.n, seed=seed)
    test = _common.read(name, given.data, given.test, split="test", seed=seed)
    K = pool.num_classes
    gram, _ = _common.gram(given.architecture, pool.images, given.cache)
    cross = kernel_matrix(given.architecture, test.images, pool.images)
    learners: dict[Any, Any] = {"regression": KernelLearner(gram, cross, K)}
    for kernel, which in (("infinite", gram), ("empirical", given.kind)):
        learners[kernel] = NetworkLearner(
            given.architecture, pool.images, test.images, K,
            kernel=which, width=given.width, seed=seed,
        )  # fmt: skip
    rows = []
    for (model, kernel), criteria in PLAN.items():
        learner = learners["regression" if model == "regression" else kernel or "empirical"]
        for criterion in criteria:
            found = active_learning(
                learner, pool.labels, test.labels,
                criterion=criterion, start=given.start, rounds=given.rounds, count=given.count,
                picks=given.picks, seed=seed,
            )  # fmt: skip
            rows.append(
                {
                    "set": name,
                    "model": model,
                    "kernel": kernel,
                    "criterion": criterion,
                    "seed": seed,
                    "counts": found.counts.tolist(),
                    "accuracy": found.accuracy.tolist(),
                    "query_seconds": round(float(found.query_seconds.mean()), 3),
                    "fit_seconds": round(float(found.fit_seconds.mean()), 3),
                }
            )
            print(
                f"{name} seed {seed} {model} {kernel or '-'} {criterion}: "
                f"{100 * found.accuracy[1:].mean():.2f} %, {rows[-1]['query_seconds']} s a query, "
                f"{rows[-1]['fit_seconds']} s a training",
                flush=True,
            )
    return rows


def _keys(rows: list[dict[str, Any]]) -> list[tuple[str, str | None, str]]:
    return list(dict.fromkeys((row["model"], row["kernel"], row["criterion"]) for row in rows))


def _accuracy(
    rows: list[dict[str, Any]], name: str, model: str, kernel: str | None, criterion: str
) -> np.ndarray:
    """Return (seeds, rounds + 1)."""
    key = (name, model, kernel, criterion)
    return np.array(
        [
            row["accuracy"]
            for row in rows
            if (row["set"], row["model"], row["kernel"], row["criterion"]) == key
        ]
    )


def _summary(
    rows: list[dict[str, Any]], name: str, model: str, kernel: str | None, criterion: str
) -> dict[str, Any]:
    found = _accuracy(rows, name, model, kernel, criterion)[:, 1:]
    chance = _accuracy(rows, name, model, None, "random")[:, 1:]
    gains = (found - chance).mean(axis=1)
    counts = rows[0]["counts"][1:]
    met = np.flatnonzero(found.mean(axis=0) >= chance[:, -1].mean())
    return {
        "set": name,
        "model": model,
        "kernel": kernel,
        "criterion": criterion,
        "mean_accuracy": float(found.mean()),
        "last_accuracy": float(found[:, -1].mean()),
        "gain_over_random": float(gains.mean()),
        "gain_of_each_seed": gains.tolist(),
        "rounds_above_random": int((found > chance).sum()),
        "rounds": int(found.size),
        "labels_for_the_last_accuracy_of_random": counts[met[0]] if met.size else None,
    }


def _print(summary: list[dict[str, Any]], given: Any) -> None:
    table = []
    for one in summary:
        gains = ", ".join(f"{100 * gain:+.2f}" for gain in one["gain_of_each_seed"])
        table.append(
            [
                _common.NAMES[one["set"]],
                one["model"],
                one["kernel"],
                one["criterion"],
                f"{100 * one['mean_accuracy']:.2f}",
                f"{100 * one['last_accuracy']:.2f}",
                f"{100 * one['gain_over_random']:+.2f} ({gains})",
                f"{one['rounds_above_random']} of {one['rounds']}",
                one["labels_for_the_last_accuracy_of_random"],
            ]
        )
    columns = ["set", "model", "looks ahead", "criterion", "mean %", "last %"]
    columns += ["over random (each seed)", "rounds above", "labels to random's last"]
    title = f"{given.architecture}, {given.start} labels and {given.rounds} queries of "
    _common.show(f"{title}{given.count}, pool {given.n}, {given.seeds} seeds", columns, table)


def _draw(rows: list[dict[str, Any]], given: Any) -> Any:
    figure = _common.figure(11.0, 4.2 * len(given.sets))
    axes = figure.subplots(len(given.sets), 2, squeeze=False)
    counts = rows[0]["counts"]
    for across, name in zip(axes, given.sets, strict=True):
        for ax, model in zip(across, ("network", "regression"), strict=True):
            for of, kernel, criterion in _keys(rows):
                if of != model:
                    continue
                found = 100 * _accuracy(rows, name, model, kernel, criterion)
                color = COLORS.get(criterion, "black")
                dashed = model == "network" and kernel == "infinite"
                label = f"{criterion}, {kernel} kernel" if kernel else criterion
                style = "--" if dashed else "-"
                ax.plot(counts, found.mean(axis=0), style, color=color, label=label, lw=1.4)
                if not dashed:
                    low, high = found.min(axis=0), found.max(axis=0)
                    ax.fill_between(counts, low, high, color=color, alpha=0.1, lw=0)
            title = {"network": f"{given.architecture}, width {given.width}, trained anew"}
            title["regression"] = f"{given.architecture}, kernel regression at infinite width"
            ax.set_title(f"{_common.NAMES[name]}: {title[model]}", fontsize=9)
            ax.set_xlabel("labelled images", fontsize=9)
            ax.set_ylabel("test accuracy, %", fontsize=9)
            ax.legend(fontsize=7, frameon=False)
    return figure


if __name__ == "__main__":
    main()
