"""Architectures on one data set, ranked without training any of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage, words
from ntkdist.analyses import Analysis, ReportSection, all_of, read_verdict
from ntkdist.config import RunConfig
from ntkdist.display import plots
from ntkdist.display.svg import FONT_SIZE, inline_svg, svg_file
from ntkdist.display.words import counted, number, percent
from ntkdist.errors import InputError, NtkdistError
from ntkdist.networks.architecture import Architecture, preset_of
from ntkdist.pipeline.gram import stored_gram
from ntkdist.pipeline.stages import Pipeline
from ntkdist.runs.inputs import same_data, sees_features
from ntkdist.runs.run import Run
from ntkdist.words import CANNOT_JUDGE, columns

# measure → whether more is better
MEASURES = {"accuracy": True, "log_likelihood": True, "block_error": False, "separation": True}
_MOST_POINTS = 800  # of a panel; more cannot be told apart
_MOST_COLORS = 10  # more cannot be told apart
_MOST_COLUMNS = 4
_MOST_PANELS = 4  # of the report
_EDGE = 2.6  # inches of a panel
_LONGEST_TITLE = 32  # characters that fit over a panel
_LITTLE_NOISE = 0.005  # a share of wrong labels that hardly limits accuracy


@dataclass(frozen=True)
class ArchitectureResult:
    """What the kernel of one architecture says about a data set and its labels.

    Attributes:
        name: The architecture as it was asked for.
        architecture: Its canonical text.
        run: Where its run is kept.
        accuracy: Share of images whose given label is the leave-one-out prediction of kernel
            regression on all others (higher is better).
        log_likelihood: Mean log-probability of a given label under those predictions at the
            likeliest ridge, label noise allowed for (nats; higher is better).
        ridge: That ridge, relative to the mean diagonal.
        noise_rate: Share of wrong labels it suggests.
        block_error: L(Z) of the given labels times the mean of the Gram's diagonal, so that
            it does not depend on the scale of the kernel (lower is better).
        separation: Mean distance between classes over mean distance within, in the four
            leading kernel principal components (higher is better).
        gram_seconds: Seconds of all tiles, added up over workers and over all starts.
        factor_seconds: Seconds from the Gram to the solution, of this start.
        points: (N, 2) the images in the two leading kernel principal components.
        invariance: ``gram.invariance`` of its run.
    """

    name: str
    architecture: str
    run: str
    accuracy: float
    log_likelihood: float
    ridge: float
    noise_rate: float
    block_error: float
    separation: float
    gram_seconds: float
    factor_seconds: float
    points: NDArray[np.float64] = field(repr=False, compare=False)
    invariance: str = "none"

    @property
    def title(self) -> str:
        """The name, and whether the kernel is averaged."""
        return _title(self.name, self.invariance)


def compare_architectures(
    config: RunConfig,
    architectures: Sequence[str],
    subscribers: Sequence[Callable[[Any], None]] = (),
) -> list[ArchitectureResult]:
    """Compute each architecture's kernel on one data set and rank them.

    Each has a run of its own, RUN-compare/NAME, so that a comparison that is
    stopped, or asked for again with more architectures, computes only what is missing. The
    figures are kept beside the runs in compare.json, a picture in compare.svg. Where the run
    itself has its Gram, its own architecture is compared as well, from that Gram. Kernels that are
    averaged over flips (``gram.invariance``) have runs of their own, NAME-flip, and are ranked with
    the others.

    Args:
        config: The run's settings; ``architecture`` is used only where this run exists already.
        architectures: Presets or canonical texts, each different.
        subscribers: Told every event of every run.

    Returns:
        One entry an architecture, the best leave-one-out accuracy first. Those compared before on
        the same data are among them.

    Raises:
        InputError: For fewer than two, equal or unknown architectures, or bad settings.
    """
    own = _own_settings(config)
    parsed = [Architecture.parse(name) for name in architectures]
    if own is not None and (arch := Architecture.parse(own.architecture)) not in parsed:
        architectures = [preset_of(arch) or own.architecture, *architectures]
        parsed = [arch, *parsed]
    if len(parsed) < 2:
        raise InputError(f"{len(parsed)} architectures; give at least two, joined by commas")
    for place, arch in enumerate(parsed):
        if arch in parsed[:place]:
            first = architectures[parsed.index(arch)]
            raise InputError(f"architecture {architectures[place]!r} is {first!r} again")
    if sees_features(config.data):
        for arch in parsed:
            arch.check_features()  # before any of the others is computed
    results = []
    for name, arch in zip(architectures, parsed, strict=True):
        if own is not None and arch == Architecture.parse(own.architecture):
            one = own
        else:
            run = f"{folder_of(config)}/{_slug(name, arch, config.gram.invariance)}"
            one = dataclasses.replace(config, run=run, architecture=str(arch))
        with Pipeline(one, subscribers) as pipeline:
            pipeline.gram()
            results.append(_judge(name, pipeline))
            latest = pipeline.run
            labels = latest.read("inputs", "labels")
            names = latest.manifest.class_names
    results += _earlier(
        latest, folder_of(config), [(arch, config.gram.invariance) for arch in parsed]
    )
    results.sort(key=lambda one: -one.accuracy)
    _store(folder_of(config), results, labels, names)
    return results


def _earlier(
    run: Run, folder: str, others: Sequence[tuple[Architecture, str]]
) -> Iterator[ArchitectureResult]:
    """Yield what compare.json says of further kernels, on the data of ``run``.

    ``others`` are the architectures, with their ``gram.invariance``, that are judged now.
    """
    for row in _read(folder):
        one = _same_data(run, folder, row)
        kernel = Architecture.parse(row["architecture"]), row.get("invariance", "none")
        if one is None or kernel in others:
            continue
        if one.has("compare", "points") and one.shape[0] == run.shape[0]:
            yield ArchitectureResult(**row, points=one.read("compare", "points"))


def _read(folder: str) -> list[dict[str, Any]]:
    """Return the rows of compare.json; none where there is none that can be read."""
    try:
        text = storage.read_text(storage.join(folder, "compare.json"))
        return list(json.loads(text)["architectures"]) if text else []
    except (NtkdistError, OSError, ValueError, KeyError, TypeError):
        return []


def ranks(results: Sequence[ArchitectureResult]) -> dict[str, list[int]]:
    """Return the rank of each entry under each measure, 1 for the best; ties share the best."""
    out = {}
    for measure, more in MEASURES.items():
        values = np.array([getattr(one, measure) for one in results])
        values = -values if more else values
        out[measure] = [int((values < value).sum()) + 1 for value in values]
    return out


def _own_settings(config: RunConfig) -> RunConfig | None:
    """Return the settings of the run itself, if it exists with these data and a whole Gram."""
    try:
        run = Run.open(config.run)
        own = dataclasses.replace(config, architecture=run.config.architecture)
        Run.create(own)  # opens the run, or refuses settings that differ from its own
        store = stored_gram(run, "ntk")
        return None if store is None or store.missing() else own
    except (NtkdistError, FileNotFoundError):
        return None


def _judge(name: str, pipeline: Pipeline) -> ArchitectureResult:
    from ntkdist.labels import (
        FactorInverse,
        block_error,
        centered_leave_one_out,
        class_matrix,
        one_hot,
    )
    from ntkdist.labels.kpca import class_separation

    run = pipeline.run
    labels, K = run.read("inputs", "labels"), run.num_classes
    store = pipeline.gram_store()
    start = time.perf_counter()
    choice = pipeline.choice()
    factor = pipeline.factor("diagonal")
    inverse = FactorInverse(factor, on_event=pipeline.forward)
    diagonal = inverse.diagonal()
    G, Z = class_matrix(inverse, labels, K)
    seconds = time.perf_counter() - start
    predicted = centered_leave_one_out(G, diagonal, one_hot(labels, K)).argmax(axis=1)
    likeliest = max(choice["tried"], key=lambda row: row[2])
    if factor.ridge:
        scale = factor.ridge_absolute / factor.ridge
    else:
        scale = float(np.mean(store.diagonal()))
    with pipeline.scheduler() as where:
        limit = pipeline.config.factor.memory_limit
        separation = class_separation(store, labels, K, memory_limit=limit, scheduler=where)
    points = separation.projection[:, :2]
    run.write("compare/points", points)
    return ArchitectureResult(
        name=name,
        architecture=str(run.architecture),
        run=run.url,
        accuracy=float((predicted == labels).mean()),
        log_likelihood=float(likeliest[2]),
        ridge=float(likeliest[0]),
        noise_rate=float(likeliest[1]),
        block_error=scale * block_error(Z, np.bincount(labels, minlength=K)),
        separation=float(separation.ratio_mean),
        gram_seconds=_tile_seconds(run.url),
        factor_seconds=seconds,
        points=points,
        invariance=run.config.gram.invariance,
    )


def _tile_seconds(url: str) -> float:
    from ntkdist.events.log import read_events

    done = [event for event in read_events(url) if event["event"] == "TileDone"]
    return float(sum(event["seconds"] for event in done))


def _slug(name: str, arch: Architecture, invariance: str) -> str:
    plain = all(c.isalnum() or c in "-_" for c in name)
    slug = name if plain else hashlib.sha256(str(arch).encode()).hexdigest()[:12]
    return slug if invariance == "none" else f"{slug}-{invariance}"


def _title(name: str, invariance: str) -> str:
    return name if invariance == "none" else f"{name} ({invariance})"


def _titled(row: dict[str, Any]) -> str:
    """Return the title of a row of compare.json; rows of earlier versions have no average."""
    return _title(row["name"], row.get("invariance", "none"))


def folder_of(config: RunConfig) -> str:
    """Return where the runs of a comparison are kept."""
    return f"{storage.normal(config.run)}-compare"


def _store(
    folder: str,
    results: Sequence[ArchitectureResult],
    labels: NDArray[np.int64],
    names: Sequence[str],
) -> None:
    """Write compare.json and compare.svg beside the runs."""
    rows = [{k: v for k, v in vars(one).items() if k != "points"} for one in results]
    text = json.dumps({"architectures": rows, "ranks": ranks(results)}, indent=1)
    storage.write_text(storage.join(folder, "compare.json"), text)
    _draw(storage.join(folder, "compare.svg"), results, labels, names)


def describe_comparison(results: Sequence[ArchitectureResult], folder: str) -> str:
    """Return a table of architectures, best leave-one-out accuracy first, with their ranks."""
    rank = ranks(results)
    head = ("architecture", "accuracy", "log-lik.", "L(Z)", "separation", "noise", "Gram", "solve")
    rows = [
        (
            one.title,
            f"{words.percent(one.accuracy, 2)} ({rank['accuracy'][i]})",
            f"{one.log_likelihood:.3f} ({rank['log_likelihood'][i]})",
            f"{one.block_error:.4g} ({rank['block_error'][i]})",
            f"{one.separation:.3f} ({rank['separation'][i]})",
            words.percent(one.noise_rate),
            f"{one.gram_seconds:.1f} s",
            f"{one.factor_seconds:.1f} s",
        )
        for i, one in enumerate(results)
    ]
    lines = columns([head, *rows])
    lines.append(
        "leave-one-out accuracy and log-likelihood of the given labels: higher is better; L(Z) "
        "times the mean diagonal: lower; separation of classes by kernel PCA: higher; rank in "
        f"brackets; all in {folder}/compare.json, a picture of the classes in compare.svg"
    )
    noise = max(results, key=lambda one: one.log_likelihood).noise_rate
    if noise >= _LITTLE_NOISE:
        lines.append(
            f"{words.percent(noise)} of the given labels are estimated wrong, which limits "
            f"accuracy to about {words.percent(1 - noise)}"
        )
    return "\n".join(lines)


def _shorten(title: str) -> str:
    """Return a name that fits over a panel; of a long canonical text, its beginning."""
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 2]} …"


def _draw(
    address: str,
    results: Sequence[ArchitectureResult],
    labels: NDArray[np.int64],
    names: Sequence[str],
) -> None:
    """Write a scatter plot for each architecture, all of the same sample of images.

    Each panel has its own scale: only ratios of distances can be compared between kernels.
    """
    import matplotlib

    across = min(len(results), _MOST_COLUMNS)
    down = -(-len(results) // across)
    shown = np.random.default_rng(0).permutation(np.flatnonzero(labels < _MOST_COLORS))
    shown = shown[:_MOST_POINTS]
    classes = min(len(names), _MOST_COLORS)
    with svg_file(address, _EDGE * across, (_EDGE + 0.35) * down + 0.5) as figure:
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(results) :]:
            axes.set_axis_off()
        colors = matplotlib.colormaps["tab10"]
        for axes, one in zip(grid.flat, results, strict=False):
            for kind in range(classes):
                x, y = one.points[shown[labels[shown] == kind]].T
                axes.scatter(x, y, s=6, color=colors(kind), linewidths=0, label=names[kind])
            measures = f"{words.percent(one.accuracy)} right, {one.separation:.2f} apart"
            axes.set_title(f"{_shorten(one.title)}\n{measures}", fontsize=FONT_SIZE - 3)
            axes.set(xticks=[], yticks=[])
        figure.supxlabel("first kernel principal component", fontsize=FONT_SIZE - 3)
        figure.supylabel("second", fontsize=FONT_SIZE - 3)
        figure.legend(
            *grid[0, 0].get_legend_handles_labels(),
            loc="outside upper center", ncols=min(5, classes), fontsize=FONT_SIZE - 4,
            markerscale=2, frameon=False,
        )  # fmt: skip


def _sections(run: Run) -> list[ReportSection]:
    """Read the comparison on this run's data, which is stored beside the run."""
    folder = f"{run.url}-compare"
    rows = _read(folder)
    mine = [(row, one) for row in rows if (one := _same_data(run, folder, row)) is not None]
    if len(mine) < 2:
        return []
    most = max(row["accuracy"] for row, _ in mine)
    tied = [_titled(row) for row, _ in mine if row["accuracy"] == most]
    suits = "suits the data best: its kernel" if len(tied) == 1 else "suit the data best: each"
    sentences = [
        f"Of {counted(len(mine), 'architecture')}, {all_of(tied)} {suits} predicts the given label "
        f"of {percent(most)} of the images from all others.",
        *_ceiling(run, [row for row, _ in mine]),
        "Separation is the mean distance between classes over the mean distance within.",
    ]
    head = ("Architecture", "Accuracy", "Log-likelihood", "L(Z), scaled", "Separation")
    table = tuple(
        (
            _titled(row) + (" (this run)" if other is run else ""),
            percent(row["accuracy"]),
            number(row["log_likelihood"], 4),
            number(row["block_error"], 4),
            number(row["separation"], 3),
        )
        for row, other in mine
    )
    figures = tuple(_layouts(run, mine))
    title = "Other architectures"
    return [ReportSection("compare", title, tuple(sentences), (), figures, head, table)]


