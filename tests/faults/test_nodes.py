"""Nodes that join, die, are drained, and a head that dies: several nodes on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.script import executions
from tests.faults.target import matrix, target
from tests.faults.watch import ROOT, driver, events, tiles_done, wait_for, wait_for_tiles

SLOW = 0.8  # seconds more a tile takes, so that there is a middle of the job


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Any]:
    """A head without cores; its nodes are added by the test."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=node_options(0))
    yield cluster
    cluster.shutdown()


def node_options(cpus: int) -> dict[str, Any]:
    return {
        "num_cpus": cpus,
        "object_store_memory": 80 * 2**20,
        "include_dashboard": False,
        "env_vars": {"PYTHONPATH": str(ROOT)},
    }


def tiles_take(folder: Path, seconds: float) -> None:
    """Let every tile that is begun from now on take so many seconds more."""
    _, tiling = target(str(folder))
    table = {str(key): [(0, "slow", seconds)] for key in tiling.keys()}  # noqa: SIM118
    (folder / "new.json").write_text(json.dumps(table))
    (folder / "new.json").replace(folder / "script.json")  # at once: workers are reading it


def hosts(folder: Path) -> set[str]:
    """Return the workers that finished tiles."""
    return {record["worker"] for record in events(folder, "TileDone")}


def newcomer_at_work(folder: Path, since: float) -> bool:
    """Return whether a worker that started after a moment has finished a tile since."""
    started = {e["worker"]: e["time"] for e in events(folder, "WorkerStarted")}
    new = {worker: moment for worker, moment in started.items() if moment > since}
    done = events(folder, "TileDone")
    return any(e["worker"] in new and e["time"] > new[e["worker"]] for e in done)


@pytest.mark.slow
def test_node_lost_and_node_added(tmp_path: Path, undisturbed: np.ndarray, nodes: Any) -> None:
    tiles_take(tmp_path, SLOW)
    first, second = nodes.add_node(**node_options(1)), nodes.add_node(**node_options(1))
    with driver(tmp_path, "auto", nodes.address) as process:
        wait_for_tiles(tmp_path, process, 6)
        assert len(hosts(tmp_path)) == 2
        nodes.remove_node(second, allow_graceful=False)
        wait_for(lambda: events(tmp_path, "WorkerLost"), process)
        done = tiles_done(tmp_path)
        wait_for_tiles(tmp_path, process, done + 3)  # the one that is left goes on
        tiles_take(tmp_path, 2 * SLOW)  # alone it is at work for longer than a node may take
        added = time.time()
        nodes.add_node(**node_options(1))
        wait_for(lambda: newcomer_at_work(tmp_path, added), process)
        assert time.time() - added < 30
        tiles_take(tmp_path, 0)
    assert process.returncode == 0
    np.testing.assert_array_equal(matrix(str(tmp_path)), undisturbed)
    lost = events(tmp_path, "WorkerLost")
    taken_back = {key for record in lost for key in record["keys"]}
    again = {key for key, count in executions(tmp_path).items() if count > 1}
    assert again <= taken_back
    assert first in nodes.list_all_nodes()


@pytest.mark.slow
def test_node_that_is_drained_loses_nothing(
    tmp_path: Path, undisturbed: np.ndarray, nodes: Any
) -> None:
    tiles_take(tmp_path, SLOW)
    nodes.add_node(**node_options(1))
    second = nodes.add_node(**node_options(1))
    with driver(tmp_path, "auto", nodes.address) as process:
        wait_for(lambda: len(hosts(tmp_path)) == 2, process)
        subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "drain-node",
             "--address", nodes.address, "--node-id", second.node_id,
             "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
             "--deadline-remaining-seconds", "60"],
            check=True, capture_output=True,
        )  # fmt: skip
        wait_for(lambda: events(tmp_path, "WorkerLost"), process)
        nodes.remove_node(second, allow_graceful=False)
        tiles_take(tmp_path, 0)
    assert process.returncode == 0
    (left,) = events(tmp_path, "WorkerLost")
    assert "its node is draining" in left["reason"]
    assert left["keys"] == []
    assert set(executions(tmp_path).values()) == {1}
    np.testing.assert_array_equal(matrix(str(tmp_path)), undisturbed)


@pytest.mark.slow
def test_head_that_dies_ends_the_driver_and_the_next_resumes(
    tmp_path: Path, undisturbed: np.ndarray, running: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    # Ray ends a driver that has lost its head, after a minute unless told otherwise
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    tiles_take(tmp_path, SLOW)
    cluster = Cluster(initialize_head=True, head_node_args=node_options(2))
    try:
        with driver(tmp_path, "auto", cluster.address) as process:
            wait_for_tiles(tmp_path, process, 4)
            # raylet, object store and all that keeps the cluster together
            for kind in ("raylet", "gcs_server"):
                for info in cluster.head_node.all_processes[kind]:
                    os.kill(info.process.pid, signal.SIGKILL)
    finally:
        cluster.shutdown()
    assert process.returncode not in (0, None)
    done = tiles_done(tmp_path)
    tiles_take(tmp_path, 0)
    with driver(tmp_path, "2", running) as process:
        pass
    assert process.returncode == 0
    assert tiles_done(tmp_path) - done <= 36 - done
    np.testing.assert_array_equal(matrix(str(tmp_path)), undisturbed)
