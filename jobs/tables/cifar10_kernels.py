"""Accuracy against cost of convolutional kernels: how pixels are averaged, flips, whitening.

    python jobs/tables/cifar10_kernels.py --list                      # rows, and what each costs
    python jobs/tables/cifar10_kernels.py --only "2000 cntk-v" "2000 cntk-lap-6-4 flip"
    python jobs/tables/cifar10_kernels.py --sets fashion_mnist --depths 6 --n 2000
    python jobs/tables/cifar10_kernels.py --networks cntk-lap-6-3 myrtle-5 --n 2000
    python jobs/tables/cifar10_kernels.py --time                      # once nothing else computes

A row is a data set, a number of training images (a balanced draw), a network, a preprocessing
recipe, and whether the kernel is averaged over horizontal flips. Networks are cntk-v (no pooling),
cntk-lap-D-C (means over windows of 2C + 1 pixels) and, for up to --gap-most training images,
cntk-gap (the mean over all pixels). Preprocessing has the statistics of the whole training split.
Each row is kernel regression on centred one-hot labels. The ridge is chosen by leave-one-out
predictions of the training images; test labels are used for the accuracy alone. Entries are
float32.

Each row is a run in the folder --cache. Its Gram is computed tile by tile, so that an interrupted
row is resumed in the middle. A finished row is added to cifar10_kernels.json at once, and is not
computed again. The cost of a row is the seconds in which its tiles were computed, times the
threads; reading images, whitening and solving are left out. If the machine did other work in that
time, the cost is too high. ``--time`` then times a block of the network of each selected row that
is stored, one network after the other in turns, and stores the median as the cost of the row.

Published for CIFAR-10: Arora et al. 2019 (Table 1) with 2,000 training images and no ridge, drawn
as lines in the figure. With all 50,000 images Li et al. 2019 report 89 % (features of random
patches, local average pooling, flips), and Shankar et al. 2020 report 90 % (a compositional kernel,
ZCA, flips); nothing here is comparable with those two.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _common  # puts the benchmarks' folder on the path
import _measure
import numpy as np
from arora_table1 import PUBLISHED, PUBLISHED_WITH

from ntkdist import Architecture, Run
from ntkdist.config import DataConfig, GramConfig, PredictConfig, RunConfig
from ntkdist.data.preprocess import resolve_recipe
from ntkdist.errors import InputError, InterruptedRunError, NtkdistError
from ntkdist.events.log import read_events
from ntkdist.events.progress import GramProgress
from ntkdist.kernels import select_backend
from ntkdist.learning import KernelRegression, accuracy, sweep_ridge
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.cross import held_out

NAME = "cifar10_kernels"
DEPTHS, HALF_WIDTHS = (6, 11), (1, 2, 4, 8)
SIZES = (2000, 10_000)
RECIPES = ("standardize", "contrast+zca")
INVARIANCES = ("none", "flip")
PUBLISHED_RECIPE = "standardize"
MEASURED = 0.5  # seconds that a block is timed for at least, to estimate a row or time it again
TIMED = 64  # images on each side of a block for --time: enough for all threads
TURNS = 5  # timings of each block for --time
LEAST = 16  # images on each side of a block for --list: a full vector


@dataclass(frozen=True)
class Row:
    """What identifies a row of the table.

    Attributes:
        set: Data set.
        n: Training images.
        test: Test images.
        seed: Seed of the balanced draws.
        architecture: Name of the network, or canonical text of one without a name.
        recipe: Preprocessing.
        invariance: ``none`` or ``flip``.
    """

    set: str
    n: int
    test: int
    seed: int
    architecture: str
    recipe: str
    invariance: str

    @classmethod
    def of(cls, values: dict[str, Any]) -> Row:
        """Return the row that stored values belong to."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})

    def __str__(self) -> str:
        flips = [] if self.invariance == "none" else [self.invariance]
        return " ".join([self.set, str(self.n), self.architecture, self.recipe, *flips])

    @property
    def words(self) -> set[str]:
        """The words by which ``--only`` finds the row."""
        kind, depth = _family(self.architecture)
        family = {kind, f"{kind}-{depth}"} if depth else {kind}
        return {self.set, str(self.n), self.architecture, self.recipe, self.invariance} | family

    @property
    def entries(self) -> int:
        """Kernel entries: of pairs of training images, and of test with training images."""
        return self.n * (self.n + 1) // 2 + self.test * self.n

    @property
    def published(self) -> float | None:
        """The accuracy of Arora et al. in percent; None if they have no such row."""
        alike = (self.set, self.n, self.recipe, self.invariance)
        if alike != ("cifar10", PUBLISHED_WITH, PUBLISHED_RECIPE, "none"):
            return None
        kind, depth = _family(self.architecture)
        return PUBLISHED.get(kind, {}).get(depth or 0)

    def config(self, given: argparse.Namespace) -> RunConfig:
        """Return the configuration of the run that computes the row."""
        folder = re.sub(r"[^\w.=+-]+", "-", f"{self} {self.test} test seed {self.seed}")
        return RunConfig(
            run=str(given.cache / folder),
            architecture=self.architecture,
            data=DataConfig(
                source=_common.source_of(self.set, given.data),
                n=self.n,
                subset="balanced",
                seed=self.seed,
                preprocess=self.recipe,
            ),
            gram=GramConfig(
                executor="inline",
                backend=given.backend,
                tile=given.tile,
                invariance=self.invariance,
            ),
            predict=PredictConfig(on="test", n=self.test, seed=self.seed),
        )


