"""What the cpu backend gains from symmetry and from a second process, and how fast it starts.

    python jobs/benchmarks/kernel_scaling.py                       # all three, some minutes
    python jobs/benchmarks/kernel_scaling.py --part start-up --repeats 9

diagonal   A tile of 256 images with themselves against one of 256 with 256 others, in turns.
           It has (n + 1)/2n of the entries; whole lanes of columns make that (n + 16)/2n.
processes  Entries a second of two processes with one thread each, started at a barrier,
           against those of one, in turns. The bound is 2.
start-up   From the first line of ``import ntkdist`` to the first small block in a fresh process
           that finds the compiled code on disk, beside importing numpy, scipy and numba.

Compiling and preparing are not timed in the first two. The bound of a block itself is that of
``kernel.py``: 0.34 ns a cell and layer on one core that issues one 512-bit multiply-add a cycle
at 3.68 GHz, about 20 cycles for 17 multiplications and a square root on each 16 cells.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from _measure import images, in_turns, ratios, timed, write

from ntkdist import Architecture
from ntkdist.kernels import get_backend

KINDS = ("ntk", "nngp")
DIAGONAL = ((8, 8, 1), (14, 14, 1))  # images of the diagonal tiles
COLUMNS = 16  # of the processes' blocks
SHORTEST = 0.5  # seconds that the processes work in one turn
STAGES = ("import", "prepare", "block")
# Prints seconds of the stages of a fresh process; the images need no random numbers
START = """
import time
start = time.perf_counter()
import ntkdist
from ntkdist.kernels import get_backend
arch = ntkdist.Architecture.parse({arch!r})
backend = get_backend("cpu", dtype="float32", threads=1)
import numpy as np
imported = time.perf_counter()
images = np.cos(np.arange(16 * {pixels}.0)).reshape(16, *{shape})
state = backend.prepare(arch, images)
prepared = time.perf_counter()
backend.block(state, state, ("ntk", "nngp"))
print([imported - start, prepared - imported, time.perf_counter() - prepared])
"""
PLAIN = """
import time
start = time.perf_counter()
import numpy, scipy, numba
print([time.perf_counter() - start])
"""


def diagonal(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time diagonal tiles against full ones."""
    rows = []
    backend = get_backend("cpu", dtype="float32", threads=args.threads)
    arch = Architecture.parse(args.arch)
    for shape in DIAGONAL:
        a, b = (backend.prepare(arch, images(args.n, shape, seed)) for seed in (1, 2))
        clocks = {
            name: lambda a=a, other=other: timed(lambda: backend.block(a, other, KINDS))[0]
            for name, other in (("diagonal", a), ("full", b))
        }
        in_turns(clocks, 1)  # compiles
        seconds = in_turns(clocks, args.repeats)
        ratio, (low, high) = ratios(seconds["diagonal"], seconds["full"])
        size = "×".join(map(str, shape))
        print(
            f"diagonal   {args.arch} on {size}, {args.n} images, {args.threads} threads: "
            f"{ratio:.3f} of a full tile ({low:.3f} to {high:.3f})",
            flush=True,
        )
        row = {"part": "diagonal", "arch": args.arch, "shape": list(shape), "images": args.n}
        row |= {"threads": args.threads, "ratio": ratio, "ratio_range": [low, high]}
        rows.append(row | {"seconds": seconds})
    return rows


