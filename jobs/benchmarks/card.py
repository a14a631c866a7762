"""Everything one wants to know of a GPU, within a budget of seconds.

    python jobs/benchmarks/card.py --seconds 780 --output card --data cifar10.npz
    python jobs/benchmarks/card.py --list
    python jobs/benchmarks/card.py --seconds 300 --output card --only time,depths
    python jobs/benchmarks/card.py --simulate --seconds 600 --output rehearsal    # without a GPU

Runs, in this order: the tests that need a GPU; each network checked against the float64 reference
and timed (``gpu.py``), three of them again beside their peers; the accuracy of CNTK-GAP at five
depths (``jobs/tables/depths.py``); a run through the whole pipeline; how much of a run the GPU
computes (``busy.py``); variants of the kernels (``gpu_variants.py``); the other peers. All prepare
at once, each on a core of its own, since compiling a kernel takes long; they take turns on the GPU,
so that what is timed is alone there. What a step does before its turn is to compile, and to launch
a few pairs of images.

A step that fails, is not installed or takes too long stops no other. After each step --output
holds all there is: summary.md, card.json (outcomes and their figures), gpu-NAME.json (the rows of
``gpu.py``), depths.json, log.txt. The same command with the same folder goes on with what is
missing. Needs what its steps need; the steps whose packages are missing are skipped. Exit code 0:
every step was done, now or before; 1: not all; 2: bad options.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _card_record import Record, code
from _card_runner import Outcome, Runner
from _card_steps import Place, Refusal, Step, chosen, environment, plan, steps

LOGS_EVERY = 10.0  # seconds
RESERVE = 5.0  # seconds at the end, to end what runs and to write


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, help="budget of all, from now")
    parser.add_argument("--output", type=Path, help="folder of what is found")
    parser.add_argument("--work", type=Path, help="folder of the steps' own files (OUTPUT/steps)")
    default = os.environ.get("NTKDIST_DATA")
    parser.add_argument("--data", default=default, help="CIFAR-10's npz, or the folder of it")
    parser.add_argument("--only", metavar="STEP,...", help="these, or these kinds, in this order")
    parser.add_argument("--list", action="store_true", help="print the plan and leave")
    parser.add_argument("--simulate", action="store_true", help="rehearse at toy size, no GPU")
    return parser


def data_of(given: argparse.Namespace, work: Path) -> Path | None:
    """Return the images' file; under --simulate a toy one that is made here."""
    if given.simulate:
        return toy_images(work / "toy.npz")
    if not given.data:
        return None
    path = Path(given.data).expanduser().resolve()
    path = path / "cifar10.npz" if path.is_dir() else path
    if not path.is_file():
        raise Refusal(f"--data {given.data}: there is no {path.name}; name an npz file")
    return path


def toy_images(path: Path) -> Path:
    """Write small images of ten classes that differ in brightness."""
    import numpy as np

    rng, arrays = np.random.default_rng(0), {}
    for split, n in (("train", 60), ("test", 40)):
        labels = np.arange(n) % 10
        noise = rng.integers(0, 60, (n, 4, 4, 3))
        arrays[f"x_{split}"] = (noise + 15 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(path, **arrays)
    return path


def run(given: argparse.Namespace) -> int:
    """Measure what is missing; the exit code.

    Raises:
        Refusal: For bad options.
    """
    begin = time.monotonic()
    if given.output is None or given.seconds is None:
        if not given.list:
            raise Refusal("--seconds and --output are needed, or --list")
        given.output, given.seconds = given.output or Path("card"), given.seconds or 780.0
    if not given.seconds > RESERVE:
        raise Refusal(f"--seconds {given.seconds:g} must be more than {RESERVE:g}")
    output = given.output.resolve()
    work = (given.work or output / "steps").resolve()
    about = {
        "command": " ".join(["python jobs/benchmarks/card.py", *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code(),
        "simulated": given.simulate,
    }
    record = Record(output, work, about)
    if not given.list:
        work.mkdir(parents=True, exist_ok=True)
        output.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    data = Path("toy.npz") if given.list and given.simulate else data_of(given, work)
    place = Place(sys.executable, output, work, data, cores, given.simulate)
    todo = chosen(steps(place), given.only)
    print(plan(todo, given.seconds - RESERVE, record.is_done), flush=True)
    if given.list:
        return 0
    todo = [step for step in todo if not record.is_done(step)]
    spent = time.monotonic() - begin
    measure(todo, record, place, given.seconds - RESERVE - spent, begin)
    print(f"\n{record.summary()}\n\n{output}")
    return 0 if all(record.is_done(step) for step in todo) else 1


def measure(todo: list[Step], record: Record, place: Place, seconds: float, begin: float) -> None:
    """Run the steps, writing and printing what becomes of each."""
    by_name = {step.name: step for step in todo}
    written = time.monotonic()

    def tell(outcome: Outcome) -> None:
        record.add(by_name[outcome.name], outcome)
        now = time.monotonic() - begin
        print(
            f"{now:5.0f} s  {outcome.name}: {outcome.state}, {outcome.held:.0f} s on the GPU, "
            f"{outcome.words}",
            flush=True,
        )

    def tick() -> None:
        nonlocal written
        if time.monotonic() - written > LOGS_EVERY:
            written = time.monotonic()
            record.write_logs()

    _SIGNALS.wait_for = True
    Runner(
        todo,
        place.work,
        seconds=seconds,
        cores=max(2, place.cores - 1),  # one for whatever is timed
        environment=environment(place.simulate),
        on_outcome=tell,
        on_tick=tick,
        ended=lambda: _SIGNALS.came,
    ).run()
    _SIGNALS.wait_for = False
    if _SIGNALS.came:
        raise KeyboardInterrupt


class _Signals:
    """Notes a signal where raising could lose a process that was just begun."""

    came = wait_for = False

    def __call__(self, *_: Any) -> None:
        self.came = True
        if not self.wait_for:
            raise KeyboardInterrupt


_SIGNALS = _Signals()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _SIGNALS)
    try:
        code = run(options().parse_args())
    except Refusal as error:
        print(f"card.py: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("card.py: interrupted; the same command goes on", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
