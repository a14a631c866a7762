"""Two Ray actors against one, and both against this process: seconds and bits of one Gram.

    python jobs/benchmarks/actors.py                    # digits, cntk-gap-11, more than a minute
    python jobs/benchmarks/actors.py --n 400 --repeats 1

Each run computes the whole Gram anew with tiles of one size, the start of Ray included. On two
cores the bound is 2. "computing" counts from the first tile handed out to the last one stored.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile

import numpy as np
from _measure import timed, write

from ntkdist.config import DataConfig, GramConfig, RunConfig
from ntkdist.events.log import read_events
from ntkdist.pipeline import Pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="cntk-gap-11")
    parser.add_argument("--n", type=int, default=1600)
    parser.add_argument("--tile", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    times: dict[str, list[float]] = {"1": [], "2": [], "inline": []}
    computing: dict[str, list[float]] = {"1": [], "2": []}
    grams: dict[str, np.ndarray] = {}
    gram(args, GramConfig(executor="ray", workers=1, tile=args.tile), n=64)  # compiles
    for repeat in range(args.repeats):
        for name in times:
            if name == "inline":
                if repeat:
                    continue
                settings = GramConfig(executor="inline", threads=1, tile=args.tile)
            else:
                settings = GramConfig(executor="ray", workers=int(name), tile=args.tile)
            seconds, busy, found = gram(args, settings, n=args.n)
            times[name].append(seconds)
            if name in computing:
                computing[name].append(busy)
            if not (grams.setdefault("first", found) == found).all():
                sys.exit(f"{name}: other bits than before")
            print(f"{name:>6}: {seconds:7.1f} s, computing {busy:7.1f} s", flush=True)
    whole = statistics.median(times["1"]) / statistics.median(times["2"])
    busy = statistics.median(computing["1"]) / statistics.median(computing["2"])
    print(f"two actors are {whole:.2f} times as fast ({busy:.2f} computing); all bits are equal")
    row = {
        "arch": args.arch,
        "n": args.n,
        "tile": args.tile,
        "seconds": times,
        "seconds_computing": computing,
        "ratio": whole,
        "ratio_computing": busy,
        "same_bits": True,
    }
    print(write("actors", [row]))


def gram(
    args: argparse.Namespace, settings: GramConfig, *, n: int
) -> tuple[float, float, np.ndarray]:
    """Compute one Gram in a folder of its own; return seconds, seconds computing, and it."""
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            run=f"{folder}/run", architecture=args.arch, data=DataConfig(n=n), gram=settings
        )
        with Pipeline(config) as pipeline:
            seconds, _ = timed(pipeline.gram)
            found = pipeline.gram_store()[:, :]
        events = read_events(config.run)
        started = min(e["time"] for e in events if e["event"] == "TileStarted")
        ended = max(e["time"] for e in events if e["event"] == "TileDone")
    return seconds, ended - started, found


if __name__ == "__main__":
    main()