def processes(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Count entries a second of one process and of two at a time."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    pipes, workers = [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        worker = context.Process(
            target=work, args=(theirs, barrier, args.arch, args.shape, args.rows), daemon=True
        )
        worker.start()
        theirs.close()
        pipes.append(ours)
        workers.append(worker)
    calls = math.ceil(SHORTEST / min(pipe.recv() for pipe in pipes))  # now both are warm
    entries = calls * args.rows * COLUMNS  # of each process

    def rate(busy: int) -> float:
        for pipe in pipes[:busy]:
            pipe.send((busy, calls))
        spans = [pipe.recv() for pipe in pipes[:busy]]
        return busy * entries / (max(end for _, end in spans) - min(start for start, _ in spans))

    rates = in_turns({"one": lambda: rate(1), "two": lambda: rate(2)}, args.repeats)
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send((0, 0))
        worker.join()
    one, two = (statistics.median(rates[name]) for name in ("one", "two"))
    ratio, (low, high) = ratios(rates["two"], rates["one"])
    size = "×".join(map(str, args.shape))
    print(
        f"processes  {args.arch} on {size}: {one:.0f} entries/s in one, {two:.0f} in two, "
        f"{ratio:.2f} times as many ({low:.2f} to {high:.2f})",
        flush=True,
    )
    row = {"part": "processes", "arch": args.arch, "shape": list(args.shape), "ratio": ratio}
    row |= {"ratio_range": [low, high], "entries_each": entries}
    return [row | {"entries_per_second": rates}]


def work(pipe: Connection, barrier: Any, arch: str, shape: tuple[int, ...], rows: int) -> None:
    """Send the seconds of a block; then compute blocks as told, until told to end.

    What is received is (processes at work, calls): 2 waits for the other one, 0 ends. What
    is sent back is when the first call started and when the last one ended.
    """
    backend = get_backend("cpu", dtype="float32", threads=1)
    parsed = Architecture.parse(arch)
    a, b = (
        backend.prepare(parsed, images(n, shape, seed)) for seed, n in ((1, rows), (2, COLUMNS))
    )
    backend.block(a, b, KINDS)  # compiles
    start = time.monotonic()  # one clock for all processes
    backend.block(a, b, KINDS)
    pipe.send(time.monotonic() - start)
    while True:
        busy, calls = pipe.recv()
        if not busy:
            return
        if busy == 2:
            barrier.wait()
        start = time.monotonic()
        for _ in range(calls):
            backend.block(a, b, KINDS)
        pipe.send((start, time.monotonic()))


def start_up(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time fresh processes, after one that leaves the compiled code on disk."""
    shape = DIAGONAL[0]
    code = START.format(arch=args.arch, shape=shape, pixels=int(np.prod(shape)))
    fresh(code)
    fresh(PLAIN)
    ours, plain = [], []
    for _ in range(args.repeats):
        ours.append(fresh(code))
        plain.append(fresh(PLAIN)[0])
    seconds = dict(
        zip(STAGES, (statistics.median(x) for x in zip(*ours, strict=True)), strict=True)
    )
    total = statistics.median(sum(x) for x in ours)
    parts = ", ".join(f"{name} {x:.2f} s" for name, x in seconds.items())
    print(
        f"start-up   {total:.2f} s to the first block ({parts}); "
        f"import numpy, scipy, numba {statistics.median(plain):.2f} s",
        flush=True,
    )
    row: dict[str, Any] = {"part": "start-up", "arch": args.arch, "shape": list(shape)}
    row |= {"images": 16, "seconds": seconds | {"total": total}, "seconds_all": ours}
    return [row | {"plain_imports": statistics.median(plain), "plain_imports_all": plain}]


def fresh(code: str) -> list[float]:
    """Run code in a fresh interpreter and return the numbers it prints."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


PARTS = {"diagonal": diagonal, "processes": processes, "start-up": start_up}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one")
    parser.add_argument("--arch", default="cntk-gap-4", help="preset")
    parser.add_argument("--n", type=int, default=256, help="images of a diagonal tile")
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="threads for the diagonal tile",
    )
    parser.add_argument(
        "--shape",
        type=lambda text: tuple(int(x) for x in text.split("x")),
        default="32x32x3",
        metavar="HxWxC",
        help="images of the two processes",
    )
    parser.add_argument("--rows", type=int, default=32, help="rows of the two processes' blocks")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each")
    parser.add_argument("--name", default="kernel_scaling", help="results/NAME.json")
    args = parser.parse_args()
    rows = []
    for name, measure in PARTS.items():
        if not args.part or name in args.part:
            rows += measure(args)
    print(write(args.name, rows))


if __name__ == "__main__":
    main()
