"""A disk that is full, a store that can only be read, two drivers on one run."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from ntkdist.errors import InputError, StageError, StoreError
from ntkdist.gram.compute import compute_gram
from ntkdist.gram.executors.inline import InlineExecutor
from tests.disks import fill_up
from tests.faults.script import ScriptedWorker, executions
from tests.faults.target import matrix, target
from tests.faults.watch import ROOT, driver, tiles_done


@pytest.mark.slow
@pytest.mark.parametrize("where", ["inline", "2"])
def test_full_disk_stops_the_job_soon_and_room_lets_it_go_on(
    small_disk: Path, undisturbed: np.ndarray, running: str, where: str
) -> None:
    target(str(small_disk))  # stores the images
    ballast = fill_up(small_disk, 60_000)
    with driver(small_disk, where, running) as process:
        pass
    assert process.returncode == 1
    said = (small_disk / "driver.err").read_text()
    if said:  # there may be no room for that either
        assert "No space left on device" in said
        assert "Traceback" not in said
    stored = 36 - left(small_disk)
    assert 0 < stored < 36
    ballast.unlink()
    job, tiling = target(str(small_disk))
    summary = compute_gram(job, InlineExecutor(make_worker=ScriptedWorker), tiling=tiling)
    assert summary.computed == 36 - stored
    np.testing.assert_array_equal(matrix(str(small_disk)), undisturbed)


def left(folder: Path) -> int:
    from ntkdist.gram.store import GramStore

    job, _ = target(str(folder))
    return len(GramStore.open(job.outputs[0][1]).missing())


def test_the_other_tiles_are_not_computed_for_a_disk_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ntkdist.gram.store import GramStore

    real = GramStore.write
    one_by_one = threading.Lock()

    def full(self: GramStore, key: object, *more: object) -> str:
        with one_by_one:
            if len(self.done()) >= 4:
                raise StoreError(f"{self.path_of(key)}: cannot be written (No space left)")
            return real(self, key, *more)

    monkeypatch.setattr(GramStore, "write", full)
    job, tiling = target(str(tmp_path))
    with pytest.raises(
        StageError, match=r"the last 1[23] tiles could not be stored; 4 are stored.*space"
    ):
        compute_gram(job, InlineExecutor(make_worker=ScriptedWorker), tiling=tiling)
    assert 16 <= executions(tmp_path).total() <= 17  # the last one was begun meanwhile


def test_store_that_can_only_be_read_is_refused_before_anything_is_computed(
    small_disk: Path,
) -> None:
    job, tiling = target(str(small_disk))
    remount(small_disk, "ro")
    with pytest.raises(InputError, match=r"cannot be written .*Read-only file system"):
        compute_gram(job, InlineExecutor(make_worker=ScriptedWorker), tiling=tiling)
    remount(small_disk, "rw")
    assert not executions(small_disk)


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


@pytest.mark.slow
def test_second_driver_of_a_run_is_refused(tmp_path: Path) -> None:
    """The real command line, twice at once on one run."""
    command = [
        sys.executable, "-m", "ntkdist", "gram", "jobs/demo.yaml", "--run", str(tmp_path / "run"),
        "--data.n", "300", "--gram.executor", "inline", "--gram.tile", "10",
    ]  # fmt: skip
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    for line in first.stderr:
        if "gram ..." in line:
            break
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert f"process {first.pid}, since " in second.stderr
    assert "Traceback" not in second.stderr
    first.terminate()
    assert first.wait(60) == 130
    first.stderr.close()
    done = tiles_done(tmp_path / "run")
    assert done > 0
    assert not (tmp_path / "run/lease.json").exists()