def _family(architecture: str) -> tuple[str, int | None]:
    """Return ``cntk-lap`` and 6 for ``cntk-lap-6-4``; the text itself and None for others."""
    match = re.fullmatch(r"(cntk-v|cntk-gap|cntk-lap)-(\d+)(-\d+)?", architecture)
    return (match[1], int(match[2])) if match else (architecture, None)


def _name(network: str) -> str:
    """Return the name of a preset as it is given, and a list of layers as canonical text."""
    canonical = str(Architecture.parse(network))
    return network if re.fullmatch(r"[\w-]+", network) else canonical


def rows_of(given: argparse.Namespace) -> list[Row]:
    """Return the rows that the options select, in the order of the options.

    Raises:
        InputError: A network or recipe is unknown, or ``--only`` matches no row.
    """
    depths = given.depths
    networks = given.networks or [
        *(f"cntk-v-{depth}" for depth in depths),
        *(f"cntk-lap-{depth}-{c}" for c, depth in itertools.product(given.half_widths, depths)),
        *(f"cntk-gap-{depth}" for depth in depths),
    ]
    named = [_name(network) for network in networks]
    recipes = [resolve_recipe(recipe, features=False) for recipe in given.recipes]
    rows = [
        Row(name, n, given.test, given.seed, network, recipe, invariance)
        for name, n, network, recipe, invariance in itertools.product(
            given.sets, given.n, named, recipes, given.invariances
        )
        if given.networks or not network.startswith("cntk-gap") or n <= given.gap_most
    ]
    if not given.only:
        return rows
    wanted = [set(text.split()) for text in given.only]
    for words in wanted:
        if not any(words <= row.words for row in rows):
            raise InputError(
                f"--only {' '.join(sorted(words))!r} matches none of the {len(rows)} rows; --list "
                "without --only prints them (the words none, cntk-lap and cntk-lap-6 match, too)"
            )
    return [row for row in rows if any(words <= row.words for words in wanted)]


def compute(row: Row, given: argparse.Namespace) -> dict[str, Any]:
    """Compute the tiles of a row that are not stored yet, and return the row's values.

    Raises:
        NtkdistError: Bad data or settings, tiles that failed, or a signal that stopped the run.
    """
    config = row.config(given)
    with GramProgress() as bar, Pipeline(config, [bar]) as pipeline:
        pipeline.gram()
        held = held_out(pipeline)
        gram, cross, run = pipeline.gram_store(), held.cross(), pipeline.run
    labels, K = held.train_labels, run.num_classes
    print(f"{row}: choosing the ridge", file=sys.stderr, flush=True)
    H = np.asarray(gram[:, :])
    sweep = sweep_ridge(H, labels, K, max_images=row.n)

    def judged(ridge: float) -> float:
        model = KernelRegression.fit(H, labels, K, ridge=ridge)
        return 100 * accuracy(model.predict(cross), held.labels)

    try:
        without = judged(0.0)
    except InputError:  # singular
        without = None
    core_seconds = core_seconds_of(run)
    return {
        **vars(row),
        "accuracy": judged(sweep.best.ridge),
        "ridge": sweep.best.ridge,
        "leave_one_out": 100 * sweep.best.accuracy,
        "without_ridge": without,
        "published": row.published,
        "entries": row.entries,
        "core_us_per_entry": 1e6 * core_seconds / row.entries,
        "core_hours": core_seconds / 3600,
        "image_shape": list(run.array("inputs", "images").shape[1:]),
        "timed_alone": False,
        "arithmetic": run.manifest.arithmetic,
        "machine": _measure.machine(),
    }


