"""Architectures on one data set, ranked before any of them is trained."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.config import RunConfig
from ntkdist.errors import InputError, NtkdistError
from ntkdist.networks.architecture import Architecture, preset_of
from ntkdist.pipeline.stages import Pipeline
from ntkdist.runs.inputs import sees_features
from ntkdist.runs.run import Run


@dataclass(frozen=True)
class Compared:
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
            the scale of a kernel has no part in it (lower is better).
        separation: Mean distance between classes over mean distance within, in the four
            leading kernel principal components (higher is better).
        gram_seconds: Seconds of tiles, added up over workers; those of an earlier start too.
        factor_seconds: Seconds from the Gram to the solution, of this start.
        points: (N, 2) the images in the two leading kernel principal components.
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


# measure -> whether more is better
MEASURES = {"accuracy": True, "log_likelihood": True, "block_error": False, "separation": True}


def compare_architectures(
    config: RunConfig,
    architectures: Sequence[str],
    subscribers: Sequence[Callable[[Any], None]] = (),
) -> list[Compared]:
    """Compute each architecture's kernel on one data set and rank them.

    Each has a run of its own, RUN-compare/NAME, so that a comparison that is
    stopped, or asked for again with more architectures, computes only what is missing. The
    figures are kept beside the runs in compare.json, a picture in compare.svg. Where the run
    itself is there and has its Gram, its own architecture is compared as well, from that Gram.

    Args:
        config: The run's settings; where there is no such run yet, its ``architecture`` has no
            part in this.
        architectures: Presets or canonical texts, each different.
        subscribers: Told every event of every run.

    Returns:
        One entry an architecture, the best leave-one-out accuracy first.

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
    found = []
    for name, arch in zip(architectures, parsed, strict=True):
        if own is not None and arch == Architecture.parse(own.architecture):
            one = own
        else:
            run = f"{folder_of(config)}/{_slug(name, arch)}"
            one = dataclasses.replace(config, run=run, architecture=str(arch))
        with Pipeline(one, subscribers) as pipeline:
            pipeline.gram()
            found.append(_judge(name, pipeline))
            labels = pipeline.run.read("inputs", "labels")
            names = pipeline.run.manifest.class_names
    found.sort(key=lambda one: -one.accuracy)
    _store(folder_of(config), found, labels, names)
    return found


def ranks(found: Sequence[Compared]) -> dict[str, list[int]]:
    """Return the rank of each entry under each measure, 1 for the best; ties share the best."""
    out = {}
    for measure, more in MEASURES.items():
        values = np.array([getattr(one, measure) for one in found])
        values = -values if more else values
        out[measure] = [int((values < value).sum()) + 1 for value in values]
    return out


def _own_settings(config: RunConfig) -> RunConfig | None:
    """Return the settings of the run itself, if it is there with these data and a whole Gram."""
    from ntkdist.gram.store import GramStore

    try:
        there = Run.open(config.run)
        own = dataclasses.replace(config, architecture=there.config.architecture)
        Run.create(own)  # it is there: opened, or refused where other settings are asked for
        store = GramStore.open(there.address("gram", "ntk"), "r", there.fingerprint)
        return None if store.missing() else own
    except (NtkdistError, FileNotFoundError):
        return None


def _judge(name: str, pipeline: Pipeline) -> Compared:
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
    scale = factor.ridge_absolute / factor.ridge if factor.ridge else _mean_diagonal(store)
    with pipeline.scheduler() as where:
        limit = pipeline.config.factor.memory_limit
        separation = class_separation(store, labels, K, memory_limit=limit, scheduler=where)
    points = separation.projection[:, :2]
    run.write("compare/points", points)
    return Compared(
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
    )


def _mean_diagonal(store: Any) -> float:
    n = store.shape[0]
    return float(np.mean([store[i : i + 1, i : i + 1][0, 0] for i in range(n)]))


def _tile_seconds(url: str) -> float:
    from ntkdist.events.log import read_events

    done = [event for event in read_events(url) if event["event"] == "TileDone"]
    return float(sum(event["seconds"] for event in done))


def _slug(name: str, arch: Architecture) -> str:
    plain = all(c.isalnum() or c in "-_" for c in name)
    return name if plain else hashlib.sha256(str(arch).encode()).hexdigest()[:12]


def folder_of(config: RunConfig) -> str:
    """Return where the runs of a comparison are kept."""
    return f"{storage.normal(config.run)}-compare"


def _store(
    folder: str, found: Sequence[Compared], labels: NDArray[np.int64], names: Sequence[str]
) -> None:
    """Write compare.json and compare.svg beside the runs."""
    from ntkdist.analyses.compare_plot import Panel, draw_comparison

    rows = [{k: v for k, v in vars(one).items() if k != "points"} for one in found]
    text = json.dumps({"architectures": rows, "ranks": ranks(found)}, indent=1)
    storage.write_text(storage.join(folder, "compare.json"), text)
    panels = [Panel(one.name, one.accuracy, one.separation, one.points) for one in found]
    with storage.writing(storage.join(folder, "compare.svg")) as path:
        draw_comparison(panels, labels, names, path)
