"""What a run will take, before it is begun: tiles, bytes, memory, time and money.

Nothing is written into the run. Speeds are measured in a minute, in the form in which the run
will have them: real tiles on as many workers at once (``devices``), and the stages after the Gram
on a small run (``stages``); devices that are not here count with rates that the user gives.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ntkdist.config import RunConfig
from ntkdist.data.features import feature_words
from ntkdist.data.whitening import MATRICES
from ntkdist.errors import InputError
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.linalg import parse_memory, plan_panels
from ntkdist.linalg.blas import ITEM
from ntkdist.networks.architecture import Architecture
from ntkdist.planning.devices import (
    TileEdge,
    WorkerGroup,
    busy,
    choose_tile,
    given_group,
    gram_seconds,
    idle_group,
    measure_groups,
    timed,
)
from ntkdist.planning.planned_run import PlannedRun, count_entries
from ntkdist.planning.stages import STAGES, StageCosts, measure_stages, no_stages, stages_of
from ntkdist.words import columns, format_bytes, rough_duration

WORKERS = (1, 2, 4, 8, 16, 32, 64)
_IMAGES = 2048  # of the small run
_IMPORTS = 1.5  # seconds until a command has begun
_STORING = 1.2  # reading the data and storing them, by reading them

NOT_INCLUDED = (
    "compiling on a machine's first run (about half a minute)",
    "retries and lost workers",
    "other commands (predict, dynamics, widths, sweep, label-aware, lookahead)",
)


@dataclass(frozen=True)
class DevicePlan:
    """What the run takes on one class of devices.

    Attributes:
        name: Model of the GPU or processor, or the name that the user gave its rate under.
        source: Where its rate comes from: measured here or on a cluster, or given.
        backend: Its backend; empty where the rate is given.
        workers: Number of workers that the run has there.
        rate: Entries a second of one worker, off the diagonal.
        gram: Seconds of the Gram stage, start of the workers included.
        seconds: Of the whole run.
        hours: Device hours: all workers, from start to end.
        cost: Price times device hours; None where no price is given, and for devices measured
            here where rates of others are given: the price is theirs.
        scaling: Workers → seconds of the Gram stage, if each is as fast as those measured.
    """

    name: str
    source: str
    backend: str
    workers: int
    rate: float
    gram: float
    seconds: float
    hours: float
    cost: float | None
    scaling: dict[int, float]


@dataclass(frozen=True)
class PlanEstimate:
    """What a run will take.

    Attributes:
        run: Its address.
        about: Whether it is there, and why its backend is taken.
        architecture: Canonical text of the network.
        shape: (N, H, W, C) of images, (N, D) of features.
        kinds: Kinds of kernel.
        edge: Rows and columns of a tile.
        tiles: Tiles of the matrix.
        missing: Of them, those to compute.
        entries: To compute, of one kind.
        store_bytes: What will be stored → most bytes.
        worker_bytes: Memory of one worker.
        factor_bytes: Memory of the factor stage.
        stages: Stage → seconds, the Gram on the first of ``devices``.
        devices: The plan for each class of devices; the first is the one that limits are
            checked for: of those whose rate is given the one with the fewest device hours, else
            the run's own.
        not_included: What the times leave out.
        notes: What to know about how it was measured.
        refusal: Why the run may not be begun under the limits given; None where it may.
    """

    run: str
    about: str
    architecture: str
    shape: tuple[int, ...]
    kinds: tuple[str, ...]
    edge: int
    tiles: int
    missing: int
    entries: int
    store_bytes: dict[str, int]
    worker_bytes: int
    factor_bytes: int
    stages: dict[str, float]
    devices: tuple[DevicePlan, ...]
    not_included: tuple[str, ...] = NOT_INCLUDED
    notes: tuple[str, ...] = ()
    refusal: str | None = None

    def check(self) -> None:
        """Raise ``InputError`` where the run takes more than it may."""
        if self.refusal is not None:
            raise InputError(self.refusal)

    @property
    def is_done(self) -> bool:
        """Whether tiles, factor and labels are all stored already."""
        return not self.missing and not any(self.stages.get(name) for name in ("factor", "labels"))

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        return self.devices[0].seconds

    @property
    def cost(self) -> float | None:
        """What the run costs."""
        return self.devices[0].cost


@dataclass(frozen=True)
class Limits:
    """What a run may take.

    Attributes:
        price: Of an hour of one worker, its GPU or its cores; of those whose rates are given
            where there are such.
        budget: Most it may cost.
        max_hours: Most hours it may take.

    Raises:
        InputError: For a number that is none, or a budget without a price.
    """

    price: float | None = None
    budget: float | None = None
    max_hours: float | None = None

    def __post_init__(self) -> None:
        for name in ("price", "budget", "max_hours"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"--{name.replace('_', '-')} {value} must be a number above 0")
        if self.budget is not None and self.price is None:
            raise InputError(
                f"--budget {self.budget:g} needs the price of a device hour: --price 2.5"
            )


def make_plan(
    config: RunConfig,
    limits: Limits | None = None,
    *,
    rates: Mapping[str, float] | None = None,
    workers: Sequence[int] = WORKERS,
    seconds: float = 12.0,
    on_step: Callable[[str], None] = lambda _: None,
) -> PlanEstimate:
    """Measure and estimate what a run will take; writes nothing into it.

    Args:
        config: The run.
        limits: What it may take; where it takes more, the plan says so (``PlanEstimate.check``).
        rates: Class of devices → entries a second of one of them, for devices that are not here.
        workers: How many workers to estimate the Gram for beside the run's own.
        seconds: How long tiles are measured.
        on_step: Told in a line what is measured next, and for how long.

    Raises:
        InputError: For settings or data that do not fit.
        StageError: If workers of a cluster could not measure.
    """
    limits, rates = limits or Limits(), rates or {}
    _check(rates, workers, seconds)
    on_step(f"reading {config.data.source}")
    planned, loading = timed(lambda: PlannedRun.of(config))
    n = planned.n
    cut = plan_panels(n, parse_memory(config.factor.memory_limit))  # refuses what does not fit
    limited = bool(rates) or limits.budget is not None or limits.max_hours is not None
    whole = not limited and planned.is_whole()
    finished = frozenset(planned.finished())
    if whole:
        choice, own = TileEdge(planned.stored_edge() or n, 0.0, 0.0), [idle_group(planned)]
    else:
        on_step("measuring a few small tiles, to choose the edge of the run's: some seconds")
        choice = choose_tile(planned)
        on_step(
            f"measuring tiles of edge {choice.edge}: {seconds:g} s for each kind of device, and "
            "the time to start its workers"
        )
        own = measure_groups(planned, choice, seconds)
    tiling = Tiling(n, choice.edge)
    missing = planned.missing(tiling)
    if whole and {"factor", "labels"} <= finished:
        finished, behind = frozenset(STAGES), no_stages(n)
    else:
        images, labels = planned.spread(_IMAGES)
        if planned.is_features:
            images = images[:, 0, 0, :]  # so that no pictures are drawn of them
        on_step(
            f"measuring {_listed(stages_of(config.labels.method))}, twice on {len(images)} "
            "images: about a minute if no other program runs"
        )
        behind = measure_stages(config, images, labels, n)
    measured = Measurements(
        edge=choice.edge,
        before=_IMPORTS + (0.0 if planned.run else _STORING * loading),
        choosing=choice.seconds,
        finished=finished,
        behind=behind,
        method=config.labels.method,
    )
    groups = _in_order(measured, n, missing, own, rates, config.gram.workers)
    price = limits.price
    devices = tuple(
        _device(
            group,
            measured,
            n,
            missing,
            price if group.name in rates or not rates else None,
            workers,
        )
        for group in groups
    )
    return PlanEstimate(
        run=config.run,
        about=f"{'stored already' if planned.run else 'new'}; backend {planned.reason}",
        architecture=config.architecture,
        shape=planned.shape,
        kinds=config.gram.kinds,
        edge=choice.edge,
        tiles=tiling.count,
        missing=len(missing),
        entries=count_entries(tiling, missing),
        store_bytes=_store_bytes(planned, tiling, cut.count),
        worker_bytes=own[0].memory,
        factor_bytes=cut.projected_bytes(),
        stages={"start": measured.before, "gram": devices[0].gram, **measured.stages(n)},
        devices=devices,
        notes=_notes(planned, busy(own[0]), price, tuple(rates), whole=whole),
        refusal=_refusal(devices[0], n, limits, lambda m: measured.whole(groups[0], m)),
    )


def _check(rates: Mapping[str, float], workers: Sequence[int], seconds: float) -> None:
    for name, rate in rates.items():
        if not 0 < rate < float("inf"):
            raise InputError(f"--rates {name}={rate:g} must be a number of entries/s above 0")
    if not workers or min(workers) < 1:
        raise InputError(f"--workers {','.join(map(str, workers))} must be numbers of at least 1")
    if not 0 < seconds <= 600:
        raise InputError(f"--seconds {seconds:g} must be above 0 and at most 600")


def _in_order(
    measured: Measurements,
    n: int,
    missing: Sequence[TileKey],
    own: Sequence[WorkerGroup],
    rates: Mapping[str, float],
    workers: int | str,
) -> list[WorkerGroup]:
    """Return those whose rates are given, the fewest device hours first, then those measured."""
    count = workers if isinstance(workers, int) else 1
    given = [given_group(name, rate, own[0], count) for name, rate in rates.items()]
    given.sort(key=lambda group: len(group.costs) * measured.whole(group, n, missing))
    return [*given, *own]


def _device(
    group: WorkerGroup,
    measured: Measurements,
    n: int,
    missing: Sequence[TileKey],
    price: float | None,
    workers: Sequence[int],
) -> DevicePlan:
    seconds = measured.whole(group, n, missing)
    hours = len(group.costs) * seconds / 3600
    return DevicePlan(
        name=group.name,
        source=group.source,
        backend=group.backend,
        workers=len(group.costs),
        rate=1.0 / group.entry,
        gram=measured.gram(group, n, missing),
        seconds=seconds,
        hours=hours,
        cost=None if price is None else price * hours,
        scaling={count: measured.gram(group.of(count), n, missing) for count in workers},
    )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _store_bytes(planned: PlannedRun, tiling: Tiling, panels: int) -> dict[str, int]:
    """Return the most that each part of the run takes, before compression."""
    n, settings = planned.n, planned.config.gram
    pixels = planned.some(1).size * n
    item = 4 if settings.dtype == "float32" else 8
    sizes = {
        "inputs": 4 * pixels + (16 + planned.picture_bytes) * n + planned.zca_bytes,
        "gram": tiling.count * tiling.edge**2 * item * len(settings.kinds),
        "factor": ITEM * n * (n + 1) // 2,
    }
    if planned.config.labels.method == "posterior":
        return sizes | {"diagonal": ITEM * n}
    sizes["inverse"] = ITEM * n * n
    if panels > 1:
        sizes["inverse, while it is made"] = ITEM * n * (n + 1) // 2
    return sizes


def _notes(
    planned: PlannedRun,
    load: str | None,
    price: float | None,
    priced: Sequence[str],
    *,
    whole: bool,
) -> tuple[str, ...]:
    if whole:
        return ("every tile is stored, so none was measured",)
    config = planned.config
    notes = [
        "times for other numbers of workers assume that each is as fast as those measured",
        "stages after the Gram are timed on this machine, whatever computes the tiles",
        "writing is measured on a local disk",
    ]
    if config.factor.scheduler not in ("auto", "threads"):
        notes.append(f"factor.scheduler={config.factor.scheduler} is timed as threads here")
    if config.factor.device == "cuda":
        notes.append("the factor is timed on the CPU here, not by factor.device=cuda")
    if planned.zca_bytes:
        memory = format_bytes(MATRICES * planned.zca_bytes)
        notes.append(f"zca takes about {memory} of memory where images are read and prepared")
    if price is not None:
        of = f" of {' or '.join(priced)}; the others here are not priced" if priced else ""
        notes.append(f"cost is at {price:g} an hour of one worker{of}")
    if load is not None:
        notes.append(load)
    return tuple(notes)


def _refusal(
    device: DevicePlan, n: int, limits: Limits, whole: Callable[[int], float]
) -> str | None:
    """Return why the run takes more than it may, and how many images would not."""
    checks: list[tuple[str, float, str, float]] = []
    if limits.budget is not None and limits.price is not None and device.cost is not None:
        words = (
            f"costs about {device.cost:.2f} ({device.hours:.4g} device hours on {device.name} at "
            f"{limits.price:g}), more than --budget {limits.budget:g}"
        )
        by_hour = limits.price * device.workers / 3600
        checks.append((words, device.cost, "budget", limits.budget / by_hour))
    if limits.max_hours is not None:
        hours = device.seconds / 3600
        words = (
            f"takes about {hours:.4g} hours on {device.name}, more than "
            f"--max-hours {limits.max_hours:g}"
        )
        checks.append((words, hours, "max_hours", limits.max_hours * 3600))
    for words, needed, name, seconds in checks:
        if needed > getattr(limits, name):
            fits = largest(n, seconds, whole)
            remedy = (
                f"--data.n {fits} would fit" if fits else "no number of images would fit, raise it"
            )
            return f"the run {words}; {remedy}"
    return None


def largest(n: int, seconds: float, whole: Callable[[int], float]) -> int:
    """Return the largest number of images up to ``n`` that takes so many seconds; 0 for none."""
    low, high = 0, n
    while low < high:
        middle = (low + high + 1) // 2
        if whole(middle) <= seconds:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True, eq=False)
class Measurements:
    """What was measured.

    Attributes:
        edge: Of the tiles.
        before: Seconds until the Gram stage begins: data read and stored.
        choosing: Seconds in which the Gram stage chooses an edge.
        finished: Stages whose results are stored.
        behind: What comes after the Gram.
        method: Of the labels.
    """

    edge: int
    before: float
    choosing: float
    finished: frozenset[str]
    behind: StageCosts
    method: str = "posterior"

    def gram(self, group: WorkerGroup, n: int, missing: Sequence[TileKey] | None = None) -> float:
        """Return the seconds of the Gram stage; ``missing`` are all tiles where it is None."""
        tiling = Tiling(n, min(self.edge, n))
        tiles = tiling.keys() if missing is None else missing
        if not tiles:
            return 0.0
        return self.choosing + group.start + gram_seconds(tiling, tiles, group.costs[: len(tiles)])

    def stages(self, n: int, *, anew: bool = False) -> dict[str, float]:
        """Return the seconds of each stage after the Gram; 0 for what is stored, unless anew."""
        done = set() if anew else set(self.finished)
        if "factor" in done:
            done |= {"inverse", "diagonal"}
        stages = stages_of(self.method)
        return {s: 0.0 if s in done else self.behind.seconds(s, n) for s in stages}

    def whole(self, group: WorkerGroup, n: int, missing: Sequence[TileKey] | None = None) -> float:
        """Return the seconds of the whole run; of a new one where ``missing`` is None."""
        behind = self.stages(n, anew=missing is None)
        return self.before + self.gram(group, n, missing) + sum(behind.values())


def describe_plan(plan: PlanEstimate) -> str:
    """Return a plan as a user reads it."""
    shape = " × ".join(map(str, plan.shape))
    if features := len(plan.shape) == 2:
        shape = feature_words(*plan.shape)
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in plan.store_bytes.items())
    total = format_bytes(sum(plan.store_bytes.values()))
    lines = [
        _line("run", f"{plan.run}: {plan.about}"),
        _line("network", _layers(plan.architecture)),
        _line("features" if features else "images", shape),
        _line(
            "tiles",
            f"{plan.missing:,} of {plan.tiles:,} to compute, edge {plan.edge}, "
            f"{plan.entries:,} entries of {' and '.join(plan.kinds)}",
        ),
        _line("store", f"at most {total}: {parts}"),
        _line("memory", _memory(plan)),
        _line("stages", f"on {plan.devices[0].name}:"),
        *_stages(plan),
        "",
        *_devices(plan),
        "",
        *_scaling(plan),
        "",
        _line("without", "; ".join(plan.not_included)),
        *(_line("note", note) for note in plan.notes),
    ]
    return "\n".join(lines)


def _memory(plan: PlanEstimate) -> str:
    worker = f"{format_bytes(plan.worker_bytes)} a worker, " if plan.worker_bytes else ""
    return f"{worker}{format_bytes(plan.factor_bytes)} the factor stage"


def _layers(architecture: str) -> str:
    """Return how many layers of each kind there are, in the order in which they come."""
    layers = Architecture.parse(architecture).layers
    counts = Counter(type(layer).__name__ for layer in layers)
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _stages(plan: PlanEstimate) -> list[str]:
    timed = ((name, seconds) for name, seconds in plan.stages.items() if seconds)
    rows = [(f"  {name}", rough_duration(seconds)) for name, seconds in timed]
    rows.append(("  together", rough_duration(plan.seconds)))
    return columns(rows, right=(1,))


def _devices(plan: PlanEstimate) -> list[str]:
    priced = plan.cost is not None
    head = ["device", "rate of one", "workers", "Gram", "whole run", "device hours"]
    rows: list[list[str]] = [head + (["cost"] if priced else []) + [""]]
    for device in plan.devices:
        row = [
            device.name,
            _rate(device.rate),
            f"{device.workers:,}",
            rough_duration(device.gram),
            rough_duration(device.seconds),
            f"{device.hours:,.3g}",
        ]
        row += ["" if device.cost is None else f"{device.cost:,.2f}"] if priced else []
        rows.append([*row, device.source + (f", {device.backend}" if device.backend else "")])
    return columns(rows, right=range(1, len(rows[0]) - 1))


def _rate(rate: float) -> str:
    if math.isnan(rate):
        return "not measured"
    return f"{rate:,.3g} entries/s" if rate < 1000 else f"{rate:,.0f} entries/s"


def _scaling(plan: PlanEstimate) -> list[str]:
    counts = list(plan.devices[0].scaling)
    rows: list[list[str]] = [["Gram on so many workers", *map(str, counts)]]
    rows += [
        [device.name, *(rough_duration(device.scaling[count]) for count in counts)]
        for device in plan.devices
    ]
    return columns(rows, right=range(1, len(counts) + 1))


def _line(name: str, text: str) -> str:
    return f"{name:<10}{text}"
