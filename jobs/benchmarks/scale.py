"""The driver at a million images: its time and memory per tile, listing, resuming, where it breaks.

    python jobs/benchmarks/scale.py                 # 1,000 workers, N = 1,000,000, 480,690 tiles
    python jobs/benchmarks/scale.py --n 100000 --workers 4000

Scheduler, events and store are the real ones; workers are simulated (``SimulatedRay``): a tile
takes 20 s on average, one in a thousand kills its worker, one in a thousand raises, one in ten
thousand hangs. Times are processor time, without what the simulated workers cost this process. The
cost of a record through a real Ray on this machine, with workers that compute nothing, is measured
as well (``--ray`` tiles).
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from _measure import write

from ntkdist.events.bus import Subscribers
from ntkdist.events.log import EventLog
from ntkdist.events.progress import GramProgress
from ntkdist.events.types import TileDone
from ntkdist.gram.compute import compute_gram, open_outputs
from ntkdist.gram.executors.ray import RayExecutor
from ntkdist.gram.executors.scheduler import ExecutorSummary
from ntkdist.gram.job import GramJob
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.gram.worker import TileRecord, TileWorker

EDGE = 1021


@dataclass(frozen=True)
class Rates:
    """Chances per tile, and how long one takes.

    Attributes:
        seconds: Mean of a tile; drawn between half and one and a half of it.
        die: The worker dies with the tile.
        hang: The worker never answers.
        fail: The tile raises.
    """

    seconds: float = 20.0
    die: float = 1e-3
    hang: float = 1e-4
    fail: float = 1e-3


class WorkerDiedError(Exception):
    """What Ray says of an actor that is gone."""


@dataclass(eq=False)
class _Answer:
    """A reference to what an actor will answer."""

    done: bool = False
    value: Any = None
    error: Exception | None = None


@dataclass(eq=False)
class _Actor:
    """One simulated worker.

    Attributes:
        free: When it has done what it was given (simulated seconds).
        alive: Whether it still answers.
        answers: What it has not answered.
    """

    cluster: SimulatedRay
    name: str
    free: float = 0.0
    alive: bool = True
    answers: list[_Answer] = field(default_factory=list)

    @property
    def start(self) -> Any:
        return SimpleNamespace(remote=lambda: self.cluster.begin(self))

    @property
    def compute(self) -> Any:
        return SimpleNamespace(remote=lambda key, n: self.cluster.hand(self, key, n))


class SimulatedRay:
    """What the driver uses of the ``ray`` module.

    Args:
        workers: Actors that there is room for.
        store: Where the tiles go.
        rates: How long tiles take, and what goes wrong.
        seed: Of the draws.

    Attributes:
        now: Simulated seconds.
        outside: Seconds of this process's cores spent on what workers and Ray would do.
        died, hung, failed: What happened.
    """

    exceptions = SimpleNamespace(RayError=WorkerDiedError, ActorDiedError=WorkerDiedError)

    def __init__(self, workers: int, store: GramStore, rates: Rates, seed: int = 0) -> None:
        self.now = 0.0
        self.outside = 0.0
        self.died = self.hung = self.failed = 0
        self._workers = workers
        self._folder = os.path.dirname(os.path.dirname(store.path_of(TileKey(0, 0))))
        self._rates = rates
        self._draw = np.random.default_rng(seed)
        self._draws = iter(())
        self._events: list[tuple[float, int, Any]] = []
        self._number = itertools.count()
        self._ready: dict[_Answer, None] = {}
        leaving = SimpleNamespace(get_draining_nodes=dict)
        self._private = SimpleNamespace(state=SimpleNamespace(state=leaving))

    def clock(self) -> float:
        """Return the simulated time in seconds."""
        return self.now

    def nodes(self) -> list[dict[str, Any]]:
        """Return one node with a core for each worker."""
        return [{"Alive": True, "NodeID": "n", "Resources": {"CPU": self._workers}}]

    def remote(self, cls: type) -> Any:
        """Return what makes actors, whatever their class."""

        def make(job: str, name: str, make_worker: Any) -> _Actor:
            return _Actor(self, name, free=self.now)

        return SimpleNamespace(options=lambda **more: SimpleNamespace(remote=make))

    def begin(self, actor: _Actor) -> _Answer:
        """Start an actor, which takes 5 simulated seconds."""
        begun = time.process_time()
        answer = _Answer(value={"pid": 0, "host": "simulated", "threads": 1, "node": "n"})
        actor.alive, actor.free = True, max(actor.free, self.now) + 5.0
        actor.answers.append(answer)
        self._at(actor.free, (actor, answer, None))
        self.outside += time.process_time() - begun
        return answer

    def hand(self, actor: _Actor, key: str, attempt: int) -> _Answer:
        """Give an actor a tile; draw how long it takes and whether it fails."""
        begun = time.process_time()
        answer = _Answer()
        actor.answers.append(answer)
        if actor.alive:
            chance, spread = self._next()
            rates = self._rates
            actor.free = max(actor.free, self.now) + rates.seconds * (0.5 + spread)
            if chance < rates.hang:
                self.hung += 1
                actor.alive = False
            elif chance < rates.hang + rates.die:
                self.died += 1
                actor.alive = False
                self._at(actor.free, (actor, answer, None, "die"))
            else:
                seconds = rates.seconds * (0.5 + spread)
                failed = chance < rates.hang + rates.die + rates.fail
                self.failed += failed
                answer.value = record(key, actor.name, attempt, seconds, failed)
                self._at(actor.free, (actor, answer, None if failed else key))
        self.outside += time.process_time() - begun
        return answer

    def wait(
        self, refs: list[_Answer], num_returns: int, timeout: float
    ) -> tuple[list[_Answer], list[_Answer]]:
        """Advance the clock to the next answers, or by ``timeout``."""
        begun = time.process_time()
        end = self.now + timeout
        while self._events and (self._events[0][0] <= end) and (timeout or not self._ready):
            moment = self._events[0][0]
            if self._ready and moment > self.now:
                break
            self.now = max(self.now, moment)
            self._happen(heapq.heappop(self._events)[2])
        if not self._ready:
            self.now = max(self.now, end)
        found = list(self._ready) if num_returns > 1 else list(itertools.islice(self._ready, 1))
        self.outside += time.process_time() - begun
        return found, []

    def get(self, answer: _Answer) -> Any:
        """Return an answer's value, or raise its error."""
        self._ready.pop(answer, None)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def kill(self, actor: _Actor, no_restart: bool = True) -> None:
        """End an actor; its answers are lost."""
        actor.alive = False
        for answer in actor.answers:
            self._ready.pop(answer, None)
        actor.answers.clear()

    def _at(self, moment: float, what: Any) -> None:
        heapq.heappush(self._events, (moment, next(self._number), what))

    def _happen(self, what: Any) -> None:
        actor, answer, key, *died = what
        if answer not in actor.answers:
            return
        if died:
            for lost in actor.answers:
                lost.error = WorkerDiedError("worker exit: simulated")
                self._ready[lost] = None
            actor.answers.clear()
            return
        actor.answers.remove(answer)
        if key is not None:
            put(self._folder, key)
        self._ready[answer] = None

    def _next(self) -> tuple[float, float]:
        for pair in self._draws:
            return pair
        self._draws = iter(self._draw.uniform(size=(4096, 2)).tolist())
        return next(self._draws)


def put(folder: str, key: str) -> None:
    """Put a small object where a tile belongs, as a store on disk does it."""
    row, col = int(key[1:5]), int(key[6:])
    place = f"{folder}/{row}"
    try:
        with open(f"{place}/{col}", "wb") as file:
            file.write(b"simulated tile")
    except FileNotFoundError:
        os.makedirs(place, exist_ok=True)
        put(folder, key)


def record(key: str, worker: str, attempt: int, seconds: float, failed: bool) -> dict[str, Any]:
    """Return what a worker says of a tile, as it comes through Ray."""
    found = {
        "key": key,
        "worker": worker,
        "attempt": attempt,
        "seconds": seconds,
        "bytes": 4 << 20,
        "entries": 1 << 20,
        "backend": "simulated-1",
        "digests": [] if failed else ["0" * 32],
        "error": "RuntimeError: simulated" if failed else None,
        "traceback": "Traceback (most recent call last): ..." if failed else "",
    }
    return json.loads(json.dumps(found))  # a copy, as Ray's own reading of it makes one


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
        print(write("scale", rows))


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