def core_seconds_of(run: Run, stages: Sequence[str] = ("gram", "cross")) -> float:
    """Return the seconds in which the tiles of stages were computed, times the threads."""
    threads, total, stage = 1, 0.0, ""
    for event in read_events(run.url):
        if event["event"] == "StageStarted":
            stage = event["stage"]
        elif event["event"] == "WorkerStarted":
            threads = int(event["threads"])
        elif event["event"] == "TileDone" and stage in stages:
            total += threads * float(event["computing"] or event["seconds"])
    return total


def stored_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; none if it does not exist.

    Raises:
        InputError: The file holds something else.
    """
    try:
        rows = list(json.loads(path.read_text())["rows"])
        for values in rows:
            Row.of(values)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} holds no rows of this table; name another --out") from None
    return rows


def add(path: Path, values: dict[str, Any]) -> None:
    """Add a finished row to the file, under a lock; other processes may add rows too."""
    with _common.alone(path.parent):
        rows = [other for other in stored_rows(path) if Row.of(other) != Row.of(values)]
        rows.append(values)
        rows.sort(key=lambda one: (one["set"], one["n"], one["core_hours"]))
        _common.write(path.stem, path.parent, rows, {"published": PUBLISHED})


def estimate(row: Row, image_shape: tuple[int, int, int], backend_name: str) -> float:
    """Return about how many core-hours a row takes, from a small block of random images."""
    arch, threads = Architecture.parse(row.architecture), len(os.sched_getaffinity(0))
    backend = select_backend(
        arch, image_shape, name=backend_name, threads=threads, invariance=row.invariance
    ).backend

    def seconds_of(count: int) -> float:
        states = [
            backend.prepare(arch, _measure.images(count, image_shape, seed)) for seed in (0, 1)
        ]
        return _measure.timed(lambda: backend.block(*states))[0]

    seconds_of(1)  # compiles
    count = LEAST
    while (seconds := seconds_of(count)) < MEASURED:
        count *= 2
    return threads * row.entries * seconds / count**2 / 3600


def time_again(path: Path, rows: Sequence[Row], backend_name: str) -> None:
    """Time blocks of the stored rows' networks in turns; store the new costs and the machine."""
    mine = [values for values in stored_rows(path) if Row.of(values) in rows]
    threads = len(os.sched_getaffinity(0))
    blocks = {}
    for values in mine:
        shape = tuple(values["image_shape"])
        network = (shape, values["architecture"], values["invariance"])
        if network in blocks:
            continue
        arch = Architecture.parse(values["architecture"])
        chosen = select_backend(
            arch, shape, name=backend_name, threads=threads, invariance=values["invariance"]
        )
        states = [
            chosen.backend.prepare(arch, _measure.images(TIMED, shape, seed)) for seed in (0, 1)
        ]
        compute_block = functools.partial(chosen.backend.block, *states)
        blocks[network] = _measure.Block(compute_block, TIMED, TIMED).lasting(MEASURED)
    clocks = {str(network): block.us for network, block in blocks.items()}
    times = _measure.in_turns(clocks, TURNS)
    for values in mine:
        network = (tuple(values["image_shape"]), values["architecture"], values["invariance"])
        us = threads * statistics.median(times[str(network)])
        hours = us * values["entries"] / 3.6e9
        cost = {"core_us_per_entry": us, "core_hours": hours, "timed_alone": True}
        add(path, values | cost | {"machine": _measure.machine()})


