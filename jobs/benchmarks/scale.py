"""The driver at a million images: its time and memory per tile, listing, resuming, where it breaks.

    python jobs/benchmarks/scale.py                 # 1,000 workers, N = 1,000,000, 480,690 tiles
    python jobs/benchmarks/scale.py --n 100000 --workers 4000

Driver loop, books, events and store are the real ones; workers are simulated (``_simulated``):
a tile takes 20 s in the mean, one in a thousand kills its worker, one in a thousand raises, one in
ten thousand hangs. Times are of the processor; what simulated workers cost this process is taken
off. Beside it, the cost of a record through a real Ray on this machine, with workers that compute
nothing (``--ray`` tiles).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from _record import write
from _simulated import Rates, SimulatedRay

from ntkdist.events.bus import Subscribers
from ntkdist.events.log import EventLog
from ntkdist.events.progress import GramProgress
from ntkdist.events.types import TileDone
from ntkdist.gram.compute import compute_gram, open_outputs
from ntkdist.gram.executors import ExecutorSummary
from ntkdist.gram.executors.ray.executor import RayExecutor
from ntkdist.gram.job import GramJob
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.gram.worker import TileRecord, TileWorker

EDGE = 1021


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1000])
    parser.add_argument("--stop-after", type=float, default=0.5, help="share of tiles, then resume")
    parser.add_argument("--ray", type=int, default=3000, help="tiles through a real Ray; 0: none")
    parser.add_argument("--phase", nargs=2, metavar=("FOLDER", "WORKERS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        print(json.dumps(phase(args, args.phase[0], int(args.phase[1]))))
        return
    rows = []
    for workers in args.workers:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("begin", "resume", "again"):
                row = {"phase": name, **in_process(args, folder, workers)}
                rows.append(row)
                print(json.dumps(row), flush=True)
    if args.ray:
        rows.append({"phase": "real Ray", **through_ray(args.ray)})
        print(json.dumps(rows[-1]), flush=True)
    if args.n == parser.get_default("n"):
        print(write("scale", rows, "python jobs/benchmarks/scale.py " + " ".join(sys.argv[1:])))


def in_process(args: argparse.Namespace, folder: str, workers: int) -> dict[str, Any]:
    """Run a phase in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--n", str(args.n), "--stop-after", str(args.stop_after)]
    done = subprocess.run(
        [*command, "--phase", folder, str(workers)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


class Simulated:
    """The Ray executor on a simulated cluster."""

    name = "simulated"

    def __init__(self, workers: int, stop: threading.Event) -> None:
        self.workers = workers
        self.ray: SimulatedRay | None = None
        self.listed = self.cpu = 0.0

    def run(
        self, job: GramJob, keys: list[TileKey], emit: Any, stop: threading.Event
    ) -> ExecutorSummary:
        """Compute the tiles; see ``Executor.run``."""
        self.listed, self.cpu = time.perf_counter(), time.process_time()
        self.ray = SimulatedRay(self.workers, GramStore.open(job.outputs[0][1]), Rates())
        executor = RayExecutor(self.workers, clock=self.ray.clock)
        return executor.run_on(self.ray, job, keys, emit, stop, {"num_cpus": 1, "num_gpus": 0})


def phase(args: argparse.Namespace, folder: str, workers: int) -> dict[str, Any]:
    """Begin or resume the matrix; stop at the share asked for if it is begun."""
    job = simulated_job(folder)
    tiling = Tiling(args.n, EDGE)
    begun = time.perf_counter()
    existed = GramStore.exists(job.outputs[0][1])
    first_listing = None
    if existed:
        missing = len(GramStore.open(job.outputs[0][1]).missing())
        first_listing = time.perf_counter() - begun
    else:
        missing = tiling.count
    stop = threading.Event()
    limit = int(tiling.count * args.stop_after) if not existed else tiling.count + 1
    count = 0

    def watch(event: Any) -> None:
        nonlocal count
        if isinstance(event, TileDone):
            count += 1
            if count >= limit:
                stop.set()

    executor = Simulated(workers, stop)
    wall = time.perf_counter()
    with EventLog(folder) as log, open(os.devnull, "w") as nowhere, GramProgress(nowhere) as shown:
        try:
            compute_gram(
                job, executor, tiling=tiling, on_event=Subscribers(log, shown, watch), stop=stop
            )
        except Exception as error:  # stopped half-way, or tiles given up: both are told
            print(f"{type(error).__name__}: {str(error)[:150]}", file=sys.stderr)
    cpu_ended, ended = time.process_time(), time.perf_counter()
    ray = executor.ray
    found: dict[str, Any] = {
        "workers": workers,
        "tiles": tiling.count,
        "missing": missing,
        "listing_seconds": first_listing,
        "until_first_tile_seconds": executor.listed - wall if ray else ended - wall,
        "done": count,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "events_mib": Path(folder, "events.jsonl").stat().st_size / 2**20,
    }
    if ray is not None and count:
        driver = cpu_ended - executor.cpu - ray.outside
        found |= {
            "driver_cpu_us_per_tile": 1e6 * driver / count,
            "records_per_cpu_second": count / driver,
            "simulated_hours": ray.now / 3600,
            "died": ray.died,
            "hung": ray.hung,
            "failed": ray.failed,
            "seconds": ended - executor.listed,
        }
    return found


def simulated_job(folder: str) -> GramJob:
    return GramJob(
        images="",
        architecture="cntk-gap-21",
        backend="simulated",
        arithmetic="simulated-1",
        dtype="float32",
        outputs=(("ntk", f"{folder}/gram/ntk"),),
        edge=EDGE,
        fingerprint="simulated",
    )


class IdleWorker(TileWorker):
    """Says at once that a tile is done."""

    def start(self) -> dict[str, Any]:
        """Open nothing."""
        return {"pid": os.getpid(), "host": "here", "threads": 1}

    def attempt(self, key: TileKey, attempt: int = 1) -> TileRecord:
        """Compute nothing."""
        return TileRecord(str(key), self.name, attempt, 0.0, 4 << 20, 1 << 20, "idle-1")


def through_ray(tiles: int) -> dict[str, Any]:
    """Return what a record costs the driver through a real Ray, two workers, nothing computed."""
    import scale  # by name, so that workers can import the class

    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    edge = 10
    n = int((2 * tiles) ** 0.5) * edge
    with tempfile.TemporaryDirectory() as folder:
        import dataclasses

        job = dataclasses.replace(simulated_job(folder), edge=edge)
        tiling = Tiling(n, edge)
        open_outputs(job, tiling)
        keys = tiling.keys()
        first: list[float] = []

        def watch(event: Any) -> None:
            if isinstance(event, TileDone) and not first:
                first.extend((time.perf_counter(), time.process_time()))

        with EventLog(folder) as log:
            executor = RayExecutor(2, make_worker=scale.IdleWorker, max_in_flight=50)
            executor.run(job, keys, Subscribers(log, watch), threading.Event())
            seconds, cpu = time.perf_counter() - first[0], time.process_time() - first[1]
    return {
        "workers": 2,
        "tiles": len(keys),
        "records_per_second": len(keys) / seconds,
        "driver_cpu_us_per_tile": 1e6 * cpu / len(keys),
    }


if __name__ == "__main__":
    main()
