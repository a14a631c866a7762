"""What ``card.py`` measures: each step's command, what it needs, and about how long it takes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path("jobs", "benchmarks")
NETWORKS = (
    *("myrtle-10", "cnn-3", "cntk-gap-21", "cntk-gap-11", "myrtle-5", "myrtle-7", "cntk-gap-4"),
    *("cntk-v-21", "fc-10"),
)
VARIED = ("cnn-3", "myrtle-10", "cntk-gap-21")  # of which variants are timed
DEPTHS = (3, 4, 6, 11, 21)
ENTRIES = 2000 * 2001 // 2 + 2000 * 2000  # of a depth

# Seconds on an H100: of cntk-gap-11 and -21 from results/gpu.json, the others by their layers
US_PER_LAYER = 2.3
US_OF_DEPTH = {21: 40.3}
PYTEST = ("-m", "gpu", "-q", "-p", "no:cacheprovider")
TIMING, PEERS, COMPILING = 14.0, 60.0, 25.0
VARIANTS = 40.0  # of a network
STORE, PIPELINE = ("zarr", "threadpoolctl"), ("zarr", "dask", "pandas", "threadpoolctl")


class Refusal(Exception):  # noqa: N818  # of options, in one line; ntkdist need not be importable
    """Why nothing is run: the value, the limit, the remedy."""


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: Its kind, then what it is about: ``time-cnn-3``.
        command: Words; ``{left}`` stands for the seconds that are left.
        seconds: About how long it needs the GPU to itself.
        limit: Seconds after which it is killed, waiting for its turn not counted.
        whole: Whether it needs the GPU to itself from its start to its end; if not, it asks
            for turns.
        goes_on: Whether it keeps what it has, and continues with it another time.
        processes: How many it starts.
        needs: Modules that it imports.
        why_not: Why it cannot be run at all.
        says: How the line of its output begins that tells what it found; the last one counts.
        environment: Added to that of this process.
        last: Whether its turn comes only when all before it are done preparing.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    limit: float
    whole: bool = False
    goes_on: bool = False
    processes: int = 1
    needs: tuple[str, ...] = ()
    why_not: str = ""
    says: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    last: bool = False

    @property
    def behind(self) -> bool:
        """Whether it must not overtake what comes before it."""
        return self.whole or self.last

    def obstacle(self) -> str:
        """Return why it cannot be run here; empty where it can."""
        if self.why_not:
            return self.why_not
        lacking = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(lacking)}" if lacking else ""


@dataclass(frozen=True)
class Place:
    """Where the steps read and write, and how big they are.

    Attributes:
        python: The interpreter.
        output: Folder of what is to be kept.
        work: Folder of each step's own files.
        data: npz file of CIFAR-10; None where there is none.
        cores: How many.
        simulate: Whether all is a rehearsal at toy size, without a GPU.
    """

    python: str
    output: Path
    work: Path
    data: Path | None
    cores: int
    simulate: bool


def steps(place: Place) -> list[Step]:
    """Return every step, the most important first."""
    found = [_tests(place)]
    found += [_timing(place, name, "time", ("--alone",), TIMING) for name in NETWORKS]
    found += [_variants(place, name) for name in VARIED]
    found += [_depth(place, depth) for depth in DEPTHS]
    found += [_busy(place), _pipeline(place)]
    return found + [_timing(place, name, "peer", (), PEERS) for name in NETWORKS]


def chosen(all_steps: Sequence[Step], names: str | None) -> list[Step]:
    """Return the steps that are asked for, in that order.

    Args:
        all_steps: Those there are.
        names: Names or kinds (``time`` is all of ``time-…``) joined by commas; None is all.

    Raises:
        Refusal: If there is no such step.
    """
    if names is None:
        return list(all_steps)
    found: dict[str, Step] = {}
    for name in names.split(","):
        mine = [step for step in all_steps if name in (step.name, step.name.split("-")[0])]
        if not mine:
            raise Refusal(f"there is no step {name!r}; --list names them")
        found |= {step.name: step for step in mine}
    return list(found.values())


def _script(place: Place, name: str, *words: str | Path) -> tuple[str, ...]:
    return (place.python, str(HERE / name), *map(str, words))


def _tests(place: Place) -> Step:
    """The tests that need a GPU: several processes, since most of it is compiling."""
    several = importlib.util.find_spec("xdist") is not None and place.cores > 3
    processes = min(8, place.cores // 2) if several else 1
    words = ("--collect-only",) if place.simulate else ()
    words += ("-n", str(processes)) if several and not place.simulate else ()
    return Step(
        "tests",
        (place.python, "-m", "pytest", "tests/kernels", *PYTEST, *words),
        seconds=60,
        limit=150,
        whole=True,
        processes=processes,
        needs=("pytest", "pytest_timeout", "hypothesis"),
        # or the tests' own default would hide the GPU from jax
        environment={} if place.simulate else {"JAX_PLATFORMS": ""},
    )


def _timing(place: Place, network: str, kind: str, words: Sequence[str], seconds: float) -> Step:
    name = f"{kind}-{network}"
    if place.simulate:  # networks of other sizes would take minutes there
        network, words = "fc-1", ("--simulate",)
    else:
        words = ("--seconds", "5", "--repeats", "3", *words)
    result = place.work / f"{name}.json"
    return Step(
        name,
        _script(place, "gpu.py", "--networks", network, *words, "--output", result),
        seconds=seconds,
        limit=seconds + 180,
        needs=("jax",) if kind == "peer" or place.simulate else (),
        says=f"{network}: ",
    )


def _variants(place: Place, network: str) -> Step:
    """Variants of the kernels; those of all networks share the cores."""
    name = f"variants-{network}"
    processes = max(1, min(12, (place.cores - 1) // len(VARIED)))
    size: tuple[str, ...] = ("--networks", network, "--processes", str(processes))
    if place.simulate:
        size = ("--simulate", "--networks", "cntk-gap-3", "--variants", "threads 128")
    result = place.work / f"{name}.json"
    return Step(
        name,
        _script(place, "gpu_variants.py", *size, "--output", result),
        seconds=VARIANTS,
        limit=VARIANTS + 300,
        processes=processes,
        says="measured: ",
    )


def _depth(place: Place, depth: int) -> Step:
    size = ("--train", "30", "--test", "20", "--backend", "cpu") if place.simulate else ()
    us = US_OF_DEPTH.get(depth, US_PER_LAYER * (depth - 1))
    script = str(Path("jobs", "tables", "depths.py"))
    given = ("--data", str(place.data), "--depths", str(depth), "--seconds", "{left}")
    return Step(
        f"depth-{depth}",
        (place.python, script, *given, *size, "--output", str(place.output / "depths.json")),
        seconds=ENTRIES * us / 1e6,
        limit=900,
        goes_on=True,
        why_not="" if place.data else "no --data",
        says=f"| {depth} |",
    )


def _busy(place: Place) -> Step:
    big = ("--backend", "cuda", "--size", "32", "--images", "1280", "--edge", "128")
    toy = ("--images", "12", "--edge", "6", "--architecture", "fc-1")
    size = toy if place.simulate else big
    return Step(
        "busy",
        _script(place, "busy.py", *size, "--repeats", "1", "--out", place.work / "busy.json"),
        seconds=COMPILING + 45,
        limit=200,
        whole=True,
        needs=STORE,
        says="written meanwhile:",
        why_not="" if (ROOT / HERE / "busy.py").exists() else "there is no busy.py",
    )


def _pipeline(place: Place) -> Step:
    toy = ("--n", "40", "--test", "20", "--backend", "cpu", "--architecture", "fc-1")
    size = toy if place.simulate else ()
    result = place.work / "pipeline.json"
    return Step(
        "pipeline",
        _script(place, "_card_pipeline.py", "--data", str(place.data), *size, "--output", result),
        seconds=COMPILING + 40,
        limit=200,
        whole=True,
        needs=PIPELINE,
        why_not="" if place.data else "no --data",
    )


def plan(
    todo: Sequence[Step], seconds: float, done: Callable[[Step], bool] = lambda step: False
) -> str:
    """Return what will be tried, and what will not fit, as a table.

    Args:
        todo: The steps.
        seconds: There are for them.
        done: Whether a step was done before.
    """
    lines = [f"{'step':16} {'seconds':>8} {'in all':>8}"]
    total = COMPILING
    for step in todo:
        note, obstacle = "", step.obstacle()
        if done(step):
            note = "done before"
        elif obstacle:
            note = f"skipped, {obstacle}"
        else:
            total += step.seconds
            if total > seconds:
                note = "will be cut short" if step.goes_on else "will hardly fit"
        counted = "" if done(step) or obstacle else f"{total:8.0f}"
        lines.append(f"{step.name:16} {step.seconds:8.0f} {counted:>8}  {note}".rstrip())
    lines.append(f"{seconds:.0f} s in all; seconds are estimates for an H100")
    return "\n".join(lines)


def environment(simulate: bool) -> dict[str, str]:
    """Return the variables that every step has in common."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if simulate:
        found |= {"NUMBA_ENABLE_CUDASIM": "1", "JAX_PLATFORMS": "cpu"}
    return found
