"""Random faults over one Gram and its factorisation: the same bits, and nothing done in vain.

The whole soak has more than a hundred faults and is marked long; a short one always runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist.gram.compute import compute_gram
from ntkdist.gram.executors.inline import InlineExecutor
from ntkdist.gram.store import GramStore
from ntkdist.linalg import factorize
from tests.faults.script import executions, write_script
from tests.faults.soak_target import RIDGE, SMALL, target
from tests.faults.test_nodes import node_options
from tests.faults.watch import ROOT, drivers, keys, wait_for
from tests.linalg.matrices import stored_bytes

LIMIT = 20.0  # timeout of a tile in seconds; a first tile takes long on a busy machine
WORKERS = 2
IN_FLIGHT = 2  # of a worker
SECONDS_A_FAULT = 5.0  # until it has happened, was noticed, and work goes on

SCRIPTED = ("raise", "kill", "kill after")
SIGNALS = ("worker killed", "worker hangs", "driver killed", "driver terminated", "node lost",
           "node drained")  # fmt: skip
FACTOR = ("factor killed", "factor terminated", "panel raises")


def undisturbed(folder: Path, edge: int) -> Path:
    job, tiling = target(str(folder), edge)
    compute_gram(job, InlineExecutor(), tiling=tiling)
    gram = GramStore.open(job.outputs[0][1])
    factorize(gram, folder / "factor", ridge=RIDGE, memory_limit=SMALL, fingerprint="soak")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "edge"),  # 210 tiles, 820 tiles
    [
        pytest.param([1, 1, 1, 1, 0, 1, 0, 0, 0, 1, 0, 1], 30, id="short"),
        pytest.param(
            [40, 8, 12, 10, 2, 5, 3, 3, 2, 10, 3, 4], 15, id="whole", marks=pytest.mark.long
        ),
    ],
)
@pytest.mark.timeout(3600)
def test_random_faults(tmp_path: Path, counts: list[int], edge: int) -> None:
    expected = undisturbed(tmp_path / "undisturbed", edge)
    disturbed = tmp_path / "disturbed"
    disturbed.mkdir()
    wanted = Counter(dict(zip((*SCRIPTED, *SIGNALS, *FACTOR), counts, strict=True)))
    soak = Soak(disturbed, edge, wanted)
    try:
        soak.gram()
        soak.factor()
    finally:
        soak.cluster.shutdown()
    done = soak.done
    sys.stdout.write(f"{done.total()} faults: {dict(done)}\n")
    for name, count in wanted.items():
        assert done[name] >= count, f"{name} happened {done[name]} times"
    if "whole" in os.environ.get("PYTEST_CURRENT_TEST", ""):
        assert done.total() >= 100

    _, tiling = target(str(disturbed), edge)
    gram, same = (GramStore.open(f"{folder}/gram/ntk") for folder in (disturbed, expected))
    assert gram.missing() == []
    np.testing.assert_array_equal(gram[:, :], same[:, :])
    assert stored_bytes(disturbed / "factor") == stored_bytes(expected / "factor")

    computed = executions(disturbed)
    assert len(computed) == tiling.count
    recomputed = computed.total() - tiling.count
    lost = in_flight(disturbed)
    sys.stdout.write(f"{recomputed} of {tiling.count} tiles computed again, {sum(lost)} were in"
                     f" flight at a fault\n")  # fmt: skip
    assert max(lost) <= WORKERS * IN_FLIGHT
    assert recomputed <= sum(lost)
    panels = [e["index"] for run in drivers(disturbed) for e in run if e["event"] == "PanelStarted"]
    again = len(panels) - len(set(panels))
    assert again <= soak.done["factor killed"] + soak.done["factor terminated"]


def in_flight(folder: Path) -> list[int]:
    """Return how many tiles were in flight at each fault."""
    found = []
    for run in drivers(folder):
        out: set[str] = set()
        for record in run:
            if record["event"] == "TileStarted":
                out.add(record["key"])
            elif record["event"] == "TileDone":
                out.discard(record["key"])
            elif record["event"] == "WorkerLost" and record["keys"]:
                found.append(len(record["keys"]))
                out -= set(record["keys"])
            elif record["event"] == "TileFailed" and "worker died" not in record["error"]:
                found.append(1)
                out.discard(record["key"])
        if out:
            found.append(len(out))
    return found


class Soak:
    """The faults still to come, and what they are done to."""

    def __init__(self, folder: Path, edge: int, wanted: Counter[str]) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.edge = edge
        self.done: Counter[str] = Counter()
        self.random = np.random.default_rng(17)
        self.cluster = Cluster(initialize_head=True, head_node_args=node_options(0))
        self.nodes = [self.cluster.add_node(**node_options(1)) for _ in range(WORKERS)]
        self.plan = [name for name in SIGNALS for _ in range(wanted[name])]
        self.factor_plan = [name for name in FACTOR for _ in range(wanted[name])]
        self.random.shuffle(self.plan)
        self.random.shuffle(self.factor_plan)
        _, tiling = target(str(folder), edge)
        scripted = [name for name in SCRIPTED for _ in range(wanted[name])]
        places = self.random.choice(tiling.count, len(scripted), replace=False)
        all_keys = [str(key) for key in tiling.keys()]  # noqa: SIM118
        self.script = {all_keys[i]: name for i, name in zip(places, scripted, strict=True)}
        write_script(folder, {key: [(1, name, 0)] for key, name in self.script.items()})
        # time for all faults before the last tile, whatever the machine's speed
        pace = WORKERS * SECONDS_A_FAULT * len(self.plan) / tiling.count
        (folder / "pace").write_text(str(pace))
        # tiles between two faults, so that the last fault comes before the last tile
        self.step = max(1, tiling.count // (3 * len(self.plan)))

    def driver(self) -> subprocess.Popen[bytes]:
        """Start a driver; what it says on standard error is kept in the folder."""
        with open(self.folder / "driver.err", "a") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.faults.soak_driver", str(self.folder),
                 str(self.edge), "20", str(LIMIT)],
                cwd=ROOT, env=os.environ | {"RAY_ADDRESS": self.cluster.address},
                stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
            )  # fmt: skip

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a kind of the driver at work."""
        runs = drivers(self.folder)
        return [record for record in runs[-1] if record["event"] == name] if runs else []

    def gram(self) -> None:
        """Disturb the Gram until it is there."""
        process = self.driver()
        begun = len(drivers(self.folder))
        try:
            for name in self.plan:
                wait_for(lambda n=begun: len(drivers(self.folder)) > n, process)
                before = len(self.records("TileDone"))
                wait_for(lambda n=before: len(self.records("TileDone")) >= n + self.step, process)
                begun = len(drivers(self.folder)) - 1
                self.happen(name, process)
                self.done[name] += 1
                if name.startswith("driver"):
                    process.wait(60)
                    begun += 1
                    process = self.driver()
            (self.folder / "pace").unlink()
            wait_for(lambda: self.records("PanelStarted"), process)
        finally:
            process.kill()  # the first fault of the factorisation
            process.wait()
        self.done["factor killed"] += 1
        for run in drivers(self.folder):
            for key in keys(run, "TileStarted"):
                if key in self.script:
                    self.done[self.script.pop(key)] += 1

    def happen(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Make one fault happen, and see that it is noticed."""
        lost = len(self.records("WorkerLost"))
        if name == "driver killed":
            process.kill()
            return
        if name == "driver terminated":
            process.terminate()
            assert process.wait(60) == 130
            return
        if name.startswith("worker"):
            os.kill(self.worker(), signal.SIGKILL if name == "worker killed" else signal.SIGSTOP)
        elif name == "node lost":
            self.renew_node()
        elif name == "node drained":
            subprocess.run(
                [sys.executable, "-m", "ray.scripts.scripts", "drain-node",
                 "--address", self.cluster.address, "--node-id", self.nodes[0].node_id,
                 "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
                 "--deadline-remaining-seconds", "60"],
                check=True, capture_output=True,
            )  # fmt: skip
        wait_for(lambda: len(self.records("WorkerLost")) > lost, process)
        if name == "node drained":
            self.renew_node()

    def renew_node(self) -> None:
        """Take the oldest node away and add one."""
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
        self.nodes.append(self.cluster.add_node(**node_options(1)))

    def worker(self) -> int:
        """Return the process of a worker that is at work."""

        def living() -> list[int]:
            pids = {record["worker"]: record["pid"] for record in self.records("WorkerStarted")}
            return [pid for pid in pids.values() if alive(pid)]

        wait_for(living)
        return int(self.random.choice(living()))

    def factor(self) -> None:
        """Disturb the factorisation until it is there."""
        for name in self.factor_plan:
            trap = self.folder / "panel raises"
            if name == "panel raises":
                trap.touch()
            process = self.driver()
            begun = len(drivers(self.folder))
            try:
                wait_for(lambda n=begun: len(drivers(self.folder)) > n, process)
                wait_for(lambda: self.records("PanelStarted"), process)
                if name == "factor killed":
                    process.kill()
                elif name == "factor terminated":
                    process.terminate()
                code = process.wait(60)
            finally:
                process.kill()
                process.wait()
            assert code == {"factor killed": -9, "factor terminated": 130, "panel raises": 1}[name]
            self.done[name] += 1
        process = self.driver()
        assert process.wait(120) == 0


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZTX"