def _ceiling(run: Run, rows: list[dict[str, Any]]) -> list[str]:
    """Say how far accuracy on wrong labels can go, by the noise known or estimated."""
    noise, which = run.config.noise.rate, "were made wrong"
    if not noise:
        if read_verdict(run) == CANNOT_JUDGE:
            return []
        likeliest = max(rows, key=lambda row: row["log_likelihood"])
        noise, which = likeliest.get("noise_rate", 0.0), "are wrong by estimate"
    if noise < _LITTLE_NOISE:
        return []
    return [
        f"{percent(noise)} of these labels {which}, which limits accuracy to about "
        f"{percent(1 - noise)}."
    ]


def _same_data(run: Run, folder: str, row: dict[str, Any]) -> Run | None:
    """Return the run of a row if it exists and is of the same images and labels."""
    try:
        name = PurePath(row["run"]).name
        own = name == PurePath(run.url).name and row.get("architecture") == str(run.architecture)
        if own:
            return run
        compared = folder.removesuffix("-compare")  # the run itself, which may be among the rows
        itself = name == PurePath(compared).name
        other = Run.open(compared if itself else storage.join(folder, name))
    except (NtkdistError, KeyError):
        return None
    data = asdict(run.config.data)
    same = same_data(data, asdict(other.config.data)) == data
    return other if same and other.config.noise == run.config.noise else None


def _layouts(run: Run, mine: list[tuple[dict[str, Any], Run]]) -> list[tuple[str, str]]:
    labels = run.read("inputs", "labels")
    colored = np.argsort(-np.bincount(labels, minlength=run.num_classes), kind="stable")
    figures = []
    for k, (row, one) in enumerate(mine[:_MOST_PANELS]):
        if not one.has("compare", "points"):
            continue
        points = one.read("compare", "points")
        if len(points) != len(labels):
            continue
        shown = np.random.default_rng(0).permutation(len(labels))[:_MOST_POINTS]
        svg = inline_svg(
            f"compare-{k}",
            f"Images in the two leading kernel principal components of {_titled(row)}.",
            plots.components,
            points[shown],
            labels[shown],
            run.manifest.class_names,
            np.zeros(len(shown), dtype=bool),
            sorted(colored[: plots.MOST_COLORS].tolist()),
            (),
        )
        figures.append((svg, f"{_titled(row)}: images in its two leading principal components."))
    return figures


ANALYSIS = Analysis(
    command="compare",
    question="Which architecture suits the data?",
    place=7,
    sections=_sections,
    arguments="--architectures fc-2,cnn-2",
)
