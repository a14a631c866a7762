"""The benchmark of the busy share: counts every block, with the same bits written meanwhile."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import SIMULATED
from tests.kernels.simulator import ON_SIMULATOR

ROOT = Path(__file__).parents[1]


@pytest.mark.slow(but="cuda")
@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_the_busy_share_counts_every_block_and_gap(tmp_path, backend):
    start = ON_SIMULATOR if backend == "cuda" and SIMULATED else ()
    command = [
        sys.executable, *start, "jobs/benchmarks/busy.py", "--backend", backend,
        "--architecture", "cntk-gap-4", "--images", "6", "--edge", "2", "--size", "2",
        "--channels", "1", "--repeats", "1", "--out", str(tmp_path / "busy.json"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "busy.json").read_text())
    assert found["settings"]["backend"] == backend
    assert [row["tiles"] for row in found["rows"]] == ["written meanwhile", "in turn"]
    for row in found["rows"]:
        (figures,) = row["runs"]
        assert figures["tile_count"] == 6
        assert 0 < figures["busy"] <= 1
        # blocks and the gaps between them are all there is
        blocks = 6 * figures["seconds_per_block"]
        assert blocks == pytest.approx(figures["busy"] * figures["seconds"])
        gaps = figures["seconds"] - blocks
        assert 0 < figures["longest_gap_seconds"] <= gaps <= 5 * figures["longest_gap_seconds"]
        # a simulated GPU has no clock of its own
        assert ("busy_by_device_events" in figures) == (backend == "cuda" and not SIMULATED)
