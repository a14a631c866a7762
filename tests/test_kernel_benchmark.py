"""The benchmark of kernels on cores: a chain, a graph and a fully connected network."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_kernels_of_all_kinds_are_timed(tmp_path):
    cases = ["cntk-v-2:3x4x1", "gelu-3:3x3x1", "fc-2:2x2x1"]
    command = [
        sys.executable, "jobs/benchmarks/kernel.py", "--no-peer", "--repeats", "1", "--block", "50",
        "--name", str(tmp_path / "kernel"), *(word for case in cases for word in ("--case", case)),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "kernel.json").read_text())
    rows = {row["arch"]: row for row in found["rows"]}
    assert list(rows) == [case.partition(":")[0] for case in cases]
    assert all(row["cpu_ms"] > 0 for row in rows.values())
    # only a chain has its cells counted
    counted = [name for name, row in rows.items() if row["cpu_ns_per_cell_layer_core"]]
    assert counted == ["cntk-v-2"]