def print_list(rows: Sequence[Row], stored: set[Row], given: argparse.Namespace) -> None:
    """Print the rows, and for each whether it is stored or about what it costs."""
    shapes: dict[str, tuple[int, int, int]] = {}
    costs: dict[tuple[Any, ...], float] = {}
    table = []
    for row in rows:
        if row in stored:
            table.append([str(row), "stored", None])
            continue
        if row.set not in shapes:
            shapes[row.set] = _common.load(_common.source_of(row.set, given.data)).image_shape
        network = (row.set, row.architecture, row.invariance)
        if network not in costs:
            costs[network] = estimate(row, shapes[row.set], given.backend) / row.entries
        hours = costs[network] * row.entries
        wall = hours / len(os.sched_getaffinity(0))
        table.append([str(row), f"{hours:.3g}", f"{wall:.3g}"])
    _common.show(f"{len(rows)} rows", ["row", "core-hours", "hours here"], table)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    table = [
        [
            str(Row.of(one)),
            f"{one['accuracy']:.2f}",
            f"{one['leave_one_out']:.2f}",
            f"{one['ridge']:g}",
            None if one["without_ridge"] is None else f"{one['without_ridge']:.2f}",
            one["published"],
            f"{one['core_us_per_entry']:.3g}",
            f"{one['core_hours']:.3g}",
        ]
        for one in rows
    ]
    columns = ["row", "accuracy %", "leave one out", "ridge", "without", "published"]
    _common.show(NAME, [*columns, "core-µs an entry", "core-hours"], table)


def draw(rows: Sequence[dict[str, Any]]) -> Any:
    """Draw accuracy over core-hours: a panel for each data set; stars have most images."""
    from matplotlib.ticker import NullFormatter

    panels = list(dict.fromkeys(one["set"] for one in rows))
    figure = _common.figure(5.0 * len(panels), 4.2)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    recipes = list(dict.fromkeys(one["recipe"] for one in rows))
    handles: dict[str, Any] = {}
    for ax, name in zip(axes, panels, strict=True):
        mine = [one for one in rows if one["set"] == name]
        counts = sorted({one["n"] for one in mine})
        lines: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for one in mine:
            kind, depth = _family(one["architecture"])
            # one line for all window sizes of a depth, from no pooling to all pixels
            line = "cntk" if kind.startswith("cntk") else kind
            key = one["n"], line, depth, one["recipe"], one["invariance"]
            lines.setdefault(key, []).append(one)
        for (n, line, depth, recipe, invariance), points in lines.items():
            points.sort(key=lambda one: one["core_hours"])
            flips = invariance == "flip"
            marker = "*" if n > counts[0] else "s" if flips else "o"
            ax.plot(
                [one["core_hours"] for one in points],
                [one["accuracy"] for one in points],
                "-" if flips else "--",
                marker=marker,
                color=f"C{recipes.index(recipe)}",
                alpha=1.0 if depth in (None, min(DEPTHS)) else 0.5,
                markersize=9 if marker == "*" else 4,
                label=f"{n:,} images, {line}{f', depth {depth}' if depth else ''}, {recipe}"
                + (", flips" if flips else ""),
            )
            for one in points:
                short = _window(one["architecture"])
                where = (one["core_hours"], one["accuracy"])
                ax.annotate(short, where, xytext=(3, -8), textcoords="offset points", fontsize=5)
        if name == "cifar10" and PUBLISHED_WITH in counts:
            _draw_published(ax, [one for one in mine if one["n"] == PUBLISHED_WITH])
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set(xlabel="core-hours", ylabel="test accuracy in %", title=_common.NAMES[name])
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False,
        fontsize=6,
    )  # fmt: skip
    return figure


def _window(architecture: str) -> str:
    """Return the label of a point: its windows, or the network's name."""
    kind, depth = _family(architecture)
    if depth is None:
        return architecture
    rest = architecture.removeprefix(f"{kind}-{depth}").removeprefix("-")
    return f"C = {rest}" if rest else {"cntk-v": "V", "cntk-gap": "GAP"}[kind]


