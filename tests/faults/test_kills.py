"""A driver killed or interrupted at random moments: the same bits, and nothing done twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from ntkdist.gram.compute import compute_gram
from ntkdist.gram.executors.inline import InlineExecutor
from tests.faults.target import matrix, target
from tests.faults.watch import driver, drivers, keys, tiles_done, wait_for_tiles


@pytest.mark.slow
@pytest.mark.parametrize("where", ["inline", pytest.param("2", id="ray")])
def test_driver_killed_three_times(
    tmp_path: Path, undisturbed: np.ndarray, running: str, where: str
) -> None:
    random = np.random.default_rng(int(where, 36))
    (tmp_path / "pace").write_text("0.15")  # a busy machine, too, sees the middle of the job
    done = 0
    for address in (None, running, running):  # None: the driver starts a Ray of its own
        with driver(tmp_path, where, address) as process:
            done += int(random.integers(1, 6))
            wait_for_tiles(tmp_path, process, done)
            time.sleep(float(random.uniform(0, 0.1)))
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        done = tiles_done(tmp_path)
    (tmp_path / "pace").write_text("0")
    with driver(tmp_path, where, running) as process:
        pass
    assert process.returncode == 0
    np.testing.assert_array_equal(matrix(str(tmp_path)), undisturbed)

    runs = drivers(tmp_path)
    assert len(runs) == 4
    finished: set[str] = set()
    for run in runs:
        started = set(keys(run, "TileStarted"))
        assert not started & finished  # what a driver was told is done is never done again
        finished |= set(keys(run, "TileDone"))
        assert len(started - set(keys(run, "TileDone"))) <= (2 if where == "inline" else 4)
    all_started = [key for run in runs for key in keys(run, "TileStarted")]
    recomputed = len(all_started) - len(set(all_started))
    in_flight = sum(len(set(keys(r, "TileStarted")) - set(keys(r, "TileDone"))) for r in runs[:3])
    assert recomputed <= in_flight


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signal_ends_after_the_tiles_in_flight(
    tmp_path: Path, undisturbed: np.ndarray, running: str, name: str
) -> None:
    with driver(tmp_path, "2", None if name == "SIGINT" else running) as process:
        wait_for_tiles(tmp_path, process, 4)
        if name == "SIGINT":  # as a terminal sends it: to every process of the group
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
    assert process.returncode == 130
    (run,) = drivers(tmp_path)
    (told,) = [record for record in run if record["event"] == "Interrupted"]
    assert told["signal"] == name
    assert len(told["in_flight"]) <= 4  # none if all had just answered
    assert set(keys(run, "TileStarted")) == set(keys(run, "TileDone"))
    assert not [record for record in run if record["event"] == "WorkerLost"]
    after = run[run.index(told) :]
    assert keys(after, "TileStarted") == []
    job, tiling = target(str(tmp_path))
    left = tiling.count - len(keys(run, "TileDone"))
    assert left > 0
    assert compute_gram(job, InlineExecutor(), tiling=tiling).computed == left
    np.testing.assert_array_equal(matrix(str(tmp_path)), undisturbed)
