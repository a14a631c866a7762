"""What ``ntkdist plan`` says against what the run then takes: Gram, and the whole run.

    NTKDIST_DATA=FOLDER python jobs/benchmarks/plan.py               # about a quarter of an hour
    NTKDIST_DATA=FOLDER python jobs/benchmarks/plan.py --only gram-bound --repeats 2

FOLDER holds mnist.npz. Two runs: ``gram-bound`` (pooling: the Gram is nearly everything) and
``factor-bound`` (10,000 images without pooling: factor, diagonal and labels are a good part). Each
is planned and run in turn, every time in new processes and a new folder. The load of the machine
before plan and run is recorded: it may be shared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from _measure import write

from ntkdist.config import DataConfig, NoiseConfig, RunConfig
from ntkdist.events.log import read_events
from ntkdist.planning.plan import make_plan

SOURCE = "npz:$NTKDIST_DATA/mnist.npz"
RUNS = {
    "gram-bound": RunConfig(
        architecture="cntk-gap-11",
        data=DataConfig(source=SOURCE, n=2000, preprocess="halve+standardize"),
        noise=NoiseConfig(rate=0.3),
    ),
    "factor-bound": RunConfig(
        architecture="cntk-v-11",
        data=DataConfig(source=SOURCE, n=10_000, preprocess="standardize"),
        noise=NoiseConfig(rate=0.3),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(RUNS))
    parser.add_argument("--n", type=int, help="other numbers of images, for a quick look")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring tiles")
    args = parser.parse_args()
    rows = []
    for repeat in range(args.repeats):
        for name in [args.only] if args.only else RUNS:
            config = RUNS[name]
            if args.n:
                config = replace(config, data=replace(config.data, n=args.n))
            rows.append({"run": name, "repeat": repeat, **compare(config, args.seconds)})
            print(table(rows[-1]), flush=True)
    print(write("plan", rows))


def compare(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Plan and run in new processes; return both in seconds, and the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, run=f"{folder}/run")
        before = os.getloadavg()[0]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            began = time.perf_counter()
            plan = pool.submit(planned, config, seconds).result()
            planning = time.perf_counter() - began
        between = os.getloadavg()[0]
        path = Path(folder) / "run.yaml"
        path.write_text(yaml.safe_dump(config.to_dict()))
        began = time.perf_counter()
        command = [sys.executable, "-m", "ntkdist", "run", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - began
        measured = stages(config.run)
    gram, expected = plan["devices"][0]["gram"], plan["devices"][0]["seconds"]
    return {
        "architecture": config.architecture,
        "n": plan["shape"][0],
        "planned": plan["stages"],
        "measured": measured,
        "planned_gram": gram,
        "measured_gram": measured["gram"],
        "gram_ratio": gram / measured["gram"],
        "planned_whole": expected,
        "measured_whole": whole,
        "whole_ratio": expected / whole,
        "planning_seconds": planning,
        "notes": plan["notes"],
        "load": {"before the plan": before, "before the run": between, "after": os.getloadavg()[0]},
    }


def planned(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Return the plan as plain values."""
    return asdict(make_plan(config, seconds=seconds))


def stages(run: str) -> dict[str, float]:
    """Return the seconds of each stage of a run, the factor apart from the diagonal."""
    events = read_events(run)
    found = {e["stage"]: e["seconds"] for e in events if e["event"] == "StageDone"}
    began = next(e["time"] for e in events if e.get("stage") == "factor")
    panels = [e for e in events if e["event"] == "PanelDone"]
    found["diagonal"] = found["factor"] - (panels[-1]["timestamp"] - began)
    found["factor"] -= found["diagonal"]
    return found


def table(row: dict[str, Any]) -> str:
    """Return planned and measured seconds of every stage in one line each."""
    lines = [f"{row['run']}: N = {row['n']}, load {row['load']}"]
    lines += [
        f"  {name:<8} planned {row['planned'][name]:7.1f} s, measured {seconds:7.1f} s"
        for name, seconds in row["measured"].items()
    ]
    lines += [
        f"  {name:<8} planned {row[f'planned_{name}']:7.1f} s, measured "
        f"{row[f'measured_{name}']:7.1f} s, ratio {row[f'{name}_ratio']:.2f}"
        for name in ("gram", "whole")
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