def _draw_published(ax: Any, rows: Sequence[dict[str, Any]]) -> None:
    depths = sorted({depth for one in rows if (depth := _family(one["architecture"])[1])})
    for kind, dashes in (("cntk-gap", "-."), ("cntk-v", ":")):
        values = [PUBLISHED[kind][depth] for depth in depths if depth in PUBLISHED[kind]]
        for value in values:
            ax.axhline(value, color="0.6", linewidth=0.8, linestyle=dashes)
        if values:
            ax.annotate(
                f"{kind} of these depths, Arora et al. 2019",
                (0.99, max(values)),
                xycoords=("axes fraction", "data"),
                xytext=(0, 1),
                textcoords="offset points",
                ha="right",
                fontsize=5,
                color="0.4",
            )


def _edge(text: str) -> int | str:
    return text if text == "auto" else int(text)


def parser() -> argparse.ArgumentParser:
    options = _common.parser((__doc__ or "").splitlines()[0], sets=("cifar10",))
    choose = options.add_argument_group("rows")
    choose.add_argument(
        "-n", "--n", type=int, nargs="+", default=list(SIZES), help="training images"
    )
    choose.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    choose.add_argument("--half-widths", type=int, nargs="+", default=list(HALF_WIDTHS))
    choose.add_argument("--networks", nargs="+", help="networks instead of cntk-* of --depths")
    choose.add_argument("--recipes", nargs="+", default=list(RECIPES))
    choose.add_argument("--invariances", nargs="+", default=list(INVARIANCES), choices=INVARIANCES)
    most = "most training images for cntk-gap"
    choose.add_argument("--gap-most", type=int, default=min(SIZES), help=most)
    words = "compute only rows that have all words of one of these texts: '2000 cntk-lap-6 flip'"
    choose.add_argument("--only", nargs="+", metavar="WORDS", help=words)
    options.add_argument("--list", action="store_true", help="print the rows and their cost")
    again = "time the networks of the stored rows again, and compute nothing else"
    options.add_argument("--time", action="store_true", help=again)
    options.add_argument("--test", type=int, default=2000, help="test images")
    options.add_argument("--seed", type=int, default=0, help="seed of the balanced draws")
    options.add_argument("--backend", default="auto")
    options.add_argument(
        "--tile", type=_edge, default="auto", help="images of a tile's side, or auto"
    )
    where = Path(tempfile.gettempdir()) / f"ntkdist-{NAME}"
    options.set_defaults(cache=where)
    return options


def run(given: argparse.Namespace) -> int:
    """Compute the selected rows that are missing; print the selection, draw all stored rows.

    With ``--list`` rows are only printed; with ``--time`` none is computed.

    Returns:
        Exit code: 1 if a row failed, 130 if a signal stopped it.
    """
    given.cache = Path(given.cache)
    path = given.out / f"{NAME}.json"
    rows = rows_of(given)
    stored = {Row.of(values) for values in stored_rows(path)}
    if given.list:
        print_list(rows, stored, given)
        return 0
    if given.time:
        time_again(path, rows, given.backend)
        rows = [row for row in rows if row in stored]
    code, missing = 0, [row for row in rows if row not in stored]
    print(f"{len(rows) - len(missing)} of {len(rows)} rows are stored in {path}", file=sys.stderr)
    for place, row in enumerate(missing, 1):
        print(f"{row}: row {place} of {len(missing)}", file=sys.stderr, flush=True)
        try:
            values = compute(row, given)
        except InterruptedRunError as error:
            print(f"{row}: {error}; the same command resumes it", file=sys.stderr)
            code = 130
            break
        except NtkdistError as error:
            print(f"{row}: {error}", file=sys.stderr)
            code = 1
            continue
        add(path, values)
        print(f"{row}: {values['accuracy']:.2f} %, {values['core_hours']:.3g} core-hours")
    finished = stored_rows(path)
    if mine := [values for values in finished if Row.of(values) in rows]:
        print_table(mine)
        print(_common.save(draw(finished), given.out, NAME))
    return code


def main() -> None:
    """Compute, print, write."""
    try:
        code = run(parser().parse_args())
    except InputError as error:
        print(f"{NAME}.py: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
