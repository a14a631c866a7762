"""A table of failures, and how often each tile was computed because of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ntkdist.gram.compute import compute_gram
from ntkdist.gram.executors.inline import InlineExecutor
from tests.faults.script import ScriptedWorker, executions, write_script
from tests.faults.target import matrix, target
from tests.faults.watch import driver, drivers, events, keys, wait_for

TABLE: dict[str, list[tuple[int, str, float]]] = {
    "r0000c0002": [(1, "slow", 1.0)],
    "r0001c0003": [(1, "raise", 0), (2, "raise", 0)],
    "r0002c0005": [(1, "kill", 0)],
    "r0003c0003": [(1, "hang", 0)],
    "r0004c0006": [(0, "raise", 0)],
    "r0005c0005": [(1, "kill after", 0)],
}


@pytest.mark.slow
def test_table_of_failures_on_ray(tmp_path: Path, undisturbed: np.ndarray, running: str) -> None:
    write_script(tmp_path, TABLE)
    with driver(tmp_path, "2", running, "", "8") as process:
        pass
    assert process.returncode == 1
    (run,) = drivers(tmp_path)
    assert "1 of 36 tiles failed (r0004c0006)" in (tmp_path / "driver.err").read_text()

    count = executions(tmp_path)
    assert count["r0004c0006"] == 3  # tried again twice, then given up
    assert count["r0001c0003"] == 3
    for key in ("r0002c0005", "r0003c0003", "r0005c0005"):
        assert count[key] == 2
    lost = events(tmp_path, "WorkerLost")
    assert len(lost) == 3
    (hung,) = [one for one in lost if "no answer for" in one["reason"]]
    assert "r0003c0003" in hung["keys"]
    taken_back = {key for one in lost for key in one["keys"]}
    # a worker goes on beside the slow tile, and may die of another
    assert count["r0000c0002"] == 1 + ("r0000c0002" in taken_back)
    again = {key for key, n in count.items() if n > 1}
    assert again <= taken_back | {"r0001c0003", "r0004c0006"}
    assert len(keys(run, "TileDone")) == len(set(keys(run, "TileDone"))) == 35

    (tmp_path / "script.json").unlink()
    job, tiling = target(str(tmp_path))
    assert compute_gram(job, InlineExecutor(), tiling=tiling).computed == 1
    np.testing.assert_array_equal(matrix(str(tmp_path)), undisturbed)


@pytest.mark.slow
def test_tile_that_raises_in_this_process(tmp_path: Path, undisturbed: np.ndarray) -> None:
    write_script(tmp_path, {"r0000c0000": [(1, "raise", 0)], "r0007c0007": [(2, "raise", 0)]})
    job, tiling = target(str(tmp_path))
    compute_gram(job, InlineExecutor(make_worker=ScriptedWorker), tiling=tiling)
    count = executions(tmp_path)
    assert count.pop("r0000c0000") == 2
    assert set(count.values()) == {1}  # no second computation, so no second failure
    np.testing.assert_array_equal(matrix(str(tmp_path)), undisturbed)


@pytest.mark.slow
def test_grace_period_ends_before_a_tile_that_takes_too_long(
    tmp_path: Path, undisturbed: np.ndarray, running: str
) -> None:
    write_script(tmp_path, {"r0000c0003": [(1, "slow", 300)]})
    with driver(tmp_path, "2", running, "1") as process:
        wait_for(lambda: executions(tmp_path)["r0000c0003"], process)
        process.terminate()
    assert process.returncode == 130
    (run,) = drivers(tmp_path)
    (told,) = events(tmp_path, "Interrupted")
    assert "r0000c0003" in told["in_flight"]
    begun, done = set(keys(run, "TileStarted")), set(keys(run, "TileDone"))
    assert "r0000c0003" in begun - done
    job, tiling = target(str(tmp_path))
    assert compute_gram(job, InlineExecutor(), tiling=tiling).computed == 36 - len(done)
    np.testing.assert_array_equal(matrix(str(tmp_path)), undisturbed)


@pytest.mark.slow
def test_gpu_lost_to_a_worker_on_ray(tmp_path: Path, undisturbed: np.ndarray, running: str) -> None:
    once, always = "r0001c0004", "r0004c0006"
    write_script(tmp_path, {once: [(1, "lose GPU", 0)], always: [(0, "lose GPU", 0)]})
    with driver(tmp_path, "2", running) as process:
        pass
    assert process.returncode == 1
    said = (tmp_path / "driver.err").read_text()
    assert f"1 of 36 tiles failed ({always})" in said
    assert "CUDA_ERROR_ILLEGAL_ADDRESS on GPU 0" in said

    count = executions(tmp_path)
    assert (count[once], count[always]) == (2, 3)
    failed = events(tmp_path, "TileFailed")
    assert [one["key"] for one in failed if one["key"] != always] == [once]
    assert all("CUDA_ERROR_ILLEGAL_ADDRESS" in one["error"] for one in failed)
    lost = events(tmp_path, "WorkerLost")
    assert len(lost) == 4  # each time the worker is replaced, with a process of its own
    started = [one["pid"] for one in events(tmp_path, "WorkerStarted")]
    assert len(set(started)) == len(started) >= 2 + 3  # maybe nothing is left for the last one
    # of the tiles beside it each is computed again at most once
    again = {key for key, n in count.items() if n > 1}
    assert again <= {key for one in lost for key in one["keys"]}

    (tmp_path / "script.json").unlink()
    job, tiling = target(str(tmp_path))
    assert compute_gram(job, InlineExecutor(), tiling=tiling).computed == 1
    np.testing.assert_array_equal(matrix(str(tmp_path)), undisturbed)
